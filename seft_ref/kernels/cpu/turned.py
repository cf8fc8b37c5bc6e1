# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""dx = dy W for several blocks of tokens: tiles of W are sorted by column, so that sums of dx stay in registers.

A tile is WIDTH rows of one panel (`panels`). It is sorted once and then multiplied with every block, as y = x Wᵀ is.
Without sorting, every entry costs a store for each register of a line of dx. Sorting a tile costs about half as much as
one block does.
"""

import math
from dataclasses import dataclass

import numpy as np

from seft_ref.arrays.library import Dtype, NumpyArray
from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.panels import LINE_VECTORS, WIDTH, from_lines, to_lines
from seft_ref.kernels.cpu.vectors import gather_row_8

FROM = 3
"""Whole blocks of tokens from which tiles of W are sorted, instead of adding to lines of dx."""
SHARE = 0.08
"""Share of stored positions from which they are."""
GROUP = 8
"""Most blocks of tokens that one sorted tile is multiplied with."""
BAND = 1024
"""Rows of W whose lines of dy are made at a time; eight blocks take 4 MiB, which fits the third-level cache."""
STARTS = 2 * WIDTH
"""Length of a worker's `starts`; twice what a tile needs, so that no two workers write to one line of a cache."""


def pays(n_blocks: int, nnz: int, shape: tuple[int, int]) -> bool:
    """Tell whether dx = dy W of n_blocks whole blocks of tokens is faster with sorted tiles."""
    return n_blocks >= FROM and nnz >= SHARE * shape[0] * shape[1] > 0


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
    n_lines = n_panels * WIDTH + BAND
    return Shares(n_groups, n_parts, -(-n_blocks // n_groups) * n_lines * LINE_VECTORS * lanes)


def tiles(workers: int, dtype: Dtype) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Return memory for the sorted tile of each worker: values, rows, and where columns start."""
    size = workers * WIDTH * WIDTH
    starts = np.empty(workers * STARTS, dtype=np.int64)
    return np.empty(size, dtype=dtype), np.empty(size, dtype=np.uint8), starts


@compiled()
def turn_tile(values, index, pointer, first, last, turned, rows, tile, starts, at):
    """Sort the entries of one tile by column: those of rows `first` to `last` of pointer, at most WIDTH of one panel.

    Their values go to `turned` and their rows, counted from the first, to `rows`, both from `tile` on. Column c owns
    entries starts[at + c] to starts[at + c + 1].
    """
    starts[at] = tile
    starts[at + 1] = tile
    for c in range(2, WIDTH + 2):
        starts[at + c] = 0
    for j in range(pointer[first], pointer[last]):
        # the count of column c goes to starts[c + 2]; the last column needs none
        if index[j] < WIDTH - 1:
            starts[at + index[j] + 2] += 1
    for c in range(2, WIDTH + 1):
        starts[at + c] += starts[at + c - 1]
    for r in range(first, last):
        for j in range(pointer[r], pointer[r + 1]):
            place = starts[at + index[j] + 1]
            turned[place] = values[j]
            rows[place] = r - first
            starts[at + index[j] + 1] = place + 1


@compiled()
def add_tile(turned, rows, starts, at, n_columns, n_blocks, work, dx_line, dy_line, width):
    """Add the products of a sorted tile with the lines of dy of each block of tokens to those of dx."""
    for b in range(n_blocks):
        for c in range(n_columns):
            start, stop = starts[at + c], starts[at + c + 1]
            if start < stop:
                dx = dx_line + (b * WIDTH + c) * width
                gather_row_8(turned, rows, start, stop, work, dy_line + b * BAND * width, work, dx)


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
    starts,
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
    tile, at = worker * WIDTH * WIDTH, worker * STARTS
    block = WIDTH * width
    dx_lines = worker * work_size
    dy_lines = dx_lines + (last_panel - first_panel) * n_here * block
    for i in range(dx_lines, dy_lines):
        work[i] = 0
    for band in range(0, n_out, BAND):
        bottom = min(band + BAND, n_out)
        for b in range(n_here):
            token, line = (first_block + b) * width, dy_lines + b * BAND * width
            to_lines(dy, n_out, token, width, band, bottom, work, line, width, lanes)
        for p in range(first_panel, last_panel):
            n_columns = min(WIDTH, n_in - p * WIDTH)
            for top in range(band, bottom, WIDTH):
                first, last = p * n_out + top, p * n_out + min(top + WIDTH, bottom)
                turn_tile(values, index, pointer, first, last, turned, rows, tile, starts, at)
                dx_line = dx_lines + (p - first_panel) * n_here * block
                dy_line = dy_lines + (top - band) * width
                add_tile(turned, rows, starts, at, n_columns, n_here, work, dx_line, dy_line, width)
    for p in range(first_panel, last_panel):
        first, last = p * WIDTH, min((p + 1) * WIDTH, n_in)
        for b in range(n_here):
            token, line = (first_block + b) * width, dx_lines + ((p - first_panel) * n_here + b) * block
            from_lines(work, line, width, dx, n_in, token, width, first, last, lanes)
