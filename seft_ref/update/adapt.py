"""Adapt: prune the weights with the smallest scores until every pool fits its budget (ADPT-001)."""

from collections.abc import Sequence

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.arrays.sorted import seek, without
from seft_ref.topology.csr import difference, find, flat, union
from seft_ref.update.criteria import ADAPT, Chance, Known
from seft_ref.update.delta import overlay
from seft_ref.update.parts import Moved, on_support
from seft_ref.update.pools import Pools
from seft_ref.update.rules import ON_SUPPORT, Rule
from seft_ref.update.select import Boundary


def adapt(
    moved: Sequence[Moved], pools: Pools, rule: Rule, chance: Chance, use: int
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions that each part must lose to fit the budgets, ascending, and the selection's boundary.

    The positions with the smallest scores leave, of equal scores the lower position (ADPT-001, ADPT-002).
    Nothing is selected, and the boundary is None, where every pool fits its budget already.

    use  last word of the key of random scores, `USE_ADAPT` or `USE_END` (RNG-003)

    Raises:
        UpdateError: SEL-004 for a NaN or infinite score, SEL-005 if more must leave than may.
    """
    positions, weights, counted = [], [], []
    for m in moved:
        over = overlay(m.base, m.delta)
        support, weight = over.positions, over.weight
        del over
        if rule.counts == "values":
            # ADPT-006: zeros are neither counted nor pruned
            held = weight != 0
            support, weight = support[held], weight[held]
        counted.append(pools.weights.sizes([support]))
        # ADPT-003, ADPT-007
        exempt = {"new": m.fresh, "slots": flat(m.delta.topology), "none": m.fresh[:0]}[rule.exempt]
        places, present = find(support, exempt)
        spared = places[present]
        weights.append(without(weight, spared))
        del weight
        positions.append(without(support, spared))
        del support  # free it first, because the scores take as much memory
    excess = pools.excess(counted)
    xp = array_namespace(excess)
    # EVT-005: scores are ranked, and refused, only where something must leave
    if not bool(xp.any(excess > 0)):
        return [p[:0] for p in positions], None
    if not pools.weights.is_one:
        crowded = xp.take(excess, pools.weights.of(positions[0])) > 0
        positions, weights = [positions[0][crowded]], [weights[0][crowded]]
    scores = [_scores(m, pools, p, w, rule, chance, use) for m, p, w in zip(moved, positions, weights, strict=True)]
    selected, boundary = pools.weights.select(scores, positions, excess)
    return [xp.take(p, chosen) for p, chosen in zip(positions, selected, strict=True)], boundary


def _scores(m: Moved, pools: Pools, positions: Array, weight: Array, rule: Rule, chance: Chance, use: int) -> Array:
    """Return the scores of weights that may be pruned (ADPT-002, ADPT-005)."""
    xp = array_namespace(positions)
    evidence = m.part.evidence
    operands = Known(weight=weight)
    if rule.adapt in ON_SUPPORT:
        name = ON_SUPPORT[rule.adapt]
        operands = Known(weight=weight, **{name: _evidence_at(m, pools, positions, rule, getattr(evidence, name))})
    elif rule.adapt in ("activation", "curvature"):
        assert evidence.inputs is not None, "the rule asks for evidence that was not gathered"
        operands = Known(weight=weight, inputs=xp.take(evidence.inputs, positions % m.base.topology.shape[1]))
    elif rule.adapt == "random":
        operands = Known(uniform=chance.scores(m.part.matrix, positions, use))
    return ADAPT[rule.adapt](operands)


def _evidence_at(m: Moved, pools: Pools, positions: Array, rule: Rule, known: Array | None) -> Array:
    """Return one entry of evidence per position, 0 where the support before the event had no such position.

    Such a position has just come back: its weight is 0, and so is its score whatever the entry.
    """
    if rule.exempt != "new" or rule.counts != "support" or not pools.weights.is_one:
        return on_support(m.part, known, positions)
    assert known is not None, "the rule asks for evidence that was not gathered"
    # prunable = old support − dropped − new. Both are few, so look them up instead of every prunable position
    gone = difference(m.dropped, m.cancelled)
    if rule.drops == "slot":
        gone = difference(gone, flat(m.base.topology))
    off = union(gone, m.fresh)
    stored, slots = flat(m.part.base.topology), flat(m.part.delta.topology)
    extra = difference(slots, stored)
    (before, in_base), (more, in_delta) = seek(stored, off), seek(extra, off)
    return without(known, (before + more)[in_base | in_delta])
