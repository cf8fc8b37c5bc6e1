# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""dx = dy W for several blocks of tokens: tiles of W are sorted by column, so that sums of dx stay in registers.

A tile is WIDTH rows of one panel (`panels`). It is sorted once and then multiplied with every block, as y = x Wᵀ is.
Without sorting, every entry costs a store for each register of a line of dx. Sorting a tile costs about as much as one
block does.
"""

import math
from dataclasses import dataclass

import numpy as np

from seft_ref.arrays.library import Dtype, NumpyArray
from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.panels import LINE_VECTORS, WIDTH, from_lines, to_lines
from seft_ref.kernels.cpu.vectors import gather_row_8

FROM = 2
"""Fewest whole blocks of tokens for which sorting tiles of W can be faster than adding to lines of dx."""
SHARE = 0.08
"""Least share of stored positions for which sorting can be faster."""
WORK = 0.4
"""Least product of blocks of tokens and share of stored positions: a sort has to serve enough multiplications."""
GROUP = 8
"""Most blocks of tokens that one sorted tile is multiplied with."""
LINES = 1024
"""Most lines of dy, over all blocks of a group, that a worker makes at a time: 512 KiB, which fit the second-level
cache. It must be at least GROUP * WIDTH."""
ENDS = 2 * WIDTH
"""Length of a worker's `ends`: twice what a tile needs, so that no two workers write to the same cache line."""


def pays(n_blocks: int, nnz: int, shape: tuple[int, int]) -> bool:
    """Return whether dx = dy W of n_blocks whole blocks of tokens is faster with sorted tiles."""
    share = nnz / max(1, shape[0] * shape[1])
    return n_blocks >= FROM and share >= SHARE and share * n_blocks >= WORK


@dataclass(frozen=True, slots=True)
class Shares:
    """How a product is cut into tasks."""

    n_groups: int
    """groups of whole blocks of tokens"""
    n_parts: int
    """parts of the panels"""
    work_size: int
    """elements of a worker's scratch"""


def shares(n_blocks: int, n_in: int, lanes: int, workers: int) -> Shares:
    """Return how a product with n_blocks whole blocks of tokens is cut into tasks for these workers."""
    n_groups = -(-n_blocks // GROUP)
    n_parts = 1 if n_groups % workers == 0 or n_groups >= 8 * workers else workers
    n_panels = math.ceil(math.ceil(n_in / WIDTH) / n_parts)
    most = -(-n_blocks // n_groups)
    return Shares(n_groups, n_parts, (most * n_panels * WIDTH + LINES) * LINE_VECTORS * lanes)


@compiled()
def rows_of_band(n_blocks):
    """Return how many rows of W, a multiple of WIDTH, have at most LINES lines of dy over n_blocks blocks of tokens."""
    return LINES // n_blocks // WIDTH * WIDTH


def tiles(workers: int, dtype: Dtype) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Return memory for the sorted tile of each worker: values, rows, and where columns end."""
    size = workers * WIDTH * WIDTH
    ends = np.empty(workers * ENDS, dtype=np.int64)
    return np.empty(size, dtype=dtype), np.empty(size, dtype=np.uint8), ends


@compiled()
def turn_tile(values, index, pointer, first, last, turned, rows, tile, ends, at):
    """Sort the entries of one tile by column: those of rows `first` to `last` of pointer, at most WIDTH of one panel.

    Their values go to `turned` and their rows, counted from the first, to `rows`. Column c owns entries
    tile + c * WIDTH to ends[at + c]. A row has a column at most once (TOP-002), so WIDTH entries are room enough, and
    no pass has to count entries first.
    """
    for c in range(WIDTH):
        ends[at + c] = tile + c * WIDTH
    for r in range(first, last):
        for j in range(pointer[r], pointer[r + 1]):
            place = ends[at + index[j]]
            turned[place] = values[j]
            rows[place] = r - first
            ends[at + index[j]] = place + 1


@compiled()
def add_tile(turned, rows, tile, ends, at, n_columns, n_blocks, work, dx_line, dy_line, band_rows, width):
    """Multiply a sorted tile with the lines of dy of each block of tokens, and add the products to the lines of dx."""
    for b in range(n_blocks):
        for c in range(n_columns):
            start, stop = tile + c * WIDTH, ends[at + c]
            if start < stop:
                dx = dx_line + (b * WIDTH + c) * width
                gather_row_8(turned, rows, start, stop, work, dy_line + b * band_rows * width, work, dx)


def turned_task(
    values,
    index,
    pointer,
    n_out,
    n_in,
    dy,
    dx,
    n_blocks,
    n_groups,
    n_parts,
    work,
    work_size,
    turned,
    rows,
    ends,
    lanes,
    task,
    worker,
):
    """Compute dx = dy W for one of n_groups groups of whole blocks of tokens and one of n_parts parts of the panels.

    Lines of dy are made for one band of rows at a time, so that they stay in a cache while all panels pass over them.
    """
    width = LINE_VECTORS * lanes
    group, part = task // n_parts, task % n_parts
    first_block = group * n_blocks // n_groups
    n_here = (group + 1) * n_blocks // n_groups - first_block
    n_panels = (n_in + WIDTH - 1) // WIDTH
    first_panel, last_panel = part * n_panels // n_parts, (part + 1) * n_panels // n_parts
    tile, at = worker * WIDTH * WIDTH, worker * ENDS
    block = WIDTH * width
    dx_lines = worker * work_size
    dy_lines = dx_lines + (last_panel - first_panel) * n_here * block
    for i in range(dx_lines, dy_lines):
        work[i] = 0
    band_rows = rows_of_band(n_here)
    for band in range(0, n_out, band_rows):
        bottom = min(band + band_rows, n_out)
        for b in range(n_here):
            token, line = (first_block + b) * width, dy_lines + b * band_rows * width
            to_lines(dy, n_out, token, width, band, bottom, work, line, width, lanes)
        for p in range(first_panel, last_panel):
            n_columns = min(WIDTH, n_in - p * WIDTH)
            for top in range(band, bottom, WIDTH):
                first, last = p * n_out + top, p * n_out + min(top + WIDTH, bottom)
                turn_tile(values, index, pointer, first, last, turned, rows, tile, ends, at)
                dx_line = dx_lines + (p - first_panel) * n_here * block
                dy_line = dy_lines + (top - band) * width
                add_tile(turned, rows, tile, ends, at, n_columns, n_here, work, dx_line, dy_line, band_rows, width)
    for p in range(first_panel, last_panel):
        first, last = p * WIDTH, min((p + 1) * WIDTH, n_in)
        for b in range(n_here):
            token, line = (first_block + b) * width, dx_lines + ((p - first_panel) * n_here + b) * block
            from_lines(work, line, width, dx, n_in, token, width, first, last, lanes)
