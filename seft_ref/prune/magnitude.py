"""Magnitude pruning: remove the smallest |W| of a matrix (PRN-002)."""

from jaxtyping import Bool, Float

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.prune.keep import keep_n_of_m, keep_of_matrix, removed_count


def magnitude_mask(
    weight: Float[Array, "out in_"], sparsity: float, pattern: tuple[int, int] | None = None
) -> Bool[Array, "out in_"]:
    """Return which weights stay: by whole matrix, or N of every M where a pattern is given (PRN-002, PRN-004)."""
    scores = array_namespace(weight).abs(weight)
    if pattern is not None:
        return keep_n_of_m(scores, *pattern)
    return keep_of_matrix(scores, removed_count(sparsity, weight.shape[0] * weight.shape[1]))
