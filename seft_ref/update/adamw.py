"""AdamW on the slots of a delta, with an age per slot where others have one step counter."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace, device
from seft_ref.update.delta import Delta


@dataclass(frozen=True, slots=True)
class AdamW:
    """Settings of the optimizer; the defaults are OPT-003's."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0


@lru_cache(maxsize=64)
def _corrections(beta: float, steps: int) -> tuple[float, ...]:
    """Return 1 − beta^age for age 0 to steps, in binary64 (OPT-002); age 0 never occurs and holds 1."""
    return (1.0, *(1.0 - beta**age for age in range(1, steps + 1)))


def adamw_step(delta: Delta, gradient: Float[Array, " d"], lr: float, settings: AdamW, oldest: int) -> Delta:
    """Return the delta after one step (OPT-001); a new slot takes a full first step whatever its number (OPT-005).

    Shapes  gradient (d,) in slot order
    Dtypes  all of the delta's dtype; ages int32
    Units   gradient is loss per unit of weight, clipped
    oldest  a bound on the ages after this step, the number of the step for instance
    """
    xp = array_namespace(delta.values, gradient)
    beta1, beta2 = settings.beta1, settings.beta2
    age = delta.age + 1
    values = delta.values * (1.0 - lr * settings.weight_decay)
    m = beta1 * delta.first_moment + (1.0 - beta1) * gradient
    v = beta2 * delta.second_moment + (1.0 - beta2) * (gradient * gradient)
    # OPT-002
    step_size = _per_age([lr / c for c in _corrections(beta1, oldest)], age, values)
    root = _per_age([math.sqrt(c) for c in _corrections(beta2, oldest)], age, values)
    values = values - step_size * (m / (xp.sqrt(v) / root + settings.eps))
    return replace(delta, values=values, first_moment=m, second_moment=v, age=age)


def _per_age(table: list[float], age: Int[Array, " d"], like: Float[Array, " d"]) -> Float[Array, " d"]:
    """Return the table's entry for each age, rounded once to the dtype of `like`."""
    xp = array_namespace(age, like)
    return xp.take(xp.asarray(table, dtype=like.dtype, device=device(like)), xp.astype(age, xp.int64))


def clip_factor(sum_of_squares: float, max_norm: float) -> float:
    """Return what gradients are multiplied by so that their norm is at most max_norm; 0 switches clipping off
    (OPT-004).
    """
    if max_norm == 0:
        return 1.0
    return min(1.0, max_norm / (math.sqrt(sum_of_squares) + 1e-6))
