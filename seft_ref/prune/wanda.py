"""Wanda: in each row the smallest |W_ij| · ‖X_j‖ go (PRN-003)."""

from jaxtyping import Bool, Float

from seft_ref.arrays import Array, array_namespace, overflow_allowed
from seft_ref.errors import PruneError
from seft_ref.prune.keep import ADVICE, keep_n_of_m, keep_of_rows, removed_count


def square_sum(x: Float[Array, "*batch in_"]) -> Float[Array, " in_"]:
    """Return Σ x_j² over all tokens, in float64 (PRN-014)."""
    xp = array_namespace(x)
    rows = xp.astype(xp.reshape(x, (-1, x.shape[-1])), xp.float64)
    with overflow_allowed():
        return xp.sum(rows * rows, axis=0)


def wanda_mask(
    weight: Float[Array, "out in_"],
    input_square_sum: Float[Array, " in_"],
    sparsity: float,
    pattern: tuple[int, int] | None = None,
) -> Bool[Array, "out in_"]:
    """Return which weights stay: row by row, or N of every M where a pattern is given (PRN-003, PRN-004, PRN-014).

    Shapes  input_square_sum (in,): Σ x_j² over all calibration tokens
    Raises  PruneError PRN-003 if a sum is NaN or infinite, SEL-004 if a score is
    """
    xp = array_namespace(weight, input_square_sum)
    # PRN-003
    if not bool(xp.all(xp.isfinite(input_square_sum))):
        raise PruneError("PRN-003", f"the calibration activations hold NaN or infinity; {ADVICE}")
    # PRN-014: in binary64 the product of two float32 numbers neither overflows nor ties by rounding
    norms = xp.sqrt(xp.astype(input_square_sum, xp.float64))
    with overflow_allowed():
        scores = xp.abs(xp.astype(weight, xp.float64)) * norms[None, :]
    if pattern is not None:
        return keep_n_of_m(scores, *pattern)
    return keep_of_rows(scores, removed_count(sparsity, weight.shape[1]))
