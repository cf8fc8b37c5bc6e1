"""The compiled kernel set for NumPy arrays, with a second, transposed copy of every sparse matrix.

With a copy of Wᵀ at hand dx = dy W is a product like y = x Wᵀ, its sums in registers and nothing to be sorted, for
5.2 more bytes a stored weight at 70 % sparsity (3.2 in 16 bits), pointers of panels included. A matrix that `cpu` holds
densely has no copy: BLAS reads it either way.

A place (KRN-012) is two numbers in one: that in the matrix, and 2³² times that in the copy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from seft_ref.arrays.library import Array
from seft_ref.errors import KernelError
from seft_ref.kernels.checks import check_alike, check_matrix, check_new_values, check_places, check_shape
from seft_ref.kernels.cpu import plain
from seft_ref.kernels.cpu.packed import Packed, check_numpy
from seft_ref.kernels.cpu.plain import exceeding, pack_dense, sample
from seft_ref.kernels.cpu.transpose import transpose
from seft_ref.kernels.split import Split, split
from seft_ref.topology.csr import Topology

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

MOST = 2**31
"""Stored weights of one matrix that its places can tell apart."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedTwice:
    """A matrix and its transpose."""

    rows: Packed
    columns: Packed
    """Wᵀ"""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.rows.shape

    @property
    def values(self) -> Float[Array, " stored"]:
        """Values of the matrix, in its own order."""
        return self.rows.values

    @property
    def held_in(self) -> Any:
        """The 16-bit dtype of a compact matrix, else None."""
        return self.rows.held_in

    @property
    def dtype(self) -> Any:
        """Dtype that is computed in."""
        return self.rows.dtype

    @property
    def opens(self) -> bool:
        """Whether `unpack` tells topology and values (KRN-017)."""
        return self.rows.opens

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.rows.nbytes + self.columns.nbytes


def pack(topology: Topology, values: Float[Array, " nnz"], into: Any = None) -> Packed | PackedTwice:
    """Return the layout in which the matrix of topology and values is multiplied (KRN-011).

    A matrix of that shape and dtype, in panels that store as much or more, gives its memory: `into` is not used again.

    Shapes  values (nnz,) in slot order
    Dtypes  values float32 or float64

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology, KRN-012 for 2³¹ stored weights or more.
    """
    _check_size(topology)
    of_rows, of_columns = _memory(into)
    rows = plain.pack(topology, values, of_rows)
    if rows.index is None:
        return rows
    turned, to = transpose(topology)
    return PackedTwice(rows, plain.pack(turned, _moved(values, to), of_columns))


def compact(topology: Topology, values: Any, into: Any = None) -> PackedTwice:
    """Return the matrix of topology and 16-bit values, held in 16 bits and computed with as float32 (KRN-015).

    A compact matrix of that shape and dtype that stores as much or more gives its memory: `into` is not used again.

    Shapes  values (nnz,) in slot order
    Dtypes  values bfloat16 or float16

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology or are no 16-bit floats, KRN-012 for 2³¹ stored
        weights or more.
    """
    _check_size(topology)
    of_rows, of_columns = _memory(into)
    rows = plain.compact(topology, values, of_rows)
    turned, to = transpose(topology)
    return PackedTwice(rows, plain.compact(turned, _moved(values, to), of_columns))


def unpack(packed: Any) -> tuple[Topology, Any]:
    """Return the topology of a matrix that opens and its values in slot order (KRN-015, KRN-017)."""
    return plain.unpack(_rows(packed))


def clear(packed: PackedTwice, where: Int[Array, " m"]) -> PackedTwice:
    """Return a matrix with zeros at `where` that shares everything but its values (KRN-016).

    Raises:
        KernelError: KRN-012 if a place is out of range.
    """
    in_rows, in_columns = _parts(where)
    return PackedTwice(plain.clear(packed.rows, in_rows), plain.clear(packed.columns, in_columns))


def locate(packed: Any, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return where the values of CSR slots lie in packed; topology is the one that was packed (KRN-012).

    Raises:
        KernelError: KRN-012 if a slot is out of range, KRN-009 if the topology has another shape.
    """
    if isinstance(packed, Split):
        return locate(packed.live, topology, slots)
    if isinstance(packed, Packed):
        return plain.locate(packed, topology, slots)
    check_shape(packed.shape, topology)
    check_places("slots", slots, topology.nnz)
    turned, to = transpose(topology)
    in_columns = plain.locate(packed.columns, turned, to[slots])
    return plain.locate(packed.rows, topology, slots) | in_columns << 32


def store(packed: Any, where: Int[Array, " m"], values: Float[Array, " m"]) -> Any:
    """Return packed with values at `where`, in the same memory (KRN-012); packed is not to be used again.

    Raises:
        KernelError: KRN-012 if a place is out of range, KRN-009, KRN-010 if values do not fit.
    """
    if isinstance(packed, Split):
        return Split(packed.frozen, store(packed.live, where, values))
    if isinstance(packed, Packed):
        return plain.store(packed, where, values)
    in_rows, in_columns = _parts(where)
    check_new_values(in_rows, values, packed.rows.values)
    check_places("where", in_columns, packed.columns.values.shape[0])
    return PackedTwice(plain.store(packed.rows, in_rows, values), plain.store(packed.columns, in_columns, values))


def matmul(x: Float[Array, "n in"], packed: Any) -> Float[Array, "n out"]:
    """Return y = x Wᵀ (KRN-001).

    Shapes  x (n, in), y (n, out), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if x does not fit the matrix.
    """
    return plain.matmul(x, _rows(packed))


def matmul_transposed(dy: Float[Array, "n out"], packed: Any) -> Float[Array, "n in"]:
    """Return dx = dy W (KRN-002), as the product with Wᵀ.

    Shapes  dy (n, out), dx (n, in), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if dy does not fit the matrix.
    """
    if isinstance(packed, Packed):
        return plain.matmul_transposed(dy, packed)
    check_matrix("dy", dy, packed.shape[0])
    check_numpy(dy=dy)
    check_alike("dy", dy, "the packed matrix", np.empty(0, dtype=packed.dtype))
    if isinstance(packed, Split):
        return matmul_transposed(dy, packed.frozen) + matmul_transposed(dy, packed.live)
    return plain.matmul(dy, packed.columns)


def _rows(packed: Any) -> Any:
    """Return what `cpu` knows a matrix as."""
    if isinstance(packed, Split):
        return Split(_rows(packed.frozen), _rows(packed.live))
    return packed.rows if isinstance(packed, PackedTwice) else packed


def _memory(into: Any) -> tuple[Packed | None, Packed | None]:
    return (into.rows, into.columns) if isinstance(into, PackedTwice) else (into, None)


def _parts(where: Any) -> tuple[Any, Any]:
    """Return the places in the matrix and in its copy; what is no array of places stays itself, to be refused."""
    if not isinstance(where, np.ndarray) or where.dtype != np.int64:
        return where, where
    return np.where(where < 0, where, where & (2**32 - 1)), where >> 32


def _moved(values: Any, to: Any) -> Any:
    turned = np.empty_like(values)
    turned[to] = values
    return turned


def _check_size(topology: Topology) -> None:
    if topology.nnz >= MOST:
        raise KernelError("KRN-012", f"{topology.nnz} stored weights of a matrix are too many here; use kernels.cpu")
