"""Cases of events whose window keeps evidence at some positions only (GRD-007, GRD-009)."""

import math
from dataclasses import replace

from conformance.gen.event import add, given_part, made, rule
from conformance.gen.numbers import Area


def events() -> Area:
    """Return cases of events with candidates of the first step, and with growth on the base."""
    area = Area("kept", "dictionaries by flat position")
    for name, word, change in (
        ("first-mean-magnitude", 24, {"grow": "absolute", "adapt": "absolute"}),
        ("first-tokens", 25, {"adapt": "token-fisher"}),
    ):
        chosen = rule(candidates="first-step", **change)
        pair = made(word, (3, 5), 9, 5, 0, chosen=chosen, steps=3)
        text = "ḡ for the mean of |g| or for the squares of tokens, or growth at any position"
        add(area, name, "GRD-007 GROW-006 ADPT-005", text, [pair], chosen, 0.5)
    for name, scope, at in (("off-support", "active", 5), ("on-slot", "active", 1), ("everywhere", "anywhere", 5)):
        chosen = rule(drop="fisher", grow_scope=scope)
        part, evidence = made(46, (2, 3), 3, 2, 0, chosen=chosen)
        of_slots = {name: dict(zip((0, 1), values.values(), strict=True)) for name, values in part.kept.items()}
        part = replace(part, base={0: 1.0, 2: -1.0, 4: 0.5}, phi={0: 0.5, 1: 1.0}, kept=of_slots)
        square = [math.inf if p == at else 1.0 for p in range(6)]
        evidence = replace(evidence, square=square, gradient=[math.nan if p == at else 1.0 for p in range(6)])
        text = "evidence off the support looked at where growth is active, or not looked at where it is not"
        if name == "off-support":
            add(area, f"nan-{name}", "GRD-009 EVT-005", text, [(part, evidence)], chosen, 0.5)
            continue
        inputs = {"parts": [given_part(part, evidence)], "rule": chosen, "fraction": 0.5, "seed": 0, "step": 1}
        refusals = "EVT-005 SEL-004"
        area.add(f"refuse-nan-{name}", "update.event", f"GRD-009 {refusals}", text, inputs, refused=refusals)
    return area


AREAS = (events,)
