"""Grow: the positions with the largest scores come."""

from dataclasses import dataclass

from jaxtyping import Int

from seft_ref.arrays import Array, array_namespace, device
from seft_ref.topology import find
from seft_ref.update.evidence import Evidence, evidence_of
from seft_ref.update.select import Boundary, largest_selection, selection_in_pools

__all__ = ["Growable", "Grown", "best_of_groups", "evidence_of", "grow", "growable"]


@dataclass(frozen=True, slots=True, eq=False)
class Growable:
    """Candidates and their scores, ascending by flat position."""

    positions: Int[Array, " n"]
    scores: Array


@dataclass(frozen=True, slots=True, eq=False)
class Grown:
    """Grown positions, ascending, and the boundary of their selection."""

    positions: Int[Array, " n"]
    boundary: Boundary | None


def growable(evidence: Evidence, dropped: Int[Array, " k"]) -> Growable:
    """Return the candidates: those of the evidence, and the dropped positions that may be grown again (GROW-001).

    dropped  flat positions in η, ascending
    """
    xp = array_namespace(evidence.candidates, dropped)
    positions, scores = evidence.candidates, evidence.candidate_scores
    if dropped.shape[0]:
        where, _ = find(evidence.slots, dropped)
        positions = xp.concat([positions, dropped])
        scores = xp.concat([scores, xp.take(evidence.scores, where)])
        order = xp.argsort(positions)
        positions, scores = xp.take(positions, order), xp.take(scores, order)
    return Growable(positions, scores)


def grow(evidence: Evidence, dropped: Int[Array, " k"], n: int) -> Grown:
    """Return the n positions with the largest scores among the candidates and the dropped positions (GROW-001,
    GROW-002).

    Shapes  dropped (k,) flat positions in η; result (min(n, candidates + k),)
    Raises  UpdateError SEL-004 for a NaN or infinite score
    """
    open_to = growable(evidence, dropped)
    xp = array_namespace(open_to.positions)
    found = largest_selection(open_to.scores, min(n, open_to.positions.shape[0]))
    return Grown(xp.take(open_to.positions, found.indices), found.boundary)


def best_of_groups(open_to: Growable, pattern: tuple[int, int]) -> Growable:
    """Return the candidates that are among the N best of their group of M (GROW-007); rows divide into groups."""
    xp = array_namespace(open_to.positions)
    n_keep, width = pattern
    if not open_to.positions.shape[0]:
        return open_to
    groups = open_to.positions // width
    # number the groups that occur, in order
    one = xp.ones((1,), dtype=xp.bool, device=device(groups))
    starts = xp.concat([one, groups[1:] != groups[:-1]])
    pools = xp.cumulative_sum(xp.astype(starts, xp.int64)) - 1
    first = xp.nonzero(starts)[0]
    end = xp.asarray([groups.shape[0]], dtype=xp.int64, device=device(groups))
    sizes = xp.concat([xp.astype(first[1:], xp.int64), end]) - xp.astype(first, xp.int64)
    counts = xp.minimum(sizes, xp.full_like(sizes, n_keep))
    chosen = selection_in_pools(-open_to.scores, pools, counts).indices
    return Growable(xp.take(open_to.positions, chosen), xp.take(open_to.scores, chosen))
