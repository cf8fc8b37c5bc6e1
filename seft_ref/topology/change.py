"""A change of topology as a value, and `realign`, which moves arrays from the old slots to the new ones."""

from dataclasses import dataclass

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.errors import UpdateError
from seft_ref.topology.csr import Topology, find, flat


@dataclass(frozen=True, slots=True, eq=False)
class TopologyChange:
    """Old topology, new topology, and where each new slot comes from (CHG-001)."""

    old: Topology
    new: Topology
    source: Int[Array, " nnz_new"]
    """int64: the old slot at the same position, −1 where the position is new."""


def change(old: Topology, new: Topology) -> TopologyChange:
    """Return the change from one topology to another of the same matrix (CHG-001)."""
    xp = array_namespace(old.indices, new.indices)
    slots, present = find(flat(old), flat(new))
    return TopologyChange(old, new, xp.where(present, slots, -xp.ones_like(slots)))


def realign(array: Array, moved: TopologyChange, fill: float = 0) -> Array:
    """Return an array of the old slots as an array of the new ones; new slots hold fill (CHG-002).

    Shapes  array (nnz_old,); result (nnz_new,)
    Dtypes  any; kept
    Raises  UpdateError CHG-002 if the array does not have one entry an old slot
    """
    xp = array_namespace(array, moved.source)
    if array.shape[0] != moved.old.nnz:
        raise UpdateError("CHG-002", f"the array has {array.shape[0]} entries, the old topology {moved.old.nnz} slots")
    has_source = moved.source >= 0
    filled = xp.full(moved.source.shape, fill, dtype=array.dtype, device=device(array))
    if array.shape[0] == 0:
        return filled
    return xp.where(has_source, xp.take(array, xp.where(has_source, moved.source, xp.zeros_like(moved.source))), filled)
