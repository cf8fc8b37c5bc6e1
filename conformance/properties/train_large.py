"""Properties of sizes beyond every boundary of an index type: train."""

import math
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import ids
from conformance.oracle import (
    select,
    train_window,
)
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, exact, most_of, sees_beyond, shapes, sides
from conformance.properties.trial import Trial, property_of


@property_of(
    "gradient.large",
    "GRD-001 GRD-002",
    "core",
    "gradient.whole gradient.at",
    sees=(BEYOND, "more than 65,536 rows", "more than 65,536 columns"),
    reduced=True,
    seeded=1,
)
def _gradient(d: Draw, t: Trial) -> None:
    """Gradients of large matrices are exact on integers."""
    for shape in shapes(d)[1:]:
        many, tokens = Many(d), d.integer(1, 3)
        dy, x = many.lattice((tokens, shape[0]), 5), many.lattice((tokens, shape[1]), 5)
        at = ids(most_of(many, shape))
        sees_beyond(t, shape, at)
        answer = {"values": np.sum(dy[:, at // shape[1]] * x[:, at % shape[1]], axis=0)}
        inputs = {"dy": dy, "x": x}
        t.case("gradient.at", sides(shape) | inputs | {"positions": at}, answer, bounds=exact(answer, "values"))
        whole = dy.T @ x
        t.case("gradient.whole", inputs, {"gradient": whole}, bounds={"gradient": Bound(np.zeros(shape), 0)})


@property_of(
    "gradient.candidates-large", "GRD-003 GROW-001 GROW-002 SEL-001", "core", "gradient.candidates",
    sees=(BEYOND, "more than 65,536 rows", "more than 65,536 columns"), seeded=1,
)  # fmt: skip
def _candidates(d: Draw, t: Trial) -> None:
    """Candidates of large matrices are the largest entries of the whole gradient outside the delta."""
    for shape in shapes(d)[1:]:
        many, tokens, size = Many(d), d.integer(1, 3), shape[0] * shape[1]
        sees_beyond(t, shape, range(size))
        dy, x = many.lattice((tokens, shape[0]), 5), many.lattice((tokens, shape[1]), 5)
        whole = dy.T @ x
        base, eta = many.subset(size, size // 2), many.subset(size, size // 5)
        n, scope = d.integer(size // 10, size // 5), d.choice(("all", "active"))
        open_to = np.setdiff1d(base if scope == "active" else np.arange(size), eta)
        flat = whole.reshape(-1)
        chosen = select.largest(np.abs(flat[open_to]).tolist(), open_to.tolist(), n)
        inputs = sides(shape) | {"dy": [dy], "x": [x], "steps": 1, "base": base, "delta": eta, "n": n, "scope": scope}
        t.case("gradient.candidates", inputs, {"candidates": ids(chosen), "values": flat[chosen] + 0.0})


@property_of(
    "window.evidence-large", "GRD-001 GRD-004 GRD-005 GRD-006", "rules", "window.evidence", sees=(BEYOND,),
    reduced=True, seeded=1,
)  # fmt: skip
def _evidence(d: Draw, t: Trial) -> None:
    """The evidence of a large matrix is exact on integers."""
    shape, many = shapes(d)[3], Many(d)
    dys, xs = ([[many.lattice((2, n), 3)] for _ in range(2)] for n in shape)
    steps = [dy[0].T @ x[0] for dy, x in zip(dys, xs, strict=True)]
    answer: dict[str, Any] = {"gradient": sum(steps) / 2, "absolute": sum(map(abs, steps)) / 2}
    answer |= {"square": sum(g * g for g in steps) / 2, "inputs": sum(np.sum(x[0] ** 2, axis=0) for x in xs) / 4}
    t.saw(BEYOND, shape[0] * shape[1] > 65_536)
    t.case("window.evidence", {"out": shape[0], "in": shape[1], "dy": dys, "x": xs}, answer)


@property_of(
    "window.tokens-large", "GRD-008", "rules", "window.tokens", sees=(BEYOND,), reduced=True, seeded=1,
)  # fmt: skip
def _tokens(d: Draw, t: Trial) -> None:
    """The squares of tokens of a large matrix are exact on integers, at positions up to its last."""
    shape, many = shapes(d)[3], Many(d)
    dys, xs = ([[many.lattice((2, n), 3)] for _ in range(2)] for n in shape)
    size = shape[0] * shape[1]
    support = np.union1d(many.subset(size, size // 20), [0, size - 1])
    whole = sum((dy[0] * dy[0]).T @ (x[0] * x[0]) for dy, x in zip(dys, xs, strict=True))
    t.saw(BEYOND, size > 65_536)
    inputs = {"out": shape[0], "in": shape[1], "dy": dys, "x": xs, "support": ids(support)}
    t.case("window.tokens", inputs, {"tokens": np.asarray(whole).reshape(-1)[support] / 2})


@property_of(
    "window.large",
    "GRD-004 GRD-005 GRD-007 TRN-009 DLT-004",
    "rules",
    "window.candidates gradient.norm delta.initial",
    sees=(BEYOND,),
    seeded=1,
)
def _window(d: Draw, t: Trial) -> None:
    """Candidates, the norm and first slots of a large matrix are exact on integers."""
    shape, many = shapes(d)[3], Many(d)
    size, size_inputs = shape[0] * shape[1], {"out": shape[0], "in": shape[1]}
    steps = [many.lattice(shape, 18) for _ in range(2)]
    t.saw(BEYOND, size > 65_536)
    n = d.integer(size // 4, size // 2)
    flat = [g.reshape(-1) for g in steps]
    at = train_window.candidates(flat[0].tolist(), n)
    answer = {
        "candidates": ids(at),
        "gradient": (flat[0] + flat[1])[at] / 2,
        "square": (flat[0] ** 2 + flat[1] ** 2)[at] / 2,
    }
    t.case("window.candidates", size_inputs | {"gradients": steps, "n": n}, answer)
    t.case("gradient.norm", size_inputs | {"gradient": steps[0]}, {"norm": math.sqrt(float(flat[0] @ flat[0]))})
    base = many.subset(size, size - size // 200)
    values = many.lattice((len(base),), 99)
    inputs = size_inputs | {"base": base, "base_values": values, "seed": 1, "matrix": 2, "gradient": steps[1], "n": n}
    for by in ("gradient", "magnitude"):
        t.case("delta.initial", inputs | {"by": by, "scope": "active"})
