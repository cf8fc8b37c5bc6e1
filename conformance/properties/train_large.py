"""Properties of sizes beyond every boundary of an index type: train."""

import numpy as np

from conformance.answers.answer import ids
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, most_of, sees_beyond, shapes, sides
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
        t.case("gradient.at", sides(shape) | {"dy": dy, "x": x, "positions": at})
        t.case("gradient.whole", {"dy": dy, "x": x})


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
        base, eta = many.subset(size, size // 2), many.subset(size, size // 5)
        n, scope = d.integer(size // 10, size // 5), d.choice(("all", "active"))
        inputs = sides(shape) | {"dy": [dy], "x": [x], "steps": 1, "base": base, "delta": eta, "n": n, "scope": scope}
        t.case("gradient.candidates", inputs)


@property_of(
    "window.evidence-large", "GRD-001 GRD-004 GRD-005 GRD-006", "rules", "window.evidence", sees=(BEYOND,),
    reduced=True, seeded=1,
)  # fmt: skip
def _evidence(d: Draw, t: Trial) -> None:
    """The evidence of a large matrix is exact on integers."""
    shape, many = shapes(d)[3], Many(d)
    dys, xs = ([[many.lattice((2, n), 3)] for _ in range(2)] for n in shape)
    t.saw(BEYOND, shape[0] * shape[1] > 65_536)
    t.case("window.evidence", sides(shape) | {"dy": dys, "x": xs})


@property_of(
    "window.tokens-large", "GRD-008", "rules", "window.tokens", sees=(BEYOND,), reduced=True, seeded=1,
)  # fmt: skip
def _tokens(d: Draw, t: Trial) -> None:
    """The squares of tokens of a large matrix are exact on integers, at positions up to its last."""
    shape, many = shapes(d)[3], Many(d)
    dys, xs = ([[many.lattice((2, n), 3)] for _ in range(2)] for n in shape)
    size = shape[0] * shape[1]
    support = np.union1d(many.subset(size, size // 20), [0, size - 1])
    t.saw(BEYOND, size > 65_536)
    t.case("window.tokens", sides(shape) | {"dy": dys, "x": xs, "support": ids(support)})


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
    size = shape[0] * shape[1]
    steps = [many.lattice(shape, 18) for _ in range(2)]
    t.saw(BEYOND, size > 65_536)
    t.case("window.candidates", sides(shape) | {"gradients": steps, "n": d.integer(size // 4, size // 2)})
    t.case("gradient.norm", sides(shape) | {"gradient": steps[0]})
    n = d.integer(size // 4, size // 2)
    base = many.subset(size, size - size // 200)
    values = many.lattice((len(base),), 99)
    inputs = sides(shape) | {"base": base, "base_values": values, "seed": 1, "matrix": 2, "gradient": steps[1], "n": n}
    for by in ("gradient", "magnitude"):
        t.case("delta.initial", inputs | {"by": by, "scope": "active"})
