"""The dtypes, final weights, warnings and ranks of a run (CKP-001, CKP-004, TRN-011, TRN-013)."""

import math
from collections.abc import Sequence
from fractions import Fraction

from conformance.oracle.select_pools import RefusedError
from conformance.oracle.train_window import added

FORMATS = {"F64": (53, 1023, 8), "F32": (24, 127, 4), "BF16": (8, 127, 2), "F16": (11, 15, 2)}
"""For each dtype the bits of its significand with the leading one, its largest exponent, and its size in bytes."""


def compute_dtype(stored: str, requested: str | None) -> str:
    """Return the dtype that weights are computed in (CKP-001)."""
    if requested is not None and requested not in ("float32", "float64"):
        msg = f"CKP-001: cannot compute in {requested}"
        raise RefusedError(msg)
    own = {"BF16": "float32", "F16": "float32", "F32": "float32", "F64": "float64"}.get(stored)
    if own is None:
        msg = f"CKP-001: {stored} is no dtype of weights"
        raise RefusedError(msg)
    return requested or own


def rounded_bits(x: float, dtype: str) -> int:
    """Return the bits of x rounded once to nearest, ties to even, in exact fractions (CKP-004)."""
    digits, top, size = FORMATS[dtype]
    sign = (1 if math.copysign(1.0, x) < 0 else 0) << (8 * size - 1)
    if not math.isfinite(x):
        msg = f"CKP-004: {x}"
        raise RefusedError(msg)
    exact = abs(Fraction(x))
    if not exact:
        return sign
    exponent = max(math.frexp(float(exact))[1] - 1, 1 - top)
    unit = Fraction(2) ** (exponent - digits + 1)
    # round() of a fraction goes to the nearest integer, ties to even
    n = round(exact / unit)
    if n == 2**digits:
        n, exponent = n // 2, exponent + 1
    if exponent > top:
        msg = f"CKP-004: {x} does not fit {dtype}"
        raise RefusedError(msg)
    biased = exponent + top if n >= 2 ** (digits - 1) else 0
    return sign | biased << (digits - 1) | n & (2 ** (digits - 1) - 1)


def final(values: Sequence[float], dtype: str) -> bytes:
    """Return the bits of final weights, little-endian (CKP-004)."""
    size = FORMATS[dtype][2]
    return b"".join(rounded_bits(x, dtype).to_bytes(size, "little") for x in values)


def warnings(
    losses: Sequence[float], events: Sequence[int], support: Sequence[int], budget: int, stored: int | None
) -> list[tuple[int, str]]:
    """Return step and name of every warning of a run, sorted by step, then as the clause lists them (TRN-011)."""
    entries: list[tuple[int, str]] = []
    for event, size in zip(events, support, strict=True):
        if size > budget:
            entries.append((event, "support-above-target"))
        if event >= 5 and event < len(losses):
            before, loss = losses[event - 5 : event], losses[event]
            rise = loss - max(before)
            if rise > max(before) - min(before) and rise > 0.05 * max(before):
                entries.append((event + 1, "loss-jump-after-growth"))
    lowest: float | None = None
    warned = False
    for end in range(10, len(losses) + 1):
        mean = added(losses[end - 10 : end]) / 10
        if lowest is None or mean < lowest:
            lowest, warned = mean, False
        elif not warned and mean - lowest > 0.2 * lowest:
            warned = True
            entries.append((end, "divergence"))
    if stored is not None and stored > budget:
        entries.append((len(losses), "denser-at-end"))
    order = ("loss-jump-after-growth", "divergence", "support-above-target", "denser-at-end")
    return sorted(entries, key=lambda one: (one[0], order.index(one[1])))


def shares(rows: int, ranks: int) -> list[int]:
    """Return the first row of every rank, followed by the number of rows (TRN-013)."""
    if rows < ranks:
        msg = f"TRN-013: {rows} rows for {ranks} ranks"
        raise RefusedError(msg)
    return [r * rows // ranks for r in range(ranks + 1)]
