"""What stands around a run: dtypes, final weights, names, stop tokens, records of pruning, warnings, ranks."""

import json
import math
import re
from collections.abc import Sequence
from fractions import Fraction

from conformance.oracle.choices import Rule
from conformance.oracle.event import Evidence, Outcome, Part, asked_by
from conformance.oracle.pools import RefusedError

FORMATS = {"F64": (53, 1023, 8), "F32": (24, 127, 4), "BF16": (8, 127, 2), "F16": (11, 15, 2)}
"""Of a dtype: bits of the significand with the leading one, the largest exponent, bytes."""


def compute_dtype(stored: str, asked: str | None) -> str:
    """Return the dtype that weights are computed in (CKP-001)."""
    if asked is not None and asked not in ("float32", "float64"):
        msg = f"CKP-001: cannot compute in {asked}"
        raise RefusedError(msg)
    own = {"BF16": "float32", "F16": "float32", "F32": "float32", "F64": "float64"}.get(stored)
    if own is None:
        msg = f"CKP-001: {stored} is no dtype of weights"
        raise RefusedError(msg)
    return asked or own


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


def check_name(name: str) -> None:
    """Refuse the name of a file of dense weights (FMT-112)."""
    stem, dot, end = name.lower().rpartition(".")
    if not dot or end != "safetensors":
        return
    parts = stem.rsplit("-of-", 1)
    if len(parts) == 2 and parts[1].isascii() and parts[1].isdigit():
        head, dash, number = parts[0].rpartition("-")
        if dash and number.isascii() and number.isdigit():
            stem = head
    if stem in ("model", "adapter_model", "pytorch_model"):
        msg = f"FMT-112: {name}"
        raise RefusedError(msg)


def stops(config: str, generation: str | None) -> list[int]:
    """Return the stop tokens of a folder (GEN-008)."""
    for text in (generation, config):
        named = None if text is None else json.loads(text).get("eos_token_id")
        if named is not None:
            tokens = named if isinstance(named, list) else [named]
            if any(type(token) is not int or token < 0 for token in tokens):
                msg = f"GEN-008: {named!r}"
                raise RefusedError(msg)
            return list(tokens)
    return []


def pattern_of(record: str) -> list[int] | None:
    """Return the pattern of a record of pruning, None without one (PRN-008)."""
    try:
        told = json.loads(record)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        msg = "PRN-008: no JSON object"
        raise RefusedError(msg)
    pattern = told.get("pattern")
    if pattern is None:
        return None
    found = re.fullmatch(r"([0-9]+):([0-9]+)", pattern) if isinstance(pattern, str) else None
    if found is None or not 1 <= int(found[1]) < int(found[2]):
        msg = f"PRN-008: pattern {pattern!r}"
        raise RefusedError(msg)
    return [int(found[1]), int(found[2])]


def warnings(
    losses: Sequence[float], events: Sequence[int], support: Sequence[int], budget: int, stored: int | None
) -> list[tuple[int, str]]:
    """Return step and name of every warning of a run, by step and then in the order of the clause (TRN-011)."""
    found: list[tuple[int, str]] = []
    for event, size in zip(events, support, strict=True):
        if size > budget:
            found.append((event, "support-above-target"))
        if event >= 5 and event < len(losses):
            before, loss = losses[event - 5 : event], losses[event]
            rise = loss - max(before)
            if rise > max(before) - min(before) and rise > 0.05 * max(before):
                found.append((event + 1, "loss-jump-after-growth"))
    lowest: float | None = None
    warned = False
    for end in range(10, len(losses) + 1):
        mean = sum(losses[end - 10 : end]) / 10
        if lowest is None or mean < lowest:
            lowest, warned = mean, False
        elif not warned and mean - lowest > 0.2 * lowest:
            warned = True
            found.append((end, "divergence"))
    if stored is not None and stored > budget:
        found.append((len(losses), "denser-at-end"))
    order = ("loss-jump-after-growth", "divergence", "support-above-target", "denser-at-end")
    return sorted(found, key=lambda one: (one[0], order.index(one[1])))


def shares(rows: int, ranks: int) -> list[int]:
    """Return the first row of every rank, and behind them how many rows there are (TRN-013)."""
    if rows < ranks:
        msg = f"TRN-013: {rows} rows for {ranks} ranks"
        raise RefusedError(msg)
    return [r * rows // ranks for r in range(ranks + 1)]


def ratios(old: Part, seen: Evidence, rule: Rule, one: Outcome) -> dict[str, float | None]:
    """Return the ratios of an event's record, and the norm of ḡ where a whole one was asked for (TRN-009).

    old  the matrix before the event, which `one` is after it
    """
    is_whole = seen.candidates is None and "gradient" in asked_by(rule)
    return {
        "churn": len(one.grown) / max(len(old.phi), 1),
        "overlap": one.record["start"] / max(sum(old.budget), 1),
        "gradient_norm": math.hypot(*seen.gradient) if is_whole else None,
    }


def expanded(
    dtype: str, shape: Sequence[int], at: Sequence[int] | None, bits: bytes, width: int, limit: int | None
) -> bytes:
    """Return the bytes of a tensor as a dense array, values of 4 or 6 bits a byte each (FMT-098).

    at     the stored positions, None for all
    width  bits of a value, 0 of a mask
    limit  bytes that the array may have
    """
    numel, size = math.prod(shape), max(1, width // 8)
    if numel * size > (2**36 if limit is None else limit):
        msg = f"FMT-098: {numel} values of {size} bytes"
        raise RefusedError(msg)
    places = range(numel) if at is None else at
    out = bytearray(numel * size)
    whole = int.from_bytes(bits, "little")
    for i, p in enumerate(places):
        value = 1 if width == 0 else whole >> (i * width) & (2**width - 1)
        out[p * size : (p + 1) * size] = value.to_bytes(size, "little")
    return bytes(out)
