"""Wrong events: drop, grow and adapt on dictionaries, with one flaw."""

import math
from dataclasses import replace

import numpy as np

from conformance.oracle import rules, update
from conformance.oracle.update import State
from tests.conformance.mutants import ENGINE, ids


def event(flaw=""):
    """The event on dictionaries, with one flaw; without one it passes every case."""

    def op(a):
        return outputs(flawed_event(a, flaw), a)

    return op


def outputs(state, a):
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
    out = {name: np.array(list(held.values()), dtype=kind) for name, held in floats.items()}
    out |= {name: ids(held) for name, held in places.items()}
    return out | {"age": ids(state.age.values())}


def single(a):
    return rules.binary32 if a["base_values"].dtype == np.float32 else rules.binary64


def flawed_event(a, flaw):  # noqa: C901
    if not np.isfinite(a["gradient"]).all() or a["n_drop"] > len(a["delta"]):
        return ENGINE.ops["update.evolve"](a)  # refuses
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

    def moved(held, zero):
        return {p: zero if p in kept else held.get(p, zero) for p in eta}

    fresh = {p for p in grown if p not in state.phi}
    m, v, age = moved(state.m, 0.0), moved(state.v, 0.0), moved(state.age, 0)
    values = {p: state.phi.get(p, 0.0) for p in eta}
    if flaw == "cancelled loses moments":
        both = set(gone) & set(grown)
        m, v = ({p: 0.0 if p in both else x for p, x in held.items()} for held in (m, v))
    if flaw == "new slot keeps an age":
        age = {p: 7 if p in fresh else x for p, x in age.items()}
    if flaw == "new slot steps at once":
        values = {p: -0.125 * g[p] if p in fresh else x for p, x in values.items()}
    state = State(state.size, state.base, values, m, v, age)
    if not a["adapts"] and flaw != "always adapts":
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
    found = [abs(rounded(scores[p] * scored[p])) for p in rows]
    excess = min(max(0, size - budget), len(rows))
    if flaw == "filled up to K":
        excess = max(0, size - budget + 1)
    pruned = rules.smallest(found, rows, excess)
    if flaw == "slot kept after pruning":
        left = update.without(state, pruned)
        return replace(state, base=left.base)
    if flaw == "base kept after pruning":
        return replace(update.without(state, pruned), base=state.base)
    return update.without(state, pruned)
