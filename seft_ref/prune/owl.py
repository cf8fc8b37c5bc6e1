"""OWL: a sparsity for each block, which is lower the more of its Wanda scores are outliers (PRN-018)."""

from collections.abc import Sequence

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.errors import PruneError
from seft_ref.prune.keep import check_finite, removed_count

OUTLIER = 5.0
"""A score that exceeds the mean score of its block times this number is an outlier."""
SPREAD = 0.08
"""Half of the difference between the sparsest and the densest block."""


def outlier_share(scores: Sequence[Float[Array, "..."]], outlier: float = OUTLIER) -> float:
    """Return the fraction of the scores of a block, over all its matrices, that exceed `outlier` times their mean.

    scores  Wanda's scores of each matrix, in float64

    Raises:
        PruneError: PRN-018 if `outlier` is not positive and finite, SEL-004 for a score that is NaN or infinite.
    """
    # PRN-018
    if not 0 < outlier < float("inf"):
        raise PruneError("PRN-018", f"outlier is {outlier}, must be above 0 and finite (5 is usual)")
    for matrix in scores:
        check_finite(matrix)
    xp = array_namespace(*scores)
    n = sum(int(matrix.size) for matrix in scores)
    limit = outlier * sum(float(xp.sum(matrix)) for matrix in scores) / n
    return sum(int(xp.count_nonzero(matrix > limit)) for matrix in scores) / n


def block_sparsities(shares: Sequence[float], sparsity: float, spread: float = SPREAD) -> list[float]:
    """Return the sparsity of each block from the shares of outliers; their mean is `sparsity` (PRN-018).

    Raises:
        PruneError: PRN-001 for the sparsity, PRN-018 if `spread` is negative or gives a block a sparsity outside 0 to
        below 1.
    """
    removed_count(sparsity, 1)
    low, high = min(shares), max(shares)
    # PRN-018: with equal shares all blocks get the same sparsity
    offsets = [2.0 * spread * (share - low) / (high - low) if high > low else 0.0 for share in shares]
    mean = sum(offsets) / len(offsets)
    chosen = [sparsity - (offset - mean) for offset in offsets]
    if not (spread >= 0 and all(0 <= one < 1 for one in chosen)):
        raise PruneError(
            "PRN-018",
            f"a spread of {spread} around sparsity {sparsity} gives blocks {min(chosen):.4g} to {max(chosen):.4g}; "
            "choose a smaller one, from 0 on",
        )
    return chosen
