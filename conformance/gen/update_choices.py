"""Cases of chapter 8: budgets, schedules, initial positions, presets, and choices that contradict each other."""

from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.oracle import update_choices, update_counts, update_schedule


def budgets() -> Area:
    """Return cases of budgets, drop fractions and events (DLT-002, SCH-001 to SCH-008)."""
    area = Area("budget", "integers and binary64")
    shapes, stored = [(8, 8), (4, 8), (10, 8), (8, 10)], [32, 16, 7, 60]
    for name, by, amount, purpose in (
        ("numel", "numel", 0.15, "stored weights taken for the size, or the cap left out"),
        ("nnz", "nnz", 0.29, "size taken for stored weights"),
        ("nnz-all", "nnz", 1.0, "RigL: every stored weight is a slot"),
        ("count", "count", 50, "equal shares, shares of stored weights, or floats for integers"),
        ("count-one", "count", 1, "a share rounded up"),
        ("count-many", "count", 2000, "the cap K left out"),
        ("rank", "rank", 1, "r · out · in, or out + in of another matrix"),
        ("rank-3", "rank", 3, "the cap K left out"),
    ):
        n = update_counts.delta_budgets(by, amount, shapes, stored)
        inputs = {"by": by, "amount": amount, "shapes": np.array(shapes, dtype=np.int64), "stored": ids(stored)}
        area.add(name, "count.budgets", "DLT-002 SEL-006", purpose, inputs, {"n": ids(n)})
    large = [(2**27, 2**27), (2**27 + 1, 3)]
    inputs = {"by": "count", "amount": 2**20 + 1, "shapes": np.array(large, dtype=np.int64), "stored": ids([2**40] * 2)}
    answer = {"n": ids(update_counts.delta_budgets("count", 2**20 + 1, large, [2**40] * 2))}
    area.add("count-large", "count.budgets", "DLT-002", "n · out · in in 64 bits, or in binary64", inputs, answer)
    none = {"by": "rank", "amount": 4, "shapes": np.zeros((0, 2), dtype=np.int64), "stored": ids([])}
    area.add("no-targets", "count.budgets", "DLT-002", "a model without targets", none, {"n": ids([])})
    empty = {"by": "count", "amount": 4, "shapes": np.array([[0, 4]], dtype=np.int64), "stored": ids([0])}
    area.add("no-positions", "count.budgets", "DLT-002", "a share of no positions", empty, {"n": ids([0])})
    for density in (0.0, -0.5, 1.5):
        bad = {"by": "nnz", "amount": density, "shapes": np.array(shapes, dtype=np.int64), "stored": ids(stored)}
        text = "a density outside (0, 1]"
        area.add(f"refuse-{density}", "count.budgets", "TRN-008 DLT-002", text, bad, refused="DLT-002")
    _fractions(area)
    _events(area)
    return area


def _fractions(area: Area) -> None:
    for kind, step, steps, until, how, first in (
        ("cosine", 20, 80, 1.0, "fraction", 1),
        ("cosine", 20, 80, 0.75, "fraction", 0),
        ("cosine", 60, 80, 0.75, "fraction", 0),
        ("linear", 20, 80, 1.0, "fraction", 0),
        ("linear", 40, 80, 0.5, "fraction", 0),
        ("linear", 5, 45, 1.0, "all", 1),
        ("linear", 25, 45, 1.0, "all", 0),
        ("constant", 20, 80, 0.75, "fraction", 0),
        ("cosine", 10, 100, 0.29, "all", 1),
        ("cosine", 10, 100, 0.29, "all", 0),
    ):
        value = update_schedule.scheduled(kind, 0.3, step, update_schedule.last_event(steps, until))
        if how == "all" and first:
            value = 1.0
        inputs = {"drop_schedule": kind, "drop_fraction": 0.3, "step": step, "steps": steps, "evolve_until": until}
        inputs |= {"first_event": how, "first": first}
        clause = {"cosine": "SCH-001", "linear": "SCH-006", "constant": "SCH-006"}[kind]
        clauses = f"{clause} SCH-007 SEL-006" + (" SCH-008" if how == "all" else "")
        text = "annealing to T instead of E, or the first event like the others"
        name = f"drops-{kind}-{step}-{steps}-{until}-{how}-{first}"
        bound = {"value": Bound(np.asarray(0.3 if value < 1 else 1.0), 2)}
        area.add(name, "schedule.drops", clauses, text, inputs, {"value": value}, bounds=bound)
    good = {"drop_schedule": "linear", "drop_fraction": 0.3, "step": 5, "steps": 40, "evolve_until": 1.0}
    good |= {"first_event": "fraction", "first": 0}
    for name, more, clause in (
        ("until-0", {"evolve_until": 0.0}, "SCH-007"),
        ("until-above", {"evolve_until": 1.25}, "SCH-007"),
        ("schedule", {"drop_schedule": "exponential"}, "SCH-001"),
        ("fraction", {"drop_fraction": 1.5}, "SCH-001"),
        ("first", {"first_event": "none"}, "SCH-008"),
    ):
        text = "a schedule outside its range"
        area.add(f"refuse-drops-{name}", "schedule.drops", clause, text, good | more, refused=clause)


def _events(area: Area) -> None:
    for kind, steps, every, until, window in (
        ("period", 80, 20, 1.0, 1),
        ("period", 80, 20, 0.75, 5),
        ("period", 80, 20, 0.74, 20),
        ("period", 100, 29, 0.29, 3),
        ("phases", 50, 20, 1.0, 5),
        ("phases", 45, 20, 1.0, 5),
        ("phases", 50, 20, 0.5, 5),
        ("phases", 40, 10, 1.0, 0),
        ("phases", 28, 10, 0.75, 8),
    ):
        at, sums = update_schedule.all_events(kind, steps, every, until, window)
        inputs = {"events": kind, "steps": steps, "evolve_every": every, "evolve_until": until}
        inputs |= {"gradient_window": window}
        clauses = f"SCH-007 {'SCH-003 TRN-005' if kind == 'period' else 'SCH-005'}"
        text = "an event after E, one at E left out, or a window a step off"
        name = f"events-{kind}-{steps}-{every}-{until}-{window}"
        area.add(name, "schedule.all_events", clauses, text, inputs, {"at": ids(at), "sums": ids(sums)})
    good: dict[str, Any] = {"events": "phases", "steps": 50, "evolve_every": 20, "evolve_until": 1.0}
    good |= {"gradient_window": 5}
    for name, more, clause in (
        ("phases-19", {"gradient_window": 19}, "SCH-005 TRN-005"),
        ("phases-negative", {"gradient_window": -1}, "SCH-005 TRN-005"),
        ("period-0", {"events": "period", "gradient_window": 0}, "TRN-005"),
        ("period-21", {"events": "period", "gradient_window": 21}, "TRN-005"),
        ("until", {"evolve_until": -0.5}, "SCH-007"),
        ("unknown", {"events": "epochs"}, "SCH-003"),
    ):
        text = "a schedule outside its range"
        area.add(f"refuse-events-{name}", "schedule.all_events", clause, text, good | more, refused=clause)


def initial() -> Area:
    """Return cases of initial positions (DLT-004)."""
    area = Area("initial", "sorted tuples")
    n = Numbers(74, 1)
    shape, size = (5, 7), 35
    stored = n.subset(size, 19)
    values = [float(x) / 2 for x in n.integers(19, -3, 3)]
    values[3], values[4] = 0.0, -0.0
    gradient = n.lattice(shape, 3)
    base = dict(zip(stored, values, strict=True))
    flat = [float(x) for x in gradient.reshape(-1)]
    for by, scope, k, purpose in (
        ("random", "active", 6, "draws numbered by slot"),
        ("random", "anywhere", 6, "positions of B only, or draws numbered within B"),
        ("gradient", "active", 8, "positions off B, or ties to a higher position"),
        ("gradient", "anywhere", 8, "positions of B only"),
        ("gradient", "anywhere", 0, "one slot where none should be"),
        ("magnitude", "active", 11, "b without its absolute value, ties to a higher position"),
        ("magnitude", "active", 19, "a stored zero left out"),
        ("magnitude", "anywhere", 11, "the smallest |b|"),
        ("magnitude", "anywhere", 19, "stored zeros before absent positions: both are 0"),
    ):
        open_to = list(range(size)) if scope == "anywhere" else stored
        eta = update_counts.initial(by, open_to, k, seed=5, matrix=3, gradient=flat, base=base)
        inputs = {"out": 5, "in": 7, "base": ids(stored), "base_values": reals(values), "n": k, "by": by}
        inputs |= {"scope": scope, "seed": 5, "matrix": 3} | ({"gradient": gradient} if by == "gradient" else {})
        clauses = "DLT-004" + (" RNG-002" if by == "random" else " SEL-001")
        area.add(f"{by}-{scope}-{k}", "delta.initial", clauses, purpose, inputs, {"positions": ids(eta)})
    for name, more in (("by", {"by": "movement"}), ("scope", {"scope": "everywhere"})):
        inputs = {"out": 1, "in": 2, "base": ids([0]), "base_values": reals([1.0]), "n": 1, "by": "random"}
        inputs |= {"scope": "active", "seed": 0, "matrix": 0} | more
        area.add(f"refuse-{name}", "delta.initial", "DLT-004", "an unknown choice", inputs, refused="DLT-004")
    return area


_GROUP: dict[str, Any] = {"scope": "group", "pattern": [2, 4]}
_FIRST = {"candidates": "first-step"}


def _refused() -> list[tuple[str, dict[str, Any], str]]:
    """Return (name, choices, clause that must be named) of choices that must be refused."""
    unknown = [(f"unknown-{key}", {key: "nonsense"}, clause) for key, (_, clause) in update_choices.VALUES.items()]
    return [
        *unknown,
        ("until-0", {"evolve_until": 0.0}, "SCH-007"),
        ("pattern-anywhere", {"pattern": [2, 4], "grow_scope": "anywhere"}, "EVT-007"),
        ("anywhere-always", {"initial_scope": "anywhere"}, "EVT-012"),
        ("anywhere-end", {"initial_scope": "anywhere", "adapts": "end"}, "EVT-012"),
        ("moments-adamw", {"grow": "moments"}, "EVT-012"),
        ("seeded-sm3", {"moments": "seeded", "optimizer": "sm3"}, "EVT-012"),
        ("first-random", _FIRST | {"grow": "random"}, "EVT-012"),
        ("first-grow-curvature", _FIRST | {"grow": "curvature"}, "EVT-012"),
        ("first-active", _FIRST | {"grow_scope": "active"}, "EVT-012"),
        ("first-row", _FIRST | {"scope": "row"}, "EVT-012"),
        ("first-model", _FIRST | {"scope": "model"}, "EVT-012"),
        ("first-activation", _FIRST | {"adapt": "activation"}, "EVT-012"),
        ("first-curvature", _FIRST | {"adapt": "curvature"}, "EVT-012"),
        ("group-alone", {"scope": "group"}, "EVT-012"),
        ("group-end", _GROUP | {"adapts": "end"}, "EVT-012"),
        ("group-never", _GROUP | {"adapts": "never"}, "EVT-012"),
        ("group-values", _GROUP | {"counts": "values"}, "EVT-012"),
        ("group-slots", _GROUP | {"exempt": "slots"}, "EVT-012"),
        ("group-none", _GROUP | {"exempt": "none"}, "EVT-012"),
        ("group-weight", _GROUP | {"drops": "weight"}, "EVT-012"),
        ("group-active", _GROUP | {"grow_scope": "active"}, "EVT-012"),
        ("weight-active", {"drops": "weight", "grow_scope": "active"}, "EVT-012"),
        ("weight-pattern", {"drops": "weight", "pattern": [2, 4]}, "EVT-012"),
        ("row-slots", {"scope": "row", "exempt": "slots"}, "EVT-012"),
        ("count-without", {"budget_by": "count"}, "EVT-012"),
        ("rank-without", {"budget_by": "rank"}, "EVT-012"),
        ("slots-beside", {"slots": 100}, "EVT-012"),
        ("rank-beside", {"budget_by": "nnz", "rank": 2}, "EVT-012"),
    ]


def preset() -> Area:
    """Return cases of presets, and of choices that are checked (EVT-007, EVT-011, EVT-012)."""
    area = Area("choices", "a table")
    for name in update_choices.PRESETS:
        text = "a choice unlike the table"
        answer = {"choices": update_choices.spelled(name)}
        area.add(f"preset-{name}", "preset.rule", "EVT-011", text, {"name": name}, answer)
    text = "an unknown preset is taken for the default"
    area.add("refuse-preset", "preset.rule", "EVT-011", text, {"name": "nonsense"}, refused="EVT-011")
    good: dict[str, dict[str, Any]] = {
        "defaults": {},
        "anywhere-never": {"initial_scope": "anywhere", "adapts": "never"},
        "moments-sm3": {"grow": "moments", "optimizer": "sm3"},
        "seeded-sgd": {"moments": "seeded", "optimizer": "sgd"},
        "first-fisher": _FIRST | {"grow": "fisher"},
        "first-mean-magnitude": _FIRST | {"grow": "absolute", "adapt": "absolute"},
        "first-tokens": _FIRST | {"adapt": "token-fisher"},
        "group": _GROUP,
        "pattern": {"pattern": [2, 4]},
        "pattern-active": {"pattern": [2, 4], "grow_scope": "active", "scope": "row"},
        "row-none": {"scope": "row", "exempt": "none"},
        "count": {"budget_by": "count", "slots": 100},
        "rank": {"budget_by": "rank", "rank": 2},
    }
    good |= {
        f"rule-of-{name}": _without_numbers(update_choices.PRESETS[name])
        for name in ("spiel-ag", "spiel-adapt", "spiel-ma", "rigl")
    }
    for name, choices in good.items():
        update_choices.check(choices)
        area.add(f"good-{name}", "rule.check", "EVT-012", "refused too much", {"choices": choices}, {"ok": 1})
    for name, choices, clause in _refused():
        text = "taken as it is, or refused under another clause than the first of the table"
        clauses = f"TRN-008 {clause}" if name.startswith("unknown") else clause
        area.add(f"refuse-{name}", "rule.check", clauses, text, {"choices": choices}, refused=clause)
    return area


def _without_numbers(rule: dict[str, Any]) -> dict[str, Any]:
    """Return the choices of a preset, without periods, rates and densities."""
    numbers = ("evolve_every", "gradient_window", "density", "drop_fraction", "max_norm")
    return {key: value for key, value in rule.items() if key not in numbers}


AREAS = (
    budgets,
    initial,
    preset,
)
