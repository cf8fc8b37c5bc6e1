# mypy: allow-untyped-decorators, allow-untyped-calls
"""The innermost loops of dx = dy W for a square of W: 64 rows of one panel, which has 64 columns.

    turn_masks     columns[c]  =  a bit for each row that stores column c
    add_column_8   dx[c, :]  +=  square[r, c] * dy[r, :]             for every row r that stores column c, in order
    add_sum_8      dx[c, :]  +=  sum over r of square[r, c] * dy[r, :]

The last two take column c of a square at square[first], whose rows are 64 places apart, and the rows as bits. A line of
dx stays in registers while the rows of its column are added to it, so that only the last sum is stored. Lines are those
of `vectors`, with eight registers. `add_column_8` gives the bits that `scatter_row_8` gives for one row after another,
and `add_sum_8` those that `gather_row_8` gives for the column.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from seft_ref.kernels.cpu.decode_row import I8, PANEL
from seft_ref.kernels.cpu.emitter import I64, Emitter, count, i64, lowest

VECTORS = 8
AT_ONCE = 8
"""Rows that one round of a loop adds."""


@intrinsic
def turn_masks(typing_context: Any, masks: Any, first: Any, columns: Any, columns_at: Any) -> Any:
    """Write 64 masks of columns, from the masks of 64 rows of which masks[first] is the first."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 1)
        masks_, first_, columns_, columns_at_ = e.args
        n = PANEL // 8
        vector = ir.VectorType(I8, PANEL)
        registers = []
        for k in range(n):
            row = builder.gep(masks_, [builder.add(first_, i64(n * k))])
            registers.append(builder.load(builder.bitcast(row, vector.as_pointer()), align=8))
        # A register has eight rows of eight bytes, row by row. Each pass puts bytes with even places before those with
        # odd ones, so that after three passes register k has byte k of all rows, in their order.
        for _ in range(3):
            registers = [
                e.shuffle(registers[i], registers[i + 1], list(range(odd, 2 * PANEL, 2)))
                for odd in range(2)
                for i in range(0, n, 2)
            ]
        for c in range(PANEL):
            bit = ir.Constant(vector, [1 << c % 8 if c % 8 < 7 else -128] * PANEL)
            is_set = builder.icmp_unsigned("!=", builder.and_(registers[c // 8], bit), ir.Constant(vector, None))
            place = builder.gep(columns_, [builder.add(columns_at_, i64(c))])
            builder.store(builder.bitcast(is_set, I64), place)
        return context.get_dummy_value()

    return types.void(masks, first, columns, columns_at), emit


def _make_add_column(*, sums_first: bool) -> Any:
    """Return the intrinsic add_column_8, or add_sum_8 if a sum of the rows is to be added in place of each row."""

    @intrinsic
    def add_column(
        typing_context: Any, square: Any, first: Any, rows: Any, dy: Any, dy_base: Any, dx: Any, dx_base: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args, VECTORS)
            square_, first_, rows_, dy_, dy_base_, dx_, dx_base_ = e.args

            def several(n: int) -> Any:
                def body(_: Any, carried: list[Any]) -> list[Any]:
                    left, *sums = carried
                    for _ in range(n):
                        row = lowest(builder, left)
                        left = builder.and_(left, builder.sub(left, i64(1)))
                        weight = e.broadcast(square_, builder.add(first_, builder.mul(row, i64(PANEL))))
                        line = e.pinned(dy_, builder.add(dy_base_, builder.mul(row, i64(VECTORS * e.lanes))))
                        sums = [e.fma(weight, e.load(line, i64(0), k), sums[k]) for k in range(VECTORS)]
                    return [left, *sums]

                return body

            n_rows = count(builder, rows_)
            begin = [e.zero if sums_first else e.load(dx_, dx_base_, k) for k in range(VECTORS)]
            j, carried = e.loop(i64(0), n_rows, AT_ONCE, [rows_, *begin], several(AT_ONCE))
            _, carried = e.loop(j, n_rows, 1, carried, several(1))
            for k, total in enumerate(carried[1:]):
                e.store(builder.fadd(e.load(dx_, dx_base_, k), total) if sums_first else total, dx_, dx_base_, k)
            return context.get_dummy_value()

        return types.void(square, first, rows, dy, dy_base, dx, dx_base), emit

    return add_column


add_column_8, add_sum_8 = _make_add_column(sums_first=False), _make_add_column(sums_first=True)
