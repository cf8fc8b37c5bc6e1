"""AdamW that counts the steps of each slot on its own (its age), and clipping (OPT-001 to OPT-005)."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from seft_ports.jax.errors import Refusal
from seft_ports.jax.event import Delta
from seft_ports.jax.exact import lifted, plus, times

__all__ = ["adamw", "clip_factor"]


def adamw(
    delta: Delta,
    gradient: Array,
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
) -> Delta:
    """Return the delta after one step of AdamW (OPT-001); gradient is (slots,) and 0 in the tail.

    Raises:
        Refusal: KRN-009, KRN-010 for a gradient of another shape or dtype than the values of the delta.
    """
    kind = delta.values.dtype
    if gradient.shape != delta.values.shape:
        raise Refusal("KRN-009", f"the gradient has the shape {gradient.shape}, the delta {delta.values.shape}")
    if gradient.dtype != kind:
        raise Refusal("KRN-010", f"the gradient is {gradient.dtype}, the delta {kind}")
    beta1, beta2, eps, lr, weight_decay = (jnp.asarray(x, jnp.float64) for x in (beta1, beta2, eps, lr, weight_decay))
    age = delta.age + 1
    # OPT-002: the corrections are computed in binary64 and rounded once; OPT-009: XLA's power is accurate enough
    ages = age.astype(jnp.float64)
    step = (lr / (1 - beta1**ages)).astype(kind)
    c2 = jnp.sqrt(1 - beta2**ages).astype(kind)
    # OPT-001; `times` and `plus` are used, because plain XLA would flush subnormal values to 0
    values = _times((1 - lr * weight_decay).astype(kind), delta.values)
    m = plus(_times(beta1.astype(kind), delta.m), _times((1 - beta1).astype(kind), gradient))
    v = plus(_times(beta2.astype(kind), delta.v), _times((1 - beta2).astype(kind), times(gradient, gradient)))
    # a subnormal m is lifted by 2^64, because the quotient may be a normal number
    high = lifted(m, 64)
    values = plus(values, times(-step * high.scale, high.x / (jnp.sqrt(v) / c2 + eps.astype(kind))))
    return Delta(delta.positions, values, m, v, age)


def _times(factor: Array, x: Array) -> Array:
    return times(jnp.broadcast_to(factor, x.shape), x)


def clip_factor(norm: Any, max_norm: Any) -> Array:
    """Return the factor that clips gradients of this norm to max_norm; 0 clips nothing (OPT-004)."""
    norm, max_norm = jnp.asarray(norm, jnp.float64), jnp.asarray(max_norm, jnp.float64)
    # OPT-004
    return jnp.where(max_norm == 0, 1.0, jnp.minimum(1.0, max_norm / (norm + 1e-6)))
