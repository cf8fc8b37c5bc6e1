"""zstd frames that lie, and checksums that fit what a reader without checks makes of a version folder (FMT-168)."""

import struct
from random import Random
from typing import Any

import zstandard

from conformance.answers.files_content import tensors_of
from conformance.answers.files_libraries import LIBRARIES
from conformance.fuzz.foreign_files import Folder
from conformance.fuzz.mutate import CANNOT
from conformance.fuzz.spoil import bytes_of
from conformance.fuzz.strings import INTEGERS
from conformance.oracle.files_convert import INDEX, expanded
from conformance.oracle.files_versions import MAGIC

SKIPPABLE = struct.pack("<II", 0x184D2A50, 0)
_RUN = b"\7"


def content_of(frame: bytes) -> bytes:
    """Return the content of a frame, or no bytes if it is broken."""
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(frame) if len(frame) < 1 << 16 else b""
    except zstandard.ZstdError:
        return b""


def framed(chance: Random, payload: bytes) -> bytes:
    """Return a valid frame."""
    level, checksum = chance.choice((1, 1, 3, 19)), chance.random() < 0.3
    return zstandard.ZstdCompressor(level=level, write_checksum=checksum).compress(payload)


def spoiled(chance: Random, frame: bytes) -> bytes:
    """Return a frame with another header, end or size, with frames beside it, or one that expands to more."""
    payload, kind = content_of(frame), chance.randrange(13)
    size = chance.choice((len(payload) + 1, len(payload) - 1, 2 * len(payload), 0, *INTEGERS)) % 2**64
    stated, block = len(payload).to_bytes(8, "little"), _block(0, len(payload)) + payload
    if kind == 0:
        return zstandard.ZstdCompressor(level=1, write_content_size=False).compress(payload)
    if kind == 1:
        beside = (SKIPPABLE + frame, frame + SKIPPABLE, frame + frame, frame + b"\0", frame + MAGIC, SKIPPABLE, b"")
        return chance.choice(beside)
    if kind == 2:
        half = len(payload) // 2
        return b"".join(framed(chance, part) for part in (payload[:half], payload[half:]))
    if kind == 3:
        # a skippable frame states more bytes than there are
        return SKIPPABLE[:4] + chance.choice((4, 2**32 - 1)).to_bytes(4, "little") + bytes(4) + frame
    if kind == 4:
        return framed(chance, frame)
    if kind == 5 and len(frame) > 8:
        # the descriptor of the frame changes, or a field of dictionary or size after it
        at, new = chance.choice((4, 4, 5, 6, 7)), chance.choice((0, 1, 3, 8, 0x20, 0x60, 0xA0, 0xE0, 0xFF))
        return frame[:at] + bytes([new]) + frame[at + 1 :]
    if kind in (6, 7):
        # a single segment states its size in eight bytes, mostly a wrong one
        return MAGIC + b"\xe0" + size.to_bytes(8, "little") + block
    if kind == 8:
        # the window has a random size, from 1 KiB to 3.75 TiB
        return MAGIC + bytes([0xC0, chance.randrange(256)]) + stated + block
    if kind == 9:
        return MAGIC + b"\xe0" + stated + _block(1, size % 2**21) + _RUN
    if kind == 10:
        # the frame states a small size and has up to 40 runs of 128 KiB
        return MAGIC + b"\xc0\x38" + stated + (_block(1, 1 << 17, last=False) + _RUN) * chance.randint(1, 40)
    if kind == 11:
        return MAGIC + b"\xe1\1" + stated + block
    return bytes_of(chance, frame)


def _block(kind: int, size: int, *, last: bool = True) -> bytes:
    """Return the header of a block: 0 raw, 1 a run of one byte (RFC 8878, 3.1.1.2)."""
    return (last | kind << 1 | size << 3).to_bytes(3, "little")


def seal(folder: Folder, stated: dict[str, Any]) -> None:
    """Give a version folder the checksums of the tensors that a reader without any checks makes of it."""
    try:
        about = folder.texts[INDEX]["metadata"]
        base, checksum = tensors_of(stated), LIBRARIES.sums[about["checksum_format"]]
        for stock in folder.files.values():
            for one in stock.pieces:
                if one.name in stock.metadata and one.name in base:
                    old = expanded(base[one.name], None).bits
                    stock.metadata[one.name] = checksum(_applied(old, content_of(one.data), about["delta_encoding"]))
    except CANNOT:
        return


def _applied(old: bytes, payload: bytes, encoding: str) -> bytes:
    """Return the bytes that a reader without any checks would get by applying a payload."""
    if encoding == "xor":
        return bytes(a ^ b for a, b in zip(old, payload.ljust(len(old), b"\0"), strict=False))
    new, count = bytearray(old), min(int.from_bytes(payload[:4], "little"), max(len(payload) - 4, 0) // 5)
    for i, at in enumerate(struct.unpack(f"<{count}I", payload[4 : 4 + 4 * count])):
        if at < len(new):
            new[at] = payload[4 + 4 * count + i]
    return bytes(new)
