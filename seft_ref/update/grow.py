"""Grow: give slots to the candidates with the largest scores (GROW-002)."""

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
    """Candidates and their scores, in ascending order of flat position."""

    positions: Int[Array, " n"]
    scores: Array


def grow(
    parts: Sequence[Part], pools: Pools, dropped: Sequence[Int[Array, " k"]], n_drop: Counts, rule: Rule
) -> tuple[list[Array], Boundary | None]:
    """Return the flat positions that each part grows, ascending, and the boundary of the selection.

    The candidates with the largest scores grow: as many as were dropped, plus as many as the delta is short of its
    budget (GROW-001, GROW-002).

    dropped  the flat positions (k,) of η that each part dropped
    n_drop   how many slots each pool dropped
    Raises   UpdateError SEL-004 for a NaN or infinite score
    """
    growable = [_candidates(part, pools, gone, rule) for part, gone in zip(parts, dropped, strict=True)]
    at = [candidates.positions for candidates in growable]
    # GROW-002: a pool may have fewer candidates than it could grow
    want, there = pools.growth(n_drop, [flat(part.delta.topology) for part in parts]), pools.slots.sizes(at)
    n = array_namespace(want).minimum(want, there)
    selected, boundary = pools.slots.select([c.scores for c in growable], at, n, largest=True)
    return [array_namespace(p).take(p, chosen) for p, chosen in zip(at, selected, strict=True)], boundary


def best_of_groups(open_to: Growable, groups: Partition, budgets: Counts) -> Growable:
    """Return the candidates that are among the K best of their group, K being its budget (GROW-007).

    budgets  K of every group (DLT-001), in order of position
    """
    xp = array_namespace(open_to.positions)
    if not open_to.positions.shape[0]:
        return open_to
    group = groups.of(open_to.positions)
    # number the groups that occur from 0, so that the arrays grow with the candidates and not with the matrix
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
    """Return the positions that may grow, and their scores (GROW-001, GROW-005 to GROW-007).

    These are the candidates of the evidence, and the dropped positions that may grow again.
    """
    if not rule.regrow:
        dropped = dropped[:0]
    elif rule.grow_scope == "active":
        _, stored = part.base.topology.seek_slots(part.delta.topology)
        dropped = dropped[array_namespace(stored).take(stored, find(flat(part.delta.topology), dropped)[0])]
    evidence = part.evidence
    if evidence.again is not None:
        dropped = dropped[~outside(dropped, evidence.again)]
    growable = Growable(evidence.candidates, evidence.candidate_scores)
    if dropped.shape[0]:
        xp = array_namespace(dropped)
        indices, _ = find(evidence.slots, dropped)
        positions = xp.concat([evidence.candidates, dropped])
        scores = xp.concat([evidence.candidate_scores, xp.take(evidence.scores, indices)])
        order = xp.argsort(positions)
        growable = Growable(xp.take(positions, order), xp.take(scores, order))
    if pools.caps_growth:
        return best_of_groups(growable, pools.weights, pools.budgets[0])
    return growable
