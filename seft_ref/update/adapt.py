"""Adapt: the least sensitive weights go until the support fits its budget."""

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace
from seft_ref.update.select import smallest


def sensitivity(gradient: Float[Array, " n"], weight: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return |ḡ · W|, one rounded multiplication a weight (ADPT-002)."""
    return array_namespace(gradient, weight).abs(gradient * weight)


def adapt(positions: Int[Array, " n"], scores: Float[Array, " n"], excess: int) -> Int[Array, " excess"]:
    """Return the positions to prune: those with the smallest scores, ties to the lower position, ascending
    (ADPT-001, ADPT-002).

    Shapes  positions (n,) ascending flat positions that may be pruned; scores (n,) theirs
    Raises  UpdateError SEL-004 for NaN or infinite scores, SEL-005 if the excess is larger than n
    """
    return array_namespace(positions).take(positions, smallest(scores, excess))
