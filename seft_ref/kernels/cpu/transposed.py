"""The compiled kernel set for NumPy arrays, with a second, transposed copy of every sparse matrix.

With a copy of Wᵀ, dx = dy W is a product like y = x Wᵀ: its sums stay in registers and nothing is sorted. At 70 %
sparsity the copy takes 5.2 bytes a stored weight (3.2 in 16 bits), pointers of panels included. A matrix that `cpu`
stores densely has no copy, because BLAS reads it either way.

A place (KRN-012) combines two places: the one in the matrix plus 2³² times the one in the copy.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, Dtype, NumpyArray
from seft_ref.errors import KernelError
from seft_ref.kernels import Packed
from seft_ref.kernels.checks import check_places, check_shape, check_stored
from seft_ref.kernels.cpu import plain
from seft_ref.kernels.cpu.packed import PackedOnCpu, PackedPanels, check_operand, store_into
from seft_ref.kernels.cpu.plain import exceeding, sample
from seft_ref.kernels.cpu.transpose import transpose
from seft_ref.kernels.held import Coded, Held, New, Stored
from seft_ref.kernels.split import as_own, live_part, multiply_parts, split, with_live_part
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

MOST = 2**31
"""Number of stored weights from which a matrix is refused, because two places of a weight share one int64."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedTwice:
    """A matrix and a transposed copy of it."""

    rows: PackedOnCpu
    columns: PackedOnCpu | None
    """Wᵀ; None if the matrix is dense or consists of codes"""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.rows.shape

    @property
    def values(self) -> Float[Array, " stored"]:
        """Values of the matrix in the order of its layout; a matrix of codes raises KernelError."""
        return as_own(self.rows, PackedPanels).values

    @property
    def held_in(self) -> Held | None:
        """How a compact matrix stores its numbers; None if not compact."""
        return self.rows.held_in

    @property
    def dtype(self) -> Dtype:
        """Dtype of the products."""
        return self.rows.dtype

    @property
    def opens(self) -> bool:
        """Whether `unpack` returns topology and values (KRN-017)."""
        return self.rows.opens

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix and of its copy."""
        return self.rows.nbytes + (0 if self.columns is None else self.columns.nbytes)


def pack(topology: Topology, values: Float[Array, " nnz"], into: Packed | None = None) -> PackedTwice:
    """Return the layout in which the matrix of topology and values is multiplied (KRN-011).

    The result takes the memory of `into` if that is in panels, of the same shape and dtype, and no smaller. Do not use
    `into` again.

    Shapes  values (nnz,) in slot order
    Dtypes  values float32 or float64

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology, KRN-012 for 2³¹ stored weights or more.
    """
    _check_size(topology)
    of_rows, of_columns = _memory(into)
    rows = plain.pack(topology, values, of_rows)
    if rows.index is None:
        return PackedTwice(rows, None)
    turned, to = transpose(topology)
    return PackedTwice(rows, plain.pack(turned, _moved(values, to), of_columns))


def pack_dense(weight: Float[Array, "out in"]) -> PackedTwice:
    """Return a matrix in which every position is stored; it shares weight's memory (KRN-011).

    Raises:
        KernelError: KRN-009, KRN-010 if weight is not a contiguous float matrix.
    """
    return PackedTwice(plain.pack_dense(weight), None)


def compact(topology: Topology, values: Stored, into: Packed | None = None) -> PackedTwice:
    """Return the matrix of topology and 16-bit values or codes, which computes in float32 (KRN-015, KRN-018).

    Codes have no second copy, because a row of Wᵀ would need the scales of all rows of W.

    The result takes the memory of `into`, a compact matrix of the same shape and dtype or grid that is no smaller. Do
    not use `into` again, nor a matrix that shares memory with it, as those of `clear` do.

    Shapes  values (nnz,) in slot order
    Dtypes  values bfloat16 or float16, or codes

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology or `into`, or are neither 16-bit floats nor
        codes; KRN-012 for 2³¹ stored weights or more; KRN-018 for groups that the set does not take.
    """
    _check_size(topology)
    of_rows, of_columns = _memory(into)
    rows = plain.compact(topology, values, of_rows)
    if isinstance(values, Coded):
        return PackedTwice(rows, None)
    turned, to = transpose(topology)
    return PackedTwice(rows, plain.compact(turned, _moved(values, to), of_columns))


def unpack(packed: Packed) -> tuple[Topology, Float[Array, " nnz"] | Stored]:
    """Return topology and values, in slot order, of a matrix that opens (KRN-015, KRN-017)."""
    return plain.unpack(as_own(packed, PackedTwice).rows)


def clear(packed: Packed, where: Int[Array, " m"]) -> PackedTwice:
    """Return a matrix with zeros at `where`, which shares everything but its values with packed (KRN-016).

    Raises:
        KernelError: KRN-012 if a place is out of range.
    """
    own = as_own(packed, PackedTwice)
    if own.columns is None:
        return PackedTwice(plain.clear(own.rows, where), None)
    in_rows, in_columns = _parts(where)
    return PackedTwice(plain.clear(own.rows, in_rows), plain.clear(own.columns, in_columns))


def locate(packed: Packed, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return the places (m,), int64, of CSR slots in packed; topology is the one that was packed (KRN-012).

    Raises:
        KernelError: KRN-012 if a slot is out of range, KRN-009 if the topology has another shape.
    """
    live = live_part(packed, PackedTwice)
    if live.columns is None:
        return plain.locate(live.rows, topology, slots)
    check_shape(packed.shape, topology)
    check_places("slots", slots, topology.nnz)
    turned, to = transpose(topology)
    in_columns = plain.locate(live.columns, turned, to[slots])
    return plain.locate(live.rows, topology, slots) | in_columns << 32


def store(packed: Packed, where: Int[Array, " m"], values: New) -> Packed:
    """Return packed with values, or with codes if it holds codes, at `where`, in the same memory (KRN-012, KRN-018).

    Do not use packed again.

    Raises:
        KernelError: KRN-012 if a place is out of range, KRN-009, KRN-010, KRN-018 if values do not fit.
    """
    return with_live_part(packed, _store_into(live_part(packed, PackedTwice), where, values))


def _store_into(own: PackedTwice, places: Int[Array, " m"], values: New) -> PackedTwice:
    if own.columns is None:
        return PackedTwice(store_into(own.rows, places, values), None)
    rows = as_own(own.rows, PackedPanels)
    columns = as_own(own.columns, PackedPanels)
    in_rows, in_columns = _parts(places)
    check_stored(in_rows, values, rows.values, rows.held_in)
    check_places("where", in_columns, columns.values.shape[0])
    return PackedTwice(store_into(rows, in_rows, values), store_into(columns, in_columns, values))


def matmul(x: Float[Array, "n in"], packed: Packed) -> Float[Array, "n out"]:
    """Return y = x Wᵀ (KRN-001).

    Shapes  x (n, in), y (n, out), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if x does not fit the matrix.
    """
    return multiply_parts(_multiply_rows, x, packed, PackedTwice)


def matmul_transposed(dy: Float[Array, "n out"], packed: Packed) -> Float[Array, "n in"]:
    """Return dx = dy W (KRN-002), computed as the product with the copy of Wᵀ.

    Shapes  dy (n, out), dx (n, in), both with one token a row
    Dtypes  the packed matrix's

    Raises:
        KernelError: KRN-009, KRN-010 if dy does not fit the matrix.
    """
    check_operand("dy", dy, packed.shape[0], packed)
    return multiply_parts(_multiply_columns, dy, packed, PackedTwice)


def _multiply_rows(x: Float[Array, "n in"], packed: PackedTwice) -> Float[Array, "n out"]:
    return plain.matmul(x, packed.rows)


def _multiply_columns(dy: Float[Array, "n out"], packed: PackedTwice) -> Float[Array, "n in"]:
    return plain.matmul_transposed(dy, packed.rows) if packed.columns is None else plain.matmul(dy, packed.columns)


def _memory(into: Packed | None) -> tuple[PackedOnCpu | None, PackedOnCpu | None]:
    if into is None:
        return None, None
    own = as_own(into, PackedTwice)
    return own.rows, own.columns


def _parts(places: Int[Array, " m"]) -> tuple[Int[Array, " m"], Int[Array, " m"]]:
    """Return the places in the matrix and in its copy.

    Anything but an int64 array is returned unchanged, because the checks of the callers refuse it.
    """
    if not isinstance(places, np.ndarray) or places.dtype != np.int64:
        return places, places
    return np.where(places < 0, places, places & (2**32 - 1)), places >> 32


def _moved(values: NumpyArray, to: NumpyArray) -> NumpyArray:
    turned = np.empty_like(values)
    turned[to] = values
    return turned


def _check_size(topology: Topology) -> None:
    if topology.nnz >= MOST:
        raise KernelError("KRN-012", f"{topology.nnz} stored weights of a matrix are too many here; use kernels.cpu")
