"""Loops over supports, compiled by numba, because NumPy needs several passes and temporary arrays.

`plain.py` defines each of them in NumPy; the tests compare the two. numba caches compiled code on disk, so only the
first process after an installation waits for the compiler. Callers take the loops from `loops.py`.
"""

from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F")

_BYTES = np.arange(256, dtype=np.uint8)
# byte value -> how many of its bits are set
_COUNT = np.bitwise_count(_BYTES).astype(np.int64)
# byte value -> the numbers of its set bits, before those of the others
_COLUMNS = np.argsort(~np.unpackbits(_BYTES[:, None], axis=1, bitorder="little").astype(np.bool_), kind="stable")
_COLUMNS = _COLUMNS.astype(np.int32)


def _compiled(function: F) -> F:
    compiled: F
    try:
        compiled = numba.njit(cache=True, nogil=True, boundscheck=False)(function)
    except RuntimeError:
        # neither this folder nor a cache folder of the user can be written, so each process compiles anew
        compiled = numba.njit(nogil=True, boundscheck=False)(function)
    return compiled


@_compiled
def mask_rows(mask: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    """Write the number of set bits of each row of mask, (rows, bytes), into counts, (rows,).

    counts[:] = np.bitwise_count(mask).sum(axis=1)
    """
    for row in range(mask.shape[0]):
        total = 0
        for at in range(mask.shape[1]):
            total += _COUNT[mask[row, at]]
        counts[row] = total


@_compiled
def mask_columns(mask: NDArray[np.uint8], indices: NDArray[np.int32]) -> None:
    """Write the column of every set bit of mask, (rows, bytes), row by row, into indices, (set bits,).

    indices[:] = np.flatnonzero(np.unpackbits(mask, axis=1, bitorder="little")) % (8 * mask.shape[1])
    """
    # unsigned, because numba tests a signed index for negative values, which count from the end
    slot, size = np.uintp(0), np.uintp(indices.size)
    for row in range(mask.shape[0]):
        for at in range(mask.shape[1]):
            byte, first = mask[row, at], np.int32(8 * at)
            # Eight columns are stored at once, because that needs no branch: first those of the set bits, then others,
            # which the next byte overwrites. Where fewer slots are left, the set bits fill them.
            for k in range(min(np.uintp(8), size - slot)):
                indices[slot + np.uintp(k)] = first + _COLUMNS[byte, k]
            slot += np.uintp(_COUNT[byte])


@_compiled
def set_bits(indptr: NDArray[np.int64], indices: NDArray[np.int32], mask: NDArray[np.uint8]) -> None:
    """Write a 1 bit for every slot, and 0 elsewhere, into mask, (rows, bytes).

    present[row, indices[slot]] = True for each slot; mask[:] = np.packbits(present, axis=1, bitorder="little")
    """
    if not mask.size:  # because even without rows `present` could take 2^31 bytes
        return
    width = mask.shape[1]
    present = np.zeros(8 * width, dtype=np.uint8)
    eight = present.view(np.uint64)
    for row in range(mask.shape[0]):
        for slot in range(indptr[row], indptr[row + 1]):
            present[indices[slot]] = 1
        for at in range(width):
            # the highest byte of the product collects eight bytes of 0 or 1, the first of them as its lowest bit
            mask[row, at] = (eight[at] * np.uint64(0x0102040810204080)) >> np.uint64(56)
            eight[at] = np.uint64(0)


@_compiled
def _rises(columns: NDArray[Any], n_columns: int) -> bool:
    """Return whether columns strictly increases and stays within 0 to n_columns - 1."""
    if not columns.size:
        return True
    falls = 0
    for slot in range(1, columns.size):
        falls += columns[slot] <= columns[slot - 1]
    # strictly increasing columns are in range if the first and the last are
    return falls == 0 and columns[0] >= 0 and columns[columns.size - 1] < n_columns


@_compiled
def first_fault(indptr: NDArray[np.int64], columns: NDArray[Any], n_columns: int) -> tuple[int, int]:
    """Return kind and slot of the first fault in the columns of a support; indptr must be valid.

    Kind 1: the column is outside 0 to n_columns - 1. Kind 2: it does not exceed the column before it in its row.
    (0, 0): there is no fault.
    """
    for row in range(indptr.size - 1):
        if _rises(columns[indptr[row] : indptr[row + 1]], n_columns):
            continue
        before = np.int64(-1)
        for slot in range(indptr[row], indptr[row + 1]):
            column = np.int64(columns[slot])
            if column < 0 or column >= n_columns:
                return 1, slot
            if column <= before:
                return 2, slot
            before = column
    return 0, 0


@_compiled
def slots_of(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    n_columns: int,
    at: NDArray[np.int64],
    before: NDArray[np.int64],
    stored: NDArray[np.bool_],
) -> None:
    """Write for each flat position of at, (n,) ascending, how many slots lie before it, and whether it is stored.

    Shapes  before (n,); stored (n,)

    positions = np.repeat(n_columns * np.arange(rows), np.diff(indptr)) + indices
    before[:], stored[:] = np.searchsorted(positions, at), np.isin(at, positions)
    """
    for i in range(at.size):
        row, column = at[i] // n_columns, at[i] % n_columns
        low, high = indptr[row], indptr[row + 1]
        end = high
        while low < high:
            middle = (low + high) // 2
            if indices[middle] < column:
                low = middle + 1
            else:
                high = middle
        before[i] = low
        stored[i] = low < end and indices[low] == column


@_compiled
def scatter(indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[Any], dense: NDArray[Any]) -> None:
    """Write values, (nnz,), to their positions in dense, (rows, columns); both hold unsigned integers of one size.

    dense[np.repeat(np.arange(rows), np.diff(indptr)), indices] = values
    """
    for row in range(dense.shape[0]):
        for slot in range(indptr[row], indptr[row + 1]):
            dense[row, indices[slot]] = values[slot]


@_compiled
def gap_bytes(indptr: NDArray[np.int64], indices: NDArray[np.int32], n_columns: int) -> tuple[int, int]:
    """Return how many bytes the gaps of a support take in gap8 and in varint (FMT-054, FMT-055).

    gaps = np.diff(positions, prepend=-1) - 1; len(gaps) + (gaps // 255).sum(), and the 7-bit groups of all gaps
    """
    before, gap8, varint = np.int64(-1), 0, 0
    for row in range(indptr.size - 1):
        start = np.int64(row) * n_columns
        for slot in range(indptr[row], indptr[row + 1]):
            position = start + indices[slot]
            gap = position - before - 1
            before = position
            gap8 += 1 + gap // 255
            varint += 1
            while gap >= 128:
                gap >>= 7
                varint += 1
    return gap8, varint


@_compiled
def pack_varint(gaps: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
    """Write gaps in varint into packed, which has as many bytes as `gap_bytes` says (FMT-055)."""
    at = 0
    for gap in gaps:
        while gap >= 128:
            packed[at] = gap & 127 | 128
            gap >>= 7
            at += 1
        packed[at] = gap
        at += 1


@_compiled
def unequal(old: NDArray[Any], new: NDArray[Any], indices: NDArray[np.int64]) -> int:
    """Write the indices at which two arrays of one size differ into indices, (size,), and return how many there are."""
    count = np.uintp(0)
    for i in range(old.size):
        # each index is stored, and the next one overwrites it unless the two differ, because that needs no branch
        indices[count] = i
        count += np.uintp(old[i] != new[i])
    return int(count)


@_compiled
def keeps_pattern(indptr: NDArray[np.int64], indices: NDArray[np.int32], n: int, m: int, groups: int) -> bool:
    """Return whether each of the `groups` groups of m columns in every row has n slots; stop at the first exception.

    (indices.reshape(-1, n) // m == np.tile(np.arange(groups), rows)[:, None]).all()
    """
    for row in range(indptr.size - 1):
        slot = indptr[row]
        if indptr[row + 1] - slot != groups * n:
            return False
        for group in range(groups):
            if indices[slot] < group * m or indices[slot + n - 1] >= (group + 1) * m:
                return False
            slot += n
    return True


@_compiled
def pack_ranks(
    indices: NDArray[np.int32], table: NDArray[np.uint64], m: int, bits: int, packed: NDArray[np.uint8]
) -> None:
    """Write the ranks of groups along the last axis into packed, (rows, bytes), which must be all zero (FMT-052).

    Shapes  indices (groups, n), the columns of each group; table (m, n + 1), the binomials C(p, i)

    ranks = sum(table[indices[:, i - 1] % m, i]); np.packbits of their bits, the lowest first, row by row
    """
    rows = packed.shape[0]
    per_row = indices.shape[0] // rows
    for row in range(rows):
        at = 0
        for group in range(per_row):
            rank = np.uint64(0)
            for i in range(indices.shape[1]):
                rank += table[indices[row * per_row + group, i] - group * m, i + 1]
            bits_left = bits
            while bits_left > 0:
                room = 8 - (at & 7)
                packed[row, at >> 3] |= np.uint8((rank << np.uint64(at & 7)) & np.uint64(255))
                rank >>= np.uint64(room)
                at += min(room, bits_left)
                bits_left -= room


@_compiled
def _rank_at(packed: NDArray[np.uint8], row: int, at: int, bits: int) -> Any:
    """Return the rank, `bits` wide, that begins at bit `at` of a packed row."""
    rank, done = np.uint64(0), 0
    while done < bits:
        rank |= np.uint64(packed[row, at >> 3] >> (at & 7)) << np.uint64(done)
        done += 8 - (at & 7)
        at += 8 - (at & 7)
    return rank & ((np.uint64(1) << np.uint64(bits)) - np.uint64(1))


@_compiled
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

    If a rank is not below limit, stop there and return that rank. The inverse of `pack_ranks`: for i from n down to 1,
    offset i is the largest p with C(p, i) <= rank, and C(p, i) is then subtracted from rank.

    Shapes  offsets (limit, n), those of every rank, or (0, n) if such a table would be too large
    """
    rows, n = packed.shape[0], indices.shape[1]
    per_row = indices.shape[0] // rows if rows else 0
    for row in range(rows):
        for group in range(per_row):
            rank = _rank_at(packed, row, group * bits, bits)
            if rank >= np.uint64(limit):
                return int(rank)
            slot = row * per_row + group
            if offsets.shape[0]:
                for i in range(n):
                    indices[slot, i] = group * m + offsets[rank, i]
                continue
            p = m - 1
            for i in range(n, 0, -1):
                while table[p, i] > rank:
                    p -= 1
                rank -= table[p, i]
                indices[slot, i - 1] = group * m + p
                p -= 1
    return -1


@_compiled
def count_stored(values: NDArray[Any], counted: Any) -> int:
    """Return how many values, unsigned integers (n,), share a set bit with counted, a scalar of their dtype.

    np.count_nonzero(values & counted)
    """
    total = 0
    for at in range(values.size):
        total += (values[at] & counted) != 0
    return total


@_compiled
def gather(
    dense: NDArray[Any], counted: Any, indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[Any]
) -> None:
    """Write row pointers, columns and values of the entries of dense, (rows, columns), that `count_stored` counts.

    Shapes  indptr (rows + 1,); indices and values (counted entries + 1,), the last one is scratch

    rows, indices[:-1] = np.nonzero(dense & counted); values[:-1] = dense[dense & counted != 0]
    """
    slot = 0
    indptr[0] = 0
    for row in range(dense.shape[0]):
        for column in range(dense.shape[1]):
            # every entry is stored, and slot advances only past those that count, because that needs no branch
            value = dense[row, column]
            indices[slot] = column
            values[slot] = value
            slot += (value & counted) != 0
        indptr[row + 1] = slot
