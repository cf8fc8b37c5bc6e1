"""Properties of scores and of the schedule of drops (chapter 8)."""

import math
from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import ids, reals
from conformance.cases.inputs import same_values
from conformance.oracle import update_choices, update_schedule, update_scores
from conformance.oracle.select import Round, binary64
from conformance.properties.draws import Array, Draw
from conformance.properties.trial import Trial, property_of

REFUSED = ("EVT-005", "SEL-004")
_SCORED = ("a score that is not finite", "a product that is rounded")


def rounded_scores(t: Trial) -> Round:
    """Return the rounding of each operation of a score in the dtype of the trial."""
    return update_scores.binary32 if t.dtype == "float32" else binary64


def _reals(d: Draw, t: Trial, n: int) -> Array:
    """Return numbers whose products round; in one of eight cases one of them is not finite or overflows squared."""
    numbers = reals(d.with_specials([float(x) for x in d.real((n,))]))
    if n and d.flag(8):
        numbers[d.integer(0, n - 1)] = d.choice((math.nan, math.inf, 2.0**80 if t.dtype == "float32" else 2.0**600))
    return numbers


def _score(t: Trial, op: str, inputs: dict[str, Any], evidence: list[Array]) -> None:
    """Ask for scores, or for a refusal if one is not finite.

    evidence  the arrays that the scores are computed from
    """
    made, drawn = answer(op, inputs, t.dtype), inputs["criterion"] == "random"
    t.saw(inputs["criterion"], made.refused or len(made.outputs["scores"]))
    t.saw("a score that is not finite", made.refused)
    if not made.refused and all(np.isfinite(x).all() for x in evidence):
        wide, narrow = (answer(op, inputs, dtype).outputs.get("scores") for dtype in ("float64", "float32"))
        t.saw("a product that is rounded", t.dtype == "float32" or not same_values(wide, narrow))
    elif not made.refused:
        return
    # draws are asked for in float64 only, because they are binary64 whatever the dtype
    t.case(op, inputs, dtypes=("float64",) if drawn else (t.dtype,))


def _drawn(d: Draw, t: Trial, op: str, inputs: dict[str, Any]) -> None:
    """Ask for random scores."""
    seed, matrix, step = d.choice((0, 1, 2**64 - 1)), d.integer(0, 20), d.integer(0, 1000)
    _score(t, op, inputs | {"seed": seed, "matrix": matrix, "step": step}, [])


@property_of(
    "score.drop",
    "DROP-003 RNG-003 NUM-006 EVT-005 SEL-004",
    "rules",
    "score.drop",
    sees=("magnitude", "change", "fisher", "weight", *_SCORED),
)
def _drop_scores(d: Draw, t: Trial) -> None:
    """Scores of slots follow the written formulas, every operation rounded once."""
    criterion, n = d.choice(update_choices.VALUES["drop"][0]), d.length(18)
    at = [3 * i + x for i, x in enumerate(d.integers(n, 0, 2))]
    phi, other = _reals(d, t, n), _reals(d, t, n)
    inputs: dict[str, Any] = {"criterion": criterion, "positions": ids(at), "values": phi}
    if criterion == "random":
        _drawn(d, t, "score.drop", inputs | {"values": reals(d.levels(n))})
        return
    needs = {"change": "origin", "fisher": "square", "weight": "weight"}.get(criterion, "")
    other = abs(other) if needs == "square" else other
    inputs |= {needs: other} if needs else {}

    _score(t, "score.drop", inputs, [phi, other] if needs else [phi])


@property_of(
    "score.grow",
    "GROW-004 OPT-008 RNG-003 NUM-006 EVT-005 SEL-004",
    "rules",
    "score.grow",
    sees=("gradient", "absolute", "fisher", "moments", "curvature", "a column without input", *_SCORED),
)
def _grow_scores(d: Draw, t: Trial) -> None:
    """Scores of candidates follow the written formulas, every operation rounded once."""
    shape = d.shape(8)
    rows, cols = shape
    criterion, at = d.choice(update_choices.VALUES["grow"][0]), d.subset(rows * cols)
    inputs: dict[str, Any] = {"criterion": criterion, "out": rows, "in": cols, "positions": ids(at)}
    if criterion == "random":
        _drawn(d, t, "score.grow", inputs)
        return
    needs = {"absolute": ("absolute",), "fisher": ("square",), "moments": ("row_moments", "column_moments")}
    needs["gradient"], needs["curvature"] = ("gradient",), ("gradient", "inputs")
    sizes = {"row_moments": rows, "column_moments": cols, "inputs": cols}
    arrays = {name: _reals(d, t, sizes.get(name, rows * cols)) for name in needs[criterion]}
    arrays = {name: x if name == "gradient" else abs(x) for name, x in arrays.items()}
    if "inputs" in arrays and d.flag():
        arrays["inputs"][d.integer(0, cols - 1)] = 0.0
    row, column = [p // cols for p in at], [p % cols for p in at]
    indices = {"row_moments": row, "column_moments": column, "inputs": column}
    chosen = {name: x[indices.get(name, at)] for name, x in arrays.items()}
    t.saw("a column without input", "inputs" in chosen and 0.0 in chosen["inputs"])
    inputs |= {name: x.reshape(shape) if name not in sizes else x for name, x in arrays.items()}
    # skip examples in which only unused entries are not finite, because a port may or may not look at them
    if all(np.isfinite(x).all() for x in arrays.values()) or not all(np.isfinite(x).all() for x in chosen.values()):
        _score(t, "score.grow", inputs, list(chosen.values()))


_ON_SUPPORT = {"sensitivity": "gradient", "absolute": "absolute", "fisher": "square", "token-fisher": "tokens"}
"""Criterion -> evidence that it uses besides W."""


@property_of(
    "score.adapt",
    "ADPT-002 ADPT-005 RNG-003 NUM-006 EVT-005 SEL-004",
    "rules",
    "score.adapt",
    sees=("sensitivity", "absolute", "fisher", "token-fisher", "magnitude", "activation", "curvature", *_SCORED),
)
def _adapt_scores(d: Draw, t: Trial) -> None:
    """Scores of weights follow the written formulas, every operation rounded once."""
    shape = d.shape(8)
    criterion, at = d.choice(update_choices.VALUES["adapt"][0]), d.subset(shape[0] * shape[1])
    w, g, h = _reals(d, t, len(at)), _reals(d, t, len(at)), abs(_reals(d, t, shape[1]))
    inputs: dict[str, Any] = {"criterion": criterion, "out": shape[0], "in": shape[1], "positions": ids(at)}
    if criterion == "random":
        use = d.choice((update_scores.ADAPT, update_scores.LAST))
        _drawn(d, t, "score.adapt", inputs | {"weight": reals(d.levels(len(at))), "use": use})
        return
    of = h[[p % shape[1] for p in at]]
    used = {"weight": w}
    name = _ON_SUPPORT.get(criterion)
    on_support = abs(g) if criterion != "sensitivity" else g
    used |= {name: on_support} if name else {}
    used |= {"inputs": of} if criterion in ("activation", "curvature") else {}

    inputs |= used | ({"inputs": h} if "inputs" in used else {})
    if "inputs" not in used or np.isfinite(h).all() or not np.isfinite(of).all():
        _score(t, "score.adapt", inputs, list(used.values()))


@property_of(
    "schedule.drops",
    "SCH-001 SCH-006 SCH-007 SCH-008",
    "rules",
    "schedule.drops",
    sees=("cosine", "linear", "constant", "an end before the last step", "a first event that drops all", "refused"),
)
def _drops(d: Draw, t: Trial) -> None:
    """The drop fraction follows its schedule to the last step that may have an event."""
    steps, until = d.integer(1, 200), d.choice((1.0, d.integer(1, 100) / 100))
    # no event follows the last step, and an event that is not the first has one before it
    last = update_schedule.last_event(steps, until)
    fraction, how, first = d.integer(0, 64) / 64, d.choice(("fraction", "all")), d.integer(0, 1)
    kind = d.choice(update_choices.VALUES["drop_schedule"][0])
    inputs: dict[str, Any] = {"drop_schedule": kind, "drop_fraction": fraction, "steps": steps, "evolve_until": until}
    inputs |= {"first_event": how, "first": first}
    if d.flag(6):
        bad: dict[str, Any] = {"SCH-001": {"drop_fraction": 1.25}, "SCH-007": {"evolve_until": 0.0}}
        bad["SCH-008"] = {"first_event": "none"}
        clause = d.choice(list(bad))
        t.saw("refused")
        t.case("schedule.drops", inputs | bad[clause] | {"step": 1})
        return
    least, most = 2 - first, min(last, steps - 1)
    if most < least:
        return
    step = d.choice((most, d.integer(least, most)))
    t.saw(kind)
    t.saw("an end before the last step", last < steps)
    t.saw("a first event that drops all", how == "all" and first and fraction < 1)
    t.case("schedule.drops", inputs | {"step": step})
