"""Invariants of every event of the rule `seft`, checked from its inputs and outputs alone (EVT-003, EVT-006)."""

from typing import Any

import numpy as np

from conformance.oracle.update import State

__all__ = ["broken", "state_of"]
_STATE = ("base", "base_values", "delta", "delta_values", "m", "v", "age")


def state_of(size: int, arrays: dict[str, Any], dtype: str = "float64") -> State:
    """Return the state in the inputs or outputs of update.evolve, its floats rounded to the dtype."""
    base, values, eta, phi, m, v, age = (
        [x.item() for x in (a.astype(dtype) if a.dtype.kind == "f" else a)]
        for a in (np.asarray(arrays[n]) for n in _STATE)
    )
    slots = [dict(zip(eta, column, strict=True)) for column in (phi, m, v, age)]
    return State(size, dict(zip(base, values, strict=True)), *slots)


def broken(inputs: dict[str, Any], answer: dict[str, Any], dtype: str) -> str:
    """Return the first invariant that an answer of update.evolve breaks, or an empty text."""
    size = int(inputs["out"]) * int(inputs["in"])
    before, after = state_of(size, inputs, dtype), state_of(size, answer)
    support = after.base.keys() | after.phi.keys()
    fresh = after.phi.keys() - before.phi.keys()
    refill = max(0, inputs["delta_budget"] - len(before.phi))
    rules = {
        "TOP-003: positions are not strictly increasing": all(
            np.all(np.diff(np.asarray(answer[n])) > 0) for n in ("base", "delta", "support")
        ),
        "TOP-003: a position outside the matrix": all(0 <= p < size for p in support),
        "TOP-004: the support is not that of base and delta": set(np.asarray(answer["support"]).tolist()) == support,
        "EVT-003: more slots than d_φ": len(after.phi) <= max(inputs["delta_budget"], len(before.phi)),
        # more than K weights may stay if all of them are new, because new slots are exempt (ADPT-003)
        "EVT-003: more than K weights": not inputs["adapts"] or len(support) <= max(inputs["budget"], len(fresh)),
        "EVT-006: the base gained a position": after.base.keys() <= before.base.keys(),
        "EVT-006: a base weight changed": _kept(after.base, before.base),
        "EVT-006: a slot that stays changed": all(
            _kept({p: x for p, x in getattr(after, n).items() if p not in fresh}, getattr(before, n))
            for n in ("phi", "m", "v", "age")
        ),
        "DLT-005: a new slot is not zero": all(
            x[p] == 0 for x in (after.phi, after.m, after.v, after.age) for p in fresh
        ),
        "GROW-002: more grown than dropped and refilled": len(fresh) <= inputs["n_drop"] + refill,
        "GROW-001: growth left the base": inputs["scope"] == "all" or fresh <= before.base.keys(),
    }
    return next((text for text, holds in rules.items() if not holds), "")


def _kept(after: dict[int, Any], before: dict[int, Any]) -> bool:
    """Return whether every entry of `after` was in `before` with the same bits."""
    return all(p in before and float(x).hex() == float(before[p]).hex() for p, x in after.items())
