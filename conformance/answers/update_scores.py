"""Scores of slots, candidates and weights (chapter 8: DROP-003, GROW-004, ADPT-005, RNG-003)."""

import math
from collections.abc import Callable
from typing import Any

from conformance.answers.answer import Inputs, answers, reals, refuse
from conformance.oracle import update_scores

__all__: list[str] = []

Score = Callable[[int, int], float]
"""The score of entry i, at flat position p."""


def _scores(a: Inputs, use: int, score: Score) -> dict[str, Any]:
    at = a["positions"].tolist()
    if a["criterion"] == "random":
        scores = [update_scores.chance(a["seed"], a["matrix"], a["step"], use, p) for p in at]
    else:
        scores = [score(i, p) for i, p in enumerate(at)]
    # SEL-004 is about the score of any selection, EVT-005 about those of an event
    odd = not all(map(math.isfinite, scores))
    refuse(EVT_005=odd, SEL_004=odd)
    return {"scores": reals(scores)}


def _entry(values: Any, i: int) -> float:
    """Return entry i of a flat array, 0 if the call has none because its criterion does not ask for it."""
    return 0.0 if values is None else float(values.reshape(-1)[i])


@answers("score.drop")
def _of_slots(a: Inputs) -> dict[str, Any]:
    def score(i: int, _: int) -> float:
        terms = {name: _entry(a[name], i) for name in ("origin", "square", "weight")}
        return update_scores.of_slot(a["criterion"], _entry(a["values"], i), **terms, r=a.rounded)

    return _scores(a, update_scores.DROP, score)


@answers("score.grow")
def _of_candidates(a: Inputs) -> dict[str, Any]:
    def score(_: int, p: int) -> float:
        row, column = divmod(p, a["in"])
        return update_scores.of_candidate(
            a["criterion"],
            g=_entry(a["gradient"], p),
            absolute=_entry(a["absolute"], p),
            square=_entry(a["square"], p),
            h=_entry(a["inputs"], column),
            row=_entry(a["row_moments"], row),
            column=_entry(a["column_moments"], column),
            r=a.rounded,
        )

    return _scores(a, update_scores.GROW, score)


@answers("score.adapt")
def _of_weights(a: Inputs) -> dict[str, Any]:
    def score(i: int, p: int) -> float:
        terms = {name: _entry(a[name], i) for name in ("absolute", "square", "tokens")}
        h = _entry(a["inputs"], p % a["in"])
        w, g = _entry(a["weight"], i), _entry(a["gradient"], i)
        return update_scores.of_weight(a["criterion"], w, g=g, h=h, **terms, r=a.rounded)

    return _scores(a, update_scores.ADAPT if a["use"] is None else a["use"], score)
