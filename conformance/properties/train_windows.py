"""Properties of candidates of a window (GRD-007)."""

import math
from typing import Any

from conformance.gen.numbers import ids, reals
from conformance.oracle import train_window
from conformance.properties.draws import Draw
from conformance.properties.states import ties
from conformance.properties.trial import Trial, property_of
from conformance.properties.update_scores import REFUSED


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
    n = d.integer(0, size)
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "gradients": gradients, "n": n}
    if d.flag(8):
        t.saw("more than there are")
        t.case("window.candidates", inputs | {"n": size + 1}, refused=["SEL-005"])
        return
    if d.flag(8):
        gradients[0].reshape(-1)[d.integer(0, size - 1)] = d.choice((math.nan, math.inf, -math.inf))
        t.saw("a gradient that is not finite")
        t.case("window.candidates", inputs, refused=REFUSED)
        return
    flat = [[float(x) for x in g.reshape(-1)] for g in gradients]
    at, evidence = train_window.candidates(flat[0], n), train_window.evidence(flat)
    t.saw("a tie at the boundary", ties([-abs(x) for x in flat[0]], n))
    t.saw("several steps", steps > 1 and n)
    answer: dict[str, Any] = {"candidates": ids(at)}
    answer |= {what: reals(evidence[what][p] for p in at) for what in ("gradient", "square")}
    t.case("window.candidates", inputs, answer)
