"""Gradients at the growth candidates, and the norm of a gradient (chapter 6: GRD-003, GRD-004, TRN-009)."""

import math
from typing import Any

from conformance.answers.answer import Inputs, answers, ids, reals, refuse
from conformance.oracle import select, train_window

__all__: list[str] = []


@answers("gradient.candidates")
def _candidates(a: Inputs) -> dict[str, Any]:
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
