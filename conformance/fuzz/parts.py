"""A checkpoint file taken apart and packed again, its digests sealed (recomputed) to a chosen depth (12.2, 12.7).

A reader stops at the first wrong digest or offset. A sealed mutation passes these checks and reaches later rules.
"""

import json
import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice, pairwise
from math import comb, prod
from typing import Any

from conformance.oracle import files
from conformance.oracle.files import BITS, Section, Tensor

NOTHING, SECTIONS, CONTENT = range(3)
"""What `Parts.pack` seals in addition to the header: nothing, sizes and digests of sections, or content digests too."""

MOST_CELLS = 1 << 12
"""Supports of more slots or rows keep their content digest, because sealing them takes longer than reading them."""

Header = dict[str, Any]


@dataclass
class Parts:
    """The pieces of a file; any of them may be changed before `pack` puts them together."""

    manifest: Any
    sections: list[Section]
    pad: bytes = b"\0"
    tail: bytes = b""
    """bytes after the last pad"""
    seal: int = CONTENT
    of_header: list[Callable[[Header], object]] = field(default_factory=list)
    """mutations of the header, applied before it becomes text"""
    of_texts: list[Callable[[str], str]] = field(default_factory=list)
    """mutations of the text of the manifest, applied before its digest is computed"""
    of_header_text: list[Callable[[str], str]] = field(default_factory=list)
    frame: Callable[[bytes], bytes] | None = None
    """text of the header -> length and header; None for the legal form of FMT-020 to FMT-023"""

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The entries of the manifest's tensors, without those that mutations have made something else than a dict."""
        tensors = self.manifest.get("tensors") if isinstance(self.manifest, dict) else None
        listed = tensors.items() if isinstance(tensors, dict) else ()
        return {name: entry for name, entry in listed if isinstance(entry, dict)}

    def of(self, name: str) -> dict[str, Section]:
        """Return role -> section of a tensor."""
        return {s.name.rpartition("#")[2]: s for s in self.sections if s.name.rpartition("#")[0] == name}

    def pack(self) -> bytes:
        """Return the bytes of the file, sealed to the depth `seal`."""
        if self.seal >= SECTIONS:
            for name, entry in self.entries.items():
                seal_sections(entry, self.of(name))
        if self.seal >= CONTENT:
            for name, entry in self.entries.items():
                seal_content(entry, self.of(name))
        manifest = files.text(self.manifest)
        for respell in self.of_texts:
            manifest = respell(manifest)
        header, data = files.layout(manifest, self.sections, self.pad)
        for change in self.of_header:
            change(header)
        text = files.text(header)
        for respell in self.of_header_text:
            text = respell(text)
        raw = text.encode("utf-8", "surrogatepass")
        return (self.frame or files.frame)(raw) + data + self.tail


def take_apart(raw: bytes) -> Parts:
    """Return the parts of a file with a valid container.

    Raises:
        ValueError: the container is not valid.
    """
    try:
        n = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + n])
        manifest = json.loads(header.pop("__metadata__")["seft.manifest"])
        sections = []
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if not name.endswith("#pad"):
                begin, end = entry["data_offsets"]
                sections.append(Section(name, entry["dtype"], entry["shape"], raw[8 + n :][begin:end]))
        return Parts(manifest, sections)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("no file that can be taken apart") from error


def seal_sections(entry: dict[str, Any], own: dict[str, Section]) -> None:
    """Write the true sizes and digests of the sections into an entry of the manifest (FMT-049, FMT-090)."""
    listed = entry.get("sections")
    for role, section in own.items():
        stated = listed.get(role) if isinstance(listed, dict) else None
        if isinstance(stated, dict):
            stated |= {"bytes": len(section.stored), "sha256": files.digest(section.stored)}


def seal_content(entry: dict[str, Any], sections: dict[str, Section]) -> None:
    """Write the content digest of the sections, decoded without checks, into an entry (FMT-091).

    A reader that does not check a rule then finds the right digest and accepts the file, so that its mistake shows.
    """
    try:
        dtype, shape, n = entry["dtype"], tuple(entry["shape"]), entry["nnz"]
        numbers = all(type(number) is int and abs(number) < 2**64 for number in (*shape, n))
        # the content of a compressed section from a file is not known, because `take_apart` does not expand it
        unknown = any("codec" in about and sections[role].frame is None for role, about in entry["sections"].items())
        if not numbers or unknown:
            return
        own = {role: section.data for role, section in sections.items()}
        if BITS[dtype] and "values" not in own:
            return
        bits = own.get("values", b"") if BITS[dtype] else b""
        numel = prod(shape)
        if entry["encoding"] == "dense" or n == numel:
            support: Any = None
        elif 0 <= n <= MOST_CELLS and prod(shape[:-1]) <= MOST_CELLS:
            flat = sorted({at for at in lenient(entry, shape, own) if 0 <= at < numel})
            support = tuple(divmod(at, shape[-1]) for at in flat)
            if len(support) != n:
                return
        else:
            return
        entry["content_sha256"] = files.content_digest(Tensor(dtype, shape, bits, support))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, struct.error):
        return


def lenient(entry: dict[str, Any], shape: tuple[int, ...], own: dict[str, bytes]) -> list[int]:
    """Return the flat positions that the sections of a support encode; no rule of 12.4 is checked."""
    encoding, columns = entry["encoding"], shape[-1]
    if encoding == "bitmask":
        width = (columns + 7) // 8
        ones = (i for i, byte in enumerate(own["mask"]) if byte)
        marked = [(i, bit) for i in ones for bit in range(8) if own["mask"][i] >> bit & 1]
        cells = [(i // width, i % width * 8 + bit) for i, bit in marked]
        return [r * columns + c for r, c in cells if c < columns]
    if encoding == "csr":
        size = 2 if columns <= 65536 else 4
        starts = struct.unpack(f"<{len(own['row_ptr']) // 4}I", own["row_ptr"])
        col = struct.unpack(f"<{len(own['col_idx']) // size}{'H' if size == 2 else 'I'}", own["col_idx"])
        return [r * columns + c for r, (begin, end) in enumerate(pairwise(starts)) for c in col[begin:end]]
    if encoding == "nm":
        return list(islice(_of_ranks(entry["pattern"], shape, own["ranks"]), MOST_CELLS))
    gaps = gaps_of(own["gaps"], encoding)
    return [sum(gaps[: i + 1]) + i for i in range(len(gaps))]


def gaps_of(raw: bytes, encoding: str) -> list[int]:
    """Return the decoded gaps of a section `gaps` (FMT-054, FMT-055)."""
    out, gap, shift = [], 0, 0
    for byte in raw:
        if encoding == "gap8":
            gap += byte
            ends = byte < 255
        else:
            gap |= (byte & 127) << shift
            shift += 7
            ends = byte < 128
        if ends:
            out.append(gap)
            gap = shift = 0
    return out


@cache
def _binomials(m: int, i: int) -> list[int]:
    return [comb(p, i) for p in range(m)]


def _of_ranks(pattern: dict[str, int], shape: tuple[int, ...], raw: bytes) -> Any:
    n, m, axis = pattern["n"], pattern["m"], pattern["axis"]
    bits, step = (comb(m, n) - 1).bit_length(), prod(shape[axis + 1 :])
    per_row = shape[-1] // m if axis == len(shape) - 1 else shape[-1]
    width = -(-per_row * bits // 8)
    for group in range(prod(shape) // m):
        row = int.from_bytes(raw[group // per_row * width :][:width], "little")
        rank = row >> (group % per_row * bits) & ((1 << bits) - 1)
        first = group // step * m * step + group % step
        for i in range(n, 0, -1):
            binomials = _binomials(m, i)
            offset = bisect_right(binomials, rank) - 1
            rank -= binomials[offset]
            yield first + offset * step


def copied(section: Section, **change: Any) -> Section:
    """Return a copy of a section with some fields replaced."""
    return replace(section, **change)
