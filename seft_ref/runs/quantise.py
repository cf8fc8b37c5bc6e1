"""Quantises a pruned model in one call, from one folder to another (chapter 19)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from seft_ref.arrays.library import from_numpy
from seft_ref.files.model import refuse_existing
from seft_ref.files.quantised import open_stored, zeros_among
from seft_ref.kernels import KernelSet
from seft_ref.quantise.grid import Quantised, parse_grid
from seft_ref.quantise.model import quantise_gptq, quantise_nearest
from seft_ref.runs.prune import windows_of
from seft_ref.runs.source import LOGGER, TextSource, kernels_or_cpu, tokens_of, whole_numbers
from seft_ref.topology.csr import flat, from_flat


@dataclass(frozen=True, slots=True)
class QuantisedModel:
    """The result of quantising a model.

    Attributes:
        stored: number of codes of all matrices.
        zeros: number of these codes that stand for 0.
        remarks: a converter's remarks on the folder (FMT-154).
    """

    stored: int
    zeros: int
    remarks: tuple[str, ...] = ()


def quantise(
    model: str | Path,
    out: str | Path,
    grid: str,
    *,
    text: TextSource | None = None,
    samples: int = 16,
    length: int = 256,
    seed: int = 0,
    dtype: str | None = None,
    progress: Callable[[str, int], None] = lambda name, total: None,
    kernels: KernelSet | None = None,
) -> QuantisedModel:
    """Round the stored weights of a pruned model onto a grid, and write a quantised checkpoint (QNT-009).

    model     a sparse checkpoint, or a Hugging Face folder, in which a weight of 0 counts as pruned
    out       the folder to write, which must not exist
    grid      for example "int4:g64": int4 or int8, then :gN for groups of N columns, then :asym for zero points
    text      the text on which GPTQ measures activations, in `samples` windows of `length` tokens; None rounds to
              nearest
    seed      seed of the windows (PRN-007)
    dtype     dtype to compute in, float32 or float64; None for the stored dtype, with 16 bits as float32
    progress  called with the name of every matrix, and the number of matrices; an exception in it ends the run
    kernels   a kernel set; None for `cpu`, which takes NumPy arrays
    Raises    FormatError FMT-110 if `out` exists; QuantiseError QNT-001 for the grid, QNT-003 for weights, QNT-009 for
              a model that is quantised already; CheckpointError, ConfigError, PruneError, TextError for model and text
    """
    refuse_existing(out)
    samples, length, seed = whole_numbers(samples=samples, length=length, seed=seed)
    parsed_grid = parse_grid(grid)
    with open_stored(model, dtype) as source:
        for matrix in source.config.targets():
            parsed_grid.columns(matrix.shape[1])
        total = len(source.config.targets())
        if text is None:
            rounded = quantise_nearest(source.config, source.read, source.topology, parsed_grid)
        else:
            kernels = kernels_or_cpu(kernels)
            windows = windows_of(tokens_of(text, model), source.config, samples, length, seed)
            batches = [from_numpy(window, source.read("model.norm.weight")) for window in windows]
            rounded = quantise_gptq(source.config, source.read, source.topology, parsed_grid, batches, kernels)
        quantised: dict[str, Quantised] = {}
        stored = zeros = 0
        for name, codes in rounded:
            stored, zeros = stored + codes.topology.nnz, zeros + zeros_among(codes)
            # drop the positions, which take most of the memory, because the folder has them
            quantised[name] = replace(codes, topology=from_flat(codes.topology.shape, flat(codes.topology)[:0]))
            LOGGER.info("quantising: matrix %d of %d, %s", len(quantised), total, name)
            progress(name, total)
        source.write(out, quantised, "nearest" if text is None else "gptq")
        return QuantisedModel(stored, zeros, tuple(source.checkpoint.remarks))
