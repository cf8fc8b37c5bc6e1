"""Cases of chapter 8: whole events by any rule, over one or several matrices, with ties at every boundary."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.oracle import select_pools, update_choices, update_scores
from conformance.oracle.event import Outcome, Part, event
from conformance.oracle.event_evidence import Evidence
from conformance.oracle.select import binary64
from conformance.oracle.update_optimizers import KEEPS

Made = tuple[Part, Evidence]
Rule = update_choices.Rule
KEPT = ("age", "m", "v", "u", "origin")
BETAS: Rule = {"beta1": 0.5, "beta2": 0.75, "momentum": 0.5}
"""Rates of optimizers. Their small powers are exact."""

ALIKE: tuple[set[Any], ...] = ({"end", "never"}, {"activation", "curvature"})
"""Values of a choice that give the same event: curvature ranks like activation, of which it is half the square."""

CLOSE = 3469982
"""A seed, found by search, of which two draws are equal in binary32."""


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


def given_part(part: Part, evidence: Evidence) -> dict[str, Any]:
    """Return a matrix and its evidence as an entry of the input `parts`."""
    shape = part.shape
    inputs = {"out": shape[0], "in": shape[1], "matrix": part.matrix, "base": ids(part.base)}
    inputs |= {"base_values": reals(part.base.values()), "delta": ids(part.phi)}
    inputs |= {"delta_values": reals(part.phi.values())}
    inputs |= {name: (ids if name == "age" else reals)(part.kept[name].values()) for name in KEPT if name in part.kept}
    inputs |= {n: reals(getattr(evidence, n)).reshape(shape) for n in ("gradient", "absolute", "square")}
    inputs |= {n: reals(getattr(evidence, n)) for n in ("inputs", "row_moments", "column_moments")}
    if evidence.tokens:
        inputs["tokens"] = reals(evidence.tokens).reshape(shape)
    if evidence.candidates is not None:
        inputs["candidates"] = ids(sorted(evidence.candidates))
    inputs |= {"lost": ids(sorted(part.lost)), "budget": ids(part.budget), "delta_budget": ids(part.delta_budget)}
    return inputs | {"steps": evidence.steps, "optimizer": part.optimizer, "first": int(part.first)}


def answered(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the outputs of `update.event`, one entry for each matrix."""
    parts = [one.part for one in outcomes]
    answer: dict[str, Any] = {"base": [ids(p.base) for p in parts]}
    answer |= {"base_values": [reals(p.base.values()) for p in parts], "delta": [ids(p.phi) for p in parts]}
    answer["delta_values"] = [reals(p.phi.values()) for p in parts]
    for name in KEPT:
        make = ids if name == "age" else reals
        answer[name] = [make(p.kept[name].values()) if name in p.kept else None for p in parts]
    for name in ("dropped", "grown", "cancelled", "pruned"):
        answer[name] = [ids(getattr(one, name)) for one in outcomes]
    answer["records"] = [
        one.record | {name: reals(near or ()) for name, near in one.boundaries.items()} for one in outcomes
    ]
    return answer


def _same(a: Any, b: Any) -> bool:
    """Return whether two answers agree once their floats are rounded to binary32."""
    if isinstance(a, dict):
        return all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) and a.dtype.kind == "f":
        return a.shape == b.shape and np.array_equal(a.astype(np.float32), b.astype(np.float32))
    return bool(np.array_equal(a, b))


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
    of, evidence = [p for p, _ in parts], [s for _, s in parts]
    how: dict[str, Any] = {"seed": seed, "step": step, "pattern": pattern}
    answers = [
        answered(event(of, evidence, chosen, fraction, rounded=r, **how)) for r in (binary64, update_scores.binary32)
    ]
    clauses = f"{clauses} EVT-006 TRN-009"
    if _same(*answers):
        area.add(name, "update.event", clauses, purpose, inputs, answers[0])
        return
    for dtype, answer in zip(("float64", "float32"), answers, strict=True):
        area.add(f"{name}-{dtype}", "update.event", clauses, purpose, inputs, answer, dtypes=(dtype,))


_NEVER: Rule = {"adapts": "never"}
_CHANGE = {"drop": "change", "grow": "curvature", "adapt": "curvature"}
_FISHER = {"drop": "fisher", "grow": "fisher", "adapt": "magnitude"}
_WEIGHT = {"drop": "weight", "grow": "absolute", "adapt": "activation"}
_RIGL = {"adapts": "end", "drop": "weight", "drops": "weight", "moments": "seeded"}

_TABLE: list[tuple[str, Rule, str, str, str]] = [
    ("seft", {}, "DROP-001 GROW-002 ADPT-002 EVT-001", "adamw", "the parts in another order"),
    ("change", _CHANGE, "DROP-003 GROW-003 GROW-004 ADPT-005", "adamw", "φ₀ kept where a slot is cancelled"),
    ("fisher", _FISHER, "DROP-003 GROW-004 ADPT-005", "adamw", "ḡ² taken for square"),
    ("weight", _WEIGHT, "DROP-003 GROW-004 ADPT-005", "adamw", "|φ| taken for |W|, h by row"),
    ("random", dict.fromkeys(("drop", "grow", "adapt"), "random"), "RNG-003", "adamw", "one use for all three"),
    ("moments", _NEVER | {"grow": "moments", "regrow": 0}, "OPT-008 GROW-005 EVT-008", "sm3", "dropped, grown again"),
    ("rigl", _RIGL, "DROP-004 DLT-006 EVT-008", "sgd", "a dropped weight that stays"),
    ("literal", {"counts": "values", "exempt": "none"}, "ADPT-006 ADPT-007", "adamw", "zeros counted, or pruned"),
    ("slots", {"exempt": "slots", "grow_scope": "active"}, "ADPT-007 GROW-001", "adamw", "only new slots exempt"),
    ("mean-magnitude", {"adapt": "absolute"}, "ADPT-005 GRD-005", "adamw", "|ḡ| taken for the mean of |g|"),
    ("mean-square", {"adapt": "fisher"}, "ADPT-005 GRD-005", "adamw", "ḡ² taken for the mean of g²"),
    (
        "tokens",
        {"adapt": "token-fisher"},
        "ADPT-005 GRD-008",
        "adamw",
        "the mean of g² taken for the squares of tokens",
    ),
]


def _pair(word: int, name: str, chosen: Rule, optimizer: str) -> Made:
    """Return the matrix and evidence for the row `name` of the table."""
    part, evidence = made(word, (3, 5), 8, 4, 1, chosen=chosen, optimizer=optimizer, missing=1, steps=2)
    support = len(part.base.keys() | part.phi.keys())
    if name == "change":  # the gradients of slots are large, so that dropped slots grow again
        evidence = replace(evidence, gradient=[9.0 if p in part.phi else x for p, x in enumerate(evidence.gradient)])
    tight = support if name == "seft" else 4 if name == "literal" else support - 3
    return replace(part, budget=[tight], first=name == "seft"), evidence


def tells(pair: Made, chosen: Rule, keys: Iterable[str]) -> bool:
    """Return whether the event ends differently with every other value of each choice in `keys`."""

    def end(what: Rule) -> Any:
        try:
            (one,) = event([pair[0]], [pair[1]], what, 0.5, seed=3, step=20)
        except (KeyError, IndexError, select_pools.RefusedError):  # the choice needs evidence that is missing
            return None
        return replace(one, boundaries={}), one.part.phi.keys()

    right = end(chosen)
    for key in keys:
        names = (0, 1) if key == "regrow" else update_choices.VALUES[key][0]
        others = [n for n in names if n != chosen[key] and {n, chosen[key]} not in ALIKE]
        if any(end(chosen | {key: other}) == right for other in others):
            return False
    return True


def by_choice() -> Area:
    """Return cases for each choice of a rule (DROP-003, DROP-004, GROW-004, GROW-005, ADPT-005 to ADPT-007)."""
    area = Area("event", "dictionaries by flat position")
    for i, (name, change, clauses, optimizer, purpose) in enumerate(_TABLE):
        chosen = rule(**change)
        pairs = (_pair(word, name, chosen, optimizer) for word in range(1000 * i, 1000 * i + 500))
        keys = change or ("first_event", "exempt", "regrow", "counts")
        pair = next(pair for pair in pairs if tells(pair, chosen, keys))
        add(area, name, clauses, purpose, [pair], chosen, 0.5)
    _windows(area)
    _scopes(area)
    _edges(area)
    return area


def _windows(area: Area) -> None:
    """Add events of SpIEL with candidates of the first step (DLT-006, GRD-007, GROW-006, SCH-008)."""
    spiel = rule(candidates="first-step", moments="seeded", first_event="all", **_NEVER)
    part, evidence = made(20, (3, 5), 9, 5, 2, chosen=spiel, optimizer="spiel-adamw", steps=2, first=True)
    text = "candidates of later steps, more dropped than can grow, age A"
    add(area, "spiel-first", "GROW-006 DLT-006 GRD-007 SCH-008", text, [(part, evidence)], spiel, 0.25)
    part, evidence = made(21, (3, 5), 9, 5, 2, chosen=spiel, optimizer="spiel-adamw", steps=4)
    eta = sorted(part.phi)
    within = frozenset([*eta[:4], next(p for p in range(15) if p not in part.phi)])
    text = "five dropped where one candidate lies outside η"
    add(area, "spiel-few", "GROW-006 DLT-006", text, [(part, replace(evidence, candidates=within))], spiel, 1.0)
    within = frozenset([*eta[:2], next(p for p in range(15) if p not in part.phi)])
    text = "three stay away where one comes: all three leave, or the one with the largest score"
    add(area, "spiel-stay", "GROW-006 GROW-003", text, [(part, replace(evidence, candidates=within))], spiel, 1.0)
    part, evidence = made(23, (3, 5), 9, 5, 2, chosen=spiel, optimizer="spiel-adamw", steps=1)
    text = "an age of 1 where the window has one step"
    add(area, "spiel-one", "DLT-006", text, [(part, evidence)], spiel, 0.5)
    chosen, text = rule(moments="seeded"), "age A − 1, m not scaled, ḡ² for square"
    add(area, "seeded", "DLT-006 GROW-003", text, [made(22, (3, 5), 8, 4, 1, chosen=chosen, steps=3)], chosen, 0.5)


def _scopes(area: Area) -> None:
    """Add events over rows, groups and several matrices (EVT-009, GROW-007, SEL-007, SEL-008, DLT-001)."""
    chosen = rule(scope="row")
    text = "one selection over all rows, or a budget of the whole matrix"
    add(area, "row", "EVT-009 DLT-001 SEL-007 SEL-008", text, [made(31, (3, 6), 10, 6, 1, chosen=chosen)], chosen, 0.5)
    chosen = rule(scope="model", drop="random", counts="values")
    parts = [made(32, (2, 5), 6, 3, 1, chosen=chosen), made(32, (3, 4), 7, 5, 1, chosen=chosen, matrix=4)]
    parts = [(replace(part, budget=[part.budget[0] - 2]), evidence) for part, evidence in parts]
    text = "matrices apart, budgets not summed, ties to a later matrix, draws of one key for all"
    add(area, "model", "EVT-009 DLT-001 SEL-007 RNG-003 ADPT-006", text, parts, chosen, 0.5)
    chosen = rule(scope="group")
    part, evidence = made(34, (3, 8), 12, 6, 0, chosen=chosen)
    base = {4 * group + column: float(group % 3) for group in range(6) for column in ((0, 2), (1, 3))[group % 2]}
    eta = sorted(base)[::2]
    kept = {name: dict(zip(eta, values.values(), strict=True)) for name, values in part.kept.items()}
    phi = dict(zip(eta, part.phi.values(), strict=True))
    part = replace(part, base=base, phi=phi, kept=kept, budget=[2] * 6, delta_budget=[8])
    gradient = [9.0 if p < 8 else x for p, x in enumerate(evidence.gradient)]
    text = "three new slots in a group of 2:4, or pruning by the whole matrix"
    pair = (part, replace(evidence, gradient=gradient))
    add(area, "group", "EVT-009 GROW-007 DLT-001 TOP-005", text, [pair], chosen, 0.5, pattern=(2, 4))
    base = {p: b for p, b in base.items() if p not in (5, 8, 10, 16, 23)}
    eta = [p for p in eta if p in base]
    kept = {name: {p: values[p] for p in eta} for name, values in part.kept.items()}
    budget = [sum(p // 4 == g for p in base) for g in range(6)]
    part = replace(part, base=base, phi={p: part.phi[p] for p in eta}, kept=kept, budget=budget)
    text = "groups that stored fewer than N at load filled up to N"
    pair = (
        part,
        replace(evidence, gradient=[9.0 if p // 4 in (1, 2, 4) else x for p, x in enumerate(evidence.gradient)]),
    )
    add(area, "group-short", "EVT-009 GROW-007 DLT-001 EVT-007", text, [pair], chosen, 0.75, pattern=(2, 4))


def _edges(area: Area) -> None:
    """Add events with empty matrices, budgets of 0, equal scores and scores that tie once rounded; add refusals."""
    chosen = rule()
    one, evidence = made(40, (2, 3), 3, 2, 0, chosen=chosen, limit=1)
    zero = replace(evidence, gradient=[0.0] * 6)
    bare = replace(one, base={}, phi={}, kept={key: {} for key in one.kept}, lost=frozenset())
    parts = [
        (replace(one, phi=dict.fromkeys(one.phi, -0.0)), zero),
        (replace(bare, budget=[0], delta_budget=[0], matrix=1), evidence),
        made(41, (0, 3), 0, 0, 0, chosen=chosen, matrix=3),
    ]
    text = "K = 0 and d = 0, no rows, all scores 0 and equal, −0 before +0"
    add(area, "nothing", "SEL-002 SEL-008 EVT-009", text, parts, chosen, 0.5)
    drawn = rule(grow="random", **_NEVER)
    part, evidence = made(42, (4, 6), 12, 2, 0, chosen=drawn, matrix=1)
    eta = [0, 5]
    kept = {name: dict(zip(eta, values.values(), strict=True)) for name, values in part.kept.items()}
    part = replace(part, phi=dict(zip(eta, part.phi.values(), strict=True)), kept=kept, delta_budget=[8])
    text = "random scores rounded to binary32, in which two of them tie"
    add(area, "drawn", "RNG-003 NUM-006", text, [(part, evidence)], drawn, 0.0, seed=CLOSE, step=7)
    chosen, clauses = rule(drop="fisher"), "EVT-005 SEL-004"
    part, evidence = made(43, (2, 3), 4, 2, 0, chosen=chosen)
    inputs: dict[str, Any] = {"parts": [given_part(part, evidence)], "rule": chosen, "fraction": 0.5}
    inputs |= {"seed": 0, "step": 1}
    inputs["parts"][0]["square"] = np.full((2, 3), math.inf)
    area.add("refuse-infinite", "update.event", clauses, "an event with such evidence", inputs, refused=clauses)
    for name, change in (("drop", {"drop": "fisher"}), ("seeds", {"moments": "seeded"})):
        chosen = rule(**change)
        part, evidence = made(43, (2, 3), 4, 2, 0, chosen=chosen)
        # the last candidate has gradient 0, so that it does not grow
        at = max(p for p in range(6) if p not in part.base)
        evidence = replace(evidence, gradient=[0.0 if p == at else 1.0 for p in range(6)])
        evidence = replace(evidence, square=[math.inf if p == at else 1.0 for p in range(6)])
        inputs = {"parts": [given_part(part, evidence)], "rule": chosen, "fraction": 0.5, "seed": 0, "step": 1}
        text = "mean squares looked at only on the support, or only where a slot is new"
        area.add(f"refuse-square-{name}", "update.event", clauses, text, inputs, refused=clauses)
    _unusable(area)


def _unusable(area: Area) -> None:
    """Add events whose evidence or scores are not finite (EVT-005)."""
    for dtype, large in (("float64", 2.0**600), ("float32", 2.0**80)):
        for name, change, off, text in _OVERFLOWS:
            chosen = rule(**change)
            part, evidence = made(44, (3, 4), 6, 3, 0, chosen=chosen)
            at = off(part)
            gradient = [
                large if p == at and chosen["grow"] == "curvature" else g for p, g in enumerate(evidence.gradient)
            ]
            h = list(evidence.inputs)
            base = dict(part.base)
            if chosen["scope"] == "row":
                # one row has a weight too many, and in another row a product overflows
                base[at], h[at % 4] = large, large
                over = [int(r != at // 4 and r == min({p // 4 for p in base} - {at // 4})) for r in range(3)]
                over = [int(name.startswith("refuse") and r == at // 4) or o for r, o in enumerate(over)]
                part = replace(part, base=base, budget=[k - o for k, o in zip(part.budget, over, strict=True)])
            elif change == _WHOLE:
                base[at], h[at % 4] = large, large
                part = replace(part, base=base, budget=[len(base) - 1 if name.startswith("refuse") else 12])
            pair = part, replace(evidence, gradient=gradient, inputs=h)
            inputs = {"parts": [given_part(*pair)], "rule": chosen, "fraction": 0.5, "seed": 3, "step": 20}
            rounded = binary64 if dtype == "float64" else update_scores.binary32
            clauses, case_name = "EVT-005 SEL-004", f"{name}-{dtype}"
            try:
                answer = answered(event([pair[0]], [pair[1]], chosen, 0.5, seed=3, step=20, rounded=rounded))
            except select_pools.RefusedError:
                assert name.startswith("refuse"), name
                area.add(case_name, "update.event", clauses, text, inputs, refused=clauses, dtypes=(dtype,))
            else:
                assert not name.startswith("refuse"), name
                area.add(case_name, "update.event", "EVT-005 EVT-009", text, inputs, answer, dtypes=(dtype,))
    for name, change in (("random", {"grow": "random"}), ("dead", {"grow": "curvature"})):
        chosen = rule(**change)
        part, evidence = made(45, (2, 4), 4, 2, 0, chosen=chosen)
        at = next(p for p in range(8) if p not in part.base)
        gradient = [math.nan if p == at else g for p, g in enumerate(evidence.gradient)]
        h = [0.0 if j == at % 4 else x for j, x in enumerate(evidence.inputs)]
        inputs = {"parts": [given_part(part, replace(evidence, gradient=gradient, inputs=h))], "rule": chosen}
        inputs |= {"fraction": 0.5, "seed": 0, "step": 1}
        text = "evidence looked at only where something is scored by it"
        clauses = "EVT-005 SEL-004"
        area.add(f"refuse-nan-{name}", "update.event", clauses, text, inputs, refused=clauses)


def _off_base(part: Part) -> int:
    return next(p for p in range(12) if p not in part.base and p not in part.phi)


def _slot(part: Part) -> int:
    return max(part.phi, key=lambda p: abs(part.phi[p]))


def _weight(part: Part) -> int:
    return max(p for p in part.base if p not in part.phi)


_CURVED: Rule = {"grow": "curvature", "adapts": "never"}
_ROWS: Rule = {"scope": "row", "adapt": "curvature"}

_WHOLE = {"adapt": _ROWS["adapt"]}
_OVERFLOWS = (
    ("overflow-off-base", _CURVED | {"grow_scope": "active"}, _off_base, "refused for a score off B"),
    ("overflow-on-slot", _CURVED | {"regrow": 0}, _slot, "refused for the score of a slot"),
    ("overflow-kept-slot", _CURVED, _slot, "refused for the score of a slot that was not dropped"),
    ("overflow-idle-row", _ROWS, _weight, "refused for a row with nothing to prune"),
    ("overflow-no-excess", _WHOLE, _weight, "refused for a score in an event that prunes nothing"),
    ("refuse-overflow-excess", _WHOLE, _weight, "a weight's infinite score ranked"),
    ("refuse-overflow-candidate", _CURVED, _off_base, "a candidate's infinite score ranked"),
    ("refuse-overflow-row", _ROWS, _weight, "a weight's infinite score ranked"),
)
"""Name, choices, the function that returns the position whose score overflows, and the mistake to catch."""

AREAS = (by_choice,)
