"""Properties of candidates of a window (GRD-007)."""

import math
from typing import Any

from conformance.properties.draws import Draw
from conformance.properties.states import ties
from conformance.properties.trial import Trial, property_of


@property_of(
    "window.candidates",
    "GRD-007 GRD-004 GRD-005 SEL-001 SEL-005 EVT-005",
    "rules",
    "window.candidates",
    sees=("a tie at the boundary", "several steps", "more than there are", "a gradient that is not finite"),
)
def _candidates(d: Draw, t: Trial) -> None:
    """Candidates are the largest |g| of the first step, with the evidence of all steps."""
    shape, steps = d.shape(8), d.choice((1, 2, 4))
    size = shape[0] * shape[1]
    gradients = [d.lattice(shape, 3) for _ in range(steps)]
    first, n = gradients[0].reshape(-1), d.integer(0, size)
    tie = ties((-abs(first)).tolist(), n)
    many, odd = d.flag(8), d.flag(8)
    if many:
        n = size + 1
    elif odd:
        first[d.integer(0, size - 1)] = d.choice((math.nan, math.inf, -math.inf))
    t.saw("more than there are", many)
    t.saw("a gradient that is not finite", odd and not many)
    t.saw("a tie at the boundary", tie and not many and not odd)
    t.saw("several steps", steps > 1 and n)
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "gradients": gradients, "n": n}
    t.case("window.candidates", inputs)
