"""The kernel set for NumPy arrays: column panels compiled by numba, BLAS where a matrix is dense enough.

Threads are numba's: `numba.set_num_threads` decides, and results do not depend on it (KRN-008). A process
that mixes this set with NumPy's own products should set OPENBLAS_THREAD_TIMEOUT=4 and OMP_WAIT_POLICY=PASSIVE
before importing either: idle workers of one pool otherwise spin on the cores the other one needs.
"""

import math
import threading
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numba
import numpy as np
from jaxtyping import Float, Int, UInt8

from seft_ref.arrays import Array
from seft_ref.errors import KernelError
from seft_ref.kernels import _panels
from seft_ref.kernels._checks import (
    check_alike,
    check_compact,
    check_factors,
    check_matrix,
    check_new_values,
    check_places,
    check_shape,
    check_values,
    check_vector,
)
from seft_ref.kernels._vectors import REGISTER_BYTES
from seft_ref.kernels.split import Split, split
from seft_ref.topology import Topology, flat

__all__ = [
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

_BITS = {np.dtype(ml_dtypes.bfloat16): np.dtype(np.uint16), np.dtype(np.float16): np.dtype(np.int16)}
"""16-bit floats, and the integers that tell the loops which of them they read (`_vectors`)."""
_HELD = {bits: dtype for dtype, bits in _BITS.items()}

PANELS_BELOW = 0.55
"""Share of stored positions from which a forward and a backward product cost less through BLAS."""
SAMPLE_BELOW = 0.35
"""Share of stored positions from which `sample` multiplies row tiles by BLAS and picks from them."""
SAMPLE_TOKENS = 256
"""Tokens that `sample` turns at a time."""
SAMPLE_ROWS = 256
"""Rows of a BLAS tile of `sample`."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix as flat values, dense or in column panels (`_panels` draws the layout)."""

    shape: tuple[int, int]
    values: Float[Array, " stored"]
    """Panel order, or row-major where the matrix is dense; the bits of 16-bit floats where it is compact."""
    index: UInt8[Array, " stored"] | None = None
    """uint8, column within the panel; None where the matrix is dense."""
    pointer: Int[Array, " rows"] | None = None
    """(panels * out + 1,): where each row of each panel starts, int32 where that holds them, else int64; None where
    the matrix is dense."""

    @property
    def held_in(self) -> Any:
        """The 16-bit dtype of a compact matrix, else None."""
        return _HELD.get(self.values.dtype)

    @property
    def dtype(self) -> Any:
        """Dtype that is computed in."""
        return self.values.dtype if self.held_in is None else np.dtype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(a.nbytes for a in (self.values, self.index, self.pointer) if a is not None)


class _Scratch(threading.local):
    """Memory that calls reuse, one a thread: fresh pages cost more than the products that would fill them."""

    memory = np.empty(0, dtype=np.uint8)

    def take(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array, aligned to a cache line; this thread's next call takes it back."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if self.memory.nbytes < n_bytes:
            memory = np.empty(n_bytes + 64, dtype=np.uint8)
            self.memory = memory[-memory.ctypes.data % 64 :]
        return self.memory[:n_bytes].view(dtype).reshape(shape)


_scratch = _Scratch()


def pack(topology: Topology, values: Float[Array, " nnz"]) -> Packed:
    """Return the layout in which the matrix of topology and values is multiplied (KRN-011).

    Shapes  values (nnz,) in slot order
    Dtypes  values float32 or float64

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology.
    """
    check_values(topology, values)
    _check_numpy(values=values, indices=topology.indices)
    if topology.nnz >= PANELS_BELOW * topology.numel:
        dense = np.zeros(topology.numel, dtype=values.dtype)
        dense[flat(topology)] = values
        return Packed(topology.shape, dense)
    return _in_panels(topology, values)


def _in_panels(topology: Topology, values: Any, into: Packed | None = None) -> Packed:
    n_out, n_in = topology.shape
    n_panels = -(-n_in // _panels.WIDTH)
    offsets = np.int32 if topology.nnz <= np.iinfo(np.int32).max else np.int64
    pointer: Any
    if into is None:
        pointer = np.empty(n_panels * n_out + 1, dtype=offsets)
        index, ordered = np.empty(topology.nnz, dtype=np.uint8), np.empty_like(values)
    else:
        assert into.index is not None
        pointer, index, ordered = into.pointer, into.index[: topology.nnz], into.values[: topology.nnz]
    place = np.empty(topology.nnz, dtype=offsets)
    _panels.fill_panels(topology.indptr, topology.indices, pointer, index, place)
    ordered[place] = values
    return Packed(topology.shape, ordered, index, pointer)


def compact(topology: Topology, values: Any, into: Packed | None = None) -> Packed:
    """Return the matrix of topology and 16-bit values, held in 16 bits and computed with as float32 (KRN-015).

    A compact matrix of that shape and dtype that stores as much or more gives its memory: `into` is not used again.

    Shapes  values (nnz,) in slot order
    Dtypes  values bfloat16 or float16

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology or are no 16-bit floats.
    """
    check_compact(topology, values)
    _check_numpy(values=values, indices=topology.indices)
    if into is not None and (into.shape != topology.shape or into.values.size < topology.nnz):
        raise KernelError(
            "KRN-009", f"a matrix {into.shape} of {into.values.size} values has no room for {topology.nnz}"
        )
    if into is not None and into.held_in != values.dtype:
        raise KernelError(
            "KRN-010", f"values are {values.dtype}, the memory that they are to take holds {into.held_in}"
        )
    return _in_panels(topology, values.view(_BITS[values.dtype]), into)


def unpack(packed: Packed) -> tuple[Topology, Any]:
    """Return the topology of a compact matrix and its 16-bit values in slot order (KRN-015)."""
    n_out, n_in = packed.shape
    assert packed.held_in is not None, "only compact matrices are unpacked"
    assert packed.index is not None
    indptr = np.empty(n_out + 1, dtype=np.int64)
    indices = np.empty(packed.index.size, dtype=np.int32)
    values = np.empty_like(packed.values)
    _panels.open_panels(packed.values, packed.index, packed.pointer, n_in, indptr, indices, values)
    return Topology(packed.shape, indptr, indices), values.view(packed.held_in)


def clear(packed: Packed, where: Int[Array, " m"]) -> Packed:
    """Return a matrix with zeros at `where` that shares everything but its values (KRN-016).

    Raises:
        KernelError: KRN-012 if a place is out of range.
    """
    check_places("where", where, packed.values.shape[0])
    values = packed.values.copy()
    values[where] = 0
    return Packed(packed.shape, values, packed.index, packed.pointer)


def pack_dense(weight: Float[Array, "out in"]) -> Packed:
    """Return a matrix of which every position is stored; it shares weight's memory (KRN-011).

    Raises:
        KernelError: KRN-009, KRN-010 if weight is not a contiguous float matrix.
    """
    check_matrix("weight", weight)
    _check_numpy(weight=weight)
    return Packed((weight.shape[0], weight.shape[1]), weight.reshape(-1))


def locate(packed: Packed | Split, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return where the values of CSR slots lie in packed; topology is the one that was packed (KRN-012).

    Raises:
        KernelError: KRN-012 if a slot is out of range, KRN-009 if the topology has another shape.
    """
    if isinstance(packed, Split):
        return locate(packed.live, topology, slots)
    check_shape(packed.shape, topology)
    check_places("slots", slots, topology.nnz)
    indptr, indices = topology.indptr, topology.indices
    row = np.searchsorted(indptr, slots, side="right") - 1
    if packed.index is None:
        return row * topology.shape[1] + indices[slots]
    where = np.empty_like(slots)
    _panels.find_places(indptr, indices, packed.pointer, slots, row, where)
    return where


def store(packed: Any, where: Int[Array, " m"], values: Float[Array, " m"]) -> Any:
    """Return packed with values at `where`, in the same memory (KRN-012); packed is not to be used again.

    Raises:
        KernelError: KRN-012 if a place is out of range, KRN-009, KRN-010 if values do not fit.
    """
    if isinstance(packed, Split):
        return Split(packed.frozen, store(packed.live, where, values))
    check_new_values(where, values, packed.values)
    # Memory of a mapped file may be read-only; a donation may be declined.
    stored = packed.values if packed.values.flags.writeable else packed.values.copy()
    stored[where] = values
    return Packed(packed.shape, stored, packed.index, packed.pointer)


def matmul(x: Float[Array, "n in"], packed: Packed | Split) -> Float[Array, "n out"]:
    """Return y = x Wᵀ (KRN-001).

    Shapes  x (n, in), y (n, out), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if x does not fit the matrix.
    """
    check_matrix("x", x, packed.shape[1])
    _check_numpy(x=x)
    check_alike("x", x, "the packed matrix", _of_dtype(packed))
    if isinstance(packed, Split):
        return matmul(x, packed.frozen) + matmul(x, packed.live)
    if packed.index is None:
        return x @ packed.values.reshape(packed.shape).T
    if x.shape[0] == 1:
        return _multiply_token(x, packed)
    return _multiply(_panels.gather_task, x, packed, packed.shape[0], _panels.ROW_BLOCK)


def matmul_transposed(dy: Float[Array, "n out"], packed: Packed | Split) -> Float[Array, "n in"]:
    """Return dx = dy W (KRN-002).

    Shapes  dy (n, out), dx (n, in), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if dy does not fit the matrix.
    """
    check_matrix("dy", dy, packed.shape[0])
    _check_numpy(dy=dy)
    check_alike("dy", dy, "the packed matrix", _of_dtype(packed))
    if isinstance(packed, Split):
        return matmul_transposed(dy, packed.frozen) + matmul_transposed(dy, packed.live)
    if packed.index is None:
        return dy @ packed.values.reshape(packed.shape)
    return _multiply(_panels.scatter_task, dy, packed, packed.shape[1], _panels.WIDTH)


def sample(dy: Float[Array, "n out"], x: Float[Array, "n in"], topology: Topology) -> Float[Array, " nnz"]:
    """Return dyᵀ x at the stored positions, in slot order; the whole of dyᵀ x is never held (KRN-003).

    Shapes  dy (n, out), x (n, in), result (nnz,)
    Dtypes  float32 or float64, one for all

    Raises:
        KernelError: KRN-009, KRN-010 if the factors do not fit the topology or each other.
    """
    check_factors(dy, x, topology)
    _check_numpy(dy=dy, x=x)
    dvalues = np.zeros(topology.nnz, dtype=x.dtype)
    if not topology.nnz or not x.shape[0]:
        return dvalues
    if topology.nnz >= SAMPLE_BELOW * topology.numel:
        _sample_tiles(dy, x, topology, dvalues)
    else:
        _sample_lines(dy, x, topology, dvalues)
    return dvalues


def exceeding(values: Float[Array, " n"], least: float) -> Int[Array, " m"]:
    """Return the indices of the entries with |value| above `least`, ascending; NaN and infinity are among them
    (KRN-014).

    Raises:
        KernelError: KRN-009, KRN-010 if values are not a contiguous float vector.
    """
    check_vector("values", values)
    _check_numpy(values=values)
    return _panels.exceeding(values, values.dtype.type(least))


def _of_dtype(packed: Packed | Split) -> Any:
    """Return an array of the dtype that a packed matrix computes in."""
    return np.empty(0, dtype=packed.dtype)


def _multiply(task: Any, src: Any, packed: Packed, n_result: int, n_extra_lines: int) -> Any:
    """Return src times the panels: n_result columns, with scratch for n_extra_lines lines of them."""
    n = src.shape[0]
    result = np.empty((n, n_result), dtype=src.dtype)
    if not result.size:
        return result
    lanes = REGISTER_BYTES // src.itemsize
    n_blocks = -(-n // (_panels.LINE_VECTORS * lanes))
    workers = numba.get_num_threads()
    # Whole blocks while they share out evenly; otherwise each block is cut into one part a worker.
    n_parts = 1 if n_blocks % workers == 0 or n_blocks >= 8 * workers else workers
    work_size = (src.shape[1] + n_extra_lines) * _panels.LINE_VECTORS * lanes
    work = _scratch.take((workers * work_size,), src.dtype)
    _panels.run(
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


def _multiply_token(x: Any, packed: Packed) -> Any:
    """Return the product with one token; each worker has rows of its own."""
    n_out, n_in = packed.shape
    result = np.empty((1, n_out), dtype=x.dtype)
    if not result.size:
        return result
    lanes = REGISTER_BYTES // x.itemsize
    workers = numba.get_num_threads()
    work_size = -(-n_in // _panels.WIDTH) * _panels.WIDTH + min(_panels.TOKEN_ROWS, n_out) * lanes
    work = _scratch.take((workers * work_size,), x.dtype)
    _panels.run(
        _panels.token_task,
        (
            packed.values,
            packed.index,
            packed.pointer,
            n_out,
            n_in,
            x.reshape(-1),
            result.reshape(-1),
            1,
            workers,
            work,
            work_size,
            lanes,
        ),
        workers,
        workers,
    )
    return result


def _sample_lines(dy: Any, x: Any, topology: Topology, dvalues: Any) -> None:
    n_out, n_in = topology.shape
    indptr, indices = topology.indptr, topology.indices
    lanes = REGISTER_BYTES // x.itemsize
    parts = numba.get_num_threads()
    first_slots = np.arange(parts, dtype=np.int64) * topology.nnz // parts
    row_of_part = np.searchsorted(indptr, first_slots, side="right") - 1
    lines = _scratch.take((SAMPLE_TOKENS * (n_in + n_out),), x.dtype)
    x_lines, dy_lines = lines[: SAMPLE_TOKENS * n_in], lines[SAMPLE_TOKENS * n_in :]
    for first in range(0, x.shape[0], SAMPLE_TOKENS):
        n_tokens = min(SAMPLE_TOKENS, x.shape[0] - first)
        n_blocks = -(-n_tokens // (_panels.SAMPLE_VECTORS * lanes))
        for a, a_lines in ((x, x_lines), (dy, dy_lines)):
            _panels.run(
                _panels.turn_task,
                (a.reshape(-1), a.shape[1], first, n_tokens, parts, a_lines, lanes),
                parts,
                parts,
            )
        _panels.run(
            _panels.sample_task,
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


def _sample_tiles(dy: Any, x: Any, topology: Topology, dvalues: Any) -> None:
    n_out, n_in = topology.shape
    indptr, indices = topology.indptr, topology.indices
    buffer = _scratch.take((min(SAMPLE_ROWS, n_out), n_in), x.dtype)
    for first in range(0, n_out, SAMPLE_ROWS):
        last = min(first + SAMPLE_ROWS, n_out)
        tile = np.matmul(dy[:, first:last].T, x, out=buffer[: last - first])
        _panels.take_rows(indptr, indices, first, last, tile, dvalues)


def _check_numpy(**arrays: Any) -> None:
    for name, a in arrays.items():
        if not isinstance(a, np.ndarray):
            raise KernelError("KRN-010", f"{name} is a {type(a).__name__}; this kernel set takes NumPy arrays")
        if not a.flags.c_contiguous:
            raise KernelError("KRN-009", f"{name} of shape {a.shape} is not contiguous in row-major order")
