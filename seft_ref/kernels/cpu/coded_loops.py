# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Compiled loops of products with matrices of codes (`coded` draws the layout).

Panels, lines and blocks of tokens are those of `panels`. Tasks of several tokens decode rows of a panel and add their
products in the order of the loops for matrices of floats, so that the sums have the same bits. Masks let them do more:

    y = x Wᵀ     takes rows in the order of how many columns they store, two at once, so that the processor guesses
                 right where a loop over columns ends
    dx = dy W    turns the masks of 64 rows into those of 64 columns, so that a line of dx stays in registers
                 (`columns`)

Tasks of one token decode a row in registers: all 64 columns, stored or not, where the processor spreads a row over
them.
"""

from seft_ref.kernels.cpu.coded_rows import BATCH, ROWS, n_bytes
from seft_ref.kernels.cpu.columns import add_column_8, add_sum_8, turn_masks
from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.decode import dot_rows, open_rows, open_square, popcount, spread_row, two_a_byte
from seft_ref.kernels.cpu.panels import (
    LINE_VECTORS,
    ROW_BLOCK,
    SHORT,
    WIDTH,
    from_lines,
    to_lines,
    vectors_for,
)
from seft_ref.kernels.cpu.token import TOKEN_ROWS, lay_out_token, sum_register
from seft_ref.kernels.cpu.turned import rows_of_band
from seft_ref.kernels.cpu.vectors import (
    gather_pair_8,
    gather_row_1,
    gather_row_2,
    gather_row_4,
    gather_row_8,
    gather_short_row_8,
    has_32_registers,
    scatter_row_1,
    scatter_row_2,
    scatter_row_4,
    scatter_row_8,
)

AT_ONCE = 16
"""Rows that `scatter_task` decodes before it multiplies them, because the processor can overlap their decoding."""
SCRATCH = BATCH * WIDTH + 128
"""Elements of a worker's scratch for decoded rows: more than BATCH rows need, so that no two workers share a cache
line."""
OPENED = WIDTH * WIDTH + SCRATCH
"""Elements of a worker's scratch for the rows of one tile."""
COLUMNS_FROM = 5
"""Fewest columns that a row of a panel stores on average for which sums of dx are faster in registers."""
MASKS = 2 * WIDTH + 8
"""Elements of a worker's scratch for the masks of the rows and columns of one tile, and a cache line."""


@compiled()
def scale_lines(p, size, n_groups, n_out):
    """Return where the scales of each of the four registers of columns of panel p begin; each row has one there."""
    first = p * WIDTH
    last = (n_groups - 1) * n_out
    return (
        min(first // size * n_out, last),
        min((first + 16) // size * n_out, last),
        min((first + 32) // size * n_out, last),
        min((first + 48) // size * n_out, last),
    )


def gather_task(
    codes,
    masks,
    starts,
    scales,
    zeros,
    size,
    n_groups,
    n_out,
    n_in,
    x,
    y,
    n,
    n_parts,
    order,
    values,
    work,
    work_size,
    lanes,
    task,
    worker,
):
    """Compute y = x Wᵀ for one block of tokens and one of n_parts parts of the rows of W, as in `panels`."""
    first_token = task // n_parts * LINE_VECTORS * lanes
    n_tokens = min(LINE_VECTORS * lanes, n - first_token)
    part = task % n_parts
    n_blocks = (n_out + ROWS - 1) // ROWS
    first_row, last_row = part * n_blocks // n_parts * ROWS, min((part + 1) * n_blocks // n_parts * ROWS, n_out)
    n_vectors = vectors_for(n_tokens, lanes)
    width = n_vectors * lanes
    n_panels = (n_in + WIDTH - 1) // WIDTH
    short_rows = starts[n_panels * n_blocks] < n_bytes(SHORT * n_panels * n_out, two_a_byte(codes))
    in_pairs = n_vectors == 8 and has_32_registers()
    x_lines, base = worker * work_size, worker * SCRATCH
    y_lines = x_lines + n_in * width
    to_lines(x, n_in, first_token, n_tokens, 0, n_in, work, x_lines, width, lanes)
    top = first_row
    while top < last_row:
        bottom = min(top + ROW_BLOCK, last_row)
        for i in range(y_lines, y_lines + (bottom - top) * width):
            work[i] = 0
        for p in range(n_panels):
            x_line = x_lines + p * WIDTH * width
            lines = scale_lines(p, size, n_groups, n_out)
            at = starts[p * n_blocks + top // ROWS]
            for first in range(top, bottom, BATCH):
                last = min(first + BATCH, bottom)
                at = open_rows(codes, at, masks, p * n_out, scales, zeros, lines, first, last, values, base)
                mask_at, y_line = p * n_out + first, y_lines + (first - top) * width
                k = mask_at
                while in_pairs and k + 1 < p * n_out + last:
                    short, long = order[k], order[k + 1]
                    short_mask, long_mask = masks[mask_at + short], masks[mask_at + long]
                    short_start, long_start = base + short * WIDTH, base + long * WIDTH
                    short_y, long_y = y_line + short * width, y_line + long * width
                    gather_pair_8(
                        values, short_mask, short_start, long_mask, long_start, work, x_line, work, short_y, long_y
                    )
                    k += 2
                while k < p * n_out + last:
                    r = order[k]
                    start, mask, y_row = base + r * WIDTH, masks[mask_at + r], y_line + r * width
                    stop = start + popcount(mask)
                    if n_vectors == 8 and short_rows:
                        gather_short_row_8(values, mask, start, stop, work, x_line, work, y_row)
                    elif n_vectors == 8:
                        gather_row_8(values, mask, start, stop, work, x_line, work, y_row)
                    elif n_vectors == 4:
                        gather_row_4(values, mask, start, stop, work, x_line, work, y_row)
                    elif n_vectors == 2:
                        gather_row_2(values, mask, start, stop, work, x_line, work, y_row)
                    else:
                        gather_row_1(values, mask, start, stop, work, x_line, work, y_row)
                    k += 1
        from_lines(work, y_lines, width, y, n_out, first_token, n_tokens, top, bottom, lanes)
        top = bottom


@compiled()
def turn_rows(masks, first, n_rows, squares, of_rows, of_columns):
    """Write the masks of 64 columns from those of n_rows rows of a panel, at most 64; of_rows is scratch."""
    for r in range(WIDTH):
        squares[of_rows + r] = masks[first + r] if r < n_rows else 0
    turn_masks(squares, of_rows, squares, of_columns)


def scatter_task(
    codes,
    masks,
    starts,
    scales,
    zeros,
    size,
    n_groups,
    n_out,
    n_in,
    dy,
    dx,
    n,
    n_parts,
    values,
    squares,
    work,
    work_size,
    lanes,
    task,
    worker,
):
    """Compute dx = dy W for one block of tokens and one of n_parts parts of the panels of W, as in `panels`."""
    first_token = task // n_parts * LINE_VECTORS * lanes
    n_tokens = min(LINE_VECTORS * lanes, n - first_token)
    part = task % n_parts
    n_panels = (n_in + WIDTH - 1) // WIDTH
    n_blocks = (n_out + ROWS - 1) // ROWS
    n_vectors = vectors_for(n_tokens, lanes)
    width = n_vectors * lanes
    dx_lines, base = worker * work_size, worker * OPENED
    of_rows, of_columns = worker * MASKS, worker * MASKS + WIDTH
    dy_lines = dx_lines + WIDTH * width
    least = n_bytes(COLUMNS_FROM * n_panels * n_out, two_a_byte(codes))
    in_columns = n_vectors == 8 and starts[n_panels * n_blocks] >= least
    to_lines(dy, n_out, first_token, n_tokens, 0, n_out, work, dy_lines, width, lanes)
    for p in range(part * n_panels // n_parts, (part + 1) * n_panels // n_parts):
        for i in range(dx_lines, dy_lines):
            work[i] = 0
        lines = scale_lines(p, size, n_groups, n_out)
        at = starts[p * n_blocks]
        if in_columns:
            for first in range(0, n_out, WIDTH):
                last = min(first + WIDTH, n_out)
                at = open_square(codes, at, masks, p * n_out, scales, zeros, lines, first, last, values, base)
                turn_rows(masks, p * n_out + first, last - first, squares, of_rows, of_columns)
                dy_line = dy_lines + first * width
                for c in range(WIDTH):
                    rows, dx_line = squares[of_columns + c], dx_lines + c * width
                    if rows:
                        add_column_8(values, base + c, rows, work, dy_line, work, dx_line)
        else:
            for first in range(0, n_out, AT_ONCE):
                last = min(first + AT_ONCE, n_out)
                at = open_rows(codes, at, masks, p * n_out, scales, zeros, lines, first, last, values, base)
                for r in range(first, last):
                    start = base + (r - first) * WIDTH
                    mask = masks[p * n_out + r]
                    stop = start + popcount(mask)
                    dy_line = dy_lines + r * width
                    if n_vectors == 8:
                        scatter_row_8(values, mask, start, stop, work, dx_lines, work, dy_line)
                    elif n_vectors == 4:
                        scatter_row_4(values, mask, start, stop, work, dx_lines, work, dy_line)
                    elif n_vectors == 2:
                        scatter_row_2(values, mask, start, stop, work, dx_lines, work, dy_line)
                    else:
                        scatter_row_1(values, mask, start, stop, work, dx_lines, work, dy_line)
        first, last = p * WIDTH, min((p + 1) * WIDTH, n_in)
        from_lines(work, dx_lines, width, dx, n_in, first_token, n_tokens, first, last, lanes)


def token_task(
    codes,
    masks,
    starts,
    scales,
    zeros,
    size,
    n_groups,
    n_out,
    n_in,
    x,
    y,
    n_parts,
    work,
    work_size,
    lanes,
    task,
    worker,
):
    """Compute y = x Wᵀ for one token and one of n_parts parts of the rows of W."""
    n_blocks = (n_out + ROWS - 1) // ROWS
    first_row, last_row = task * n_blocks // n_parts * ROWS, min((task + 1) * n_blocks // n_parts * ROWS, n_out)
    n_panels = (n_in + WIDTH - 1) // WIDTH
    x_line = worker * work_size
    y_lines = x_line + n_panels * WIDTH
    lay_out_token(x, n_in, n_panels * WIDTH, work, x_line)
    top = first_row
    while top < last_row:
        bottom = min(top + TOKEN_ROWS, last_row)
        for i in range(y_lines, y_lines + (bottom - top) * lanes):
            work[i] = 0
        for p in range(n_panels):
            lines = scale_lines(p, size, n_groups, n_out)
            at = starts[p * n_blocks + top // ROWS]
            x_panel = x_line + p * WIDTH
            dot_rows(codes, at, masks, p * n_out, scales, zeros, lines, top, bottom, work, x_panel, work, y_lines)
        for r in range(top, bottom):
            y[r] = sum_register(work, y_lines + (r - top) * lanes)
        top = bottom


def token_back_task(
    codes,
    masks,
    starts,
    scales,
    zeros,
    size,
    n_groups,
    n_out,
    n_in,
    dy,
    dx,
    n_parts,
    work,
    work_size,
    task,
    worker,
):
    """Compute dx = dy W for one token and one of n_parts parts of the panels of W."""
    n_panels = (n_in + WIDTH - 1) // WIDTH
    n_blocks = (n_out + ROWS - 1) // ROWS
    line = worker * work_size
    for p in range(task * n_panels // n_parts, (task + 1) * n_panels // n_parts):
        for i in range(line, line + WIDTH):
            work[i] = 0
        lines = scale_lines(p, size, n_groups, n_out)
        at = starts[p * n_blocks]
        for r in range(n_out):
            mask = masks[p * n_out + r]
            spread_row(codes, at, mask, scales, zeros, lines, r, dy, r, work, line)
            at += n_bytes(popcount(mask), two_a_byte(codes))
        for c in range(p * WIDTH, min((p + 1) * WIDTH, n_in)):
            dx[c] = work[line + c - p * WIDTH]


def turned_task(
    codes,
    masks,
    starts,
    scales,
    zeros,
    size,
    n_groups,
    n_out,
    n_in,
    dy,
    dx,
    n_blocks,
    n_groups_of_blocks,
    n_parts,
    values,
    squares,
    work,
    work_size,
    lanes,
    task,
    worker,
):
    """Compute dx = dy W for a group of whole blocks of tokens and a part of the panels, as in `turned`."""
    width = LINE_VECTORS * lanes
    group, part = task // n_parts, task % n_parts
    first_block = group * n_blocks // n_groups_of_blocks
    n_here = (group + 1) * n_blocks // n_groups_of_blocks - first_block
    n_panels = (n_in + WIDTH - 1) // WIDTH
    first_panel, last_panel = part * n_panels // n_parts, (part + 1) * n_panels // n_parts
    base, of_rows, of_columns = worker * OPENED, worker * MASKS, worker * MASKS + WIDTH
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
            lines = scale_lines(p, size, n_groups, n_out)
            at = starts[p * ((n_out + ROWS - 1) // ROWS) + band // ROWS]
            for first in range(band, bottom, WIDTH):
                last = min(first + WIDTH, bottom)
                at = open_square(codes, at, masks, p * n_out, scales, zeros, lines, first, last, values, base)
                turn_rows(masks, p * n_out + first, last - first, squares, of_rows, of_columns)
                for b in range(n_here):
                    dx_line = dx_lines + ((p - first_panel) * n_here + b) * block
                    dy_line = dy_lines + (b * band_rows + first - band) * width
                    for c in range(n_columns):
                        rows = squares[of_columns + c]
                        if rows:
                            add_sum_8(values, base + c, rows, work, dy_line, work, dx_line + c * width)
    for p in range(first_panel, last_panel):
        first, last = p * WIDTH, min((p + 1) * WIDTH, n_in)
        for b in range(n_here):
            token, line = (first_block + b) * width, dx_lines + ((p - first_panel) * n_here + b) * block
            from_lines(work, line, width, dx, n_in, token, width, first, last, lanes)
