"""The state of one matrix before an event, and between grow and adapt."""

from dataclasses import dataclass

from jaxtyping import Int

from seft_ref.arrays.library import Array
from seft_ref.topology.csr import flat, union
from seft_ref.update.delta import Base, Delta, values_at
from seft_ref.update.evidence import Evidence


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One matrix before an event: its base, its delta and its evidence."""

    base: Base
    delta: Delta
    evidence: Evidence
    matrix: int = 0
    """matrix index (MDL-007)"""


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """One matrix after drop and grow, with the flat positions that these changed."""

    part: Part
    base: Base
    delta: Delta
    dropped: Array
    fresh: Array
    """new slots"""
    cancelled: Array
    left: Array
    """positions that drop removed from the base (DROP-004)"""


def support_of(part: Part) -> Int[Array, " s"]:
    """Return the flat positions of S = B ∪ η before the event, ascending."""
    return union(flat(part.base.topology), flat(part.delta.topology))


def on_support(part: Part, values: Array | None, positions: Array) -> Array:
    """Return `values`, evidence on the support, at the given flat positions; 0 for positions off the support."""
    assert values is not None, "the rule asks for evidence that was not gathered"
    return values_at(support_of(part), values, positions)
