"""Compares an output with the expected one: only ``error <= bound`` passes (NUM-005).

Integers are compared exactly (NUM-001), products within the bound of their sums (NUM-002), which is 0 where no sum is
rounded (NUM-003), and layers by a relative error (NUM-004).
"""

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from conformance.cases.case import Bound, Case
from conformance.cases.ops import OPS, Class

__all__ = ["Verdict", "compare", "float_type", "holds", "tau"]

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-24, "float16": 2.0**-24}
"""Unit roundoff of the sums in a product (NUM-002). Sums of 16-bit types are computed in float32 (PRT-011)."""
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Unit roundoff of a result that is rounded to a 16-bit type (PRT-011)."""
RELATIVE = {"float64": 1e-9, "float32": 1e-4}
NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}
"""The smallest normal number. Smaller numbers are equally spaced, and rounding errs by at most half the spacing."""


def float_type(dtype: str) -> np.dtype[Any]:
    """Return the NumPy dtype of a name; that of bfloat16 is from ml_dtypes, because NumPy has none."""
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


def holds(case: Case, dtype: str) -> bool:
    """Return whether a case can be judged in a 16-bit type: inputs are exact in it and results in range (PRT-011)."""
    if case.refused or "relative" in OPS[case.op].outputs.values():
        return False
    arrays, results = (
        [x for x in values.values() if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
        for values in (case.inputs, case.expected)
    )
    kind = float_type(dtype)
    with np.errstate(over="ignore"):
        fits = all(np.isfinite(x.astype(kind).astype(np.float64)).all() for x in results)
        return fits and bool(arrays) and all(np.array_equal(x.astype(kind).astype(np.float64), x) for x in arrays)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a comparison: whether the output passes, an error text, and error over bound of the worst entry."""

    passed: bool
    detail: str = ""
    ratio: float = 0.0


def tau(terms: int) -> float:
    """Return τ(K) = 8 + 2·sqrt(K) (NUM-002)."""
    return 8.0 + 2.0 * math.sqrt(terms)


def compare(
    answer: Any,
    want: Any,
    how: Class,
    dtype: str = "float64",
    bound: Bound | None = None,
    *,
    keep_zeros: bool = False,
) -> Verdict:
    """Return the verdict on one output.

    dtype       the float dtype of the run; arrays compared exactly must have it
    bound       gauge, number of terms and slack, for the classes gauge and binary64; for relative the scale of an
                output that is 0 by cancellation
    keep_zeros  where 0 is expected, 0 must come back
    """
    if isinstance(want, dict | list):
        return _compare_many(answer, want, how, dtype, keep_zeros=keep_zeros)
    if want is None or isinstance(want, str):
        same = type(answer) is type(want) and answer == want
        return Verdict(
            same,
            "" if same else f"expected {want!r}, got {type(answer).__name__} {answer!r}",
            0.0 if same else math.inf,
        )
    is_scalar = isinstance(want, int | float)
    if answer is None or isinstance(answer, dict | list | str):
        return Verdict(passed=False, detail=f"expected numbers, got {type(answer).__name__}", ratio=math.inf)
    if is_scalar and isinstance(answer, np.ndarray):
        return Verdict(passed=False, detail=f"expected one number, got an array of {answer.dtype}", ratio=math.inf)
    a, b = np.asarray(answer), np.asarray(want)
    if a.shape != b.shape:
        return Verdict(passed=False, detail=f"expected shape {b.shape}, got {a.shape}", ratio=math.inf)
    if a.dtype == float_type("bfloat16") and dtype == "bfloat16":
        return compare_reduced(a, b, how, dtype, bound, keep_zeros=keep_zeros)
    if a.dtype.kind != b.dtype.kind:
        return Verdict(passed=False, detail=f"expected {b.dtype.name}, got {a.dtype.name}", ratio=math.inf)
    if a.dtype.kind == "u" and not is_scalar and a.dtype.itemsize != b.dtype.itemsize:  # u64 in the place of u8
        return Verdict(passed=False, detail=f"expected {b.dtype.name}, got {a.dtype.name}", ratio=math.inf)
    if a.dtype.kind == "f" and not is_scalar and a.dtype.name != dtype:
        return Verdict(passed=False, detail=f"expected {dtype}, got {a.dtype.name}", ratio=math.inf)
    if dtype in ROUNDING and b.dtype.kind == "f" and not is_scalar:
        return compare_reduced(a, b, how, dtype, bound, keep_zeros=keep_zeros)
    if how == "exact":
        return _exact(a, b)
    return _within(a, b, _bounds(b, how, dtype, bound), keep_zeros=keep_zeros)


def compare_reduced(
    a: NDArray[Any], b: NDArray[Any], how: Class, dtype: str, bound: Bound | None, *, keep_zeros: bool
) -> Verdict:
    """Return the verdict on an array of a 16-bit type, whose bound is float32's plus one rounding (PRT-011)."""
    wide = a.astype(np.float64)
    if how in ("exact", "value"):
        with np.errstate(over="ignore"):
            rounded = b.astype(float_type(dtype)).astype(np.float64)
        return _exact(wide, rounded) if how == "exact" else _within(wide, rounded, np.zeros(b.shape), keep_zeros=False)
    sums = _bounds(b, how, "float32", bound)
    return _within(wide, b, sums + ROUNDING[dtype] * _at_least(np.abs(b) + sums, dtype), keep_zeros=keep_zeros)


def _compare_many(answer: Any, want: Any, how: Class, dtype: str, *, keep_zeros: bool) -> Verdict:
    pairs: dict[Any, Any] = want if isinstance(want, dict) else dict(enumerate(want))
    if type(answer) is not type(want) or len(answer) != len(want):
        return Verdict(passed=False, detail=f"expected {len(want)} entries", ratio=math.inf)
    worst = Verdict(passed=True)
    for key, value in pairs.items():
        if isinstance(answer, dict) and key not in answer:
            return Verdict(passed=False, detail=f"{key} is missing", ratio=math.inf)
        one = compare(answer[key], value, how, dtype, keep_zeros=keep_zeros)
        if not one.passed:
            return Verdict(passed=False, detail=f"{key}: {one.detail}", ratio=one.ratio)
        worst = Verdict(passed=True, ratio=max(worst.ratio, one.ratio))
    return worst


def _exact(a: NDArray[Any], b: NDArray[Any]) -> Verdict:
    """Return a pass if all numbers are equal. Float zeros must have the same sign, and NaN equals nothing."""
    if a.dtype.kind == "f":
        b = b.astype(a.dtype)
        same = (a == b) & (np.signbit(a) == np.signbit(b))
    else:
        same = a == b
    if bool(np.all(same)):
        return Verdict(passed=True)
    place, index = _first(~np.asarray(same))
    return Verdict(passed=False, detail=f"{place}expected {b[index]}, got {a[index]}", ratio=math.inf)


def _bounds(want: NDArray[Any], how: Class, dtype: str, bound: Bound | None) -> NDArray[np.float64]:
    if how == "value":
        return np.zeros(want.shape)
    if how == "relative" and bound is not None:
        return np.broadcast_to(RELATIVE[dtype] * bound.gauge, want.shape)
    if how == "relative":
        top = float(np.max(np.abs(want), initial=0.0))
        return np.full(want.shape, RELATIVE[dtype] * top)
    if bound is None:
        msg = f"an output of class {how} has no gauge"
        raise ValueError(msg)
    kind = "float64" if how == "binary64" else dtype
    return np.broadcast_to(tau(bound.terms) * UNIT[kind] * _at_least(bound.gauge, kind) + bound.slack, want.shape)


def _at_least(gauge: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """Return a gauge whose entries above 0 are at least the smallest normal number (NUM-002)."""
    return np.where(gauge > 0, np.maximum(gauge, NORMAL[dtype]), gauge)


def _within(a: NDArray[Any], b: NDArray[Any], bounds: NDArray[np.float64], *, keep_zeros: bool) -> Verdict:
    if keep_zeros:
        bounds = np.where(b == 0, 0.0, bounds)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs(a.astype(np.float64) - b.astype(np.float64))
        good = np.isfinite(error) & np.isfinite(bounds) & (error <= bounds)
        ratios = np.where(error == 0, 0.0, error / bounds)
    if bool(np.all(good)):
        return Verdict(passed=True, ratio=float(np.max(ratios, initial=0.0)))
    place, index = _first(~good)
    detail = f"{place}expected {b[index]}, got {a[index]}"
    # NaN counts as infinite, because the ratio is that of the worst entry, and np.max would return NaN
    return Verdict(passed=False, detail=detail, ratio=float(np.max(np.where(np.isnan(ratios), np.inf, ratios))))


def _first(bad: NDArray[Any]) -> tuple[str, tuple[int, ...]]:
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return (f"at {list(index)} " if index else ""), index
