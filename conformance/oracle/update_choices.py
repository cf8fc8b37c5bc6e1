"""The choices of an update rule, the presets, and which choices contradict each other (EVT-007, EVT-011, EVT-012).

Names, defaults and presets are read from the tables of SPEC.md. What a choice means stands in the other oracles.
"""

import re
from typing import Any

from conformance.oracle import SPEC
from conformance.oracle.select_pools import RefusedError

Rule = dict[str, Any]

_ROW = re.compile(r"^\| `(\w[\w-]*)` \| (.*?) \|(?: ([A-Z]+-\d+).*\|)?$", re.MULTILINE)
_SETTING = re.compile(r"`(\w+)` ([\w.-]+)")


def _number(text: str) -> Any:
    """Return true and false as 1 and 0, digits as a number, and other texts as they are."""
    if text in ("true", "false"):
        return int(text == "true")
    return float(text) if text.replace(".", "", 1).isdigit() else text


def _read_choices(spec: str) -> tuple[dict[str, tuple[tuple[str, ...], str]], Rule]:
    """Return names and clause of each choice of the table of chapter 8, and the defaults: the first value of a row."""
    names: dict[str, tuple[tuple[str, ...], str]] = {}
    defaults: Rule = {}
    begin = spec.index("| choice | values | clauses |")
    for choice, values, clause in _ROW.findall(spec[begin : spec.index("\n\n", begin)]):
        quoted = tuple(re.findall(r"`([^`]+)`", values))
        defaults[choice] = quoted[0] if quoted else _number(values.split(",")[0])
        if quoted:
            names[choice] = quoted, clause
    return names, defaults


def _read_presets(spec: str) -> dict[str, Rule]:
    """Return what each preset sets by the table of EVT-011; a row that begins with `as` sets what that preset does."""
    presets: dict[str, Rule] = {}
    begin = spec.index("| preset | what it sets |")
    for preset, row, _ in _ROW.findall(spec[begin : spec.index("\n\n", begin)]):
        like = re.match(r"as `([^`]+)`", row)
        own = {name: _number(value) for name, value in _SETTING.findall(row)}
        presets[preset] = (presets[like[1]] if like else {}) | own
    return presets


_SPEC = SPEC.read_text(encoding="utf-8")

_NAMES, RULE = _read_choices(_SPEC)
"""`RULE` has the choices of the table of chapter 8 with their defaults: the preset `sensitivity`."""

VALUES: dict[str, tuple[tuple[str, ...], str]] = _NAMES | {
    "initial_positions": (("gradient", "random", "magnitude"), "DLT-004"),
    "initial_scope": (("active", "anywhere"), "DLT-004"),
    "budget_by": (("numel", "nnz", "count", "rank"), "DLT-002"),
}
"""The names that a choice may have, and the clause that refuses an unknown one: the first of its row in chapter 8."""

PRESETS = _read_presets(_SPEC)
"""The choices and settings that each preset sets (EVT-011)."""


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
