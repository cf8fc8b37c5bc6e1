"""Frames of zstd that leave bits of a Huffman stream behind, which RFC 8878 (4.2.2) calls faulty (FMT-142)."""

import random
from collections.abc import Iterator

import zstandard

WIDTHS, HEADS = (10, 10, 14, 18), (3, 3, 4, 5)
"""Bits of each of two sizes, and bytes, of a header of compressed literals, by its size format (3.1.1.3.1.1)."""


def skewed(size: int) -> bytes:
    """Return bytes that a compressor turns into Huffman codes and no matches."""
    return bytes(random.Random(size).choices(range(40), weights=[2 ** -(i / 4) for i in range(40)], k=size))


def unconsumed(size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield what a frame of `skewed(size)` holds, and the frame with bytes put before one of its Huffman streams.

    A stream is read from its end, so that what stands before its first byte is never asked for.
    """
    data = skewed(size)
    frame = zstandard.ZstdCompressor(level=9, write_checksum=False).compress(data)
    # a single segment states its size in 1, 2, 4 or 8 bytes
    at = 5 + (1, 2, 4, 8)[frame[4] >> 6]
    assert frame[4] & 0x20
    head = int.from_bytes(frame[at : at + 3], "little")
    block, after = frame[at + 3 : at + 3 + (head >> 3)], frame[at + 3 + (head >> 3) :]
    assert (head >> 1 & 3, block[0] & 3) == (2, 2)  # a compressed block, its literals compressed with a tree
    form = block[0] >> 2 & 3
    width, length = WIDTHS[form], HEADS[form]
    sizes = int.from_bytes(block[:length], "little")
    end = length + (sizes >> (4 + width))
    tree = 1 + (block[length] if block[length] < 128 else (block[length] - 126) // 2)
    coded = block[length + tree : end]
    jumps = [int.from_bytes(coded[2 * i : 2 * i + 2], "little") for i in range(3)] if form else []
    cuts = [6]
    for jump in jumps:
        cuts.append(cuts[-1] + jump)
    streams = [coded[a:b] for a, b in zip(cuts, [*cuts[1:], len(coded)], strict=True)] if form else [coded]
    for which in range(len(streams)):
        for extra in (b"\1", b"\0", b"\xff\xff\xff"):
            longer = [extra + s if i == which else s for i, s in enumerate(streams)]
            table = b"".join(len(s).to_bytes(2, "little") for s in longer[:3]) if form else b""
            literals = block[length : length + tree] + table + b"".join(longer)
            stated = (sizes & ((1 << (4 + width)) - 1)) | len(literals) << (4 + width)
            made = stated.to_bytes(length, "little") + literals + block[end:]
            yield data, frame[:at] + (head & 7 | len(made) << 3).to_bytes(3, "little") + made + after
