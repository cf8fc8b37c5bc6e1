"""Encodes and decodes values of the protocol: numbers keep their bits, arrays are raw bytes (PRT-002, PRT-003).

In Python a value is None, a bool, an int, a float, a str, a NumPy array, or a list or dict of values.
"""

import base64
import binascii
import json
import math
import re
from typing import Any

import ml_dtypes
import numpy as np

from conformance.protocol.files import Read, Write

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
"""NumPy dtypes of entries in messages, by name in the protocol (PRT-003)."""
_NAMES = {dtype.newbyteorder("="): name for name, dtype in DTYPES.items()}

INLINE_LIMIT = 1 << 16
"""Arrays of more bytes than this go into a file if the port takes files (PRT-003)."""
_SAFE = 2**53 - 1
_INTEGER = re.compile(r"-?[0-9]{1,40}")
"""An integer in a message. 64 bits need 20 digits; the limit of 40 keeps `int` fast, whatever a port sends."""


class Malformed(Exception):
    """A line is no message, or a part of it is no value of the protocol."""


def encode(value: Any, write: Write | None = None) -> Any:
    """Return a value in the form that a message has for it (PRT-002).

    write   puts the bytes of a large array into a file; None to keep every array in the line
    Raises  TypeError if the object is no value of the protocol
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _SAFE else {"int": str(value)}
    if isinstance(value, float):
        return {"f64": _hex(value)}
    if isinstance(value, np.ndarray):
        return _encode_array(value, write)
    if isinstance(value, dict):
        return {"dict": {key: encode(one, write) for key, one in value.items()}}
    if isinstance(value, list | tuple):
        return [encode(one, write) for one in value]
    if isinstance(value, np.generic):
        return encode(value.item(), write)
    msg = f"{type(value).__name__} is no value of the protocol"
    raise TypeError(msg)


def _hex(value: float) -> str:
    return value.hex() if math.isfinite(value) else str(value)


def _encode_array(x: np.ndarray[Any, Any], write: Write | None) -> dict[str, Any]:
    name = _NAMES.get(x.dtype.newbyteorder("="))
    if name is None and np.issubdtype(x.dtype, np.signedinteger):
        name, x = "i64", x.astype(np.int64)
    if name is None:
        msg = f"an array of {x.dtype} is no value of the protocol"
        raise TypeError(msg)
    raw = np.ascontiguousarray(x.astype(DTYPES[name], copy=False)).tobytes()
    header: dict[str, Any] = {"dtype": name, "shape": list(x.shape)}
    if write is None or len(raw) <= INLINE_LIMIT:
        return header | {"b64": base64.b64encode(raw).decode("ascii")}
    return header | {"path": write(raw), "offset": 0, "nbytes": len(raw)}


def decode(value: Any, read: Read | None = None) -> Any:
    """Return the value that a part of a message stands for, the inverse of `encode` (PRT-002).

    read    reads an array that lies in a file (PRT-014); None if no file may be named
    Raises  Malformed if it is no value of the protocol
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, list):
        return [decode(one, read) for one in value]
    if not isinstance(value, dict):
        msg = f"the number {value!r} has a point or an exponent; floats are sent as {{'f64': hexadecimal}}"
        raise Malformed(msg)
    keys = set(value)
    if keys == {"dict"} and isinstance(value["dict"], dict):
        return {key: decode(one, read) for key, one in value["dict"].items()}
    try:
        if keys == {"f64"}:
            return float.fromhex(value["f64"])
        if keys == {"int"}:
            if not isinstance(value["int"], str) or not _INTEGER.fullmatch(value["int"]):
                raise ValueError("its digits are no text of an integer")
            return int(value["int"])
        if {"dtype", "shape"} <= keys:
            return _decode_array(value, keys - {"dtype", "shape"}, read)
    except (TypeError, ValueError, OverflowError, binascii.Error, OSError) as error:
        raise Malformed(f"{_short(value)} is no value: {error}") from error
    raise Malformed(f"{_short(value)} is no value: it has the keys {sorted(keys)}")


def _decode_array(value: dict[str, Any], rest: set[str], read: Read | None) -> np.ndarray[Any, Any]:
    name, shape = value["dtype"], value["shape"]
    if name not in DTYPES:
        msg = f"there is no dtype {name!r}; known are {', '.join(DTYPES)}"
        raise ValueError(msg)
    dtype = DTYPES[name]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        msg = f"the shape {shape!r} is no list of integers from 0"
        raise ValueError(msg)
    size = math.prod(shape) * dtype.itemsize
    if rest == {"b64"}:
        raw = base64.b64decode(value["b64"], validate=True)
        if len(raw) != size:
            msg = f"{len(raw)} bytes for the shape {shape} of {name}"
            raise ValueError(msg)
    elif rest == {"path", "offset", "nbytes"}:
        raw = _in_file(value["path"], value["offset"], value["nbytes"], size, read)
    else:
        msg = "an array has b64, or path, offset and nbytes"
        raise ValueError(msg)
    if name == "bool" and any(byte > 1 for byte in raw):
        msg = "a bool is a byte 0 or 1"
        raise ValueError(msg)
    # a copy, because the receiver may write to it
    return np.frombuffer(raw, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _in_file(path: Any, offset: Any, nbytes: Any, size: int, read: Read | None) -> bytes:
    """Return the bytes of an array in a file; a wrong size or type is refused before the file is opened (PRT-014)."""
    if read is None:
        msg = "a path is named, but the flags of the hello do not have files true (PRT-014)"
        raise ValueError(msg)
    if type(path) is not str or type(offset) is not int or type(nbytes) is not int or offset < 0:
        msg = "path is a string, offset and nbytes are integers from 0"
        raise ValueError(msg)
    if nbytes != size:
        msg = f"nbytes is {nbytes}, dtype and shape take {size}"
        raise ValueError(msg)
    return read(path, offset, nbytes)


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
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        hint = "standard output is for answers alone, standard error for anything else (PRT-001.3)"
        raise Malformed(f"no JSON: {raw[:80]!r}; {hint}") from error
    if not isinstance(message, dict):
        raise Malformed(f"no JSON object: {raw[:80]!r}")
    return message


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 100 else text[:97] + "..."
