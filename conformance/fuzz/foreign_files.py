"""Foreign folders in pieces: JSON texts and safetensors files.

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
    rest: Tree = field(default_factory=dict)
    """files that are neither"""
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
        tree |= self.rest
        for spoil in self.of_tree:
            spoil(tree)
        return tree

    def pieces(self) -> Iterator[Piece]:
        """Yield the tensors of all files."""
        for stock in self.files.values():
            yield from stock.pieces


def taken_apart(tree: Tree) -> Folder:
    """Return the pieces of a folder; what cannot be taken apart is in `rest`."""
    folder = Folder({}, {})
    for name, raw in tree.items():
        try:
            if name.endswith(".json"):
                folder.texts[name] = json.loads(raw or b"")
            elif b"seft.manifest" in (raw or b""):
                folder.rest[name] = raw
            else:
                folder.files[name] = _stock(raw or b"")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            folder.rest[name] = raw
    return folder


def _stock(raw: bytes) -> Stock:
    """Return the pieces of a safetensors file.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: its tensors are not in order, without holes.
    """
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), raw[start:]
    metadata, pieces = header.pop("__metadata__", None), []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        pieces.append(Piece(name, entry["dtype"], entry["shape"], data[begin:end]))
    if b"".join(piece.data for piece in sorted(pieces, key=lambda p: header[p.name]["data_offsets"])) != data:
        raise ValueError(start)
    return Stock(pieces, metadata)


def size_of(dtype: str, shape: list[int]) -> int:
    """Return the number of bytes of an array whose values have whole bytes."""
    return prod(shape) * BITS[dtype] // 8


def piece(chance: Random, name: str, dtype: str, *shape: int) -> Piece:
    """Return a tensor of random bytes."""
    return Piece(name, dtype, list(shape), chance.randbytes(size_of(dtype, list(shape))))
