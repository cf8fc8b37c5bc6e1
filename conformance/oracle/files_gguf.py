"""GGUF files, read field by field (FMT-155). Of quantised types only Q4_0 and Q8_0 are expanded here."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from conformance.oracle.files import BITS, Tensor
from conformance.oracle.foreign import need

MAGIC = b"GGUF"
PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
BLOCKS = {2: 18, 8: 34}
"""Bytes of a block of 32 values, by the number of a quantised type: Q4_0 and Q8_0."""

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
"""Types of values: bytes of those with a fixed size; 2 and 4 are the unsigned of 16 and 32 bits."""


Stored = Tensor | tuple[int, tuple[int, ...], bytes]
"""A tensor, or type number, shape and bytes of a quantised one."""


@dataclass
class _Bytes:
    """The bytes of a file from a place on."""

    raw: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        need(0 <= count <= len(self.raw) - self.at, "bytes that are there (FMT-155.2)")
        self.at += count
        return self.raw[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        return self.take(self.number(8)).decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text_of_any_bytes()
        if kind == ARRAY:
            inner, count = self.number(4), self.number(8)
            need(inner in (*SIZES, STRING, ARRAY) and count <= len(self.raw), "an array within the file")
            return [self.value(inner) for _ in range(count)]
        return self.number(SIZES[kind])

    def text_of_any_bytes(self) -> bytes:
        return self.take(self.number(8))


def read(raw: bytes, *, expand: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a file in the order of their infos, and the sorted names of those that were expanded.

    Raises:
        Refused, ValueError, LookupError: the file breaks a rule.
    """
    data = _Bytes(raw)
    need(data.take(4) == MAGIC and data.number(4) in (2, 3), "a version of little-endian files")
    n_tensors, n_pairs = data.number(8), data.number(8)
    need(max(n_tensors, n_pairs) <= len(raw), "counts within the file")
    pairs: dict[str, tuple[int, Any]] = {}
    for _ in range(n_pairs):
        key, kind = data.text(), data.number(4)
        need(key not in pairs, "a key that is there once")
        pairs[key] = kind, data.value(kind)
    need(pairs.get("split.count", (2, 0))[1] in (0, 1), "one part")
    kind, alignment = pairs.get("general.alignment", (4, 32))
    need(kind == 4 and alignment and alignment & (alignment - 1) == 0, "a power of two")
    infos: dict[str, tuple[int, tuple[int, ...], int]] = {}
    for _ in range(n_tensors):
        name, rank = data.text(), data.number(4)
        need(name not in infos and rank <= 4, "a name that is there once")
        shape = tuple(data.number(8) for _ in range(rank))[::-1]
        infos[name] = data.number(4), shape, data.number(8)
    data.take(-data.at % alignment if n_tensors else min(-data.at % alignment, len(raw) - data.at))
    return _tensors(infos, raw[data.at :], alignment, expand=expand)


def _tensors(
    infos: dict[str, tuple[int, tuple[int, ...], int]], data: bytes, alignment: int, *, expand: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Return tensors and expanded names from infos of type, shape and offset."""
    tensors, ends, expanded = {}, [], []
    for name, (kind, shape, begin) in infos.items():
        need(prod(d or 1 for d in shape) < 2**53, "a shape (FMT-007)")
        count = prod(shape)
        if kind in PLAIN:
            size = count * BITS[PLAIN[kind]] // 8
            tensors[name] = Tensor(PLAIN[kind], shape, data[begin : begin + size])
        else:
            need(expand, "FMT-155.8")
            need(shape and shape[-1] % 32 == 0, "rows of whole blocks")
            size = count // 32 * BLOCKS[kind]
            tensors[name] = Tensor("F32", shape, values(kind, data[begin : begin + size]))
            expanded.append(name)
        ends.append((begin, size))
    at = 0
    for begin, size in sorted(ends):
        need(begin == at and begin + size <= len(data), "no gap and no overlap")
        at += size
        at += -at % alignment
    last = max((begin + size for begin, size in ends), default=0)
    need(len(data) in (last, at), "the pad after the last tensor, or none")
    return tensors, sorted(expanded)


def values(kind: int, raw: bytes) -> bytes:
    """Return the values of blocks of Q4_0 or Q8_0 as F32: each code times the scale of its block."""
    out: list[float] = []
    for at in range(0, len(raw), BLOCKS[kind]):
        block = raw[at : at + BLOCKS[kind]]
        (scale,) = struct.unpack("<e", block[:2])
        codes = struct.unpack("<32b", block[2:]) if kind == 8 else [b % 16 - 8 for b in block[2:]]
        out += [code * scale for code in (*codes, *(() if kind == 8 else [b // 16 - 8 for b in block[2:]]))]
    return struct.pack(f"<{len(out)}f", *out)


def written(
    tensors: Sequence[tuple[str, Stored]],
    pairs: Sequence[tuple[str, int, bytes]] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    last_pad: bool = True,
    gap: int = 0,
) -> bytes:
    """Return a file.

    Args:
        tensors: names and tensors.
        pairs: key, type number and bytes of the value of each pair.
        version: the stated version.
        alignment: that of the tensors, stated unless it is 32.
        last_pad: whether the last tensor is padded.
        gap: bytes before the first tensor.
    """
    every = [*([("general.alignment", 4, struct.pack("<I", alignment))] if alignment != 32 else []), *pairs]
    numbers = {dtype: number for number, dtype in PLAIN.items()}
    infos, data = b"", bytes(gap)
    for name, t in tensors:
        data += bytes(-len(data) % alignment)
        kind, shape, bits = t if isinstance(t, tuple) else (numbers[t.dtype], t.shape, t.bits)
        dims = struct.pack(f"<{len(shape)}Q", *shape[::-1])
        infos += _text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, len(data))
        data += bits
    head = MAGIC + struct.pack("<IQQ", version, len(tensors), len(every))
    head += b"".join(_text(key) + struct.pack("<I", kind) + value for key, kind, value in every) + infos
    head += bytes(-len(head) % alignment)
    return head + data + (bytes(-len(data) % alignment) if last_pad else b"")


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
