"""Mutations of the bytes of sections: random ones, and ones that know the encoding (12.4)."""

from random import Random
from typing import Any

from conformance.fuzz.parts import Parts, copied
from conformance.fuzz.strings import AS_BYTES
from conformance.oracle.files import BITS, Section


def put(parts: Parts, at: int, data: bytes) -> None:
    """Give section `at` other bytes, and a shape that fits their number."""
    section = parts.sections[at]
    change: dict[str, Any] = {"data": data}
    if len(data) != len(section.data) and section.frame is None:
        size = max(BITS.get(section.dtype, 8) // 8, 1)
        change["shape"] = [len(data) // size]
    parts.sections[at] = copied(section, **change)


def _pick(chance: Random, parts: Parts) -> int:
    """Return the index of a random section, mostly one that encodes a support."""
    support = [at for at, s in enumerate(parts.sections) if not s.name.endswith("#values")]
    return chance.choice(support if support and chance.random() < 0.8 else range(len(parts.sections)))


def some_bytes(chance: Random, parts: Parts) -> None:
    """Change, insert, remove or move bytes of a section."""
    at = _pick(chance, parts)
    data = bytearray(parts.sections[at].data)
    place = chance.randint(0, len(data))
    kind = chance.randrange(6)
    if kind == 0 and data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 1 and data:
        data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 127, 128, 254, 255))
    elif kind == 2:
        data[place:place] = chance.choice(
            (b"\0", b"\xff", b"\x80", b"\1", b"\xff" * 4, b"\x80" * 8, chance.randbytes(8))
        )
    elif kind == 3:
        del data[place : place + chance.choice((1, 1, 2, 4, 8))]
    elif kind == 4 and len(data) > 1:
        one, two = chance.sample(range(len(data)), 2)
        data[one], data[two] = data[two], data[one]
    else:
        data[place : place + 8] = chance.choice(AS_BYTES)[: len(data) - place]
    put(parts, at, bytes(data))


def of_role(chance: Random, parts: Parts) -> None:
    """Break a section by the mutation for its role: words of csr, gaps, or else the last bytes of rows."""
    at = _pick(chance, parts)
    section = parts.sections[at]
    role, data = section.name.rpartition("#")[2], bytearray(section.data)
    size = max(BITS.get(section.dtype, 8) // 8, 1)
    if role in ("row_ptr", "col_idx") and len(data) >= 2 * size:
        put(parts, at, _words(chance, data, size))
    elif role == "gaps":
        put(parts, at, _gaps(chance, data))
    elif data:
        put(parts, at, _tails(chance, data, section))


def _words(chance: Random, data: bytearray, size: int) -> bytes:
    """Swap or change row pointers or columns of `size` bytes (FMT-066 to FMT-069)."""
    words = [data[i : i + size] for i in range(0, len(data), size)]
    i, j = chance.randrange(len(words)), chance.randrange(len(words))
    near = int.from_bytes(words[i], "little") + chance.choice((1, -1, 2, 256))
    change = (words[j], near.to_bytes(9, "little", signed=True)[:size], b"\xff" * size, bytes(size))
    if chance.random() < 0.5:
        words[i], words[j] = words[j], words[i]
    else:
        words[i] = bytearray(chance.choice(change))
    return b"".join(words)


def _gaps(chance: Random, data: bytearray) -> bytes:
    """Break gaps: longer spellings, a last gap without an end, overflow (FMT-057 to FMT-059, FMT-073)."""
    i, kind = chance.randint(0, len(data)), chance.randrange(5)
    if kind == 0:  # in varint, the same gap in one more byte, if byte i ends a gap
        data[i : i + 1] = bytes(b | 128 for b in data[i : i + 1]) + b"\0"
    elif kind == 1:
        data[i:i] = chance.choice((b"\xff", b"\xff\0", b"\x80", b"\x80" * 8 + b"\1", b"\xff" * 7 + b"\x7f"))
    elif kind == 2 and data:
        data[-1] = chance.choice((255, 128, 127, 254, 0))
    elif kind == 3:
        data += chance.choice((b"\0", b"\xff", b"\1\1"))
    elif len(data) > 1:
        data[i : i + 2] = bytes(sum(data[i : i + 2]) % 256 for _ in data[i : i + 1])
    return bytes(data)


def _tails(chance: Random, data: bytearray, section: Section) -> bytes:
    """Change the last byte of a row, which has its tail bits, or of the section (FMT-053, FMT-062, FMT-072)."""
    width = int(section.shape[-1] or 1) if section.shape else 1
    row = chance.randrange(-(-len(data) // width))
    last = chance.choice((min((row + 1) * width, len(data)) - 1, len(data) - 1))
    data[last] = chance.choice((data[last] ^ 1 << chance.randrange(8), data[last] | 0x80, 0xFF, 2))
    return bytes(data)
