"""Mutants of events by the choices of chapter 8."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.parts import evolve, window
from conformance.wrong.mutants.base import Change, Mutant, Operation, Values, after, edited, mutants, right


def choosing(**new: Any) -> Operation:
    """Return an event under a rule with other choices."""
    return lambda a: right("update.event")(a | {"rule": a["rule"] | new})


def of_parts(**new: Callable[[Values], Any]) -> Operation:
    """Return an event on parts with some entries replaced."""
    return lambda a: right("update.event")(
        a | {"parts": [part | {name: f(part) for name, f in new.items()} for part in a["parts"]]}
    )


def told(name: str, change: Callable[[Any], Any]) -> Operation:
    """Return an event with one entry of each record changed."""
    return after("update.event", lambda out, _: {"records": [r | {name: change(r[name])} for r in out["records"]]})


def scope_taken_for_matrix(a: Values) -> Values:
    # the one budget is the sum of the budgets of rows or groups
    names = ("budget", "delta_budget")
    parts = [part | {name: np.array([np.sum(part[name])]) for name in names} for part in a["parts"]]
    return right("update.event")(a | {"rule": a["rule"] | {"scope": "matrix"}, "parts": parts})


def matrices_apart(a: Values) -> Values:
    answers = [right("update.event")(a | {"parts": [part]}) for part in a["parts"]]
    return {name: [one for each in answers for one in each[name]] for name in answers[0]}


def base_moves_in(out: Values, a: Values) -> Values:
    """Add the grown positions to the base, with weights of 0."""
    both = [np.union1d(base, new) for base, new in zip(out["base"], out["grown"], strict=True)]
    more = []
    for old, values, new in zip(out["base"], out["base_values"], both, strict=True):
        wide = np.zeros(len(new), dtype=values.dtype)
        wide[np.searchsorted(new, old)] = values
        more.append(wide)
    return {"base": both, "base_values": more}


def scored(criterion: str, score: Callable[[Values], Any]) -> Change:
    """Return a change of scores that computes one criterion by another formula."""
    return lambda _, a: {"scores": np.asarray(score(a))} if a["criterion"] == criterion else {}


def at(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"]]


def n_for_the_budget_of_a_group(a: Values) -> Values:
    if a["pattern"] is None:
        return right("update.event")(a)
    parts = [part | {"budget": np.full_like(part["budget"], a["pattern"][0])} for part in a["parts"]]
    return right("update.event")(a | {"parts": parts})


def looked_at_where_it_is_scored(a: Values) -> Values:
    parts = [part | {"gradient": np.nan_to_num(part["gradient"])} for part in a["parts"]]
    return right("update.event")(a | {"parts": parts})


def looked_at_among_candidates(a: Values) -> Values:
    parts = [
        part | {"gradient": part["gradient"] if part["candidates"] is None else np.nan_to_num(part["gradient"])}
        for part in a["parts"]
    ]
    return right("update.event")(a | {"parts": parts})


MUTANTS: list[Mutant] = [
    *mutants("update.event",
        ("GRD-007 EVT-005", looked_at_among_candidates, "NaN on the support goes unseen, first-step"),
        ("DLT-001 EVT-009", n_for_the_budget_of_a_group, "N for what a group stored at load"),
        ("EVT-005", looked_at_where_it_is_scored, "NaN off what is scored goes unseen"),
        ("GRD-009", window.opened, "support if on_support else None", "None",
         "evidence kept everywhere with growth on the base"),
        ("DROP-003", choosing(drop="magnitude"), "always drops by |φ|"),
        ("DROP-004", choosing(drops="slot"), "the base of a dropped weight stays"),
        ("DROP-004", evolve._move, "base_without(base, gone)", "base_without(base, dropped)",
         "a position that grows again leaves the base"),
        ("GROW-004", choosing(grow="gradient"), "always grows by |ḡ|"),
        ("GROW-005", choosing(regrow=1), "just-dropped positions always candidates"),
        ("GROW-006", choosing(candidates="all"), "all positions candidates"),
        ("GRD-007", of_parts(candidates=lambda p: None if p["candidates"] is None else p["candidates"][:1]),
         "one candidate alone"),
        ("GROW-007 EVT-009 TOP-005", scope_taken_for_matrix, "scope taken for matrix"),
        ("ADPT-005", choosing(adapt="sensitivity"), "always adapts by |ḡ · W|"),
        ("ADPT-005 GRD-005", of_parts(absolute=lambda p: np.abs(p["gradient"])), "|ḡ| for mean |g|"),
        ("ADPT-005 GRD-008", of_parts(tokens=lambda p: p["square"]), "mean g² for the squares of tokens"),
        ("ADPT-006", choosing(counts="support"), "always counts the support"),
        ("ADPT-007", choosing(exempt="new"), "only new slots exempt"),
        ("DLT-006", choosing(moments="zero"), "new slots start without moments"),
        ("DLT-006", of_parts(steps=lambda p: 1), "A taken for 1"),
        ("EVT-008", choosing(adapts="always"), "always adapts"),
        ("SCH-008", choosing(first_event="fraction"), "the first event like the others"),
        ("RNG-003", {"seed": lambda a: a["seed"] + 1}, "another seed"),
        ("RNG-003", {"step": lambda a: a["step"] - 1}, "steps from 0"),
        ("SEL-007 DLT-001", matrices_apart, "matrices always apart"),
        ("DLT-001", of_parts(budget=lambda p: p["budget"] + 1), "a budget of K + 1"),
        ("EVT-006", base_moves_in, "grown positions join the base"),
        ("OPT-008",
         of_parts(row_moments=lambda p: None if p["row_moments"] is None else p["row_moments"] * 0 + 1),
         "rows forgotten at events"),
        ("TRN-009", told("dropped", lambda n: 0), "no count of dropped slots"),
        ("TRN-009", told("reactivated", lambda n: n + 1), "one reactivated too many"),
        ("SEL-008 TRN-009", told("drop", lambda b: b[:0]), "no boundary of the drop"),
        unchecked="EVT-005"),
    edited("GRD-009", "event.ratios", window.opened, "support if on_support else None", "None",
     "a norm of the whole ḡ with growth on the base"),
    edited("GRD-009", "state.write", window.opened, "support if on_support else None", "None",
     "sums of every position with growth on the base"),
]  # fmt: skip
