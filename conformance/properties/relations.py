"""Relations between answers of a port. They have names, so that a failure can be asked again.

A relation gets the cases and the answers in the order in which they were asked. It returns a text that says what is
wrong, empty if the relation holds. The inputs of the cases have everything else that it needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.compare import UNIT, compare, tau
from conformance.cases.ops import OPS
from conformance.properties.anchored import broken_step
from conformance.properties.invariants import broken

__all__ = ["RELATIONS", "Relation", "given_to_port"]
Answer = dict[str, Any]
Relation = Callable[[Sequence[Case], Sequence[Answer], str], str]


def _unequal(answer: Answer, want: Answer, dtype: str) -> str:
    """Return the first output in which two answers differ in any bit, or an empty text."""
    for name, value in want.items():
        verdict = compare(answer[name], value, "exact", dtype)
        if not verdict.passed:
            return f"{name}: {verdict.detail}"
    return ""


def _same(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """All answers are equal."""
    return next(filter(None, (_unequal(a, answers[0], dtype) for a in answers[1:])), "")


def _same_choice(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """The largest scores are the smallest of the negated scores."""
    return _unequal(answers[1], answers[0], dtype)


def _unchanged(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """Every output is the input of the same name, bit for bit."""
    kind = np.dtype(dtype)
    for case, answer in zip(cases, answers, strict=True):
        kept = {n: x for n, x in case.inputs.items() if n in answer}
        cast = {n: x.astype(kind) if x.dtype.kind == "f" else x for n, x in kept.items()}
        text = _unequal(answer, cast, dtype)
        if text:
            return text
    return ""


def _back(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """The last answer equals the inputs of the first case."""
    want = {n: cases[0].inputs[n] for n in answers[-1] if n in cases[0].inputs}
    return _unequal(answers[-1], want, dtype)


def _scaled(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """With dy scaled by a power of two, every output that is linear in dy is scaled by it, bit for bit."""
    one, two = cases[0].inputs["dy"], cases[1].inputs["dy"]
    factor = float(np.max(np.abs(two), initial=0.0)) / (float(np.max(np.abs(one), initial=0.0)) or 1.0)
    if not one.any():
        return ""
    for name, first in answers[0].items():
        scales = name.startswith("d") or name in ("gradient", "values")
        want = first * np.asarray(factor, first.dtype) if scales else first
        verdict = compare(answers[1][name], want, "value" if first.dtype.kind == "f" else "exact", dtype)
        if not verdict.passed:
            return f"{name}: with dy {factor:g} times larger {verdict.detail}"
    return ""


def _adds_up(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """The gradient of all tokens is the sum of those of two parts, within the bounds of all three (NUM-002)."""
    bounds, sums = 0.0, []
    for case, answer in zip(cases, answers, strict=True):
        x, dy = case.inputs["x"], case.inputs["dy"]
        bounds = bounds + tau(len(x)) * UNIT[dtype] * (np.abs(dy).T @ np.abs(x))
        sums.append(answer["gradient"].astype(np.float64))
    error = np.abs(sums[0] - sums[1] - sums[2])
    bad = np.argwhere(~(error <= bounds))
    if not len(bad):
        return ""
    at = tuple(int(i) for i in bad[0])
    return f"at {list(at)} the whole is {sums[0][at]!r}, the parts are {sums[1][at]!r} and {sums[2][at]!r}"


def _rows_moved(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """With the rows of the matrix in another order, the positions move with them.

    The input `order` of the second case gives for each of its rows the number of that row in the first case.
    """
    order = [int(r) for r in cases[1].inputs["order"]]
    cols = int(cases[0].inputs["in"])
    to = {old: new for new, old in enumerate(order)}
    for places, arrays in _POSITIONS.get(cases[0].op, ()):
        positions = answers[0][places]
        moved = np.array([to[int(p) // cols] * cols + int(p) % cols for p in positions], dtype=np.int64)
        sort = np.argsort(moved, kind="stable")
        want = {places: moved[sort]} | {n: answers[0][n][sort] for n in arrays}
        text = _unequal(answers[1], want, dtype)
        if text:
            return text
    return ""


_POSITIONS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "update.drop": (("dropped", ()),),
    "update.grow": (("grown", ()),),
    "update.adapt": (("pruned", ()),),
    "update.evolve": (
        ("base", ("base_values",)),
        ("delta", ("delta_values", "m", "v", "age")),
        ("support", ("weights",)),
    ),
}
"""Outputs that are flat positions, and the arrays aligned with them."""


def _padded(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """With one more column of zeros, nothing changes but the flat positions."""
    cols = int(cases[0].inputs["in"])
    outputs = _POSITIONS.get(cases[0].op)
    if outputs is None:
        want = dict(answers[0])
        want.pop("shape", None)
        if "dx" in want:
            dx = want["dx"]
            want["dx"] = np.concatenate([dx, np.zeros((len(dx), 1), dtype=dx.dtype)], axis=1)
        return next(
            (
                f"{n}: {v.detail}"
                for n, x in want.items()
                if not (v := compare(answers[1][n], x, "value", dtype)).passed
            ),
            "",
        )
    for places, arrays in outputs:
        positions = answers[0][places]
        want = {places: positions // cols * (cols + 1) + positions % cols} | {n: answers[0][n] for n in arrays}
        text = _unequal(answers[1], want, dtype)
        if text:
            return text
    return ""


def _rows_of_product(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """With the rows of W and the columns of dy in another order, y has its columns in that order and dx is equal."""
    order = cases[1].inputs["order"]
    want = {"y": answers[0]["y"][:, order], "dx": answers[0]["dx"]}
    return next(
        (f"{n}: {v.detail}" for n, x in want.items() if not (v := compare(answers[1][n], x, "value", dtype)).passed),
        "",
    )


def _keeps(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """An event keeps to EVT-003 and EVT-006."""
    pairs = zip(cases, answers, strict=True)
    return next(filter(None, (broken(case.inputs, answer, dtype) for case, answer in pairs)), "")


def _one_step(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """A step of training equals the kit's own from the same state."""
    pairs = zip(cases, answers, strict=True)
    return next(filter(None, (broken_step(case.inputs, answer, dtype) for case, answer in pairs)), "")


def _goes_on(cases: Sequence[Case], answers: Sequence[Answer], dtype: str) -> str:
    """A run that goes on from a state gives the end of the run that was not stopped, bit for bit (TRN-004)."""
    run, rest = answers
    steps, events = len(rest["losses"]), len(rest["slots"])
    want = {"losses": run["losses"][len(run["losses"]) - steps :], "support": run["support"], "weights": run["weights"]}
    want |= {name: run[name][len(run[name]) - events :] for name in ("slots", "bases")}
    return _unequal(rest, want, dtype)


RELATIONS: dict[str, Relation] = {
    "same": _same,
    "largest and smallest": _same_choice,
    "unchanged": _unchanged,
    "back": _back,
    "scaled": _scaled,
    "adds up": _adds_up,
    "keeps to the rule": _keeps,
    "rows moved": _rows_moved,
    "rows of a product moved": _rows_of_product,
    "padded": _padded,
    "one step of training": _one_step,
    "a run that goes on": _goes_on,
}
"""Every relation by name."""


def given_to_port(case: Case) -> Case:
    """Return the case without inputs that only its relation reads."""
    return replace(case, inputs={n: x for n, x in case.inputs.items() if n in OPS[case.op].inputs})
