"""Mutants of gradients (GRD-001 to GRD-004)."""

import numpy as np

from conformance.oracle import select
from conformance.wrong.mutants.base import Mutant, Values, flipped, ids, mutants
from conformance.wrong.mutants.layers import SLIGHTLY, scaled


def absolute_sums(a: Values) -> Values:
    mean = sum(abs(dy.T @ x) for dy, x in zip(a["dy"], a["x"], strict=True)) / a["steps"]
    slots = set(a["delta"].tolist())
    base = set(a["base"].tolist())
    open_to = [p for p in range(mean.size) if p not in slots and (a["scope"] == "all" or p in base)]
    flat = mean.reshape(-1)
    chosen = select.largest([float(flat[p]) for p in open_to], open_to, min(a["n"], len(open_to)))
    return {"candidates": ids(chosen), "values": flat[chosen]}


def off_the_support(out: Values, a: Values) -> Values:
    """Set every third entry of the gradient to 0, as if only the others were stored."""
    return {
        "gradient": np.where(np.arange(out["gradient"].size).reshape(out["gradient"].shape) % 3, out["gradient"], 0)
    }


MUTANTS: list[Mutant] = [
    *mutants("gradient.whole",
        ("GRD-001", flipped("gradient.whole", "gradient"), "the gradient transposed"),
        ("GRD-001", off_the_support, "no gradient off the support"),
        ("GRD-001", scaled("gradient.whole", "gradient", SLIGHTLY), "too large by 2⁻¹³")),
    *mutants("gradient.at",
        ("GRD-002", lambda o, _: {"values": o["values"][::-1]}, "another order"),
        ("GRD-002 NUM-003", scaled("gradient.at", "values", SLIGHTLY), "too large by 2⁻¹³")),
    *mutants("gradient.candidates",
        ("GRD-004", absolute_sums, "|g| before the mean"),
        ("GRD-003", {"dy": lambda a: [dy * np.arange(1, dy.shape[1] + 1) for dy in a["dy"]]}, "row blocks weighed")),
]  # fmt: skip
