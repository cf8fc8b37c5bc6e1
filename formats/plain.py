"""Loops over supports in NumPy: they define the compiled loops of `fast.py`, and replace them if numba is missing.

Arguments and results are those of the function of the same name in `fast.py`. Each loop works on blocks of rows, so
that temporary arrays take a few MB, or a few bytes per column if a single row is longer than a block.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RUN = 1 << 20
"""Number of positions or slots in a block of rows."""


def _runs(rows: int, a_row: int) -> Iterator[slice]:
    """Yield runs of rows that hold about _RUN entries each; a row has a_row entries."""
    step = max(1, _RUN // max(a_row, 1))
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def _runs_of_slots(indptr: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of runs of rows that have about _RUN slots each; a longer row is a run of its own."""
    first, rows = 0, indptr.size - 1
    while first < rows:
        last = int(np.searchsorted(indptr, indptr[first] + _RUN, side="right")) - 1
        last = min(max(last, first + 1), rows)
        yield first, last
        first = last


def mask_rows(mask: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    """Write the number of set bits of each row of mask, (rows, bytes), into counts, (rows,)."""
    for run in _runs(*mask.shape):
        counts[run] = np.bitwise_count(mask[run]).sum(axis=1, dtype=np.int64)


def mask_columns(mask: NDArray[np.uint8], indices: NDArray[np.int32]) -> None:
    """Write the column of every set bit of mask, (rows, bytes), row by row, into indices, (set bits,)."""
    slot = 0
    for run in _runs(mask.shape[0], 8 * mask.shape[1]):
        columns = np.nonzero(np.unpackbits(mask[run], axis=1, bitorder="little").view(np.bool_))[1]
        indices[slot : slot + columns.size] = columns
        slot += columns.size


def set_bits(indptr: NDArray[np.int64], indices: NDArray[np.int32], mask: NDArray[np.uint8]) -> None:
    """Write a 1 bit for every slot, and 0 elsewhere, into mask, (rows, bytes)."""
    if not mask.size:  # because even without rows `present` could take 2^31 bytes
        return
    for run in _runs(mask.shape[0], 8 * mask.shape[1]):
        present = np.zeros((run.stop - run.start, 8 * mask.shape[1]), dtype=np.bool_)
        rows = np.repeat(np.arange(len(present)), np.diff(indptr[run.start : run.stop + 1]))
        present[rows, indices[indptr[run.start] : indptr[run.stop]]] = True
        mask[run] = np.packbits(present, axis=1, bitorder="little")


def first_fault(indptr: NDArray[np.int64], columns: NDArray[Any], n_columns: int) -> tuple[int, int]:
    """Return kind and slot of the first fault in the columns of a support; indptr must be valid."""
    for first, last in _runs_of_slots(indptr):
        begin, end = int(indptr[first]), int(indptr[last])
        some = columns[begin:end]
        outside = (some < 0) | (some >= n_columns)
        stands = np.zeros(end - begin, dtype=np.bool_)
        stands[1:] = some[1:] <= some[:-1]
        starts = indptr[first:last] - begin
        stands[starts[starts < end - begin]] = False  # the first column of a row may be below the column before it
        wrong = outside | stands
        if wrong.any():
            slot = int(np.argmax(wrong))
            return (1 if outside[slot] else 2), begin + slot
    return 0, 0


def slots_of(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    n_columns: int,
    at: NDArray[np.int64],
    before: NDArray[np.int64],
    stored: NDArray[np.bool_],
) -> None:
    """Write for each flat position of at, (n,) ascending, how many slots lie before it, and whether it is stored."""
    for first, last in _runs_of_slots(indptr):
        low, high = np.searchsorted(at, (first * n_columns, last * n_columns))
        begin, end = int(indptr[first]), int(indptr[last])
        rows = np.repeat(np.arange(first, last, dtype=np.int64), np.diff(indptr[first : last + 1]))
        own = rows * n_columns + indices[begin:end]
        places = np.searchsorted(own, at[low:high])
        before[low:high] = begin + places
        stored[low:high] = np.append(own, -1)[places] == at[low:high]


def scatter(indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[Any], dense: NDArray[Any]) -> None:
    """Write values, (nnz,), to their positions in dense, (rows, columns); both hold unsigned integers of one size."""
    for first, last in _runs_of_slots(indptr):
        rows = np.repeat(np.arange(first, last), np.diff(indptr[first : last + 1]))
        slots = slice(indptr[first], indptr[last])
        dense[rows, indices[slots]] = values[slots]


def gap_bytes(indptr: NDArray[np.int64], indices: NDArray[np.int32], n_columns: int) -> tuple[int, int]:
    """Return how many bytes the gaps of a support take in gap8 and in varint (FMT-054, FMT-055)."""
    before, gap8, varint = -1, 0, 0
    for first, last in _runs_of_slots(indptr):
        rows = np.repeat(np.arange(first, last, dtype=np.int64), np.diff(indptr[first : last + 1]))
        positions = rows * n_columns + indices[indptr[first] : indptr[last]]
        gaps = np.diff(positions, prepend=before) - 1
        before = int(positions[-1]) if positions.size else before
        gap8 += gaps.size + int((gaps // 255).sum())
        while gaps.size:
            varint += gaps.size
            gaps = gaps[gaps >= 128] >> 7
    return gap8, varint


def pack_varint(gaps: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
    """Write gaps in varint into packed, which has as many bytes as `gap_bytes` says (FMT-055)."""
    lengths, longest = np.ones(gaps.size, dtype=np.int64), int(np.max(gaps)) if gaps.size else 0
    for bit in range(7, longest.bit_length(), 7):
        lengths += gaps >> bit > 0
    # the gaps that have bits left to write, shifted by the bits that are written, and the place of their next byte
    left, at = gaps, np.cumsum(lengths) - lengths
    while left.size:
        more = left > 0x7F
        packed[at] = (left & 0x7F) | (more * 0x80)
        left, at = left[more] >> 7, at[more] + 1


def unequal(old: NDArray[Any], new: NDArray[Any], indices: NDArray[np.int64]) -> int:
    """Write the indices at which two arrays of one size differ into indices, (size,), and return how many there are."""
    different = np.flatnonzero(old != new)
    indices[: different.size] = different
    return different.size


def keeps_pattern(indptr: NDArray[np.int64], indices: NDArray[np.int32], n: int, m: int, groups: int) -> bool:
    """Return whether each of the `groups` groups of m columns in every row has n slots."""
    if (np.diff(indptr) != groups * n).any():
        return False
    for run in _runs(indptr.size - 1, groups * n):
        slots = indices[indptr[run.start] : indptr[run.stop]].reshape(-1, groups, n)
        if (slots // m != np.arange(groups)[:, None]).any():
            return False
    return True


def pack_ranks(
    indices: NDArray[np.int32], table: NDArray[np.uint64], m: int, bits: int, packed: NDArray[np.uint8]
) -> None:
    """Write the ranks of groups along the last axis into packed, (rows, bytes), which must be all zero (FMT-052)."""
    rows = packed.shape[0]
    groups = indices.reshape(rows, -1, indices.shape[1])
    for run in _runs(rows, groups.shape[1] * bits):
        ranks = sum(
            (table[groups[run, :, i] % m, i + 1] for i in range(indices.shape[1])),
            np.zeros((run.stop - run.start, groups.shape[1]), dtype=np.uint64),
        )
        apart = (ranks[:, :, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
        rows_of_bits = apart.astype(np.bool_).reshape(len(ranks), groups.shape[1] * bits)
        packed[run] = np.packbits(rows_of_bits, axis=1, bitorder="little")


def unpack_ranks(
    packed: NDArray[np.uint8],
    table: NDArray[np.uint64],
    offsets: NDArray[np.uint8],
    m: int,
    bits: int,
    limit: int,
    indices: NDArray[np.int32],
) -> int:
    """Write the columns of groups along the last axis into indices, (groups, n), and return -1.

    If a rank is not below limit, stop there and return that rank.
    """
    rows, n = packed.shape[0], indices.shape[1]
    if not indices.size:
        return -1
    groups = indices.reshape(rows, -1, n)
    per_row = groups.shape[1]
    for run in _runs(rows, per_row * bits):
        apart = np.unpackbits(packed[run], axis=1, bitorder="little")[:, : per_row * bits]
        apart = apart.reshape(len(apart), per_row, bits).astype(np.uint64)
        remainders = (apart << np.arange(bits, dtype=np.uint64)).sum(axis=2, dtype=np.uint64)
        if (remainders >= limit).any():
            return int(remainders.reshape(-1)[np.argmax(remainders.reshape(-1) >= limit)])
        starts = np.arange(per_row, dtype=np.int64) * m
        if offsets.shape[0]:
            groups[run] = starts[:, None] + offsets[remainders]
            continue
        for i in range(n, 0, -1):
            p = np.searchsorted(table[:, i], remainders, side="right") - 1
            remainders = remainders - table[p, i]
            groups[run, :, i - 1] = starts + p
    return -1


def count_stored(values: NDArray[Any], counted: Any) -> int:
    """Return how many values, unsigned integers (n,), share a set bit with counted, a scalar of their dtype."""
    return sum(int(np.count_nonzero(values[run] & counted)) for run in _runs(values.size, 1))


def gather(
    dense: NDArray[Any], counted: Any, indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[Any]
) -> None:
    """Write row pointers, columns and values of the entries of dense, (rows, columns), that `count_stored` counts."""
    indptr[0] = 0
    for run in _runs(*dense.shape):
        present = dense[run] & counted != 0
        begin = int(indptr[run.start])
        indptr[run.start + 1 : run.stop + 1] = begin + np.cumsum(present.sum(axis=1))
        end = int(indptr[run.stop])
        indices[begin:end] = np.nonzero(present)[1]
        values[begin:end] = dense[run][present]
