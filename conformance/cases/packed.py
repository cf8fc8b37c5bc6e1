"""A small LZ77 compressor for vector files. It pays because checkpoint files of chapter 12 repeat names.

    pack(b"abcabcabcabc")   03 61 62 63, 09 03: three literal bytes, then a copy of nine bytes from three bytes back

The stream is a sequence of pairs of a literal and a copy. A literal is a count and that many bytes. A copy is a count
and a distance: `unpack` repeats that many bytes from that far back in its output, and the copy may overlap itself. The
last pair may lack its copy. Counts and distances are written in groups of 7 bits (FMT-055).

No library is used, because compression libraries do not promise the same bytes in every version.
"""

__all__ = ["pack", "unpack"]

_LEAST = 8
"""The shortest copy in bytes, because a shorter one would take about as many bytes as it saves."""


def _number(n: int) -> bytes:
    out = bytearray()
    while n >= 128:
        out.append(n % 128 + 128)
        n //= 128
    return bytes([*out, n])


def pack(raw: bytes) -> bytes:
    """Return the packed bytes; a copy refers to the latest earlier match."""
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
    """Return the bytes from which `pack` made `packed`."""
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
        # repeated, because a copy that is longer than its distance overlaps its own output
        stretch = out[len(out) - far : len(out) - far + n]
        out += (stretch * (n // far + 1))[:n]
    return bytes(out)
