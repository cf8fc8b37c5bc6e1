"""Packed files, each one zstd frame of a whole file, field by field (FMT-177, RFC 8878)."""

from collections.abc import Callable

from conformance.oracle.foreign import need

RATIO = 1024
"""Most bytes of a content for each byte of its frame (FMT-177.3)."""

DICTIONARY_BYTES = (0, 1, 2, 4)
SIZE_BYTES = (0, 2, 4, 8)
"""Lengths of two fields of a frame's header, by their two bits in its descriptor (RFC 8878, 3.1.1.1.1)."""


def unpacked(raw: bytes, expand: Callable[[bytes], bytes]) -> bytes:
    """Return the content of the single frame that is the whole file.

    Args:
        raw: the file, which begins like a frame.
        expand: returns the content of a frame, or raises ValueError.

    Raises:
        Refused, ValueError: the file breaks a rule.
    """
    descriptor = _at(raw, 4, 1)
    single, one = descriptor >> 5 & 1, descriptor >> 6
    dictionary_bytes, size_bytes = DICTIONARY_BYTES[descriptor & 3], SIZE_BYTES[one] or single
    at = 5 + (not single)
    dictionary, size = _at(raw, at, dictionary_bytes), _at(raw, at + dictionary_bytes, size_bytes)
    size += 256 * (size_bytes == 2)
    need(size_bytes and size <= RATIO * len(raw), "FMT-177.3")
    need(not dictionary, "FMT-177.4: a dictionary")
    at += dictionary_bytes + size_bytes
    last = False
    while not last:
        head = _at(raw, at, 3)
        last, kind = bool(head & 1), head >> 1 & 3
        # a block of type RLE stores one byte, whatever size it states
        at += 3 + (1 if kind == 1 else head >> 3)
    at += 4 * (descriptor >> 2 & 1)
    need(at == len(raw), "FMT-177.4: one frame, and nothing behind it")
    content = expand(raw)
    need(len(content) == size, "FMT-177.3: the size")
    return content


def _at(raw: bytes, at: int, n: int) -> int:
    """Return the n bytes at offset `at` as a little-endian number."""
    need(len(raw) >= at + n, "a whole frame")
    return int.from_bytes(raw[at : at + n], "little")
