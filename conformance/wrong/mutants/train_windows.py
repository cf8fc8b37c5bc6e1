"""Mutants of the evidence of a window of steps (GRD-004 to GRD-008)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.wrong.mutants.base import Mutant, Operation, Values, after, flipped, mutant, mutants, right

Array = NDArray[Any]


def of_micro_batches(out: Values, a: Values) -> Values:
    """Average |g| of micro-batches in place of steps."""
    parts = [abs(dy.T @ x) for dys, xs in zip(a["dy"], a["x"], strict=True) for dy, x in zip(dys, xs, strict=True)]
    total = sum(parts) / max(len(a["dy"]), 1)
    return {"absolute": np.asarray(total, dtype=out["absolute"].dtype).reshape(out["absolute"].shape)}


def absolute_mean(out: Values, _: Values) -> Values:
    return {"gradient": np.abs(out["gradient"])}


def summed(name: str) -> Operation:
    """Return evidence with one output as a sum in place of a mean over steps."""
    return after("window.evidence", lambda out, a: {name: out[name] * out[name].dtype.type(len(a["dy"]))})


def counted_rows_only(out: Values, a: Values) -> Values:
    """Average h over the rows whose gradient is not 0."""
    rows = [
        x[np.any(dy != 0, axis=1)]
        for dys, xs in zip(a["dy"], a["x"], strict=True)
        for dy, x in zip(dys, xs, strict=True)
    ]
    inputs = np.concatenate(rows)
    return {"inputs": (inputs * inputs).sum(axis=0) / inputs.dtype.type(max(len(inputs), 1))}


def tokens_by(sums: Callable[[list[Array], list[Array]], Any], *, mean: bool = True) -> Operation:
    """Return `window.tokens` with `sums` in place of the sum over a step's micro-batches.

    mean  whether the result is averaged over steps
    """

    def op(a: Values) -> Values:
        total = sum(sums(dys, xs) for dys, xs in zip(a["dy"], a["x"], strict=True))
        squares = np.asarray(total).reshape(-1)[a["support"]]
        return {"tokens": squares / squares.dtype.type(len(a["dy"])) if mean else squares}

    return op


def of_one(dys: list[Array], xs: list[Array]) -> Any:
    return sum((dy * dy).T @ (x * x) for dy, x in zip(dys, xs, strict=True))


def of_the_last_step(a: Values) -> Values:
    return right("window.candidates")(a | {"gradients": a["gradients"][::-1]})


def norm_in_the_dtype(a: Values) -> Values:
    if not np.isfinite(a["gradient"]).all():
        return right("gradient.norm")(a)
    return {"norm": float(np.sqrt(np.sum(a["gradient"] * a["gradient"])))}


MUTANTS: list[Mutant] = [
    mutant("TRN-009", "gradient.norm", norm_in_the_dtype, "a norm that overflows"),
    *mutants("window.evidence",
        ("GRD-004", absolute_mean, "|·| after the mean kept as ḡ"),
        ("GRD-005", of_micro_batches, "|g| of micro-batches"),
        ("GRD-005", lambda o, _: {"square": o["gradient"] * o["gradient"]}, "ḡ² for square"),
        ("GRD-004 NUM-003", summed("gradient"), "the sum for the mean"),
        ("GRD-006", counted_rows_only, "h of counted rows alone"),
        ("GRD-001", flipped("window.evidence", "gradient"), "the gradient transposed")),
    *mutants("window.tokens",
        ("GRD-008", tokens_by(lambda dys, xs: sum(dy.T @ x for dy, x in zip(dys, xs, strict=True)) ** 2),
         "the square of the gradient of a step"),
        ("GRD-008", tokens_by(lambda dys, xs: sum((dy.T @ x) ** 2 for dy, x in zip(dys, xs, strict=True))),
         "the squares of the gradients of micro-batches"),
        ("GRD-008", tokens_by(lambda dys, xs: of_one(dys, xs) / dys[0].dtype.type(sum(map(len, dys)))),
         "a mean over tokens"),
        ("GRD-008", tokens_by(of_one, mean=False), "the sum over steps for the mean")),
    *mutants("window.candidates",
        ("GRD-007", of_the_last_step, "candidates of the last step"),
        ("GRD-005", lambda o, _: {"square": o["gradient"] * o["gradient"]}, "ḡ² for square"),
        unchecked="SEL-005 EVT-005"),
]  # fmt: skip
