"""Whole runs of a tiny model by every preset and scope, certified like those of `train`."""

from typing import Any

from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.gen.tiny import CONFIG, world
from conformance.gen.train import GAP
from conformance.oracle import choices, train
from conformance.oracle.model import Config

_SETTINGS: dict[str, Any] = {
    "start": "random",
    "initial_scope": "active",
    "budget_by": "numel",
    "optimizer": "adamw",
    "momentum": 0.9,
    "steps": 7,
    "rows": 4,
    "micro_batches": 2,
    "length": 5,
    "density": 0.25,
    "evolve_every": 3,
    "drop_fraction": 0.6,
    "gradient_window": 1,
    "lr": 2.0**-5,
    "warmup": 0,
    "schedule": "constant",
    "max_norm": 1.0,
    "weight_decay": 0.0,
}
_SPIEL = {"start": "random", "initial_scope": "anywhere", "max_norm": 0.0, "evolve_every": 4, "gradient_window": 2}
_SGD = {
    "start": "magnitude",
    "budget_by": "nnz",
    "density": 1.0,
    "optimizer": "sgd",
    "drop_fraction": 0.9,
    "evolve_every": 2,
}
_SET = _SGD | {"drop_fraction": 0.3, "evolve_every": 3}
_RUNS: tuple[tuple[str, dict[str, Any], dict[str, Any], str, str], ...] = (
    ("literal", {}, {}, "EVT-011 ADPT-006 EVT-004", "zeros counted, at events or not after the last step"),
    ("unprotected", {}, {"steps": 4, "evolve_every": 2}, "EVT-011 ADPT-007", "new slots exempt"),
    ("magnitude", {}, {"steps": 4, "evolve_every": 2}, "EVT-011 ADPT-005", "sensitivity in the last pass"),
    (
        "spiel-ag",
        {},
        _SPIEL | {"optimizer": "spiel-adamw"},
        "EVT-011 SCH-005 SCH-006 SCH-008 GRD-007 GROW-006 DLT-004 DLT-006 OPT-006 EVT-008",
        "a window of A steps in later phases, candidates of its last step, a last pass",
    ),
    (
        "spiel-ma",
        {},
        _SPIEL | {"optimizer": "sm3"},
        "EVT-011 OPT-008 GROW-004 GROW-005",
        "accumulators that start anew at events, or from before the step",
    ),
    ("rigl", {}, _SGD, "EVT-011 EVT-010 OPT-007 SCH-007 DLT-002 DROP-004", "a step beside an event, an event after E"),
    (
        "set",
        {},
        _SET,
        "EVT-011 RNG-003 SCH-006 DROP-003",
        "draws that ignore the step, or an annealed fraction",
    ),
    ("seft", {"scope": "row"}, {"density": 0.5, "drop_fraction": 1.0}, "EVT-009 DLT-001", "rows that trade budgets"),
    (
        "seft",
        {"scope": "model"},
        {"budget_by": "rank", "rank": 1, "steps": 4, "evolve_every": 2},
        "EVT-009 DLT-002",
        "matrices that keep theirs",
    ),
    (
        "seft",
        {"scope": "group"},
        {"pattern": [2, 4], "budget_by": "count", "slots": 24},
        "EVT-009 GROW-007 DLT-002",
        "a group of 4 with more than 2 after an event",
    ),
    (
        "no-adapt",
        {"drop": "change", "grow": "curvature", "adapt": "curvature"},
        {"gradient_window": 2, "evolve_every": 2, "steps": 5, "start": "gradient"},
        "GRD-006 DROP-003 EVT-008",
        "inputs of the last step only, or φ₀ of the last event",
    ),
)


def _certified(config: Config, settings: dict[str, Any], want: tuple[str, ...]) -> tuple[int, train.Run, Any]:
    """Return the first seed whose run hangs on no gap below GAP and moves something of each kind wanted."""
    for seed in range(300):
        found = world(Numbers(61, seed), config, pattern="pattern" in settings)
        run = train.run(config, *found, settings | {"seed": seed})
        if run.gap >= GAP and all(run.moves[name] for name in want):
            return seed, run, found
    msg = "no seed with a gap large enough"
    raise AssertionError(msg)


def runs() -> Area:
    """EVT-011 and EVT-009 in whole runs."""
    area = Area("train-rule", "binary64 run")
    for preset, change, more, clauses, purpose in _RUNS:
        rule = choices.rule_of(preset) | change
        settings = _SETTINGS | more | {"rule": rule}
        want = ("dropped", "grown", *(["pruned"] if rule["adapts"] == "always" else []))
        seed, run, (tensors, stored, text) = _certified(CONFIG, settings, want)
        given = {"config": CONFIG, "tensors": tensors, "stored": {k: ids(v) for k, v in stored.items()}}
        given |= {"text": ids(text), "settings": settings | {"seed": seed}}
        answer: dict[str, Any] = {"losses": reals(run.losses), "budgets": ids(run.budgets)}
        answer |= {"delta_budgets": ids(run.delta_budgets)}
        answer["slots"] = [[ids(eta) for eta, _ in event] for event in run.events]
        answer["bases"] = [[ids(b) for _, b in event] for event in run.events]
        answer["support"] = [ids(w) for w in run.final]
        answer["weights"] = [reals(w.values()) for w in run.final]
        scope = rule["scope"]
        name = preset if scope == "matrix" and not change else f"{preset}-{scope}" if "scope" in change else "evidence"
        area.add(name, "train.run", f"{clauses} TRN-002", purpose, given, answer)
    return area


AREAS = (runs,)
