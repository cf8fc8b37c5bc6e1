"""Checkpoint files put together byte by byte from chapter 12: whole ones, and pieces to be spoiled (FMT)."""

import json
import struct
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from typing import Any

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4}
SIZES |= {"F64": 8, "I64": 8, "U64": 8}


@dataclass(frozen=True)
class Tensor:
    """A tensor by content: `support` holds (row, column) pairs in order, or None where every position is stored."""

    dtype: str
    shape: tuple[int, ...]
    bits: bytes
    support: tuple[tuple[int, int], ...] | None = None

    @property
    def nnz(self) -> int:
        """The size of the support."""
        return prod(self.shape) if self.support is None else len(self.support)


@dataclass
class Section:
    """One section of a file."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes


@dataclass
class Pieces:
    """A file in pieces; spoil one and put it together."""

    manifest: dict[str, Any]
    sections: list[Section] = field(default_factory=list)
    pad: bytes = b"\0"

    def pack(self) -> bytes:
        """Return the file, with digests and offsets of what the pieces are now."""
        return assemble(text(self.manifest), self.sections, self.pad)


def text(value: Any) -> str:
    """Return the canonical spelling of a JSON value; code points sort as their bytes do (FMT-028)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(raw: bytes) -> str:
    """Return a digest as it is written (FMT-047)."""
    return sha256(raw).hexdigest()


def pointers(t: Tensor) -> list[int]:
    """Return the row pointers of a matrix."""
    assert t.support is not None
    return [sum(1 for r, _ in t.support if r < row) for row in range(t.shape[0] + 1)]


def sections_of(name: str, t: Tensor, encoding: str) -> list[Section]:
    """Return the sections of a tensor in order of roles (12.4)."""
    if encoding == "dense":
        return [Section(f"{name}#values", t.dtype, list(t.shape), t.bits)]
    assert t.support is not None
    rows, cols = t.shape
    values = Section(f"{name}#values", t.dtype, [t.nnz], t.bits)
    if encoding == "bitmask":
        width = (cols + 7) // 8
        mask = bytearray(rows * width)
        for r, c in t.support:
            mask[r * width + c // 8] |= 1 << (c % 8)
        return [Section(f"{name}#mask", "U8", [rows, width], bytes(mask)), values]
    wide = cols > 65536
    columns = struct.pack(f"<{t.nnz}{'I' if wide else 'H'}", *(c for _, c in t.support))
    starts = struct.pack(f"<{rows + 1}I", *pointers(t))
    col_idx = Section(f"{name}#col_idx", "U32" if wide else "U16", [t.nnz], columns)
    return [col_idx, Section(f"{name}#row_ptr", "U32", [rows + 1], starts), values]


def content_digest(t: Tensor) -> str:
    """Return the content digest (FMT-091)."""
    raw = text({"dtype": t.dtype, "nnz": t.nnz, "shape": list(t.shape)}).encode() + b"\n"
    if t.nnz < prod(t.shape):
        for section in sorted(sections_of("", t, "csr"), key=lambda s: s.name != "#row_ptr"):
            raw += section.data if section.name != "#values" else b""
    return digest(raw + t.bits)


def best_encoding(t: Tensor) -> str:
    """Return what `auto` chooses (FMT-081)."""
    if t.support is None:
        return "dense"
    able = ["dense"] if t.nnz == prod(t.shape) else []
    able += (["bitmask"] if t.shape[1] else []) + ["csr"]
    return min(able, key=lambda e: sum(len(s.data) for s in sections_of("", t, e)))


def pieces(
    tensors: dict[str, Tensor],
    encodings: dict[str, str] | None = None,
    *,
    kind: str = "model",
    attributes: dict[str, Any] | None = None,
    tied: dict[str, str] | None = None,
) -> Pieces:
    """Return the file of a checkpoint in pieces; tensors without an encoding get that of `auto`."""
    described, sections = {}, []
    for name in sorted(tensors, key=str.encode):
        t = tensors[name]
        encoding = (encodings or {}).get(name) or best_encoding(t)
        own = sections_of(name, t, encoding)
        sections += own
        described[name] = {
            "content_sha256": content_digest(t),
            "dtype": t.dtype,
            "encoding": encoding,
            "nnz": t.nnz,
            "sections": {s.name.rsplit("#", 1)[1]: digest(s.data) for s in own},
            "shape": list(t.shape),
        }
    manifest = {"attributes": attributes or {}, "files": {}, "kind": kind, "optional": [], "part": 0}
    manifest |= {"requires": [], "spec": "1.0", "tensors": described, "tied": tied or {}}
    return Pieces(manifest, sections)


def assemble(manifest: str, sections: list[Section], pad: bytes = b"\0", change: Any = None) -> bytes:
    """Return a file of a manifest text and sections; `change` may alter the header before it is spelled."""
    own = {"format": "pt", "seft.manifest": manifest, "seft.manifest.sha256": digest(manifest.encode())}
    header: dict[str, Any] = {"__metadata__": own}
    data = b""
    for s in sections:
        begin = len(data)
        header[s.name] = {"data_offsets": [begin, begin + len(s.data)], "dtype": s.dtype, "shape": s.shape}
        data += s.data
        missing = -len(data) % 64
        if missing:
            whole = {"data_offsets": [len(data), len(data) + missing], "dtype": "U8", "shape": [missing]}
            header[f"{s.name}#pad"] = whole
            data += pad * missing
    if change is not None:
        change(header)
    return frame(text(header)) + data


def frame(header: str) -> bytes:
    """Return a header with its length, filled up with spaces (FMT-020, FMT-022, FMT-023)."""
    raw = header.encode()
    raw += b" " * (-(8 + len(raw)) % 64)
    return struct.pack("<Q", len(raw)) + raw
