"""Mutants of scores of slots, candidates and weights, of presets and of checks of rules."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.wrong.mutants.base import Change, Mutant, Values, mutants
from conformance.wrong.mutants.event import at, scored


def taken_for(one: str, other: str) -> Values:
    """Return the change of inputs by which criterion `one` is computed as `other`."""
    return {"criterion": lambda a: other if a["criterion"] == one else a["criterion"]}


def in_wide(criterion: str, score: Callable[[Values], Any]) -> Change:
    """Return a change of scores: one criterion is computed in binary64 and rounded at the end."""

    def change(out: Values, a: Values) -> Values:
        if a["criterion"] != criterion or out["scores"].dtype != np.float32:
            return {}
        wide = {k: v.astype(np.float64) if getattr(v, "dtype", None) == np.float32 else v for k, v in a.items()}
        return {"scores": np.asarray(score(wide)).astype(np.float32)}

    return change


def narrow_draws(out: Values, a: Values) -> Values:
    return {"scores": out["scores"].astype(np.float32).astype(np.float64)} if a["criterion"] == "random" else {}


def by_curvature(a: Values) -> Any:
    inputs = column_of(a, "inputs")
    return np.where(inputs != 0, at(a, "gradient") ** 2 / np.where(inputs != 0, inputs, 1), 0)


def once_or_twice(a: Values) -> Any:
    return np.abs(at(a, "gradient")) if a["gradient"] is not None else at(a, "absolute") * 2


def row_of(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"] // a["in"]]


def column_of(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"] % a["in"]]


def another_default(out: Values, _: Values) -> Values:
    return {"choices": [c.replace("drop_fraction=0.3", "drop_fraction=0.2") for c in out["choices"]]}


MUTANTS: list[Mutant] = [
    *mutants("score.drop",
        ("DROP-003", taken_for("change", "magnitude"), "|φ| for |φ − φ₀|"),
        ("DROP-003", scored("fisher", lambda a: a["square"] * np.abs(a["values"])), "square · |φ|"),
        ("DROP-003 NUM-006", in_wide("fisher", lambda a: a["square"] * (a["values"] * a["values"])),
         "fisher rounded once"),
        ("RNG-003", {"matrix": lambda a: 0 if a["matrix"] else a["matrix"]}, "one key for all matrices"),
        unchecked="EVT-005"),
    *mutants("score.grow",
        ("GROW-004", scored("absolute", once_or_twice), "|ḡ| for the mean of |g|"),
        ("GROW-004 OPT-008",
         scored("moments", lambda a: np.minimum(row_of(a, "row_moments"), column_of(a, "column_moments"))),
         "min(r, c) for r · c"),
        ("GROW-004 GRD-006", scored("curvature", lambda a: at(a, "gradient") ** 2 * column_of(a, "inputs")),
         "ḡ² · h"),
        ("NUM-006", in_wide("curvature", by_curvature), "curvature rounded once"),
        ("RNG-003", narrow_draws, "draws in binary32"),
        unchecked="EVT-005"),
    *mutants("score.adapt",
        ("ADPT-005", taken_for("activation", "magnitude"), "|W| for |W| · sqrt(h)"),
        ("ADPT-005 GRD-006", scored("curvature", lambda a: a["weight"] ** 2 * column_of(a, "inputs")), "W² · h"),
        ("NUM-006", in_wide("activation", lambda a: np.abs(a["weight"]) * np.sqrt(column_of(a, "inputs"))),
         "activation rounded once"),
        ("ADPT-005", scored("absolute", lambda a: a["weight"] ** 2 * a["absolute"]), "W² · mean |g|"),
        ("ADPT-005", scored("fisher", lambda a: np.abs(a["weight"]) * a["square"]), "|W| · mean g²"),
        ("ADPT-005", scored("token-fisher", lambda a: np.abs(a["weight"]) * np.sqrt(a["tokens"])),
         "the root of the squares of tokens"),
        ("NUM-006", in_wide("token-fisher", lambda a: a["weight"] ** 2 * a["tokens"]), "token-fisher rounded once"),
        ("RNG-003", {"use": lambda a: None if a["use"] is None else 3}, "the last pass draws like any other"),
        unchecked="EVT-005"),
    *mutants("preset.rule",
        ("EVT-011", {"name": lambda a: "seft" if a["name"] == "literal" else a["name"]}, "literal taken for seft"),
        ("EVT-011", {"name": lambda a: "spiel-ag" if a["name"] == "spiel-adapt" else a["name"]},
         "spiel-adapt taken for spiel-ag"),
        ("EVT-011", another_default, "another drop fraction"),
        unchecked="EVT-011"),
    *mutants("rule.check",
        unchecked="ADPT-005 ADPT-006 ADPT-007 DLT-006 DROP-003 DROP-004 EVT-007 EVT-008 EVT-009 EVT-012 GROW-001 "
        "GROW-004 GROW-006 SCH-007"),
]  # fmt: skip
