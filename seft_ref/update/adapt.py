"""Adapt: the least sensitive weights go until the support fits its budget."""

from collections.abc import Sequence

from seft_ref.arrays.library import Array, array_namespace, mask_at
from seft_ref.topology.csr import difference, flat, outside, per_pool, seek, union
from seft_ref.update.criteria import ADAPT, Chance, Known
from seft_ref.update.delta import overlay
from seft_ref.update.parts import Moved, on_support, select_over
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, smallest_selection


def adapt(
    moved: Sequence[Moved], rule: Rule, chance: Chance, pattern: tuple[int, int] | None, use: int
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions of each part that must leave so that the support fits its budget, ascending, and the
    boundary of their selection: those with the smallest scores, ties to the lower position (ADPT-001, ADPT-002).

    Raises:
        UpdateError: SEL-004 for a NaN or infinite score, SEL-005 if more must leave than may.
    """
    positions, weights, n_counted = [], [], 0
    for m in moved:
        over = overlay(m.base, m.delta)
        support, weight = over.positions, over.weight
        del over
        if rule.counts == "values":
            # ADPT-006: zeros are neither counted nor pruned
            held = weight != 0
            support, weight = support[held], weight[held]
        n_counted += support.shape[0]
        # ADPT-003, ADPT-007
        exempt = {"new": m.fresh, "slots": flat(m.delta.topology), "none": m.fresh[:0]}[rule.exempt]
        open_to = outside(support, exempt)
        weights.append(weight[open_to])
        del weight
        positions.append(support[open_to])
    xp = array_namespace(*positions)
    if rule.scope in ("row", "group"):
        return _in_pools(moved[0], support, positions[0], weights[0], rule, chance, pattern, use)
    excess = n_counted - sum(int(m.part.budget) for m in moved)
    # EVT-005: where nothing leaves, nothing is scored
    if excess <= 0:
        return [p[:0] for p in positions], None
    del support  # before the scores take as much
    scores = [_scores(m, p, w, rule, chance, use) for m, p, w in zip(moved, positions, weights, strict=True)]
    found, boundary = select_over(smallest_selection, scores, positions, [m.part for m in moved], excess, rule)
    return [xp.take(p, chosen) for p, chosen in zip(positions, found, strict=True)], boundary


def _in_pools(
    m: Moved,
    counted: Array,
    positions: Array,
    weight: Array,
    rule: Rule,
    chance: Chance,
    pattern: tuple[int, int] | None,
    use: int,
) -> tuple[list[Array], Boundary | None]:
    """Return what leaves a matrix so that every row or group fits its budget (EVT-009)."""
    xp = array_namespace(positions)
    n_out, n_in = m.base.topology.shape
    width = n_in
    if rule.scope == "group":
        assert pattern is not None, "scope group needs a pattern"
        width = pattern[1]
    n_pools = n_out * (n_in // max(width, 1)) if rule.scope == "group" else n_out
    excess = per_pool(counted, width, n_pools) - m.part.budget
    excess = xp.where(excess > 0, excess, xp.zeros_like(excess))
    if not bool(xp.any(excess > 0)):
        return [positions[:0]], None
    # EVT-005: only pools with something to prune are scored
    pools = positions // max(width, 1)
    busy = xp.take(excess, pools) > 0
    positions, weight, pools = positions[busy], weight[busy], pools[busy]
    scores = _scores(m, positions, weight, rule, chance, use)
    found = smallest_selection(scores, excess, pools)
    return [xp.take(positions, found.indices)], found.boundary


def _scores(m: Moved, positions: Array, weight: Array, rule: Rule, chance: Chance, use: int) -> Array:
    """Return the scores of weights that may be pruned (ADPT-002, ADPT-005)."""
    xp = array_namespace(positions)
    seen = m.part.evidence
    known = Known(weight=weight)
    if rule.adapt == "sensitivity":
        known = Known(weight=weight, gradient=_gradient_at(m, positions, rule))
    elif rule.adapt in ("activation", "curvature"):
        assert seen.inputs is not None, "the rule asks for evidence that was not gathered"
        known = Known(weight=weight, inputs=xp.take(seen.inputs, positions % m.base.topology.shape[1]))
    elif rule.adapt == "random":
        known = Known(uniform=chance.scores(m.part.matrix, positions, use))
    return ADAPT[rule.adapt](known)


def _gradient_at(m: Moved, positions: Array, rule: Rule) -> Array:
    """Return ḡ at positions of the support. Off the support of before W is 0, and so is the sensitivity whatever ḡ."""
    gradient = m.part.evidence.gradient
    if rule.exempt != "new" or rule.counts != "support" or rule.scope in ("row", "group"):
        return on_support(m.part, gradient, positions)
    assert gradient is not None, "the rule asks for evidence that was not gathered"
    # what may be pruned is the support of before less what the drop took out and what is new: few to look up
    gone = difference(m.dropped, m.cancelled)
    if rule.drops == "slot":
        gone = difference(gone, flat(m.base.topology))
    off = union(gone, m.fresh)
    stored, slots = flat(m.part.base.topology), flat(m.part.delta.topology)
    extra = difference(slots, stored)
    (before, in_base), (more, in_delta) = seek(stored, off), seek(extra, off)
    return gradient[~mask_at(stored.shape[0] + extra.shape[0], (before + more)[in_base | in_delta])]
