"""Deltas applied position by position, from 12.10 (FMT)."""

import struct
from math import isfinite, prod
from typing import Any

from conformance.oracle import files
from conformance.oracle.files import BITS, Tensor

WIDTHS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}


def cells(t: Tensor) -> dict[int, bytes]:
    """Return flat position -> bytes of its value, for dtypes of whole bytes."""
    columns = max(t.shape[-1], 1) if t.shape else 1
    flat = range(prod(t.shape)) if t.support is None else [r * columns + c for r, c in t.support]
    size = BITS[t.dtype] // 8
    return {at: t.bits[i * size : (i + 1) * size] for i, at in enumerate(flat)}


def tensor(dtype: str, shape: tuple[int, ...], bits_at: dict[int, bytes]) -> Tensor:
    """Return the tensor with these values, by flat position; the inverse of `cells`."""
    bits = b"".join(bits_at[at] for at in sorted(bits_at))
    if len(bits_at) == prod(shape) and dtype != "NONE":
        return Tensor(dtype, shape, bits)
    return Tensor(dtype, shape, bits, tuple(divmod(at, shape[-1]) for at in sorted(bits_at)))


def number(dtype: str, raw: bytes) -> float:
    """Return the number that bytes stand for; a BF16 is the upper half of an F32."""
    code = {"F16": "<e", "F32": "<f", "F64": "<d"}
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    return float(struct.unpack(code[dtype], raw)[0])


def rounded(dtype: str, value: float) -> bytes:
    """Return the bytes of a value, rounded to F32 first unless the dtype is F64 (FMT-135)."""
    if dtype == "F64":
        return struct.pack("<d", value)
    single = struct.pack("<f", value)
    if dtype == "F32":
        return single
    if dtype == "F16":
        return struct.pack("<e", struct.unpack("<f", single)[0])
    word = struct.unpack("<I", single)[0]
    # adding 0x7FFF plus the last bit of the upper half rounds the upper half to nearest, ties to even
    upper = (word + 0x7FFF + (word >> 16 & 1)) >> 16
    return struct.pack("<H", upper)


def change(base: Tensor | None, operations: dict[str, Tensor]) -> Tensor:
    """Return a tensor after its operations in a delta: `whole`, or `remove`, `replace` and `add`."""
    if "whole" in operations:
        return operations["whole"]
    assert base is not None
    values = cells(base)
    for at in cells(operations["remove"]) if "remove" in operations else ():
        del values[at]
    if "replace" in operations:
        values |= cells(operations["replace"])
    if "add" in operations:
        amounts = operations["add"]
        zero = bytes(WIDTHS[base.dtype])
        for at, raw in cells(amounts).items():
            total = number(base.dtype, values.get(at, zero)) + number(amounts.dtype, raw)
            values[at] = rounded(base.dtype, total)
            assert isfinite(number(base.dtype, values[at]))
    return tensor(base.dtype, base.shape, values)


def model(tensors: dict[str, Tensor], **more: Any) -> tuple[dict[str, str], str]:
    """Return content digests and state digest of a model."""
    contents = {name: files.content_digest(t) for name, t in tensors.items()}
    return contents, files.state_digest(contents, more.get("tied", {}), more.get("scales", {}))


def step(
    base: dict[str, Tensor], stored: dict[str, Tensor], gone: tuple[str, ...] = (), **after: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the model after the operations that a delta stores, and the delta's description in the manifest."""
    target = {name: t for name, t in base.items() if name not in gone}
    for name in {key.split(":", 1)[1] for key in stored}:
        own = {key.split(":", 1)[0]: t for key, t in stored.items() if key.split(":", 1)[1] == name}
        target[name] = change(base.get(name), own)
    before = after.pop("before", {})
    old, old_state = model(base, **before)
    new, new_state = model(target, **after)
    listed = {
        name: {"base": old.get(name), "target": new.get(name)}
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    }
    described = {"base_sha256": old_state, "target_sha256": new_state, "tensors": listed}
    described |= {"tied": after.get("tied", {}), "scales": after.get("scales", {})}
    return target, described
