"""The kernel set that defines the others, on any array library and device: it makes W dense, then multiplies.

A stored zero takes part like any other value (KRN-004). Rows and columns without stored positions give exactly 0
(KRN-005), and sums of small integers are exact (KRN-007).
"""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, Dtype, array_namespace, device
from seft_ref.errors import KernelError
from seft_ref.kernels import Packed
from seft_ref.kernels.checks import (
    check_alike,
    check_compact,
    check_factors,
    check_matrix,
    check_new_codes,
    check_places,
    check_shape,
    check_stored,
    check_values,
    check_vector,
)
from seft_ref.kernels.held import Coded, Held, New, Stored, held_of, narrowed, widened
from seft_ref.kernels.split import as_own, live_part, multiply_parts, split, with_live_part
from seft_ref.topology.csr import Topology, find, flat, from_flat

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

LAYERS = "plain"
"""The layer set that goes with this set (LYR-018)."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedEntries:
    """A matrix as its stored flat positions and their values."""

    shape: tuple[int, int]
    positions: Int[Array, " nnz"] | None
    """int64, strictly increasing; None where every position is stored."""
    values: Float[Array, " nnz"]
    held_in: Held | None = None
    """16-bit dtype or codes from which a compact matrix was made; None if not compact."""

    @property
    def dtype(self) -> Dtype:
        """Dtype of the values."""
        return self.values.dtype

    @property
    def opens(self) -> bool:
        """Whether `unpack` returns topology and values (KRN-017); in this set only compact matrices open."""
        return self.held_in is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the values and of the positions, which take 8 each."""
        xp = array_namespace(self.values)
        n_values = int(self.values.shape[0])
        return n_values * xp.finfo(self.values.dtype).bits // 8 + (0 if self.positions is None else 8 * n_values)


def pack(topology: Topology, values: Float[Array, " nnz"], into: Packed | None = None) -> PackedEntries:
    """Return the matrix that stores values (nnz,) at the slots of a topology (KRN-011); `into` is not used.

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology.
    """
    check_values(topology, values)
    return PackedEntries(topology.shape, flat(topology), values)


def pack_dense(weight: Float[Array, "out in"]) -> PackedEntries:
    """Return the matrix that stores every position of weight (KRN-011).

    Raises:
        KernelError: KRN-009, KRN-010 if weight is not a float matrix.
    """
    check_matrix("weight", weight)
    n_out, n_in = weight.shape
    return PackedEntries((n_out, n_in), None, array_namespace(weight).reshape(weight, (-1,)))


def compact(topology: Topology, values: Stored, into: Packed | None = None) -> PackedEntries:
    """Return the matrix of topology and 16-bit values or codes, which computes in float32 (KRN-015, KRN-018).

    `into` is not used.

    Shapes  values (nnz,) in slot order
    Dtypes  values bfloat16 or float16, a NumPy array, or codes; this set stores them widened to float32

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology, or are neither 16-bit floats nor codes.
    """
    check_compact(topology, values)
    return PackedEntries(topology.shape, flat(topology), widened(values, topology), held_of(values))


def unpack(packed: Packed) -> tuple[Topology, Stored]:
    """Return the topology of a compact matrix and its 16-bit values or codes in slot order (KRN-015, KRN-018)."""
    entries = as_own(packed, PackedEntries)
    if entries.held_in is None or entries.positions is None:
        raise KernelError("KRN-017", "only compact matrices of this set open; ask `opens` first")
    topology = from_flat(entries.shape, entries.positions)
    return topology, narrowed(entries.values, entries.held_in, topology)


def clear(packed: Packed, where: Int[Array, " m"]) -> Packed:
    """Return a compact matrix with zeros at `where`; packed stays as it was (KRN-016).

    Raises:
        KernelError: KRN-012 if a place is out of range.
    """
    own = as_own(packed, PackedEntries)
    check_places("where", where, own.values.shape[0])
    return _with(own, where, array_namespace(own.values).zeros_like(where, dtype=own.values.dtype))


def locate(packed: Packed, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return the places of CSR slots: here the slots, or their flat positions if packed is dense (KRN-012).

    Raises:
        KernelError: KRN-012 if a slot is out of range, KRN-009 if the topology has another shape.
    """
    check_shape(packed.shape, topology)
    check_places("slots", slots, topology.nnz)
    if live_part(packed, PackedEntries).positions is not None or not slots.shape[0]:
        return slots
    return array_namespace(slots).take(flat(topology), slots)


def store(packed: Packed, where: Int[Array, " m"], values: New) -> Packed:
    """Return packed with values, or with codes if it holds codes, at `where`; this set does not change its argument
    (KRN-012, KRN-018).

    Raises:
        KernelError: KRN-012 if a place is out of range, KRN-009, KRN-010, KRN-018 if values do not fit.
    """
    live = live_part(packed, PackedEntries)
    if isinstance(live.held_in, Coded):
        check_new_codes(where, values, live.held_in, live.values.shape[0], live.values)
        assert live.positions is not None
        topology = from_flat(live.shape, live.positions)
        codes = _placed(live.held_in.holding(topology, live.values).codes, where, values)
        return with_live_part(packed, replace(live, values=live.held_in.at(topology, codes).weights()))
    check_stored(where, values, live.values, live.held_in)
    return with_live_part(packed, _with(live, where, values))


def _with(live: PackedEntries, where: Int[Array, " m"], values: Float[Array, " m"]) -> PackedEntries:
    """Return a matrix with values at `where`."""
    return replace(live, values=_placed(live.values, where, values))


def _placed(stored: Array, where: Int[Array, " m"], values: Array) -> Array:
    """Return a copy of stored (n,) with values (m,) at `where`."""
    if not where.shape[0]:
        return stored
    xp = array_namespace(values, where)
    order = xp.argsort(where)
    places = xp.arange(stored.shape[0], dtype=xp.int64, device=device(where))
    # every place looks up whether it has a new value, because the array API standard has no scatter
    source, replaced = find(xp.take(where, order), places)
    new = xp.take(xp.take(values, order), source)
    return xp.where(replaced, new, stored)


def matmul(x: Float[Array, "n in"], packed: Packed) -> Float[Array, "n out"]:
    """Return y = x Wᵀ (KRN-001).

    Raises:
        KernelError: KRN-009, KRN-010 if x does not fit the matrix.
    """
    check_matrix("x", x, packed.shape[1])
    return multiply_parts(_multiply, x, packed, PackedEntries)


def _multiply(x: Float[Array, "n in"], packed: PackedEntries) -> Float[Array, "n out"]:
    check_alike("x", x, "the packed matrix", packed.values)
    return x @ _dense(packed).T


def matmul_transposed(dy: Float[Array, "n out"], packed: Packed) -> Float[Array, "n in"]:
    """Return dx = dy W (KRN-002).

    Raises:
        KernelError: KRN-009, KRN-010 if dy does not fit the matrix.
    """
    check_matrix("dy", dy, packed.shape[0])
    return multiply_parts(_multiply_transposed, dy, packed, PackedEntries)


def _multiply_transposed(dy: Float[Array, "n out"], packed: PackedEntries) -> Float[Array, "n in"]:
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
    """Return the ascending indices of the entries with |value| > least, NaN and infinity included (KRN-014).

    Raises:
        KernelError: KRN-009, KRN-010 if values are not a float vector.
    """
    check_vector("values", values)
    xp = array_namespace(values)
    # not (|value| <= least), because every comparison with NaN is false
    return xp.astype(xp.nonzero(~(xp.abs(values) <= least))[0], xp.int64)


def _dense(packed: PackedEntries) -> Float[Array, "out in"]:
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
