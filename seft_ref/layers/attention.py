"""Attention: softmax(q kᵀ / sqrt(D)) v over visible keys, query heads in groups that share a key/value head
(LYR-007 to LYR-009, LYR-016).
"""

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float

from seft_ref.arrays.library import Array, array_namespace, device, overflow_allowed
from seft_ref.errors import LayerOverflow


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCache:
    """Arrays of a forward that `attention_backward` needs.

    The G = H / K query heads that share a key/value head are stacked into one matrix.
    """

    q: Float[Array, "B K GT D"]
    """divided by sqrt(D)"""
    k: Float[Array, "B K S D"]
    v: Float[Array, "B K S D"]
    probabilities: Float[Array, "B K GT S"]


def visible_keys(
    length: int, window: int | None, mask: Bool[Array, "B S"] | None, like: Array, first: int = 0
) -> Bool[Array, "M T S"]:
    """Return which of `length` keys (last axis) each query sees (LYR-008): M is B with a mask and 1 without.

    mask   True for tokens and False for padding
    first  position of the first query; earlier positions have keys only
    """
    xp = array_namespace(like)
    position = xp.arange(length, dtype=xp.int64, device=device(like))
    age = position[first:, None] - position[None, :]
    visible = age >= 0
    if window is not None:
        visible = visible & (age < window)
    return visible[None, :, :] if mask is None else visible[None, :, :] & mask[:, None, :]


def attention_forward(
    q: Float[Array, "B H T D"],
    k: Float[Array, "B K S D"],
    v: Float[Array, "B K S D"],
    visible: Bool[Array, "M T S"],
) -> tuple[Float[Array, "B H T D"], AttentionCache]:
    """Return the output of attention, and the cache (LYR-007, LYR-009).

    There may be more keys than queries: the last t keys belong to the queries, the others to earlier tokens.

    Raises:
        LayerOverflow: LYR-016 if one of the last t keys, or the largest score that a query sees, is NaN or infinite.
    """
    xp = array_namespace(q, k, v)
    b, h, t, d = q.shape
    kv, s = k.shape[1:3]
    q = xp.reshape(q * (1.0 / math.sqrt(d)), (b, kv, h // kv * t, d))
    with overflow_allowed():
        scores = q @ xp.matrix_transpose(k)
        by_head = xp.reshape(scores, (b, kv, h // kv, t, s))
        probabilities, finite = _softmax(by_head, visible[:, None, None, :, :])
        # LYR-016: an infinite key has the score −∞ with some queries, which would ignore it as if it were far away.
        # The keys before the last t were checked together with their own queries.
        if not bool(finite & xp.all(xp.isfinite(k[:, :, s - t :, :]))):
            raise LayerOverflow(
                "LYR-016", f"a key of attention or the largest score of a query is beyond what {k.dtype} holds"
            )
        probabilities = xp.reshape(probabilities, scores.shape)
        y = probabilities @ v
    return xp.reshape(y, (b, h, t, d)), AttentionCache(q, k, v, probabilities)


def attention_backward(
    dy: Float[Array, "B H T D"], cache: AttentionCache
) -> tuple[Float[Array, "B H T D"], Float[Array, "B K S D"], Float[Array, "B K S D"]]:
    """Return (dq, dk, dv)."""
    xp = array_namespace(dy)
    q, k, v, probabilities = cache.q, cache.k, cache.v, cache.probabilities
    shape = dy.shape
    dy = xp.reshape(dy, q.shape)
    # forward: y = probabilities @ v; the product sums over the heads that share v
    dv = xp.matrix_transpose(probabilities) @ dy
    dprobabilities = dy @ xp.matrix_transpose(v)
    # forward: probabilities = softmax(scores); rows that see no key are 0 and stay 0
    dscores = probabilities * (dprobabilities - xp.sum(dprobabilities * probabilities, axis=-1, keepdims=True))
    # forward: scores = q @ kᵀ, with q divided by sqrt(D)
    dq = (dscores @ k) * (1.0 / math.sqrt(q.shape[-1]))
    dk = xp.matrix_transpose(dscores) @ q
    return xp.reshape(dq, shape), dk, dv


def _softmax(
    scores: Float[Array, "B K G T S"], visible: Bool[Array, "M 1 1 T S"]
) -> tuple[Float[Array, "B K G T S"], Bool[Array, ""]]:
    """Return the softmax of each row over its visible keys, and whether each row's largest visible score is finite.

    The softmax is exactly 0 for other keys, and in rows that see no key (LYR-009, LYR-016).
    """
    xp = array_namespace(scores)
    if not scores.shape[-1]:
        # without keys there is no largest score
        return scores, xp.all(xp.isfinite(scores))
    minus_infinity = xp.asarray(-math.inf, dtype=scores.dtype, device=device(scores))
    zero = xp.zeros_like(minus_infinity)
    scores = xp.where(visible, scores, minus_infinity)
    largest = xp.max(scores, axis=-1, keepdims=True)
    blind = ~xp.any(visible, axis=-1, keepdims=True)
    largest = xp.where(blind, zero, largest)
    weights = xp.exp(scores - largest)
    total = xp.sum(weights, axis=-1, keepdims=True)
    return weights / xp.where(blind, xp.ones_like(total), total), xp.all(xp.isfinite(largest))
