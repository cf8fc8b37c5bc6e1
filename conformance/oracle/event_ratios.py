"""The ratios of an event's record: churn, overlap and the norm of ḡ (TRN-009)."""

import math

from conformance.oracle.event import Outcome, Part
from conformance.oracle.event_evidence import Evidence, asked_by, kept_at
from conformance.oracle.update_choices import Rule


def ratios(old: Part, evidence: Evidence, rule: Rule, one: Outcome) -> dict[str, float | None]:
    """Return the ratios of an event's record; the norm of ḡ is None unless ḡ is kept everywhere (TRN-009).

    old  the matrix before the event, whose outcome is `one`
    """
    is_whole = kept_at(frozenset(), evidence, rule) is None and "gradient" in asked_by(rule)
    return {
        "churn": len(one.grown) / max(len(old.phi), 1),
        "overlap": one.record["start"] / max(sum(old.budget), 1),
        "gradient_norm": math.hypot(*evidence.gradient) if is_whole else None,
    }
