# mypy: allow-untyped-decorators, allow-untyped-calls
"""The innermost loops for matrices of codes (`coded`), which decode one row of a panel at a time.

    open_rows    values[base:]  =  weights of each row, in the order of its columns
    open_square  values[base + c]  =  weight of column c    for every stored c of each row
    dot_rows     y[:]  +=  weight of column c * x[c]      for every stored c of each row; lanes of the register y are
                                                          added later
    spread_row   x[c]  +=  weight of column c * y         for every stored c

A row has a mask of 64 bits, one for each column of the panel, and a code for each bit that is set. AVX512 spreads 64
codes over the lanes of their columns at once (`decode_spread`), BMI2 puts eight codes in their columns at once
(`decode_deposit`). On other processors a loop takes one bit after another (`decode_row`). Either way a weight is
(code - zero point) * scale, rounded once (QNT-002).

Codes are int8, one a byte, or uint8, two a byte with the first in the lower half. Zero points are int8; an array of
uint8 means that all are 0. The loops may read the byte at `at` together with the 63 bytes behind it. `open_rows` may
write 64 numbers, whatever the row stores; what follows the row is arbitrary.
"""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu import decode_deposit, decode_spread
from seft_ref.kernels.cpu.decode_row import LANES, PANEL, REGISTERS, Row
from seft_ref.kernels.cpu.emitter import compiled_for, count, i64, widen


def kind_of_row(context: Any) -> type[Row]:
    """Return the emitter for the processor that code is compiled for."""
    processor, features = compiled_for(context)
    if features >= decode_spread.FEATURES:
        return decode_spread.Spread
    if features >= decode_deposit.FEATURES and processor not in decode_deposit.SLOW:
        return decode_deposit.Deposit
    return Row


@intrinsic
def popcount(typing_context: Any, mask: Any) -> Any:
    """Return how many bits of a mask are set, int64."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return count(builder, args[0])

    return types.int64(types.int64), emit


@intrinsic
def two_a_byte(typing_context: Any, codes: Any) -> Any:
    """Return whether a byte of codes holds two of them; the compiler knows, so that a loop has no branch for it."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.boolean, not codes.dtype.signed)

    return types.boolean(codes), emit


def in_versions(builder: Any, begin: Any, emit: Callable[[int], None]) -> None:
    """Emit code for rows with one scale, with two and with four, and run that which `begin` asks for.

    begin  where the scales of each register of columns begin
    """

    def same(first: int, second: int) -> Any:
        return builder.icmp_signed("==", *(builder.extract_value(begin, k) for k in (first, second)))

    with builder.if_else(same(0, 3)) as (one, several):
        with one:
            emit(1)
        with several, builder.if_else(builder.and_(same(0, 1), same(2, 3))) as (two, four):
            with two:
                emit(2)
            with four:
                emit(4)


def scales_of(builder: Any, begin: Any, number: Any) -> list[Any]:
    """Return the index of the scale of each register of columns in the row with this number."""
    return [builder.add(builder.extract_value(begin, k), number) for k in range(REGISTERS)]


@intrinsic
def spread_row(
    typing_context: Any,
    codes: Any,
    at: Any,
    mask: Any,
    scales: Any,
    zeros: Any,
    lines: Any,
    r: Any,
    y: Any,
    y_at: Any,
    x: Any,
    x_base: Any,
) -> Any:
    """Add the products of the weights of row r with y[y_at] to the panel x.

    The codes of the row begin at byte `at`. `lines` is where the scales of each register of columns begin.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begin, number = args[5], widen(builder, args[6])
        kinds = [*signature.args[:5], *[types.int64] * REGISTERS, *signature.args[7:]]

        def version(n_scales: int) -> None:
            values = [*args[:5], *scales_of(builder, begin, number), *args[7:]]
            kind_of_row(context)(context, builder, kinds, values, n_scales).spread()

        in_versions(builder, begin, version)
        return context.get_dummy_value()

    return types.void(codes, at, mask, scales, zeros, lines, r, y, y_at, x, x_base), emit


def _over_rows(
    context: Any,
    builder: Any,
    signature: Any,
    args: Any,
    step: int,
    emit_row: Callable[[Row, list[Any]], None],
) -> Any:
    """Emit a loop over rows of a panel, and return the byte behind the last.

    args      those of `open_rows` and `dot_rows`; the last is an offset into the last array, and grows by `step` a row
    emit_row  takes a row and the registers of its panel
    """
    codes, at, masks, masks_at, scales, zeros, begin, first, last, *arrays, line = args
    declared = signature.args
    kinds = [declared[0], types.int64, types.int64, *declared[4:6], *[types.int64] * REGISTERS, *declared[9:]]
    behind = cgutils.alloca_once_value(builder, at)

    def version(n_scales: int) -> None:
        def row_of(r: Any, byte: Any, place: Any) -> Row:
            mask = builder.load(builder.gep(masks, [builder.add(masks_at, r)]))
            values = [codes, byte, mask, scales, zeros, *scales_of(builder, begin, r), *arrays, place]
            return kind_of_row(context)(context, builder, kinds, values, n_scales)

        def one(r: Any, carried: list[Any]) -> list[Any]:
            row = row_of(r, *carried)
            emit_row(row, panel)
            return [builder.add(carried[0], row.n_bytes()), builder.add(carried[1], i64(step))]

        before = row_of(first, at, line)
        panel = before.panel()
        _, (byte, _) = before.loop(first, last, 1, [at, line], one)
        builder.store(byte, behind)

    in_versions(builder, begin, version)
    return builder.load(behind)


@intrinsic
def open_rows(
    typing_context: Any,
    codes: Any,
    at: Any,
    masks: Any,
    masks_at: Any,
    scales: Any,
    zeros: Any,
    lines: Any,
    first: Any,
    last: Any,
    values: Any,
    values_at: Any,
) -> Any:
    """Write the weights of rows first to last of a panel, 64 places apart; return the byte behind the rows.

    The mask of row 0 is masks[masks_at], and the codes of row `first` begin at byte `at`.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _over_rows(context, builder, signature, args, PANEL, lambda row, _: row.write_weights())

    return types.int64(codes, at, masks, masks_at, scales, zeros, lines, first, last, values, values_at), emit


@intrinsic
def open_square(
    typing_context: Any,
    codes: Any,
    at: Any,
    masks: Any,
    masks_at: Any,
    scales: Any,
    zeros: Any,
    lines: Any,
    first: Any,
    last: Any,
    values: Any,
    values_at: Any,
) -> Any:
    """Write the weights of rows first to last at their columns, a row in 64 places; arguments as in `open_rows`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _over_rows(context, builder, signature, args, PANEL, lambda row, _: row.write_square())

    return types.int64(codes, at, masks, masks_at, scales, zeros, lines, first, last, values, values_at), emit


@intrinsic
def dot_rows(
    typing_context: Any,
    codes: Any,
    at: Any,
    masks: Any,
    masks_at: Any,
    scales: Any,
    zeros: Any,
    lines: Any,
    first: Any,
    last: Any,
    x: Any,
    x_base: Any,
    y: Any,
    y_base: Any,
) -> Any:
    """Add the products of rows with the panel x to their registers of sums; other arguments as in `open_rows`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _over_rows(context, builder, signature, args, LANES, lambda row, panel: row.dot(panel))

    return types.int64(codes, at, masks, masks_at, scales, zeros, lines, first, last, x, x_base, y, y_base), emit
