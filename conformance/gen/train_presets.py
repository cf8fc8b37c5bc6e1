"""Cases of whole runs of a tiny model by every preset and scope, with seeds chosen as in `train`."""

from typing import Any

from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.gen.tiny import CONFIG, world
from conformance.gen.train import GAP
from conformance.oracle import train, update_choices

SETTINGS: dict[str, Any] = {
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

_MANY = {"density": 0.5, "drop_fraction": 1.0}
_SPIEL = {"start": "random", "initial_scope": "anywhere", "max_norm": 0.0, "evolve_every": 4, "gradient_window": 2}


_SPIEL |= {"drop_fraction": 1.0, "steps": 8}


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
    (
        "literal",
        {},
        _MANY,
        "EVT-011 ADPT-006 EVT-004",
        "zeros counted, at events or not after the last step",
    ),
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
        "spiel-adapt",
        {},
        _SPIEL | {"optimizer": "spiel-adamw", "initial_scope": "active"},
        "EVT-011 GRD-007 ADPT-002 EVT-008",
        "no pruning, or one with the gradient of the last step",
    ),
    (
        "spiel-ma",
        {},
        _SPIEL | {"optimizer": "sm3"},
        "EVT-011 OPT-008 GROW-004 GROW-005",
        "accumulators that start anew at events, or from before the step",
    ),
    (
        "rigl",
        {},
        _SGD | {"density": 0.5},
        "EVT-011 EVT-010 OPT-007 SCH-007 DLT-002 DROP-004",
        "a step beside an event, an event after E",
    ),
    (
        "set",
        {},
        _SET,
        "EVT-011 RNG-003 SCH-006 DROP-003",
        "draws that ignore the step, or an annealed fraction",
    ),
    ("seft", {"scope": "row"}, _MANY, "EVT-009 DLT-001", "rows that trade budgets"),
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
        {"drop": "change", "grow": "curvature", "adapt": "curvature", "drop_schedule": "constant"},
        {"gradient_window": 2, "evolve_every": 2, "steps": 5, "start": "gradient", "density": 0.5},
        "GRD-006 DROP-003 EVT-008",
        "inputs of the last step only, or φ₀ of the last event",
    ),
    (
        "seft",
        {"adapt": "token-fisher"},
        {"gradient_window": 2, "evolve_every": 2, "steps": 5, "density": 0.5},
        "GRD-008 ADPT-005 EVT-004",
        "the square of the gradient of the step, or of the last step only",
    ),
    (
        "seft",
        {"adapt": "absolute", "grow": "fisher"},
        {"gradient_window": 3, "steps": 7, "density": 0.5},
        "GRD-005 ADPT-005",
        "|ḡ| taken for the mean of |g|",
    ),
)

WRONG: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "literal": [
        ({"counts": "support"}, {}),
    ],
    "unprotected": [
        ({"exempt": "new"}, {}),
        ({"adapts": "end"}, {}),
    ],
    "magnitude": [
        ({"adapt": "sensitivity"}, {}),
        ({"adapts": "never"}, {}),
    ],
    "spiel-ag": [
        ({"candidates": "all"}, {}),
        ({"moments": "zero"}, {}),
        ({"events": "period"}, {}),
        ({"drop_schedule": "cosine"}, {}),
        ({"first_event": "fraction"}, {}),
        ({}, {"initial_scope": "active"}),
        ({}, {"optimizer": "adamw"}),
        ({}, {"gradient_window": 1}),
    ],
    "spiel-adapt": [
        ({"adapts": "end"}, {}),
        ({"adapt": "magnitude"}, {}),
        ({"candidates": "all"}, {}),
        ({}, {"gradient_window": 1}),
    ],
    "spiel-ma": [
        ({"regrow": 1}, {}),
        ({"grow": "gradient"}, {}),
        ({"adapts": "end"}, {}),
    ],
    "rigl": [
        ({"event_replaces_step": 0}, {}),
        ({"evolve_until": 1.0}, {}),
        ({"drops": "slot"}, {}),
        ({"drop": "magnitude"}, {}),
        ({}, {"momentum": 0.0}),
        ({}, {"budget_by": "numel"}),
        ({}, {"start": "gradient"}),
    ],
    "set": [
        ({"grow": "gradient"}, {}),
        ({"drop_schedule": "cosine"}, {}),
    ],
    "seft-row": [
        ({"scope": "matrix"}, {}),
    ],
    "seft-model": [
        ({"scope": "matrix"}, {}),
        ({}, {"budget_by": "numel"}),
    ],
    "seft-group": [
        ({"scope": "matrix"}, {}),
        ({}, {"budget_by": "nnz"}),
    ],
    "adapt-token-fisher": [
        ({"adapt": "sensitivity"}, {}),
        ({"adapt": "fisher"}, {}),
        ({}, {"gradient_window": 1}),
    ],
    "adapt-absolute": [
        ({"adapt": "sensitivity"}, {}),
        ({"grow": "gradient"}, {}),
        ({}, {"gradient_window": 1}),
    ],
    "evidence": [
        ({"drop": "magnitude"}, {}),
        ({"grow": "gradient"}, {}),
        ({"adapt": "sensitivity"}, {}),
        ({}, {"gradient_window": 1}),
    ],
}
"""Name of a run -> pairs of wrong choices and wrong settings. Each pair must give another run."""


def _certified(name: str, settings: dict[str, Any], want: tuple[str, ...]) -> tuple[int, train.Run, Any]:
    """Return the first seed whose run depends on no gap below GAP, makes the moves `want`, and differs from WRONG."""
    for seed in range(100):
        drawn = world(Numbers(61, seed), CONFIG, pattern="pattern" in settings)
        mine = settings | {"seed": seed}
        run = train.run(CONFIG, *drawn, mine)
        if run.gap < GAP or not all(run.moves[kind] for kind in want):
            continue
        wrong = (mine | setting | {"rule": mine["rule"] | choice} for choice, setting in WRONG[name])
        if all(_differ(train.run(CONFIG, *drawn, other), run) for other in wrong):
            return seed, run, drawn
    msg = f"no seed for {name}"
    raise AssertionError(msg)


def _differ(one: train.Run, two: train.Run) -> bool:
    """Return whether two runs made different choices, or have losses that differ by more than rounding."""
    if [list(w) for w in one.final] != [list(w) for w in two.final] or one.events != two.events:
        return True
    far = max(abs(a - b) / b for a, b in zip(one.losses, two.losses, strict=True))
    return one.delta_budgets != two.delta_budgets or far > 2e-3


def runs() -> Area:
    """Return cases of whole runs by preset and scope (EVT-011, EVT-009)."""
    area = Area("train-rule", "binary64 run")
    for preset, change, more, clauses, purpose in _RUNS:
        rule = update_choices.rule_of(preset) | change
        settings = SETTINGS | more | {"rule": rule}
        want = ("dropped", "grown", *(["pruned"] if rule["adapts"] == "always" else []))
        scope = rule["scope"]
        name = f"{preset}-{scope}" if "scope" in change else preset
        if change and name == preset:
            name = f"adapt-{rule['adapt']}" if rule["adapts"] == "always" else "evidence"
        seed, run, (tensors, stored, text) = _certified(name, settings, want)
        inputs = {"config": CONFIG, "tensors": tensors, "stored": {k: ids(v) for k, v in stored.items()}}
        inputs |= {"text": ids(text), "settings": settings | {"seed": seed}}
        answer: dict[str, Any] = {"losses": reals(run.losses), "budgets": ids(run.budgets)}
        answer |= {"delta_budgets": ids(run.delta_budgets)}
        answer["slots"] = [[ids(eta) for eta, _ in event] for event in run.events]
        answer["bases"] = [[ids(b) for _, b in event] for event in run.events]
        answer["support"] = [ids(w) for w in run.final]
        answer["weights"] = [reals(w.values()) for w in run.final]
        area.add(name, "train.run", f"{clauses} TRN-002", purpose, inputs, answer)
    return area


AREAS = (runs,)
