"""Checkpoint files built byte by byte from chapter 12, whole or in pieces that cases may corrupt (FMT)."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import accumulate
from math import comb, prod
from typing import Any

BITS = {"NONE": 0, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8}
BITS |= {"F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
BITS |= {"I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}


@dataclass(frozen=True)
class Tensor:
    """A tensor by content: `support` has (row, column) pairs in order, or is None if every position is stored.

    A row is a run along the last axis. `bits` are the bytes of the section `values`.
    """

    dtype: str
    shape: tuple[int, ...]
    bits: bytes
    support: tuple[tuple[int, int], ...] | None = None
    pattern: tuple[int, int, int] | None = None
    """n, m and axis, for the encoding nm"""

    @property
    def nnz(self) -> int:
        """The size of the support."""
        return prod(self.shape) if self.support is None else len(self.support)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return prod(self.shape[:-1])


def on(dtype: str, shape: tuple[int, ...], flat: list[int], bits: bytes | None = None, **more: Any) -> Tensor:
    """Return a tensor with a support of flat positions; without `bits` its bytes count up from 1."""
    size = (len(flat) * BITS[dtype] + 7) // 8
    filled = bytes(range(1, size + 1)) if bits is None else bits
    return Tensor(dtype, shape, filled, tuple(divmod(at, max(shape[-1], 1)) for at in flat), **more)


@dataclass
class Section:
    """One section of a file: an array that the header names."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes
    frame: bytes | None = None
    """the bytes in the file instead of data, if it is compressed"""

    @property
    def stored(self) -> bytes:
        """The bytes in the file."""
        return self.data if self.frame is None else self.frame


@dataclass
class Pieces:
    """The pieces of a file; a case may corrupt one of them before it calls `pack`."""

    manifest: dict[str, Any]
    sections: list[Section] = field(default_factory=list)
    pad: bytes = b"\0"

    def pack(self) -> bytes:
        """Return the file, with digests and offsets computed from the pieces as they are now."""
        return assemble(text(self.manifest), self.sections, self.pad)


def text(value: Any) -> str:
    """Return the canonical spelling of a JSON value; code points sort as their bytes do (FMT-028)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(raw: bytes) -> str:
    """Return the SHA-256 of bytes in hexadecimal (FMT-047)."""
    return sha256(raw).hexdigest()


def pointers(t: Tensor) -> list[int]:
    """Return the row pointers of a tensor."""
    assert t.support is not None
    counts = [0] * (t.rows + 1)
    for r, _ in t.support:
        counts[r + 1] += 1
    return list(accumulate(counts))


def sections_of(name: str, t: Tensor, encoding: str) -> list[Section]:
    """Return the sections of a tensor in order of roles (12.4)."""
    small = 0 < BITS[t.dtype] < 8
    shape = [len(t.bits)] if small else list(t.shape) if encoding == "dense" else [t.nnz]
    values = [Section(f"{name}#values", "U8" if small else t.dtype, shape, t.bits)] if t.dtype != "NONE" else []
    if encoding == "dense":
        return values
    assert t.support is not None
    rows, cols = t.rows, t.shape[-1]
    if encoding == "bitmask":
        width = (cols + 7) // 8
        mask = bytearray(rows * width)
        for r, c in t.support:
            mask[r * width + c // 8] |= 1 << (c % 8)
        return [Section(f"{name}#mask", "U8", [rows, width], bytes(mask)), *values]
    if encoding in ("gap8", "varint"):
        gaps = gap8(gaps_of(t)) if encoding == "gap8" else b"".join(varint(gap) for gap in gaps_of(t))
        return [Section(f"{name}#gaps", "U8", [len(gaps)], gaps), *values]
    if encoding == "nm":
        shape, packed = ranks(t)
        return [Section(f"{name}#ranks", "U8", shape, packed), *values]
    wide = cols > 65536
    columns = struct.pack(f"<{t.nnz}{'I' if wide else 'H'}", *(c for _, c in t.support))
    starts = struct.pack(f"<{rows + 1}I", *pointers(t))
    col_idx = Section(f"{name}#col_idx", "U32" if wide else "U16", [t.nnz], columns)
    return [col_idx, Section(f"{name}#row_ptr", "U32", [rows + 1], starts), *values]


def gaps_of(t: Tensor) -> list[int]:
    """Return the number of absent positions directly before each slot (FMT-054)."""
    assert t.support is not None
    flat = [r * t.shape[-1] + c for r, c in t.support]
    return [at - before - 1 for before, at in zip([-1, *flat], flat, strict=False)]


def gap8(gaps: list[int]) -> bytes:
    """Return gaps as one byte each, after a byte 255 for every 255 absent positions (FMT-054)."""
    out = bytearray()
    for gap in gaps:
        out += b"\xff" * (gap // 255)
        out.append(gap % 255)
    return bytes(out)


def varint(gap: int) -> bytes:
    """Return a gap in groups of 7 bits (FMT-055)."""
    out = bytearray()
    while gap >= 128:
        out.append(gap % 128 + 128)
        gap //= 128
    out.append(gap)
    return bytes(out)


def groups_of(t: Tensor) -> list[list[tuple[int, list[int]]]]:
    """Return for each row the groups that begin in it, each as first position and stored offsets (FMT-052)."""
    assert t.support is not None
    assert t.pattern is not None
    _, m, axis = t.pattern
    step = prod(t.shape[axis + 1 :])
    stored = {r * t.shape[-1] + c for r, c in t.support}
    lines: dict[int, list[tuple[int, list[int]]]] = {}
    for first in range(prod(t.shape)):
        if first // step % t.shape[axis] % m == 0:
            offsets = [p for p in range(m) if first + p * step in stored]
            lines.setdefault(first // t.shape[-1], []).append((first, offsets))
    return [lines[row] for row in sorted(lines)]


def ranks(t: Tensor) -> tuple[list[int], bytes]:
    """Return shape and bytes of the packed ranks (FMT-052)."""
    assert t.pattern is not None
    n, m, _ = t.pattern
    bits = (comb(m, n) - 1).bit_length()
    out = bytearray()
    for line in groups_of(t):
        number = 0
        for at, (_, offsets) in enumerate(line):
            assert len(offsets) == n, "the support does not keep the pattern"
            number |= sum(comb(p, i) for i, p in enumerate(offsets, start=1)) << (at * bits)
        out += number.to_bytes((len(line) * bits + 7) // 8, "little")
    lines = len(groups_of(t))
    return [lines, len(out) // max(lines, 1)], bytes(out)


def fitting_patterns(t: Tensor) -> list[tuple[int, int, int]]:
    """Return the patterns along the last axis that `auto` tries and the support keeps (FMT-081)."""
    shares = [(t.nnz * m // max(prod(t.shape), 1), m, len(t.shape) - 1) for m in (2, 4, 8, 16, 32)]
    return [pattern for pattern in shares if fits(t, pattern)]


def fits(t: Tensor, pattern: tuple[int, int, int]) -> bool:
    """Return whether a support keeps a pattern n, m, axis (FMT-051)."""
    n, m, axis = pattern
    if not (axis < len(t.shape) and 0 not in t.shape and 1 <= n < m <= 64 and t.shape[axis] % m == 0):
        return False
    return all(len(offsets) == n for line in groups_of(replace(t, pattern=pattern)) for _, offsets in line)


def rle_frame(size: int, byte: int) -> bytes:
    """Return a zstd frame that expands to `size` equal bytes: a single segment with one RLE block."""
    return struct.pack("<IBI", 0xFD2FB528, 0xA0, size) + (1 | 1 << 1 | size << 3).to_bytes(3, "little") + bytes([byte])


def runs_frame(runs: Sequence[tuple[int, int]]) -> bytes:
    """Return a zstd frame that expands to runs, each given as (byte, length), with one RLE block per run."""
    size = sum(n for _, n in runs)
    out = struct.pack("<IBI", 0xFD2FB528, 0xA0, size)
    for i, (byte, n) in enumerate(runs):
        out += ((i == len(runs) - 1) | 1 << 1 | n << 3).to_bytes(3, "little") + bytes([byte])
    return out


def content_digest(t: Tensor) -> str:
    """Return the content digest (FMT-091)."""
    support = None
    if t.nnz < prod(t.shape):
        # sizes are computed first, because the larger of bitmask and csr may be too large to build
        cols = t.shape[-1]
        csr = t.nnz * (4 if cols > 65536 else 2) + 4 * (t.rows + 1)
        smaller = "bitmask" if cols and t.rows * ((cols + 7) // 8) <= csr else "csr"
        support = {s.name[1:]: digest(s.data) for s in sections_of("", t, smaller) if s.name != "#values"}
    values = None if t.dtype == "NONE" else digest(t.bits)
    fields = {"dtype": t.dtype, "nnz": t.nnz, "shape": list(t.shape), "support": support, "values": values}
    return digest(text(fields).encode())


def best_encoding(t: Tensor) -> tuple[str, tuple[int, int, int] | None]:
    """Return the encoding that `auto` chooses, and the pattern if that is nm (FMT-081)."""
    if t.support is None or (t.nnz == prod(t.shape) and t.dtype != "NONE"):
        return "dense", None
    able: list[tuple[str, Any]] = [("bitmask", None)] if t.shape[-1] else []
    able += [("nm", pattern) for pattern in fitting_patterns(t)] + [("csr", None)]
    for coded in ("gap8", "varint"):
        length = len(sections_of("", t, coded)[0].data)
        able += [(coded, None)] if t.rows <= min(2**20, 2**16 * (length + 1)) else []

    def size(choice: tuple[str, Any]) -> int:
        if choice[0] == "bitmask":
            # computed without the mask, because the mask of few entries far apart may be too large to build
            return t.rows * ((t.shape[-1] + 7) // 8) + len(t.bits)
        return sum(len(s.data) for s in sections_of("", replace(t, pattern=choice[1]), choice[0]))

    return min(able, key=size)


def pieces(
    tensors: dict[str, Tensor],
    encodings: dict[str, str] | None = None,
    *,
    kind: str = "model",
    attributes: dict[str, Any] | None = None,
    tied: dict[str, str] | None = None,
    scales: dict[str, dict[str, str]] | None = None,
    delta: dict[str, Any] | None = None,
    frames: dict[str, bytes] | None = None,
) -> Pieces:
    """Return the pieces of the file of a checkpoint; tensors without an encoding get that of `auto`."""
    described, sections = {}, []
    for name in sorted(tensors, key=str.encode):
        t = tensors[name]
        if encodings and name in encodings:
            encoding = encodings[name]
        else:
            encoding, pattern = best_encoding(t)
            t = replace(t, pattern=pattern)
        own = sections_of(name, t, encoding)
        for section in own:
            section.frame = (frames or {}).get(section.name)
        sections += own
        described[name] = {
            "content_sha256": content_digest(t),
            "dtype": t.dtype,
            "encoding": encoding,
            "nnz": t.nnz,
            "sections": {s.name.rsplit("#", 1)[1]: stored(s) for s in own},
            "shape": list(t.shape),
        }
        if encoding == "nm" and t.pattern is not None:
            described[name]["pattern"] = dict(zip(("n", "m", "axis"), t.pattern, strict=True))
    manifest = {"attributes": attributes or {}, "files": {}, "kind": kind, "optional": [], "part": 0}
    requires = ["delta"] * (kind == "delta") + ["zstd"] * any(s.frame is not None for s in sections)
    manifest |= {"requires": requires, "scales": scales or {}, "spec": "1.0", "tensors": described, "tied": tied or {}}
    if delta is not None:
        manifest["delta"] = delta
    return Pieces(manifest, sections)


def stored(s: Section) -> dict[str, Any]:
    """Return the manifest's entry of a section (FMT-049)."""
    plain = {"bytes": len(s.stored), "sha256": digest(s.stored)}
    return plain if s.frame is None else plain | {"codec": "zstd", "raw_bytes": len(s.data)}


def state_digest(contents: dict[str, str], tied: dict[str, str], scales: dict[str, dict[str, str]]) -> str:
    """Return the state digest of tensors by content digest (FMT-099)."""
    return digest(text({"scales": scales, "tensors": contents, "tied": tied}).encode())


def assemble(manifest: str, sections: list[Section], pad: bytes = b"\0", change: Any = None) -> bytes:
    """Return the file that has a manifest text and sections; `change` may edit the header before it is written."""
    header, data = layout(manifest, sections, pad)
    if change is not None:
        change(header)
    return frame(text(header).encode("utf-8", "surrogatepass")) + data


def layout(manifest: str, sections: list[Section], pad: bytes = b"\0") -> tuple[dict[str, Any], bytes]:
    """Return the header for sections in this order, and the bytes after it (FMT-029, FMT-030, FMT-034)."""
    own = {"format": "pt", "seft.manifest": manifest}
    own["seft.manifest.sha256"] = digest(manifest.encode("utf-8", "surrogatepass"))
    header: dict[str, Any] = {"__metadata__": own}
    data = bytearray()
    for s in sections:
        begin = len(data)
        data += s.stored
        kind = {"dtype": s.dtype, "shape": s.shape}
        if s.frame is not None:
            kind = {"dtype": "U8", "shape": [len(s.frame)]}
        header[s.name] = {"data_offsets": [begin, len(data)]} | kind
        missing = -len(data) % 64
        if missing:
            offsets = [len(data), len(data) + missing]
            header[f"{s.name}#pad"] = {"data_offsets": offsets, "dtype": "U8", "shape": [missing]}
            data += pad * missing
    return header, bytes(data)


def frame(header: bytes) -> bytes:
    """Return the length of a header and the header, padded with spaces (FMT-020, FMT-022, FMT-023)."""
    size = max(1024, 1 << (7 + len(header)).bit_length())
    return struct.pack("<Q", size - 8) + header.ljust(size - 8)
