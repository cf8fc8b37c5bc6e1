"""Delta, drop, grow, adapt and the whole event of one matrix by the rule of chapter 8 (DLT, DROP, GROW, ADPT, EVT)."""

import math
from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, answers, ids, reals, refuse
from conformance.answers.select import rise
from conformance.oracle import update
from conformance.oracle.update import State

__all__: list[str] = []


def _by_position(a: Inputs, positions: str, values: str) -> dict[int, Any]:
    """Return values by flat position, all 0 if the call has no such values."""
    at = a[positions].tolist()
    return dict.fromkeys(at, 0.0) if a[values] is None else dict(zip(at, a[values].tolist(), strict=True))


def _state(a: Inputs) -> State:
    """Return base, delta and the state of its slots."""
    size = a["out"] * a["in"]
    refuse(TOP_003=not all(rise(a[name].tolist(), size) for name in ("base", "delta")))
    base, phi = _by_position(a, "base", "base_values"), _by_position(a, "delta", "delta_values")
    kept = {name: _by_position(a, "delta", name) for name in ("m", "v", "age")}
    return State(size, base, phi, **kept)


def _refuse_odd(*values: Any) -> None:
    """Refuse evidence or scores with a NaN or infinite entry (EVT-005); as scores they break SEL-004 too."""
    odd = not all(np.isfinite(entries).all() for entries in values)
    refuse(EVT_005=odd, SEL_004=odd)


def _refuse_gradient(gradient: Any, read: list[int] | None = None) -> list[float]:
    """Return a gradient, flat, whose norm must be finite in binary64 (EVT-005.2), looked at where it is `read`."""
    flat = gradient.reshape(-1).tolist()
    norm = math.hypot(*(flat if read is None else (flat[p] for p in read)))
    _refuse_odd(np.asarray(norm))
    return flat


@answers("delta.effective")
def _effective(a: Inputs) -> dict[str, Any]:
    state = _state(a)
    weights = update.effective(state.base, state.phi, a.rounded)
    return {"support": ids(weights), "weights": reals(weights.values())}


@answers("update.drop")
def _drop(a: Inputs) -> dict[str, Any]:
    phi = _by_position(a, "delta", "delta_values")
    refuse(TOP_003=not rise(list(phi), a["out"] * a["in"]))
    refuse(SEL_005=not 0 <= a["n"] <= len(phi))
    _refuse_odd(a["delta_values"])
    return {"dropped": ids(update.dropped(phi, a["n"]))}


@answers("update.grow")
def _grow(a: Inputs) -> dict[str, Any]:
    state, dropped = _state(a), a["dropped"].tolist()
    gradient = _refuse_gradient(a["gradient"])
    return {"grown": ids(update.grown(state, dropped, gradient, a["n"], a["scope"]))}


@answers("update.adapt")
def _adapt(a: Inputs) -> dict[str, Any]:
    state = _state(a)
    weights = update.effective(state.base, state.phi, a.rounded)
    if len(weights) <= a["budget"]:
        # EVT-005.3: no score is ranked
        return {"pruned": ids([])}
    gradient = a["gradient"].reshape(-1).tolist()
    _refuse_odd(reals(a.rounded(gradient[p] * w) for p, w in weights.items()))
    return {"pruned": ids(update.pruned(weights, set(), gradient, a["budget"], a.rounded))}


@answers("update.evolve")
def _evolve(a: Inputs) -> dict[str, Any]:
    state = _state(a)
    refuse(SEL_005=not 0 <= a["n_drop"] <= len(state.phi))
    # GRD-009: with growth on the base alone an event reads the gradient on the support
    read = sorted(state.base.keys() | state.phi.keys()) if a["scope"] == "active" else None
    gradient = _refuse_gradient(a["gradient"], read)
    how = {name: a[name] for name in ("n_drop", "delta_budget", "budget", "scope")}
    after, _ = update.evolve(state, gradient, **how, adapts=bool(a["adapts"]), rounded=a.rounded)
    weights = update.effective(after.base, after.phi, a.rounded)
    return {
        "base": ids(after.base),
        "base_values": reals(after.base.values()),
        "delta": ids(after.phi),
        "delta_values": reals(after.phi.values()),
        "m": reals(after.m.values()),
        "v": reals(after.v.values()),
        "age": ids(after.age.values()),
        "support": ids(weights),
        "weights": reals(weights.values()),
    }
