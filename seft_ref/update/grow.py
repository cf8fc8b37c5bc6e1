"""Grow: the positions with the largest scores come."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.topology.csr import find, flat, outside
from seft_ref.update.parts import Part
from seft_ref.update.pools import Counts, Partition, Pools
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, selection_in_pools


@dataclass(frozen=True, slots=True, eq=False)
class Growable:
    """Candidates and their scores, ascending by flat position."""

    positions: Int[Array, " n"]
    scores: Array


def grow(
    parts: Sequence[Part], pools: Pools, dropped: Sequence[Int[Array, " k"]], n_drop: Counts, rule: Rule
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions of each part that grow, ascending, and the boundary of their selection: the candidates
    with the largest scores, as many as were dropped and as the delta lacks (GROW-001, GROW-002).

    Shapes  dropped: of each part (k,) flat positions in η
    Raises  UpdateError SEL-004 for a NaN or infinite score
    """
    open_to = [_candidates(part, pools, gone, rule) for part, gone in zip(parts, dropped, strict=True)]
    at = [candidates.positions for candidates in open_to]
    # GROW-002: at most the candidates
    want, there = pools.growth(n_drop, [flat(part.delta.topology) for part in parts]), pools.slots.sizes(at)
    n = array_namespace(want).minimum(want, there)
    found, boundary = pools.slots.select([c.scores for c in open_to], at, n, largest=True)
    return [array_namespace(p).take(p, chosen) for p, chosen in zip(at, found, strict=True)], boundary


def best_of_groups(open_to: Growable, groups: Partition, budgets: Counts) -> Growable:
    """Return the candidates that are among the K best of their group, K what the group may hold (GROW-007).

    budgets  K of every group (DLT-001), from the one of position 0 on
    """
    xp = array_namespace(open_to.positions)
    if not open_to.positions.shape[0]:
        return open_to
    group = groups.of(open_to.positions)
    # number the groups that occur, in order
    one = xp.ones((1,), dtype=xp.bool, device=device(group))
    starts = xp.concat([one, group[1:] != group[:-1]])
    pools = xp.cumulative_sum(xp.astype(starts, xp.int64)) - 1
    first = xp.astype(xp.nonzero(starts)[0], xp.int64)
    end = xp.asarray([group.shape[0]], dtype=xp.int64, device=device(group))
    sizes = xp.concat([first[1:], end]) - first
    counts = xp.minimum(sizes, xp.take(budgets, xp.take(group, first)))
    chosen = selection_in_pools(-open_to.scores, pools, counts).indices
    return Growable(xp.take(open_to.positions, chosen), xp.take(open_to.scores, chosen))


def _candidates(part: Part, pools: Pools, dropped: Array, rule: Rule) -> Growable:
    """Return what growth may choose from: the candidates of the evidence, and of the dropped positions those that may
    be grown again (GROW-001, GROW-005 to GROW-007).
    """
    if not rule.regrow:
        dropped = dropped[:0]
    elif rule.grow_scope == "active":
        dropped = dropped[~outside(dropped, flat(part.base.topology))]
    seen = part.evidence
    if seen.again is not None:
        dropped = dropped[~outside(dropped, seen.again)]
    open_to = Growable(seen.candidates, seen.candidate_scores)
    if dropped.shape[0]:
        xp = array_namespace(dropped)
        where, _ = find(seen.slots, dropped)
        positions = xp.concat([seen.candidates, dropped])
        scores = xp.concat([seen.candidate_scores, xp.take(seen.scores, where)])
        order = xp.argsort(positions)
        open_to = Growable(xp.take(positions, order), xp.take(scores, order))
    if pools.caps_growth:
        return best_of_groups(open_to, pools.weights, pools.budgets[0])
    return open_to
