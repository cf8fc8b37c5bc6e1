"""Compressed files made plain, for the second reader, which lacks `zstd` (12.6)."""

from copy import deepcopy

import numpy as np
import zstandard

from conformance.oracle import files, second_reader
from conformance.oracle.files import BITS, Section
from conformance.oracle.second_reader import COMPRESSED, Refused, form, need

__all__ = ["plain"]


def plain(raw: bytes) -> tuple[bytes, list[str]]:
    """Return a file that requires `zstd` without compression, and the names of its compressed sections.

    Raises:
        Refused: the file breaks a rule about compression, which the file without it cannot show.
    """
    header, text, start = second_reader.read_header(raw)
    written = second_reader.parse(text, label := "the manifest")
    need(label, "FMT-044 FMT-043", written["requires"] == sorted(set(written["requires"])))
    need(label, "FMT-044", "zstd" not in written["optional"])
    m, sections, names = deepcopy(written), list[Section](), list[str]()
    for name in sorted(m["tensors"], key=str.encode):
        stated = m["tensors"][name]["sections"]
        data = {role: raw[start:][slice(*header[f"{name}#{role}"]["data_offsets"])] for role in stated}
        for role, s in list(stated.items()):
            if s.keys() & {"codec", "raw_bytes"}:
                form(s, COMPRESSED, place := f"{name}#{role} compressed")
                size, near = s["raw_bytes"], s["bytes"] < s["raw_bytes"] <= 1024 * s["bytes"]
                need(place, "FMT-141" + " FMT-049" * (_size(data[role]) != size), near)
                stated[role] = {"bytes": size, "sha256": s["sha256"]}
                names.append(f"{name}#{role}")
        for role, (dtype, shape) in sorted(second_reader.implied(name, m["tensors"][name]).items()):
            section = Section(f"{name}#{role}", dtype, shape, data[role])
            if section.name in names:
                need(section.name, "FMT-090", files.digest(data[role]) == stated[role]["sha256"])
                section.data = _expanded(section.name, data[role], stated[role]["bytes"], max(1, BITS[dtype] // 8))
                section.frame, stated[role]["sha256"] = data[role], files.digest(section.data)
            sections.append(section)
    need(label, "FMT-050", names)
    need("the header", "FMT-034 FMT-023", files.assemble(files.text(written), sections) == raw)
    for section in sections:
        section.frame = None
    m["requires"].remove("zstd")
    return files.assemble(files.text(m), sections), names


def _size(frame: bytes) -> int:
    """Return the size that a frame states, −1 for none."""
    try:
        return int(zstandard.get_frame_parameters(frame).content_size)
    except zstandard.ZstdError:
        return -1


def _expanded(place: str, frame: bytes, size: int, width: int) -> bytes:
    """Return the bytes of a section from its frame, where values of several bytes are in planes (FMT-140)."""
    try:
        about = zstandard.get_frame_parameters(frame)
        whole = zstandard.ZstdDecompressor(max_window_size=2**30)
        content = whole.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError:
        raise Refused("FMT-142", place) from None
    need(place, "FMT-142", not about.dict_id and not about.has_checksum and about.window_size <= 2**30)
    need(place, "FMT-142", about.content_size == len(content) == size)
    return np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(width, -1).T).tobytes()
