"""Cases of chapter 8: scores of slots, candidates and weights."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.oracle import select, update_scores
from conformance.oracle.select import Round

_TINY = 2.0**-149
_HUGE = 2.0**80
_EXACT = reals([0.0, -0.0, 1.0, -1.5, 2.0**-70, -(2.0**-75), _TINY, 1 + 2.0**-23, -(1 + 3 * 2.0**-23)])
"""Values whose products underflow, or depend on a single rounding."""


def both(
    area: Area, name: str, op: str, clauses: str, purpose: str, inputs: dict[str, Any], scored: Callable[[Round], Any]
) -> None:
    """Add one case for both dtypes, or one for each if their scores differ."""
    wide, narrow = (reals(scored(r)) for r in (select.binary64, update_scores.binary32))
    if not np.all(np.isfinite(narrow)):
        msg = f"{name} overflows"
        raise AssertionError(msg)
    if np.array_equal(wide, narrow):
        area.add(name, op, clauses, purpose, inputs, {"scores": wide})
        return
    for dtype, answer in (("float64", wide), ("float32", narrow)):
        area.add(f"{name}-{dtype}", op, clauses, purpose, inputs, {"scores": answer}, dtypes=(dtype,))


def of_slots() -> Area:
    """Return cases of scores of slots (DROP-003, RNG-003, NUM-006)."""
    area = Area("score-drop", "scalar by scalar")
    n = Numbers(70, 1)
    phi = np.concatenate([_EXACT, n.real(6, 0.5)])
    origin = np.concatenate([_EXACT[::-1], n.real(6, 0.5)])
    square = abs(np.concatenate([_EXACT[3:], _EXACT[:3], n.real(6)]))
    weight = np.concatenate([-_EXACT, n.real(6)])
    at = ids(n.subset(200, len(phi)))
    inputs = {"positions": at, "values": phi, "origin": origin, "square": square, "weight": weight}
    for name, purpose in (
        ("magnitude", "the sign of φ counted, or |W| taken for |φ|"),
        ("change", "|φ| − |φ₀|, or a difference kept wider than the compute dtype"),
        ("fisher", "(square · φ) · φ, φ² unweighted, or a product fused with another"),
        ("weight", "|φ| taken for |W|"),
    ):

        def scored(r: Round, name: str = name) -> list[float]:
            table = zip(phi, origin, square, weight, strict=True)
            return [
                update_scores.of_slot(name, float(f), origin=float(o), square=float(s), weight=float(w), r=r)
                for f, o, s, w in table
            ]

        both(area, name, "score.drop", "DROP-003 NUM-006", purpose, {"criterion": name} | inputs, scored)
    _drawn(area, "score.drop", {"positions": at, "values": phi}, update_scores.DROP, "DROP-003")
    nothing = {"criterion": "change", "positions": ids([]), "values": reals([]), "origin": reals([])}
    area.add("empty", "score.drop", "DROP-003", "a matrix without slots", nothing, {"scores": reals([])})
    one = {"positions": ids([0, 5]), "values": reals([1.0, 2.0])}
    for name, more in (
        ("nan", {"criterion": "magnitude", "values": reals([1.0, math.nan])}),
        ("infinite-square", {"criterion": "fisher", "square": reals([math.inf, 1.0])}),
        ("nan-weight", {"criterion": "weight", "weight": reals([math.nan, 1.0])}),
    ):
        text = "a slot with such a score is ranked"
        area.add(f"refuse-{name}", "score.drop", "EVT-005 SEL-004", text, one | more, refused="EVT-005 SEL-004")
    over = one | {"criterion": "fisher", "values": reals([_HUGE, 1.0]), "square": reals([1.0, 1.0])}
    text = "a score that overflows is ranked as infinite"
    name = "refuse-overflow"
    area.add(name, "score.drop", "EVT-005 SEL-004", text, over, refused="EVT-005 SEL-004", dtypes=("float32",))
    return area


def _drawn(area: Area, op: str, inputs: dict[str, Any], use: int, clause: str) -> None:
    """Add random scores; for float64 only, because draws are binary64 whatever the dtype."""
    text = "draws numbered by slot, a word of the key left out or exchanged, or another use"
    seed, matrix, step = 2**64 - 1, 13, 700
    answer = reals(update_scores.chance(seed, matrix, step, use, int(p)) for p in inputs["positions"])
    full = {"criterion": "random"} | inputs | {"seed": seed, "matrix": matrix, "step": step}
    clauses = f"{clause} RNG-003 NUM-006"
    area.add(f"random-use-{use}", op, clauses, text, full, {"scores": answer}, dtypes=("float64",))


def of_candidates() -> Area:
    """Return cases of scores of candidates (GROW-004, GRD-006, OPT-008)."""
    area = Area("score-grow", "scalar by scalar")
    n = Numbers(71, 1)
    shape = (4, 5)
    flat = np.concatenate([_EXACT, n.real(11)])
    evidence = {
        "gradient": flat.reshape(shape),
        "absolute": abs(n.real(shape)),
        "square": abs(np.concatenate([_EXACT, n.real(11)])).reshape(shape),
    }
    h = reals([0.0, 3.0, 2.0**-100, 1 + 2.0**-23, 7.0])
    rows, columns = abs(n.real(4)), abs(n.real(5))
    rows[2], columns[3] = 0.0, 2.0**-130
    at = n.subset(20, 14)
    inputs = {"out": 4, "in": 5, "positions": ids(at)} | evidence
    inputs |= {"inputs": h, "row_moments": rows, "column_moments": columns}

    def scored(name: str, r: Round) -> list[float]:
        return [
            update_scores.of_candidate(
                name,
                **{key: float(evidence[full].reshape(-1)[p]) for key, full in _EVIDENCE.items()},
                h=float(h[p % 5]),
                row=float(rows[p // 5]),
                column=float(columns[p % 5]),
                r=r,
            )
            for p in at
        ]

    for name, clauses, purpose in (
        ("gradient", "GROW-004", "ḡ without its absolute value, or mean |g| taken for |mean g|"),
        ("absolute", "GROW-004 GRD-005", "|ḡ| taken for the mean of |g|"),
        ("fisher", "GROW-004 GRD-005", "ḡ² taken for the mean of g²"),
        ("moments", "GROW-004 OPT-008", "rows and columns exchanged, min(r, c) or r + c taken for r · c"),
        ("curvature", "GROW-004 GRD-006", "0 / 0 in a column without input, ḡ / h, or h by row"),
    ):
        both(
            area,
            name,
            "score.grow",
            f"{clauses} NUM-006",
            purpose,
            {"criterion": name} | inputs,
            partial(scored, name),
        )
    _drawn(area, "score.grow", {"out": 4, "in": 5, "positions": ids(at)}, update_scores.GROW, "GROW-004")
    none = inputs | {"criterion": "curvature", "positions": ids([])}
    area.add("empty", "score.grow", "GROW-004", "no candidates", none, {"scores": reals([])})
    for name, criterion, which, value in (
        ("nan", "gradient", "gradient", math.nan),
        ("infinite", "absolute", "absolute", math.inf),
        ("inputs", "curvature", "inputs", math.nan),
        ("overflow", "curvature", "gradient", _HUGE),
    ):
        bad = np.array(inputs[which])
        bad.reshape(-1)[at[1] if bad.ndim == 2 else at[1] % 5] = value
        more = {k: inputs[k] for k in ("out", "in", "positions", *_NEEDS[criterion])}
        more |= {"criterion": criterion, which: bad}
        dtypes = ("float32",) if name == "overflow" else ("float64", "float32")
        text = "a candidate with such evidence is ranked"
        clauses = "EVT-005 SEL-004"
        area.add(f"refuse-{name}", "score.grow", clauses, text, more, refused=clauses, dtypes=dtypes)
    return area


_NEEDS = {"gradient": ["gradient"], "absolute": ["absolute"], "fisher": ["square"], "curvature": ["gradient", "inputs"]}
_EVIDENCE = {"g": "gradient", "absolute": "absolute", "square": "square"}


def of_weights() -> Area:
    """Return cases of scores of weights (ADPT-005, ADPT-002)."""
    area = Area("score-adapt", "scalar by scalar")
    n = Numbers(72, 1)
    at = n.subset(40, 15)
    w, g = np.concatenate([_EXACT, n.real(6)]), np.concatenate([_EXACT[::-1], n.real(6)])
    h = reals([0.0, 0.5, 3.0, 2.0**-100, 1 + 2.0**-23, 7.0, _TINY * 3, 2.0])
    inputs = {"out": 5, "in": 8, "positions": ids(at), "weight": w, "gradient": g, "inputs": h}

    sums = {name: abs(x) for name, x in (("absolute", g), ("square", np.roll(g, 4)), ("tokens", np.roll(g, 9)))}

    def scored(name: str, r: Round) -> list[float]:
        scores = []
        for k, p in enumerate(at):
            terms = {key: float(x[k]) for key, x in sums.items()}
            scores.append(update_scores.of_weight(name, float(w[k]), g=float(g[k]), h=float(h[p % 8]), **terms, r=r))
        return scores

    for name, clauses, purpose in (
        ("sensitivity", "ADPT-002 ADPT-005", "g · W with its sign, |g|, or a product kept wider"),
        ("absolute", "ADPT-005 GRD-005", "|W · ḡ|, or W² · mean |g|"),
        ("fisher", "ADPT-005 GRD-005", "|W| · v, or rounding after two products"),
        ("token-fisher", "ADPT-005 GRD-008", "the mean of g² of steps taken for the squares of tokens"),
        ("magnitude", "ADPT-005", "−0 below +0, or sensitivity taken for |W|"),
        ("activation", "ADPT-005 GRD-006", "|W| · h, sqrt(W² · h), or a root kept wider than the dtype"),
        ("curvature", "ADPT-005 GRD-006", "W · (W · h), half of it left out, or rounding after two products"),
    ):
        both(
            area,
            name,
            "score.adapt",
            f"{clauses} NUM-006",
            purpose,
            {"criterion": name} | inputs | (sums if name in ("absolute", "fisher", "token-fisher") else {}),
            partial(scored, name),
        )
    _of_order(area)
    plain = {k: inputs[k] for k in ("out", "in", "positions", "weight")}
    for use in (update_scores.ADAPT, update_scores.LAST):
        _drawn(area, "score.adapt", plain | {"use": use}, use, "ADPT-005")
    none = {"criterion": "curvature", "out": 5, "in": 8, "positions": ids([]), "weight": reals([]), "inputs": h}
    area.add("empty", "score.adapt", "ADPT-005", "nothing stored", none, {"scores": reals([])})
    for name, criterion, which, value in (
        ("nan", "sensitivity", "gradient", math.nan),
        ("weight", "magnitude", "weight", math.nan),
        ("inputs", "activation", "inputs", math.inf),
        ("overflow", "curvature", "weight", _HUGE),
        ("tokens", "token-fisher", "tokens", math.nan),
    ):
        bad = np.array((inputs | sums)[which])
        bad[at[9] % 8 if which == "inputs" else 9] = value
        more = inputs | {"criterion": criterion, which: bad}
        dtypes = ("float32",) if name == "overflow" else ("float64", "float32")
        clauses, text = "EVT-005 SEL-004", "a weight with such a score is ranked"
        area.add(f"refuse-{name}", "score.adapt", clauses, text, more, refused=clauses, dtypes=dtypes)
    return area


def _of_order(area: Area) -> None:
    """Add weights and inputs whose product depends on which two factors are multiplied first (ADPT-005)."""
    n = Numbers(129, 1)
    for dtype, r, bits in (("float64", select.binary64, 52), ("float32", update_scores.binary32, 23)):
        pairs: list[tuple[float, float]] = []
        while len(pairs) < 6:
            w, h = (1 + n.integer(1, 2**bits - 1) * 2.0**-bits for _ in range(2))
            if r(r(w * w) * h) != r(w * r(w * h)):
                pairs.append((w if len(pairs) % 2 else -w, h))
        inputs = {"criterion": "curvature", "out": 2, "in": 6, "positions": ids([0, 1, 2, 9, 10, 11])}
        inputs |= {"weight": reals(w for w, _ in pairs), "inputs": reals(h for _, h in pairs)}
        answer = {"scores": reals(update_scores.of_weight("curvature", w, h=h, r=r) for w, h in pairs)}
        text = "W · (W · h) taken for (W · W) · h"
        clauses = "ADPT-005 NUM-006"
        area.add(f"curvature-order-{dtype}", "score.adapt", clauses, text, inputs, answer, dtypes=(dtype,))


AREAS = (
    of_slots,
    of_candidates,
    of_weights,
)
