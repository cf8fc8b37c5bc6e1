"""One event of one matrix: drop, grow, adapt, in this order, with one gradient (EVT-001, EVT-002)."""

from dataclasses import dataclass, replace

from jaxtyping import Int

from seft_ref.arrays import Array, array_namespace
from seft_ref.errors import UpdateError
from seft_ref.topology import difference, flat, from_flat, outside, union
from seft_ref.update.adapt import adapt, sensitivity
from seft_ref.update.change import TopologyChange, change, realign, without
from seft_ref.update.delta import Base, Delta, effective
from seft_ref.update.drop import drop
from seft_ref.update.grow import GradientSnapshot, GrowScope, candidates_again, grow


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """What an event did, as flat positions and as changes; base and delta after it."""

    base: Base
    delta: Delta
    base_change: TopologyChange
    delta_change: TopologyChange
    dropped: Int[Array, " n"]
    grown: Int[Array, " n"]
    """new slots: cancelled positions are not among them"""
    cancelled: Int[Array, " n"]
    pruned: Int[Array, " n"]


def evolve(
    base: Base,
    delta: Delta,
    snapshot: GradientSnapshot,
    *,
    n_drop: int,
    delta_budget: int,
    budget: int,
    grow_scope: GrowScope = "anywhere",
    adapts: bool = True,
) -> Event:
    """Return the event that drops n_drop slots, grows back to delta_budget, and prunes to budget (chapter 8).

    A support within its budget stays there (EVT-003). Whatever is neither dropped, grown nor pruned keeps its bits,
    and the base only loses positions (EVT-006); a dropped slot takes φ with it and leaves the base value (DROP-002).

    Shapes  all arrays of one (out, in) matrix
    Units   the snapshot is loss per unit of weight, mean over counted targets
    Raises  UpdateError EVT-005 for a snapshot with NaN or infinity, SEL-005 for impossible counts; nothing has
            changed then
    """
    xp = array_namespace(base.values, delta.values)
    # EVT-005
    for gradient in (snapshot.support_gradient, snapshot.candidate_gradient):
        if not bool(xp.all(xp.isfinite(gradient))):
            raise UpdateError(
                "EVT-005", "the gradient of this event holds NaN or infinity; lower the learning rate or clip"
            )
    slots = flat(delta.topology)

    dropped = xp.take(slots, drop(delta.values, n_drop))
    kept = difference(slots, dropped)
    # GROW-002: replace what was dropped and refill what adaptation had taken
    again = candidates_again(dropped, flat(base.topology), grow_scope)
    grown = grow(snapshot, again, n_drop + (delta_budget - slots.shape[0]))
    # GROW-003: a position in both keeps its slot
    cancelled = difference(grown, difference(grown, dropped))
    fresh = difference(grown, cancelled)
    evolved = move_delta(delta, union(kept, grown))

    # ADPT-003: fresh slots are exempt, cancelled ones are not
    pruned = _excess_positions(base, evolved, snapshot, dropped, fresh, budget) if adapts else dropped[:0]
    return _event(base, delta, evolved, dropped, fresh, cancelled, pruned)


def final_adapt(base: Base, delta: Delta, snapshot: GradientSnapshot, *, budget: int) -> Event:
    """Return the pass after the last step: prune to the budget, nothing exempt (EVT-004)."""
    nothing = snapshot.support[:0]
    return _event(
        base,
        delta,
        delta,
        nothing,
        nothing,
        nothing,
        _excess_positions(base, delta, snapshot, nothing, nothing, budget),
    )


def move_delta(delta: Delta, positions: Int[Array, " n"]) -> Delta:
    """Return the delta on other sorted flat positions: slots that stay keep everything, new ones start from
    zero (CHG-002, DLT-005).
    """
    moved = change(delta.topology, from_flat(delta.topology.shape, positions))
    return Delta(
        moved.new,
        realign(delta.values, moved),
        realign(delta.first_moment, moved),
        realign(delta.second_moment, moved),
        realign(delta.age, moved),
    )


def _excess_positions(
    base: Base,
    delta: Delta,
    snapshot: GradientSnapshot,
    dropped: Int[Array, " k"],
    exempt: Int[Array, " n"],
    budget: int,
) -> Int[Array, " m"]:
    """Return the positions that must leave so that the support fits its budget (ADPT-001)."""
    topology, weight = effective(base, delta)
    support = flat(topology)
    excess = max(0, support.shape[0] - budget)
    if excess == 0:
        return support[:0]
    prunable = outside(support, exempt)
    # what may be pruned was stored before the event too: the old support less the exempt and what the drop took out
    gone = union(difference(dropped, support), exempt)
    gradient = snapshot.support_gradient[outside(snapshot.support, gone)]
    return adapt(support[prunable], sensitivity(gradient, weight[prunable]), excess)


def _event(
    base: Base, before: Delta, evolved: Delta, dropped: Array, fresh: Array, cancelled: Array, pruned: Array
) -> Event:
    """Take the pruned positions out of base and delta (ADPT-004) and record the event."""
    base_change = without(base.topology, pruned)
    after = move_delta(evolved, difference(flat(evolved.topology), pruned))
    return Event(
        base=replace(base, topology=base_change.new, values=realign(base.values, base_change)),
        delta=after,
        base_change=base_change,
        delta_change=change(before.topology, after.topology),
        dropped=dropped,
        grown=fresh,
        cancelled=cancelled,
        pruned=pruned,
    )
