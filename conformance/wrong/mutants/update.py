"""Mutants of events on dictionaries: drop, grow and adapt with one flaw."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.oracle import select, update
from conformance.oracle.select import Round
from conformance.oracle.update import State
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, ids, mutant, mutants, right


def event(flaw: str = "") -> Operation:
    """Return an event on dictionaries with one flaw; without a flaw it passes every case."""

    def op(a: Values) -> Values:
        if not math.isfinite(math.hypot(*a["gradient"].reshape(-1).tolist())) or a["n_drop"] > len(a["delta"]):
            return right("update.evolve")(a)  # the engine refuses these inputs
        return outputs(flawed_event(a, flaw), a)

    return op


def outputs(state: State, a: Values) -> Values:
    w = update.effective(state.base, state.phi, single(a))
    kind = a["base_values"].dtype
    floats = {
        "base_values": state.base,
        "delta_values": state.phi,
        "m": state.m,
        "v": state.v,
        "weights": w,
    }
    places = {
        "base": state.base,
        "delta": state.phi,
        "support": w,
        "age": state.age,
    }
    out = {name: np.array(list(column.values()), dtype=kind) for name, column in floats.items()}
    out |= {name: ids(column) for name, column in places.items()}
    return out | {"age": ids(state.age.values())}


def single(a: Values) -> Round:
    return select.binary32 if a["base_values"].dtype == np.float32 else select.binary64


def flawed_event(a: Values, flaw: str) -> State:  # noqa: C901
    g = [float(x) for x in a["gradient"].reshape(-1)]
    columns = {name: dict(zip(a["delta"].tolist(), a[name].tolist(), strict=True)) for name in ("m", "v", "age")}
    base = dict(zip(a["base"].tolist(), a["base_values"].tolist(), strict=True))
    phi = dict(zip(a["delta"].tolist(), a["delta_values"].tolist(), strict=True))
    state = State(a["out"] * a["in"], base, phi, **columns)
    rounded, n_drop, budget = single(a), a["n_drop"], a["budget"]
    gone = update.dropped(phi, n_drop)
    if flaw == "adapt first":
        weights = update.effective(base, phi, rounded)
        state = update.without(state, update.pruned(weights, set(), g, budget, rounded))
        gone = [p for p in gone if p in state.phi]
    n_grow = n_drop if flaw == "no refill" else n_drop + a["delta_budget"] - len(phi)
    hidden = list(g)
    if flaw == "dropped not candidates":
        state = replace(state, phi=state.phi | dict.fromkeys(gone, math.nan))
        grown = update.grown(state, [], g, n_grow, a["scope"])
        state = replace(state, phi=phi)
    elif flaw == "signed gradient":
        grown = update.grown(state, gone, [max(x, 0.0) for x in hidden], n_grow, a["scope"])
    else:
        scope = "all" if flaw == "scope ignored" else a["scope"]
        grown = update.grown(state, gone, g, n_grow, scope)
    if flaw == "folded":
        base = base | {p: base.get(p, 0.0) + phi[p] for p in gone}
        state = replace(state, base=dict(sorted(base.items())))
    eta = sorted((state.phi.keys() - set(gone)) | set(grown))
    kept = set() if flaw != "cancelled starts anew" else set(gone) & set(grown)

    def moved(column: dict[int, Any], zero: Any) -> dict[int, Any]:
        return {p: zero if p in kept else column.get(p, zero) for p in eta}

    fresh = {p for p in grown if p not in state.phi}
    m, v, age = moved(state.m, 0.0), moved(state.v, 0.0), moved(state.age, 0)
    values = {p: state.phi.get(p, 0.0) for p in eta}
    if flaw == "cancelled loses moments":
        both = set(gone) & set(grown)
        m, v = ({p: 0.0 if p in both else x for p, x in column.items()} for column in (m, v))
    if flaw == "new slot keeps an age":
        age = {p: 7 if p in fresh else x for p, x in age.items()}
    if flaw == "new slot steps at once":
        values = {p: -0.125 * g[p] if p in fresh else x for p, x in values.items()}
    state = State(state.size, state.base, values, m, v, age)
    if flaw == "never adapts" or (not a["adapts"] and flaw != "always adapts"):
        return state
    weights = update.effective(state.base, state.phi, rounded)
    exempt = {
        "new slots not exempt": set(),
        "cancelled exempt": set(grown),
        "whole delta exempt": set(state.phi),
    }.get(flaw, fresh)
    size = sum(x != 0 for x in weights.values()) if flaw == "values counted" else len(weights)
    scores = {"by magnitude": [1.0] * len(g), "by gradient": g}.get(flaw, g)
    scored = dict.fromkeys(weights, 1.0) if flaw == "by gradient" else weights
    if flaw == "without phi":
        scored = {p: state.base.get(p, 0.0) for p in weights}
    rows = [p for p in weights if p not in exempt]
    sizes = [abs(rounded(scores[p] * scored[p])) for p in rows]
    excess = min(max(0, size - budget), len(rows))
    if flaw == "filled up to K":
        excess = max(0, size - budget + 1)
    pruned = select.smallest(sizes, rows, excess)
    if flaw == "slot kept after pruning":
        pruned_state = update.without(state, pruned)
        return replace(state, base=pruned_state.base)
    if flaw == "base kept after pruning":
        return replace(update.without(state, pruned), base=state.base)
    return update.without(state, pruned)


def largest_dropped(a: Values) -> Values:
    return {"dropped": np.sort(a["delta"][np.argsort(-np.abs(a["delta_values"]), kind="stable")[: a["n"]]])}


def of_another_step(a: Values) -> Values:
    """Prune by another gradient than the one that growth uses."""
    out = right("update.evolve")(a | {"adapts": 0})
    if not a["adapts"]:
        return out
    after = {name: out[name] for name in ("base", "base_values", "delta", "delta_values", "m", "v", "age")}
    next_gradient = np.ascontiguousarray(a["gradient"][::-1, ::-1])
    return right("update.evolve")(a | after | {"n_drop": 0, "gradient": next_gradient})


def ranked_anyway(a: Values) -> Values:
    """Refuse a score that overflows, although no weight has to leave (EVT-005.3)."""
    w = right("delta.effective")(a)
    if not np.isfinite(a["gradient"].reshape(-1)[w["support"]] * w["weights"]).all():
        raise REFUSALS[0]("SEL-004", "a score is infinite")
    return right("update.adapt")(a)


def _events(flaws: str) -> list[Mutant]:
    """Return a mutant for each line of `clauses | flaw | name`."""
    rows = [[part.strip() for part in line.split(" | ")] for line in flaws.strip().splitlines()]
    return [mutant(clauses, "update.evolve", event(flaw), name) for clauses, flaw, name in rows]


MUTANTS: list[Mutant] = [
    *mutants("update.drop",
        ("DROP-001", {"delta_values": lambda a: a["delta_values"] - 100}, "φ for |φ|"),
        ("DROP-001", largest_dropped, "the largest dropped"),
        unchecked="SEL-004 SEL-005"),
    *mutants("update.grow",
        ("GROW-001", {"dropped": lambda a: a["dropped"][:0]}, "no just-dropped"),
        ("GROW-001", {"scope": lambda a: "active"}, "never off the base"),
        ("GROW-002", {"gradient": lambda a: np.maximum(a["gradient"], 0)}, "ḡ for |ḡ|"),
        unchecked="EVT-005 TOP-003"),
    *mutants("delta.effective", unchecked="TOP-003"),
    *mutants("update.adapt",
        ("EVT-004 ADPT-001", lambda a: {"pruned": ids([])}, "no last pass"),
        ("ADPT-002", {"gradient": lambda a: np.ones_like(a["gradient"])}, "|W| for |ḡ · W|")),
    Mutant("update.adapt", "scores refused that nobody ranks", ("EVT-005",), ranked_anyway, refuses_good=True),
    *_events("""
        GROW-001 | dropped not candidates | no just-dropped
        GROW-001 EVT-007 | scope ignored | scope ignored
        GROW-002 | no refill | no refill
        GROW-002 | signed gradient | ḡ for |ḡ|
        GROW-003 | cancelled loses moments | moments of cancelled pairs lost
        GROW-003 | cancelled starts anew | cancelled pairs start anew
        DLT-005 | new slot keeps an age | ages not reset
        DLT-005 | new slot steps at once | a new slot is not 0
        DROP-002 EVT-006 | folded | dropped values folded into the base
        EVT-001 | adapt first | adapt before drop
        ADPT-001 | filled up to K | one too many pruned
        ADPT-001 TOP-004 | values counted | values counted instead of support
        ADPT-002 | by magnitude | |W| for |g·W|
        ADPT-002 | by gradient | |g| for |g·W|
        ADPT-002 | without phi | the base weight alone
        ADPT-003 | new slots not exempt | new slots not exempt
        ADPT-003 | cancelled exempt | cancelled pairs exempt
        ADPT-003 | whole delta exempt | the whole delta exempt
        ADPT-004 EVT-003 | slot kept after pruning | the slot stays
        ADPT-004 EVT-003 | base kept after pruning | the base stays
        EVT-001 | always adapts | adapt where it is left out
        EVT-003 NUM-001 | never adapts | never adapts
    """),
    *mutants("update.evolve",
        ("EVT-002", of_another_step, "adapt with another step's gradient"),
        unchecked="SEL-005 EVT-005"),
]  # fmt: skip

CONTROLS = (Mutant("update.evolve", "none", (), event()),)
"""Rewritten operations without a flaw, which every case must pass."""
