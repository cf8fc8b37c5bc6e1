"""Version folders as changes of a base, byte by byte from 12.11 (FMT-168), and the room of Super-Tuning (FMT-170)."""

import struct
import zlib

from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import expanded

MAGIC = 0xFD2FB528
"""The first four bytes of a zstd frame, little-endian (RFC 8878)."""


def dense_bytes(base: Tensor) -> bytes:
    """Return all values of a tensor, row-major and little-endian; absent positions are +0.0."""
    return expanded(base, None).bits


def replaced(base: Tensor, new: bytes) -> Tensor:
    """Return the sparse tensor of the values whose bits change, with the new bits."""
    old, size, columns = dense_bytes(base), BITS[base.dtype] // 8, base.shape[-1]
    assert len(old) == len(new)
    support, bits = [], b""
    for at in range(len(new) // size):
        value = new[at * size : (at + 1) * size]
        if value != old[at * size : (at + 1) * size]:
            support.append(divmod(at, columns))
            bits += value
    return Tensor(base.dtype, base.shape, bits, tuple(support))


def adler32(data: bytes) -> str:
    """Return the checksum in lower-case hexadecimal (FMT-168.5)."""
    return f"{zlib.adler32(data):08x}"


def xor(old: bytes, new: bytes) -> bytes:
    """Return the content of an `xor` frame: old bytes XOR new bytes (FMT-168.3)."""
    return bytes(a ^ b for a, b in zip(old, new, strict=True))


def overwrite(offsets: list[int], new: bytes, count: int | None = None) -> bytes:
    """Return the content of an `overwrite` frame: a count, that many offsets, and the new bytes there (FMT-168.4)."""
    return struct.pack(f"<I{len(offsets)}I", len(offsets) if count is None else count, *offsets) + new


def overwriting(old: bytes, new: bytes) -> bytes:
    """Return the content of an `overwrite` frame that changes exactly the bytes that differ."""
    offsets = [at for at in range(len(new)) if old[at] != new[at]]
    return overwrite(offsets, bytes(new[at] for at in offsets))


def raw_frame(data: bytes, stated: int | None = None, blocks: int = 1) -> bytes:
    """Return a zstd frame of uncompressed blocks that states its size in four bytes (RFC 8878, 3.1.1).

    stated  the size that the frame states, if not that of the data
    blocks  number of blocks into which the data is cut
    """
    out = struct.pack("<IBI", MAGIC, 0xA0, len(data) if stated is None else stated)
    return out + _raw_blocks(data, blocks)


def unsized_frame(data: bytes) -> bytes:
    """Return a zstd frame that does not state the size of its content; its window has 1 KiB."""
    return struct.pack("<IBB", MAGIC, 0x00, 0x00) + _raw_blocks(data, 1)


def windowed_frame(data: bytes) -> bytes:
    """Return a zstd frame that states a window of 1 KiB, and its size in eight bytes."""
    return struct.pack("<IBBQ", MAGIC, 0xC0, 0x00, len(data)) + _raw_blocks(data, 1)


def _raw_blocks(data: bytes, blocks: int) -> bytes:
    step = -(-len(data) // blocks)
    out = b""
    for i in range(blocks):
        part = data[i * step : (i + 1) * step]
        out += ((i == blocks - 1) | len(part) << 3).to_bytes(3, "little") + part
    return out


def room(positions: int, sparsity: float) -> int:
    """Return K of a matrix: positions · (1 − sparsity) in binary64, truncated to an integer (FMT-170.2)."""
    share = 1.0 - sparsity
    return int(positions * share)
