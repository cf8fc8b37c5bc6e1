"""The matrices of an event, before it and halfway through, and selections over all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.topology.csr import flat, union
from seft_ref.update.delta import Base, Delta, values_at
from seft_ref.update.evidence import Evidence
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, Selection

Counts = int | Int[Array, " pools"]
"""A count of one pool, or of every row or group"""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One matrix at an event."""

    base: Base
    delta: Delta
    evidence: Evidence
    budget: Counts
    """K (DLT-001): of the matrix; of each row with scope row, of each group with scope group"""
    delta_budget: Counts
    """d_φ: of the matrix, or of each row with scope row"""
    matrix: int = 0
    """matrix index (MDL-007)"""


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """A matrix after drop and grow."""

    part: Part
    base: Base
    delta: Delta
    dropped: Array
    fresh: Array
    cancelled: Array
    left: Array
    """what the drop took out of the base"""


def support_of(part: Part) -> Int[Array, " s"]:
    """Return the flat positions of S = B ∪ η before the event, ascending."""
    return union(flat(part.base.topology), flat(part.delta.topology))


def on_support(part: Part, values: Array | None, positions: Array) -> Array:
    """Return what the evidence holds on the support, at positions; 0 off it."""
    assert values is not None, "the rule asks for evidence that was not gathered"
    return values_at(support_of(part), values, positions)


def select_over(
    select: Callable[..., Selection],
    scores: Sequence[Array],
    at: Sequence[Array],
    parts: Sequence[Part],
    k: Counts,
    rule: Rule,
) -> tuple[list[Array], Boundary | None]:
    """Return the chosen indices of each part and the boundary: a selection over all parts, or by row (SEL-007)."""
    xp = array_namespace(*scores)
    if rule.scope == "row":
        (one,), (positions,) = scores, at
        found = select(one, k, positions // max(parts[0].base.topology.shape[1], 1))
        return [found.indices], found.boundary
    if len(scores) == 1:
        found = select(scores[0], k)
        return [found.indices], found.boundary
    found = select(xp.concat(list(scores)), k)
    split, start = [], 0
    for one in scores:
        stop = start + one.shape[0]
        edges = xp.searchsorted(found.indices, xp.asarray([start, stop], dtype=xp.int64, device=device(found.indices)))
        split.append(found.indices[int(edges[0]) : int(edges[1])] - start)
        start = stop
    return split, found.boundary
