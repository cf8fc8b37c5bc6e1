"""Compressed files made plain, for the second reader, which lacks `zstd` (12.6)."""

from copy import deepcopy

import numpy as np
import zstandard

from conformance.oracle import files, second_reader
from conformance.oracle.files import BITS, Pieces, Section
from conformance.oracle.second_reader import COMPRESSED, Refused, form, need

__all__ = ["apart", "plain"]


def plain(raw: bytes) -> tuple[bytes, list[str]]:
    """Return a file that requires `zstd` without compression, and the names of its compressed sections.

    Raises:
        Refused: the file breaks a rule about compression, which the file without it cannot show.
    """
    made = apart(raw)
    m, names = made.manifest, [section.name for section in made.sections if section.frame is not None]
    need("the manifest", "FMT-044 FMT-043", m["requires"] == sorted(set(m["requires"])))
    need("the manifest", "FMT-044", "zstd" not in m["optional"], "FMT-050", names)
    need("the header", "FMT-034 FMT-023", made.pack() == raw)
    m["requires"].remove("zstd")
    for section in made.sections:
        section.frame, (name, role) = None, section.name.rsplit("#", 1)
        m["tensors"][name]["sections"][role] = files.stored(section)
    return made.pack(), names


def apart(raw: bytes) -> Pieces:
    """Return the manifest and the sections of a file, their bytes and those of their frames.

    Raises:
        Refused: see `plain`.
    """
    header, text, start = second_reader.read_header(raw)
    made = Pieces(second_reader.parse(text, "the manifest"))
    for name in sorted(made.manifest["tensors"], key=str.encode):
        entry = deepcopy(made.manifest["tensors"][name])
        stated = entry["sections"]
        data = {role: raw[start:][slice(*header[f"{name}#{role}"]["data_offsets"])] for role in stated}
        frames = {role for role, s in stated.items() if s.keys() & {"codec", "raw_bytes"}}
        for role in frames:
            s, place = stated[role], f"{name}#{role} compressed"
            form(s, COMPRESSED, place)
            wrong = "FMT-141" + " FMT-049" * (_size(data[role]) != s["raw_bytes"])
            need(place, wrong, s["bytes"] < s["raw_bytes"] <= 1024 * s["bytes"])
            stated[role] = {"bytes": s["raw_bytes"], "sha256": s["sha256"]}
        for role, (dtype, shape) in sorted(second_reader.implied(name, entry).items()):
            section = Section(f"{name}#{role}", dtype, shape, data[role])
            if role in frames:
                need(section.name, "FMT-090", files.digest(data[role]) == stated[role]["sha256"])
                section.data = _expanded(section.name, data[role], stated[role]["bytes"], max(1, BITS[dtype] // 8))
                section.frame = data[role]
            made.sections.append(section)
    return made


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
