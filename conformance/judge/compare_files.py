"""Compares files that a port writes by their content, not by their bytes (PRT-020)."""

import json
import math
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.cases.compare import Verdict, compare
from conformance.cases.ops import Class
from conformance.judge.compare_packed import broken_packing
from conformance.judge.compare_stock import broken_folder
from conformance.oracle.second_reader import Content, Refused, Tensor, read

__all__ = ["judged", "packed_verdict", "state_verdict"]

_FLOATS = {"float64": "F64", "float32": "F32"}
_NUMBERS = {"F64": "<f8", "F32": "<f4", "I32": "<i4", "I64": "<i8"}


def judged(
    answer: Any, want: Any, how: Class, dtype: str, bound: Bound | None = None, *, keep_zeros: bool = False
) -> Verdict:
    """Return the verdict on an output of any class; the arguments are those of `compare`."""
    if how == "state" and want is not None:
        return state_verdict(answer, want, dtype)
    if how == "packed" and want is not None:
        return packed_verdict(answer, want)
    if how == "stock" and want is not None:
        wrong = broken_folder(answer, want)
        return _wrong(wrong) if wrong else Verdict(passed=True)
    return compare(answer, want, how, dtype, bound, keep_zeros=keep_zeros)


def packed_verdict(answer: Any, want: dict[str, Any]) -> Verdict:
    """Return the verdict on the bytes of a compressed file (FMT-140 to FMT-142)."""
    if not isinstance(answer, np.ndarray) or answer.dtype != np.uint8 or answer.ndim != 1:
        return _wrong("expected the bytes of a file, a vector of u8")
    wrong = broken_packing(answer.tobytes(), want)
    return _wrong(wrong) if wrong else Verdict(passed=True)


def state_verdict(answer: Any, want: dict[str, Any], dtype: str) -> Verdict:
    """Return the verdict on the bytes of a training state (CKP-007, PRT-020).

    want  `attributes` as JSON text, `settings` by name, and `tensors`: name → dtype, shape, positions, values
    """
    if not isinstance(answer, np.ndarray) or answer.dtype != np.uint8 or answer.ndim != 1:
        return _wrong("expected the bytes of a file, a vector of u8")
    try:
        content = read(answer.tobytes())
    except Refused as error:
        return _wrong(f"no file of chapter 12: {error}")
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, RecursionError) as error:
        return _wrong(f"no file of chapter 12: {type(error).__name__}: {error}")
    if content.kind != "training-state":
        return _wrong(f"kind: expected 'training-state', got {content.kind!r}")
    if content.tied or content.scales:
        return _wrong("a training state has no tied names and no scales")
    fault = _attributes(content, want, dtype)
    if fault:
        return _wrong(fault)
    if content.tensors.keys() != want["tensors"].keys():
        missing, more = (sorted(a - b) for a, b in _both(want["tensors"].keys(), content.tensors.keys()))
        text = f"{missing[0]} is missing" if missing else f"{more[0]} has no place in it"
        return _wrong(f"tensors: {text}")
    worst = 0.0
    for name, tensor in want["tensors"].items():
        one = _tensor(name, content.tensors[name], tensor, dtype)
        if not one.passed:
            return Verdict(passed=False, detail=f"{name}: {one.detail}", ratio=one.ratio)
        worst = max(worst, one.ratio)
    return Verdict(passed=True, ratio=worst)


def _wrong(detail: str) -> Verdict:
    return Verdict(passed=False, detail=detail, ratio=math.inf)


def _both(one: Any, two: Any) -> tuple[tuple[set[Any], set[Any]], tuple[set[Any], set[Any]]]:
    first, second = set(one), set(two)
    return (first, second), (second, first)


def _attributes(actual: Content, want: dict[str, Any], dtype: str) -> str:
    """Return an error text if the attributes are not the expected ones, else an empty text."""
    attributes = dict(actual.attributes)
    expected: dict[str, Any] = json.loads(want["attributes"]) | {"dtype": dtype}
    text = attributes.pop("settings", None)
    for key in [*expected, *attributes]:
        if key not in expected or attributes.get(key) != expected[key] or key not in attributes:
            return f"attribute {key}: expected {_short(expected.get(key))}, got {_short(attributes.get(key))}"
    try:
        settings = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        return "attribute settings: expected the text of a JSON object"
    for key in [*want["settings"], *settings]:
        # the preset is not compared, because it decides nothing (CKP-006)
        if key != "preset" and not _same_setting(settings.get(key), want["settings"].get(key)):
            return f"settings, {key}: expected {_short(want['settings'].get(key))}, got {_short(settings.get(key))}"
    return ""


def _same_setting(answer: Any, want: Any) -> bool:
    """Return whether two settings are equal: numbers by value, with true different from 1 and false from 0."""
    if isinstance(answer, list) and isinstance(want, list):
        return len(answer) == len(want) and all(map(_same_setting, answer, want))
    return isinstance(answer, bool) == isinstance(want, bool) and bool(answer == want)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:97] + "..."


def _tensor(name: str, answer: Tensor, want: dict[str, Any], dtype: str) -> Verdict:
    """Return the verdict on one tensor. Positions, integers and base values are compared exactly, others by NUM-004."""
    kind = _FLOATS[dtype] if want["dtype"] == "float" else want["dtype"]
    shape = tuple(int(n) for n in want["shape"])
    if (answer.dtype, answer.shape) != (kind, shape):
        return _wrong(f"expected {kind} of {list(shape)}, got {answer.dtype} of {list(answer.shape)}")
    numel = math.prod(shape)
    positions = compare(_positions(answer), _all_or(want["positions"], numel), "exact")
    if not positions.passed or kind == "NONE":
        return positions
    values = np.frombuffer(answer.bits, dtype=_NUMBERS[kind])
    if kind in ("I32", "I64"):
        return compare(values.astype(np.int64), want["values"], "exact")
    is_base = name.endswith(".base")
    # zeros of a delta are compared exactly, because a new slot holds 0 (DLT-005)
    return compare(values, want["values"], "exact" if is_base else "relative", dtype, keep_zeros=".delta" in name)


def _all_or(positions: Any, numel: int) -> Any:
    return np.arange(numel, dtype=np.int64) if positions is None else positions


def _positions(t: Tensor) -> Any:
    """Return the flat positions of a tensor's support."""
    if t.row_pointers is None:
        return np.arange(math.prod(t.shape), dtype=np.int64)
    rows = np.repeat(np.arange(len(t.row_pointers) - 1), np.diff(t.row_pointers))
    return (rows * t.shape[-1] + t.columns).astype(np.int64)
