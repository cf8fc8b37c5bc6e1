"""Version folders of slime, miles and SGLang, read as changes of a base byte by byte (FMT-168)."""

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import INDEX, expanded
from conformance.oracle.files_deltas import cells, tensor
from conformance.oracle.foreign import Tree, by, mapped, need, parsed, read_stock

MAGIC = b"\x28\xb5\x2f\xfd"
"""The first four bytes of a zstd frame (RFC 8878)."""


@dataclass(frozen=True)
class Libraries:
    """What the text of FMT-168 leaves to libraries.

    Attributes:
        content: returns the content of a zstd frame that states its size, or raises ValueError; the second argument is
            the largest size.
        sums: name of a checksum -> a function that returns its hexadecimal digits.
    """

    content: Callable[[bytes, int], bytes]
    sums: Mapping[str, Callable[[bytes], str]]


def changes(tree: Tree, base: Mapping[str, Tensor], own: Libraries) -> dict[str, Tensor]:
    """Return the values whose bits a version folder changes, with the new bits.

    Raises:
        RefusedError: FMT-168, FMT-070 or FMT-121.
    """
    with by("FMT-168"):
        _, after = applied(tree, {name: expanded(t, None) for name, t in base.items() if t.dtype != "NONE"}, own)
        return {name: replaced(base[name], new) for name, new in after.items()}


def replaced(base: Tensor, new: bytes) -> Tensor:
    """Return the sparse tensor of the values whose bits change, with the new bits; a scalar is there as a whole."""
    old, after = (cells(t) for t in (expanded(base, None), Tensor(base.dtype, base.shape, new)))
    return tensor(base.dtype, base.shape, {at: raw for at, raw in after.items() if raw != old[at] or not base.shape})


def applied(tree: Tree, base: Mapping[str, Tensor], own: Libraries) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the metadata of a version folder, and all new bytes of each tensor that it names.

    Args:
        tree: the files of the folder.
        base: the dense tensors of the version before.
        own: the libraries.
    """
    index = parsed(tree[INDEX])
    metadata: dict[str, Any] = index["metadata"]
    for key in ("version", "base_version"):
        need(re.fullmatch("[0-9]{6,}", metadata[key]), key)
    need(metadata["delta_encoding"] in ("xor", "overwrite") and metadata["compression_format"] == "zstd", "an encoding")
    need(metadata["checksum_format"] in own.sums and index["weight_map"], "a checksum, and tensors")
    after = {}
    for file, names in mapped(index, r"[A-Za-z0-9_.-]+\.safetensors").items():
        sums, tensors = read_stock(tree[file])
        need(names == {*tensors} and names <= {*sums} <= {*names, "format"}, "index, file and checksums alike")
        for name, t in tensors.items():
            need(t.dtype == "U8" and len(t.shape) == 1, "U8 of one dimension")
            one = base[name]
            need(BITS[one.dtype] >= 8, "values of whole bytes")
            need(t.bits[:4] == MAGIC, "a zstd frame")
            content = own.content(t.bits, 4 + 5 * len(one.bits))
            after[name] = _new_bytes(one.bits, content, metadata["delta_encoding"])
            need(sums[name] == own.sums[metadata["checksum_format"]](after[name]), "FMT-168.6")
            with by("FMT-070"):
                need(one.dtype != "BOOL" or {*after[name]} <= {0, 1}, "a BOOL of 0 or 1")
    return metadata, after


def _new_bytes(old: bytes, content: bytes, encoding: str) -> bytes:
    """Return the bytes of a tensor after the content of a frame is applied to its old bytes."""
    if encoding == "xor":
        return bytes(a ^ b for a, b in zip(old, content, strict=True))
    (count,) = struct.unpack("<I", content[:4])
    need(len(content) == 4 + 5 * count, "n, n offsets and n bytes")
    offsets = struct.unpack(f"<{count}I", content[4 : 4 + 4 * count])
    need(all(a < b for a, b in pairwise(offsets)), "rising offsets")
    new = bytearray(old)
    for offset, byte in zip(offsets, content[4 + 4 * count :], strict=True):
        new[offset] = byte
    return bytes(new)
