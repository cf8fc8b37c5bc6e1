"""Cases of chapter 8: whole events by any rule, over one or several matrices, with ties at every boundary."""

from dataclasses import replace
from typing import Any

from conformance.answers import answer
from conformance.answers.event import given_part
from conformance.cases.inputs import same_values
from conformance.gen.numbers import Area, Numbers
from conformance.oracle import update_choices
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import Evidence
from conformance.oracle.update_optimizers import KEEPS

Made = tuple[Part, Evidence]
Rule = update_choices.Rule
BETAS: Rule = {"beta1": 0.5, "beta2": 0.75, "momentum": 0.5}
"""Rates of optimizers. Their small powers are exact."""


def rule(**change: Any) -> Rule:
    """Return the default rule with changes."""
    return update_choices.RULE | BETAS | change


def made(
    word: int,
    shape: tuple[int, int],
    stored: int,
    slots: int,
    outside: int,
    *,
    chosen: Rule,
    matrix: int = 0,
    optimizer: str = "adamw",
    steps: int = 1,
    limit: int = 2,
    missing: int = 0,
    **more: Any,
) -> Made:
    """Return a matrix with `outside` of its slots off the base, and evidence that has few different values.

    missing  how many slots and weights the matrix has below its budgets
    """
    n = Numbers(78, word, matrix)
    size = shape[0] * shape[1]
    base = n.subset(size, stored)
    off = sorted(set(range(size)) - set(base))
    eta = sorted([base[i] for i in n.subset(stored, slots - outside)] + [off[i] for i in n.subset(len(off), outside)])

    def column(values: Any) -> dict[int, Any]:
        return dict(zip(eta, [x.item() for x in values], strict=True))

    kept = {"age": column(n.integers(slots, 1, 9)), "m": column(n.lattice(slots) / 8)}
    kept |= {"v": column(abs(n.lattice(slots)) / 8), "u": column(n.lattice(slots) / 8)}
    kept["origin"] = column(n.lattice(slots, limit) / 4)
    names = (*KEEPS[optimizer], *(["origin"] if chosen["drop"] == "change" else []))
    base_values = dict(zip(base, [float(x) / 2 for x in n.integers(stored, -limit, limit)], strict=True))
    support = len(set(base) | set(eta))
    lost = [off[i] for i in n.subset(len(off), 2)] if len(off) > 1 else []
    budget, delta_budget = [support + missing], [slots + missing]
    if chosen["scope"] == "row":
        rows = [[p for p in sorted(set(base) | set(eta)) if p // shape[1] == r] for r in range(shape[0])]
        budget, delta_budget = [len(r) for r in rows], [sum(p in eta for p in r) for r in rows]
    part = Part(shape, matrix, base_values, column(n.lattice(slots, limit) / 4), {k: kept[k] for k in names},
                budget, delta_budget, optimizer, lost=frozenset(lost))  # fmt: skip
    flat = [[float(x) for x in n.lattice(size, limit)] for _ in range(3)]
    absolute, square = [abs(x) for x in flat[1]], [x * x for x in flat[2]]
    h = [2.0 ** int(x) for x in n.integers(shape[1], -1, 2)]
    r, c = ([float(x) for x in n.integers(k, 0, limit)] for k in shape)
    first = frozenset(n.subset(size, slots + missing)) if chosen["candidates"] == "first-step" else None
    tokens = square[::-1] if chosen["adapt"] == "token-fisher" else []
    evidence = Evidence(flat[0], absolute, square, h, r, c, first, steps, tokens)
    return replace(part, **more), evidence


def add(
    area: Area,
    name: str,
    clauses: str,
    purpose: str,
    parts: list[Made],
    chosen: Rule,
    fraction: float,
    *,
    seed: int = 3,
    step: int = 20,
    pattern: tuple[int, int] | None = None,
) -> None:
    """Add an event: one case for both dtypes, or one for each if their answers differ."""
    inputs = {"parts": [given_part(*pair) for pair in parts], "rule": chosen, "fraction": fraction}
    inputs |= {"seed": seed, "step": step} | ({"pattern": list(pattern)} if pattern else {})
    answers = [answer("update.event", inputs, dtype).outputs for dtype in ("float64", "float32")]
    clauses = f"{clauses} EVT-006 TRN-009"
    if same_values(*answers):
        area.add(name, "update.event", clauses, purpose, inputs, dict(answers[0]))
        return
    for dtype, outputs in zip(("float64", "float32"), answers, strict=True):
        area.add(f"{name}-{dtype}", "update.event", clauses, purpose, inputs, dict(outputs), dtypes=(dtype,))
