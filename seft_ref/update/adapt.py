"""Adapt: the least sensitive weights go until the support fits its budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace, device
from seft_ref.topology import difference, flat, outside, union
from seft_ref.update.criteria import ADAPT, Chance, Known
from seft_ref.update.delta import effective_at
from seft_ref.update.parts import Moved, on_support, select_over
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, smallest_selection


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """Pruned positions, ascending, and the boundary of their selection."""

    positions: Int[Array, " n"]
    boundary: Boundary | None


def sensitivity(gradient: Float[Array, " n"], weight: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return |ḡ · W|, one rounded multiplication a weight (ADPT-002)."""
    return ADAPT["sensitivity"](Known(gradient=gradient, weight=weight))


def adapt(positions: Int[Array, " n"], scores: Float[Array, " n"], excess: int) -> Pruned:
    """Return the positions to prune: those with the smallest scores, ties to the lower position, ascending
    (ADPT-001, ADPT-002).

    Shapes  positions (n,) ascending flat positions that may be pruned; scores (n,) theirs
    Raises  UpdateError SEL-004 for NaN or infinite scores, SEL-005 if the excess is larger than n
    """
    found = smallest_selection(scores, excess)
    return Pruned(array_namespace(positions).take(positions, found.indices), found.boundary)


def excess_of(
    moved: Sequence[Moved], rule: Rule, chance: Chance, pattern: tuple[int, int] | None, use: int
) -> tuple[list[Array], Boundary | None]:
    """Return the positions of each part that must leave so that the support fits its budget (ADPT-001)."""
    positions, weights, counted = [], [], []
    for m in moved:
        support, weight = effective_at(m.base, m.delta)
        if rule.counts == "values":
            # ADPT-006: zeros are neither counted nor pruned
            held = weight != 0
            support, weight = support[held], weight[held]
        counted.append(support)
        # ADPT-003, ADPT-007
        exempt = {"new": m.fresh, "slots": flat(m.delta.topology), "none": m.fresh[:0]}[rule.exempt]
        open_to = outside(support, exempt)
        positions.append(support[open_to])
        weights.append(weight[open_to])
    xp = array_namespace(*positions)
    if rule.scope in ("row", "group"):
        return _in_pools(moved[0], counted[0], positions[0], weights[0], rule, chance, pattern, use)
    excess = sum(c.shape[0] for c in counted) - sum(int(m.part.budget) for m in moved)
    if excess <= 0:
        return [p[:0] for p in positions], None
    scores = [_adapt_scores(m, p, w, rule, chance, use) for m, p, w in zip(moved, positions, weights, strict=True)]
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
    if rule.scope == "row":
        width, n_pools, budget = n_in, n_out, m.part.budget
    else:
        assert pattern is not None, "scope group needs a pattern"
        n_keep, width = pattern
        n_pools = n_out * (n_in // width)
        budget = n_keep
    edges = xp.arange(n_pools + 1, dtype=xp.int64, device=device(positions)) * width
    edges = xp.astype(xp.searchsorted(counted, edges), xp.int64)
    excess = edges[1:] - edges[:-1] - budget
    excess = xp.where(excess > 0, excess, xp.zeros_like(excess))
    if not bool(xp.any(excess > 0)):
        return [positions[:0]], None
    scores = _adapt_scores(m, positions, weight, rule, chance, use)
    # only pools with something to prune are looked at
    pools = positions // max(width, 1)
    busy = xp.take(excess, pools) > 0
    positions, scores, pools = positions[busy], scores[busy], pools[busy]
    found = smallest_selection(scores, excess, pools)
    return [xp.take(positions, found.indices)], found.boundary


def _adapt_scores(m: Moved, positions: Array, weight: Array, rule: Rule, chance: Chance, use: int) -> Array:
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
    seen = m.part.evidence
    if rule.exempt != "new" or rule.counts != "support":
        return on_support(seen, seen.gradient, positions)
    assert seen.gradient is not None, "the rule asks for evidence that was not gathered"
    # what may be pruned is the support of before less what the drop took out and what is new: few to look up
    gone = difference(m.dropped, m.cancelled)
    if rule.drops == "slot":
        gone = difference(gone, flat(m.base.topology))
    return seen.gradient[outside(seen.support, union(gone, m.fresh))]
