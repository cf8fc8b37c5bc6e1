"""Bytes in which a stretch that came before is named instead of written: most of a file of chapter 12 is names.

    pack(b"abcabcabcabc...")   03 61 62 63, 09 03: three bytes as they are, then nine from three bytes before

A stream of pairs, the last of which may lack its second half: a count and so many bytes as they are; a count and a
distance, so many bytes from that far before, which may reach into what they make. Counts and distances are written in
groups of 7 bits (FMT-055). Every version of every library packs the same bytes, which compression libraries do not
promise.
"""

__all__ = ["pack", "unpack"]

_LEAST = 8
"""Bytes that a repeated stretch has at least: below, naming it takes about as much."""


def _number(n: int) -> bytes:
    out = bytearray()
    while n >= 128:
        out.append(n % 128 + 128)
        n //= 128
    return bytes([*out, n])


def pack(raw: bytes) -> bytes:
    """Return the packed bytes; of earlier stretches the latest is taken."""
    out = bytearray()
    latest: dict[bytes, int] = {}
    begin = at = 0
    while at < len(raw):
        key = raw[at : at + _LEAST]
        found = latest.get(key) if len(key) == _LEAST else None
        n = 1
        if found is not None:
            n = _LEAST
            while at + n < len(raw) and raw[found + n] == raw[at + n]:
                n += 1
            out += _number(at - begin) + raw[begin:at] + _number(n) + _number(at - found)
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
        # a stretch that reaches into what it makes repeats itself
        stretch = out[len(out) - far : len(out) - far + n]
        out += (stretch * (n // far + 1))[:n]
    return bytes(out)
