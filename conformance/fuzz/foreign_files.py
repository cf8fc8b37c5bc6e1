"""Foreign folders in pieces (JSON texts and safetensors files), and functions by which plain definitions read them.

A mutation changes a piece; `Folder.pack` then writes the bytes, with lengths and offsets that fit the pieces.
"""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from random import Random
from typing import Any

from conformance.oracle.files import BITS

Tree = dict[str, bytes | None]
"""The files of a folder: name -> bytes, or None for a subfolder in the place of a file."""

DTYPES = tuple(name for name in BITS if name != "NONE")
MAX_HEADER = 100_000_000


class Refused(Exception):
    """A plain definition refuses an input, because it breaks a rule."""


def need(holds: object, rule: str) -> None:
    """Refuse an input for which a rule does not hold.

    Raises:
        Refused: with the rule.
    """
    if not holds:
        raise Refused(rule)


@dataclass
class Piece:
    """A tensor of a safetensors file."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes


@dataclass
class Stock:
    """The pieces of a safetensors file."""

    pieces: list[Piece]
    metadata: Any = None
    of_header: list[Callable[[dict[str, Any]], object]] = field(default_factory=list)
    """mutations of the header, applied after the offsets are known"""
    of_text: list[Callable[[str], str]] = field(default_factory=list)
    of_bytes: list[Callable[[bytes], bytes]] = field(default_factory=list)

    def pack(self) -> bytes:
        """Return the bytes of the file."""
        header: dict[str, Any] = {} if self.metadata is None else {"__metadata__": self.metadata}
        at = 0
        for piece in self.pieces:
            offsets = [at, at + len(piece.data)]
            header[piece.name] = {"dtype": piece.dtype, "shape": piece.shape, "data_offsets": offsets}
            at += len(piece.data)
        for change in self.of_header:
            change(header)
        text = json.dumps(header)
        for respell in self.of_text:
            text = respell(text)
        head = text.encode("utf-8", "surrogatepass")
        raw = struct.pack("<Q", len(head)) + head + b"".join(piece.data for piece in self.pieces)
        for spoil in self.of_bytes:
            raw = spoil(raw)
        return raw


@dataclass
class Folder:
    """A folder of JSON texts and safetensors files; any piece may be changed before `pack`."""

    texts: dict[str, Any]
    files: dict[str, Stock]
    of_texts: list[tuple[str, Callable[[str], str]]] = field(default_factory=list)
    """file name, and a mutation of its text"""
    of_tree: list[Callable[[Tree], object]] = field(default_factory=list)
    """mutations of the files, applied last"""

    def pack(self) -> Tree:
        """Return the files by name."""
        tree: Tree = {}
        for name, value in self.texts.items():
            text = json.dumps(value)
            for file_name, respell in self.of_texts:
                text = respell(text) if file_name == name else text
            tree[name] = text.encode("utf-8", "surrogatepass")
        for name, stock in self.files.items():
            tree[name] = stock.pack()
        for spoil in self.of_tree:
            spoil(tree)
        return tree

    def pieces(self) -> Iterator[Piece]:
        """Yield the tensors of all files."""
        for stock in self.files.values():
            yield from stock.pieces


def size_of(dtype: str, shape: list[int]) -> int:
    """Return the number of bytes of an array whose values have whole bytes."""
    return prod(shape) * BITS[dtype] // 8


def piece(chance: Random, name: str, dtype: str, *shape: int) -> Piece:
    """Return a tensor of random bytes."""
    return Piece(name, dtype, list(shape), chance.randbytes(size_of(dtype, list(shape))))


# plain definitions -------------------------------------------------------------------------------


def parsed(raw: bytes | None, *, constants: bool = False) -> Any:
    """Return the value of a JSON text with unique keys, and without NaN and infinity unless constants are allowed.

    Raises:
        Refused: the bytes are no such text, or None.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "unique keys")
        return dict(pairs)

    def constant(text: str) -> float:
        need(constants, "no NaN")
        return float(text)

    need(raw is not None, "a file")
    assert raw is not None
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from error


def is_whole(value: object) -> bool:
    """Return whether a JSON value is an integer from 0."""
    return type(value) is int and value >= 0


def read_stock(raw: bytes | None) -> tuple[dict[str, Any], dict[str, Piece]]:
    """Return metadata and tensors of a safetensors file, by FMT-121.

    Raises:
        Refused: if it breaks a rule.
    """
    need(raw is not None and len(raw) >= 8, "8 bytes")
    assert raw is not None
    length = int.from_bytes(raw[:8], "little")
    need(length <= min(MAX_HEADER, len(raw) - 8), "a header within the file")
    header, data = parsed(raw[8 : 8 + length]), raw[8 + length :]
    need(isinstance(header, dict), "an object")
    metadata = header.pop("__metadata__", None)
    need(metadata is None or isinstance(metadata, dict), "metadata")
    pieces, spans = {}, []
    for name, entry in header.items():
        need(isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}, "an entry")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        need(isinstance(dtype, str) and dtype in DTYPES, "a dtype")
        need(isinstance(shape, list) and len(shape) <= 8 and all(is_whole(d) for d in shape), "a shape")
        need(isinstance(offsets, list) and len(offsets) == 2 and all(is_whole(o) for o in offsets), "offsets")
        begin, end = offsets
        need(prod(d for d in shape if d) < 2**53 and BITS[dtype] * prod(shape) == 8 * (end - begin), "a size")
        spans.append((begin, end))
        pieces[name] = Piece(name, dtype, shape, data[begin:end])
    at = 0
    for begin, end in sorted(spans):
        need(begin == at, "no hole and no overlap")
        at = end
    need(at == len(data), "nothing behind the tensors")
    return metadata or {}, pieces
