"""The layout of a matrix of codes in the CPU kernel set, and its products (KRN-018).

    W (out, in)      panel 0     panel 1       masks    panel 0: row 0, row 1, ... panel 1: row 0, row 1, ...
    row 0         [ 3 . . 5 ]   [ . . 1 . ]    codes    3 5 | 2 4 | 1 | 7     in the order of masks
    row 1         [ . 2 4 . ]   [ . 7 . . ]    scales   group 0: row 0, row 1, ... group 1: row 0, row 1, ...

A panel is 64 columns wide. Bit c of a mask says whether column c of the panel is stored. At 70 % sparsity a mask takes
0.4 bytes a stored weight, where a byte for each column and the pointers of `packed` take 1.2. Codes of 4 bits lie two
in a byte, and the first code of a panel's row begins a byte. `order` sorts each 32 rows of a panel by how many columns
they store, for 0.05 bytes.

Weights are decoded to float32, a few rows at a time. A product with several tokens has the bits of the product with
those weights in panels. A product with one token adds in another order.
"""

from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from jaxtyping import Float, Int, Int8, Int64, UInt8

from seft_ref.arrays.library import Array, Dtype, NumpyArray
from seft_ref.errors import KernelError
from seft_ref.kernels.checks import check_new_codes, check_places
from seft_ref.kernels.cpu import coded_loops, coded_rows, panels, turned
from seft_ref.kernels.cpu.emitter import REGISTER_BYTES
from seft_ref.kernels.cpu.scratch import scratch
from seft_ref.kernels.cpu.token import TOKEN_ROWS
from seft_ref.kernels.held import Coded
from seft_ref.topology.csr import Topology

_BEHIND = 64
"""Bytes behind the last code that the loops may read; their content does not matter."""
_LANES = REGISTER_BYTES // 4


@dataclass(frozen=True, slots=True, eq=False)
class PackedCodes:
    """A matrix of codes in column panels."""

    shape: tuple[int, int]
    nnz: int
    held_in: Coded
    """the grid without codes; the loops read a transposed view of its scales and zero points"""
    codes: Int[Array, " bytes"]
    """int8 with one code a byte, or uint8 with two; panel by panel and row by row"""
    masks: Int64[Array, " rows"]
    """(panels * out,): the stored columns of each row of each panel"""
    order: UInt8[Array, " rows"]
    """(panels * out,): each 32 rows of a panel, numbered from 0, from fewest stored columns to most"""
    starts: Int64[Array, " blocks"]
    """(panels * blocks + 1,): the first byte of each block of 64 rows of each panel"""

    @property
    def dtype(self) -> Dtype:
        """Dtype of the products."""
        return np.dtype(np.float32)

    @property
    def opens(self) -> bool:
        """True, because `unpack` returns topology and codes (KRN-017)."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of the matrix."""
        zeros = 0 if self.held_in.symmetric else self.held_in.zeros.nbytes
        return sum(a.nbytes for a in (self.codes, self.masks, self.order, self.starts, self.held_in.scales)) + zeros

    @property
    def halves(self) -> bool:
        """Whether a byte holds two codes."""
        return self.held_in.bits == 4

    @property
    def zeros(self) -> Array:
        """int8 zero points, group by group. On a symmetric grid a dummy of uint8 tells the loops that all are 0."""
        if self.held_in.symmetric:
            return np.zeros(1, dtype=np.uint8)
        return self.held_in.zeros.T.reshape(-1)

    @property
    def arguments(self) -> tuple[Array | int, ...]:
        """The first arguments of all tasks."""
        scales = self.held_in.scales
        columns, n_groups = self.held_in.columns, max(1, scales.shape[1])
        arrays = (self.codes, self.masks, self.starts, scales.T.reshape(-1), self.zeros)
        return (*arrays, columns, n_groups, *self.shape)


def pack_codes(topology: Topology, stored: Coded, into: PackedCodes | None = None) -> PackedCodes:
    """Return the matrix of topology and codes; the caller has checked them by `check_compact` (KRN-018).

    The result takes the memory of `into`, of the same shape and grid, as far as it suffices. Do not use `into` again.

    Raises:
        KernelError: KRN-010 for codes that are no NumPy arrays, KRN-018 for groups that begin within a register.
    """
    codes, scales, zeros = stored.codes, stored.scales, stored.zeros
    if not all(isinstance(a, np.ndarray) for a in (codes, scales, zeros, topology.indices)):
        raise KernelError("KRN-010", "codes and scales are no NumPy arrays; this kernel set takes those")
    if stored.columns % _LANES and scales.shape[1] > 1:
        raise KernelError(
            "KRN-018",
            f"groups of {stored.columns} columns are not held; they must be a multiple of {_LANES}, or a whole row",
        )
    n_out, n_in = topology.shape
    halves = stored.bits == 4
    n_rows, n_blocks = -(-n_in // panels.WIDTH) * n_out, -(-n_in // panels.WIDTH) * -(-n_out // coded_rows.ROWS)
    masks = np.empty(n_rows, dtype=np.int64) if into is None else into.masks
    starts = np.empty(n_blocks + 1, dtype=np.int64) if into is None else into.starts
    masks[:] = 0
    coded_rows.fill_masks(topology.indptr, topology.indices, masks)
    order = np.empty(n_rows, dtype=np.uint8) if into is None else into.order
    coded_rows.fill_order(masks, n_out, order)
    n_bytes = coded_rows.fill_starts(masks, n_out, halves, starts) + _BEHIND
    if into is not None and into.codes.size >= n_bytes and into.codes.flags.writeable:
        packed_codes = into.codes[:n_bytes]
    else:
        packed_codes = np.empty(n_bytes, dtype=np.uint8 if halves else np.int8)
    coded_rows.fill_codes(topology.indptr, topology.indices, codes, masks, starts, halves, packed_codes)
    # a symmetric grid gets a view that takes no memory, because all its zero points are 0
    none = np.broadcast_to(np.zeros((), np.int8), zeros.shape)
    # copies, because the caller's arrays may change or be those of a mapped file
    bare = stored.bare(np.array(scales, order="F"), none if stored.symmetric else np.array(zeros, order="F"))
    return PackedCodes(topology.shape, topology.nnz, bare, packed_codes, masks, order, starts)


def unpack_codes(packed: PackedCodes) -> tuple[Topology, Coded]:
    """Return topology and codes of a matrix in slot order."""
    n_out, n_in = packed.shape
    indptr, indices = np.empty(n_out + 1, dtype=np.int64), np.empty(packed.nnz, dtype=np.int32)
    codes = np.empty(packed.nnz, dtype=np.int8)
    coded_rows.open_codes(packed.codes, packed.masks, packed.starts, n_in, packed.halves, indptr, indices, codes)
    topology = Topology(packed.shape, indptr, indices)
    return topology, packed.held_in.at(topology, codes)


def places_of(topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return the places of slots: flat positions."""
    return topology.positions_at(slots)


def clear_codes(packed: PackedCodes, positions: Int[Array, " m"]) -> PackedCodes:
    """Return a matrix with codes that stand for 0 at the flat `positions` (KRN-016, KRN-018).

    Raises:
        KernelError: KRN-012 if a place is out of range or not stored.
    """
    n_out, n_in = packed.shape
    check_places("where", positions, n_out * n_in)
    rows, columns = np.divmod(positions, n_in)
    zeros = packed.held_in.zeros[rows, columns // packed.held_in.columns]
    return store_codes(replace(packed, codes=packed.codes.copy()), positions, zeros)


def store_codes(packed: PackedCodes, positions: Int[Array, " m"], codes: Int8[Array, " m"]) -> PackedCodes:
    """Return packed with codes at the flat `positions`, in the same memory (KRN-018); do not use packed again.

    Raises:
        KernelError: KRN-012 if a place is out of range or not stored, KRN-009, KRN-010, KRN-018 if codes do not fit.
    """
    n_out, n_in = packed.shape
    check_new_codes(positions, codes, packed.held_in, n_out * n_in, packed.codes)
    # copied if it is read-only, as the memory of a mapped file may be
    into = packed.codes if packed.codes.flags.writeable else packed.codes.copy()
    if not coded_rows.store_codes(into, packed.masks, packed.starts, n_out, n_in, packed.halves, positions, codes):
        raise KernelError("KRN-012", "where names positions that the matrix does not store")
    return replace(packed, codes=into)


def multiply_rows(x: Float[NumpyArray, "n in"], packed: PackedCodes) -> Float[NumpyArray, "n out"]:
    """Return y = x Wᵀ (KRN-001)."""
    n_out, n_in = packed.shape
    y = np.empty((x.shape[0], n_out), dtype=x.dtype)
    if not y.size:
        return y
    if x.shape[0] > 1:
        opened = (packed.order, _opened(numba.get_num_threads() * coded_loops.SCRATCH, np.float32))
        return _multiply(coded_loops.gather_task, x, packed, y, panels.ROW_BLOCK, opened)
    workers = numba.get_num_threads()
    rows = min(TOKEN_ROWS, -(-n_out // coded_rows.ROWS) * coded_rows.ROWS)
    work_size = -(-n_in // panels.WIDTH) * panels.WIDTH + rows * _LANES
    work = scratch.take((workers * work_size,), x.dtype)
    arguments = (*packed.arguments, x.reshape(-1), y.reshape(-1), workers, work, work_size, _LANES)
    panels.run(coded_loops.token_task, arguments, workers, workers)
    return y


def multiply_columns(dy: Float[NumpyArray, "n out"], packed: PackedCodes) -> Float[NumpyArray, "n in"]:
    """Return dx = dy W (KRN-002)."""
    dx = np.empty((dy.shape[0], packed.shape[1]), dtype=dy.dtype)
    if not dx.size:
        return dx
    if dy.shape[0] == 1:
        workers = numba.get_num_threads()
        work = scratch.take((workers * 2 * panels.WIDTH,), dy.dtype)
        arguments = (*packed.arguments, dy.reshape(-1), dx.reshape(-1), workers, work, 2 * panels.WIDTH)
        panels.run(coded_loops.token_back_task, arguments, workers, workers)
        return dx
    n_blocks = dy.shape[0] // (panels.LINE_VECTORS * _LANES)
    # the rule of floats, so that sums have the same bits, though codes sort nothing
    if turned.pays(n_blocks, packed.nnz, packed.shape):
        return _multiply_turned(dy, packed, n_blocks, dx)
    return _multiply_lines(dy, packed, dx)


def _multiply_lines(dy: NumpyArray, packed: PackedCodes, dx: NumpyArray) -> NumpyArray:
    """Write dx = dy W into `dx` and return it, by adding to lines."""
    opened = _squares(numba.get_num_threads())
    return _multiply(coded_loops.scatter_task, dy, packed, dx, panels.WIDTH, opened)


def _multiply(
    task: Any,
    src: NumpyArray,
    packed: PackedCodes,
    result: NumpyArray,
    n_extra_lines: int,
    opened: tuple[NumpyArray, ...],
) -> NumpyArray:
    """Write the product of src and the panels into `result` and return it; scratch is laid out as in `plain`.

    opened  what the task takes to decode rows: memory, and before it, if it needs that, the order of rows
    """
    n, workers = src.shape[0], numba.get_num_threads()
    n_blocks, n_parts = panels.parts(n, _LANES, workers)
    work_size = (src.shape[1] + n_extra_lines) * panels.LINE_VECTORS * _LANES
    work = scratch.take((workers * work_size,), src.dtype)
    arguments = (*packed.arguments, src.reshape(-1), result.reshape(-1), n, n_parts, *opened, work, work_size, _LANES)
    panels.run(task, arguments, n_blocks * n_parts, workers)
    return result


def _multiply_turned(dy: NumpyArray, packed: PackedCodes, n_blocks: int, dx: NumpyArray) -> NumpyArray:
    """Write dx = dy W into `dx` and return it: whole blocks of tokens by tiles of W, the rest by adding to lines."""
    n_in, workers = packed.shape[1], numba.get_num_threads()
    n, shares = n_blocks * panels.LINE_VECTORS * _LANES, turned.shares(n_blocks, n_in, _LANES, workers)
    panels.run(
        coded_loops.turned_task,
        (
            *packed.arguments,
            dy.reshape(-1),
            dx.reshape(-1),
            n_blocks,
            shares.n_groups,
            shares.n_parts,
            *_squares(workers),
            scratch.take((workers * shares.work_size,), dy.dtype),
            shares.work_size,
            _LANES,
        ),
        shares.n_groups * shares.n_parts,
        workers,
    )
    if n < dy.shape[0]:
        rest = np.empty((dy.shape[0] - n, n_in), dtype=dy.dtype)
        dx[n:] = _multiply_lines(dy[n:], packed, rest)
    return dx


def _squares(workers: int) -> tuple[NumpyArray, NumpyArray]:
    """Return memory for the weights of 64 decoded rows, and for the masks of their rows and columns."""
    return _opened(workers * coded_loops.OPENED, np.float32), _opened(workers * coded_loops.MASKS, np.int64)


def _opened(n: int, dtype: Any) -> NumpyArray:
    """Return memory for n weights or masks of decoded rows."""
    return np.empty(n, dtype=dtype)
