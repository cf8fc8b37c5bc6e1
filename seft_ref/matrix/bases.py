"""Where the base of a matrix is stored: in the packed matrix, from which it is unpacked one matrix at a time.

    base = in_packed(base, packed, kernels)                 # at load: only the packed matrix is kept
    base, packed, where, under = merged(base, delta, kernels)         # b + φ in one packed matrix, 5.2 bytes a weight
    base, packed, where, under = compacted(base, delta, held_in, kernels)       # b as it is stored, b + φ beside it
    base.open()                                             # positions and numbers, for an event

The packed matrix holds b + φ at the slots of a delta and b elsewhere. `under` keeps b at the slots, which are few.
So a base needs no copy of its own, wherever the kernel set can unpack what it packed (KRN-017).

A base in 16 bits, or in codes, is multiplied as the sum of two parts (KRN-016, CKP-008). The frozen part is the base
with zeros at the slots of the delta. The live part holds the effective weights of the slots, as float32.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from seft_ref.arrays.library import Array, array_namespace, device, with_values
from seft_ref.arrays.sorted import without
from seft_ref.kernels import KernelSet, Packed
from seft_ref.kernels.held import Coded, Held, Stored, as_multiplied, as_new, narrowed, widened
from seft_ref.topology.csr import Located, Topology, find, flat, from_flat, union
from seft_ref.update.delta import Base, Delta, new_delta, overlay, support_topology, values_where


@dataclass(frozen=True, slots=True, eq=False)
class PackedBase:
    """The base of one matrix, stored in a packed matrix; each read of `topology` or `values` unpacks all of it."""

    packed: Packed
    """B ∪ η with effective weights; or, if it is compact, B with zeros at `slots`"""
    nnz: int
    """number of positions of B"""
    slots: Topology
    """η when the matrix was packed, and the positions of `beside`"""
    under: Float[Array, " d"]
    """base values under the slots, 0 where the base stores nothing"""
    inside: Bool[Array, " d"]
    """whether the base stores the position of each slot"""
    kernels: KernelSet
    beside: Int[Array, " n"] | None = None
    """flat positions of B whose weights no code represents exactly, ascending; None if there are none"""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.packed.shape

    @property
    def numel(self) -> int:
        """Number of positions of the dense matrix."""
        return self.shape[0] * self.shape[1]

    @property
    def held_in(self) -> Held | None:
        """16-bit dtype or codes in which the base is stored; None for the dtype of computation."""
        return self.packed.held_in

    @property
    def topology(self) -> Topology:
        """Topology B, unpacked."""
        return self.open().topology

    @property
    def values(self) -> Float[Array, " nnz"]:
        """Values b, unpacked."""
        return self.open().values

    def open(self) -> Base:
        """Return the base unpacked, in the dtype of computation: 8 bytes a weight in float32."""
        topology, values = self.kernels.unpack(self.packed)
        if self.held_in is not None:
            values = widened(values, topology)
        eta = flat(self.slots)
        if not eta.shape[0] or not topology.nnz:
            return Base(topology, values)
        topology = Located(topology)
        base_slots, present = topology.seek_slots(self.slots)
        # `unpack` returned fresh arrays, so writing into them is safe
        values = with_values(values, base_slots[present & self.inside], self.under[present & self.inside])
        if topology.nnz == self.nnz:
            return Base(topology, values)
        off = base_slots[present & ~self.inside]
        return Base(topology.without_slots(off), without(values, off))


AnyBase = Base | PackedBase


def beside_of(base: AnyBase) -> Int[Array, " n"] | None:
    """Return the flat positions of weights that stand beside codes; None if there are none."""
    return base.beside if isinstance(base, PackedBase) else None


def in_packed(base: Base, packed: Packed, kernels: KernelSet) -> AnyBase:
    """Return the base as a view of the packed matrix that stores exactly its weights; the base itself if that matrix
    cannot be unpacked.
    """
    if not packed.opens:
        return base
    return _without_slots(packed, base.topology, base.values[:0], kernels)


def compact_base(topology: Topology, values: Stored, kernels: KernelSet) -> PackedBase:
    """Return a base without a delta from 16-bit values (nnz,) in slot order, or from codes.

    Raises:
        KernelError: KRN-009, KRN-010, KRN-018 if values do not fit the topology, or the set does not hold them.
    """
    frozen = kernels.compact(topology, values)
    xp = array_namespace(topology.indptr)
    none = xp.zeros((0,), dtype=xp.float32, device=device(topology.indptr))
    return _without_slots(frozen, topology, none, kernels)


def coded_base(base: Base, codes: Coded, kernels: KernelSet) -> tuple[PackedBase, Packed]:
    """Return a base that is stored as codes and has no delta, and the matrix that is multiplied.

    Weights that no code represents exactly are stored beside the codes.

    codes   the codes of this matrix
    Raises  KernelError KRN-018 if the set does not hold them
    """
    beside = not_held(base, codes)
    if not beside.shape[0]:
        packed_base = compact_base(base.topology, codes.holding(base.topology, base.values), kernels)
        return packed_base, packed_base.packed
    nothing = new_delta(base.topology.shape, flat(base.topology)[:0], base.values)
    packed_base, packed, _, _ = compacted(base, nothing, codes, kernels, beside=beside)
    return packed_base, packed


def not_held(base: Base, held_in: Held) -> Int[Array, " n"]:
    """Return the flat positions, ascending, of base weights that `held_in` does not hold bit for bit (CKP-008.2)."""
    xp, positions, values = array_namespace(base.values), flat(base.topology), base.values
    if not isinstance(held_in, Coded):
        return positions[:0]  # 16 bits hold all values of such a base, because they were read from 16 bits
    rounded = widened(narrowed(values, held_in, base.topology), base.topology)
    # −0.0 is tested apart, because no code stands for it and it compares equal to 0
    return positions[(rounded != values) | ((values == 0) & xp.signbit(values))]


def merged(
    base: Base, delta: Delta, kernels: KernelSet, *, loaded: Packed | None = None, spent: Packed | None = None
) -> tuple[AnyBase, Packed, Int[Array, " d"], Float[Array, " d"]]:
    """Return the base stored in the packed effective weight, that weight, and for the slots of the delta their places
    and the base values under them (DLT-003).

    loaded  the packed base, where it is the effective weight too, because η lies in B and φ is 0
    spent   an earlier packed matrix that nobody needs any more; its memory is reused if it suffices
    """
    over = overlay(base, delta)
    if loaded is None:
        support = support_topology(base, over)
        packed = kernels.pack(support, over.weight, spent)
    else:
        support, packed = base.topology, loaded
    places = kernels.locate(packed, support, over.slots)
    if not packed.opens:
        if isinstance(base.topology, Located):
            base = Base(base.topology.plain(), base.values)
        return base, packed, places, over.under
    return PackedBase(packed, base.nnz, delta.topology, over.under, over.inside, kernels), packed, places, over.under


def with_moved_slots(
    before: PackedBase, base: Base, delta: Delta
) -> tuple[PackedBase, Packed, Int[Array, " d"], Float[Array, " d"]] | None:
    """Return what `merged` or `compacted` returns after an event that has only moved slots within B (DLT-003, KRN-016).

    The matrix keeps its layout: only values at old and new slots are stored, in the memory of `before`. The result is
    None if the event has changed B, if a slot lies outside B, or if some weights are stored beside codes (QNT-006).

    base   `before`, opened, after the event
    delta  η after the event
    """
    topology, held_in = base.topology, before.held_in
    places, inside = topology.seek_slots(delta.topology)
    xp = array_namespace(places)
    # a base only loses positions, so one with as many as before has the same
    same = base.nnz == before.nnz and bool(xp.all(before.inside)) and bool(xp.all(inside))
    if not same or before.beside is not None:
        return None
    kernels, under = before.kernels, xp.take(base.values, places)
    old = kernels.locate(before.packed, topology, topology.seek(flat(before.slots))[0])
    new = kernels.locate(before.packed, topology, places)
    effective = as_multiplied(under + delta.values, held_in, delta.topology)
    if held_in is None:
        packed = kernels.store(kernels.store(before.packed, old, before.under), new, effective)
        return PackedBase(packed, base.nnz, delta.topology, under, inside, kernels), packed, new, under
    back = as_new(before.under, held_in, before.slots)
    none = as_new(xp.zeros_like(under), held_in, delta.topology)
    frozen = kernels.store(kernels.store(before.packed, old, back), new, none)
    live = kernels.pack(delta.topology, effective)
    where = kernels.locate(live, delta.topology, xp.arange(under.shape[0], dtype=xp.int64, device=device(under)))
    packed_base = PackedBase(frozen, base.nnz, delta.topology, under, inside, kernels)
    return packed_base, kernels.split(frozen, live), where, under


def compacted(
    base: Base,
    delta: Delta,
    held_in: Held,
    kernels: KernelSet,
    *,
    beside: Int[Array, " n"] | None = None,
    loaded: Packed | None = None,
    spent: Packed | None = None,
) -> tuple[PackedBase, Packed, Int[Array, " d"], Float[Array, " d"]]:
    """Return the same as `merged` for a base in 16 bits or codes: the packed weight is a sum of two parts (DLT-003,
    KRN-016).

    The values of the base were read from 16 bits or codes, so converting them back is exact. Weights beside codes
    (QNT-006) are the exception; they are in the live part, together with the weights at the slots.

    beside  flat positions of weights that no code represents exactly; those outside B are ignored; None for none
    loaded  the packed base as it was loaded, if it has not changed since; everything but its values is shared
    spent   an earlier packed base with no fewer weights that nobody needs any more; its memory is reused
    """
    eta, slots = flat(delta.topology), delta.topology
    xp = array_namespace(eta)
    of_eta = xp.arange(eta.shape[0], dtype=eta.dtype, device=device(eta))
    if beside is not None:
        beside = beside[base.topology.seek(beside)[1]]
        beside = beside if beside.shape[0] else None
    if beside is not None:
        # the loaded matrix has weights in its live part, so it cannot become the frozen one
        positions, loaded = union(eta, beside), None
        slots = from_flat(base.topology.shape, positions)
        of_eta, _ = find(positions, eta)
    base_slots, inside = base.topology.seek_slots(slots)
    under_slots = values_where(base.values, base_slots, inside)
    under = under_slots if beside is None else xp.take(under_slots, of_eta)
    if loaded is not None:
        frozen = kernels.clear(loaded, kernels.locate(loaded, base.topology, base_slots[inside]))
    else:
        copy = xp.asarray(base.values, copy=True)
        values = with_values(copy, base_slots[inside], xp.zeros_like(under_slots[inside]))
        frozen = kernels.compact(base.topology, narrowed(values, held_in, base.topology), spent)
    effective = as_multiplied(under + delta.values, held_in, delta.topology)
    # a copy, because `with_values` may overwrite its argument
    live = kernels.pack(slots, with_values(xp.asarray(under_slots, copy=True), of_eta, effective))
    places = kernels.locate(live, slots, of_eta)
    packed_base = PackedBase(frozen, base.topology.nnz, slots, under_slots, inside, kernels, beside)
    return packed_base, kernels.split(frozen, live), places, under


def _without_slots(packed: Packed, topology: Topology, none: Array, kernels: KernelSet) -> PackedBase:
    xp = array_namespace(topology.indptr)
    nothing = xp.zeros((0,), dtype=xp.int64, device=device(topology.indptr))
    return PackedBase(packed, topology.nnz, from_flat(topology.shape, nothing), none, nothing == nothing, kernels)
