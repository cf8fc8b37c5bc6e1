"""Properties of generation (chapter 17)."""

from typing import Any

import numpy as np

from conformance.gen.numbers import ids, reals
from conformance.oracle import generate
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []


@property_of(
    "generate.pick",
    "GEN-003 GEN-004 GEN-005 GEN-006",
    "generate",
    "generate.pick",
    sees=("a tie", "top-k that cuts a tie", "top-p that leaves some out", "temperature 0", "a logit that is no number"),
)
def _pick(d: Draw, t: Trial) -> None:
    """The token that a loop over sorted ids picks."""
    logits = d.levels(1 + d.length(33), 8, 0.25)
    top_k, top_p = d.choice((None, 1, 2, 3, 5, 40)), d.choice((None, 0.5, 0.9, 0.01, 1.0))
    given: dict[str, Any] = {"temperature": d.choice((1.0, 0.5, 3.0, 0.0)), "seed": d.integer(0, 9)}
    given |= {"logits": reals(logits), "numbers": [d.integer(0, 40) for _ in range(3)]}
    given |= {} if top_k is None else {"top_k": top_k}
    given |= {} if top_p is None else {"top_p": top_p}
    if d.flag(8):
        given["logits"][d.integer(0, len(logits) - 1)] = d.choice((np.nan, np.inf))
        t.saw("a logit that is no number")
        t.case("generate.pick", given, refused=["GEN-006"])
        return
    how = (given["temperature"], top_k, top_p, given["seed"])
    found = [generate.picked(logits, *how, number) for number in given["numbers"]]
    if not all(sure for _, sure in found):
        return
    t.saw("a tie", len(set(logits)) < len(logits))
    t.saw("temperature 0", given["temperature"] == 0)
    if top_k is not None and top_k < len(logits):
        falling = sorted(logits, reverse=True)
        t.saw("top-k that cuts a tie", falling[top_k - 1] == falling[top_k])
    t.saw("top-p that leaves some out", given["temperature"] and top_p is not None and top_p < 1 and len(logits) > 2)
    t.case("generate.pick", given, {"picked": ids(token for token, _ in found)})
