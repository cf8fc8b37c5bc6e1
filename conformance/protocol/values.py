"""Values of the protocol: numbers that keep their bits, arrays as raw bytes (PRT-002, PRT-003).

In Python a value is None, a bool, an int, a float, a str, a NumPy array, or a list or dict of values.
"""

import base64
import binascii
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["DTYPES", "INLINE_LIMIT", "Malformed", "decode", "encode", "line", "parse"]

DTYPES: dict[str, np.dtype[Any]] = {
    "f64": np.dtype("<f8"),
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i64": np.dtype("<i8"),
    "u64": np.dtype("<u8"),
    "u8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
"""Names of dtypes, and how their entries lie in memory (PRT-003)."""
_NAMES = {dtype.newbyteorder("="): name for name, dtype in DTYPES.items()}

INLINE_LIMIT = 1 << 16
"""Bytes of an array above which a port that takes files is given one (PRT-003)."""
_SAFE = 2**53 - 1


class Malformed(Exception):
    """What was sent is no message, or no value of the protocol."""


def encode(value: Any, scratch: Path | None = None) -> Any:
    """Return a value as JSON holds it (PRT-002).

    scratch  a folder for the bytes of large arrays, None to keep every array in the line
    Raises   TypeError for what is no value
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _SAFE else {"int": str(value)}
    if isinstance(value, float):
        return {"f64": _hex(value)}
    if isinstance(value, np.ndarray):
        return _encode_array(value, scratch)
    if isinstance(value, dict):
        return {"dict": {key: encode(one, scratch) for key, one in value.items()}}
    if isinstance(value, list | tuple):
        return [encode(one, scratch) for one in value]
    if isinstance(value, np.generic):
        return encode(value.item(), scratch)
    msg = f"{type(value).__name__} is no value of the protocol"
    raise TypeError(msg)


def _hex(value: float) -> str:
    return value.hex() if math.isfinite(value) else str(value)


def _encode_array(x: np.ndarray[Any, Any], scratch: Path | None) -> dict[str, Any]:
    name = _NAMES.get(x.dtype.newbyteorder("="))
    if name is None and np.issubdtype(x.dtype, np.signedinteger):
        name, x = "i64", x.astype(np.int64)
    if name is None:
        msg = f"an array of {x.dtype} is no value of the protocol"
        raise TypeError(msg)
    raw = np.ascontiguousarray(x.astype(DTYPES[name], copy=False)).tobytes()
    told: dict[str, Any] = {"dtype": name, "shape": list(x.shape)}
    if scratch is None or len(raw) <= INLINE_LIMIT:
        return told | {"b64": base64.b64encode(raw).decode("ascii")}
    path = scratch / f"{hashlib.sha256(raw).hexdigest()[:32]}.bin"
    path.write_bytes(raw)
    return told | {"path": str(path), "offset": 0, "nbytes": len(raw)}


def decode(value: Any) -> Any:
    """Return the value that JSON held (PRT-002).

    Raises:
        Malformed: it is none.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, list):
        return [decode(one) for one in value]
    if not isinstance(value, dict):
        msg = f"the number {value!r} has a point or an exponent; floats are sent as {{'f64': hexadecimal}}"
        raise Malformed(msg)
    keys = set(value)
    if keys == {"dict"} and isinstance(value["dict"], dict):
        return {key: decode(one) for key, one in value["dict"].items()}
    try:
        if keys == {"f64"}:
            return float.fromhex(value["f64"])
        if keys == {"int"}:
            return int(value["int"])
        if {"dtype", "shape"} <= keys:
            return _decode_array(value, keys - {"dtype", "shape"})
    except (TypeError, ValueError, OverflowError, binascii.Error, OSError) as error:
        raise Malformed(f"{_short(value)} is no value: {error}") from error
    raise Malformed(f"{_short(value)} is no value: it has the keys {sorted(keys)}")


def _decode_array(value: dict[str, Any], rest: set[str]) -> np.ndarray[Any, Any]:
    name, shape = value["dtype"], value["shape"]
    if name not in DTYPES:
        msg = f"there is no dtype {name!r}; known are {', '.join(DTYPES)}"
        raise ValueError(msg)
    dtype = DTYPES[name]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        msg = f"the shape {shape!r} is no list of integers from 0"
        raise ValueError(msg)
    if rest == {"b64"}:
        raw = base64.b64decode(value["b64"], validate=True)
    elif rest == {"path", "offset", "nbytes"}:
        with Path(value["path"]).open("rb") as file:
            file.seek(value["offset"])
            raw = file.read(value["nbytes"])
    else:
        msg = "an array has b64, or path, offset and nbytes"
        raise ValueError(msg)
    if len(raw) != math.prod(shape) * dtype.itemsize:
        msg = f"{len(raw)} bytes for the shape {shape} of {name}"
        raise ValueError(msg)
    if name == "bool" and any(byte > 1 for byte in raw):
        msg = "a bool is a byte 0 or 1"
        raise ValueError(msg)
    # a copy: whoever gets it may write to it
    return np.frombuffer(raw, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))


def line(message: dict[str, Any]) -> bytes:
    """Return a message as a line (PRT-001)."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def parse(raw: bytes) -> dict[str, Any]:
    """Return the message of a line (PRT-001).

    Raises:
        Malformed: the line is no JSON object.
    """
    try:
        message = json.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise Malformed(f"no JSON: {raw[:80]!r}") from error
    if not isinstance(message, dict):
        raise Malformed(f"no JSON object: {raw[:80]!r}")
    return message


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 100 else text[:97] + "..."
