"""Powers rounded once to binary64, and the error that a correct program may have in them (OPT-009, LYR-017)."""

from decimal import Decimal, localcontext

STEP = 2.0**-52
"""Relative error that each unit of an exponent adds (OPT-009)."""
ANGLE = 2.0**-49
"""Relative error of an angle of RoPE: that of its frequency, and the roundings of the angles compared (LYR-017)."""
_HALF = 2.0**-53
"""Relative error of rounding the exact power once."""


def power(base: float, exponent: int) -> float:
    """Return a power of a binary64 number, computed in 60 decimal digits and rounded once."""
    with localcontext(prec=60):
        return float(Decimal(base) ** exponent)


def correction_error(beta: float, age: int) -> float:
    """Return the relative error that OPT-009 allows `1 − β^age`, relative to the value from `power`."""
    p = power(beta, age)
    return p * (age * STEP + _HALF) / (1 - p)


def step_error(beta1: float, beta2: float, age: int) -> float:
    """Return the relative error that OPT-009 allows the step `(lr / c₁) · m / (sqrt(v) / c₂ + eps)`.

    c₂ is a square root, so it has half the relative error of its radicand.
    """
    return correction_error(beta1, age) + 0.5 * correction_error(beta2, age)
