"""Selection under one total order: score, then id. Given the same scores, every implementation picks the same."""

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace
from seft_ref.errors import UpdateError


def largest(scores: Float[Array, " n"], k: int) -> Int[Array, " k"]:
    """Return the indices of the k largest scores, ties to the lower index, in ascending order (SEL-001, SEL-003).

    Scores stand in ascending order of their ids, so that an index orders like its id.

    Raises:
        UpdateError: SEL-004 for NaN or infinite scores, SEL-005 if k is outside 0 to n.
    """
    return smallest(-scores, k)


def smallest(scores: Float[Array, " n"], k: int) -> Int[Array, " k"]:
    """Return the indices of the k smallest scores, ties to the lower index, in ascending order (SEL-002, SEL-003).

    Scores stand in ascending order of their ids. The k-th smallest value splits the rest from the chosen; of
    the scores equal to it the first ones fill up. −0.0 compares equal to +0.0, as SEL-004 wants.

    Raises:
        UpdateError: SEL-004 for NaN or infinite scores, SEL-005 if k is outside 0 to n.
    """
    xp = array_namespace(scores)
    n = scores.shape[0]
    # SEL-005
    if not 0 <= k <= n:
        raise UpdateError("SEL-005", f"cannot select {k} of {n} scores")
    # SEL-004
    if not bool(xp.all(xp.isfinite(scores))):
        raise UpdateError("SEL-004", "scores hold NaN or infinity; the gradient they come from is not usable")
    if k == 0:
        return xp.astype(xp.nonzero(scores != scores)[0], xp.int64)
    boundary = xp.sort(scores, stable=False)[k - 1]  # equal scores look alike: stability would cost and change nothing
    (below,) = xp.nonzero(scores < boundary)
    (equal,) = xp.nonzero(scores == boundary)
    chosen = xp.concat([below, equal[: k - below.shape[0]]])
    return xp.astype(xp.sort(chosen), xp.int64)
