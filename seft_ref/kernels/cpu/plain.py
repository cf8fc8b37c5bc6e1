"""The kernel set for NumPy arrays: column panels compiled by numba, BLAS where a matrix is dense enough.

The threads are numba's: `numba.set_num_threads` sets their number, and results do not depend on it (KRN-008).

A process that mixes this set with NumPy's own products should set OPENBLAS_THREAD_TIMEOUT=4, OMP_WAIT_POLICY=PASSIVE
and GOMP_SPINCOUNT=20000 before importing either. Otherwise idle workers of one pool spin on the cores that the other
needs, or they sleep between two short products, and waking them takes longer than the products.
"""

from typing import Any

import numba
import numpy as np
from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, NumpyArray
from seft_ref.kernels import Packed
from seft_ref.kernels.checks import check_factors, check_vector
from seft_ref.kernels.cpu import coded, panels, token, turned
from seft_ref.kernels.cpu.emitter import REGISTER_BYTES
from seft_ref.kernels.cpu.exceeding import indices_above
from seft_ref.kernels.cpu.packed import (
    LAYOUTS,
    PackedOnCpu,
    PackedPanels,
    check_numpy,
    check_operand,
    clear,
    compact,
    locate,
    pack,
    pack_dense,
    store,
    unpack,
)
from seft_ref.kernels.cpu.scratch import scratch
from seft_ref.kernels.split import as_own, multiply_parts, split
from seft_ref.topology.csr import Topology

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
]

LAYERS = "compiled"
"""The layer set that goes with this set (LYR-018)."""

SAMPLE_BELOW = 0.35
"""Share of stored positions from which `sample` computes whole tiles of rows by BLAS and picks entries from them."""
SAMPLE_TOKENS = 256
"""Number of tokens that `sample` transposes into lines at a time."""
SAMPLE_ROWS = 256
"""Rows of a BLAS tile of `sample`."""


def matmul(x: Float[Array, "n in"], packed: Packed) -> Float[Array, "n out"]:
    """Return y = x Wᵀ (KRN-001).

    Shapes  x (n, in), y (n, out), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if x does not fit the matrix.
    """
    check_operand("x", x, packed.shape[1], packed)
    return multiply_parts(_multiply_rows, x, packed, LAYOUTS)


def _multiply_rows(x: NumpyArray, packed: PackedOnCpu) -> NumpyArray:
    if isinstance(packed, coded.PackedCodes):
        return coded.multiply_rows(x, packed)
    packed = as_own(packed, PackedPanels)
    if packed.index is None:
        return x @ packed.values.reshape(packed.shape).T
    if x.shape[0] == 1:
        return _multiply_token(x, packed)
    return _multiply(panels.gather_task, x, packed, packed.shape[0], panels.ROW_BLOCK)


def matmul_transposed(dy: Float[Array, "n out"], packed: Packed) -> Float[Array, "n in"]:
    """Return dx = dy W (KRN-002).

    Shapes  dy (n, out), dx (n, in), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if dy does not fit the matrix.
    """
    check_operand("dy", dy, packed.shape[0], packed)
    return multiply_parts(_multiply_columns, dy, packed, LAYOUTS)


def _multiply_columns(dy: NumpyArray, packed: PackedOnCpu) -> NumpyArray:
    if isinstance(packed, coded.PackedCodes):
        return coded.multiply_columns(dy, packed)
    packed = as_own(packed, PackedPanels)
    if packed.index is None:
        return dy @ packed.values.reshape(packed.shape)
    n_in = packed.shape[1]
    n_blocks = dy.shape[0] // (panels.LINE_VECTORS * (REGISTER_BYTES // dy.itemsize))
    if turned.pays(n_blocks, packed.values.size, packed.shape):
        return _multiply_turned(dy, packed, n_blocks)
    return _multiply(panels.scatter_task, dy, packed, n_in, panels.WIDTH)


def sample(dy: Float[Array, "n out"], x: Float[Array, "n in"], topology: Topology) -> Float[Array, " nnz"]:
    """Return dyᵀ x at the stored positions, in slot order, without storing all of dyᵀ x (KRN-003).

    Shapes  dy (n, out), x (n, in), result (nnz,)
    Dtypes  float32 or float64, one for all

    Raises:
        KernelError: KRN-009, KRN-010 if the factors do not fit the topology or each other.
    """
    check_factors(dy, x, topology)
    check_numpy(dy=dy, x=x, indptr=topology.indptr, indices=topology.indices)
    nnz, width = topology.nnz, panels.SAMPLE_VECTORS * (REGISTER_BYTES // x.itemsize)
    if not nnz or not x.shape[0]:
        return np.zeros(nnz, dtype=x.dtype)
    if nnz >= SAMPLE_BELOW * topology.numel:
        return _sample_tiles(dy, x, topology)
    # because the sums of a block then take no more memory than its tokens, and every worker gets a block
    if nnz <= width * sum(topology.shape) and x.shape[0] > width * (numba.get_num_threads() - 1):
        return _sample_blocks(dy, x, topology)
    return _sample_lines(dy, x, topology)


def exceeding(values: Float[Array, " n"], least: float) -> Int[Array, " m"]:
    """Return the ascending indices of the entries with |value| > least, NaN and infinity included (KRN-014).

    Raises:
        KernelError: KRN-009, KRN-010 if values are not a contiguous float vector.
    """
    check_vector("values", values)
    check_numpy(values=values)
    return indices_above(values, values.dtype.type(least))


def _multiply(task: Any, src: NumpyArray, packed: PackedPanels, n_result: int, n_extra_lines: int) -> NumpyArray:
    """Return the product (n, n_result) of src and the panels; a worker's scratch has n_extra_lines lines of results."""
    n = src.shape[0]
    result = np.empty((n, n_result), dtype=src.dtype)
    if not result.size:
        return result
    lanes = REGISTER_BYTES // src.itemsize
    workers = numba.get_num_threads()
    n_blocks, n_parts = panels.parts(n, lanes, workers)
    work_size = (src.shape[1] + n_extra_lines) * panels.LINE_VECTORS * lanes
    work = scratch.take((workers * work_size,), src.dtype)
    panels.run(
        task,
        (
            packed.values,
            packed.index,
            packed.pointer,
            *packed.shape,
            src.reshape(-1),
            result.reshape(-1),
            n,
            n_parts,
            work,
            work_size,
            lanes,
        ),
        n_blocks * n_parts,
        workers,
    )
    return result


def _multiply_turned(dy: NumpyArray, packed: PackedPanels, n_blocks: int) -> NumpyArray:
    """Return dx = dy W: whole blocks of tokens by sorted tiles, the tokens left over by adding to lines of dx."""
    n_out, n_in = packed.shape
    lanes, workers = REGISTER_BYTES // dy.itemsize, numba.get_num_threads()
    n, shares = n_blocks * panels.LINE_VECTORS * lanes, turned.shares(n_blocks, n_in, lanes, workers)
    dx = np.empty((dy.shape[0], n_in), dtype=dy.dtype)
    panels.run(
        turned.turned_task,
        (
            packed.values,
            packed.index,
            packed.pointer,
            n_out,
            n_in,
            dy.reshape(-1),
            dx.reshape(-1),
            n_blocks,
            shares.n_groups,
            shares.n_parts,
            scratch.take((workers * shares.work_size,), dy.dtype),
            shares.work_size,
            *turned.tiles(workers, packed.values.dtype),
            lanes,
        ),
        shares.n_groups * shares.n_parts,
        workers,
    )
    if n < dy.shape[0]:
        dx[n:] = _multiply(panels.scatter_task, dy[n:], packed, n_in, panels.WIDTH)
    return dx


def _multiply_token(x: NumpyArray, packed: PackedPanels) -> NumpyArray:
    """Return y = x Wᵀ for one token; each worker computes rows of its own."""
    n_out, n_in = packed.shape
    result = np.empty((1, n_out), dtype=x.dtype)
    if not result.size:
        return result
    lanes, masks = REGISTER_BYTES // x.itemsize, packed.with_masks()
    workers = numba.get_num_threads()
    work_size = -(-n_in // panels.WIDTH) * panels.WIDTH + min(token.TOKEN_ROWS, n_out) * lanes
    work = scratch.take((workers * work_size,), x.dtype)
    panels.run(
        token.token_task,
        (
            packed.values,
            packed.index,
            packed.pointer,
            np.empty(0, dtype=np.uint64) if masks is None else masks,
            int(masks is not None),
            n_out,
            n_in,
            x.reshape(-1),
            result.reshape(-1),
            workers,
            work,
            work_size,
            lanes,
        ),
        workers,
        workers,
    )
    return result


def _sample_blocks(dy: NumpyArray, x: NumpyArray, topology: Topology) -> NumpyArray:
    """Return the result of `sample`: each worker sums a block of tokens at all slots, and blocks are added in order."""
    n_out, n_in = topology.shape
    lanes, workers = REGISTER_BYTES // x.itemsize, numba.get_num_threads()
    width = panels.SAMPLE_VECTORS * lanes
    work_size = (n_in + min(n_out, panels.DY_ROWS)) * width
    work = scratch.take((workers * work_size,), x.dtype)
    sums = np.empty((workers, topology.nnz), dtype=x.dtype)
    sums[0] = 0
    indptr, indices, n = topology.indptr, topology.indices, x.shape[0]
    for first in range(0, n, workers * width):
        n_blocks = min(workers, -(-(n - first) // width))
        panels.run(
            panels.sample_block_task,
            (
                sums.reshape(-1),
                indptr,
                indices,
                n_out,
                n_in,
                x.reshape(-1),
                dy.reshape(-1),
                first,
                n,
                work,
                work_size,
                lanes,
            ),
            n_blocks,
            workers,
        )
        if n_blocks > 1:
            panels.run(panels.add_task, (sums.reshape(-1), topology.nnz, n_blocks, workers), workers, workers)
    return sums[0] if workers == 1 else sums[0].copy()


def _sample_lines(dy: NumpyArray, x: NumpyArray, topology: Topology) -> NumpyArray:
    """Return the result of `sample`: each worker sums all tokens, some at a time, for its own part of the slots."""
    n_out, n_in = topology.shape
    dvalues = np.zeros(topology.nnz, dtype=x.dtype)
    indptr, indices = topology.indptr, topology.indices
    lanes = REGISTER_BYTES // x.itemsize
    parts = numba.get_num_threads()
    first_slots = np.arange(parts, dtype=np.int64) * topology.nnz // parts
    row_of_part = np.searchsorted(indptr, first_slots, side="right") - 1
    lines = scratch.take((SAMPLE_TOKENS * (n_in + n_out),), x.dtype)
    x_lines, dy_lines = lines[: SAMPLE_TOKENS * n_in], lines[SAMPLE_TOKENS * n_in :]
    for first in range(0, x.shape[0], SAMPLE_TOKENS):
        n_tokens = min(SAMPLE_TOKENS, x.shape[0] - first)
        n_blocks = -(-n_tokens // (panels.SAMPLE_VECTORS * lanes))
        for a, a_lines in ((x, x_lines), (dy, dy_lines)):
            panels.run(
                panels.turn_task,
                (a.reshape(-1), a.shape[1], first, n_tokens, parts, a_lines, lanes),
                parts,
                parts,
            )
        panels.run(
            panels.sample_task,
            (
                dvalues,
                indptr,
                indices,
                row_of_part,
                parts,
                n_out,
                n_in,
                n_blocks,
                x_lines,
                dy_lines,
                lanes,
            ),
            parts,
            parts,
        )
    return dvalues


def _sample_tiles(dy: NumpyArray, x: NumpyArray, topology: Topology) -> NumpyArray:
    """Return the result of `sample`: BLAS computes dyᵀ x some rows at a time, and a loop picks the stored positions."""
    n_out, n_in = topology.shape
    dvalues = np.empty(topology.nnz, dtype=x.dtype)
    indptr, indices = topology.indptr, topology.indices
    buffer = scratch.take((min(SAMPLE_ROWS, n_out), n_in), x.dtype)
    for first in range(0, n_out, SAMPLE_ROWS):
        last = min(first + SAMPLE_ROWS, n_out)
        tile = np.matmul(dy[:, first:last].T, x, out=buffer[: last - first])
        panels.take_rows(indptr, indices, first, last, tile, dvalues)
    return dvalues
