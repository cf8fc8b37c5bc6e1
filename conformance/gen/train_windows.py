"""Cases of chapter 6: the evidence of a window of steps, with exact means, and norms of gradients."""

import math
from typing import Any

import numpy as np

from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import train_window

Steps = list[list[Array]]


def _oracle(out: int, cols: int, dy: Steps, x: Steps) -> dict[str, Array]:
    steps = zip(dy, x, strict=True)
    pairs = [[(train_window.floats(a), train_window.floats(b)) for a, b in zip(*step, strict=True)] for step in steps]
    evidence = train_window.evidence([train_window.of_batches(out, cols, step) for step in pairs])
    h = train_window.inputs(cols, [rows for step in pairs for _, rows in step])
    return {name: reals(values).reshape(out, cols) for name, values in evidence.items()} | {"inputs": reals(h)}


def evidence() -> Area:
    """Return cases of the evidence of a window (GRD-004 to GRD-006)."""
    area = Area("window", "plain loops on integers")
    example = ([[reals([[1], [2]])]], [[reals([[3, 0], [4, 5]])]])
    shapes = {
        "example": (1, 2, example, "the example of chapter 6"),
        "one-step": (3, 5, _rows(1, 3, 5, [[4]]), "columns of x and dy exchanged"),
        "micro-batches": (3, 4, _rows(2, 3, 4, [[1, 1, 2]]), "|·| or the square taken of micro-batches"),
        "steps": (4, 3, _rows(3, 4, 3, [[2], [2], [2], [2]]), "the absolute value before the mean; a sum for a mean"),
        "both": (3, 7, _rows(4, 3, 7, [[1, 3], [4], [2, 2], [3, 1]]), "a mean of means of inputs"),
        "uneven": (2, 3, _rows(5, 2, 3, [[1], [7]]), "h as the mean over steps of means over rows"),
        "cancels": (1, 2, _cancels(), "the square of the mean taken for the mean of squares"),
        "zero-dy": (2, 3, _silent(), "rows without gradient left out of N"),
        "no-rows-in-one": (2, 2, _rows(7, 2, 2, [[0, 4], [4]]), "an empty micro-batch"),
        "no-out": (0, 3, _rows(8, 0, 3, [[2]]), "a matrix without rows"),
    }
    for name, (out, cols, (dy, x), purpose) in shapes.items():
        inputs = {"out": out, "in": cols, "dy": dy, "x": x}
        clauses = "GRD-001 GRD-004 GRD-005 GRD-006 NUM-003"
        area.add(name, "window.evidence", clauses, purpose, inputs, _oracle(out, cols, dy, x))
    return area


def tokens() -> Area:
    """Return cases of squares of single tokens (GRD-008)."""
    area = Area("window-tokens", "plain loops on integers")
    shapes = {
        "example": (1, 2, ([[reals([[1], [2]])]], [[reals([[3, 0], [4, 5]])]]), [0, 1], "the example of chapter 6"),
        "one-step": (
            3,
            5,
            _rows(11, 3, 5, [[4]]),
            [0, 3, 4, 9, 11],
            "the square of the gradient, or columns exchanged",
        ),
        "micro-batches": (3, 4, _rows(12, 3, 4, [[1, 1, 2]]), [1, 2, 7, 10], "a mean over micro-batches or tokens"),
        "steps": (4, 3, _rows(13, 4, 3, [[2], [2], [2], [2]]), [0, 2, 3, 5, 7, 11], "a sum over steps, the last step"),
        "both": (3, 7, _rows(14, 3, 7, [[1, 3], [4], [2, 2], [3, 1]]), list(range(0, 21, 2)), "g² of micro-batches"),
        "cancels": (1, 2, _cancels(), [0, 1], "the square of a sum that cancels"),
        "many-rows": (2, 3, _rows(15, 2, 3, [[40, 24]]), [0, 4], "more factors than there are positions"),
        "nothing": (2, 3, _rows(16, 2, 3, [[2]]), [], "nothing stored"),
    }
    for name, (out, cols, (dy, x), support, purpose) in shapes.items():
        pairs = [
            [(train_window.floats(a), train_window.floats(b)) for a, b in zip(*step, strict=True)]
            for step in zip(dy, x, strict=True)
        ]
        sums = train_window.mean([train_window.of_tokens(cols, step, support) for step in pairs])
        inputs = {"out": out, "in": cols, "dy": dy, "x": x, "support": ids(support)}
        area.add(name, "window.tokens", "GRD-008 NUM-003", purpose, inputs, {"tokens": reals(sums)})
    return area


def _rows(word: int, out: int, cols: int, rows: list[list[int]]) -> tuple[Steps, Steps]:
    n = Numbers(75, word)
    dy = [[n.lattice((k, out), 3) for k in step] for step in rows]
    return dy, [[n.lattice((k, cols), 3) for k in step] for step in rows]


def _cancels() -> tuple[Steps, Steps]:
    one, minus = reals([[1.0]]), reals([[-1.0]])
    return [[one], [minus]], [[reals([[2.0, 3.0]])], [reals([[2.0, 3.0]])]]


def _silent() -> tuple[Steps, Steps]:
    dy, x = _rows(6, 2, 3, [[4], [4]])
    dy[0][0][1:] = 0.0
    return dy, x


def candidates() -> Area:
    """Return cases of candidates of the first step (GRD-007)."""
    area = Area("first-step", "sorted tuples")
    n = Numbers(76, 1)
    shape = (3, 5)
    steps = [n.lattice(shape, 3) for _ in range(4)]
    late = [np.zeros(shape), *(n.lattice(shape, 3) for _ in range(3))]
    for name, gradients, k, purpose in (
        ("ties", steps, 6, "candidates by the mean, or by the last step"),
        ("one-step", steps[:1], 4, "a window of one step"),
        ("all", steps, 15, "fewer candidates than there are positions"),
        ("none", steps, 0, "a candidate where there should be none"),
        ("zero-first", late, 5, "the first step that has a gradient taken for the first step"),
        ("signed", [-abs(g) for g in steps[:2]], 3, "g ranked instead of |g|"),
    ):
        flat = [[float(v) for v in g.reshape(-1)] for g in gradients]
        at = train_window.candidates(flat[0], k)
        means = train_window.evidence(flat)
        answer: dict[str, Any] = {"candidates": ids(at)}
        answer |= {what: reals(means[what][p] for p in at) for what in ("gradient", "square")}
        inputs = {"out": 3, "in": 5, "gradients": gradients, "n": k}
        clauses = "GRD-007 GRD-004 GRD-005 SEL-001"
        area.add(name, "window.candidates", clauses, purpose, inputs, answer)
    bad = [steps[0].copy()]
    bad[0][1, 1] = math.nan
    inputs = {"out": 3, "in": 5, "gradients": bad, "n": 3}
    clauses = "EVT-005 SEL-004"
    area.add("refuse-nan", "window.candidates", clauses, "NaN ranked", inputs, refused=clauses)
    inputs = {"out": 3, "in": 5, "gradients": steps[:1], "n": 16}
    area.add("refuse-many", "window.candidates", "SEL-005", "more than there are", inputs, refused="SEL-005")
    return area


def norms() -> Area:
    """Return cases of the gradient norm in an event's record (TRN-009)."""
    area = Area("gradient-norm", "Python's hypot")
    one = Numbers(77, 1).lattice((3, 5), 3)
    large, long = one.copy(), Numbers(77, 2).real((5, 211))
    large[1, 2] = 2.0**66
    both = ("float64", "float32")
    for name, gradient, purpose, dtypes in (
        ("plain", one, "a sum of |g|, or a sum of squares without its root", both),
        ("long", long, "a mean of squares", both),
        ("one-large", large, "a square that overflows in float32", both),
        ("all-tiny", np.full((3, 5), 2.0**-100), "squares that underflow in float32", both),
        ("subnormal", one * 2.0**-149, "subnormal numbers flushed to 0", both),
        ("wide", one * 2.0**600, "squares that overflow in binary64", ("float64",)),
        ("narrow", one * 2.0**-1070, "squares that underflow in binary64", ("float64",)),
        ("zero", one * 0.0, "0 / 0", both),
        ("no-rows", one[:0], "a matrix without rows", both),
    ):
        inputs = {"out": gradient.shape[0], "in": gradient.shape[1], "gradient": gradient}
        answer = {"norm": math.hypot(*(float(g) for g in gradient.reshape(-1)))}
        area.add(name, "gradient.norm", "TRN-009 NUM-004", purpose, inputs, answer, dtypes=dtypes)
    for name, bad in (("nan", math.nan), ("infinite", -math.inf)):
        gradient = one.copy()
        gradient[2, 4] = bad
        inputs = {"out": 3, "in": 5, "gradient": gradient}
        area.add(f"refuse-{name}", "gradient.norm", "EVT-005", "a norm that is no number", inputs, refused="EVT-005")
    inputs = {"out": 2, "in": 2, "gradient": np.full((2, 2), 2.0**1023)}
    text = "an infinite norm of finite numbers"
    area.add("refuse-norm", "gradient.norm", "EVT-005", text, inputs, refused="EVT-005", dtypes=("float64",))
    return area


AREAS = (
    norms,
    evidence,
    candidates,
    tokens,
)
