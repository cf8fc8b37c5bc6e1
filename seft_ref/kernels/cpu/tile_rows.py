# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Opens rows of W into tiles of B, as bfloat16 numbers (`tile_loops` says what B is).

A row of a panel has 64 columns, a mask of those that are stored, and its entries from element `at` of an array on:
floats, the bits of bfloat16 numbers, or codes as in `decode`. A column without an entry is 0. Entries are rounded to
bfloat16; those of codes are rounded to float32 first, so that they give the bits of their float32 weights (QNT-002).

Scales, zero points, and where the scales of a panel begin belong to codes; for floats they are arbitrary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu.coded_loops import scale_lines
from seft_ref.kernels.cpu.coded_rows import n_bytes
from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.decode import in_versions, popcount, scales_of
from seft_ref.kernels.cpu.decode_row import REGISTERS
from seft_ref.kernels.cpu.decode_spread import Spread
from seft_ref.kernels.cpu.emitter import BFLOAT16, I64, count, i64
from seft_ref.kernels.cpu.panels import WIDTH
from seft_ref.kernels.cpu.vectors import transpose

TILE = 512
"""Elements of a tile of A or B."""
STEP = 2 * TILE
"""Elements of two tiles: 32 rows of B and 32 of its columns, or 32 tokens and 32 rows of B."""


def _rounded(builder: Any, numbers: Any) -> Any:
    """Return the bits of 16 float32 numbers rounded to bfloat16, ties to even; 16 bits are returned as they are.

    Numbers below 2⁻¹²⁶ in magnitude become 0 (KRN-019.2).
    """
    halves = ir.VectorType(ir.IntType(16), 16)
    if numbers.type == halves:
        return numbers
    kind = ir.FunctionType(halves, [numbers.type])
    convert = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.cvtneps2bf16.512")
    return builder.call(convert, [numbers])


@intrinsic
def bfloat16_of(typing_context: Any, number: Any) -> Any:
    """Return the bits of a float32 number rounded to bfloat16, ties to even; loops with it are vectorised."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.IntType(32)
        bits = builder.bitcast(args[0], whole)
        last = builder.and_(builder.lshr(bits, ir.Constant(whole, 16)), ir.Constant(whole, 1))
        rounded = builder.add(bits, builder.add(last, ir.Constant(whole, 0x7FFF)))
        # rounding would carry the fraction of a NaN into its sign
        quiet = builder.or_(bits, ir.Constant(whole, 1 << 22))
        kept = builder.select(builder.fcmp_unordered("uno", args[0], args[0]), quiet, rounded)
        return builder.trunc(builder.lshr(kept, ir.Constant(whole, 16)), ir.IntType(16))

    return BFLOAT16(number), emit


def _spread(builder: Any, values: Any, at: Any, mask: Any) -> list[Any]:
    """Return four vectors with the 64 columns of a row of floats, or of the bits of bfloat16 numbers."""
    entry = values.type.pointee
    vector, chosen = ir.VectorType(entry, 16), ir.VectorType(ir.IntType(1), 16)
    kind = ir.FunctionType(vector, [values.type, chosen, vector])
    name = f"llvm.masked.expandload.v16{'f32' if entry == ir.FloatType() else 'i16'}"
    expand = cgutils.get_or_insert_function(builder.module, kind, name)
    quarters = []
    for _ in range(4):
        low = builder.trunc(mask, ir.IntType(16))
        begin = builder.gep(values, [at])
        quarters.append(builder.call(expand, [begin, builder.bitcast(low, chosen), ir.Constant(vector, None)]))
        at, mask = builder.add(at, builder.zext(count(builder, low), I64)), builder.lshr(mask, i64(16))
    return quarters


def _with_columns(
    context: Any,
    builder: Any,
    kinds: Sequence[Any],
    matrix: Sequence[Any],
    rows: Sequence[Sequence[Any]],
    write: Callable[[list[list[Any]]], None],
) -> None:
    """Call `write` with the columns of several rows of a panel: for each row four vectors of 16, as bfloat16.

    kinds   numba's types of `matrix`
    matrix  entries, scales, zero points, where the scales of each register of columns begin
    rows    for each row the place of its first entry, its mask and its number
    """
    values, scales, zeros, lines = matrix
    if not _are_codes(kinds[0]):
        write([[_rounded(builder, q) for q in _spread(builder, values, at, mask)] for at, mask, _ in rows])
        return
    of_values, of_scales, of_zeros, _ = kinds
    # `Row` computes in the dtype of its last array
    of_row = [of_values, types.int64, types.uint64, of_scales, of_zeros, *[types.int64] * REGISTERS, of_scales]

    def version(n_scales: int) -> None:
        several = []
        for at, mask, r in rows:
            arguments = [values, at, mask, scales, zeros, *scales_of(builder, lines, r), scales]
            # every processor with AMX spreads codes by masks
            row = Spread(context, builder, of_row, arguments, n_scales)
            several.append([_rounded(builder, weights) for weights in row.registers()])
        write(several)

    in_versions(builder, lines, version)


def _are_codes(values: Any) -> bool:
    """Return whether entries of numba's type `values` are codes: int8 one a byte, uint8 two a byte."""
    return values.dtype in (types.int8, types.uint8)


def _put(builder: Any, vector: Any, out: Any, at: Any) -> None:
    """Write numbers of 16 bits from element `at` on."""
    pointer = builder.bitcast(builder.gep(out, [at]), vector.type.as_pointer())
    builder.store(vector, pointer, align=2)


@intrinsic
def open_row(
    typing_context: Any,
    values: Any,
    scales: Any,
    zeros: Any,
    lines: Any,
    at: Any,
    mask: Any,
    r: Any,
    out: Any,
    out_at: Any,
) -> Any:
    """Write the 64 columns of a row to out, from element out_at on."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *_, out_, out_at_ = args

        def write(rows: list[list[Any]]) -> None:
            for k, columns in enumerate(rows[0]):
                _put(builder, columns, out_, builder.add(out_at_, i64(16 * k)))

        _with_columns(context, builder, signature.args[:4], args[:4], [args[4:7]], write)
        return context.get_dummy_value()

    return types.void(values, scales, zeros, lines, at, mask, r, out, out_at), emit


@intrinsic
def open_pair(
    typing_context: Any,
    values: Any,
    scales: Any,
    zeros: Any,
    lines: Any,
    at: Any,
    mask: Any,
    r: Any,
    at_next: Any,
    mask_next: Any,
    r_next: Any,
    b: Any,
    b_at: Any,
    half: Any,
) -> Any:
    """Write one line of four tiles of B: 64 columns of two rows of W side by side.

    half  elements between the tiles of columns 0 to 31 and those of columns 32 to 63
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *_, b_, b_at_, half_ = args
        lanes = [lane for column in range(16) for lane in (column, 16 + column)]
        in_turn = ir.Constant(ir.VectorType(ir.IntType(32), 32), lanes)

        def write(rows: list[list[Any]]) -> None:
            for k, (row, after) in enumerate(zip(*rows, strict=True)):
                place = builder.add(builder.mul(half_, i64(k // 2)), i64(TILE * (k % 2)))
                _put(builder, builder.shuffle_vector(row, after, in_turn), b_, builder.add(b_at_, place))

        _with_columns(context, builder, signature.args[:4], args[:4], [args[4:7], args[7:10]], write)
        return context.get_dummy_value()

    arguments = (values, scales, zeros, lines, at, mask, r, at_next, mask_next, r_next, b, b_at, half)
    return types.void(*arguments), emit


@compiled()
def fill_pointer(masks, in_halves, pointer):
    """Fill pointer (rows,) with the first byte of each row of a matrix of codes."""
    at = 0
    for i in range(masks.shape[0]):
        pointer[i] = at
        at += n_bytes(popcount(masks[i]), in_halves)


@compiled()
def _find_row(masks, pointer, dense, n_out, n_in, panel, r, n_rows):
    """Return the first entry of a row of a panel, its mask and its number; from row n_rows on, an empty row."""
    if r >= n_rows:
        return np.int64(0), np.uint64(0), np.int64(0)
    if dense:
        n_columns = min(WIDTH, n_in - panel * WIDTH)
        return np.int64(r * n_in + panel * WIDTH), ~np.uint64(0) >> np.uint64(WIDTH - n_columns), np.int64(r)
    return np.int64(pointer[panel * n_out + r]), masks[panel * n_out + r], np.int64(r)


@compiled()
def open_rows(matrix, first_row, last_row, first_column, last_column, work, words, b_at, square):
    """Fill tiles of B with entries (r, c) of W at column r and row c; first_column is a multiple of WIDTH.

    matrix       the first ten arguments of `tiles_task`
    work, words  the worker's scratch, as 16-bit and as 32-bit numbers
    square       where 16 rows of a panel have room in `work`
    """
    values, scales, zeros, size, n_groups, masks, pointer, dense, n_out, n_in = matrix
    n_steps = (last_column - first_column + 31) // 32
    for panel in range(first_column // WIDTH, (last_column + WIDTH - 1) // WIDTH):
        step = (panel * WIDTH - first_column) // 32
        lines = scale_lines(panel, size, n_groups, n_out)
        for first in range(first_row, last_row, 16):
            for i in range(16):
                at, mask, r = _find_row(masks, pointer, dense, n_out, n_in, panel, first + i, last_row)
                open_row(values, scales, zeros, lines, at, mask, r, work, square + i * WIDTH)
            j = first - first_row
            tile = b_at + (j // 32 * n_steps + step) * STEP + j % 32 // 16 * TILE
            transpose(words, square // 2, WIDTH // 2, words, tile // 2, 16)
            if step + 1 < n_steps:
                transpose(words, square // 2 + 16, WIDTH // 2, words, (tile + STEP) // 2, 16)


@compiled()
def open_columns(matrix, first_row, last_row, panel, work, b_at):
    """Fill tiles of B with entries (r, c) of W at row r and column c: these rows of one panel; matrix as above."""
    values, scales, zeros, size, n_groups, masks, pointer, dense, n_out, n_in = matrix
    n_steps = (last_row - first_row + 31) // 32
    lines = scale_lines(panel, size, n_groups, n_out)
    for k in range(0, 32 * n_steps, 2):
        at, mask, r = _find_row(masks, pointer, dense, n_out, n_in, panel, first_row + k, last_row)
        after, mask_after, r_after = _find_row(masks, pointer, dense, n_out, n_in, panel, first_row + k + 1, last_row)
        line = b_at + k // 32 * STEP + k % 32 // 2 * 32
        half = n_steps * STEP
        open_pair(values, scales, zeros, lines, at, mask, r, after, mask_after, r_after, work, line, half)
