"""Hugging Face folders and the sparse checkpoints made of them, value by value from 12.11 (FMT-120 to FMT-129)."""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

from conformance.oracle.files import BITS, Tensor, fits, fitting_patterns, sections_of, text
from conformance.oracle.files_deltas import number
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.train_around import FORMATS, rounded_bits

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SIGNS = {"F4": 0x8, "F6_E2M3": 0x20, "F6_E3M2": 0x20, "F8_E5M2": 0x80, "F8_E4M3": 0x80}


SIGNS |= {"F8_E4M3FNUZ": 0, "F8_E5M2FNUZ": 0, "F16": 1 << 15, "BF16": 1 << 15, "F32": 1 << 31, "F64": 1 << 63}
"""The bits of −0.0 in dtypes that may become sparse; 0 for those in which 0x80 is a NaN (FMT-127, FMT-129)."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
LARGEST = 50_000_000
"""The most bytes that a companion may have (FMT-014)."""

NANS = {"F16": 0x7E00, "BF16": 0x7FC0, "F32": 0x7FC0_0000, "F64": 0x7FF8 << 48}


@dataclass(frozen=True)
class Converted:
    """A sparse checkpoint made of a Hugging Face folder."""

    tensors: dict[str, Tensor]
    attributes: dict[str, Any]


def words(t: Tensor) -> list[int]:
    """Return the bit pattern of each stored value; values of 4 or 6 bits are packed lowest bits first (FMT-071)."""
    width = BITS[t.dtype]
    if width % 8 == 0 < width:
        return [int.from_bytes(t.bits[i : i + width // 8], "little") for i in range(0, len(t.bits), width // 8)]
    every = int.from_bytes(t.bits, "little")
    return [every >> width * i & (1 << width) - 1 for i in range(t.nnz)]


def packed(dtype: str, patterns: Iterable[int]) -> bytes:
    """Return the bytes of bit patterns, the inverse of `words`."""
    width, every, n = BITS[dtype], 0, 0
    if width % 8 == 0:
        return b"".join(pattern.to_bytes(width // 8, "little") for pattern in patterns)
    for pattern in patterns:
        every |= pattern << width * n
        n += 1
    return every.to_bytes((width * n + 7) // 8, "little")


def cast_word(pattern: int, old: str, new: str) -> int:
    """Return the bit pattern of a value in another dtype, rounded once (FMT-126, FMT-129).

    Raises:
        RefusedError: the value does not fit the dtype.
    """
    value = number(old, pattern.to_bytes(BITS[old] // 8, "little"))
    if value != value:
        return NANS[new]
    if isfinite(value):
        try:
            return rounded_bits(value, new)
        except RefusedError as error:
            raise RefusedError(f"FMT-126: {error}") from error
    digits, top, size = FORMATS[new]
    return (2 * top + 1) << (digits - 1) | (int(value < 0) << (8 * size - 1))


def converted(dense: Mapping[str, Tensor], encoding: str, zeros: str, cast: str | None) -> Converted:
    """Return the sparse checkpoint made of dense tensors (FMT-122, FMT-126, FMT-127)."""
    tensors, negative = {}, 0
    for name, t in dense.items():
        tensors[name] = _sparse(t, encoding, zeros, cast)
        if tensors[name].support is not None and zeros == "any":
            negative += sum(word == SIGNS[t.dtype] != 0 for word in words(t))
    attributes: dict[str, Any] = {} if cast is None else {"cast": cast}
    return Converted(tensors, attributes | ({"negative_zeros_left_out": negative} if negative else {}))


def _sparse(t: Tensor, encoding: str, zeros: str, cast: str | None) -> Tensor:
    """Return a dense tensor as a converter stores it: with a support, or dense."""
    dtype = cast if cast and t.dtype in FORMATS else t.dtype
    every = words(t)

    def stored(places: Iterable[int]) -> bytes:
        if dtype == t.dtype:
            return packed(dtype, (every[i] for i in places))
        return packed(dtype, (cast_word(every[i], t.dtype, dtype) for i in places))

    dense = Tensor(dtype, t.shape, stored(range(len(every))))
    if encoding == "dense" or t.dtype not in SIGNS or len(t.shape) < 2 or not t.shape[-1]:
        return dense
    absent = {0, SIGNS[t.dtype]} if zeros == "any" else {0}
    places = [i for i, word in enumerate(every) if word not in absent]
    sparse = Tensor(dtype, t.shape, stored(places), tuple(divmod(i, t.shape[-1]) for i in places))
    sizes = [sum(len(s.data) for s in sections_of("", sparse, one)) for one in ("bitmask", "csr")]
    return dense if encoding == "auto" and min(sizes) >= len(dense.bits) else sparse


def storable(t: Tensor, encoding: str) -> bool:
    """Return whether an option is one of FMT-084, and stores a tensor if that has a support."""
    if not re.fullmatch(r"auto|dense|bitmask|csr|gap8|varint|nm(:\d+:\d+(:\d+)?)?", encoding):
        return False
    if t.support is None or not encoding.startswith("nm"):
        return True
    if encoding == "nm":
        return bool(fitting_patterns(t))
    n, m, axis = (*map(int, encoding.split(":")[1:]), len(t.shape) - 1)[:3]
    return fits(t, (n, m, axis))


def expanded(t: Tensor, cast: str | None) -> Tensor:
    """Return a tensor as a Hugging Face folder has it: dense, with +0.0 at absent positions (FMT-124)."""
    dtype = cast if cast and t.dtype in FORMATS else t.dtype
    every = words(t)
    if dtype != t.dtype:
        every = [cast_word(word, t.dtype, dtype) for word in every]
    if t.support is None:
        return Tensor(dtype, t.shape, packed(dtype, every))
    stored = dict(zip(t.support, every, strict=True))
    columns = t.shape[-1]
    return dense(dtype, t.shape, [stored.get((i // columns, i % columns), 0) for i in range(prod(t.shape))])


def sorted_out(tree: Mapping[str, int], read: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names of companions and the names of entries that are left out, each sorted by bytes (FMT-123).

    tree  size in bytes by name; the name of a folder ends in a slash
    read  the files whose weights are read, and the index if it is read
    """
    companions: list[str] = []
    left_out: list[str] = []
    for name in sorted({*tree} - {*read}, key=str.encode):
        other = name.endswith("/") or name.startswith(".") or name.lower().endswith(WEIGHTS)
        (left_out if other or tree[name] > LARGEST else companions).append(name)
    return companions, left_out


def stock(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file as other programs write it: tensors in the order of the dict, without pads."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, t in tensors.items():
        place = [len(data), len(data) + len(t.bits)]
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": place}
        data += t.bits
    return framed(json.dumps(header).encode(), data)


def sharded(tensors: Mapping[str, Tensor], part_bytes: int) -> dict[str, bytes]:
    """Return the weight files of a Hugging Face folder, and the index if there are several (FMT-124)."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, t in tensors.items():
        if shards[-1] and sum(len(one.bits) for one in (*shards[-1].values(), t)) > part_bytes:
            shards.append({})
        shards[-1][name] = t
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    names = [WHOLE] if len(shards) == 1 else names
    tree = {file: stock(own, {"format": "pt"}) for file, own in zip(names, shards, strict=True)}
    places = {name: file for file, own in zip(names, shards, strict=True) for name in own}
    return tree | ({} if len(shards) == 1 else {INDEX: index(places)})


def framed(header: bytes, data: bytes) -> bytes:
    """Return a safetensors file: the length of the header, the header, and the data."""
    return struct.pack("<Q", len(header)) + header + data


def index(weight_map: Mapping[str, Any], **more: Any) -> bytes:
    """Return the text of an index of shards."""
    return text({"metadata": {"total_size": 1}, "weight_map": dict(weight_map)} | more).encode()


def dense(dtype: str, shape: tuple[int, ...], patterns: Iterable[int]) -> Tensor:
    """Return a dense tensor with these bit patterns, one per entry."""
    every = list(patterns)
    assert len(every) == prod(shape)
    return Tensor(dtype, shape, packed(dtype, every))
