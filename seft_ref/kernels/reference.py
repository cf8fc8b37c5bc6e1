"""The kernel set that defines the others: densify, then multiply; any array library, any device."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, device, from_halves, to_halves
from seft_ref.kernels.checks import (
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
from seft_ref.kernels.split import Split, split
from seft_ref.topology.csr import Topology, find, flat, from_flat

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


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix as its stored flat positions and their values."""

    shape: tuple[int, int]
    positions: Int[Array, " nnz"] | None
    """int64, strictly increasing; None where every position is stored."""
    values: Float[Array, " nnz"]
    held_in: Any = None
    """The 16-bit dtype of the numbers of a compact matrix, else None."""

    @property
    def dtype(self) -> Array:
        """Dtype of the values."""
        return self.values.dtype

    @property
    def opens(self) -> bool:
        """Whether `unpack` tells topology and values (KRN-017): here nothing would be saved by it."""
        return self.held_in is not None

    @property
    def nbytes(self) -> int:
        """Bytes held, at 8 a position."""
        xp = array_namespace(self.values)
        n_values = int(self.values.shape[0])
        return n_values * xp.finfo(self.values.dtype).bits // 8 + (0 if self.positions is None else 8 * n_values)


def pack(topology: Topology, values: Float[Array, " nnz"], into: Packed | None = None) -> Packed:
    """Return the matrix that stores values at the slots of a topology (KRN-011); this set needs no memory of another.

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology.
    """
    check_values(topology, values)
    return Packed(topology.shape, flat(topology), values)


def pack_dense(weight: Float[Array, "out in"]) -> Packed:
    """Return the matrix that stores every position of weight (KRN-011).

    Raises:
        KernelError: KRN-009, KRN-010 if weight is not a float matrix.
    """
    check_matrix("weight", weight)
    n_out, n_in = weight.shape
    return Packed((n_out, n_in), None, array_namespace(weight).reshape(weight, (-1,)))


def compact(topology: Topology, values: Any, into: Packed | None = None) -> Packed:
    """Return the matrix of topology and 16-bit values, computed with as float32 (KRN-015); this set needs no memory
    of another.

    Shapes  values (nnz,) in slot order
    Dtypes  values bfloat16 or float16, a NumPy array; this set holds them widened

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology or are no 16-bit floats.
    """
    check_compact(topology, values)
    return Packed(topology.shape, flat(topology), from_halves(values, topology.indptr), values.dtype)


def unpack(packed: Packed) -> tuple[Topology, Any]:
    """Return the topology of a compact matrix and its 16-bit values in slot order (KRN-015)."""
    assert packed.held_in is not None, "only compact matrices of this set are unpacked"
    assert packed.positions is not None
    return from_flat(packed.shape, packed.positions), to_halves(packed.values, packed.held_in)


def clear(packed: Packed, where: Int[Array, " m"]) -> Packed:
    """Return a packed matrix with zeros at `where` (KRN-016).

    Raises:
        KernelError: KRN-012 if a place is out of range.
    """
    xp = array_namespace(packed.values)
    return store(packed, where, xp.zeros(where.shape, dtype=packed.values.dtype, device=device(packed.values)))


def locate(packed: Packed | Split, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return where the values of slots lie in packed: the slots, or flat positions if dense (KRN-012).

    Raises:
        KernelError: KRN-012 if a slot is out of range, KRN-009 if the topology has another shape.
    """
    if isinstance(packed, Split):
        return locate(packed.live, topology, slots)
    check_shape(packed.shape, topology)
    check_places("slots", slots, topology.nnz)
    if packed.positions is not None or not slots.shape[0]:
        return slots
    return array_namespace(slots).take(flat(topology), slots)


def store(packed: Any, where: Int[Array, " m"], values: Float[Array, " m"]) -> Any:
    """Return packed with values at `where`; this set leaves its argument alone (KRN-012).

    Raises:
        KernelError: KRN-012 if a place is out of range, KRN-009, KRN-010 if values do not fit.
    """
    if isinstance(packed, Split):
        return Split(packed.frozen, store(packed.live, where, values))
    check_new_values(where, values, packed.values)
    if not where.shape[0]:
        return packed
    xp = array_namespace(values, where)
    order = xp.argsort(where)
    places = xp.arange(packed.values.shape[0], dtype=xp.int64, device=device(where))
    # The standard has no scatter: every place asks whether there is something new for it.
    source, replaced = find(xp.take(where, order), places)
    new = xp.take(xp.take(values, order), source)
    return replace(packed, values=xp.where(replaced, new, packed.values))


def matmul(x: Float[Array, "n in"], packed: Packed | Split) -> Float[Array, "n out"]:
    """Return y = x Wᵀ (KRN-001).

    Raises:
        KernelError: KRN-009, KRN-010 if x does not fit the matrix.
    """
    check_matrix("x", x, packed.shape[1])
    if isinstance(packed, Split):
        return matmul(x, packed.frozen) + matmul(x, packed.live)
    check_alike("x", x, "the packed matrix", packed.values)
    return x @ _dense(packed).T


def matmul_transposed(dy: Float[Array, "n out"], packed: Packed | Split) -> Float[Array, "n in"]:
    """Return dx = dy W (KRN-002).

    Raises:
        KernelError: KRN-009, KRN-010 if dy does not fit the matrix.
    """
    check_matrix("dy", dy, packed.shape[0])
    if isinstance(packed, Split):
        return matmul_transposed(dy, packed.frozen) + matmul_transposed(dy, packed.live)
    check_alike("dy", dy, "the packed matrix", packed.values)
    return dy @ _dense(packed)


def sample(dy: Float[Array, "n out"], x: Float[Array, "n in"], topology: Topology) -> Float[Array, " nnz"]:
    """Return dyᵀ x at the stored positions, in slot order (KRN-003).

    Raises:
        KernelError: KRN-009, KRN-010 if the factors do not fit the topology or each other.
    """
    check_factors(dy, x, topology)
    xp = array_namespace(dy, x)
    if not topology.nnz:
        return xp.zeros((0,), dtype=x.dtype, device=device(x))
    return xp.take(xp.reshape(dy.T @ x, (-1,)), flat(topology))


def exceeding(values: Float[Array, " n"], least: float) -> Int[Array, " m"]:
    """Return the indices of the entries with |value| above `least`, ascending; NaN and infinity are among them
    (KRN-014).

    Raises:
        KernelError: KRN-009, KRN-010 if values are not a float vector.
    """
    check_vector("values", values)
    xp = array_namespace(values)
    return xp.astype(xp.nonzero(~(xp.abs(values) <= least))[0], xp.int64)


def _dense(packed: Packed) -> Float[Array, "out in"]:
    """Return the whole matrix, exactly zero where nothing is stored."""
    xp, values = array_namespace(packed.values), packed.values
    n_out, n_in = packed.shape
    if packed.positions is None:
        return xp.reshape(values, (n_out, n_in))
    if not values.shape[0]:
        return xp.zeros((n_out, n_in), dtype=values.dtype, device=device(values))
    everywhere = xp.arange(n_out * n_in, dtype=xp.int64, device=device(values))
    slot, stored = find(packed.positions, everywhere)
    entries = xp.take(values, slot)
    return xp.reshape(xp.where(stored, entries, xp.zeros_like(entries)), (n_out, n_in))
