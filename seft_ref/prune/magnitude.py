"""Magnitude pruning: remove the smallest |W| of a matrix (PRN-002)."""

from jaxtyping import Bool, Float

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.prune.keep import Scope, keep_in_scope, keep_n_of_m


def magnitude_mask(
    weight: Float[Array, "out in_"],
    sparsity: float,
    pattern: tuple[int, int] | None = None,
    scope: Scope = "matrix",
) -> Bool[Array, "out in_"]:
    """Return which weights of one matrix stay, or N of every M where a pattern is given (PRN-002, PRN-004)."""
    scores = array_namespace(weight).abs(weight)
    if pattern is not None:
        return keep_n_of_m(scores, *pattern)
    return keep_in_scope([scores], sparsity, scope)[0]
