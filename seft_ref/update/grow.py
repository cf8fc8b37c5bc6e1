"""Grow: the positions with the largest scores come."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.topology.csr import find, flat, outside, per_pool, slots_per_row
from seft_ref.update.parts import Counts, Part, select_over
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, largest_selection, selection_in_pools


@dataclass(frozen=True, slots=True, eq=False)
class Growable:
    """Candidates and their scores, ascending by flat position."""

    positions: Int[Array, " n"]
    scores: Array


def grow(
    parts: Sequence[Part],
    dropped: Sequence[Int[Array, " k"]],
    n_drop: Counts,
    rule: Rule,
    pattern: tuple[int, int] | None = None,
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions of each part that grow, ascending, and the boundary of their selection: the candidates
    with the largest scores, as many as were dropped and as the delta lacks (GROW-001, GROW-002).

    Shapes  dropped: of each part (k,) flat positions in η
    Raises  UpdateError SEL-004 for a NaN or infinite score
    """
    open_to = [_candidates(part, gone, rule, pattern) for part, gone in zip(parts, dropped, strict=True)]
    at = [candidates.positions for candidates in open_to]
    n = _growth(parts, open_to, n_drop, rule)
    found, boundary = select_over(largest_selection, [c.scores for c in open_to], at, parts, n, rule)
    return [array_namespace(p).take(p, chosen) for p, chosen in zip(at, found, strict=True)], boundary


def best_of_groups(open_to: Growable, width: int, budget: Int[Array, " groups"]) -> Growable:
    """Return the candidates that are among the K best of their group, K what the group may hold (GROW-007).

    width   M; rows divide into groups
    budget  K of every group (DLT-001)
    """
    xp = array_namespace(open_to.positions)
    if not open_to.positions.shape[0]:
        return open_to
    groups = open_to.positions // width
    # number the groups that occur, in order
    one = xp.ones((1,), dtype=xp.bool, device=device(groups))
    starts = xp.concat([one, groups[1:] != groups[:-1]])
    pools = xp.cumulative_sum(xp.astype(starts, xp.int64)) - 1
    first = xp.astype(xp.nonzero(starts)[0], xp.int64)
    end = xp.asarray([groups.shape[0]], dtype=xp.int64, device=device(groups))
    sizes = xp.concat([first[1:], end]) - first
    counts = xp.minimum(sizes, xp.take(budget, xp.take(groups, first)))
    chosen = selection_in_pools(-open_to.scores, pools, counts).indices
    return Growable(xp.take(open_to.positions, chosen), xp.take(open_to.scores, chosen))


def _candidates(part: Part, dropped: Array, rule: Rule, pattern: tuple[int, int] | None) -> Growable:
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
    if rule.scope == "group":
        assert pattern is not None, "scope group needs a pattern"
        return best_of_groups(open_to, pattern[1], part.budget)
    return open_to


def _growth(parts: Sequence[Part], open_to: Sequence[Growable], n_drop: Counts, rule: Rule) -> Counts:
    """Return how many positions grow: those that replace what was dropped, and those that adaptation had taken, at
    most the candidates (GROW-002).
    """
    if rule.scope != "row":
        want = int(n_drop) + sum(int(p.delta_budget) for p in parts) - sum(p.delta.topology.nnz for p in parts)
        return min(max(want, 0), sum(c.positions.shape[0] for c in open_to))
    (part,), (candidates,) = parts, open_to
    n_out, n_in = part.base.topology.shape
    want = n_drop + part.delta_budget - slots_per_row(part.delta.topology)
    xp = array_namespace(want)
    return xp.minimum(xp.maximum(want, xp.zeros_like(want)), per_pool(candidates.positions, n_in, n_out))
