"""One matrix at an event: as the event finds it, and between grow and adapt."""

from dataclasses import dataclass

from jaxtyping import Int

from seft_ref.arrays.library import Array
from seft_ref.topology.csr import flat, union
from seft_ref.update.delta import Base, Delta, values_at
from seft_ref.update.evidence import Evidence


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One matrix as an event finds it."""

    base: Base
    delta: Delta
    evidence: Evidence
    matrix: int = 0
    """matrix index (MDL-007)"""


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """One matrix after drop and grow, with flat positions of what they did."""

    part: Part
    base: Base
    delta: Delta
    dropped: Array
    fresh: Array
    """new slots"""
    cancelled: Array
    left: Array
    """positions that the drop took out of the base (DROP-004)"""


def support_of(part: Part) -> Int[Array, " s"]:
    """Return the flat positions of S = B ∪ η before the event, ascending."""
    return union(flat(part.base.topology), flat(part.delta.topology))


def on_support(part: Part, values: Array | None, positions: Array) -> Array:
    """Return evidence, given on the support, at other flat positions; 0 for those off the support."""
    assert values is not None, "the rule asks for evidence that was not gathered"
    return values_at(support_of(part), values, positions)
