"""Prune a dense model, from one Hugging Face folder to another, in one call."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seft_ref.files.model import refuse_existing
from seft_ref.files.pruned import DenseModel, Kept, open_dense
from seft_ref.kernels import KernelSet
from seft_ref.prune.blockwise import prune_magnitude, prune_sparsegpt, prune_wanda
from seft_ref.prune.keep import parse_pattern, removed_count
from seft_ref.prune.record import PruningRecord
from seft_ref.runs.source import TextSource, kernels_or_cpu, tokens_of
from seft_ref.text.tokens import calibration_starts, check_windows

CALIBRATED = {"wanda": prune_wanda, "sparsegpt": prune_sparsegpt}
"""Methods that measure activations on a text."""
METHODS = ("magnitude", *CALIBRATED)
ROWS = 4
"""Calibration windows that go through the model at once."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruner removed.

    Attributes:
        removed: weights that were removed.
        of: weights of the targets.
        remarks: what a converter remarks on the folder (FMT-154).
    """

    removed: int
    of: int
    remarks: tuple[str, ...]


def prune(
    model: str | Path,
    out: str | Path,
    method: str,
    sparsity: float = 0.5,
    *,
    pattern: str | None = None,
    text: TextSource | None = None,
    samples: int = 16,
    length: int = 256,
    seed: int = 0,
    dtype: str | None = None,
    progress: Callable[[str, int], None] = lambda name, total: None,
    kernels: KernelSet | None = None,
) -> Pruned:
    """Prune the linear layers of the blocks of a model and write it (chapter 11).

    model     a Hugging Face folder of a dense model; what stays keeps its bits under magnitude and wanda
    out       the folder to write, which must not exist
    method    one of METHODS
    sparsity  fraction of weights removed from every matrix, 0 to below 1
    pattern   N:M keeps N of every M weights of a row, for example "2:4"; instead of `sparsity`
    text      what Wanda and SparseGPT measure activations on, `samples` windows of `length` tokens
    seed      seed of the windows (PRN-007)
    dtype     what to compute in, float32 or float64; None as stored, 16-bit as float32 (PRN-014)
    progress  called with the name of every pruned matrix, and the number of matrices
    kernels   a kernel set; None for `cpu`, which takes NumPy arrays
    Raises    ValueError for an unknown method, or one without the text that it needs; FormatError FMT-110
              if `out` exists; CheckpointError, ConfigError, PruneError, TextError for the model and the text
    """
    refuse_existing(out)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if (text is None) == (method in CALIBRATED):
        raise ValueError(f"{method} needs a text" if text is None else f"{method} uses no text; leave it out")
    groups = None if pattern is None else parse_pattern(pattern)
    removed_count(sparsity, 1)
    with open_dense(model, dtype) as dense:
        if text is None:
            results: Iterator[tuple[Any, ...]] = prune_magnitude(dense.config, dense.read, sparsity, groups)
        else:
            batches = _windows(tokens_of(text, model), dense, samples, length, seed)
            results = CALIBRATED[method](dense.config, dense.read, batches, kernels_or_cpu(kernels), sparsity, groups)
        kept, targets = Kept(dense), dense.config.targets()
        for name, mask, *weight in results:
            kept.add(name, mask, *weight)
            progress(name, len(targets))
        removed, total = kept.removed(), sum(n_out * n_in for n_out, n_in in (m.shape for m in targets))
        calibration = None if text is None else {"samples": samples, "length": length, "seed": seed}
        record: PruningRecord = {
            "method": method,
            "sparsity": None if groups else sparsity,
            "pattern": pattern,
            "removed": removed,
            "of": total,
            "calibration": calibration,
        }
        kept.write(out, record)
        return Pruned(removed, total, tuple(dense.source.checkpoint().remarks))


def _windows(tokens: Sequence[int], model: DenseModel, samples: int, length: int, seed: int) -> list[Any]:
    """Return the calibration windows, each (B, T) int64 (PRN-007)."""
    check_windows(tokens, length, model.config)
    stream = np.asarray(tokens, dtype=np.int64)
    starts = calibration_starts(len(stream), length, seed, samples)
    return [np.stack([stream[s : s + length] for s in starts[i : i + ROWS]]) for i in range(0, samples, ROWS)]
