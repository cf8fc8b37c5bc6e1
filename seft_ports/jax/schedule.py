"""Counts, the schedule of events and of the learning rate, in binary64 (DLT-002, SCH-001 to SCH-004)."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from seft_ports.jax.errors import Refusal
from seft_ports.jax.exact import rounded

__all__ = ["counted", "delta_budget", "drop_count", "drop_fraction_at", "is_event", "learning_rate_at"]


def _wide(x: Any) -> Array:
    return jnp.asarray(x, dtype=jnp.float64)


def counted(x: Array) -> Array:
    """Return the count for a formula x in binary64: floor(x + 2⁻²⁰) (SEL-006)."""
    # SEL-006: `rounded` is needed, because XLA would fuse a product with the sum
    return jnp.floor(rounded(x) + 2.0**-20).astype(jnp.int64)


def delta_budget(density: Any, rows: Any, columns: Any, stored: Any) -> Array:
    """Return d_φ, the slots of a delta: density · rows · columns, at most the stored weights (DLT-002)."""
    # DLT-002: the product is taken from left to right (SEL-006)
    return jnp.minimum(counted(rounded(_wide(density) * _wide(rows)) * _wide(columns)), stored)


def drop_fraction_at(step: Any, steps: Any, drop_fraction: Any) -> Array:
    """Return τ, the share of slots to drop after a step; it falls to 0 by a cosine (SCH-001)."""
    # SCH-001
    return 0.5 * _wide(drop_fraction) * (1 + jnp.cos(math.pi * _wide(step) / _wide(steps)))


def drop_count(step: Any, steps: Any, drop_fraction: Any, slots: Any) -> Array:
    """Return n_drop, how many of the slots to drop after a step (SCH-002)."""
    # SCH-002
    return counted(drop_fraction_at(step, steps, drop_fraction) * _wide(slots))


def is_event(step: Any, steps: Any, evolve_every: Any) -> Array:
    """Return whether an event follows a step (SCH-003)."""
    # SCH-003
    return (step % evolve_every == 0) & (step < steps)


def learning_rate_at(step: Any, steps: Any, warmup: Any, lr: Any, kind: str = "constant") -> Array:
    """Return the learning rate of a step; `kind` is constant, linear or cosine (SCH-004).

    Raises:
        Refusal: SCH-004 for another kind.
    """
    step, steps, warmup, lr = _wide(step), _wide(steps), _wide(warmup), _wide(lr)
    # SCH-004
    u = (step - warmup) / jnp.maximum(steps - warmup, 1)
    after = {"constant": lr, "linear": lr * (1 - u), "cosine": 0.5 * lr * (1 + jnp.cos(math.pi * u))}
    if kind not in after:
        raise Refusal("SCH-004", f"a schedule is one of {', '.join(after)}, not {kind}")
    return jnp.where(step <= warmup, lr * step / jnp.maximum(warmup, 1), after[kind])
