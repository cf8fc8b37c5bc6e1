# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Compiled loops that pack and unpack a matrix of codes, and overwrite some of its codes (`coded` draws the layout)."""

from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.decode import popcount
from seft_ref.kernels.cpu.panels import WIDTH

ROWS = 64
"""Rows of a panel that share an entry of `starts`. It divides the sizes of the blocks of rows that products use, so
that each block begins at an entry."""
BATCH = 32
"""Rows of a panel that y = x Wᵀ decodes before it multiplies them. It divides ROWS."""


@compiled()
def fill_masks(indptr, indices, masks):
    """Set a bit for each stored position in masks (panels * out,), which must hold zeros."""
    n_out = indptr.shape[0] - 1
    for r in range(n_out):
        for slot in range(indptr[r], indptr[r + 1]):
            p = indices[slot] // WIDTH
            masks[p * n_out + r] |= 1 << (indices[slot] - p * WIDTH)


@compiled()
def fill_starts(masks, n_out, in_halves, starts):
    """Fill starts (panels * blocks + 1,) with the first byte of every block of rows; return the bytes of all codes."""
    n_blocks = (n_out + ROWS - 1) // ROWS
    at = 0
    for p in range(masks.shape[0] // max(n_out, 1)):
        for r in range(n_out):
            if r % ROWS == 0:
                starts[p * n_blocks + r // ROWS] = at
            at += n_bytes(popcount(masks[p * n_out + r]), in_halves)
    starts[starts.shape[0] - 1] = at
    return at


@compiled()
def fill_order(masks, n_out, order):
    """Fill order (panels * out,): each BATCH rows of a panel from the one with fewest columns to that with most."""
    for first_of_panel in range(0, masks.shape[0], max(n_out, 1)):
        for top in range(0, n_out, BATCH):
            first = first_of_panel + top
            for i in range(min(BATCH, n_out - top)):
                n, place = popcount(masks[first + i]), first + i
                while place > first and popcount(masks[first + order[place - 1]]) > n:
                    order[place] = order[place - 1]
                    place -= 1
                order[place] = i


@compiled()
def n_bytes(n, in_halves):
    """Return the bytes that n codes of a row take."""
    return (n + 1) // 2 if in_halves else n


@compiled()
def fill_codes(indptr, indices, values, masks, starts, in_halves, codes):
    """Pack values (nnz,), in slot order, into codes; unused half bytes keep their content."""
    n_out = indptr.shape[0] - 1
    n_blocks = (n_out + ROWS - 1) // ROWS
    following = starts[:-1:n_blocks].copy() if n_blocks else starts[:0].copy()  # the next free byte of each panel
    for r in range(n_out):
        slot = indptr[r]
        while slot < indptr[r + 1]:
            p = indices[slot] // WIDTH
            n = popcount(masks[p * n_out + r])
            for j in range(n):
                put(codes, following[p], j, values[slot + j], in_halves)
            following[p] += n_bytes(n, in_halves)
            slot += n


@compiled()
def put(codes, at, j, value, in_halves):
    """Write code j of the row that begins at byte `at`."""
    if not in_halves:
        codes[at + j] = value
    elif j % 2:
        codes[at + j // 2] = (codes[at + j // 2] & 15) | (value & 15) << 4
    else:
        codes[at + j // 2] = (codes[at + j // 2] & 240) | value & 15


@compiled()
def take(codes, at, j, in_halves):
    """Return code j of the row that begins at byte `at`."""
    if not in_halves:
        return codes[at + j]
    half = (codes[at + j // 2] >> (4 * (j % 2))) & 15
    return (half ^ 8) - 8


@compiled()
def open_codes(codes, masks, starts, n_in, in_halves, indptr, indices, opened):
    """Fill indptr (out + 1,), indices (nnz,) and opened (nnz,) with the CSR form of a matrix of codes."""
    n_out = indptr.shape[0] - 1
    n_blocks = (n_out + ROWS - 1) // ROWS
    following = starts[:-1:n_blocks].copy() if n_blocks else starts[:0].copy()
    slot = 0
    for r in range(n_out):
        indptr[r] = slot
        for p in range((n_in + WIDTH - 1) // WIDTH):
            remaining_bits = masks[p * n_out + r]
            j = 0
            while remaining_bits:
                # the lowest bit that is set, and the number of bits below it
                lowest = remaining_bits & -remaining_bits
                indices[slot] = p * WIDTH + popcount(lowest - 1)
                opened[slot] = take(codes, following[p], j, in_halves)
                slot += 1
                j += 1
                remaining_bits ^= lowest
            following[p] += n_bytes(j, in_halves)
    indptr[n_out] = slot


@compiled()
def row_start(masks, starts, n_out, p, r, in_halves):
    """Return the first byte of row r of panel p."""
    n_blocks = (n_out + ROWS - 1) // ROWS
    at = starts[p * n_blocks + r // ROWS]
    for before in range(r // ROWS * ROWS, r):
        at += n_bytes(popcount(masks[p * n_out + before]), in_halves)
    return at


@compiled()
def store_codes(codes, masks, starts, n_out, n_in, in_halves, positions, new):
    """Return whether all flat positions (m,) are stored; if they are, overwrite their codes by new (m,)."""
    for i in range(positions.shape[0]):
        r, c = positions[i] // n_in, positions[i] % n_in
        if not (masks[c // WIDTH * n_out + r] >> c % WIDTH) & 1:
            return False
    for i in range(positions.shape[0]):
        r, c = positions[i] // n_in, positions[i] % n_in
        p = c // WIDTH
        mask = masks[p * n_out + r]
        j = popcount(mask & ((1 << (c - p * WIDTH)) - 1))
        put(codes, row_start(masks, starts, n_out, p, r, in_halves), j, new[i], in_halves)
    return True
