"""Powers in binary64 that no library computes, and how far a right program may be from them (OPT-009, LYR-017)."""

from decimal import Decimal, localcontext

STEP = 2.0**-52
"""Relative error that each unit of an exponent adds (OPT-009)."""
ANGLE = 2.0**-49
"""Relative error of an angle of RoPE: that of a frequency, and the roundings of both angles (LYR-017)."""
_HALF = 2.0**-53
"""What rounding the exact power once may change."""


def power(base: float, exponent: int) -> float:
    """Return a power of a binary64 number, rounded once: 60 decimal digits are as good as all of them."""
    with localcontext(prec=60):
        return float(Decimal(base) ** exponent)


def correction_error(beta: float, age: int) -> float:
    """Return by what part `1 − β^age` may differ between `power` and a program that OPT-009 calls right."""
    p = power(beta, age)
    return p * (age * STEP + _HALF) / (1 - p)


def step_error(beta1: float, beta2: float, age: int) -> float:
    """Return by what part the step `(lr / c₁) · m / (sqrt(v) / c₂ + eps)` may differ: c₂ is a root, with half the error
    of what it is the root of.
    """
    return correction_error(beta1, age) + 0.5 * correction_error(beta2, age)
