"""The optimizers of chapter 9, one slot at a time in binary64 (OPT-001, OPT-006 to OPT-008)."""

import math
from dataclasses import dataclass, field
from typing import Any

from conformance.oracle import update_adamw
from conformance.oracle.powers import power

KEEPS: dict[str, tuple[str, ...]] = {
    "adamw": ("m", "v", "age"),
    "spiel-adamw": ("m", "v", "age"),
    "sgd": ("u",),
    "sm3": (),
}
"""The state that each optimizer keeps for a slot, by optimizer."""


@dataclass(frozen=True)
class Hyper:
    """The numbers of OPT-001 and OPT-007 with the defaults of OPT-003."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.9
    slot_warmup: int = 0


@dataclass(frozen=True)
class Slots:
    """The values that an optimizer changes: φ, the state of the slots, and the accumulators of sm3.

    Attributes:
        phi: φ by flat position.
        kept: state of the slots, by name and flat position.
        rows: r, one per row.
        columns: c, one per column.
    """

    phi: dict[int, float]
    kept: dict[str, dict[int, Any]]
    rows: list[float] = field(default_factory=list)
    columns: list[float] = field(default_factory=list)


def step(kind: str, cols: int, slots: Slots, g: dict[int, float], lr: float, hyper: Hyper) -> Slots:
    """Return the slots of a matrix after a step with gradients g by flat position."""
    if kind == "sm3":
        return _sm3(cols, slots, g, lr, hyper)
    one = {"adamw": _adamw, "spiel-adamw": _spiel, "sgd": _sgd}[kind]
    phi: dict[int, float] = {}
    kept: dict[str, dict[int, Any]] = {name: {} for name in KEEPS[kind]}
    for p, x in slots.phi.items():
        phi[p], new = one(x, {name: slots.kept[name][p] for name in KEEPS[kind]}, g[p], lr, hyper)
        for name, value in new.items():
            kept[name][p] = value
    return Slots(phi, slots.kept | kept, slots.rows, slots.columns)


def _adamw(x: float, kept: dict[str, Any], g: float, lr: float, h: Hyper) -> tuple[float, dict[str, Any]]:
    settings = update_adamw.Settings(h.beta1, h.beta2, h.eps, h.weight_decay, h.slot_warmup)
    x, m, v, age = update_adamw.step(x, kept["m"], kept["v"], kept["age"], g, lr, settings)
    return x, {"m": m, "v": v, "age": age}


def _spiel(x: float, kept: dict[str, Any], g: float, lr: float, h: Hyper) -> tuple[float, dict[str, Any]]:
    """Return φ and the state of a slot after a step of spiel-adamw (OPT-006)."""
    age = kept["age"] + 1
    m = h.beta1 * kept["m"] + (1 - h.beta1) * g
    v = h.beta2 * kept["v"] + (1 - h.beta2) * g * g
    c1, c2 = 1 - power(h.beta1, age), math.sqrt(1 - power(h.beta2, age))
    x -= lr * (m / (((math.sqrt(v) + h.eps) * c1) / c2))
    return x - (lr * h.weight_decay) * x, {"m": m, "v": v, "age": age}


def _sgd(x: float, kept: dict[str, Any], g: float, lr: float, h: Hyper) -> tuple[float, dict[str, Any]]:
    """Return φ and the state of a slot after a step of sgd (OPT-007)."""
    x *= 1 - lr * h.weight_decay
    u = h.momentum * kept["u"] + g
    return x - lr * u, {"u": u}


def _sm3(cols: int, slots: Slots, g: dict[int, float], lr: float, h: Hyper) -> Slots:
    """Return the slots of a matrix after a step of sm3 (OPT-008)."""
    rows, columns, phi = list(slots.rows), list(slots.columns), {}
    for p, x in slots.phi.items():
        i, j = divmod(p, cols)
        nu = min(slots.rows[i], slots.columns[j]) + g[p] * g[p]
        rows[i], columns[j] = max(rows[i], nu), max(columns[j], nu)
        new = x - lr * (g[p] / math.sqrt(nu + h.eps))
        phi[p] = new - (lr * h.weight_decay) * new
    return Slots(phi, slots.kept, rows, columns)
