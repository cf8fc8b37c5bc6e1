# mypy: allow-untyped-decorators, allow-untyped-calls
"""The innermost loops for matrices of codes (`coded`), which decode one row of a panel at a time.

    open_weights values[base:]  =  weights of the row, in the order of its columns
    open_row     the same, and index[base:]  =  their columns within the panel
    dot_row      y[:]  +=  weight of column c * x[c]      for every stored c; lanes of the register y are added later
    spread_row   x[c]  +=  weight of column c * y         for every stored c

A row has a mask of 64 bits, one for each column of the panel, and a code for each bit that is set. AVX512 spreads 64
codes over the lanes of their columns at once (`decode_spread`), BMI2 puts eight codes in their columns at once
(`decode_deposit`). On other processors a loop takes one bit after another (`decode_row`). Either way a weight is
(code - zero point) * scale, rounded once (QNT-002).

Codes are int8, one a byte, or uint8, two a byte with the first in the lower half. Zero points are int8; an array of
uint8 means that all are 0. The loops may read the byte at `at` together with the 63 bytes behind it. `open_weights` and
`open_row` may write 64 numbers and 64 columns, whatever the row stores; what follows the row is arbitrary.
"""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from seft_ref.kernels.cpu import decode_deposit, decode_spread
from seft_ref.kernels.cpu.decode_row import REGISTERS, Row
from seft_ref.kernels.cpu.emitter import compiled_for, count, widen


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


def _in_versions(emit_row: Callable[[Row], None]) -> Any:
    """Return what emits a method of `Row` in three versions: for rows with one scale, with two, and with four."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begin, number = args[5], widen(builder, args[6])
        scale_at = [builder.add(builder.extract_value(begin, k), number) for k in range(REGISTERS)]
        kinds = [*signature.args[:5], *[types.int64] * REGISTERS, *signature.args[7:]]
        values = [*args[:5], *scale_at, *args[7:]]

        def version(n_scales: int) -> None:
            emit_row(kind_of_row(context)(context, builder, kinds, values, n_scales))

        def same(*registers: int) -> Any:
            return builder.icmp_signed("==", *(scale_at[k] for k in registers))

        with builder.if_else(same(0, 3)) as (one, several):
            with one:
                version(1)
            with several, builder.if_else(builder.and_(same(0, 1), same(2, 3))) as (two, four):
                with two:
                    version(2)
                with four:
                    version(4)
        return context.get_dummy_value()

    return emit


def _of_row(emit_row: Callable[[Row], None]) -> Any:
    """Return an intrinsic of a method of `Row`.

    It takes codes, the first byte of the row, its mask, scales, zero points, where the scales of each register of
    columns begin, the number of the row, and two arrays with an offset each.
    """

    @intrinsic
    def row(
        typing_context: Any,
        codes: Any,
        at: Any,
        mask: Any,
        scales: Any,
        zeros: Any,
        lines: Any,
        r: Any,
        first: Any,
        first_at: Any,
        second: Any,
        second_at: Any,
    ) -> Any:
        arguments = (codes, at, mask, scales, zeros, lines, r, first, first_at, second, second_at)
        return types.void(*arguments), _in_versions(emit_row)

    return row


@intrinsic
def open_weights(
    typing_context: Any,
    codes: Any,
    at: Any,
    mask: Any,
    scales: Any,
    zeros: Any,
    lines: Any,
    r: Any,
    values: Any,
    values_at: Any,
) -> Any:
    """Write the weights of a row as `open_row` does, without the columns."""
    arguments = (codes, at, mask, scales, zeros, lines, r, values, values_at)
    return types.void(*arguments), _in_versions(lambda row: row.write_weights())


def _open_row(row: Row) -> None:
    row.write_columns()
    row.write_weights()


open_row = _of_row(_open_row)
dot_row = _of_row(lambda row: row.dot())
spread_row = _of_row(lambda row: row.spread())
