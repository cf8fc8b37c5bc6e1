"""The choices of an update rule, the presets, and which choices contradict each other (EVT-007, EVT-011, EVT-012)."""

from typing import Any

from conformance.oracle.select_pools import RefusedError

Rule = dict[str, Any]

VALUES: dict[str, tuple[tuple[str, ...], str]] = {
    "drop": (("magnitude", "change", "fisher", "weight", "random"), "DROP-003"),
    "drops": (("slot", "weight"), "DROP-004"),
    "grow": (("gradient", "absolute", "fisher", "moments", "curvature", "random"), "GROW-004"),
    "grow_scope": (("anywhere", "active"), "GROW-001"),
    "candidates": (("all", "first-step"), "GROW-006"),
    "moments": (("zero", "seeded"), "DLT-006"),
    "adapt": (
        ("sensitivity", "absolute", "fisher", "token-fisher", "magnitude", "activation", "curvature", "random"),
        "ADPT-005",
    ),
    "adapts": (("always", "end", "never"), "EVT-008"),
    "counts": (("support", "values"), "ADPT-006"),
    "exempt": (("new", "slots", "none"), "ADPT-007"),
    "scope": (("matrix", "row", "group", "model"), "EVT-009"),
    "events": (("period", "phases"), "SCH-003"),
    "drop_schedule": (("cosine", "linear", "constant"), "SCH-001"),
    "first_event": (("fraction", "all"), "SCH-008"),
    "initial_positions": (("gradient", "random", "magnitude"), "DLT-004"),
    "initial_scope": (("active", "anywhere"), "DLT-004"),
    "budget_by": (("numel", "nnz", "count", "rank"), "DLT-002"),
}
"""The names that a choice may have, and the clause that refuses an unknown one: the first of its row in chapter 8."""

RULE: Rule = {
    "evolves": 1,
    "drop": "magnitude",
    "drops": "slot",
    "grow": "gradient",
    "grow_scope": "anywhere",
    "regrow": 1,
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
    "event_replaces_step": 0,
}
"""The choices of the table of chapter 8 and their defaults: the preset `sensitivity`."""

_SPIEL: Rule = {
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
    "max_norm": 0,
}

_BY_WEIGHT: Rule = {
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

PRESETS: dict[str, Rule] = {
    "seft": {"adapt": "token-fisher"},
    "sensitivity": {},
    "literal": {"counts": "values", "exempt": "none"},
    "unprotected": {"adapt": "token-fisher", "exempt": "none"},
    "active-only": {"grow_scope": "active"},
    "no-adapt": {"adapt": "token-fisher", "adapts": "end"},
    "magnitude": {"adapt": "magnitude"},
    "spiel-ag": {"candidates": "first-step", "moments": "seeded"} | _SPIEL,
    "spiel-adapt": {"candidates": "first-step", "moments": "seeded"}
    | _SPIEL
    | {"adapts": "always", "initial_scope": "active"},
    "spiel-ma": {"grow": "moments", "regrow": 0} | _SPIEL | {"optimizer": "sm3"},
    "rigl": _BY_WEIGHT | {"evolve_until": 0.75, "event_replaces_step": 1},
    "set": _BY_WEIGHT | {"grow": "random", "drop_schedule": "constant"},
    "static": {"evolves": 0},
}
"""The choices and settings of each preset that differ from the defaults (EVT-011)."""


def spelled(preset: str) -> list[str]:
    """Return every choice of a preset and the settings that it names, as sorted texts key=value (EVT-011)."""
    if preset not in PRESETS:
        msg = f"EVT-011: no preset {preset}"
        raise RefusedError(msg)
    choices = RULE | PRESETS[preset]
    return sorted(f"{key}={value if isinstance(value, str) else format(value, 'g')}" for key, value in choices.items())


def rule_of(preset: str) -> Rule:
    """Return the choices of a preset without its settings."""
    return {key: PRESETS[preset].get(key, value) for key, value in RULE.items()}


def check(choices: Rule) -> None:
    """Refuse choices that are unknown, out of range or contradict each other; `pattern` counts as a choice."""
    for key, (names, clause) in VALUES.items():
        if key in choices and choices[key] not in names:
            msg = f"{clause}: {key} {choices[key]}"
            raise RefusedError(msg)
    if not 0 < choices.get("evolve_until", 1.0) <= 1:
        msg = "SCH-007: evolve_until outside (0, 1]"
        raise RefusedError(msg)
    has_pattern = choices.get("pattern") is not None
    scope = choices.get("scope", "matrix")
    # a run without events never grows
    grows = choices.get("evolves", 1)
    if grows and has_pattern and scope != "group" and choices.get("grow_scope") == "anywhere":
        msg = "EVT-007: growth leaves the support of a pattern"
        raise RefusedError(msg)
    if has_pattern and choices.get("initial_scope") == "anywhere":
        msg = "EVT-007: the first slots leave the support of a pattern"
        raise RefusedError(msg)
    narrow = "active" if has_pattern and scope != "group" else "anywhere"
    full = (
        RULE | {"grow_scope": narrow, "optimizer": "adamw", "initial_scope": "active", "budget_by": "numel"} | choices
    )
    for clash in _clashes(full):
        msg = f"EVT-012: {clash}"
        raise RefusedError(msg)


def _clashes(c: Rule) -> list[str]:
    """Return the names of the contradictions among the choices (EVT-012)."""
    group = c["scope"] == "group"
    first = c["candidates"] == "first-step"
    table = {
        "initial_scope with adapts": c["initial_scope"] == "anywhere" and c["adapts"] != "never",
        "grow moments without sm3": c["grow"] == "moments" and c["optimizer"] != "sm3",
        "seeded with sm3": c["moments"] == "seeded" and c["optimizer"] == "sm3",
        "first-step with grow": first and c["grow"] not in ("gradient", "absolute", "fisher"),
        "first-step with grow_scope": first and c["grow_scope"] == "active",
        "first-step with scope": first and c["scope"] != "matrix",
        "first-step with inputs": first and c["adapts"] == "always" and c["adapt"] in ("activation", "curvature"),
        "group without pattern": group and c.get("pattern") is None,
        "group with adapts": group and c["adapts"] != "always",
        "group with counts": group and c["counts"] != "support",
        "group with exempt": group and c["exempt"] != "new",
        "group with drops": group and c["drops"] == "weight",
        "group with grow_scope": group and c["grow_scope"] == "active",
        "drops weight with grow_scope": c["drops"] == "weight" and c["grow_scope"] == "active",
        "row with exempt slots": c["scope"] == "row" and c["exempt"] == "slots",
        "slots": (c["budget_by"] == "count") != (c.get("slots") is not None),
        "rank": (c["budget_by"] == "rank") != (c.get("rank") is not None),
    }
    return [name for name, holds in table.items() if holds]
