"""The state of one target matrix: a base that only shrinks, a delta that moves, and the weight they make together."""

from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace, device, mask_at, spread
from seft_ref.topology import Topology, difference, find, flat, from_flat, merge_order
from seft_ref.update.count import count


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """Pruned base weights: topology B and values b in slot order."""

    topology: Topology
    values: Float[Array, " nnz"]


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """A sparse update: topology η, and per slot the value φ, both moments and the age."""

    topology: Topology
    values: Float[Array, " d"]
    first_moment: Float[Array, " d"]
    second_moment: Float[Array, " d"]
    age: Int[Array, " d"]
    """int32: optimizer steps that the slot has taken."""


def delta_budget(density: float, topology: Topology) -> int:
    """Return the number of delta slots of a matrix with the given base topology (DLT-002)."""
    return min(count(density * topology.shape[0] * topology.shape[1]), topology.nnz)


def new_delta(shape: tuple[int, int], positions: Int[Array, " d"], like: Float[Array, "..."]) -> Delta:
    """Return a delta of zeros at sorted flat positions, in the dtype and on the device of `like` (DLT-005)."""
    xp = array_namespace(positions, like)
    zeros = xp.zeros(positions.shape, dtype=like.dtype, device=device(like))
    return Delta(
        from_flat(shape, positions),
        zeros,
        zeros,
        zeros,
        xp.zeros(positions.shape, dtype=xp.int32, device=device(like)),
    )


def effective(base: Base, delta: Delta) -> tuple[Topology, Float[Array, " s"]]:
    """Return the support S = B ∪ η and the weight b + φ on it, rounded once (DLT-003).

    Shapes  values (nnz of the union,)
    Dtypes  that of the base values
    """
    xp = array_namespace(base.values, delta.values)
    slots = flat(delta.topology)
    stored = flat(base.topology)
    extra = difference(slots, stored)
    order = merge_order(stored, extra)
    support = xp.take(xp.concat([stored, extra]), order)
    under = xp.take(
        xp.concat([base.values, xp.zeros(extra.shape, dtype=base.values.dtype, device=device(base.values))]),
        order,
    )
    where, _ = find(support, slots)
    n = support.shape[0]
    # where there is no slot the base keeps its bits: −0.0 + 0 would be +0.0
    weight = xp.where(mask_at(n, where), under + spread(delta.values, where, n), under)
    return from_flat(base.topology.shape, support), weight


def values_at(topology: Topology, values: Float[Array, " nnz"], positions: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return the values stored at sorted flat positions, 0 where nothing is stored."""
    xp = array_namespace(values, positions)
    zeros = xp.zeros(positions.shape, dtype=values.dtype, device=device(values))
    if topology.nnz == 0:
        return zeros
    where, present = find(flat(topology), positions)
    return xp.where(present, xp.take(values, where), zeros)
