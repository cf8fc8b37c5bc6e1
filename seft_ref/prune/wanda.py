"""Wanda: remove the smallest |W_ij| · ‖X_j‖ of each row (PRN-003)."""

from jaxtyping import Bool, Float

from seft_ref.arrays.finite import START_ADVICE
from seft_ref.arrays.library import Array, array_namespace, binary64, from_numpy, overflow_allowed
from seft_ref.errors import PruneError
from seft_ref.prune.keep import Scope, keep_of_one


def square_sum(x: Float[Array, "*batch in_"]) -> Float[Array, " in_"]:
    """Return Σ x_j² over all tokens in float64, on the host, because some devices lack that dtype (PRN-014)."""
    rows = binary64(x).reshape(-1, x.shape[-1])
    with overflow_allowed():
        return (rows * rows).sum(axis=0)


def wanda_mask(
    weight: Float[Array, "out in_"],
    input_square_sum: Float[Array, " in_"],
    sparsity: float,
    pattern: tuple[int, int] | None = None,
    scope: Scope = "row",
) -> Bool[Array, "out in_"]:
    """Return which weights stay: by the scope, or N of every M if a pattern is given (PRN-003, PRN-004, PRN-014).

    Shapes  input_square_sum (in,): Σ x_j² over all calibration tokens
    Raises  PruneError PRN-003 if a sum is NaN or infinite, SEL-004 if a score is
    """
    return from_numpy(keep_of_one(wanda_scores(weight, input_square_sum), sparsity, pattern, scope), weight)


def wanda_scores(weight: Float[Array, "out in_"], input_square_sum: Float[Array, " in_"]) -> Float[Array, "out in_"]:
    """Return |W_ij| · ‖X_j‖, binary64 on the host (PRN-003, PRN-014).

    Raises:
        PruneError: PRN-003 if a sum is NaN or infinite.
    """
    # PRN-014: in binary64 the product of two float32 numbers neither overflows nor ties by rounding
    sums = binary64(input_square_sum)
    xp = array_namespace(sums)
    # PRN-003
    if not bool(xp.all(xp.isfinite(sums))):
        raise PruneError("PRN-003", f"the calibration activations hold NaN or infinity; {START_ADVICE}")
    with overflow_allowed():
        return xp.abs(binary64(weight)) * xp.sqrt(sums)[None, :]
