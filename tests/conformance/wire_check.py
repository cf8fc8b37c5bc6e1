"""Compares the inputs and outputs of a case with the types of its operation."""

import re
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.ops import OPS, RECORDS

__all__ = ["disagreements"]

_ARRAY = re.compile(r"(i64|u64|u8|bool|real)\[(.*)\]")
_KINDS = {"i64": "i", "u64": "u8", "u8": "u1", "bool": "b", "real": "f"}
_PLAIN = {"int": int, "float": float, "string": str, "bool": bool, "null": type(None)}
Lengths = dict[str, Any]


def disagreements(case: Case) -> list[str]:
    """Return a line for each value of a case whose type is not the table's, or whose length contradicts other arrays.

    The inputs of a refused case may have lengths that do not fit each other, so only their dtypes are checked.
    """
    lengths: Lengths | None = None
    if not case.refused:
        lengths = {name: value for name, value in case.inputs.items() if type(value) is int}
    differences = []
    for name in OPS[case.op].inputs:
        # a case leaves out an input that is absent, or has None for it
        if case.inputs.get(name) is not None:
            differences += _against(case.inputs[name], OPS[case.op].inputs[name], lengths, name)
    for name, value in case.expected.items():
        # these outputs are compared by content, so the case has a description of it instead of the bytes
        if OPS[case.op].outputs[name] in ("state", "packed", "stock"):
            continue
        differences += _against(value, OPS[case.op].types[name], lengths, f"out: {name}")
    return differences


def _against(value: Any, wire_type: str, lengths: Lengths | None, path: str) -> list[str]:
    """Return a line for each difference of a value from a type; new names of lengths are added to `lengths`."""
    for kind, python in (("list of ", list), ("dict of ", dict)):
        if wire_type.startswith(kind):
            if not isinstance(value, python):
                return [f"{path} is {type(value).__name__}, not {wire_type}"]
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            inside = wire_type.removeprefix(kind)
            return [
                text
                for key, one in pairs
                for text in _against(one, inside, None if lengths is None else dict(lengths), f"{path}[{key}]")
            ]
    reasons: list[str] = []
    for alternative in wire_type.split(" or "):
        reasons = _against_one(value, alternative, lengths, path)
        if not reasons:
            return []
    return reasons


def _against_one(value: Any, wire_type: str, lengths: Lengths | None, path: str) -> list[str]:
    if wire_type in RECORDS:
        return _against_record(value, wire_type, lengths, path)
    if wire_type == "value":
        return [f"{path} is an array, not a value"] if isinstance(value, np.ndarray) else []
    array = _ARRAY.fullmatch(wire_type)
    if array is None:
        return [] if type(value) is _PLAIN[wire_type] else [f"{path} is {type(value).__name__}, not {wire_type}"]
    kind = _KINDS[array[1]]
    if not isinstance(value, np.ndarray) or not value.dtype.str[1:].startswith(kind):
        have = value.dtype.name if isinstance(value, np.ndarray) else type(value).__name__
        return [f"{path} is {have}, not {wire_type}"]
    if lengths is None:
        return []
    fits = _fits(value.shape, [one.strip() for one in array[2].split(",")], lengths)
    return [] if fits else [f"{path} has the shape {value.shape}, not {wire_type} with {lengths}"]


def _against_record(value: Any, wire_type: str, lengths: Lengths | None, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path} is {type(value).__name__}, not a {wire_type}"]
    strange = [f"{path} has {name}, which no {wire_type} has" for name in value if name not in RECORDS[wire_type]]
    inner_lengths = None if lengths is None else dict(lengths) | {k: v for k, v in value.items() if type(v) is int}
    return strange + [
        text
        for name, one in value.items()
        if name in RECORDS[wire_type]
        for text in _against(one, RECORDS[wire_type][name], inner_lengths, f"{path}.{name}")
    ]


def _fits(shape: tuple[int, ...], axes: list[str], lengths: Lengths) -> bool:
    """Return whether a shape fits the names of axes; new names are added to `lengths`."""
    if axes[0] == "...":
        cut = len(shape) - len(axes) + 1
        return cut >= 0 and _same("...", shape[:cut], lengths) and _fits(shape[cut:], axes[1:] or [""], lengths)
    if axes == [""]:
        return shape == ()
    return len(shape) == len(axes) and all(_same(name, n, lengths) for name, n in zip(axes, shape, strict=True))


def _same(name: str, length: Any, lengths: Lengths) -> bool:
    if name == "*":
        return True
    if name.isdigit():
        return bool(length == int(name))
    return bool(lengths.setdefault(name, length) == length)
