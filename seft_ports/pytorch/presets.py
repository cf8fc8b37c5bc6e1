"""The choices of an update rule and the presets as data (table of chapter 8, EVT-011)."""

from typing import Any, Literal

__all__ = ["CHOICES", "CLAUSES", "DEFAULTS", "PRESETS"]

Drop = Literal["magnitude", "change", "fisher", "weight", "random"]
Drops = Literal["slot", "weight"]
Grow = Literal["gradient", "absolute", "fisher", "moments", "curvature", "random"]
GrowScope = Literal["anywhere", "active"]
Candidates = Literal["all", "first-step"]
Moments = Literal["zero", "seeded"]
Adapt = Literal["sensitivity", "absolute", "fisher", "token-fisher", "magnitude", "activation", "curvature", "random"]
Adapts = Literal["always", "end", "never"]
Counts = Literal["support", "values"]
Exempt = Literal["new", "slots", "none"]
Scope = Literal["matrix", "row", "group", "model"]
Events = Literal["period", "phases"]
DropSchedule = Literal["cosine", "linear", "constant"]
FirstEvent = Literal["fraction", "all"]
BudgetBy = Literal["numel", "nnz", "count", "rank"]
InitialPositions = Literal["gradient", "random", "magnitude"]
InitialScope = Literal["active", "anywhere"]
Optimizer = Literal["adamw", "spiel-adamw", "sgd", "sm3"]
Preset = Literal[
    "seft",
    "sensitivity",
    "literal",
    "unprotected",
    "active-only",
    "no-adapt",
    "magnitude",
    "spiel-ag",
    "spiel-adapt",
    "spiel-ma",
    "rigl",
    "set",
    "static",
]

CHOICES: dict[str, Any] = {
    "evolves": True,
    "drop": "magnitude",
    "drops": "slot",
    "grow": "gradient",
    "grow_scope": "anywhere",
    "regrow": True,
    "candidates": "all",
    "moments": "zero",
    "adapt": "sensitivity",
    "adapts": "always",
    "counts": "support",
    "exempt": "new",
    "scope": "matrix",
    "events": "period",
    "drop_schedule": "cosine",
    "first_event": "fraction",
    "evolve_until": 1.0,
    "event_replaces_step": False,
}
"""The choices of a rule and their defaults, which make up the preset `sensitivity`."""

DEFAULTS: dict[str, Any] = CHOICES | {
    "density": 0.02,
    "budget_by": "numel",
    "slots": 0,
    "rank": 0,
    "evolve_every": 20,
    "drop_fraction": 0.2,
    "gradient_window": 1,
    "initial_positions": "gradient",
    "initial_scope": "active",
    "optimizer": "adamw",
}
"""`CHOICES`, and the other settings that a preset may set, with their defaults."""

CLAUSES: dict[str, str] = {
    "evolves": "EVT-001",
    "drop": "DROP-003",
    "drops": "DROP-004",
    "grow": "GROW-004",
    "grow_scope": "GROW-001",
    "regrow": "GROW-005",
    "candidates": "GROW-006",
    "moments": "DLT-006",
    "adapt": "ADPT-005",
    "adapts": "EVT-008",
    "counts": "ADPT-006",
    "exempt": "ADPT-007",
    "scope": "EVT-009",
    "events": "SCH-003",
    "drop_schedule": "SCH-001",
    "first_event": "SCH-008",
    "event_replaces_step": "EVT-010",
    "budget_by": "DLT-002",
    "initial_positions": "DLT-004",
    "initial_scope": "DLT-004",
    "optimizer": "OPT-001",
    "preset": "EVT-011",
}
"""The clause that refuses an unknown name of a choice (TRN-008)."""

_SPIEL: dict[str, Any] = {
    "adapts": "never",
    "events": "phases",
    "drop_schedule": "linear",
    "first_event": "all",
    "evolve_every": 20,
    "gradient_window": 5,
    "density": 0.01,
    "initial_positions": "random",
    "initial_scope": "anywhere",
    "optimizer": "spiel-adamw",
    "max_norm": 0.0,
}
_WEIGHTS: dict[str, Any] = {
    "drop": "weight",
    "drops": "weight",
    "adapts": "never",
    "drop_fraction": 0.3,
    "evolve_every": 100,
    "budget_by": "nnz",
    "density": 1.0,
    "initial_positions": "magnitude",
    "optimizer": "sgd",
}
_SPIEL_AG = _SPIEL | {"candidates": "first-step", "moments": "seeded"}

PRESETS: dict[str, dict[str, Any]] = {
    "seft": {"adapt": "token-fisher"},
    "sensitivity": {},
    "literal": {"counts": "values", "exempt": "none"},
    "unprotected": {"adapt": "token-fisher", "exempt": "none"},
    "active-only": {"grow_scope": "active"},
    "no-adapt": {"adapt": "token-fisher", "adapts": "end"},
    "magnitude": {"adapt": "magnitude"},
    "spiel-ag": _SPIEL_AG,
    "spiel-adapt": _SPIEL_AG | {"adapts": "always", "initial_scope": "active"},
    "spiel-ma": _SPIEL | {"grow": "moments", "regrow": False, "optimizer": "sm3"},
    "rigl": _WEIGHTS | {"evolve_until": 0.75, "event_replaces_step": True},
    "set": _WEIGHTS | {"grow": "random", "drop_schedule": "constant"},
    "static": {"evolves": False},
}
"""Preset -> what it sets (EVT-011); `max_norm` is a setting of the trainer."""
