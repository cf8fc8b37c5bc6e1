"""Counts, budgets, schedules and first positions (chapter 8: SEL-006, DLT, SCH)."""

from typing import Any

import numpy as np

from conformance.answers.answer import Answer, Inputs, answers, ids, refuse
from conformance.cases.case import Bound
from conformance.oracle import update_counts, update_schedule

__all__: list[str] = []


@answers("count.budget")
def _budget(a: Inputs) -> dict[str, Any]:
    refuse(DLT_002=not 0 < a["density"] <= 1)
    return {"n": update_counts.delta_budget(a["density"], a["out"], a["in"], a["stored"])}


@answers("count.budgets")
def _budgets(a: Inputs) -> dict[str, Any]:
    refuse(DLT_002=a["by"] in ("numel", "nnz") and not 0 < a["amount"] <= 1)
    shapes = [(int(rows), int(cols)) for rows, cols in a["shapes"]]
    return {"n": ids(update_counts.delta_budgets(a["by"], a["amount"], shapes, a["stored"].tolist()))}


@answers("count.drop")
def _drop(a: Inputs) -> dict[str, Any]:
    fraction = update_schedule.drop_fraction(a["drop_fraction"], a["step"], a["steps"])
    return {"n": update_counts.count(fraction * a["slots"])}


@answers("schedule.fraction")
def _fraction(a: Inputs) -> Answer:
    return _near(update_schedule.drop_fraction(a["drop_fraction"], a["step"], a["steps"]), a["drop_fraction"], 2)


def _near(value: float, gauge: float, terms: int) -> Answer:
    return Answer({"value": value}, {"value": Bound(np.asarray(gauge, dtype=np.float64), terms)})


@answers("schedule.drops")
def _drops(a: Inputs) -> Answer:
    refuse(
        SCH_001=a["drop_schedule"] not in ("cosine", "linear", "constant") or not 0 <= a["drop_fraction"] <= 1,
        SCH_007=not 0 < a["evolve_until"] <= 1,
        SCH_008=a["first_event"] not in ("fraction", "all"),
    )
    last = update_schedule.last_event(a["steps"], a["evolve_until"])
    value = update_schedule.scheduled(a["drop_schedule"], a["drop_fraction"], a["step"], last)
    # SCH-008
    value = 1.0 if a["first_event"] == "all" and a["first"] else value
    return _near(value, a["drop_fraction"] if value < 1 else 1.0, 2)


@answers("schedule.events")
def _events(a: Inputs) -> dict[str, Any]:
    steps, every = a["steps"], a["evolve_every"]
    return {"at": ids(step for step in range(1, steps + 1) if update_schedule.is_event(step, steps, every))}


@answers("schedule.all_events")
def _all_events(a: Inputs) -> dict[str, Any]:
    kind, every, window = a["events"], a["evolve_every"], a["gradient_window"]
    outside = not 0 <= window <= every - 2 if kind == "phases" else not 1 <= window <= every
    refuse(
        SCH_003=kind not in ("period", "phases"),
        SCH_007=not 0 < a["evolve_until"] <= 1,
        SCH_005=kind == "phases" and outside,
        TRN_005=kind in ("period", "phases") and outside,
    )
    at, sums = update_schedule.all_events(kind, a["steps"], every, a["evolve_until"], window)
    return {"at": ids(at), "sums": ids(sums)}


@answers("schedule.spiel")
def _spiel(a: Inputs) -> dict[str, Any]:
    refuse(SCH_005=not 0 <= a["accumulate"] <= a["period"] - 2)
    ends, sums = update_schedule.spiel_phases(a["period"], a["accumulate"], a["steps"])
    return {"at": ids(ends), "sums": ids(sums)}


@answers("schedule.learning_rate")
def _learning_rate(a: Inputs) -> Answer:
    refuse(SCH_004=a["kind"] not in ("constant", "linear", "cosine"))
    value = update_schedule.learning_rate(a["kind"], a["lr"], a["step"], a["steps"], a["warmup"])
    return _near(value, a["lr"], 4)


@answers("delta.initial_random")
def _initial_random(a: Inputs) -> dict[str, Any]:
    refuse(SEL_005=not 0 <= a["n"] <= len(a["base"]), RNG_002=not 0 <= a["seed"] < 2**64)
    return {"positions": ids(update_counts.initial_random(a["base"].tolist(), a["n"], a["seed"], a["matrix"]))}


@answers("delta.initial")
def _initial(a: Inputs) -> dict[str, Any]:
    by, scope, gradient = a["by"], a["scope"], a["gradient"]
    refuse(DLT_004=by not in ("random", "gradient", "magnitude") or scope not in ("active", "anywhere"))
    stored = a["base"].tolist()
    open_to = list(range(a["out"] * a["in"])) if scope == "anywhere" else stored
    refuse(SEL_005=not 0 <= a["n"] <= len(open_to))
    positions = update_counts.initial(
        by,
        open_to,
        a["n"],
        seed=a["seed"],
        matrix=a["matrix"],
        gradient=[] if gradient is None else gradient.reshape(-1).tolist(),
        base=dict(zip(stored, a["base_values"].tolist(), strict=True)),
    )
    return {"positions": ids(positions)}
