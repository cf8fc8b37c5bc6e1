"""gap8 and varint: the number of absent positions before each slot, counted through all rows (FMT-054, FMT-055).

[ 5 . 0 ]    positions 0, 2, 4    gaps 0, 1, 1    gap8 and varint: 00 01 01
[ . 7 . ]    a gap of 600         gap8: ff ff 5a (255 + 255 + 90)    varint: d8 04 (0x58 + 4 * 128)
"""

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from formats import validate
from formats.encodings.code import Code, Plan, Rows, cut
from formats.errors import FormatError
from formats.header import Entry
from formats.records import Array, Mask, Pattern, Supported, flat, from_flat, rows_of

SKIP = 255
"""A byte that stands for 255 absent positions and no slot (FMT-054)."""
LONGEST = 8
"""Bytes of the longest varint (FMT-073): they hold 56 bits, and positions stay below 2^53 (FMT-007)."""


def gaps_of(support: Supported) -> NDArray[np.int64]:
    """Return the number of absent positions between each slot and the one before it, (nnz,)."""
    return np.diff(flat(support), prepend=-1) - 1


def _fits(support: Supported, nbytes: int) -> int | None:
    return nbytes if rows_of(support.shape) <= validate.most_gap_rows(nbytes) else None


def positions_of(steps: NDArray[np.int64], entry: Entry, name: str) -> Mask:
    """Return the support whose positions are the running sums of steps, minus 1, after checking them (FMT-059)."""
    positions, numel = np.cumsum(steps) - 1, prod(entry.shape)
    if positions.size:
        # a step is at least 1 and below 2^57, so the first sum that overflows int64 is less than the sum before it
        wraps = bool((positions[1:] <= positions[:-1]).any())
        validate.check_last_position(numel if wraps else int(positions[-1]), numel, name)
    return from_flat(entry.shape, positions)


# gap8 --------------------------------------------------------------------------------------------


def plan_gap8(entry: Entry, name: str) -> Plan:
    """Return the section of the gaps; its length is the one that the manifest states, within bounds (FMT-057)."""
    nbytes = entry.sections["gaps"].raw if "gaps" in entry.sections else entry.nnz
    validate.check_gap_rows(rows_of(entry.shape), nbytes, name)
    validate.check_gap_length(nbytes, entry.nnz, entry.nnz + prod(entry.shape) // SKIP, name)
    return {"gaps": ("U8", (nbytes,))}


def size_gap8(support: Supported) -> int | None:
    """Return the bytes of the gaps; None with too many rows (FMT-056)."""
    from formats import loops

    return _fits(support, loops.gap_bytes(support.indptr, support.indices, support.shape[-1])[0])


def encode_gap8(support: Supported, _pattern: Pattern | None) -> dict[str, Array]:
    """Return the gaps, each as bytes of 255 while they fit and one byte for the rest (FMT-054)."""
    skips, rest = np.divmod(gaps_of(support), SKIP)
    ends = np.cumsum(skips + 1)
    out = np.full(int(ends[-1]) if ends.size else 0, SKIP, dtype=np.uint8)
    out[ends - 1] = rest
    return {"gaps": out}


def decode_gap8(entry: Entry, name: str, sections: Mapping[str, Array], rows: Rows) -> tuple[Mask, int]:
    """Return the support of some rows, as a matrix, and the number of slots before them.

    All gaps are read, because a position is the sum of the gaps before it.
    """
    symbols = sections["gaps"]
    ends = np.flatnonzero(symbols != SKIP)
    last_ends = not symbols.size or symbols[-1] != SKIP
    validate.check_gap_count(ends.size, entry.nnz, ends=bool(last_ends), name=name)
    # the distance to the slot before is 1, plus the last byte of the gap, plus 255 for each byte that is a skip
    skips = np.diff(ends, prepend=-1) - 1
    return cut(positions_of(symbols[ends] + skips * SKIP + 1, entry, name), rows)


# varint ------------------------------------------------------------------------------------------


def plan_varint(entry: Entry, name: str) -> Plan:
    """Return the section of the gaps; its length is the one that the manifest states, within bounds (FMT-057)."""
    nbytes = entry.sections["gaps"].raw if "gaps" in entry.sections else entry.nnz
    validate.check_gap_rows(rows_of(entry.shape), nbytes, name)
    validate.check_gap_length(nbytes, entry.nnz, entry.nnz * LONGEST, name)
    return {"gaps": ("U8", (nbytes,))}


def size_varint(support: Supported) -> int | None:
    """Return the bytes of the gaps; None with too many rows (FMT-056)."""
    from formats import loops

    return _fits(support, loops.gap_bytes(support.indptr, support.indices, support.shape[-1])[1])


def encode_varint(support: Supported, _pattern: Pattern | None) -> dict[str, Array]:
    """Return the gaps in bytes of 7 bits, the lowest first; a set top bit says that more bytes follow (FMT-055)."""
    from formats import loops

    packed = np.empty(loops.gap_bytes(support.indptr, support.indices, support.shape[-1])[1], dtype=np.uint8)
    loops.pack_varint(gaps_of(support), packed)
    return {"gaps": packed}


def decode_varint(entry: Entry, name: str, sections: Mapping[str, Array], rows: Rows) -> tuple[Mask, int]:
    """Return the support of some rows, as a matrix, and the number of slots before them.

    All gaps are read, because a position is the sum of the gaps before it.
    """
    symbols = sections["gaps"]
    ends = np.flatnonzero(symbols < 0x80)
    last_ends = not symbols.size or symbols[-1] < 0x80
    validate.check_gap_count(ends.size, entry.nnz, ends=bool(last_ends), name=name)
    lengths = np.diff(ends, prepend=-1)
    begins = ends - lengths + 1
    # FMT-073: a last byte of 0 is refused, because it adds nothing, and a gap would have two spellings
    if lengths.size and (int(lengths.max()) > LONGEST or (symbols[ends[lengths > 1]] == 0).any()):
        raise FormatError("FMT-073", f"{name!r} has a gap in more bytes than it needs, or in more than {LONGEST}")
    steps = (symbols[begins] & 0x7F).astype(np.int64) + 1
    k, longer = 1, np.flatnonzero(lengths > 1)
    while longer.size:
        steps[longer] += (symbols[begins[longer] + k] & 0x7F).astype(np.int64) << (7 * k)
        k += 1
        longer = longer[lengths[longer] > k]
    return cut(positions_of(steps, entry, name), rows)


GAP8 = Code("gap8", plan_gap8, size_gap8, encode_gap8, decode_gap8)
VARINT = Code("varint", plan_varint, size_varint, encode_varint, decode_varint)
