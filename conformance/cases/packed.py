"""A small LZ77 compressor for vectors: a stretch that came before is copied, because files of chapter 12 repeat names.

    pack(b"abcabcabcabc...")   03 61 62 63, 09 03: three bytes as they are, then nine from three bytes before

The stream is made of pairs. Their first half is a count and so many bytes as they are. Their second half is a count and
a distance: so many bytes from that far before, which may overlap the bytes that they make. The last pair may lack its
second half. Counts and distances are written in groups of 7 bits (FMT-055).

No library is used, because compression libraries do not promise the same bytes in every version.
"""

__all__ = ["pack", "unpack"]

_LEAST = 8
"""A repeated stretch has at least so many bytes, because naming a shorter one takes about as many."""


def _number(n: int) -> bytes:
    out = bytearray()
    while n >= 128:
        out.append(n % 128 + 128)
        n //= 128
    return bytes([*out, n])


def pack(raw: bytes) -> bytes:
    """Return the packed bytes; of equal earlier stretches the latest is copied."""
    out = bytearray()
    latest: dict[bytes, int] = {}
    begin = at = 0
    while at < len(raw):
        key = raw[at : at + _LEAST]
        source = latest.get(key) if len(key) == _LEAST else None
        n = 1
        if source is not None:
            n = _LEAST
            while at + n < len(raw) and raw[source + n] == raw[at + n]:
                n += 1
            out += _number(at - begin) + raw[begin:at] + _number(n) + _number(at - source)
            begin = at + n
        for i in range(at, at + n):
            latest[raw[i : i + _LEAST]] = i
        at += n
    return bytes(out + _number(len(raw) - begin) + raw[begin:])


def unpack(packed: bytes) -> bytes:
    """Return the bytes that were packed."""
    out, at = bytearray(), 0

    def number() -> int:
        nonlocal at
        n, shift = 0, 0
        while True:
            byte = packed[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    while at < len(packed):
        n = number()
        out += packed[at : at + n]
        at += n
        if at == len(packed):
            break
        n, far = number(), number()
        # a stretch that overlaps the bytes it makes repeats itself
        stretch = out[len(out) - far : len(out) - far + n]
        out += (stretch * (n // far + 1))[:n]
    return bytes(out)
