"""Cases of events whose window keeps evidence at some positions only (GRD-007, GRD-009)."""

import math
from dataclasses import replace

from conformance.gen.event import Made, Rule, add, given_part, made, rule
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
    _first_step(area)
    _inputs(area)
    _who_leaves(area)
    return area


def _first_step(area: Area) -> None:
    """Add events with NaN at a stored weight that is no candidate, and where no evidence is kept (GRD-007.2)."""
    chosen = rule(candidates="first-step", adapts="never")
    part, evidence = made(135, (3, 5), 8, 4, 1, chosen=chosen, steps=2)
    looked_at = evidence.candidates or frozenset()
    stored = max(p for p in part.base if p not in looked_at and p not in part.phi)
    elsewhere = max(p for p in range(15) if p not in looked_at and p not in part.phi and p not in part.base)
    for name, at in (("stored", stored), ("elsewhere", elsewhere)):
        spoilt = replace(evidence, gradient=[math.nan if p == at else g for p, g in enumerate(evidence.gradient)])
        text = "evidence looked at only where it is scored, or where none is kept"
        if name == "elsewhere":
            add(area, f"first-nan-{name}", "GRD-007 EVT-005", text, [(part, spoilt)], chosen, 0.5)
            continue
        _refuse(area, f"first-nan-{name}", "GRD-007", text, (part, spoilt), chosen)


def _inputs(area: Area) -> None:
    """Add events with a NaN or infinite mean square of inputs where nothing is scored by it (EVT-005)."""
    for name, change, bad in (
        ("activation", {"adapt": "activation"}, math.nan),
        ("curvature", {"grow": "curvature", "grow_scope": "active", "adapts": "never"}, math.inf),
    ):
        chosen = rule(**change)
        part, evidence = made(136, (2, 5), 3, 2, 0, chosen=chosen)
        column = max(set(range(5)) - {p % 5 for p in part.base})
        h = [bad if j == column else x for j, x in enumerate(evidence.inputs)]
        text = "inputs of a column without weights not looked at"
        _refuse(area, f"inputs-{name}", "GRD-006", text, (part, replace(evidence, inputs=h)), chosen)


def _who_leaves(area: Area) -> None:
    """Add events in which fewer positions leave than are dropped, chosen among ties or by change (GROW-006.2)."""
    for name, word, drop, text in (
        ("ties", 137, "magnitude", "ties among those that leave, to a higher position"),
        ("change", 138, "change", "|φ| for |φ − φ₀| among those that leave"),
    ):
        chosen = rule(candidates="first-step", drop=drop, adapts="never")
        part, evidence = made(word, (3, 5), 9, 6, 1, chosen=chosen)
        eta = sorted(part.phi)
        off = [p for p in range(15) if p not in part.phi]
        kept = dict(part.kept)
        if drop == "change":  # the largest values have changed least
            part = replace(part, phi={p: 2.0 - i / 4 for i, p in enumerate(eta)})
            kept["origin"] = {p: 2.0 - i / 2 for i, p in enumerate(eta)}
        else:
            part = replace(part, phi={p: 0.25 * (-1.0) ** i for i, p in enumerate(eta)})
        evidence = replace(evidence, candidates=frozenset(off[::4]), gradient=[2.0] * 15)
        add(area, f"leave-{name}", "GROW-006 SEL-002", text, [(replace(part, kept=kept), evidence)], chosen, 1.0)


def _refuse(area: Area, name: str, clause: str, text: str, pair: Made, chosen: Rule) -> None:
    inputs = {"parts": [given_part(*pair)], "rule": chosen, "fraction": 0.5, "seed": 0, "step": 1}
    refusals = "EVT-005 SEL-004"
    area.add(f"refuse-{name}", "update.event", f"{clause} {refusals}", text, inputs, refused=refusals)


AREAS = (events,)
