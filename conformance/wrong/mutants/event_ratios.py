"""Mutants of the ratios of an event (TRN-009)."""

from conformance.engine.parts import event_record
from conformance.wrong.mutants.base import Mutant, Values, edits, mutant


def norm_for_none(out: Values, a: Values) -> Values:
    return {"gradient_norm": [0.0 if norm is None else norm for norm in out["gradient_norm"]]}


"""Text in the source of the record, its replacement, and the flaw."""

MUTANTS: list[Mutant] = [
    mutant("TRN-009", "event.ratios", norm_for_none, "a norm of 0 where none was asked for"),
    *edits("event.ratios", "TRN-009", event_record.record_of,
        ("max(slots_before, 1)", "max(eta.nnz, 1)", "churn by the slots after it"),
        ("churn=int(event.grown.shape[0])", "churn=int(event.dropped.shape[0])", "churn of what is dropped"),
        ("max(slots_before, 1)", "(slots_before or float('nan'))", "churn of no slots is no number"),
        ("start / max(budget, 1)", "n_stored / max(budget, 1)", "overlap without those that grew back"),
        ("start / max(budget, 1)", "start / max(n_stored, 1)", "overlap by what is stored after it")),
]  # fmt: skip
