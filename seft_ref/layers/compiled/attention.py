# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-defs, allow-incomplete-defs
"""Attention: products by BLAS, and the softmax of a row while it is in the cache (LYR-007 to LYR-009, LYR-016);
`layers/attention.py` defines it.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from seft_ref.arrays.library import Array, overflow_allowed
from seft_ref.errors import LayerOverflow
from seft_ref.kernels.cpu.vectors import in_whole_registers
from seft_ref.layers.attention import AttentionCache
from seft_ref.layers.compiled.exp import exp
from seft_ref.layers.compiled.rows import ROWS, contiguous, over_rows
from seft_ref.layers.compiled.sums import largest_of, sum_of, sum_of_products


def _softmax(kind: Any) -> Any:
    zero, one, lowest = kind(0), kind(1), kind(-math.inf)

    def softmax(scores, visible, fault, n_keys, length, heads, shared, n_rows, task, worker):
        """Turn scores (batch, heads, length, keys) into probabilities.

        `fault` (rows,) gets 0 for each row, and NaN where the largest score or the sum is NaN or infinite.
        `visible` is (batch, length, keys) of bytes, or (1, length, keys) if the batch shares it.
        """
        in_whole_registers()
        for i in range(task * ROWS, min((task + 1) * ROWS, n_rows)):
            base, t = i * n_keys, i % length
            row = t if shared else i // (heads * length) * length + t
            seen, n_seen = row * n_keys, 0
            for j in range(n_keys):
                n_seen += visible[seen + j]
                scores[base + j] = scores[base + j] if visible[seen + j] else lowest
            if n_seen == 0:
                for j in range(n_keys):
                    scores[base + j] = zero
                fault[i] = zero
                continue
            most = largest_of(scores, base, n_keys)
            for j in range(n_keys):
                scores[base + j] = exp(scores[base + j] - most)
            total = kind(sum_of(scores, base, n_keys))
            # 0 times infinity or NaN is NaN
            fault[i] = most * zero + total * zero
            share = one / total
            for j in range(n_keys):
                scores[base + j] *= share

    return softmax


def attention_forward(
    q: Float[Array, "B H T D"],
    k: Float[Array, "B K S D"],
    v: Float[Array, "B K S D"],
    visible: Bool[Array, "M T S"],
) -> tuple[Float[Array, "B H T D"], AttentionCache]:
    """Return the output of attention, and the cache (LYR-007, LYR-009).

    Raises:
        LayerOverflow: LYR-016 if one of the last t keys, or the largest score that a query sees, is NaN or infinite.
    """
    b, h, t, d = q.shape
    kv, s = k.shape[1:3]
    q = np.reshape(q * (1.0 / math.sqrt(d)), (b, kv, -1, d))
    with overflow_allowed():
        probabilities = contiguous(q @ np.matrix_transpose(k))
        fault = np.empty(b * h * t, dtype=q.dtype)
        seen = contiguous(visible).view(np.uint8)
        over_rows(_softmax, fault.size, probabilities, seen, fault, s, t, h, int(seen.shape[0] == 1))
        if not bool(not np.any(np.isnan(fault)) and np.all(np.isfinite(k[:, :, s - t :, :]))):
            raise LayerOverflow(
                "LYR-016", f"a key of attention or the largest score of a query is beyond what {k.dtype} holds"
            )
        y = probabilities @ v
    return np.reshape(y, (b, h, t, d)), AttentionCache(q, k, v, probabilities)


def _through_softmax(kind: Any) -> Any:
    def backward(dprobabilities, probabilities, n_keys, n_rows, task, worker):
        """Turn dprobabilities (rows, keys) into dscores; rows that see nothing are 0 and stay 0."""
        for i in range(task * ROWS, min((task + 1) * ROWS, n_rows)):
            base = i * n_keys
            mean = kind(sum_of_products(dprobabilities, base, probabilities, base, n_keys))
            for j in range(n_keys):
                dprobabilities[base + j] = probabilities[base + j] * (dprobabilities[base + j] - mean)

    return backward


def attention_backward(
    dy: Float[Array, "B H T D"], cache: AttentionCache
) -> tuple[Float[Array, "B H T D"], Float[Array, "B K S D"], Float[Array, "B K S D"]]:
    """Return (dq, dk, dv)."""
    q, k, v, probabilities = cache.q, cache.k, cache.v, cache.probabilities
    shape = dy.shape
    dy = np.reshape(dy, q.shape)
    # forward: y = probabilities @ v; the product sums over the heads that share v
    dv = np.matrix_transpose(probabilities) @ dy
    dscores = contiguous(dy @ np.matrix_transpose(v))
    # forward: probabilities = softmax(scores)
    n_keys = dscores.shape[-1]
    over_rows(_through_softmax, dscores.size // max(n_keys, 1), dscores, probabilities, n_keys)
    # forward: scores = q @ kᵀ, with q divided by sqrt(D)
    dq = (dscores @ k) * (1.0 / math.sqrt(q.shape[-1]))
    dk = np.matrix_transpose(dscores) @ q
    return np.reshape(dq, shape), dk, dv
