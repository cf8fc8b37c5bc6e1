"""AdamW and clipping, one slot at a time in binary64 (OPT)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from conformance.oracle.powers import power


@dataclass(frozen=True)
class Settings:
    """The numbers of OPT-001 with the defaults of OPT-003."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    slot_warmup: int = 0


def step(
    phi: float, m: float, v: float, age: int, g: float, lr: float, settings: Settings
) -> tuple[float, float, float, int]:
    """Return φ, m, v and age of one slot after a step (OPT-001, OPT-010)."""
    age += 1
    phi *= 1 - lr * settings.weight_decay
    m = settings.beta1 * m + (1 - settings.beta1) * g
    v = settings.beta2 * v + (1 - settings.beta2) * g * g
    c1 = 1 - power(settings.beta1, age)
    c2 = math.sqrt(1 - power(settings.beta2, age))
    if 0 < age < settings.slot_warmup:
        lr *= age / settings.slot_warmup
    return phi - (lr / c1) * (m / (math.sqrt(v) / c2 + settings.eps)), m, v, age


def clip_factor(gradients: Sequence[float], max_norm: float) -> float:
    """Return the factor of OPT-004 for the delta gradients of all matrices in one list."""
    if max_norm == 0:
        return 1.0
    return min(1.0, max_norm / (math.sqrt(math.fsum(g * g for g in gradients)) + 1e-6))
