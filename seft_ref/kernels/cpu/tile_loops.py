# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Compiled loops of products in bfloat16 on tile registers (AMX), where weights are opened into dense tiles.

The instruction TDPBF16PS computes C (16, 16) += A (16, 32) B (32, 16). A and B have bfloat16 entries, C float32 ones.
Both products have tokens in the rows of A and C:

    y = x Wᵀ      A = x     B = Wᵀ: an entry (r, c) of W is at row c and column r
    dx = dy W     A = dy    B = W:  an entry (r, c) of W is at row r and column c

    for groups of GROUP tokens, for DEPTH rows of B at a time:
        round the tokens to bfloat16, into tiles of A
        for blocks of WIDTH columns of C:
            round the weights to bfloat16, into tiles of B; a place without a weight is 0
            for 32 tokens and 32 columns at a time: four tiles of C, two of A, two of B

A tile of A or B is 1 KiB, in one piece. Line i of a tile of B has B[2 i, j] and B[2 i + 1, j] for j = 0 to 15, because
the instruction multiplies pairs. A thread owns columns of C, and adds to them in an order that only sizes determine
(KRN-008).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.emitter import I64, REGISTER_BYTES, Emitter, i64
from seft_ref.kernels.cpu.panels import WIDTH
from seft_ref.kernels.cpu.tile_rows import STEP, TILE, bfloat16_of, open_columns, open_rows

GROUP = 256
"""Most tokens whose tiles a worker holds at a time."""
DEPTH = 2048
"""Most rows of B that a worker opens at a time, a multiple of WIDTH.

Its tiles of A then take 1 MiB, those of B 256 KiB."""
BLOCK = 32 * 32
"""Elements of four tiles of C: 32 tokens and 32 columns."""
AT_ONCE = 16
"""Steps for which tiles of B, 32 KiB, stay in the first-level cache while all tokens of a group use them."""
A_SIZE, B_SIZE, C_SIZE = GROUP * DEPTH, WIDTH * DEPTH, GROUP * WIDTH
WORK = A_SIZE + B_SIZE + 16 * WIDTH
"""Elements of a worker's scratch: tiles of A, tiles of B, and 16 rows of a panel."""

SHAPES = np.zeros(64, dtype=np.uint8)
"""What LDTILECFG reads: eight tiles of 16 lines, 64 bytes each."""
SHAPES[0], SHAPES[16:32:2], SHAPES[48:56] = 1, 64, 16


def _emit(builder: Any, name: str, *args: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [a.type for a in args])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), list(args))


def _tile(number: int) -> Any:
    return ir.Constant(ir.IntType(8), number)


@intrinsic
def configure(typing_context: Any, shapes: Any) -> Any:
    """Give this thread eight tile registers; `shapes` are the 64 bytes that LDTILECFG reads."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _emit(builder, "ldtilecfg", builder.bitcast(args[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(shapes), emit


@intrinsic
def release(typing_context: Any) -> Any:
    """Take the tile registers from this thread, so that the system need not save and restore them any more."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _emit(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def multiply(typing_context: Any, a: Any, a_at: Any, b: Any, b_at: Any, c: Any, c_at: Any, steps: Any, add: Any) -> Any:
    """C (32, 32) = A B, or C += A B if `add`, over `steps` times 32 rows of B."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 1)
        a_, a_at_, b_, b_at_, c_, c_at_, steps_, add_ = e.args
        byte = ir.IntType(8).as_pointer()
        a_, b_, c_ = (builder.bitcast(builder.gep(p, [at]), byte) for p, at in ((a_, a_at_), (b_, b_at_), (c_, c_at_)))
        stride = i64(2 * REGISTER_BYTES)
        corners = [
            (2 * i + j, builder.gep(c_, [i64(16 * i * 2 * REGISTER_BYTES + j * REGISTER_BYTES)]))
            for i in range(2)
            for j in range(2)
        ]
        with builder.if_else(builder.icmp_signed("!=", add_, i64(0))) as (more, first):
            with more:
                for tile, corner in corners:
                    _emit(builder, "tileloadd64", _tile(tile), corner, stride)
            with first:
                for tile, _ in corners:
                    _emit(builder, "tilezero", _tile(tile))
        with cgutils.for_range(builder, steps_, intp=I64) as loop:
            at = builder.mul(loop.index, i64(2 * STEP))
            for i in range(2):
                for number, tiles in ((4, a_), (6, b_)):
                    tile = builder.gep(tiles, [builder.add(at, i64(i * 2 * TILE))])
                    _emit(builder, "tileloadd64", _tile(number + i), tile, i64(REGISTER_BYTES))
            for i in range(2):
                for j in range(2):
                    _emit(builder, "tdpbf16ps", _tile(2 * i + j), _tile(4 + i), _tile(6 + j))
        for tile, corner in corners:
            _emit(builder, "tilestored64", _tile(tile), corner, stride)
        return context.get_dummy_value()

    return types.void(a, a_at, b, b_at, c, c_at, steps, add), emit


@compiled()
def round_tokens(src, n_columns, first_token, n_tokens, first_column, last_column, a, a_at):
    """Fill a with the tiles of these tokens and columns of src (n, n_columns), padded with zeros to 32 of each."""
    n_steps = (last_column - first_column + 31) // 32
    for t in range((n_tokens + 31) // 32 * 32):
        base = a_at + (t // 32) * n_steps * STEP + (t % 32) * 32
        for step in range(n_steps):
            at = base + step * STEP
            column = first_column + step * 32
            n = min(32, last_column - column) if t < n_tokens else 0
            first = (first_token + t) * n_columns + column
            if n == 32:
                for i in range(32):
                    a[at + i] = bfloat16_of(src[first + i])
            else:
                for i in range(32):
                    a[at + i] = bfloat16_of(src[first + i]) if i < n else 0


@compiled()
def _put_block(c, c_at, n_tokens, n_columns, add, result, at, width):
    """Write a block of C, or add it, to n_tokens rows and n_columns columns of result, from element `at` on."""
    for t in range(n_tokens):
        row = c_at + t // 32 * BLOCK + t % 32 * 32
        for column in range(0, n_columns, 32):
            src = row + column // 32 * GROUP * 32
            dst = at + t * width + column
            for i in range(min(32, n_columns - column)):
                result[dst + i] = result[dst + i] + c[src + i] if add else c[src + i]


def tiles_task(
    values,
    scales,
    zeros,
    size,
    n_groups,
    masks,
    pointer,
    dense,
    n_out,
    n_in,
    of_rows,
    shapes,
    src,
    n,
    n_parts,
    work,
    words,
    c,
    result,
    task,
    worker,
):
    """Compute y = x Wᵀ if of_rows, else dx = dy W, at one of n_parts equal shares of the blocks of result's columns.

    values, scales, zeros, size, n_groups, masks, pointer, dense  the matrix, as `tiles` describes it
    work   scratch, as 16-bit numbers: WORK elements for each worker
    words  the same memory as 32-bit numbers
    c      scratch: C_SIZE elements for each worker
    """
    matrix = (values, scales, zeros, size, n_groups, masks, pointer, dense, n_out, n_in)
    depth, width = (n_in, n_out) if of_rows else (n_out, n_in)
    n_blocks = (width + WIDTH - 1) // WIDTH
    a_at, c_at = worker * WORK, worker * C_SIZE
    b_at = a_at + A_SIZE
    configure(shapes)
    for first_token in range(0, n, GROUP):
        n_tokens = min(GROUP, n - first_token)
        for first in range(0, max(depth, 1), DEPTH):
            last = min(first + DEPTH, depth)
            n_steps = (last - first + 31) // 32
            round_tokens(src, depth, first_token, n_tokens, first, last, work, a_at)
            for block in range(task * n_blocks // n_parts, (task + 1) * n_blocks // n_parts):
                column = block * WIDTH
                end = min(column + WIDTH, width)
                if of_rows:
                    open_rows(matrix, column, end, first, last, work, words, b_at, b_at + B_SIZE)
                else:
                    open_columns(matrix, first, last, block, work, b_at)
                for half in range((end - column + 31) // 32):
                    for step in range(0, max(n_steps, 1), AT_ONCE):
                        b = b_at + (half * n_steps + step) * STEP
                        for t in range((n_tokens + 31) // 32):
                            a = a_at + (t * n_steps + step) * STEP
                            square = c_at + half * GROUP * 32 + t * BLOCK
                            multiply(work, a, work, b, c, square, min(AT_ONCE, n_steps - step), step)
                _put_block(c, c_at, n_tokens, end - column, first, result, first_token * width + column, width)
    release()
