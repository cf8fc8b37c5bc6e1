"""Properties of gradients (chapter 6)."""

import math
from typing import Any

import numpy as np

from conformance.answers.answer import ids
from conformance.properties.draws import Array, Draw, Shape
from conformance.properties.states import ties
from conformance.properties.trial import Trial, property_of


def _factors(d: Draw) -> tuple[Shape, dict[str, Any]]:
    shape, tokens, numbers = d.shape(8), d.choice((1, 2, 3, 8, 17, 0)), d.choice((d.lattice, d.real))
    return shape, {"dy": numbers((tokens, shape[0])), "x": numbers((tokens, shape[1]))}


@property_of(
    "gradient.whole",
    "GRD-001 GRD-002 NUM-002 NUM-003",
    "core",
    "gradient.whole gradient.at",
    sees=("no tokens", "a position"),
    reduced=True,
)
def _gradient(d: Draw, t: Trial) -> None:
    """The gradient is dyᵀ x, as a whole matrix and at chosen positions."""
    shape, inputs = _factors(d)
    at, _ = d.mask(shape)
    t.saw("no tokens", not len(inputs["x"]))
    t.saw("a position", at)
    t.case("gradient.whole", inputs)
    t.case("gradient.at", inputs | {"out": shape[0], "in": shape[1], "positions": ids(at)})


@property_of("gradient.split", "GRD-001 TRN-002 NUM-002", "core", "gradient.whole", sees=("two parts", "an empty part"))
def _split(d: Draw, t: Trial) -> None:
    """The gradient of all tokens is the sum of those of two parts, up to rounding."""
    shape, tokens = d.shape(8), d.choice((2, 3, 8, 17, 33))
    dy, x = d.real((tokens, shape[0])), d.real((tokens, shape[1]))
    cut = d.integer(0, tokens)
    t.saw("two parts", 0 < cut < tokens)
    t.saw("an empty part", cut in (0, tokens))
    parts = [{"dy": dy[a:b], "x": x[a:b]} for a, b in ((0, tokens), (0, cut), (cut, tokens))]
    t.related("adds up", *(("gradient.whole", part) for part in parts))


@property_of("gradient.scaled", "GRD-001 NUM-003", "core", "gradient.whole", sees=("several tokens",))
def _gradient_scaled(d: Draw, t: Trial) -> None:
    """Scaling the loss by a power of two scales the gradient exactly."""
    shape, tokens = d.shape(8), d.choice((1, 2, 8, 17))
    dy, x = d.lattice((tokens, shape[0])), d.lattice((tokens, shape[1]))
    t.saw("several tokens", tokens > 1 and dy.any() and x.any())
    more = dy * 2.0 ** d.choice((1, 4, 10))
    t.related("scaled", ("gradient.whole", {"dy": dy, "x": x}), ("gradient.whole", {"dy": more, "x": x}))


@property_of(
    "gradient.candidates",
    "GRD-003 GRD-004 GROW-001 GROW-002 SEL-001",
    "core",
    "gradient.candidates",
    sees=("a tie at the boundary", "several steps", "steps that cancel"),
)
def _candidates(d: Draw, t: Trial) -> None:
    """Candidates are the largest |ḡ| of the whole gradient, the absolute value taken after the mean."""
    shape, steps = d.shape(8), d.choice((1, 2, 4))
    size = shape[0] * shape[1]
    dys = [d.lattice((2, shape[0]), 2) for _ in range(steps)]
    xs = [d.lattice((2, shape[1]), 2) for _ in range(steps)]
    if steps == 2 and d.flag():
        dys[1], xs[1] = -dys[0], xs[0].copy()
        xs[1][:, :1] += 1
    mean = np.sum([dy.T @ x for dy, x in zip(dys, xs, strict=True)], axis=0).reshape(-1) / steps
    base, eta, scope = d.subset(size), d.subset(size, 3), d.choice(("all", "active"))
    open_to = [p for p in range(size) if p not in eta and (scope == "all" or p in base)]
    n = d.integer(0, len(open_to) + 1)
    t.saw("a tie at the boundary", ties([-abs(float(mean[p])) for p in open_to], n))
    t.saw("several steps", steps > 1)
    t.saw("steps that cancel", steps == 2 and not mean.all() and dys[0].any() and xs[0].any())
    inputs = {"out": shape[0], "in": shape[1], "dy": dys, "x": xs, "steps": steps}
    t.case("gradient.candidates", inputs | {"base": ids(base), "delta": ids(eta), "n": n, "scope": scope})


@property_of(
    "gradient.norm",
    "TRN-009 EVT-005 NUM-004",
    "rules",
    "gradient.norm",
    sees=("a square that overflows", "squares that underflow", "an entry that is not finite", "zeros"),
)
def _norm(d: Draw, t: Trial) -> None:
    """The norm of a gradient is the root of the sum of squares, also where squares overflow or underflow."""
    shape = d.shape()
    kind = d.choice(("plain", "a square that overflows", "squares that underflow", "zeros"))
    scale = {"a square that overflows": 2.0**80, "squares that underflow": 2.0**-100, "zeros": 0.0}.get(kind, 1.0)
    gradient = d.real(shape) * scale
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "gradient": gradient}
    t.saw(kind)
    if d.flag(6):
        gradient.reshape(-1)[d.integer(0, gradient.size - 1)] = d.choice((math.nan, math.inf, -math.inf))
        t.saw("an entry that is not finite")
    t.case("gradient.norm", inputs)


def _steps(d: Draw, shape: tuple[int, int]) -> tuple[list[list[Array]], list[list[Array]]]:
    """Return dy and x of the micro-batches of 1, 2 or 4 steps."""
    dys: list[list[Array]] = []
    xs: list[list[Array]] = []
    for _ in range(d.choice((1, 2, 4))):
        # a step has 1, 2 or 4 tokens, because means over so many are exact
        parts = d.choice(((1,), (2,), (1, 1), (4,), (1, 3), (2, 2)))
        rows = sum(parts)
        parts = parts if not dys or rows == sum(len(x) for x in xs[0]) else (sum(len(x) for x in xs[0]),)
        dys.append([d.lattice((n, shape[0]), 3) for n in parts])
        xs.append([d.lattice((n, shape[1]), 3) for n in parts])
    return dys, xs


@property_of(
    "window.evidence",
    "GRD-004 GRD-005 GRD-006",
    "rules",
    "window.evidence",
    sees=("several steps", "several micro-batches"),
    reduced=True,
)
def _evidence(d: Draw, t: Trial) -> None:
    """Evidence is of whole steps: means of g, |g| and g · g, and the mean square of the inputs."""
    shape = d.shape(5)
    dys, xs = _steps(d, shape)
    t.saw("several steps", len(dys) > 1)
    t.saw("several micro-batches", any(len(x) > 1 for x in xs))
    t.case("window.evidence", {"out": shape[0], "in": shape[1], "dy": dys, "x": xs})


@property_of(
    "window.tokens",
    "GRD-008",
    "rules",
    "window.tokens",
    sees=("several steps", "several micro-batches", "nothing stored"),
    reduced=True,
)
def _tokens(d: Draw, t: Trial) -> None:
    """The squares of single tokens are summed over all micro-batches, and averaged over steps."""
    shape = d.shape(5)
    dys, xs = _steps(d, shape)
    support = d.mask(shape)[0]
    t.saw("several steps", len(dys) > 1)
    t.saw("several micro-batches", any(len(x) > 1 for x in xs))
    t.saw("nothing stored", not support)
    t.case("window.tokens", {"out": shape[0], "in": shape[1], "dy": dys, "x": xs, "support": ids(support)})
