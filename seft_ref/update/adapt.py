"""Adapt: the least sensitive weights go until every pool fits its budget."""

from collections.abc import Sequence

from seft_ref.arrays.library import Array, array_namespace, mask_at
from seft_ref.topology.csr import difference, flat, outside, seek, union
from seft_ref.update.criteria import ADAPT, Chance, Known
from seft_ref.update.delta import overlay
from seft_ref.update.parts import Moved, on_support
from seft_ref.update.pools import Pools
from seft_ref.update.rules import ON_SUPPORT, Rule
from seft_ref.update.select import Boundary


def adapt(
    moved: Sequence[Moved], pools: Pools, rule: Rule, chance: Chance, use: int
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions of each part that must leave so that every pool fits its budget, ascending, and the
    boundary of their selection: those with the smallest scores, ties to the lower position (ADPT-001, ADPT-002).

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
        open_to = outside(support, exempt)
        weights.append(weight[open_to])
        del weight
        positions.append(support[open_to])
        del support  # before the scores take as much
    excess = pools.excess(counted)
    xp = array_namespace(excess)
    # EVT-005: where nothing leaves, nothing is scored
    if not bool(xp.any(excess > 0)):
        return [p[:0] for p in positions], None
    if not pools.weights.is_one:
        crowded = xp.take(excess, pools.weights.of(positions[0])) > 0
        positions, weights = [positions[0][crowded]], [weights[0][crowded]]
    scores = [_scores(m, pools, p, w, rule, chance, use) for m, p, w in zip(moved, positions, weights, strict=True)]
    found, boundary = pools.weights.select(scores, positions, excess)
    return [xp.take(p, chosen) for p, chosen in zip(positions, found, strict=True)], boundary


def _scores(m: Moved, pools: Pools, positions: Array, weight: Array, rule: Rule, chance: Chance, use: int) -> Array:
    """Return the scores of weights that may be pruned (ADPT-002, ADPT-005)."""
    xp = array_namespace(positions)
    seen = m.part.evidence
    known = Known(weight=weight)
    if rule.adapt in ON_SUPPORT:
        name = ON_SUPPORT[rule.adapt]
        known = Known(weight=weight, **{name: _evidence_at(m, pools, positions, rule, getattr(seen, name))})
    elif rule.adapt in ("activation", "curvature"):
        assert seen.inputs is not None, "the rule asks for evidence that was not gathered"
        known = Known(weight=weight, inputs=xp.take(seen.inputs, positions % m.base.topology.shape[1]))
    elif rule.adapt == "random":
        known = Known(uniform=chance.scores(m.part.matrix, positions, use))
    return ADAPT[rule.adapt](known)


def _evidence_at(m: Moved, pools: Pools, positions: Array, rule: Rule, known: Array | None) -> Array:
    """Return evidence at positions of the support. Nothing is known of a position that has just come back; its weight
    is 0, and so is its score whatever stands here.
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
    return known[~mask_at(stored.shape[0] + extra.shape[0], (before + more)[in_base | in_delta])]
