"""The formulas of chapter 4 in binary64, written with `Var`, which also computes their gradients (LYR)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from conformance.oracle.tape import Array, Var, contract, stack


def embedding(weight: Var, tokens: Array) -> Var:
    """Return the rows of the weight that belong to the tokens (LYR-001)."""
    return weight[tokens]


def rmsnorm(x: Var, weight: Var, eps: float) -> Var:
    """Return x · r · weight (LYR-002)."""
    mean = (x * x).sum(axis=-1) / x.shape[-1]
    return x * (mean + eps).sqrt().inverse() * weight


def linear(x: Var, weight: Var, bias: Var | None = None) -> Var:
    """Return x Wᵀ + bias for x of any number of axes (LYR-003)."""
    axes = "abc"[: len(x.shape) - 1]
    y = contract(f"{axes}i,oi->{axes}o", x, weight)
    return y if bias is None else y + bias


def frequencies(head_dim: int, rope: dict[str, Any], length: int) -> list[float]:
    """Return the frequencies f_j for rows of `length` tokens (LYR-005, LYR-006)."""
    base = float(rope["base"])
    kind = rope["type"]
    if kind == "dynamic":
        s, m = rope["factor"], rope["max_position_embeddings"]
        base *= (s * max(length, m) / m - (s - 1)) ** (head_dim / (head_dim - 2))
    f = [base ** (-2 * j / head_dim) for j in range(head_dim // 2)]
    if kind == "linear":
        return [x / rope["factor"] for x in f]
    if kind == "llama3":
        return [_llama3(x, rope) for x in f]
    return f


def _llama3(f: float, rope: dict[str, Any]) -> float:
    s, low, high, context = rope["factor"], rope["low"], rope["high"], rope["original"]
    wavelength = 2 * math.pi / f
    if wavelength < context / high:
        return f
    if wavelength > context / low:
        return f / s
    m = (context / wavelength - low) / (high - low)
    return (1 - m) * f / s + m * f


def rotate(x: Var, f: Sequence[float]) -> Var:
    """Return x of shape (B, T, heads, D) rotated (LYR-004)."""
    half = len(f)
    angles = np.array([[p * fj for fj in f] for p in range(x.shape[1])])
    cos, sin = np.cos(angles)[None, :, None, :], np.sin(angles)[None, :, None, :]
    a, b = x[..., :half], x[..., half:]
    first, second = a * Var(cos) - b * Var(sin), b * Var(cos) + a * Var(sin)
    size = x.shape[:-1]
    both = stack([first, second])  # (2, B, T, heads, D/2) to (B, T, heads, D)
    index = np.arange(2 * math.prod(size) * half).reshape(2, math.prod(size), half).transpose(1, 0, 2)
    return both.reshape(-1)[index.reshape(-1)].reshape(*size, 2 * half)


def visible(t: int, window: int | None, real: Sequence[int] | None) -> list[int]:
    """Return the keys that query t sees; `real` is 1 for a token and 0 for padding (LYR-008)."""
    return [s for s in range(t + 1) if (window is None or t - s < window) and (real is None or real[s])]


LONG = 64
"""Rows of more tokens are computed matrix by matrix, because a `Var` for each query would take seconds."""


def attention(q: Var, k: Var, v: Var, mask: Array | None, window: int | None) -> Var:
    """Return the outputs of q (B, T, H, D) on k and v (B, T, K, D), query by query (LYR-007 to LYR-009)."""
    rows, length, heads, width = q.shape
    group = heads // k.shape[2]
    if not q.value.size:
        # an empty y, on which no gradient depends
        return q
    if length > LONG:
        return attention_of_long_rows(q, k, v, mask, window)
    out = []
    for b in range(rows):
        for t in range(length):
            shown = visible(t, window, None if mask is None else [int(x) for x in mask[b]])
            for h in range(heads):
                if not shown:
                    out.append(Var(np.zeros(width)))
                    continue
                keys, values = k[b, shown, h // group], v[b, shown, h // group]
                scores = contract("sd,d->s", keys, q[b, t, h]) / math.sqrt(width)
                e = (scores - float(scores.value.max())).exp()
                out.append(contract("s,sd->d", e / e.sum(), values))
    return stack(out).reshape(rows, length, heads, width)


def attention_of_long_rows(q: Var, k: Var, v: Var, mask: Array | None, window: int | None) -> Var:
    """Return what `attention` returns, from the scores of all queries of a row and head at once."""
    rows, length, heads, width = q.shape
    group = heads // k.shape[2]
    out = []
    for b in range(rows):
        shown = np.zeros((length, length))
        for t in range(length):
            shown[t, visible(t, window, None if mask is None else mask[b].tolist())] = 1.0
        for h in range(heads):
            keys, values = k[b, :, h // group], v[b, :, h // group]
            scores = contract("td,sd->ts", q[b, :, h], keys) / math.sqrt(width)
            top = np.max(np.where(shown > 0, scores.value, -math.inf), axis=1, keepdims=True, initial=-1e9)
            # both factors are needed: exp of a hidden score may overflow, and exp(0) of a hidden key must not count
            e = ((scores - Var(top)) * Var(shown)).exp() * Var(shown)
            total = e.sum(axis=1) + Var((shown.sum(axis=1, keepdims=True) == 0) * 1.0)
            out.append(contract("ts,sd->td", e / total, values))
    order = np.arange(rows * heads * length).reshape(rows, heads, length).transpose(0, 2, 1)
    return stack(out).reshape(-1, width)[order]


def swiglu(gate: Var, up: Var) -> Var:
    """Return silu(gate) · up (LYR-010); e^z / (1 + e^z) where z is negative, so that nothing overflows."""
    e = (gate * Var(np.where(gate.value > 0, -1.0, 1.0))).exp()
    numerator = e * Var(np.where(gate.value > 0, 0.0, 1.0)) + Var(np.where(gate.value > 0, 1.0, 0.0))
    return gate * numerator / (e + 1.0) * up


def cross_entropy(logits: Var, targets: Array, n_counted: int) -> Var:
    """Return the loss of logits (N, V) over targets that are not −100 (LYR-011)."""
    total = Var(0.0)
    for n, target in enumerate(targets):
        if target == -100:
            continue
        row = logits[n]
        top = float(row.value.max())
        total = total + (row - top).exp().sum().log() + top - row[int(target)]
    return total / n_counted
