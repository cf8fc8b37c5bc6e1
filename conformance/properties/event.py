"""Properties of events by any rule (chapter 8)."""

import math
from dataclasses import replace
from typing import Any

from conformance.answers import answer
from conformance.answers.event import given_part
from conformance.oracle import select_pools, update_choices
from conformance.oracle.event import Outcome, Part, event
from conformance.oracle.event_evidence import Evidence, asked_by
from conformance.oracle.update import effective
from conformance.oracle.update_optimizers import KEEPS
from conformance.properties.draws import Draw, Shape
from conformance.properties.trial import Trial, property_of
from conformance.properties.update_scores import REFUSED, rounded_scores

BETAS: update_choices.Rule = {"beta1": 0.5, "beta2": 0.75, "momentum": 0.5}
"""Rates of optimizers. Their small powers are exact."""

_CHOSEN = ("adapt", "grow", "drop", "drops", "moments", "candidates", "counts", "exempt", "adapts",
           "grow_scope", "first_event")  # fmt: skip

_OPTIMIZERS = ("adamw", "sgd", "spiel-adamw", "sm3")


def _rule(d: Draw) -> tuple[update_choices.Rule, str, tuple[int, int] | None]:
    """Return a rule without contradictions, an optimizer, and a pattern if the rule needs one."""
    optimizer = d.choice(_OPTIMIZERS)
    inputs: update_choices.Rule = {}
    choices: update_choices.Rule = {"scope": d.choice(update_choices.VALUES["scope"][0])}
    choices |= {key: d.choice(update_choices.VALUES[key][0]) for key in d.some(_CHOSEN, d.integer(0, 6))}
    if optimizer == "sm3" and d.flag():
        choices["grow"] = "moments"
    pattern = (2, 4) if choices.get("scope") == "group" else None
    if d.flag(4):
        choices["regrow"] = 0
    if d.flag(4):
        choices["adapt"] = "token-fisher"
    for key, value in choices.items():
        try:
            update_choices.check(
                inputs | {key: value, "optimizer": optimizer} | ({"pattern": [2, 4]} if pattern else {})
            )
        except select_pools.RefusedError:
            continue
        inputs[key] = value
    return update_choices.RULE | BETAS | inputs, optimizer, pattern if inputs.get("scope") == "group" else None


def _part(d: Draw, chosen: update_choices.Rule, optimizer: str, matrix: int, pattern: tuple[int, int] | None) -> Part:
    """Return a matrix with few different values, often over its budget."""
    if pattern is None:
        shape: Shape = d.shape(5)
        base = d.mask(shape)[0]
        open_to = list(range(shape[0] * shape[1]))
    else:
        shape = (d.integer(1, 3), pattern[1] * d.integer(1, 2))
        open_to = base = d.pattern(shape, *pattern)
    eta = [open_to[i] for i in d.subset(len(open_to), 3)]

    def column(values: list[Any]) -> dict[int, Any]:
        return dict(zip(eta, values, strict=True))

    n = len(eta)
    kept = {name: column(d.levels(n, 2)) for name in ("m", "v", "u", "origin")}
    kept = {"age": column(d.integers(n, 0, 9)), **kept, "v": {p: abs(x) for p, x in kept["v"].items()}}
    names = (*KEEPS[optimizer], *(["origin"] if chosen["drop"] == "change" else []))
    support, less, free = sorted({*base, *eta}), d.choice((0, 1, 3)), d.choice((0, 1, 2))
    # d_φ is at most K (DLT-002)
    budget, delta_budget = [max(len(support) - less, n + free)], [n + free]
    if chosen["scope"] == "row":
        delta_budget = [sum(p // shape[1] == r for p in eta) for r in range(shape[0])]
        held_by = [sum(p // shape[1] == r for p in support) for r in range(shape[0])]
        budget = [max(k - less, slots) for k, slots in zip(held_by, delta_budget, strict=True)]
    if pattern is not None:
        budget = [sum(p // pattern[1] == g for p in base) for g in range(shape[0] * shape[1] // pattern[1])]
    off = [p for p in range(shape[0] * shape[1]) if p not in base]
    lost = frozenset(off[i] for i in d.subset(len(off), 4))
    base_values = dict(zip(base, d.with_specials(d.levels(len(base), 2, 0.5)), strict=True))
    phi = column(d.with_specials(d.levels(n, 2, 0.25)))
    kept = {name: kept[name] for name in names}
    return Part(shape, matrix, base_values, phi, kept, budget, delta_budget, optimizer, lost=lost)


def _evidence(d: Draw, chosen: update_choices.Rule, part: Part) -> Evidence:
    rows, cols = part.shape
    gradient, absolute, square = (d.levels(rows * cols, 2, 1.0) for _ in range(3))
    h = [0.0 if x == 0 else 2.0 ** (x - 2) for x in d.integers(cols, 0, 4)]
    moments = [[float(x) for x in d.integers(k, 0, 3)] for k in part.shape]
    first = frozenset(d.subset(rows * cols)) if chosen["candidates"] == "first-step" else None
    steps, absolute, square = d.choice((1, 2, 4)), [abs(x) for x in absolute], [x * x for x in square]
    tokens = [x * x for x in d.levels(rows * cols, 2, 1.0)] if chosen["adapt"] == "token-fisher" else []
    return Evidence(gradient, absolute, square, h, moments[0], moments[1], first, steps, tokens)


_SEES = ("two matrices", "row", "group", "model", "a cancelled pair", "a pruned position", "a seeded slot",
         "a dropped weight", "a first event that drops all", "candidates of a first step", "zeros that are not counted",
         "moments of rows and columns", "a group that stored less at load", "equal scores at a boundary",
         "a weight pruned by its tokens", "evidence that is not finite")  # fmt: skip


@property_of(
    "update.event",
    "DROP-003 DROP-004 GROW-003 GROW-004 GROW-005 GROW-006 GROW-007 ADPT-005 ADPT-006 ADPT-007 DLT-001 DLT-006 EVT-001"
    " EVT-005 EVT-006 EVT-008 EVT-009 SEL-007 SEL-008 SCH-008 TRN-009 RNG-003",
    "rules",
    "update.event",
    sees=_SEES,
)
def _event(d: Draw, t: Trial) -> None:
    """An event by any rule equals drop, grow and adapt on dictionaries, of one matrix or all, whatever the ties."""
    _asked_of_an_event(d, t, "update.event")


def _asked_of_an_event(d: Draw, t: Trial, op: str) -> dict[str, Any]:
    """Ask an operation about an event by a random rule, and return its inputs."""
    chosen, optimizer, pattern = _rule(d)
    # all matrices have the same flag, because the first event of a run is the first event of each
    first = d.flag()
    parts = [replace(_part(d, chosen, optimizer, 4 * i, pattern), first=first) for i in range(d.integer(1, 2))]
    evidence = [_evidence(d, chosen, part) for part in parts]
    fraction, words = d.integer(0, 8) / 8, {"seed": d.integer(0, 5), "step": d.integer(1, 50)}
    if d.flag(5):
        # a window of candidates keeps g² even if no criterion uses it, so only evidence that the rule uses is spoilt
        narrow = chosen["candidates"] == "first-step"
        names = sorted(asked_by(chosen)) if narrow else ["gradient", "absolute", "square", "inputs"]
        names += ["tokens"] if evidence[0].tokens and not narrow else []
        values = getattr(evidence[0], d.choice(names))
        values[d.integer(0, len(values) - 1)] = d.choice((math.nan, math.inf))
    inputs = {
        "parts": [given_part(*one) for one in zip(parts, evidence, strict=True)],
        "rule": chosen,
        "fraction": fraction,
    }
    inputs |= words | ({"pattern": list(pattern)} if pattern else {})
    try:
        outcomes = event(parts, evidence, chosen, fraction, **words, pattern=pattern, rounded=rounded_scores(t))
    except select_pools.RefusedError as error:
        if not str(error).startswith(REFUSED):
            raise
        t.saw("evidence that is not finite")
    else:
        _saw(t, parts, chosen, outcomes)
    t.case(op, inputs, dtypes=(t.dtype,))
    return inputs


@property_of(
    "event.ratios", "TRN-009 EVT-005", "runs", "event.ratios", sees=("no whole gradient", "no slots before it")
)
def _ratios(d: Draw, t: Trial) -> None:
    """The ratios of an event by any rule are relative to the state before it; each matrix has its own."""
    inputs = _asked_of_an_event(d, t, "event.ratios")
    t.saw("no whole gradient", None in answer("event.ratios", inputs, t.dtype).outputs.get("gradient_norm", ()))
    t.saw("no slots before it", not all(len(part["delta"]) for part in inputs["parts"]))


def _saw(t: Trial, parts: list[Part], chosen: update_choices.Rule, outcomes: list[Outcome]) -> None:
    t.saw("two matrices", len(parts) > 1)
    t.saw(chosen["scope"])
    t.saw("moments of rows and columns", chosen["grow"] == "moments" and any(one.grown for one in outcomes))
    t.saw("candidates of a first step", chosen["candidates"] == "first-step")
    t.saw("a first event that drops all", chosen["first_event"] == "all" and parts[0].first)
    for one, part in zip(outcomes, parts, strict=True):
        zeros = [x for x in effective(part.base, part.phi).values() if x == 0]
        t.saw("zeros that are not counted", chosen["counts"] == "values" and chosen["adapts"] == "always" and zeros)
        t.saw("a group that stored less at load", chosen["scope"] == "group" and min(part.budget, default=2) < 2)
        t.saw("a cancelled pair", one.cancelled)
        t.saw("a pruned position", one.pruned)
        t.saw("a weight pruned by its tokens", chosen["adapt"] == "token-fisher" and one.pruned)
        t.saw("a seeded slot", chosen["moments"] == "seeded" and one.grown)
        t.saw("a dropped weight", chosen["drops"] == "weight" and set(one.dropped) - set(one.cancelled))
        t.saw("equal scores at a boundary", any(b and b[0] == b[1] for b in one.boundaries.values()))
