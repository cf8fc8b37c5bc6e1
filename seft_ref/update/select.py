"""Selection under one total order, score, then id, so that every implementation picks the same from the same scores."""

from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, binary64, device
from seft_ref.arrays.sorted import edge
from seft_ref.errors import UpdateError


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a selection ends: the score of the last chosen id, and of the best one left behind (SEL-008)."""

    inside: float
    outside: float

    @property
    def gap(self) -> float:
        """|inside − outside| over the larger magnitude, 0 where both are 0; binary64 (SEL-008)."""
        largest = max(abs(self.inside), abs(self.outside))
        return abs(self.inside - self.outside) / largest if largest else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Chosen indices, ascending, and the boundary; it is None if nothing or everything was chosen."""

    indices: Int[Array, " k"]
    boundary: Boundary | None


def largest(scores: Float[Array, " n"], k: int) -> Int[Array, " k"]:
    """Return the indices of the k largest scores, ties to the lower index, in ascending order (SEL-001, SEL-003).

    Scores stand in ascending order of their ids, so that an index orders like its id.

    Raises:
        UpdateError: SEL-004 for NaN or infinite scores, SEL-005 if k is outside 0 to n.
    """
    return selection(-scores, k).indices


def selection(scores: Float[Array, " n"], k: int) -> Selection:
    """Return the indices of the k smallest scores of one pool, ties to the lower index, ascending, and their boundary
    (SEL-002, SEL-003, SEL-008).

    All scores below the k-th smallest are chosen, then the first scores equal to it until there are k. −0.0 compares
    equal to +0.0, as SEL-004 requires.

    Raises:
        UpdateError: SEL-004 for NaN or infinite scores, SEL-005 if k is outside 0 to n.
    """
    xp = array_namespace(scores)
    n = scores.shape[0]
    _check_count(k, n)
    _check_finite(scores)
    if k == 0:
        return Selection(xp.zeros((0,), dtype=xp.int64, device=device(scores)), None)
    if k == n:
        return Selection(xp.arange(n, dtype=xp.int64, device=device(scores)), None)
    last, behind = edge(scores, k)
    (below,) = xp.nonzero(scores < last)
    (equal,) = xp.nonzero(scores == last)
    chosen = xp.concat([below, equal[: k - below.shape[0]]])
    # adding +0.0 turns −0.0 into +0.0, so that both zeros tie
    boundary = Boundary(float(last) + 0.0, float(behind) + 0.0)
    return Selection(xp.astype(xp.sort(chosen), xp.int64), boundary)


def selection_in_pools(scores: Float[Array, " n"], pools: Int[Array, " n"], counts: Int[Array, " p"]) -> Selection:
    """Return the indices of the counts[p] smallest scores of every pool p, and the boundary with the smallest gap
    (SEL-007, SEL-008).

    Shapes  pools (n,) the pool of each score, from 0; counts (p,) how many of each pool
    Raises  UpdateError SEL-004 for NaN or infinite scores, SEL-005 if a count is outside 0 to the size of its pool
    """
    xp = array_namespace(scores, pools, counts)
    _check_finite(scores)
    n, n_pools = scores.shape[0], counts.shape[0]
    order = xp.argsort(scores, stable=True)
    order = xp.take(order, xp.argsort(xp.take(pools, order), stable=True))
    scores, pools = xp.take(scores, order), xp.take(pools, order)
    numbers = xp.arange(n_pools + 1, dtype=pools.dtype, device=device(pools))
    edges = xp.astype(xp.searchsorted(pools, numbers), xp.int64)
    sizes = edges[1:] - edges[:-1]
    for wrong in (counts < 0, counts > sizes):
        if bool(xp.any(wrong)):
            pool = int(xp.argmax(xp.astype(wrong, xp.int8)))
            _check_count(int(counts[pool]), int(sizes[pool]))
    counts = xp.astype(counts, xp.int64)
    if n == 0:
        return Selection(order, None)
    rank = xp.arange(n, dtype=xp.int64, device=device(pools)) - xp.take(edges, pools)
    chosen = xp.astype(xp.sort(order[rank < xp.take(counts, pools)]), xp.int64)
    # SEL-008
    (bounded,) = xp.nonzero((counts > 0) & (counts < sizes))
    if not bounded.shape[0]:
        return Selection(chosen, None)
    last = xp.take(edges, bounded) + xp.take(counts, bounded)
    # SEL-008: in binary64, because float32 may round two different gaps to the same number
    inside, outside = binary64(xp.take(scores, last - 1)), binary64(xp.take(scores, last))
    xp = array_namespace(inside)
    size = xp.maximum(xp.abs(inside), xp.abs(outside))
    gaps = xp.where(size > 0, xp.abs(inside - outside) / xp.where(size > 0, size, xp.ones_like(size)), size)
    best = int(xp.argmin(gaps))
    return Selection(chosen, Boundary(float(inside[best]) + 0.0, float(outside[best]) + 0.0))


def select(
    scores: Float[Array, " n"], pools: Int[Array, " n"] | None, counts: Int[Array, " p"], *, largest: bool = False
) -> Selection:
    """Return the indices of the counts[p] smallest scores of every pool p, or of the largest, and their boundary
    (SEL-007, SEL-008).

    pools  the pool of each score, from 0; None for one pool, which saves an array of zeros

    Raises:
        UpdateError: SEL-004 for NaN or infinite scores, SEL-005 if a count is outside 0 to the size of its pool.
    """
    if largest:
        scores = -scores
    selected = selection(scores, int(counts[0])) if pools is None else selection_in_pools(scores, pools, counts)
    if not largest or selected.boundary is None:
        return selected
    return Selection(selected.indices, Boundary(0.0 - selected.boundary.inside, 0.0 - selected.boundary.outside))


def _check_count(k: int, n: int) -> None:
    # SEL-005
    if not 0 <= k <= n:
        raise UpdateError("SEL-005", f"cannot select {k} of {n} scores")


def _check_finite(scores: Float[Array, " n"]) -> None:
    # SEL-004
    xp = array_namespace(scores)
    if not bool(xp.all(xp.isfinite(scores))):
        raise UpdateError("SEL-004", "scores hold NaN or infinity; the gradient they come from is not usable")
