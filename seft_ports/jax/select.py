"""Choose the k largest or smallest scores; equal scores go by id (SEL-001 to SEL-005)."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from seft_ports.jax.errors import FINE, NOT_FINITE, TOO_MANY
from seft_ports.jax.exact import key

__all__ = ["first", "largest", "smallest", "trouble"]


def largest(scores: Array, ids: Array, k: Any, among: Array | None = None) -> Array:
    """Return a mask of the k largest scores where `among` is true; ties go to the smaller id (SEL-001)."""
    # SEL-001
    return _mask(first(-key(scores), ids, among), k)


def smallest(scores: Array, ids: Array, k: Any, among: Array | None = None) -> Array:
    """Return a mask of the k smallest scores where `among` is true; ties go to the smaller id (SEL-002)."""
    # SEL-002
    return _mask(first(key(scores), ids, among), k)


def first(keys: Array, ids: Array, among: Array | None = None) -> Array:
    """Return indices sorted by integer key, then id; those where `among` is false come last."""
    out = jnp.zeros(ids.shape, jnp.int32) if among is None else (~among).astype(jnp.int32)
    # the id is a sorting key too, so the order does not depend on how a sort treats ties
    return lax.sort((out, keys, ids, jnp.arange(ids.shape[0])), num_keys=3)[3]


def _mask(order: Array, k: Any) -> Array:
    n = order.shape[0]
    return jnp.zeros(n, bool).at[order].set(jnp.arange(n) < k)


def trouble(scores: Array, k: Any, among: Array | None = None) -> Array:
    """Return the code for the reason that a selection is refused, or FINE; `errors.refuse` raises it."""
    ranked = jnp.ones(scores.shape, bool) if among is None else among
    # SEL-005
    count = jnp.where((k < 0) | (k > jnp.sum(ranked)), TOO_MANY, FINE)
    # SEL-004
    return jnp.where(jnp.any(ranked & ~jnp.isfinite(scores)), NOT_FINITE, count)
