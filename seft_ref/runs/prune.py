"""Prunes a dense model in one call, from one Hugging Face folder to another or in memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from seft_ref.arrays.library import Array, NumpyArray, from_numpy, to_numpy
from seft_ref.errors import PruneError
from seft_ref.files.finished_blocks import FinishedBlocks, digest_of
from seft_ref.files.model import Model, refuse_existing
from seft_ref.files.only_run import only_run
from seft_ref.files.pruned import Kept, open_dense
from seft_ref.files.state import state_beside
from seft_ref.kernels import KernelSet
from seft_ref.model.config import ModelConfig
from seft_ref.prune.blockwise import (
    Blocks,
    NoBlocks,
    Read,
    Sparsity,
    owl_sparsities,
    prune_magnitude,
    prune_random,
    prune_sparsegpt,
    prune_wanda,
)
from seft_ref.prune.keep import SCOPES, Scope, across_matrices, parse_pattern, removed_count
from seft_ref.prune.owl import OUTLIER, SPREAD
from seft_ref.prune.record import PruningRecord
from seft_ref.runs.prune_loaded import KeptInMemory
from seft_ref.runs.source import (
    LOGGER,
    ModelSource,
    TextSource,
    folder_of,
    kernels_or_cpu,
    model_of,
    real_numbers,
    tokens_of,
    whole_numbers,
)
from seft_ref.text.tokens import calibration_starts, check_windows

CALIBRATED = ("wanda", "sparsegpt")
"""Methods that measure activations on a text."""
METHODS = ("magnitude", "random", *CALIBRATED)
ROWS = 4
"""Calibration windows that go through the model at once."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result of pruning a model.

    Attributes:
        removed: number of weights that were removed.
        of: number of weights of the targets.
        remarks: a converter's remarks on the folder (FMT-154).
        model: the pruned model, if no folder was written; its targets have the support that was kept.
    """

    removed: int
    of: int
    remarks: tuple[str, ...] = ()
    model: Model | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """The settings of a call of `prune`, with the scope that is used."""

    method: str
    sparsity: float
    pattern: str | None
    scope: Scope | None
    owl: tuple[float, float] | None
    calibration: dict[str, int] | None
    seed: int

    def described(self) -> PruningRecord:
        """Return the fields of `pruning.json` for method, sparsity, pattern and scope (PRN-008)."""
        return {
            "method": self.method,
            "sparsity": None if self.pattern else self.sparsity,
            "pattern": self.pattern,
            "scope": self.scope,
        }

    def record(self, removed: int, total: int, rates: Sparsity) -> PruningRecord:
        """Return the record of pruning (PRN-008)."""
        record = self.described() | {"removed": removed, "of": total, "calibration": self.calibration}
        if self.method == "random":
            record["seed"] = self.seed
        if self.owl:
            outlier, spread = self.owl
            record["layers"] = {"rule": "owl", "outlier": outlier, "spread": spread, "sparsity": rates}
        return record

    def run(self, pruning: Kept, windows: Sequence[NumpyArray]) -> dict[str, Any]:
        """Return the settings, and digests of the data, on which finished blocks depend besides their weights."""
        return {
            **self.described(),
            "layers": ["owl", *self.owl] if self.owl else "uniform",
            "calibration": self.calibration,
            "dtype": pruning.read("model.norm.weight").dtype.name,
            "config": sha256(pruning.config_text()).hexdigest(),
            "windows": digest_of({str(number): window for number, window in enumerate(windows)}),
            "embedding": digest_of({"": pruning.read("model.embed_tokens.weight")}),
        }


def prune(
    model: ModelSource,
    out: str | Path | None,
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
    resume: bool = False,
    progress: Callable[[str, int], None] = lambda name, total: None,
    kernels: KernelSet | None = None,
) -> Pruned:
    """Prune the linear layers of the blocks of a model and write it (chapter 11).

    model     a Hugging Face folder of a dense model, or a model that was loaded from one; only sparsegpt changes the
              bits of weights that stay, but in memory a −0.0 that stays becomes +0.0
    out       the folder to write, which must not exist, made from the folder of `model`; None to write none and return
              the pruned model
    method    one of METHODS
    sparsity  fraction of weights removed, 0 to below 1
    pattern   N:M keeps N of every M weights of a row, for example "2:4"; instead of `sparsity`
    scope     "row", "matrix" or "model": among which weights the smallest scores are removed; None for the default of
              the method (PRN-016). "model" needs the scores of all matrices in memory at once
    layers    "uniform", or "owl" to give each block a sparsity of its own (PRN-018)
    outlier   with owl, how many times the mean score of its block an outlier exceeds
    spread    with owl, half of the difference between the sparsest and the densest block
    text      the text on which Wanda, SparseGPT and owl measure activations, in `samples` windows of `length` tokens
    seed      seed of the windows (PRN-007) and of random scores (PRN-017)
    dtype     dtype to compute in, float32 or float64; None for the stored dtype with 16 bits as float32 (PRN-014), or
              for the dtype of a loaded model
    resume    go on from the blocks of a run that was stopped. Wanda and SparseGPT keep each finished block in the
              folder `out`.state until `out` is there (PRN-019)
    progress  called with the name of every pruned matrix, and the number of matrices; an exception in it ends the run
    kernels   a kernel set; None for `cpu`, which takes NumPy arrays
    Raises    ValueError for an unknown method, a method without the text that it needs, or arguments that do not go
              together; FormatError FMT-110 if `out` exists; CheckpointError CKP-002 for a model that is sparse,
              CKP-012 if another run keeps its blocks at `out`.state;
              CheckpointError, ConfigError, PruneError, TextError for the model and the text
    """
    if out is not None:
        refuse_existing(out)
    _check_given(method, layers, out, has_text=text is not None, resume=resume)
    samples, length, seed = whole_numbers(samples=samples, length=length, seed=seed)
    sparsity, outlier, spread = real_numbers(sparsity=sparsity, outlier=outlier, spread=spread)
    request = _Asked(
        method,
        sparsity,
        pattern,
        _scope(method, scope, pattern, layers),
        (outlier, spread) if layers == "owl" else None,
        None if text is None else {"samples": samples, "length": length, "seed": seed},
        seed,
    )
    groups = None if pattern is None else parse_pattern(pattern)
    removed_count(sparsity, 1)
    kernels = kernels_or_cpu(kernels)
    state = None if out is None or method not in CALIBRATED else state_beside(out)
    with only_run(state), ExitStack() as stack:
        pruning: Kept | KeptInMemory
        if out is None:
            pruning = KeptInMemory(model_of(model, kernels, dtype=dtype), kernels)
        else:
            pruning = Kept(stack.enter_context(open_dense(folder_of(model), _dtype_of(model, dtype, kernels))))
        windows = [] if text is None else windows_of(tokens_of(text, model), pruning.config, samples, length, seed)
        batches = [from_numpy(window, pruning.read("model.norm.weight")) for window in windows]
        blocks: Blocks = NoBlocks()
        if isinstance(pruning, Kept) and state is not None:
            run = request.run(pruning, windows)
            blocks = FinishedBlocks(state, run, changes=method == "sparsegpt", resume=resume)
        rates: Sparsity = sparsity
        if request.owl:
            measure = partial(owl_sparsities, pruning.config, pruning.read, batches, kernels, sparsity, *request.owl)
            rates = blocks.sparsities(measure)
        masks = masks_of(
            method, pruning.config, pruning.read, batches, kernels, rates, groups, request.scope, seed, blocks=blocks
        )
        targets = pruning.config.targets()
        for number, (name, mask, *weight) in enumerate(masks, 1):
            pruning.add(name, mask, *weight)
            LOGGER.info("pruning: matrix %d of %d, %s", number, len(targets), name)
            progress(name, len(targets))
        total = sum(n_out * n_in for n_out, n_in in (matrix.shape for matrix in targets))
        if isinstance(pruning, KeptInMemory):
            return Pruned(pruning.removed(), total, model=pruning.model())
        pruning.write(str(out), request.record(pruning.removed(), total, rates))
        blocks.remove()
        return Pruned(pruning.removed(), total, pruning.remarks())


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
    blocks: Blocks | None = None,
) -> Iterator[tuple[str, Array] | tuple[str, Array, Array]]:
    """Return (name, mask) of every target, and the new weight if the method changes weights."""
    if method == "sparsegpt":
        return prune_sparsegpt(config, read, batches, kernels, rates, groups, blocks)
    if method == "wanda":
        return prune_wanda(config, read, batches, kernels, rates, groups, scope or "row", blocks)
    if method == "random":
        return prune_random(config, read, seed, rates, groups, scope or "matrix")
    return prune_magnitude(config, read, rates, groups, scope or "matrix")


def windows_of(
    tokens: Sequence[int], config: ModelConfig, samples: int, length: int, seed: int
) -> list[Int[NumpyArray, "B T"]]:
    """Return the calibration windows, int64 (PRN-007).

    Raises:
        PruneError: PRN-007 for no windows.
        TextError: as `check_windows` and `calibration_starts`.
    """
    if samples < 1:
        raise PruneError("PRN-007", f"samples is {samples}, and calibration needs at least one window")
    check_windows(tokens, length, config)
    stream = np.asarray(tokens, dtype=np.int64)
    starts = calibration_starts(len(stream), length, seed, samples)
    return [np.stack([stream[s : s + length] for s in starts[i : i + ROWS]]) for i in range(0, samples, ROWS)]


def _scope(method: str, scope: Scope | None, pattern: str | None, layers: str) -> Scope | None:
    """Return the scope of a run, None if the method counts by block or a pattern by group (PRN-016).

    Raises:
        PruneError: PRN-016 for a scope that the method does not have, or a scope beside a pattern; PRN-018 for an
            unknown rule of layers, or owl beside a pattern or scope model.
    """
    if layers not in ("uniform", "owl"):
        raise PruneError("PRN-018", f"layers is {layers!r}; choose uniform or owl")
    if layers == "owl" and (pattern is not None or across_matrices(scope)):
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


def _check_given(method: str, layers: str, out: str | Path | None, *, has_text: bool, resume: bool) -> None:
    """Refuse an unknown method, a text that is missing or not used, and `resume` without finished blocks to keep.

    Raises:
        ValueError: for each of these.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if has_text != (method in CALIBRATED or layers == "owl"):
        what = method if method in CALIBRATED else f"layers {layers}"
        raise ValueError(f"{method} uses no text; leave it out" if has_text else f"{what} needs a text")
    if resume and out is None:
        raise ValueError("there is nothing to resume without a folder to write")
    if resume and method not in CALIBRATED:
        raise ValueError(f"{method} keeps no finished blocks; start it without resume")


def _dtype_of(model: ModelSource, dtype: str | None, kernels: KernelSet) -> str | None:
    """Return the dtype to compute in: that of a loaded model, else `dtype`.

    Raises:
        ValueError: for a `dtype` beside a model that is loaded.
    """
    if not isinstance(model, Model):
        return dtype
    return to_numpy(model_of(model, kernels, dtype=dtype).weights.norm).dtype.name
