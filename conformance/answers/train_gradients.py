"""Gradients, whole and at positions, their norm, and the evidence of a window (chapter 6, TRN-009)."""

import math
from typing import Any

import numpy as np

from conformance.answers.answer import Answer, Inputs, answers, ids, reals, refuse
from conformance.cases.case import Bound
from conformance.oracle import select, train_window
from conformance.oracle.train_window import Rows

__all__: list[str] = []


def _product(a: Inputs) -> tuple[Any, Any]:
    """Return dyᵀ x and the gauge of its entries, which is 0 for integers, because sums of their products are exact."""
    dy, x = a["dy"], a["x"]
    exact = all((rows == np.round(rows)).all() for rows in (dy, x))
    return np.einsum("no,ni->oi", dy, x), np.abs(dy).T @ np.abs(x) * (not exact)


@answers("gradient.whole")
def _whole(a: Inputs) -> Answer:
    gradient, gauge = _product(a)
    return Answer({"gradient": gradient}, {"gradient": Bound(gauge, len(a["x"]))})


@answers("gradient.at")
def _at(a: Inputs) -> Answer:
    values, gauge = (entries.reshape(-1)[a["positions"]] for entries in _product(a))
    return Answer({"values": values}, {"values": Bound(gauge, len(a["x"]))})


@answers("gradient.candidates")
def _open(a: Inputs) -> dict[str, Any]:
    batches = [(train_window.floats(dy), train_window.floats(x)) for dy, x in zip(a["dy"], a["x"], strict=True)]
    mean = [g / a["steps"] for g in train_window.of_batches(a["out"], a["in"], batches)]
    slots, base = set(a["delta"].tolist()), set(a["base"].tolist())
    open_to = [p for p in range(len(mean)) if p not in slots and (a["scope"] == "all" or p in base)]
    chosen = select.largest([abs(mean[p]) for p in open_to], open_to, min(a["n"], len(open_to)))
    return {"candidates": ids(chosen), "values": reals(mean[p] + 0.0 for p in chosen)}


@answers("gradient.norm")
def _norm(a: Inputs) -> dict[str, Any]:
    norm = math.hypot(*a["gradient"].reshape(-1).tolist())
    refuse(EVT_005=not math.isfinite(norm))
    return {"norm": norm}


def _steps(a: Inputs) -> list[list[tuple[Rows, Rows]]]:
    """Return dy and x of the micro-batches of every step."""
    steps = zip(a["dy"], a["x"], strict=True)
    return [[(dy.tolist(), x.tolist()) for dy, x in zip(*step, strict=True)] for step in steps]


@answers("window.evidence")
def _evidence(a: Inputs) -> dict[str, Any]:
    shape, steps = (a["out"], a["in"]), _steps(a)
    means = train_window.evidence([train_window.of_batches(*shape, step) for step in steps])
    h = train_window.inputs(shape[1], [x for step in steps for _, x in step])
    return {name: reals(values).reshape(shape) for name, values in means.items()} | {"inputs": reals(h)}


@answers("window.tokens")
def _tokens(a: Inputs) -> dict[str, Any]:
    sums = [train_window.of_tokens(a["in"], step, a["support"].tolist()) for step in _steps(a)]
    return {"tokens": reals(train_window.mean(sums))}


@answers("window.candidates")
def _of_first_step(a: Inputs) -> dict[str, Any]:
    gradients = [g.reshape(-1).tolist() for g in a["gradients"]]
    refuse(SEL_005=not 0 <= a["n"] <= len(gradients[0]))
    odd = not np.isfinite(a["gradients"]).all()
    refuse(EVT_005=odd, SEL_004=odd)
    at, means = train_window.candidates(gradients[0], a["n"]), train_window.evidence(gradients)
    return {"candidates": ids(at)} | {name: reals(means[name][p] for p in at) for name in ("gradient", "square")}
