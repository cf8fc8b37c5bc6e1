"""One event: drop, grow, adapt, in this order, with one gradient (EVT-001, EVT-002).

    events = evolve(parts, n_drop=..., rule=rule)      # one part a matrix, one event a part

With scope model all parts are one pool; else each is a world of its own (EVT-009).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Int

from seft_ref.arrays import Array, array_namespace, device
from seft_ref.topology import difference, flat, outside, union
from seft_ref.update.adapt import excess_of
from seft_ref.update.change import TopologyChange, change, realign, without
from seft_ref.update.criteria import DROP, USE_ADAPT, USE_DROP, USE_END, Chance, Known
from seft_ref.update.delta import Base, Delta, effective_at, move_delta, values_at
from seft_ref.update.evidence import Evidence, refuse_infinite
from seft_ref.update.grow import Growable, best_of_groups, growable
from seft_ref.update.parts import Counts, Moved, Part, on_support, select_over
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, largest_selection, smallest_selection

__all__ = ["Event", "Part", "Seeds", "evolve", "final_adapt"]

Seeds = Callable[[Array, Array, int], Mapping[str, Array]]
"""An optimizer's `seeds`"""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """What an event did to a matrix, as flat positions and as changes; base and delta after it."""

    base: Base
    delta: Delta
    base_change: TopologyChange
    delta_change: TopologyChange
    dropped: Int[Array, " n"]
    grown: Int[Array, " n"]
    """new slots: cancelled positions are not among them"""
    cancelled: Int[Array, " n"]
    pruned: Int[Array, " n"]
    left: Int[Array, " n"]
    """positions that left the base"""
    boundaries: Mapping[str, Boundary | None] = field(default_factory=dict)
    """of drop, grow and adapt (SEL-008); those of a pool of matrices are the same for all"""


def evolve(
    parts: Sequence[Part],
    *,
    n_drop: Counts | Sequence[Counts],
    rule: Rule = Rule(),  # noqa: B008  frozen
    chance: Chance = Chance(0, 0),  # noqa: B008  frozen
    pattern: tuple[int, int] | None = None,
    seeds: Seeds | None = None,
) -> list[Event]:
    """Return the event of every part (chapter 8).

    Whatever is neither dropped, grown nor pruned keeps its bits, and a base only loses positions (EVT-006).

    n_drop   slots to drop (SCH-002): one count for each part, or one for the pool with scope model; a count a row
             with scope row
    chance   where random scores come from
    pattern  (N, M) of the groups with scope group
    seeds    what a new slot starts with; needed with moments seeded
    Raises   UpdateError EVT-005 for evidence with NaN or infinity, SEL-005 for impossible counts; nothing has
             changed then
    """
    for part in parts:
        _check_finite(part.evidence)
    if rule.scope == "model":
        return _evolve(parts, n_drop, rule, chance, pattern, seeds)
    counts = list(n_drop) if isinstance(n_drop, Sequence) else [n_drop] * len(parts)
    return [_evolve([part], drops, rule, chance, pattern, seeds)[0] for part, drops in zip(parts, counts, strict=True)]


def final_adapt(
    parts: Sequence[Part],
    *,
    rule: Rule = Rule(),  # noqa: B008  frozen
    chance: Chance = Chance(0, 0),  # noqa: B008  frozen
    pattern: tuple[int, int] | None = None,
) -> list[Event]:
    """Return the pass after the last step: prune to the budget by support, nothing exempt (EVT-004)."""
    last = replace(rule, counts="support", exempt="none") if rule.scope != "group" else rule
    pools = [list(parts)] if rule.scope == "model" and parts else [[part] for part in parts]
    events = []
    for pool in pools:
        still = []
        for part in pool:
            _check_finite(part.evidence)
            nothing = part.evidence.support[:0]
            still.append(Moved(part, part.base, part.delta, nothing, nothing, nothing, nothing))
        pruned, boundary = excess_of(still, last, chance, pattern, USE_END)
        events += [_event(m, gone, {"adapt": boundary}) for m, gone in zip(still, pruned, strict=True)]
    return events


def _evolve(
    parts: Sequence[Part],
    n_drop: Counts,
    rule: Rule,
    chance: Chance,
    pattern: tuple[int, int] | None,
    seeds: Seeds | None,
) -> list[Event]:
    """Return the event of one pool of matrices."""
    slots = [flat(part.delta.topology) for part in parts]
    scores = [_drop_scores(part, at, rule, chance) for part, at in zip(parts, slots, strict=True)]
    found, drop_boundary = select_over(smallest_selection, scores, slots, parts, n_drop, rule)
    dropped = [array_namespace(at).take(at, chosen) for at, chosen in zip(slots, found, strict=True)]

    open_to = [_candidates(part, gone, rule, pattern) for part, gone in zip(parts, dropped, strict=True)]
    n_grow = _growth(parts, slots, open_to, n_drop, rule)
    at = [candidates.positions for candidates in open_to]
    found, grow_boundary = select_over(largest_selection, [c.scores for c in open_to], at, parts, n_grow, rule)
    moved = []
    for part, eta, gone, candidates, chosen in zip(parts, slots, dropped, open_to, found, strict=True):
        grown = array_namespace(chosen).take(candidates.positions, chosen)
        if rule.candidates == "first-step":
            gone = _replaced(part, eta, gone, grown, rule, chance)
        moved.append(_move(part, eta, gone, grown, rule, seeds))

    if rule.adapts == "always":
        pruned, adapt_boundary = excess_of(moved, rule, chance, pattern, USE_ADAPT)
    else:
        pruned, adapt_boundary = [m.dropped[:0] for m in moved], None
    boundaries = {"drop": drop_boundary, "grow": grow_boundary, "adapt": adapt_boundary}
    return [_event(m, gone, boundaries) for m, gone in zip(moved, pruned, strict=True)]


def _check_finite(evidence: Evidence) -> None:
    """Refuse evidence that is not finite (EVT-005)."""
    on_support = (evidence.gradient, evidence.square, evidence.scores)
    on_candidates = (evidence.candidate_gradient, evidence.candidate_square, evidence.candidate_scores)
    for values in (*on_support, *on_candidates, evidence.inputs):
        if values is not None:
            refuse_infinite(values)


def _drop_scores(part: Part, slots: Array, rule: Rule, chance: Chance) -> Array:
    """Return the score of every slot (DROP-003)."""
    known = Known(value=part.delta.values)
    if rule.drop == "change":
        known = Known(value=part.delta.values, origin=part.delta.kept["origin"])
    elif rule.drop == "fisher":
        known = Known(value=part.delta.values, square=on_support(part.evidence, part.evidence.square, slots))
    elif rule.drop == "weight":
        known = Known(weight=values_at(*effective_at(part.base, part.delta), slots))
    elif rule.drop == "random":
        known = Known(uniform=chance.scores(part.matrix, slots, USE_DROP))
    return DROP[rule.drop](known)


def _candidates(part: Part, dropped: Array, rule: Rule, pattern: tuple[int, int] | None) -> Growable:
    """Return what growth may choose from (GROW-001, GROW-005, GROW-007)."""
    if not rule.regrow:
        dropped = dropped[:0]
    elif rule.grow_scope == "active":
        dropped = dropped[~outside(dropped, flat(part.base.topology))]
    if part.evidence.again is not None:
        dropped = dropped[~outside(dropped, part.evidence.again)]
    open_to = growable(part.evidence, dropped)
    if rule.scope == "group":
        assert pattern is not None, "scope group needs a pattern"
        return best_of_groups(open_to, pattern)
    return open_to


def _replaced(part: Part, slots: Array, dropped: Array, grown: Array, rule: Rule, chance: Chance) -> Array:
    """Return which dropped positions leave or are cancelled: where fewer come than go, the strongest of those that do
    not come back stay, so that the delta keeps its size (GROW-006).
    """
    xp = array_namespace(slots)
    back = dropped[~outside(dropped, grown)]
    away = difference(dropped, grown)
    fresh = grown.shape[0] - back.shape[0]
    n_leave = min(away.shape[0], max(0, fresh - (int(part.delta_budget) - slots.shape[0])))
    scores = _drop_scores(part, slots, rule, chance)[~outside(slots, away)]
    return union(back, xp.take(away, smallest_selection(scores, n_leave).indices))


def _growth(
    parts: Sequence[Part], slots: Sequence[Array], open_to: Sequence[Growable], n_drop: Counts, rule: Rule
) -> Counts:
    """Return how many positions grow: those that replace what was dropped, and those that adaptation had taken, at
    most the candidates (GROW-002).
    """
    if rule.scope != "row":
        want = int(n_drop) + sum(int(p.delta_budget) for p in parts) - sum(s.shape[0] for s in slots)
        return min(max(want, 0), sum(c.positions.shape[0] for c in open_to))
    (part,), (at,), (candidates,) = parts, slots, open_to
    xp = array_namespace(at)
    want = n_drop + part.delta_budget - _per_row(at, part)
    return xp.minimum(xp.maximum(want, xp.zeros_like(want)), _per_row(candidates.positions, part))


def _per_row(positions: Array, part: Part) -> Array:
    """Return how many positions each row has."""
    xp = array_namespace(positions)
    n_out, n_in = part.base.topology.shape
    starts = xp.arange(n_out + 1, dtype=xp.int64, device=device(positions)) * n_in
    edges = xp.astype(xp.searchsorted(positions, starts), xp.int64)
    return edges[1:] - edges[:-1]


def _move(part: Part, slots: Array, dropped: Array, grown: Array, rule: Rule, seeds: Seeds | None) -> Moved:
    """Return a matrix after drop and grow (GROW-003, DROP-004, DLT-006)."""
    xp = array_namespace(slots)
    # GROW-003: a position in both keeps its slot
    cancelled = difference(grown, difference(grown, dropped))
    fresh = difference(grown, slots)
    gone = difference(dropped, cancelled)
    delta = part.delta
    if "origin" in delta.kept:
        # DROP-003: a cancelled slot enters anew, with the value it has
        again = ~outside(slots, cancelled)
        kept = {**delta.kept, "origin": xp.where(again, delta.values, delta.kept["origin"])}
        delta = replace(delta, kept=kept)
    start = None
    if rule.moments == "seeded" and fresh.shape[0]:
        seen = part.evidence
        assert seeds is not None, "moments seeded need an optimizer's seeds"
        assert seen.candidate_gradient is not None
        assert seen.candidate_square is not None
        start = seeds(
            values_at(seen.candidates, seen.candidate_gradient, fresh),
            values_at(seen.candidates, seen.candidate_square, fresh),
            seen.steps,
        )
    delta = move_delta(delta, union(difference(slots, gone), fresh), start)
    base, left = part.base, gone[:0]
    if rule.drops == "weight":
        left = gone[~outside(gone, flat(base.topology))]
        lost = without(base.topology, left)
        base = Base(lost.new, realign(base.values, lost))
    return Moved(part, base, delta, dropped, fresh, cancelled, left)


def _event(m: Moved, pruned: Array, boundaries: Mapping[str, Boundary | None]) -> Event:
    """Take the pruned positions out of base and delta (ADPT-004) and record the event."""
    stored = pruned[~outside(pruned, flat(m.base.topology))]
    lost = without(m.base.topology, stored)
    after = move_delta(m.delta, difference(flat(m.delta.topology), pruned)) if pruned.shape[0] else m.delta
    base = replace(m.base, topology=lost.new, values=realign(m.base.values, lost))
    return Event(
        base=base,
        delta=after,
        base_change=lost if m.base is m.part.base else change(m.part.base.topology, base.topology),
        delta_change=change(m.part.delta.topology, after.topology),
        dropped=m.dropped,
        grown=m.fresh,
        cancelled=m.cancelled,
        pruned=pruned,
        left=union(m.left, stored),
        boundaries=boundaries,
    )
