"""Cases of the ratios in the record of an event (TRN-009)."""

from dataclasses import replace
from typing import Any

from conformance.gen.event import Made, Rule, given_part, made, rule
from conformance.gen.numbers import Area
from conformance.oracle import event_ratios
from conformance.oracle.event import Outcome, event
from conformance.oracle.select import binary64
from conformance.oracle.update_scores import binary32


def ratios_of(parts: list[Made], chosen: Rule, outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the outputs of `event.ratios`, one entry for each matrix."""
    records = [
        event_ratios.ratios(part, evidence, chosen, one) for (part, evidence), one in zip(parts, outcomes, strict=True)
    ]
    return {name: [one[name] for one in records] for name in ("churn", "overlap", "gradient_norm")}


def ratios() -> Area:
    """Return cases of churn, overlap and gradient norm of an event's record (TRN-009)."""
    area = Area("ratios", "dictionaries by flat position")

    def add(name: str, purpose: str, parts: list[Made], chosen: Rule, clauses: str = "TRN-009") -> None:
        inputs = {"parts": [given_part(*one) for one in parts], "rule": chosen, "fraction": 0.5, "seed": 3, "step": 20}
        of, evidence = [p for p, _ in parts], [s for _, s in parts]
        wide, narrow = (event(of, evidence, chosen, 0.5, seed=3, step=20, rounded=r) for r in (binary64, binary32))
        answer = ratios_of(parts, chosen, wide)
        assert answer == ratios_of(parts, chosen, narrow), "a choice that hangs on a rounding"
        area.add(name, "event.ratios", clauses, purpose, inputs, answer)

    chosen = rule(scope="model")
    part, evidence = made(50, (3, 5), 8, 4, 1, chosen=chosen, missing=2)
    other, its = made(51, (4, 4), 9, 5, 2, chosen=chosen, matrix=1)
    bare = replace(part, base={}, phi={}, kept={name: {} for name in part.kept}, lost=frozenset(), matrix=2)
    pairs = [
        (replace(part, budget=[part.budget[0] - 4]), evidence),
        (other, replace(its, gradient=[x * 2.0**70 for x in its.gradient])),
        (replace(bare, budget=[0], delta_budget=[0]), replace(evidence, gradient=[3 * x for x in evidence.gradient])),
    ]
    add("model", "a ratio to what there is after the event, squares that overflow, 0 by 0", pairs, chosen)
    chosen = rule(scope="row", grow="curvature", adapt="magnitude")
    add("row", "K of the first row for that of the matrix", [made(52, (3, 6), 10, 6, 2, chosen=chosen)], chosen)
    chosen = rule(grow="absolute", adapt="magnitude")
    add("no-gradient", "a norm of 0 where no ḡ was asked for", [made(53, (3, 5), 8, 4, 1, chosen=chosen)], chosen)
    chosen = rule(grow_scope="active")
    add("active", "the norm of ḡ on the support", [made(55, (3, 5), 9, 5, 2, chosen=chosen)], chosen, "GRD-009 TRN-009")
    chosen = rule(candidates="first-step", adapts="never")
    add("candidates", "the norm of a part of ḡ", [made(54, (3, 5), 9, 5, 2, chosen=chosen)], chosen)
    return area


AREAS = (ratios,)
