"""Wrong evidence of a window of steps (GRD-004 to GRD-007)."""

import numpy as np

from conformance.wrong.mutants.base import Mutant, Operation, Values, after, flipped, mutant, right, unchecked


def of_micro_batches(out: Values, a: Values) -> Values:
    """|g| and g² of micro-batches instead of steps."""
    parts = [abs(dy.T @ x) for dys, xs in zip(a["dy"], a["x"], strict=True) for dy, x in zip(dys, xs, strict=True)]
    total = sum(parts) / max(len(a["dy"]), 1)
    return {"absolute": np.asarray(total, dtype=out["absolute"].dtype).reshape(out["absolute"].shape)}


def absolute_mean(out: Values, _: Values) -> Values:
    return {"gradient": np.abs(out["gradient"])}


def summed(name: str) -> Operation:
    """Evidence that is not divided by what it sums."""
    return after("window.evidence", lambda out, a: {name: out[name] * out[name].dtype.type(len(a["dy"]))})


def counted_rows_only(out: Values, a: Values) -> Values:
    """H over the rows whose gradient is not 0."""
    rows = [
        x[np.any(dy != 0, axis=1)]
        for dys, xs in zip(a["dy"], a["x"], strict=True)
        for dy, x in zip(dys, xs, strict=True)
    ]
    seen = np.concatenate(rows)
    return {"inputs": (seen * seen).sum(axis=0) / seen.dtype.type(max(len(seen), 1))}


def of_the_last_step(a: Values) -> Values:
    return right("window.candidates")(a | {"gradients": a["gradients"][::-1]})


def norm_in_the_dtype(a: Values) -> Values:
    if not np.isfinite(a["gradient"]).all():
        return right("gradient.norm")(a)
    return {"norm": float(np.sqrt(np.sum(a["gradient"] * a["gradient"])))}


MUTANTS: list[Mutant] = [
    mutant("TRN-009", "gradient.norm", norm_in_the_dtype, "a norm that overflows"),
    mutant("GRD-004", "window.evidence", after("window.evidence", absolute_mean), "|·| after the mean kept as ḡ"),
    mutant("GRD-005", "window.evidence", after("window.evidence", of_micro_batches), "|g| of micro-batches"),
    mutant(
        "GRD-005",
        "window.evidence",
        after("window.evidence", lambda o, _: {"square": o["gradient"] * o["gradient"]}),
        "ḡ² for square",
    ),
    mutant("GRD-004 NUM-003", "window.evidence", summed("gradient"), "the sum for the mean"),
    mutant("GRD-006", "window.evidence", after("window.evidence", counted_rows_only), "h of counted rows alone"),
    mutant("GRD-001", "window.evidence", flipped("window.evidence", "gradient"), "the gradient transposed"),
    mutant("GRD-007", "window.candidates", of_the_last_step, "candidates of the last step"),
    mutant(
        "GRD-005",
        "window.candidates",
        after("window.candidates", lambda o, _: {"square": o["gradient"] * o["gradient"]}),
        "ḡ² for square",
    ),
    *unchecked("window.candidates", "SEL-005", "EVT-005"),
]
