"""Rounds all target matrices of a model onto a grid, to nearest or by GPTQ.

GPTQ takes the inputs of a block from blocks that are rounded already.
"""

from collections.abc import Callable, Iterator, Sequence

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, mask_at, spread
from seft_ref.kernels import KernelSet
from seft_ref.model.config import ModelConfig
from seft_ref.prune.blockwise import Read, block_by_block
from seft_ref.prune.sparsegpt import hessian_of
from seft_ref.quantise.gptq import gptq
from seft_ref.quantise.grid import Grid, Quantised, nearest, weights_of
from seft_ref.topology.csr import Topology, flat


def quantise_nearest(
    config: ModelConfig, read: Read, topology: Callable[[str], Topology], grid: Grid
) -> Iterator[tuple[str, Quantised]]:
    """Yield (name, codes) of every target, with each weight rounded to nearest (QNT-003, QNT-004).

    read      reads a parameter by name, dense
    topology  returns the support of a target by name
    """
    for matrix in config.targets():
        yield matrix.name, nearest(read(matrix.name), topology(matrix.name), grid)


def quantise_gptq(
    config: ModelConfig,
    read: Read,
    topology: Callable[[str], Topology],
    grid: Grid,
    batches: Sequence[Int[Array, "B T"]],
    kernels: KernelSet,
) -> Iterator[tuple[str, Quantised]]:
    """Yield (name, codes) of every target, rounded by GPTQ, block by block like pruning (QNT-005, PRN-005).

    batches  calibration tokens, each (B, T)
    """
    rounded_now: list[Quantised] = []

    def rounded(name: str, weight: Array, hessian: Array) -> tuple[Array, Array]:
        stored = topology(name)
        matrix = gptq(weight, stored, hessian, grid)
        rounded_now.append(matrix)
        xp, positions = array_namespace(weight), flat(stored)
        values = spread(weights_of(matrix, weight.dtype), positions, stored.numel)
        return xp.reshape(mask_at(stored.numel, positions), weight.shape), xp.reshape(values, weight.shape)

    for name, _, _ in block_by_block(config, read, batches, kernels, hessian_of, rounded):
        yield name, rounded_now.pop()
