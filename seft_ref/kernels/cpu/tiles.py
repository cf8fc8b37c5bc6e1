"""The compiled kernel set that multiplies in bfloat16, on the tile registers of Intel's AMX (KRN-019).

`matmul` and `matmul_transposed` of float32 matrices round x, dy and the weights to bfloat16, and add in float32. This
is for processors with AMX and AVX512, Intel's Xeons from the fourth generation on. Everything else, `sample` too, is
that of `cpu` in float32: products of few tokens or few weights, and of matrices of float16.

A matrix has the layout of `cpu`, so both sets multiply what either packed.
"""

import ctypes
from functools import cache

import numba
import numpy as np
from jaxtyping import Float
from numba.core.registry import cpu_target

from seft_ref.arrays.library import Array, NumpyArray
from seft_ref.errors import KernelError
from seft_ref.kernels import Packed
from seft_ref.kernels.cpu import decode_spread, panels, plain, tile_loops, tile_rows
from seft_ref.kernels.cpu.coded import PackedCodes
from seft_ref.kernels.cpu.emitter import compiled_for
from seft_ref.kernels.cpu.packed import LAYOUTS, PackedOnCpu, check_operand
from seft_ref.kernels.cpu.plain import (
    LAYERS,
    clear,
    compact,
    exceeding,
    locate,
    pack,
    pack_dense,
    sample,
    split,
    store,
    unpack,
)
from seft_ref.kernels.cpu.scratch import scratch
from seft_ref.kernels.split import multiply_parts

__all__ = [
    "LAYERS",
    "clear",
    "compact",
    "exceeding",
    "locate",
    "matmul",
    "matmul_transposed",
    "pack",
    "pack_dense",
    "sample",
    "split",
    "store",
    "unpack",
    "without_tiles",
]

FROM = 16
"""Number of tokens from which products use tiles, which have 16 rows of tokens."""
ROWS_FROM, COLUMNS_FROM = 0.2, 0.1
"""Share of stored positions from which y = x Wᵀ and dx = dy W use tiles, because zeros of a tile are multiplied too."""
_FEATURES = {"+amx-tile", "+amx-bf16", "+avx512bf16", *decode_spread.FEATURES}
_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18
"""Linux: the number of a system call, and its arguments that ask for the registers (ARCH_REQ_XCOMP_PERM)."""


@cache
def without_tiles() -> str | None:
    """Return why this process cannot multiply on tile registers, or None if it can.

    The first call asks Linux for the registers, for all threads of the process.
    """
    context = cpu_target.target_context
    features = compiled_for(context)[1]
    if not features >= _FEATURES:
        return "this processor has no AMX, or numba was told not to use it"
    try:
        refused = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA)
    except (AttributeError, OSError, TypeError):  # not Linux
        refused = -1
    return "the operating system does not give a process the registers of AMX" if refused else None


def matmul(x: Float[Array, "n in"], packed: Packed) -> Float[Array, "n out"]:
    """Return y = x Wᵀ (KRN-001); in bfloat16 with many tokens and weights (KRN-019).

    Shapes  x (n, in), y (n, out), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if x does not fit the matrix, KRN-019 on a processor without AMX.
    """
    check_operand("x", x, packed.shape[1], packed)
    return multiply_parts(_multiply_rows, x, packed, LAYOUTS)


def matmul_transposed(dy: Float[Array, "n out"], packed: Packed) -> Float[Array, "n in"]:
    """Return dx = dy W (KRN-002); in bfloat16 with many tokens and weights (KRN-019).

    Shapes  dy (n, out), dx (n, in), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if dy does not fit the matrix, KRN-019 on a processor without AMX.
    """
    check_operand("dy", dy, packed.shape[0], packed)
    return multiply_parts(_multiply_columns, dy, packed, LAYOUTS)


def _multiply_rows(x: NumpyArray, packed: PackedOnCpu) -> NumpyArray:
    if not _in_tiles(x, packed, ROWS_FROM):
        return plain.matmul(x, packed)
    return _multiply(x, packed, packed.shape[0], of_rows=True)


def _multiply_columns(dy: NumpyArray, packed: PackedOnCpu) -> NumpyArray:
    if not _in_tiles(dy, packed, COLUMNS_FROM):
        return plain.matmul_transposed(dy, packed)
    return _multiply(dy, packed, packed.shape[1], of_rows=False)


def _in_tiles(src: NumpyArray, packed: PackedOnCpu, least: float) -> bool:
    if isinstance(packed, PackedCodes):
        takes, n_stored = True, packed.nnz
    else:
        # bits of bfloat16 are uint16; those of float16 are int16, and stay in float32
        takes, n_stored = packed.values.dtype in (np.float32, np.uint16), packed.values.size
    return takes and src.shape[0] >= FROM and n_stored >= least * packed.shape[0] * packed.shape[1]


def _multiply(src: NumpyArray, packed: PackedOnCpu, width: int, *, of_rows: bool) -> NumpyArray:
    """Return the product (n, width) of src with W, by its rows or by its columns."""
    reason = without_tiles()
    if reason is not None:
        raise KernelError("KRN-019", f"{reason}; kernels.cpu multiplies in float32")
    result = np.empty((src.shape[0], width), dtype=np.float32)
    if not result.size:
        return result
    workers = numba.get_num_threads()
    work = scratch.take((workers * tile_loops.WORK,), np.dtype(np.uint16))
    panels.run(
        tile_loops.tiles_task,
        (
            *_arguments(packed),
            *packed.shape,
            int(of_rows),
            tile_loops.SHAPES,
            src.reshape(-1),
            src.shape[0],
            workers,
            work,
            work.view(np.float32),
            np.empty(workers * tile_loops.C_SIZE, dtype=np.float32),
            result.reshape(-1),
        ),
        workers,
        workers,
    )
    return result


def _arguments(packed: PackedOnCpu) -> tuple[NumpyArray | int, ...]:
    """Return a matrix as the first arguments of `tiles_task`.

    They are entries, scales, zero points, the columns of a group, the groups of a row, masks, where the entries of
    each row of each panel begin, and whether W is dense. Floats have no scales, and a dense W has no masks.
    """
    if isinstance(packed, PackedCodes):
        codes, _, _, *grid = packed.arguments[:7]
        masks, pointer = packed.masks.view(np.uint64), np.empty(packed.masks.size, dtype=np.int64)
        tile_rows.fill_pointer(masks, packed.halves, pointer)
        return codes, *grid, masks, pointer, 0
    no_scales, no_zeros = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.uint8)
    if packed.pointer is None:
        masks, pointer = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int32)
    else:
        masks, pointer = packed.row_masks(), packed.pointer
    return packed.values, no_scales, no_zeros, panels.WIDTH, 1, masks, pointer, int(packed.index is None)
