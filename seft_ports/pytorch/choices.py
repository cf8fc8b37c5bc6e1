"""The names of criteria, scopes and presets that a run may choose (chapter 8), and which of them this port has."""

from typing import Any

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.rules import ADAPT

__all__ = ["choices_of"]

_NAMES: dict[str, tuple[str, ...]] = {
    "DROP-003": ("drop", "magnitude", "change", "fisher", "weight", "random"),
    "DROP-004": ("drops", "slot", "weight"),
    "GROW-004": ("grow", "gradient", "absolute", "fisher", "moments", "curvature", "random"),
    "GROW-001": ("grow_scope", "anywhere", "active"),
    "GROW-006": ("candidates", "all", "first-step"),
    "DLT-006": ("moments", "zero", "seeded"),
    "ADPT-005": (
        "adapt",
        *("sensitivity", "absolute", "fisher", "token-fisher", "magnitude", "activation", "curvature", "random"),
    ),
    "EVT-008": ("adapts", "always", "end", "never"),
    "ADPT-006": ("counts", "support", "values"),
    "ADPT-007": ("exempt", "new", "slots", "none"),
    "EVT-009": ("scope", "matrix", "row", "group", "model"),
    "SCH-003": ("events", "period", "phases"),
    "SCH-001": ("drop_schedule", "cosine", "linear", "constant"),
    "SCH-008": ("first_event", "fraction", "all"),
}
"""Each clause that refuses an unknown name (TRN-008): the choice, its default, and its other names."""

_RULE: dict[str, Any] = {names[0]: names[1] for names in _NAMES.values()}
_RULE |= {"evolves": 1, "regrow": 1, "event_replaces_step": 0, "evolve_until": 1.0}

_SPIEL: dict[str, Any] = {
    "candidates": "first-step",
    "moments": "seeded",
    "events": "phases",
    "drop_schedule": "linear",
    "first_event": "all",
}

_PRESETS: dict[str, dict[str, Any]] = {
    "seft": {},
    "sensitivity": {},
    "magnitude": {},
    "unprotected": {"exempt": "none"},
    "active-only": {"grow_scope": "active"},
    "no-adapt": {"adapts": "end"},
    "static": {"evolves": 0},
    "spiel-adapt": _SPIEL,
    "spiel-ag": _SPIEL | {"adapts": "never"},
}
"""The presets of EVT-011 that this port has, as changes of the default rule.

`adapt` is left out, so `sensitivity` and `magnitude`, which are `seft` with another `adapt`, change nothing here.
"""
_PRUNES_BY = dict.fromkeys(("seft", "no-adapt", "unprotected"), "token-fisher") | {"magnitude": "magnitude"}
_OTHER_PRESETS = ("literal", "spiel-ma", "rigl", "set")

_SETTINGS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("start", "DLT-004", ("gradient", "random"), ("magnitude",)),
    ("initial_scope", "DLT-004", ("active", "anywhere"), ()),
    ("budget_by", "DLT-002", ("numel",), ("nnz", "count", "rank")),
    ("optimizer", "OPT-001", ("adamw", "spiel-adamw"), ("sgd", "sm3")),
    ("schedule", "SCH-004", ("constant", "linear", "cosine"), ()),
)
"""A setting, the clause that refuses an unknown name, the names this port has, and those it lacks."""


def choices_of(s: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Settings` that stand for the rule of a run: preset, adapt, exempt and evolve_until.

    Raises:
        SeftError: for a name that SPEC.md does not know, with the clause that TRN-008 gives for it.
        ValueError: for a name of SPEC.md that this port lacks.
    """
    rule = _RULE | s.get("rule", {})
    # TRN-008
    for clause, (choice, *names) in _NAMES.items():
        if rule[choice] not in names:
            raise SeftError(clause, f"{choice} is {rule[choice]!r}; it is one of {', '.join(names)}")
    if not 0 < rule["evolve_until"] <= 1:
        raise SeftError("SCH-007", f"evolve_until {rule['evolve_until']} is outside (0, 1]")
    for name, clause, own, other in _SETTINGS:
        if s.get(name, own[0]) not in own + other:
            raise SeftError(clause, f"{name} is {s[name]!r}; it is one of {', '.join(own + other)}")
    if "rule" not in s and s["preset"] not in (*_PRESETS, *_OTHER_PRESETS):
        raise SeftError("EVT-011", f"there is no preset {s['preset']!r}")
    if "rule" not in s:
        rule["adapt"] = _PRUNES_BY.get(s["preset"], rule["adapt"])
        rule["exempt"] = _PRESETS.get(s["preset"], {}).get("exempt", rule["exempt"])
    free = {name: rule[name] for name in ("adapt", "evolve_until", "exempt")}
    spelled = [name for name, change in _PRESETS.items() if rule == _RULE | change | free]
    presets = spelled if "rule" in s else [name for name in _PRESETS if name == s["preset"]]
    if not presets:
        raise ValueError(f"this port runs the presets {', '.join(_PRESETS)}; it knows no other rule")
    if rule["adapt"] not in ADAPT:
        raise ValueError(f"this port has no adapt {rule['adapt']!r}; it has {', '.join(ADAPT)}")
    for name, _, own, _ in _SETTINGS:
        if s.get(name, own[0]) not in own:
            raise ValueError(f"this port has no {name} {s[name]!r}; it has {', '.join(own)}")
    like_seft = ("sensitivity", "magnitude", "unprotected")
    return {"preset": "seft" if presets[0] in like_seft else presets[0], **free}
