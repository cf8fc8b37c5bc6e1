"""Prune a dense model, from one Hugging Face folder to another, in one call."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from seft_ref.arrays.library import Array, NumpyArray
from seft_ref.errors import PruneError
from seft_ref.files.model import refuse_existing
from seft_ref.files.pruned import Kept, open_dense
from seft_ref.kernels import KernelSet
from seft_ref.model.config import ModelConfig
from seft_ref.prune.blockwise import (
    Read,
    Sparsity,
    owl_sparsities,
    prune_magnitude,
    prune_random,
    prune_sparsegpt,
    prune_wanda,
)
from seft_ref.prune.keep import SCOPES, Scope, parse_pattern, removed_count
from seft_ref.prune.owl import OUTLIER, SPREAD
from seft_ref.prune.record import PruningRecord
from seft_ref.runs.source import TextSource, kernels_or_cpu, tokens_of
from seft_ref.text.tokens import calibration_starts, check_windows

CALIBRATED = ("wanda", "sparsegpt")
"""Methods that measure activations on a text."""
METHODS = ("magnitude", "random", *CALIBRATED)
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
    scope: Scope | None = None,
    layers: str = "uniform",
    outlier: float = OUTLIER,
    spread: float = SPREAD,
    text: TextSource | None = None,
    samples: int = 16,
    length: int = 256,
    seed: int = 0,
    dtype: str | None = None,
    progress: Callable[[str, int], None] = lambda name, total: None,
    kernels: KernelSet | None = None,
) -> Pruned:
    """Prune the linear layers of the blocks of a model and write it (chapter 11).

    model     a Hugging Face folder of a dense model; only sparsegpt changes the bits of what stays
    out       the folder to write, which must not exist
    method    one of METHODS
    sparsity  fraction of weights removed, 0 to below 1
    pattern   N:M keeps N of every M weights of a row, for example "2:4"; instead of `sparsity`
    scope     "row", "matrix" or "model": among which weights the smallest scores are removed; None for the default of
              the method (PRN-016). "model" holds the scores of all matrices in memory at once
    layers    "uniform", or "owl" to give each block a sparsity of its own (PRN-018)
    outlier   with owl, how many times the mean score of its block an outlier exceeds
    spread    with owl, half of the difference between the sparsest and the densest block
    text      what Wanda, SparseGPT and owl measure activations on, `samples` windows of `length` tokens
    seed      seed of the windows (PRN-007) and of random scores (PRN-017)
    dtype     what to compute in, float32 or float64; None as stored, 16-bit as float32 (PRN-014)
    progress  called with the name of every pruned matrix, and the number of matrices
    kernels   a kernel set; None for `cpu`, which takes NumPy arrays
    Raises    ValueError for an unknown method, or one without the text that it needs; FormatError FMT-110
              if `out` exists; CheckpointError, ConfigError, PruneError, TextError for the model and the text
    """
    refuse_existing(out)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    measured = method in CALIBRATED or layers == "owl"
    if (text is None) == measured:
        what = method if method in CALIBRATED else f"layers {layers}"
        raise ValueError(f"{what} needs a text" if text is None else f"{method} uses no text; leave it out")
    chosen = _scope(method, scope, pattern, layers)
    groups = None if pattern is None else parse_pattern(pattern)
    removed_count(sparsity, 1)
    with open_dense(model, dtype) as dense:
        kernels = kernels_or_cpu(kernels)
        batches = [] if text is None else windows_of(tokens_of(text, model), dense.config, samples, length, seed)
        rates: Sparsity = sparsity
        if layers == "owl":
            rates = owl_sparsities(dense.config, dense.read, batches, kernels, sparsity, outlier, spread)
        results = masks_of(method, dense.config, dense.read, batches, kernels, rates, groups, chosen, seed)
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
            "scope": chosen,
            "removed": removed,
            "of": total,
            "calibration": calibration,
        }
        if method == "random":
            record["seed"] = seed
        if layers == "owl":
            record["layers"] = {"rule": "owl", "outlier": outlier, "spread": spread, "sparsity": rates}
        kept.write(out, record)
        return Pruned(removed, total, tuple(dense.source.checkpoint().remarks))


def masks_of(
    method: str,
    config: ModelConfig,
    read: Read,
    batches: Sequence[Int[Array, "B T"]],
    kernels: KernelSet,
    rates: Sparsity,
    groups: tuple[int, int] | None,
    scope: Scope | None,
    seed: int,
) -> Iterator[tuple[str, Array] | tuple[str, Array, Array]]:
    """Return (name, mask) of every target, with the new weight where the method changes it."""
    if method == "sparsegpt":
        return prune_sparsegpt(config, read, batches, kernels, rates, groups)
    if method == "wanda":
        return prune_wanda(config, read, batches, kernels, rates, groups, scope or "row")
    if method == "random":
        return prune_random(config, read, seed, rates, groups, scope or "matrix")
    return prune_magnitude(config, read, rates, groups, scope or "matrix")


def windows_of(
    tokens: Sequence[int], config: ModelConfig, samples: int, length: int, seed: int
) -> list[Int[NumpyArray, "B T"]]:
    """Return the calibration windows, int64 (PRN-007)."""
    check_windows(tokens, length, config)
    stream = np.asarray(tokens, dtype=np.int64)
    starts = calibration_starts(len(stream), length, seed, samples)
    return [np.stack([stream[s : s + length] for s in starts[i : i + ROWS]]) for i in range(0, samples, ROWS)]


def _scope(method: str, scope: Scope | None, pattern: str | None, layers: str) -> Scope | None:
    """Return the scope of a run, None where blocks or groups take its place (PRN-016, PRN-018).

    Raises:
        PruneError: PRN-016 for a scope that the method does not have or that a pattern leaves no room for; PRN-018 for
            an unknown rule of layers, or owl beside a pattern or scope model.
    """
    if layers not in ("uniform", "owl"):
        raise PruneError("PRN-018", f"layers is {layers!r}; choose uniform or owl")
    if layers == "owl" and (pattern is not None or scope == "model"):
        other = f"pattern {pattern}" if pattern is not None else "scope model"
        raise PruneError("PRN-018", f"owl gives every block a sparsity, which {other} does too; leave one out")
    if scope is not None and pattern is not None:
        raise PruneError("PRN-016", f"pattern {pattern} chooses in every group; leave out scope {scope}")
    if scope is not None and scope not in SCOPES[method]:
        has = ", ".join(SCOPES[method]) or "none, because it counts by block"
        raise PruneError("PRN-016", f"{method} has no scope {scope}; it has {has}")
    if pattern is not None or not SCOPES[method]:
        return None
    return scope or SCOPES[method][0]
