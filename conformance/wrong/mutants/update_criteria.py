"""Mutants of scores of slots, candidates and weights, of presets and of checks of rules."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.wrong.mutants.base import Mutant, Operation, Values, after, changed, mutant, right, unchecked
from conformance.wrong.mutants.event import at, scored


def taken_for(op: str, one: str, other: str) -> Operation:
    """Return scores in which criterion `one` is computed as `other`."""

    def f(a: Values) -> Values:
        if a["criterion"] != one:
            return right(op)(a)
        return right(op)(a | {"criterion": other})

    return f


def in_wide(op: str, criterion: str, score: Callable[[Values], Any]) -> Operation:
    """Return scores in which one criterion is computed in binary64 and rounded at the end."""

    def f(a: Values) -> Values:
        out = right(op)(a)
        if a["criterion"] != criterion or out["scores"].dtype != np.float32:
            return out
        wide = {k: v.astype(np.float64) if getattr(v, "dtype", None) == np.float32 else v for k, v in a.items()}
        return {"scores": np.asarray(score(wide)).astype(np.float32)}

    return f


def narrow_draws(op: str) -> Operation:
    return after(
        op,
        lambda out, a: (
            {"scores": out["scores"].astype(np.float32).astype(np.float64)} if a["criterion"] == "random" else {}
        ),
    )


def row_of(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"] // a["in"]]


def column_of(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"] % a["in"]]


def another_default(out: Values, _: Values) -> Values:
    return {"choices": [c.replace("drop_fraction=0.3", "drop_fraction=0.2") for c in out["choices"]]}


_CHECKED = [
    "ADPT-005",
    "ADPT-006",
    "ADPT-007",
    "DLT-006",
    "DROP-003",
    "DROP-004",
    "EVT-007",
    "EVT-008",
    "EVT-009",
    "EVT-012",
    "GROW-001",
    "GROW-004",
    "GROW-006",
    "SCH-007",
]

MUTANTS: list[Mutant] = [
    mutant("DROP-003", "score.drop", taken_for("score.drop", "change", "magnitude"), "|φ| for |φ − φ₀|"),
    mutant(
        "DROP-003",
        "score.drop",
        scored("score.drop", "fisher", lambda a: a["square"] * np.abs(a["values"])),
        "square · |φ|",
    ),
    mutant(
        "DROP-003 NUM-006",
        "score.drop",
        in_wide("score.drop", "fisher", lambda a: a["square"] * (a["values"] * a["values"])),
        "fisher rounded once",
    ),
    mutant(
        "RNG-003",
        "score.drop",
        changed("score.drop", matrix=lambda a: 0 if a["matrix"] else a["matrix"]),
        "one key for all matrices",
    ),
    *unchecked("score.drop", "EVT-005"),
    mutant(
        "GROW-004",
        "score.grow",
        scored(
            "score.grow",
            "absolute",
            lambda a: np.abs(at(a, "gradient")) if a["gradient"] is not None else at(a, "absolute") * 2,
        ),
        "|ḡ| for the mean of |g|",
    ),
    mutant(
        "GROW-004 OPT-008",
        "score.grow",
        scored("score.grow", "moments", lambda a: np.minimum(row_of(a, "row_moments"), column_of(a, "column_moments"))),
        "min(r, c) for r · c",
    ),
    mutant(
        "GROW-004 GRD-006",
        "score.grow",
        scored("score.grow", "curvature", lambda a: at(a, "gradient") ** 2 * column_of(a, "inputs")),
        "ḡ² · h",
    ),
    mutant(
        "NUM-006",
        "score.grow",
        in_wide(
            "score.grow",
            "curvature",
            lambda a: np.where(
                column_of(a, "inputs") != 0,
                at(a, "gradient") ** 2 / np.where(column_of(a, "inputs") != 0, column_of(a, "inputs"), 1),
                0,
            ),
        ),
        "curvature rounded once",
    ),
    mutant("RNG-003", "score.grow", narrow_draws("score.grow"), "draws in binary32"),
    *unchecked("score.grow", "EVT-005"),
    mutant("ADPT-005", "score.adapt", taken_for("score.adapt", "activation", "magnitude"), "|W| for |W| · sqrt(h)"),
    mutant(
        "ADPT-005 GRD-006",
        "score.adapt",
        scored("score.adapt", "curvature", lambda a: a["weight"] ** 2 * column_of(a, "inputs")),
        "W² · h",
    ),
    mutant(
        "NUM-006",
        "score.adapt",
        in_wide("score.adapt", "activation", lambda a: np.abs(a["weight"]) * np.sqrt(column_of(a, "inputs"))),
        "activation rounded once",
    ),
    mutant(
        "ADPT-005",
        "score.adapt",
        scored("score.adapt", "absolute", lambda a: a["weight"] ** 2 * a["absolute"]),
        "W² · mean |g|",
    ),
    mutant(
        "ADPT-005",
        "score.adapt",
        scored("score.adapt", "fisher", lambda a: np.abs(a["weight"]) * a["square"]),
        "|W| · mean g²",
    ),
    mutant(
        "ADPT-005",
        "score.adapt",
        scored("score.adapt", "token-fisher", lambda a: np.abs(a["weight"]) * np.sqrt(a["tokens"])),
        "the root of the squares of tokens",
    ),
    mutant(
        "NUM-006",
        "score.adapt",
        in_wide("score.adapt", "token-fisher", lambda a: a["weight"] ** 2 * a["tokens"]),
        "token-fisher rounded once",
    ),
    mutant(
        "RNG-003",
        "score.adapt",
        changed("score.adapt", use=lambda a: None if a["use"] is None else 3),
        "the last pass draws like any other",
    ),
    *unchecked("score.adapt", "EVT-005"),
    mutant(
        "EVT-011",
        "preset.rule",
        changed("preset.rule", name=lambda a: "seft" if a["name"] == "literal" else a["name"]),
        "literal taken for seft",
    ),
    mutant(
        "EVT-011",
        "preset.rule",
        changed("preset.rule", name=lambda a: "spiel-ag" if a["name"] == "spiel-adapt" else a["name"]),
        "spiel-adapt taken for spiel-ag",
    ),
    mutant("EVT-011", "preset.rule", after("preset.rule", another_default), "another drop fraction"),
    *unchecked("preset.rule", "EVT-011"),
    *unchecked("rule.check", *_CHECKED),
]
