"""How the base of a matrix is held: in what is multiplied, and opened one matrix at a time.

    base = in_packed(base, packed, kernels)                 # at load: nothing but the packed matrix is kept
    base, packed, where, under = merged(base, delta, kernels)         # b + φ in one packed matrix, 5.2 bytes a weight
    base, packed, where, under = compacted(base, delta, held_in, kernels)       # b in 16 bits, b + φ beside it
    base.open()                                             # positions and numbers, for an event

A delta changes few of the packed numbers, and none for good: what the base stores under its slots is kept beside it. So
the base needs no copy of its own, wherever a kernel set can open what it packed (KRN-017).

Of weights that are stored in 16 bits a sum of two parts is multiplied (KRN-016, CKP-008): the frozen one is the base
with zeros where the delta has slots, the live one holds the effective weights there, as float32.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from seft_ref.arrays.library import (
    Array,
    Dtype,
    NumpyArray,
    array_namespace,
    device,
    from_halves,
    mask_at,
    to_halves,
    with_values,
)
from seft_ref.kernels import KernelSet, Packed
from seft_ref.topology.csr import Located, Topology, find, flat, from_flat
from seft_ref.update.delta import Base, Delta, overlay, support_topology, values_at


@dataclass(frozen=True, slots=True, eq=False)
class PackedBase:
    """The base of one matrix in a packed one; whoever asks for its topology or values opens all of it."""

    packed: Packed
    """stores B, and perhaps other slots; what it holds at the slots does not matter"""
    nnz: int
    slots: Topology
    """η when it was packed"""
    under: Float[Array, " d"]
    """base values under the slots, 0 where the base stores nothing"""
    inside: Bool[Array, " d"]
    """which slots the base stores"""
    kernels: KernelSet

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.packed.shape

    @property
    def numel(self) -> int:
        """Number of positions of the dense matrix."""
        return self.shape[0] * self.shape[1]

    @property
    def held_in(self) -> Dtype | None:
        """The 16-bit dtype of its numbers; None where they have the dtype of computation."""
        return self.packed.held_in

    @property
    def topology(self) -> Topology:
        """Topology B, opened."""
        return self.open().topology

    @property
    def values(self) -> Float[Array, " nnz"]:
        """Values b, opened."""
        return self.open().values

    def open(self) -> Base:
        """Return positions and numbers in the dtype of computation, 8 bytes a weight."""
        topology, values = self.kernels.unpack(self.packed)
        if self.held_in is not None:
            values = from_halves(values, topology.indptr)
        eta = flat(self.slots)
        if not eta.shape[0] or not topology.nnz:
            return Base(topology, values)
        positions = flat(topology)
        topology = Located(topology, positions)
        where, present = find(positions, eta)
        # what was opened is nobody else's
        values = with_values(values, where[present & self.inside], self.under[present & self.inside])
        if topology.nnz == self.nnz:
            return Base(topology, values)
        off = where[present & ~self.inside]
        return Base(topology.without_slots(off), values[~mask_at(topology.nnz, off)])


AnyBase = Base | PackedBase


def in_packed(base: Base, packed: Packed, kernels: KernelSet) -> AnyBase:
    """Return a base as held in the packed matrix that stores its weights and nothing else; as it is, where that cannot
    be opened.
    """
    if not packed.opens:
        return base
    return _without_slots(packed, base.topology, base.values[:0], kernels)


def compact_base(topology: Topology, values: NumpyArray, kernels: KernelSet) -> PackedBase:
    """Return the base of a matrix from its 16-bit values in slot order, with no delta over it.

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology or are no 16-bit floats.
    """
    frozen = kernels.compact(topology, values)
    return _without_slots(frozen, topology, from_halves(values[:0], topology.indptr), kernels)


def merged(
    base: Base, delta: Delta, kernels: KernelSet, *, loaded: Packed | None = None, spent: Packed | None = None
) -> tuple[AnyBase, Packed, Int[Array, " d"], Float[Array, " d"]]:
    """Return a base under a delta, the effective weight packed, the places of the slots, and the base under them
    (DLT-003).

    loaded  the packed base, if it is the effective weight as well: η lies in B and φ is 0
    spent   what the matrix was packed as before, and nobody needs any more: its memory is used if it suffices
    """
    over = overlay(base, delta)
    if loaded is None:
        support = support_topology(base, over, delta)
        packed = kernels.pack(support, over.weight, spent)
    else:
        support, packed = base.topology, loaded
    where = kernels.locate(packed, support, over.slots)
    if not packed.opens:
        if isinstance(base.topology, Located):
            base = Base(base.topology.plain(), base.values)
        return base, packed, where, over.under
    return PackedBase(packed, base.nnz, delta.topology, over.under, over.inside, kernels), packed, where, over.under


def compacted(
    base: Base,
    delta: Delta,
    held_in: Dtype,
    kernels: KernelSet,
    *,
    loaded: Packed | None = None,
    spent: Packed | None = None,
) -> tuple[PackedBase, Packed, Int[Array, " d"], Float[Array, " d"]]:
    """Return a base in 16 bits under a delta, both packed, the places of the slots, and the base under them (DLT-003).

    The numbers of the base are those that 16 bits held, so that none is rounded.

    loaded  the base as it was loaded, if it has not changed since: all but its values is then shared
    spent   what the base was packed as before, with no fewer weights, and nobody needs any more: its memory is used
    """
    eta, stored = flat(delta.topology), flat(base.topology)
    under = values_at(stored, base.values, eta)
    where, inside = find(stored, eta)
    if loaded is not None:
        frozen = kernels.clear(loaded, kernels.locate(loaded, base.topology, where[inside]))
    else:
        off = ~mask_at(base.nnz, where[inside])
        xp = array_namespace(base.values)
        values = xp.where(off, base.values, xp.zeros_like(base.values))
        frozen = kernels.compact(base.topology, to_halves(values, held_in), spent)
    live = kernels.pack(delta.topology, under + delta.values)
    every = array_namespace(eta).arange(eta.shape[0], dtype=eta.dtype, device=device(eta))
    places = kernels.locate(live, delta.topology, every)
    held = PackedBase(frozen, base.topology.nnz, delta.topology, under, inside, kernels)
    return held, kernels.split(frozen, live), places, under


def _without_slots(packed: Packed, topology: Topology, none: Array, kernels: KernelSet) -> PackedBase:
    nothing = flat(topology)[:0]
    return PackedBase(packed, topology.nnz, from_flat(topology.shape, nothing), none, nothing == nothing, kernels)
