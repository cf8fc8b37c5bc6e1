"""Adapt: prune the weights with the smallest scores until every pool fits its budget (ADPT-001)."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, int64_like
from seft_ref.arrays.sorted import places_before, seek, without
from seft_ref.topology.csr import difference, find, flat, union
from seft_ref.update.criteria import ADAPT, Chance, Known
from seft_ref.update.delta import Overlay, overlay
from seft_ref.update.parts import Moved, on_support
from seft_ref.update.pools import Counts, Pools
from seft_ref.update.rules import ON_SUPPORT, Rule
from seft_ref.update.select import Boundary


@dataclass(frozen=True, slots=True, eq=False)
class _Prunable:
    """The weights of one matrix that may be pruned, in order of position: its support without the spared positions."""

    over: Overlay
    spared: Int[Array, " n"]
    """indices in the support, ascending"""
    support: Int[Array, " s"] | None
    """flat positions of the support; None if all weights are one pool, because that needs only a few of them"""

    def weights(self) -> Array:
        """Return the effective weights."""
        return without(self.over.weight, self.spared)

    def positions(self) -> Int[Array, " p"]:
        """Return the flat positions."""
        return without(self.over.positions() if self.support is None else self.support, self.spared)

    def positions_at(self, indices: Int[Array, " k"]) -> Int[Array, " k"]:
        """Return the flat positions of the prunable weights at these indices, without computing those of all."""
        return self.over.positions_at(places_before(self.spared, indices))


def adapt(
    moved: Sequence[Moved], pools: Pools, rule: Rule, chance: Chance, use: int
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions that each part must lose to fit the budgets, ascending, and the selection's boundary.

    The positions with the smallest scores leave, of equal scores the lower position (ADPT-001, ADPT-002).
    Nothing is selected, and the boundary is None, if every pool fits its budget already.

    use  last word of the key of random scores, `USE_ADAPT` or `USE_END` (RNG-003)

    Raises:
        UpdateError: SEL-004 for a NaN or infinite score, SEL-005 if more must leave than may be pruned.
    """
    if rule.counts == "support" and pools.weights.is_one and _fits(moved, pools):
        return [flat(m.delta.topology)[:0] for m in moved], None
    overlays = [overlay(m.base, m.delta) for m in moved]
    # ADPT-006: zeros are neither counted nor pruned
    zeros = [_zeros(over) if rule.counts == "values" else over.slots[:0] for over in overlays]
    supports = [None if pools.weights.is_one else over.positions() for over in overlays]
    counted = [_counted(pools, *one) for one in zip(overlays, supports, zeros, strict=True)]
    excess = pools.excess(counted)
    xp = array_namespace(excess)
    # EVT-005: scores are ranked, and refused, only where something must leave
    if not bool(xp.any(excess > 0)):
        return [over.slots[:0] for over in overlays], None
    prunable = []
    for m, over, support, at_zero in zip(moved, overlays, supports, zeros, strict=True):
        spared = union(_exempt(m, over, rule), at_zero)
        if support is not None:
            fitting = xp.take(excess, pools.weights.of(support)) == 0
            # the longer array comes first, because `union` looks up the other in it
            spared = union(xp.astype(xp.nonzero(fitting)[0], xp.int64, copy=False), spared)
        prunable.append(_Prunable(over, spared, support))
    scores = [_scores(m, pools, p, rule, chance, use) for m, p in zip(moved, prunable, strict=True)]
    positions = None if pools.weights.is_one else [p.positions() for p in prunable]
    selected, boundary = pools.weights.select(scores, positions, excess)
    return [p.positions_at(chosen) for p, chosen in zip(prunable, selected, strict=True)], boundary


def _fits(moved: Sequence[Moved], pools: Pools) -> bool:
    """Return whether all weights, which are one pool, fit its budget; it takes few look-ups and computes no weight."""
    sizes = []
    for m in moved:
        _, stored = m.base.topology.seek_slots(m.delta.topology)
        n_off = stored.shape[0] - int(array_namespace(stored).count_nonzero(stored))
        sizes.append(int64_like([m.base.topology.nnz + n_off], stored))
    excess = pools.excess(sizes)
    return not bool(array_namespace(excess).any(excess > 0))


def _zeros(over: Overlay) -> Int[Array, " n"]:
    """Return the indices in the support of weights that are zero."""
    xp = array_namespace(over.weight)
    return xp.astype(xp.nonzero(over.weight == 0)[0], xp.int64, copy=False)


def _counted(pools: Pools, over: Overlay, support: Array | None, zeros: Array) -> Counts:
    """Return how many weights count towards the budget of each pool."""
    if support is None:
        return int64_like([over.weight.shape[0] - zeros.shape[0]], zeros)
    return pools.weights.sizes([without(support, zeros)])


def _exempt(m: Moved, over: Overlay, rule: Rule) -> Int[Array, " n"]:
    """Return the indices in the support of weights that this event must not prune (ADPT-003, ADPT-007)."""
    if rule.exempt == "slots":
        return over.slots
    if rule.exempt == "none":
        return over.slots[:0]
    return array_namespace(over.slots).take(over.slots, find(flat(m.delta.topology), m.fresh)[0])


def _scores(m: Moved, pools: Pools, prunable: _Prunable, rule: Rule, chance: Chance, use: int) -> Array:
    """Return the scores of weights that may be pruned (ADPT-002, ADPT-005)."""
    evidence = m.part.evidence
    weight = prunable.weights()
    operands = Known(weight=weight)
    if rule.adapt in ON_SUPPORT:
        name = ON_SUPPORT[rule.adapt]
        operands = Known(weight=weight, **{name: _evidence_at(m, pools, prunable, rule, getattr(evidence, name))})
    elif rule.adapt in ("activation", "curvature"):
        assert evidence.inputs is not None, "the rule asks for evidence that was not gathered"
        columns = prunable.positions() % m.base.topology.shape[1]
        operands = Known(weight=weight, inputs=array_namespace(columns).take(evidence.inputs, columns))
    elif rule.adapt == "random":
        operands = Known(uniform=chance.scores(m.part.matrix, prunable.positions(), use))
    return ADAPT[rule.adapt](operands)


def _evidence_at(m: Moved, pools: Pools, prunable: _Prunable, rule: Rule, evidence: Array | None) -> Array:
    """Return one entry of evidence per weight, 0 for positions outside the support before the event.

    Such a position has just come back, so its weight and its score are 0 whatever the entry.
    """
    if rule.exempt != "new" or rule.counts != "support" or not pools.weights.is_one:
        return on_support(m.part, evidence, prunable.positions())
    assert evidence is not None, "the rule asks for evidence that was not gathered"
    # prunable = old support − dropped − new. Both are few, so look them up instead of every prunable position
    gone = difference(m.dropped, m.cancelled)
    if rule.drops == "slot":
        gone = difference(gone, flat(m.base.topology))
    off = union(gone, m.fresh)
    stored, slots = flat(m.part.base.topology), flat(m.part.delta.topology)
    extra = difference(slots, stored)
    (before, in_base), (more, in_delta) = seek(stored, off), seek(extra, off)
    return without(evidence, (before + more)[in_base | in_delta])
