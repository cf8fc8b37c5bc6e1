"""Magnitude pruning: remove the smallest |W| of a matrix (PRN-002)."""

from jaxtyping import Bool, Float

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.prune.keep import keep_of_one


def magnitude_mask(
    weight: Float[Array, "out in_"], sparsity: float, pattern: tuple[int, int] | None = None
) -> Bool[Array, "out in_"]:
    """Return which weights of one matrix stay, or N of every M where a pattern is given (PRN-002, PRN-004)."""
    return keep_of_one(array_namespace(weight).abs(weight), sparsity, pattern, "matrix")
