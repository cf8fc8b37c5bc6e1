"""One event: drop, grow, adapt, in this order, with one gradient (EVT-001, EVT-002).

    events = evolve(parts, pools, n_drop=..., rule=rule)      # one part and one event for each matrix

A call takes the matrices whose scores are compared with each other: all with scope model, else one (EVT-009).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.topology.csr import difference, flat, outside, union
from seft_ref.update.adapt import adapt
from seft_ref.update.criteria import USE_ADAPT, USE_END, Chance
from seft_ref.update.delta import Base, Delta, base_without, move_delta, values_at
from seft_ref.update.drop import drop, replaced
from seft_ref.update.evidence import Evidence, refuse_infinite
from seft_ref.update.grow import grow
from seft_ref.update.parts import Moved, Part
from seft_ref.update.pools import Counts, Pools
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary

__all__ = ["Event", "Part", "Seeds", "evolve", "final_adapt"]

Seeds = Callable[[Array, Array, int], Mapping[str, Array]]
"""The method `seeds` of an optimizer: it returns the state of new slots from ḡ, the mean g² and the window's steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Base and delta of one matrix after an event, and the flat positions that the event changed."""

    base: Base
    delta: Delta
    dropped: Int[Array, " n"]
    grown: Int[Array, " n"]
    """new slots: cancelled positions are not among them"""
    cancelled: Int[Array, " n"]
    pruned: Int[Array, " n"]
    left: Int[Array, " n"]
    """positions that left the base"""
    boundaries: Mapping[str, Boundary | None] = field(default_factory=dict)
    """the boundaries of drop, grow and adapt (SEL-008); the matrices of one pool share them"""


def evolve(
    parts: Sequence[Part],
    pools: Pools,
    *,
    n_drop: Counts,
    rule: Rule = Rule(),  # noqa: B008  frozen
    chance: Chance = Chance(0, 0),  # noqa: B008  frozen
    seeds: Seeds | None = None,
) -> list[Event]:
    """Return each part after one event: drop, grow, adapt (chapter 8).

    Positions that are not dropped, grown or pruned keep their bits, and a base only loses positions (EVT-006). With the
    preset seft the support has at most K positions afterwards, K being the weights stored at load (ADPT-001, EVT-003).

    pools   which scores are compared with each other, and the budgets
    n_drop  slots to drop of each pool (SCH-002)
    chance  source of random scores
    seeds   returns the optimizer state of new slots; needed with moments seeded
    Raises  UpdateError EVT-005 for evidence that is NaN or infinite, SEL-004 for a score that is, SEL-005 for
            impossible counts; the parts are unchanged then
    """
    for part in parts:
        _check_finite(part.evidence)
    dropped, drop_boundary = drop(parts, pools, n_drop, rule, chance)
    grown, grow_boundary = grow(parts, pools, dropped, n_drop, rule)
    moved = []
    for part, gone, come in zip(parts, dropped, grown, strict=True):
        leave = replaced(part, gone, come, pools, rule, chance) if rule.candidates == "first-step" else gone
        moved.append(_move(part, leave, come, rule, seeds))
    if rule.adapts == "always":
        pruned, adapt_boundary = adapt(moved, pools, rule, chance, USE_ADAPT)
    else:
        pruned, adapt_boundary = [m.dropped[:0] for m in moved], None
    boundaries = {"drop": drop_boundary, "grow": grow_boundary, "adapt": adapt_boundary}
    return [_event(m, gone, boundaries) for m, gone in zip(moved, pruned, strict=True)]


def final_adapt(
    parts: Sequence[Part],
    pools: Pools,
    *,
    rule: Rule = Rule(),  # noqa: B008  frozen
    chance: Chance = Chance(0, 0),  # noqa: B008  frozen
) -> list[Event]:
    """Return each part after the pass that follows the last step: pruned to the budget, nothing exempt (EVT-004)."""
    # a rule with scope group cannot say exempt none (EVT-012); no slot is new here, so nothing is exempt anyway
    last = replace(rule, counts="support", exempt="none") if not rule.by_group else rule
    still = []
    for part in parts:
        _check_finite(part.evidence)
        nothing = flat(part.delta.topology)[:0]
        still.append(Moved(part, part.base, part.delta, nothing, nothing, nothing, nothing))
    pruned, boundary = adapt(still, pools, last, chance, USE_END)
    return [_event(m, gone, {"adapt": boundary}) for m, gone in zip(still, pruned, strict=True)]


def _check_finite(evidence: Evidence) -> None:
    """Refuse evidence that is not finite (EVT-005); scores are checked where they are ranked."""
    on_support, on_candidates = (
        (evidence.gradient, evidence.absolute, evidence.square, evidence.tokens),
        (evidence.candidate_gradient, evidence.candidate_square),
    )
    for values in (*on_support, *on_candidates, evidence.inputs):
        if values is not None:
            refuse_infinite(values)


def _move(part: Part, dropped: Array, grown: Array, rule: Rule, seeds: Seeds | None) -> Moved:
    """Return a matrix after drop and grow (GROW-003, DROP-002, DROP-004, DLT-006)."""
    slots = flat(part.delta.topology)
    xp = array_namespace(slots)
    # GROW-003: a position that is both dropped and grown keeps its slot
    cancelled = difference(grown, difference(grown, dropped))
    fresh = difference(grown, slots)
    gone = difference(dropped, cancelled)
    delta = part.delta
    if "origin" in delta.kept:
        # DROP-003: a cancelled slot counts as entering again, with the value that it has now
        again = ~outside(slots, cancelled)
        slot_state = {**delta.kept, "origin": xp.where(again, delta.values, delta.kept["origin"])}
        delta = replace(delta, kept=slot_state)
    start = None
    if rule.moments == "seeded" and fresh.shape[0]:
        evidence = part.evidence
        assert seeds is not None, "moments seeded need an optimizer's seeds"
        assert evidence.candidate_gradient is not None
        assert evidence.candidate_square is not None
        start = seeds(
            values_at(evidence.candidates, evidence.candidate_gradient, fresh),
            values_at(evidence.candidates, evidence.candidate_square, fresh),
            evidence.steps,
        )
    delta = move_delta(delta, union(difference(slots, gone), fresh), start)
    base, removed = part.base, gone[:0]
    if rule.drops == "weight":
        base, removed = base_without(base, gone)
    return Moved(part, base, delta, dropped, fresh, cancelled, removed)


def _event(m: Moved, pruned: Array, boundaries: Mapping[str, Boundary | None]) -> Event:
    """Return the event after removing the pruned positions from base and delta (ADPT-004)."""
    base, removed = base_without(m.base, pruned)
    after = move_delta(m.delta, difference(flat(m.delta.topology), pruned)) if pruned.shape[0] else m.delta
    return Event(
        base=base,
        delta=after,
        dropped=m.dropped,
        grown=m.fresh,
        cancelled=m.cancelled,
        pruned=pruned,
        left=union(m.left, removed),
        boundaries=boundaries,
    )
