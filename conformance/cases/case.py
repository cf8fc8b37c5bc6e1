"""The record `Case` (an operation with inputs, the expected answer and the clauses that it tests), and vector files.

In memory a value is an int, float, str or None, an array (float64, int64, uint64, uint8 or bool), or a list or
dict of values. A vector file has floats in hexadecimal, or as base64 of little-endian bytes, because decimals may
round them.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases.packed import pack, unpack

VECTORS = Path(__file__).parents[1] / "vectors"

__all__ = ["VECTORS", "Bound", "Case", "decode", "dump", "encode", "load", "load_all"]

Value = Any
_FILE = 1024
"""A u8 array of at least this many bytes is packed, because it is a checkpoint file, which repeats many bytes."""
_LONG = 1 << 15
"""Any other array of at least this many bytes is packed, because long cases repeat a few numbers."""
_MANY = 1024
"""If a dict has at least this many names, all with equal values, the value is stored once. Cases of folders do."""
_NAMES = {"f32": "<f4", "f64": "<f8", "i64": "<i8", "u64": "<u8", "u8": "|u1", "bool": "|b1"}


@dataclass(frozen=True, slots=True)
class Bound:
    """The gauge Σ|a||b| of an output and the number of terms K (NUM-002).

    `slack` is an absolute error that is allowed on top. No file stores it: `conformance.judge.slack` computes it.
    """

    gauge: NDArray[np.float64]
    terms: int
    slack: NDArray[np.float64] | float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A call of an operation, with the answer that a port must give.

    Attributes:
        id: stable, ``area.name``.
        op: the operation, a key of OPS.
        clauses: ids of the clauses of SPEC.md that the case tests.
        purpose: the mistake it catches, in one line.
        inputs: values by name.
        expected: outputs by name; empty for a refusal.
        refused: if the port must refuse, clauses of which it must name one; else empty.
        bounds: gauges of the outputs that are compared by gauge, by name.
        zeros: outputs whose exact zeros must come back as zeros.
        dtypes: float dtypes the case is meant for.
        oracle: where the expected answer comes from.
    """

    id: str
    op: str
    clauses: tuple[str, ...]
    purpose: str
    inputs: dict[str, Value]
    expected: dict[str, Value] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    bounds: dict[str, Bound] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float64", "float32")
    oracle: str = "plain Python"


def encode(value: Value) -> Value:
    """Return a value in the form that vector files have, which `json` can write."""
    if isinstance(value, np.ndarray):
        return _encode_array(value)
    if isinstance(value, float):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return _encode_dict({k: encode(v) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    return value


def _encode_dict(entries: dict[str, Value]) -> dict[str, Value]:
    first = next(iter(entries.values()), None)
    if len(entries) >= _MANY and all(v == first for v in entries.values()):
        return {"names": list(entries), "each": first}
    return {"dict": entries}


def _encode_array(x: NDArray[Any]) -> dict[str, Any]:
    if x.dtype == np.bool_:
        name = "bool"
    elif x.dtype in (np.uint64, np.uint8):
        name = "u64" if x.dtype == np.uint64 else "u8"
    elif np.issubdtype(x.dtype, np.integer):
        name = "i64"
    else:
        with np.errstate(over="ignore"):
            fits = np.array_equal(x.astype(np.float32).astype(np.float64), x, equal_nan=True)
        name = "f32" if fits else "f64"
    out: dict[str, Any] = {"dtype": name, "shape": list(x.shape)}
    if name in ("i64", "bool"):
        return out | {"data": [int(v) for v in x.reshape(-1)]}
    raw = np.ascontiguousarray(x.astype(_NAMES[name])).tobytes()
    if len(raw) >= (_FILE if name == "u8" else _LONG):
        return out | {"packed": base64.b64encode(pack(raw)).decode()}
    return out | {"b64": base64.b64encode(raw).decode()}


def decode(value: Value) -> Value:
    """Return the value that `encode` wrote; floats come back as float64."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "hex" in value:
        return float.fromhex(value["hex"])
    if "dict" in value:
        return {k: decode(v) for k, v in value["dict"].items()}
    if "each" in value:
        return {k: decode(value["each"]) for k in value["names"]}
    dtype = np.dtype(_NAMES[value["dtype"]])
    raw = np.array(value["data"], dtype=dtype) if "data" in value else np.frombuffer(_bytes(value), dtype=dtype)
    wide = raw.astype(np.float64) if value["dtype"] == "f32" else raw.astype(dtype.newbyteorder("="))
    return wide.reshape(value["shape"])


def _bytes(value: dict[str, Any]) -> bytes:
    return unpack(base64.b64decode(value["packed"])) if "packed" in value else base64.b64decode(value["b64"])


def dump(cases: Iterable[Case]) -> str:
    """Return the text of a vector file with these cases, one field per line."""
    blocks = []
    for case in cases:
        fields: dict[str, Any] = {
            "id": case.id,
            "op": case.op,
            "clauses": list(case.clauses),
            "purpose": case.purpose,
            "oracle": case.oracle,
            "dtypes": list(case.dtypes),
            "inputs": {k: encode(v) for k, v in case.inputs.items()},
        }
        if case.refused:
            fields["refused"] = list(case.refused)
        else:
            fields["expected"] = {k: encode(v) for k, v in case.expected.items()}
        if case.bounds:
            fields["bounds"] = {
                k: {"gauge": encode(b.gauge.astype(np.float32)), "terms": b.terms} for k, b in case.bounds.items()
            }
        if case.zeros:
            fields["zeros"] = list(case.zeros)
        body = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in fields.items())
        blocks.append("{\n  " + body + "\n}")
    return "[\n" + ",\n".join(blocks) + "\n]\n"


def load(path: Path) -> list[Case]:
    """Return the cases of a vector file."""
    return [
        Case(
            id=row["id"],
            op=row["op"],
            clauses=tuple(row["clauses"]),
            purpose=row["purpose"],
            inputs={k: decode(v) for k, v in row["inputs"].items()},
            expected={k: decode(v) for k, v in row.get("expected", {}).items()},
            refused=tuple(row.get("refused", ())),
            bounds={k: Bound(decode(b["gauge"]), b["terms"]) for k, b in row.get("bounds", {}).items()},
            zeros=tuple(row.get("zeros", ())),
            dtypes=tuple(row["dtypes"]),
            oracle=row["oracle"],
        )
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def load_all() -> list[Case]:
    """Return the cases of every vector file, ordered by file name. Callers share them, so they must not change them."""
    return list(_read_all())


@cache
def _read_all() -> tuple[Case, ...]:
    return tuple(case for path in sorted(VECTORS.glob("*.json")) for case in load(path))
