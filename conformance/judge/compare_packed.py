"""Compares compressed files by their expanded sections, and by the rules of 12.6 (FMT-140 to FMT-142)."""

import json
from typing import Any

import numpy as np
import zstandard

from conformance.oracle import files
from conformance.oracle.files import BITS, Section

__all__ = ["broken_packing", "sections_of"]


def broken_packing(raw: bytes, want: dict[str, Any]) -> str:
    """Return an error text for a wrong compressed file, else an empty text.

    want  `raw`, the file without compression; `packed`, the sections that must be compressed
    """
    try:
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        manifest = json.loads(header["__metadata__"]["seft.manifest"])
        sections, plain = sections_of(header, manifest, raw[start:])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        return f"no file of chapter 12: {type(error).__name__}: {error}"
    if isinstance(plain, str):
        return plain
    if files.assemble(files.text(manifest), sections) != raw:
        return "header, order or pads are not those of its manifest (FMT-023, FMT-034)"
    compressed = {section.name for section in sections if section.frame is not None}
    for name in want["packed"]:
        if name not in compressed:
            return f"{name} is not compressed, although it becomes less than half"
    for name, entry in manifest["tensors"].items():
        for section in plain:
            if section.name.rsplit("#", 1)[0] == name:
                entry["sections"][section.name.rsplit("#", 1)[1]] = files.stored(section)
    if ("zstd" in manifest["requires"]) != bool(compressed):
        return "FMT-050: requires names zstd exactly where a section is compressed"
    manifest["requires"] = [name for name in manifest["requires"] if name != "zstd"]
    expanded = files.assemble(files.text(manifest), plain)
    if expanded != want["raw"].tobytes():
        return "what its sections expand to is not the file without compression"
    return ""


def sections_of(header: dict[str, Any], manifest: dict[str, Any], data: bytes) -> tuple[list[Section], Any]:
    """Return the sections as stored, and the sections expanded, or instead of these an error text about one of them."""
    stored, plain = [], []
    for tensor in sorted(manifest["tensors"], key=str.encode):
        entry = manifest["tensors"][tensor]
        for role in sorted(entry["sections"]):
            name, described = f"{tensor}#{role}", entry["sections"][role]
            place = header[name]
            begin, end = place["data_offsets"]
            raw = data[begin:end]
            if "codec" not in described:
                one = Section(name, place["dtype"], place["shape"], raw)
                stored.append(one)
                plain.append(one)
                continue
            if described["sha256"] != files.digest(raw):
                return stored, f"FMT-090: the digest of {name} is not that of its bytes in the file"
            dtype, shape = _implied(entry, role, described)
            wrong, content = _expanded(name, raw, described, max(1, BITS[dtype] // 8))
            if wrong:
                return stored, wrong
            stored.append(Section(name, dtype, shape, content, raw))
            plain.append(Section(name, dtype, shape, content))
    return stored, plain


def _implied(entry: dict[str, Any], role: str, described: dict[str, Any]) -> tuple[str, list[int]]:
    """Return the dtype and shape that the manifest implies for a section (FMT-033, 12.4)."""
    rows, columns = int(np.prod(entry["shape"][:-1], dtype=np.int64)), entry["shape"][-1] if entry["shape"] else 1
    if role == "values":
        small = BITS[entry["dtype"]] < 8
        whole = entry["shape"] if entry["encoding"] == "dense" else [entry["nnz"]]
        return ("U8", [described["raw_bytes"]]) if small else (entry["dtype"], whole)
    if role == "mask":
        return "U8", [rows, -(-columns // 8)]
    if role == "col_idx":
        return ("U16" if columns <= 65536 else "U32"), [entry["nnz"]]
    return ("U32", [rows + 1]) if role == "row_ptr" else ("U8", [described["raw_bytes"]])


def _expanded(name: str, frame: bytes, described: dict[str, Any], size: int) -> tuple[str, bytes]:
    """Return an error text, empty if the frame is valid, and the bytes of its section."""
    n = described["raw_bytes"]
    if not len(frame) < n <= 1024 * len(frame):
        return f"FMT-141: {name} has {len(frame)} bytes for {n}", b""
    try:
        about = zstandard.get_frame_parameters(frame)
        content = zstandard.ZstdDecompressor().decompress(frame, max_output_size=n, allow_extra_data=False)
    except zstandard.ZstdError as error:
        return f"FMT-142: {name} is no frame that can be expanded: {error}", b""
    if about.content_size != n or about.dict_id or about.has_checksum or len(content) != n:
        return f"FMT-142: {name} states {about.content_size} bytes, or has a dictionary or a checksum", b""
    # FMT-140: k planes become values of k bytes
    planes = np.frombuffer(content, dtype=np.uint8).reshape(size, -1)
    return "", np.ascontiguousarray(planes.T).tobytes()
