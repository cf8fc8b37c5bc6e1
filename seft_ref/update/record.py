"""The record of an event: counts and ratios of what it changed in one matrix (TRN-009)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.topology.csr import flat, outside
from seft_ref.update.evolve import Event, Part
from seft_ref.update.select import Boundary


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Counts of positions, ratios and boundaries of one matrix at one event (TRN-009)."""

    dropped: int
    grown: int
    cancelled: int
    pruned: int
    reactivated: int
    refilled: int
    slots: int
    support: int
    start: int
    """weights of the support that were stored at load"""
    churn: float
    overlap: float
    gradient_norm: float | None
    boundaries: Mapping[str, Boundary | None]

    COUNTS: ClassVar = (
        "dropped",
        "grown",
        "cancelled",
        "pruned",
        "reactivated",
        "refilled",
        "slots",
        "support",
        "start",
    )

    def as_json(self) -> dict[str, object]:
        """Return the record as a JSON object for the log of a run (TRN-010)."""
        entries: dict[str, object] = {name: getattr(self, name) for name in self.COUNTS}
        entries |= {"churn": self.churn, "overlap": self.overlap, "gradient_norm": self.gradient_norm}
        entries["boundaries"] = {
            name: None if b is None else {"inside": b.inside, "outside": b.outside, "gap": b.gap}
            for name, b in self.boundaries.items()
        }
        return entries


def record_of(part: Part, event: Event, budget: int, delta_budget: int, lost: Int[Array, " n"]) -> EventRecord:
    """Return the record of an event.

    part          the matrix before the event
    budget        K of the whole matrix
    delta_budget  d_φ of the whole matrix
    lost          flat positions that were stored at load and are not in the base after the event
    """
    xp = array_namespace(event.dropped, lost)

    def count(which: Array) -> int:
        return int(xp.sum(xp.astype(which, xp.int64)))

    slots_before = part.delta.topology.nnz
    eta, n_stored = event.delta.topology, event.base.topology.nnz
    # EVT-006: a base never gains a position, so all of it was stored at load; the others grew back
    start = n_stored + eta.nnz - count(outside(flat(eta), lost))
    return EventRecord(
        dropped=int(event.dropped.shape[0]),
        grown=int(event.grown.shape[0]),
        cancelled=int(event.cancelled.shape[0]),
        pruned=int(event.pruned.shape[0]),
        reactivated=count(~part.base.topology.seek(event.grown)[1]),
        refilled=max(0, delta_budget - slots_before),
        slots=eta.nnz,
        support=n_stored + count(~event.base.topology.seek_slots(eta)[1]),
        start=start,
        churn=int(event.grown.shape[0]) / max(slots_before, 1),
        overlap=start / max(budget, 1),
        gradient_norm=part.evidence.gradient_norm,
        boundaries=event.boundaries,
    )
