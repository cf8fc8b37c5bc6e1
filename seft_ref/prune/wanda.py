"""Wanda: in each row the smallest |W_ij| · ‖X_j‖ go (PRN-003)."""

from jaxtyping import Bool, Float

from seft_ref.arrays import Array, array_namespace
from seft_ref.errors import PruneError
from seft_ref.prune.keep import keep_n_of_m, keep_of_rows, removed_count


def wanda_mask(
    weight: Float[Array, "out in_"],
    input_square_sum: Float[Array, " in_"],
    sparsity: float,
    pattern: tuple[int, int] | None = None,
) -> Bool[Array, "out in_"]:
    """Return which weights stay: row by row, or N of every M where a pattern is given (PRN-003, PRN-004).

    Shapes  input_square_sum (in,): Σ x_j² over all calibration tokens
    Raises  PruneError PRN-003 if a sum is NaN or infinite
    """
    xp = array_namespace(weight, input_square_sum)
    # PRN-003
    if not bool(xp.all(xp.isfinite(input_square_sum))):
        raise PruneError("PRN-003", "the calibration activations hold NaN or infinity; the model or its text is broken")
    scores = xp.abs(weight) * xp.sqrt(input_square_sum)[None, :]
    if pattern is not None:
        return keep_n_of_m(scores, *pattern)
    return keep_of_rows(scores, removed_count(sparsity, weight.shape[1]))
