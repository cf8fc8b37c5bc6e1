"""LoRA, SPP and SparsePEFT by loops over single weights (ADP)."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from conformance.oracle import select_rng
from conformance.oracle.tape import Array

Place = tuple[int, int]
Change = dict[Place, Any]


def start(rows: int, n_in: int, seed: int, matrix: int) -> Array:
    """Return the initial factor A, (rows, in) (ADP-002)."""
    key = select_rng.key(seed, 5, matrix)
    a = np.zeros((rows, n_in))
    for k in range(rows):
        for i in range(n_in):
            u = (select_rng.draw(key, k * n_in + i) >> 11) * 2.0**-53
            a[k, i] = (2 * u - 1) / math.sqrt(n_in)
    return a


def low_rank(a: Array, b: Array, s: float, places: Iterable[Place]) -> Change:
    """Return the entries of s · B A at `places`: all for LoRA, the support for SparsePEFT (ADP-004, ADP-007)."""
    return {(o, i): s * sum(b[o, k] * a[k, i] for k in range(len(a))) for o, i in places}


def band(o: int, n_out: int, bands: int) -> int:
    """Return the band of row o (ADP-006)."""
    return o // (n_out // bands)


def proportional(w: dict[Place, float], a: Array, c: Array, s: float) -> Change:
    """Return SPP's change of every stored weight (ADP-006)."""
    return {(o, i): s * a[band(o, len(c), len(a)), i] * c[o] * value for (o, i), value in w.items()}


def merged(w: dict[Place, float], change: Change) -> Change:
    """Return W + D at every place where W or D has an entry (ADP-004, ADP-008)."""
    return {place: w.get(place, 0.0) + change.get(place, 0.0) for place in sorted({*w, *change})}


def forward(x: Array, weight: Change, n_out: int, bias: Array | None) -> Array:
    """Return y = x Wᵀ + bias, (n, out), for x of shape (n, in)."""
    y = [[0.0 if bias is None else bias[o] for o in range(n_out)] for _ in x]
    for t, row in enumerate(x):
        for (o, i), value in weight.items():
            y[t][o] = y[t][o] + value * row[i]
    return np.array(y).reshape(len(x), n_out)


def backward(dy: Array, weight: Change, n_in: int) -> Array:
    """Return dx = dy W."""
    dx = np.zeros((len(dy), n_in))
    for t, row in enumerate(dy):
        for (o, i), value in weight.items():
            dx[t, i] += row[o] * value
    return dx


def low_rank_gradients(dy: Array, x: Array, a: Array, b: Array, s: float, places: Iterable[Place]) -> list[Array]:
    """Return (dA, dB) for the change s · B A at `places` (ADP-001, ADP-007)."""
    da, db = np.zeros(a.shape), np.zeros(b.shape)
    for o, i in places:
        g = _gradient(dy, x, o, i)
        for k in range(len(a)):
            db[o, k] += s * g * a[k, i]
            da[k, i] += s * b[o, k] * g
    return [da, db]


def proportional_gradients(dy: Array, x: Array, w: dict[Place, float], a: Array, c: Array, s: float) -> list[Array]:
    """Return (dA, dc) of SPP (ADP-006)."""
    da, dc = np.zeros(a.shape), np.zeros(c.shape)
    for (o, i), value in w.items():
        g, of = _gradient(dy, x, o, i), band(o, len(c), len(a))
        da[of, i] += s * g * c[o] * value
        dc[o] += s * g * a[of, i] * value
    return [da, dc]


def _gradient(dy: Array, x: Array, o: int, i: int) -> float:
    return math.fsum(float(dy[t, o]) * float(x[t, i]) for t in range(len(x)))
