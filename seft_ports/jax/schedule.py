"""Counts, the schedule of events and of the learning rate, in binary64 (DLT-002, SCH-001 to SCH-004)."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from seft_ports.jax.exact import rounded

__all__ = ["counted", "delta_budget", "drop_count", "drop_fraction_at", "is_event", "learning_rate_at"]


def _wide(x: Any) -> Array:
    return jnp.asarray(x, dtype=jnp.float64)


def counted(x: Array) -> Array:
    """Return the count that a formula in binary64 means."""
    # SEL-006: the product is rounded before 2⁻²⁰ is added
    return jnp.floor(rounded(x) + 2.0**-20).astype(jnp.int64)


def delta_budget(density: Any, rows: Any, columns: Any, stored: Any) -> Array:
    """Return the slots of a delta for a density of all positions, at most the stored weights."""
    # DLT-002, from left to right
    return jnp.minimum(counted(rounded(_wide(density) * _wide(rows)) * _wide(columns)), stored)


def drop_fraction_at(step: Any, steps: Any, drop_fraction: Any) -> Array:
    """Return the share of slots to drop after a step, cosine to 0."""
    # SCH-001
    return 0.5 * _wide(drop_fraction) * (1 + jnp.cos(math.pi * _wide(step) / _wide(steps)))


def drop_count(step: Any, steps: Any, drop_fraction: Any, slots: Any) -> Array:
    """Return how many of the slots to drop after a step."""
    # SCH-002
    return counted(drop_fraction_at(step, steps, drop_fraction) * _wide(slots))


def is_event(step: Any, steps: Any, evolve_every: Any) -> Array:
    """Tell whether an event follows a step."""
    # SCH-003
    return (step % evolve_every == 0) & (step < steps)


def learning_rate_at(step: Any, steps: Any, warmup: Any, lr: Any, kind: str = "constant") -> Array:
    """Return the learning rate of a step, by kind constant, linear or cosine."""
    step, steps, warmup, lr = _wide(step), _wide(steps), _wide(warmup), _wide(lr)
    # SCH-004
    u = (step - warmup) / jnp.maximum(steps - warmup, 1)
    after = {"constant": lr, "linear": lr * (1 - u), "cosine": 0.5 * lr * (1 + jnp.cos(math.pi * u))}[kind]
    return jnp.where(step <= warmup, lr * step / jnp.maximum(warmup, 1), after)
