"""Integer counts from rates: one rounding rule for all of them."""

import math

from seft_ref.errors import UpdateError

_NUDGE = 2.0**-20


def count(x: float) -> int:
    """Return floor(x + 2^-20) of a formula evaluated in binary64 (SEL-006).

    The nudge is far above the last bits in which two evaluations of a formula differ, and far below one count.

    Raises:
        UpdateError: SEL-006 if x is negative or not finite.
    """
    if not math.isfinite(x) or x < 0:
        raise UpdateError("SEL-006", f"a count comes from a finite number from 0 up, not {x}")
    return math.floor(x + _NUDGE)
