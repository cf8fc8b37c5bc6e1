"""Adapt: the least sensitive weights go until the support fits its budget."""

from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace
from seft_ref.update.criteria import ADAPT, Known
from seft_ref.update.select import Boundary, smallest_selection


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """Pruned positions, ascending, and the boundary of their selection."""

    positions: Int[Array, " n"]
    boundary: Boundary | None


def sensitivity(gradient: Float[Array, " n"], weight: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return |ḡ · W|, one rounded multiplication a weight (ADPT-002)."""
    return ADAPT["sensitivity"](Known(gradient=gradient, weight=weight))


def adapt(positions: Int[Array, " n"], scores: Float[Array, " n"], excess: int) -> Pruned:
    """Return the positions to prune: those with the smallest scores, ties to the lower position, ascending
    (ADPT-001, ADPT-002).

    Shapes  positions (n,) ascending flat positions that may be pruned; scores (n,) theirs
    Raises  UpdateError SEL-004 for NaN or infinite scores, SEL-005 if the excess is larger than n
    """
    found = smallest_selection(scores, excess)
    return Pruned(array_namespace(positions).take(positions, found.indices), found.boundary)
