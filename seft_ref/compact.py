"""A base that is held in the 16 bits it was stored in, 3.2 bytes a weight, and opened one matrix at a time (CKP-008).

    bases[name] = compact_base(topology, values, kernels)     # 16-bit values, as a file has them
    base = bases[name].open()                                 # positions and float32 numbers, for an event
    target, packed = compacted(target, kernels)

What is multiplied is the sum of two parts (KRN-016): the frozen one is the base with zeros where the delta has slots,
the live one holds the effective weights there, as float32. No copy of the model with the delta merged in exists.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace, from_halves, int64_like, mask_at, spread, to_halves
from seft_ref.kernels import Kernels, Packed
from seft_ref.topology import Topology, find, flat, from_flat
from seft_ref.update.delta import Base, Delta, values_at


@dataclass(frozen=True, slots=True, eq=False)
class CompactBase:
    """The base of one matrix in 16 bits; whoever asks for its topology or values opens all of it."""

    frozen: Packed
    """zero at the slots"""
    nnz: int
    slots: Topology
    """η when it was packed"""
    under: Float[Array, " d"]
    """base values under the slots, 0 where the base stores nothing"""
    kernels: Kernels

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.frozen.shape

    @property
    def numel(self) -> int:
        """Number of positions of the dense matrix."""
        return self.shape[0] * self.shape[1]

    @property
    def held_in(self) -> Any:
        """The 16-bit dtype."""
        return self.frozen.held_in

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
        topology, held = self.kernels.unpack(self.frozen)
        values = from_halves(held, topology.indptr)
        eta = flat(self.slots)
        if not eta.shape[0] or not topology.nnz:
            return Base(topology, values)
        where, present = find(flat(topology), eta)
        xp = array_namespace(values)
        own, under = where[present], self.under[present]
        fresh = spread(under, own, topology.nnz)
        return Base(topology, xp.where(mask_at(topology.nnz, own), fresh, values))


def compact_base(topology: Topology, values: Any, kernels: Kernels) -> CompactBase:
    """Return the base of a matrix from its 16-bit values in slot order, with no delta over it.

    Raises:
        KernelError: KRN-009, KRN-010 if values do not fit the topology or are no 16-bit floats.
    """
    frozen = kernels.compact(topology, values)
    nothing = flat(topology)[:0]
    none = from_halves(values[:0], topology.indptr)
    return CompactBase(frozen, topology.nnz, from_flat(topology.shape, nothing), none, kernels)


def compacted(
    base: Base,
    delta: Delta,
    held_in: Any,
    kernels: Kernels,
    *,
    loaded: Packed | None = None,
    spent: Packed | None = None,
) -> tuple[CompactBase, Packed, Int[Array, " d"], Float[Array, " d"]]:
    """Return a base in 16 bits under a delta, both packed, the places of the slots, and the base under them (DLT-003).

    The numbers of the base are those that 16 bits held, so that none is rounded.

    loaded  the base as it was loaded, if it has not changed since: all but its values is then shared
    spent   what the matrix was packed as before, with no fewer weights, and nobody needs any more: its memory is used
    """
    eta, stored = flat(delta.topology), flat(base.topology)
    under = values_at(stored, base.values, eta)
    where, present = find(stored, eta)
    if loaded is not None:
        frozen = kernels.clear(loaded, kernels.locate(loaded, base.topology, where[present]))
    else:
        off = ~mask_at(base.nnz, where[present])
        xp = array_namespace(base.values)
        values = xp.where(off, base.values, xp.zeros_like(base.values))
        frozen = kernels.compact(base.topology, to_halves(values, held_in), spent)
    live = kernels.pack(delta.topology, under + delta.values)
    places = kernels.locate(live, delta.topology, int64_like(range(eta.shape[0]), eta))
    held = CompactBase(frozen, base.topology.nnz, delta.topology, under, kernels)
    return held, kernels.split(frozen, live), places, under
