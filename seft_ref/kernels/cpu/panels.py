# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Compiled loops of the CPU kernel set: a sparse matrix in column panels, times blocks of tokens.

A panel is WIDTH = 64 columns wide. Its stored entries lie row by row: a value and one byte of index each.

    W (out, in)      panel 0     panel 1        values   panel 0: row 0, row 1, ... panel 1: row 0, row 1, ...
    row 0         [ a . . b ]   [ . . c . ]     index    column within the panel, uint8
    row 1         [ . . d . ]   [ . . . e ]     pointer  row r of panel p owns entries
                                                         pointer[p * out + r] to pointer[p * out + r + 1]

A block of tokens is 512 bytes of each column of x: 128 tokens of float32, 64 of float64. It is transposed into lines,
so that a line holds one column of consecutive tokens. The 64 lines of a panel take 32 KiB and stay in the first-level
cache while the rows of the matrix use them. Few tokens use shorter lines of 1, 2 or 4 registers, padded with zeros.

y = x Wᵀ sums a line of y in registers. dx = dy W adds every entry of W to a line of dx in that cache, or sorts tiles of
W if there are several blocks of tokens (`turned`).

No two threads write to the same entry of a result, and no order of summation depends on their number (KRN-008).

Tasks are C functions on pointers. One small parallel loop calls them by address, because numba compiles the body of a
parallel loop several times over. The last two parameters of every task are (task, worker). `work` is scratch memory of
work_size elements for each worker, aligned to 64 bytes. `lanes` is the number of elements in one 64-byte register.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, prange, types

from seft_ref.kernels.cpu.compiled import compiled, compiled_task
from seft_ref.kernels.cpu.vectors import (
    call,
    dot_row,
    gather_row_1,
    gather_row_2,
    gather_row_4,
    gather_row_8,
    gather_short_row_8,
    scatter_row_1,
    scatter_row_2,
    scatter_row_4,
    scatter_row_8,
    transpose,
)

WIDTH = 64
LINE_VECTORS = 8
ROW_BLOCK = 1024  # rows of y that a worker keeps as lines at a time; 512 KiB fit the second-level cache
SHORT = 10  # rows of panels with fewer entries on average are too short to take eight entries at a time
DY_ROWS = 256  # rows of dyᵀ that `sample` transposes into lines at a time
PACK_ROWS = 64  # rows that are packed or opened at a time
SAMPLE_VECTORS = 4  # registers of a line in `sample`; few, because lines of all columns of x have to fit a cache


def count_task(indptr, indices, pointer, n_out, task, worker):
    """Count the entries of PACK_ROWS rows by panel: those of row r in panel p go to pointer[p * n_out + r + 1]."""
    for r in range(task * PACK_ROWS, min((task + 1) * PACK_ROWS, n_out)):
        for slot in range(indptr[r], indptr[r + 1]):
            pointer[(indices[slot] // WIDTH) * n_out + r + 1] += 1


def fill_task(indptr, indices, values, pointer, index, ordered, slots, n_out, n_panels, task, worker):
    """Write the entries of PACK_ROWS rows to the panels, index (nnz,) and ordered (nnz,), in CSR order of a row.

    `slots` (out,) begins as the first slot of each row. Panels are the outer loop, because rows of one panel are
    neighbours in memory, and a processor follows only some tens of places at once.
    """
    for p in range(n_panels):
        for r in range(task * PACK_ROWS, min((task + 1) * PACK_ROWS, n_out)):
            first, last = pointer[p * n_out + r], pointer[p * n_out + r + 1]
            shift = slots[r] - first
            for entry in range(first, last):
                index[entry] = indices[entry + shift] - p * WIDTH
                ordered[entry] = values[entry + shift]
            slots[r] += last - first


def open_task(values, index, pointer, indices, opened, slots, n_out, n_panels, task, worker):
    """Write PACK_ROWS rows of the panels to indices (nnz,) and opened (nnz,), the inverse of `fill_task`."""
    for p in range(n_panels):
        for r in range(task * PACK_ROWS, min((task + 1) * PACK_ROWS, n_out)):
            first, last = pointer[p * n_out + r], pointer[p * n_out + r + 1]
            shift = slots[r] - first
            for entry in range(first, last):
                indices[entry + shift] = p * WIDTH + index[entry]
                opened[entry + shift] = values[entry]
            slots[r] += last - first


@compiled()
def find_places(indptr, indices, pointer, slots, row_of_slot, places):
    """Fill places (m,) with the entry in panels of each CSR slot (m,), of which row_of_slot names the row."""
    n_out = indptr.shape[0] - 1
    for i in range(slots.shape[0]):
        r = row_of_slot[i]
        p = indices[slots[i]] // WIDTH
        first = slots[i]
        while first > indptr[r] and indices[first - 1] >= p * WIDTH:
            first -= 1
        places[i] = pointer[p * n_out + r] + slots[i] - first


@compiled()
def to_lines(a, n_columns, first_token, n_tokens, first_column, last_column, lines, base, width, lanes):
    """Transpose a block of tokens into lines: lines[base + (c - first_column) * width + t] = a[first_token + t, c].

    Tokens from n_tokens to width become zero. The inner loop is over columns, so that rows of a are read in order.
    """
    t = 0
    while t < width:
        c = first_column
        while c < last_column:
            n_c = min(lanes, last_column - c)
            src = (first_token + t) * n_columns + c
            dst = base + (c - first_column) * width + t
            if n_c == lanes and t + lanes <= n_tokens:
                transpose(a, src, n_columns, lines, dst, width)
            else:
                for i in range(n_c):
                    for u in range(lanes):
                        lines[dst + i * width + u] = a[src + u * n_columns + i] if t + u < n_tokens else 0
            c += lanes
        t += lanes


@compiled()
def from_lines(lines, base, width, a, n_columns, first_token, n_tokens, first_column, last_column, lanes):
    """Transpose lines back into a block of tokens of a, leaving out padded tokens."""
    t = 0
    while t < n_tokens:
        n_t = min(lanes, n_tokens - t)
        c = first_column
        while c < last_column:
            n_c = min(lanes, last_column - c)
            src = base + (c - first_column) * width + t
            dst = (first_token + t) * n_columns + c
            if n_c == lanes and n_t == lanes:
                transpose(lines, src, width, a, dst, n_columns)
            else:
                for i in range(n_c):
                    for u in range(n_t):
                        a[dst + u * n_columns + i] = lines[src + i * width + u]
            c += lanes
        t += lanes


def parts(n: int, lanes: int, workers: int) -> tuple[int, int]:
    """Return the number of blocks of n tokens, and into how many parts each is cut for these workers.

    Blocks are cut into one part for every worker, unless whole blocks keep all workers busy.
    """
    n_blocks = -(-n // (LINE_VECTORS * lanes))
    return n_blocks, 1 if n_blocks % workers == 0 or n_blocks >= 8 * workers else workers


@compiled()
def vectors_for(n_tokens, lanes):
    """Return the number of registers of the shortest line that holds n_tokens: 1, 2, 4 or 8."""
    n_vectors = 1
    while n_vectors * lanes < n_tokens:
        n_vectors *= 2
    return n_vectors


def gather_task(values, index, pointer, n_out, n_in, x, y, n, n_parts, work, work_size, lanes, task, worker):
    """Compute y = x Wᵀ for one block of tokens and one of n_parts parts of the rows of W."""
    first_token = task // n_parts * LINE_VECTORS * lanes
    n_tokens = min(LINE_VECTORS * lanes, n - first_token)
    part = task % n_parts
    first_row, last_row = part * n_out // n_parts, (part + 1) * n_out // n_parts
    n_vectors = vectors_for(n_tokens, lanes)
    width = n_vectors * lanes
    n_panels = (n_in + WIDTH - 1) // WIDTH
    short = pointer[n_panels * n_out] < SHORT * n_panels * n_out
    x_lines = worker * work_size
    y_lines = x_lines + n_in * width
    to_lines(x, n_in, first_token, n_tokens, 0, n_in, work, x_lines, width, lanes)
    top = first_row
    while top < last_row:
        bottom = min(top + ROW_BLOCK, last_row)
        for i in range(y_lines, y_lines + (bottom - top) * width):
            work[i] = 0
        for p in range(n_panels):
            x_line = x_lines + p * WIDTH * width
            for r in range(top, bottom):
                start, stop = pointer[p * n_out + r], pointer[p * n_out + r + 1]
                y_line = y_lines + (r - top) * width
                if n_vectors == 8 and short:
                    gather_short_row_8(values, index, start, stop, work, x_line, work, y_line)
                elif n_vectors == 8:
                    gather_row_8(values, index, start, stop, work, x_line, work, y_line)
                elif n_vectors == 4:
                    gather_row_4(values, index, start, stop, work, x_line, work, y_line)
                elif n_vectors == 2:
                    gather_row_2(values, index, start, stop, work, x_line, work, y_line)
                else:
                    gather_row_1(values, index, start, stop, work, x_line, work, y_line)
        from_lines(work, y_lines, width, y, n_out, first_token, n_tokens, top, bottom, lanes)
        top = bottom


def scatter_task(values, index, pointer, n_out, n_in, dy, dx, n, n_parts, work, work_size, lanes, task, worker):
    """Compute dx = dy W for one block of tokens and one of n_parts parts of the panels of W."""
    first_token = task // n_parts * LINE_VECTORS * lanes
    n_tokens = min(LINE_VECTORS * lanes, n - first_token)
    part = task % n_parts
    n_panels = (n_in + WIDTH - 1) // WIDTH
    n_vectors = vectors_for(n_tokens, lanes)
    width = n_vectors * lanes
    dx_lines = worker * work_size
    dy_lines = dx_lines + WIDTH * width
    to_lines(dy, n_out, first_token, n_tokens, 0, n_out, work, dy_lines, width, lanes)
    for p in range(part * n_panels // n_parts, (part + 1) * n_panels // n_parts):
        for i in range(dx_lines, dy_lines):
            work[i] = 0
        for r in range(n_out):
            start, stop = pointer[p * n_out + r], pointer[p * n_out + r + 1]
            dy_line = dy_lines + r * width
            if n_vectors == 8:
                scatter_row_8(values, index, start, stop, work, dx_lines, work, dy_line)
            elif n_vectors == 4:
                scatter_row_4(values, index, start, stop, work, dx_lines, work, dy_line)
            elif n_vectors == 2:
                scatter_row_2(values, index, start, stop, work, dx_lines, work, dy_line)
            else:
                scatter_row_1(values, index, start, stop, work, dx_lines, work, dy_line)
        from_lines(
            work,
            dx_lines,
            width,
            dx,
            n_in,
            first_token,
            n_tokens,
            p * WIDTH,
            min((p + 1) * WIDTH, n_in),
            lanes,
        )


def turn_task(a, n_columns, first_token, n_tokens, n_parts, lines, lanes, task, worker):
    """Transpose n_tokens tokens of one of n_parts parts of the columns of a into lines for `sample_task`."""
    width = SAMPLE_VECTORS * lanes
    first, last = task * n_columns // n_parts, (task + 1) * n_columns // n_parts
    for b in range((n_tokens + width - 1) // width):
        to_lines(
            a,
            n_columns,
            first_token + b * width,
            min(width, n_tokens - b * width),
            first,
            last,
            lines,
            (b * n_columns + first) * width,
            width,
            lanes,
        )


def sample_task(
    dvalues,
    indptr,
    indices,
    row_of_part,
    n_parts,
    n_out,
    n_in,
    n_blocks,
    x_lines,
    dy_lines,
    lanes,
    task,
    worker,
):
    """Add dyᵀ x, summed over n_blocks blocks of lines, to dvalues at one of n_parts equal parts of the slots."""
    width = SAMPLE_VECTORS * lanes
    nnz = indptr[n_out]
    last_slot = (task + 1) * nnz // n_parts
    for b in range(n_blocks):
        r = row_of_part[task]
        slot = task * nnz // n_parts
        while slot < last_slot:
            while indptr[r + 1] <= slot:
                r += 1
            stop = min(indptr[r + 1], last_slot)
            dot_row(dvalues, indices, slot, stop, x_lines, b * n_in * width, dy_lines, (b * n_out + r) * width, 0)
            slot = stop


def sample_block_task(
    sums,
    indptr,
    indices,
    n_out,
    n_in,
    x,
    dy,
    first_token,
    n_tokens,
    work,
    work_size,
    lanes,
    task,
    worker,
):
    """Sum dyᵀ x over one block of tokens at all slots: task 0 adds to its nnz sums, every other task fills its own.

    The worker that makes the lines of a block also reads them, while they are in its cache.
    """
    width = SAMPLE_VECTORS * lanes
    first = first_token + task * width
    n = min(width, n_tokens - first)
    x_base, dy_base = worker * work_size, worker * work_size + n_in * width
    to_lines(x, n_in, first, n, 0, n_in, work, x_base, width, lanes)
    base = task * indptr[n_out]
    if task > 0:
        for slot in range(indptr[n_out]):
            sums[base + slot] = 0
    for first_row in range(0, n_out, DY_ROWS):
        last_row = min(first_row + DY_ROWS, n_out)
        to_lines(dy, n_out, first, n, first_row, last_row, work, dy_base, width, lanes)
        for r in range(first_row, last_row):
            line = dy_base + (r - first_row) * width
            dot_row(sums, indices, indptr[r], indptr[r + 1], work, x_base, work, line, base)


def add_task(sums, nnz, n_blocks, n_parts, task, worker):
    """Add the sums of blocks 1 to n_blocks - 1, in order, to those of block 0, at one of n_parts parts of slots."""
    for b in range(1, n_blocks):
        for slot in range(task * nnz // n_parts, (task + 1) * nnz // n_parts):
            sums[slot] += sums[b * nnz + slot]


@compiled(parallel=True)
def _run(address, arguments, n_tasks, n_workers):
    for worker in prange(n_workers):
        for task in range(worker, n_tasks, n_workers):
            call(address, arguments, task, worker)


@cache
def _address(task, kinds):
    signature = types.void(*(types.int64 if kind is int else types.CPointer(from_dtype(kind)) for kind in kinds))
    return compiled_task(signature)(task).address


def run(task: Any, arguments: tuple[Any, ...], n_tasks: int, n_workers: int) -> None:
    """Run tasks 0 to n_tasks - 1 on n_workers threads; worker t % n_workers runs task t.

    `arguments` are contiguous arrays and integers: all parameters of the task but the last two.
    """
    kinds = tuple(a.dtype if isinstance(a, np.ndarray) else int for a in arguments)
    _run(_address(task, (*kinds, int, int)), arguments, n_tasks, n_workers)


@compiled()
def take_rows(indptr, indices, first_row, last_row, tile, dvalues):
    """Copy the entries of tile (last_row - first_row, in) at the stored positions of these rows to dvalues (nnz,)."""
    for r in range(first_row, last_row):
        for slot in range(indptr[r], indptr[r + 1]):
            dvalues[slot] = tile[r - first_row, indices[slot]]
