"""Values in a report as text: small ones whole, of large ones the shape and the entries where they differ."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.judge.harness import Failure
from conformance.report.words import LONGEST, clip

__all__ = ["detail_text", "difference", "first_index", "value_text", "whole_text"]

_WHOLE, _BEGIN, _AROUND = 64, 12, 4
_ENTRIES = 24
_INDEX = re.compile(r"(?:^|: )at (\[\d+(?:, \d+)*\]) expected ")
_NUMBER = re.compile(r"\bnp\.\w+\(([^()]*)\)")


def value_text(value: Any, depth: int = 0) -> str:
    """Return a value as text; entries of a dict or list that has arrays, dicts or lists get their own lines."""
    if isinstance(value, np.ndarray):
        return _array_text(value)
    if isinstance(value, dict | list | tuple) and depth < 3:
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        if not any(isinstance(v, np.ndarray | dict | list | tuple) for _, v in pairs) and len(pairs) <= _WHOLE:
            return clip(str(value), LONGEST)
        return clip("\n".join(_entries(pairs, depth)), LONGEST)
    return clip(str(value), LONGEST)


def whole_text(value: Any, most: int = 4096) -> str:
    """Return a value on one line; of an array with more than `most` entries the first ones and their number."""
    if isinstance(value, np.ndarray):
        kind = f"{value.dtype.name}{list(value.shape)}"
        if value.size <= most:
            text = np.array2string(
                value, max_line_width=1_000_000, separator=", ", floatmode="unique", threshold=value.size + 1
            )
            return f"{kind} {' '.join(text.split())}"
        begin = ", ".join(str(one) for one in value.reshape(-1)[:most])
        return f"{kind} first {most} of {value.size}: {begin}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {whole_text(one, most)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(whole_text(one, most) for one in value) + "]"
    return repr(value)


def _entries(pairs: list[tuple[Any, Any]], depth: int) -> Iterator[str]:
    for key, value in pairs[:_ENTRIES]:
        text = value_text(value, depth + 1).replace("\n", "\n  ")
        yield f"{key}: {text}" if "\n" not in text else f"{key}:\n  {text}"
    if len(pairs) > _ENTRIES:
        yield f"and {len(pairs) - _ENTRIES} more"


def _array_text(x: np.ndarray[Any, Any]) -> str:
    if x.size <= _WHOLE:
        text = np.array2string(x, max_line_width=64, separator=", ", floatmode="unique", threshold=_WHOLE + 1)
        return text if x.size else f"{text} {x.dtype.name}, shape {list(x.shape)}"
    begin = ", ".join(str(v) for v in x.reshape(-1)[:_BEGIN])
    return f"{x.dtype.name}, shape {list(x.shape)}: {begin}, ..."


def first_index(failure: Failure) -> str:
    """Return the index of the first entry that differs, from the text of the detail; empty if it has none."""
    match = _INDEX.search(failure.detail[:LONGEST])
    return match[1] if match else ""


def difference(failure: Failure, expected: Any, most: int = _WHOLE) -> tuple[str, str]:
    """Return expected and actual output as texts: arrays of at most `most` entries whole, others where they differ."""
    answer, place = failure.got, first_index(failure)
    if _floats(expected) and _floats(answer):
        # both are shown in the dtype of the call, so that their digits can be compared
        expected = expected.astype(answer.dtype)
    if place and isinstance(expected, np.ndarray) and isinstance(answer, np.ndarray) and expected.size > most:
        index = tuple(int(i) for i in place[1:-1].split(","))
        if expected.shape == answer.shape and len(index) == expected.ndim:
            return _near(expected, index), _near(answer, index)
    return value_text(expected), value_text(answer)


def _floats(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _near(x: np.ndarray[Any, Any], index: tuple[int, ...]) -> str:
    row, at = x[index[:-1]], index[-1]
    low, high = max(0, at - _AROUND), min(len(row), at + _AROUND + 1)
    entries = ", ".join(f"»{row[i]!s}«" if i == at else str(row[i]) for i in range(low, high))
    outer = "".join(f"{i}, " for i in index[:-1])
    return f"{x.dtype.name}, shape {list(x.shape)}; [{outer}{low}:{high}] = {entries}"


def detail_text(failure: Failure) -> str:
    """Return the detail of a failure, with `np.float32(1.5)` shortened to `1.5`."""
    return _NUMBER.sub(r"\1", failure.detail)
