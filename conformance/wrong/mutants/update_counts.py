"""Mutants of counts, schedules and budgets (DLT, SCH)."""

import math
from collections.abc import Callable

import numpy as np

from conformance.oracle import update_counts, update_schedule
from conformance.wrong.mutants.base import Mutant, Values, after, changed, ids, mutant, right, unchecked


def rate(a: Values) -> float:
    return update_schedule.drop_fraction(a["drop_fraction"], a["step"], a["steps"]) * a["slots"]


def with_nudge(nudge: float, x: Callable[[Values], float]) -> Callable[[Values], Values]:
    def counted(a: Values) -> Values:
        return {"n": min(math.floor(x(a) + nudge), a["stored"] if "stored" in a else a["slots"])}

    return counted


def budget_before_the_cap(a: Values) -> float:
    return float(a["density"] * a["out"] * a["in"])


def draws_by_slot(a: Values) -> Values:
    slots = right("delta.initial_random")(a | {"base": ids(range(len(a["base"])))})["positions"]
    return {"positions": a["base"][slots]}


def without_zeros(out: Values, _: Values) -> Values:
    return {name: values[out["weights"] != 0] for name, values in out.items()}


def base_plus_zero(out: Values, _: Values) -> Values:
    return {"weights": out["weights"] + 0.0}


def rounded_twice(out: Values, a: Values) -> Values:
    delta = a["delta_values"].astype(np.float16).astype(a["delta_values"].dtype)
    return {"weights": right("delta.effective")(a | {"delta_values": delta})["weights"]}


def shared_equally(a: Values) -> Values:
    if a["by"] != "count":
        return right("count.budgets")(a)
    n = int(a["amount"]) // max(len(a["shapes"]), 1)
    return {"n": ids(min(n, int(k)) for k in a["stored"])}


MUTANTS: list[Mutant] = [
    mutant("SEL-006 SCH-002", "count.drop", lambda a: {"n": round(rate(a))}, "round"),
    mutant("SEL-006 SCH-002", "count.drop", lambda a: {"n": int(rate(a))}, "floor without the nudge"),
    mutant("SEL-006 SCH-002", "count.drop", lambda a: {"n": math.ceil(rate(a))}, "ceil"),
    *(
        mutant("SEL-006", op, with_nudge(nudge, x), f"floor(x + {nudge:.0e})")
        for nudge in (1e-3, 1e-5, 9e-7)
        for op, x in (("count.budget", budget_before_the_cap), ("count.drop", rate))
    ),
    mutant("DLT-002", "count.budget", lambda a: {"n": update_counts.count(budget_before_the_cap(a))}, "no cap at K"),
    mutant("SEL-006", "count.budget", lambda a: {"n": min(int(budget_before_the_cap(a)), a["stored"])}, "int()"),
    mutant("DLT-002", "count.budgets", shared_equally, "slots shared equally"),
    mutant(
        "DLT-002",
        "count.budgets",
        changed("count.budgets", by=lambda a: "numel" if a["by"] == "nnz" else a["by"]),
        "always of out · in",
    ),
    *unchecked("count.budgets", "DLT-002"),
    mutant(
        "SCH-001", "schedule.fraction", changed("schedule.fraction", steps=lambda a: a["steps"] + 1), "period T + 1"
    ),
    mutant(
        "SCH-001",
        "schedule.fraction",
        after("schedule.fraction", lambda o, _: {"value": float(np.float32(o["value"]))}),
        "in binary32",
    ),
    mutant(
        "SCH-006 SCH-007",
        "schedule.drops",
        changed("schedule.drops", drop_schedule=lambda a: "cosine"),
        "always cosine",
    ),
    mutant("SCH-007", "schedule.drops", changed("schedule.drops", evolve_until=lambda a: 1.0), "until the last step"),
    mutant(
        "SCH-008",
        "schedule.drops",
        changed("schedule.drops", first_event=lambda a: "fraction"),
        "the first event like the others",
    ),
    *unchecked("schedule.drops", "SCH-001", "SCH-007", "SCH-008"),
    mutant(
        "SCH-003",
        "schedule.events",
        lambda a: {"at": ids(range(a["evolve_every"], a["steps"] + 1, a["evolve_every"]))},
        "an event at step T",
    ),
    mutant(
        "SCH-007",
        "schedule.all_events",
        changed("schedule.all_events", evolve_until=lambda a: 1.0),
        "until the last step",
    ),
    *unchecked("schedule.all_events", "SCH-003", "SCH-005", "SCH-007", "TRN-005"),
    mutant(
        "SCH-004",
        "schedule.learning_rate",
        changed("schedule.learning_rate", step=lambda a: a["step"] - 1),
        "steps from 0",
    ),
    mutant("SCH-004", "schedule.learning_rate", changed("schedule.learning_rate", warmup=lambda a: 0), "no warm-up"),
    *unchecked("schedule.learning_rate", "SCH-004"),
    *unchecked("delta.initial_random", "SEL-005", "RNG-002"),
    mutant(
        "SCH-005", "schedule.spiel", changed("schedule.spiel", steps=lambda a: a["steps"] - 1), "the last phase lost"
    ),
    mutant(
        "SCH-005",
        "schedule.spiel",
        after("schedule.spiel", lambda o, a: {"sums": o["sums"] * 0 + a["accumulate"]}),
        "A steps in every phase",
    ),
    mutant("TOP-004 DLT-003", "delta.effective", after("delta.effective", without_zeros), "zeros leave the support"),
    mutant("DLT-003", "delta.effective", after("delta.effective", base_plus_zero), "−0 of the base becomes +0"),
    mutant("DLT-003", "delta.effective", after("delta.effective", rounded_twice), "φ in sixteen bits"),
    mutant("DLT-004", "delta.initial_random", draws_by_slot, "draws numbered by slot"),
    mutant("DLT-004", "delta.initial", changed("delta.initial", scope=lambda a: "active"), "always among the stored"),
    mutant(
        "DLT-004",
        "delta.initial",
        changed(
            "delta.initial",
            seed=lambda a: a["seed"] + 1,
            gradient=lambda a: None if a["gradient"] is None else np.maximum(a["gradient"], 0),
        ),
        "another seed, g for |g|",
    ),
    *unchecked("delta.initial", "DLT-004"),
]
