"""nm: exactly n of every m neighbours along one axis are stored, and one number says which (FMT-051, FMT-052).

[ 5 . 0 . ]    2:4 along axis 1: offsets (0, 2) and (1, 3)
[ . 7 . 1 ]    ranks C(0, 1) + C(2, 2) = 1 and C(1, 1) + C(3, 2) = 4, three bits each, one byte per row: 01 04

The rank of offsets p1 < p2 < ... < pn in the combinatorial number system is C(p1, 1) + C(p2, 2) + ... + C(pn, n);
ranks run from 0 to C(m, n) - 1.
"""

from collections.abc import Mapping
from functools import cache
from math import comb, prod

import numpy as np
from numpy.typing import NDArray

from formats import validate
from formats.encodings.code import Code, Plan, Rows, cut
from formats.errors import FormatError
from formats.header import Entry
from formats.records import Array, Mask, Pattern, Supported, flat, from_flat

AUTO_M = (2, 4, 8, 16, 32)
"""Group sizes that `auto` tries, along the last axis (FMT-081)."""
_TABLE = 1 << 16
"""A pattern with at most this many ranks gets a table of the offsets of every rank."""
_RUN = 1 << 20
"""Ranks that are packed or unpacked at once, which bounds temporary memory."""


def width(pattern: Pattern) -> int:
    """Return the bits of a rank: the fewest that hold C(m, n) - 1."""
    return (comb(pattern.m, pattern.n) - 1).bit_length()


def packed_shape(shape: tuple[int, ...], pattern: Pattern) -> tuple[int, int]:
    """Return how many packed rows a support takes, and how many groups each holds (FMT-052)."""
    groups = prod(shape) // pattern.m
    per_row = shape[-1] // pattern.m if pattern.axis == len(shape) - 1 else shape[-1]
    return groups // per_row, per_row


def find(support: Supported) -> Pattern | None:
    """Return the pattern along the last axis that stores a support in the fewest bytes; None if it keeps no pattern.

    Of patterns that take equally many bytes it returns the one with the smallest m.
    """
    numel = prod(support.shape)
    patterns = []
    for m in AUTO_M:
        n, rest = divmod(support.nnz * m, max(numel, 1))
        pattern = Pattern(n, m, len(support.shape) - 1)
        if not rest and 1 <= n < m and numel and support.shape[-1] % m == 0 and keeps(support, pattern):
            patterns.append(pattern)
    return min(patterns, key=lambda p: size_of(support.shape, p), default=None)


def keeps(support: Supported, pattern: Pattern) -> bool:
    """Return whether each group of a support has n slots; `check_pattern` must have accepted the pattern (FMT-051)."""
    from formats import loops

    if pattern.axis == len(support.shape) - 1:
        groups_a_row = support.shape[-1] // pattern.m
        return bool(loops.keeps_pattern(support.indptr, support.indices, pattern.n, pattern.m, groups_a_row))
    groups, _ = grouped(support, pattern)
    return bool((groups.reshape(-1, pattern.n) == np.arange(groups.size // pattern.n)[:, None]).all())


def grouped(support: Supported, pattern: Pattern) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the group of each slot and its offset in that group, both (nnz,), sorted by group, then by offset."""
    positions = flat(support)
    if pattern.axis == len(support.shape) - 1:
        groups, offsets = np.divmod(positions, pattern.m)
        return groups, offsets
    inner = prod(support.shape[pattern.axis + 1 :])
    line, column = np.divmod(positions, inner)
    groups, offsets = line // pattern.m * inner + column, line % pattern.m
    order = np.argsort(groups, kind="stable")
    return groups[order], offsets[order]


def size_of(shape: tuple[int, ...], pattern: Pattern) -> int:
    """Return the bytes of the ranks."""
    packed_rows, per_row = packed_shape(shape, pattern)
    return packed_rows * -(-per_row * width(pattern) // 8)


def plan(entry: Entry, name: str) -> Plan:
    """Return the section of the ranks. FormatError FMT-051 if the pattern does not fit the entry."""
    assert entry.pattern is not None
    validate.check_pattern(entry.pattern, entry.shape, entry.nnz, name)
    packed_rows, per_row = packed_shape(entry.shape, entry.pattern)
    return {"ranks": ("U8", (packed_rows, -(-per_row * width(entry.pattern) // 8)))}


def size(support: Supported) -> int | None:
    """Return the bytes of the ranks in the pattern that `find` finds; None if there is none."""
    pattern = find(support)
    return None if pattern is None else size_of(support.shape, pattern)


# ranks and offsets -------------------------------------------------------------------------------


@cache
def binomials(m: int, n: int) -> NDArray[np.uint64]:
    """Return C(p, i) at [p, i], (m, n + 1); uint64 holds them, because the largest of m = 64 is below 2^61."""
    return np.array([[comb(p, i) for i in range(n + 1)] for p in range(m)], dtype=np.uint64)


def ranks_of(offsets: NDArray[np.int64], pattern: Pattern) -> NDArray[np.uint64]:
    """Return the rank of each group, (groups,), from its offsets in order, (groups, n)."""
    table = binomials(pattern.m, pattern.n)
    ranks = np.zeros(offsets.shape[0], dtype=np.uint64)
    for i in range(1, pattern.n + 1):
        ranks += table[offsets[:, i - 1], i]
    return ranks


def offsets_of(ranks: NDArray[np.uint64], pattern: Pattern) -> NDArray[np.uint8]:
    """Return the offsets of each group in order, (groups, n), from ranks below C(m, n), (groups,)."""
    if comb(pattern.m, pattern.n) <= _TABLE:
        return _all_offsets(pattern.m, pattern.n)[ranks]
    return _offsets(ranks, pattern.m, pattern.n)


@cache
def _all_offsets(m: int, n: int) -> NDArray[np.uint8]:
    return _offsets(np.arange(comb(m, n), dtype=np.uint64), m, n)


def _offsets(ranks: NDArray[np.uint64], m: int, n: int) -> NDArray[np.uint8]:
    table = binomials(m, n)
    offsets = np.empty((ranks.size, n), dtype=np.uint8)
    rest = ranks.copy()
    for i in range(n, 0, -1):
        # offset i is the largest p with C(p, i) <= rest
        column = np.ascontiguousarray(table[:, i])
        offsets[:, i - 1] = np.searchsorted(column, rest, side="right") - 1
        rest -= column[offsets[:, i - 1]]
    return offsets


# sections ----------------------------------------------------------------------------------------


def encode(support: Supported, pattern: Pattern | None) -> dict[str, Array]:
    """Return the packed ranks of a support that keeps the pattern."""
    from formats import loops

    assert pattern is not None
    packed_rows, per_row = packed_shape(support.shape, pattern)
    if pattern.axis == len(support.shape) - 1:
        packed_ranks = np.zeros((packed_rows, -(-per_row * width(pattern) // 8)), dtype=np.uint8)
        groups, table = support.indices.reshape(packed_rows, per_row, pattern.n), binomials(pattern.m, pattern.n)
        loops.by_rows(
            packed_rows,
            support.nnz,
            lambda a, b: loops.pack_ranks(
                groups[a:b].reshape(-1, pattern.n), table, pattern.m, width(pattern), packed_ranks[a:b]
            ),
        )
        return {"ranks": packed_ranks}
    _, offsets = grouped(support, pattern)
    ranks = ranks_of(offsets.reshape(-1, pattern.n), pattern).reshape(packed_rows, per_row)
    bits = width(pattern)
    packed = np.empty((packed_rows, -(-per_row * bits // 8)), dtype=np.uint8)
    step = max(1, _RUN // per_row)
    for first in range(0, packed_rows, step):
        block = ranks[first : first + step]
        raw = np.unpackbits(block.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, count=bits, bitorder="little")
        packed[first : first + step] = np.packbits(raw.reshape(len(block), -1), axis=1, bitorder="little")
    return {"ranks": packed}


def _unpack(packed: NDArray[np.uint8], per_row: int, bits: int, name: str) -> NDArray[np.uint64]:
    """Return the ranks of packed rows, (packed rows, per_row) (FMT-072)."""
    _check_spare(packed, per_row * bits, name)
    ranks = np.empty((packed.shape[0], per_row), dtype=np.uint64)
    step = max(1, _RUN // per_row)
    for first in range(0, packed.shape[0], step):
        block = packed[first : first + step]
        raw = np.unpackbits(block, axis=1, count=per_row * bits, bitorder="little").reshape(-1, bits)
        whole = np.zeros((raw.shape[0], 8), dtype=np.uint8)
        nbytes = -(-bits // 8)
        whole[:, :nbytes] = np.packbits(raw, axis=1, bitorder="little")
        ranks[first : first + step] = whole.view("<u8").reshape(len(block), per_row)
    return ranks


def _check_spare(packed: NDArray[np.uint8], bits: int, name: str) -> None:
    """Verify that every packed row is zero behind its first `bits` bits (FMT-072)."""
    used = bits % 8
    validate.check_spare(int(np.max(packed[:, -1] >> used, initial=0)) if used else 0, name)


def decode(entry: Entry, name: str, sections: Mapping[str, Array], rows: Rows) -> tuple[Mask, int]:
    """Return the support of some rows, and the slots before them; along the last axis it reads only their ranks."""
    from formats import loops

    pattern = entry.pattern
    assert pattern is not None
    packed, columns = sections["ranks"], entry.shape[-1]
    _, per_row = packed_shape(entry.shape, pattern)
    if pattern.axis != len(entry.shape) - 1:
        return cut(_whole(entry, name, packed, per_row, pattern), rows)
    first, last = rows
    some = packed[first:last]
    _check_spare(some, per_row * width(pattern), name)
    indices = np.empty((last - first, per_row, pattern.n), dtype=np.int32)
    table, limit = binomials(pattern.m, pattern.n), comb(pattern.m, pattern.n)
    offsets = _all_offsets(pattern.m, pattern.n) if limit <= _TABLE else np.empty((0, pattern.n), dtype=np.uint8)
    wrong = loops.by_rows(
        last - first,
        indices.size,
        lambda a, b: loops.unpack_ranks(
            some[a:b], table, offsets, pattern.m, width(pattern), limit, indices[a:b].reshape(-1, pattern.n)
        ),
    )
    validate.check_rank(max(wrong), limit, name)
    shape = entry.shape if last - first == packed.shape[0] else (last - first, columns)
    per_matrix_row = per_row * pattern.n
    indptr = np.arange(last - first + 1, dtype=np.int64) * per_matrix_row
    return Mask(shape, indptr, indices.reshape(-1)), first * per_matrix_row


def _whole(entry: Entry, name: str, packed: NDArray[np.uint8], per_row: int, pattern: Pattern) -> Mask:
    """Return the support of all rows of a tensor whose groups run across rows."""
    offsets = _checked_offsets(_unpack(packed, per_row, width(pattern), name), pattern, name)
    inner = prod(entry.shape[pattern.axis + 1 :])
    line, column = np.divmod(np.arange(offsets.shape[0], dtype=np.int64), inner)
    positions = (line[:, None] * pattern.m + offsets) * inner + column[:, None]
    return from_flat(entry.shape, np.sort(positions, axis=None))


def _checked_offsets(ranks: NDArray[np.uint64], pattern: Pattern, name: str) -> NDArray[np.uint8]:
    validate.check_rank(int(np.max(ranks, initial=0)), comb(pattern.m, pattern.n), name)
    return offsets_of(ranks.reshape(-1), pattern)


def parse(option: str, support: Supported, name: str) -> Pattern:
    """Return the pattern of an option `nm`, `nm:N:M` or `nm:N:M:AXIS`, after checking that the support keeps it.

    Raises:
        FormatError: FMT-051.
    """
    if option == "nm":
        best = find(support)
        if best is None:
            raise FormatError(
                "FMT-051", f"{name!r} keeps no n:m with m in {AUTO_M} along its last axis; name another, or use auto"
            )
        return best
    n, m, *axis = (int(x) for x in option.split(":")[1:])
    pattern = Pattern(n, m, axis[0] if axis else len(support.shape) - 1)
    validate.check_pattern(pattern, support.shape, support.nnz, name)
    if not keeps(support, pattern):
        raise FormatError("FMT-051", f"{name!r} does not store exactly {n} of every {m} along axis {pattern.axis}")
    return pattern


CODE = Code("nm", plan, size, encode, decode)
