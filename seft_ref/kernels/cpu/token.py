# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""The loops of a product with one token, which keep a panel of x in registers (`panels` draws the layout).

    gather_panel   y[r, :]  +=  values[j] * x[index[j]]     for every stored j of each row r of a panel
    spread_panel   the same, with masks[r] in place of `index`: one bit for each stored column of row r

Every entry of W is used once, so reading it should be the only cost. A panel of x has 64 columns, which fill four
registers of float32 or eight of float64. Each row has a register of sums, and `sum_register` adds its lanes at the end.

AVX512 has instructions for both. `gather_panel` looks up a register of indices in two registers of x at once, and adds
each entry in the lane of its place in the row, which suits short rows. `spread_panel` spreads the next entries over the
lanes of their columns by a mask, which takes as long for one entry as for 64. Without AVX512 entries are added one by
one, in the first lanes. No order of summation depends on which worker computes a row (KRN-008).
"""

from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.emitter import Emitter, count, has_permutes, i64, widen
from seft_ref.kernels.cpu.panels import WIDTH

LONG = 12
"""Least mean number of entries in a row of a panel for which a matrix gets masks; others use `index`."""
TOKEN_ROWS = 8192
"""Rows of y that have a register of sums each at a time: these registers fill half the second-level cache."""
_AHEAD = 2048
"""How many entries ahead of the sums memory is prefetched: two pages of float32 values."""
_SUMS = 4
"""Number of lanes that take turns if entries are added one by one, because an addition takes several cycles."""
_I32, _I64 = ir.IntType(32), ir.IntType(64)


@cache
def can_spread() -> bool:
    """Return whether this processor has the instructions that `spread_panel` needs."""
    return has_permutes(cpu_target.target_context)


class _Panel(Emitter):
    """An emitter of loops over rows of W and a panel of x in registers."""

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, args: tuple[Any, ...]) -> None:
        super().__init__(context, builder, signature, args, 1)
        wide = self.align == 8
        self.integer = _I64 if wide else _I32
        self.indices = ir.VectorType(self.integer, self.lanes)
        self.name = "pd" if wide else "ps"

    def splat(self, value: int) -> Any:
        return ir.Constant(self.indices, [value] * self.lanes)

    def intrinsic(self, name: str, result: Any, arguments: list[Any]) -> Any:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def look_up(self, panel: list[Any], index: Any) -> Any:
        """Return x at the columns in `index`: look each up in all pairs of registers, then select by the upper bits."""
        name = f"llvm.x86.avx512.vpermi2var.{self.name}.512"
        picks = [self.intrinsic(name, self.vector, [a, index, b]) for a, b in zip(panel[::2], panel[1::2], strict=True)]
        bit = 2 * self.lanes
        while len(picks) > 1:
            upper = self.builder.icmp_unsigned("!=", self.builder.and_(index, self.splat(bit)), self.splat(0))
            picks = [self.builder.select(upper, b, a) for a, b in zip(picks[::2], picks[1::2], strict=True)]
            bit *= 2
        return picks[0]

    def entries(self, values: Any, index: Any, j: Any, mask: Any = None) -> tuple[Any, Any]:
        """Return a register of values and one of indices of the entries from j on, 0 where the mask is false."""
        value = self.read(values, j, mask)
        value = value if self.halves is None else self.widened(value)
        return value, self.builder.zext(self.read(index, j, mask), self.indices)

    def read(self, array: Any, j: Any, mask: Any) -> Any:
        """Return the entries of an array from j on, one in each lane of a register, 0 where the mask is false."""
        b, kind = self.builder, array.type.pointee
        integer = isinstance(kind, ir.IntType)
        size = kind.width // 8 if integer else self.align
        vector = ir.VectorType(kind, self.lanes)
        at = b.bitcast(b.gep(array, [j]), vector.as_pointer())
        if mask is None:
            return b.load(at, align=size)
        name = f"llvm.masked.load.v{self.lanes}{'i' if integer else 'f'}{8 * size}.p0"
        return self.intrinsic(name, vector, [at, ir.Constant(_I32, size), mask, ir.Constant(vector, None)])

    def below(self, count: Any) -> Any:
        """Return the mask of the first `count` lanes."""
        b = self.builder
        count = b.trunc(count, _I32) if self.integer is _I32 else count
        lanes = ir.Constant(self.indices, list(range(self.lanes)))
        return b.icmp_unsigned("<", lanes, self.in_every_lane(count))

    def place(self, pointer: Any, row: Any) -> Any:
        """Return the number of the first entry of a row, widened to 64 bits, because `pointer` may be int32."""
        return widen(self.builder, self.builder.load(self.builder.gep(pointer, [row])))

    def ask(self, arrays: list[Any], j: Any, end: Any, gap: Any) -> None:
        """Prefetch the entries that are read _AHEAD after j, because the processor's prefetcher stops at page ends.

        At `end` the reading jumps `gap` entries ahead. An array that is named twice is prefetched two registers long.
        """
        b = self.builder
        later = b.add(j, i64(_AHEAD))
        later = b.add(later, b.select(b.icmp_signed(">=", later, end), gap, i64(0)))
        for k, array in enumerate(arrays):
            self.prefetch(array, b.add(later, i64(self.lanes)) if array in arrays[:k] else later)

    def row(
        self, panel: list[Any], values: Any, index: Any, start: Any, stop: Any, end: Any, gap: Any, total: Any
    ) -> Any:
        """Return total + the products of a row's entries start to stop, lane by lane; `ask` explains end and gap."""
        b = self.builder

        def add(j: Any, total: Any, mask: Any = None) -> Any:
            self.ask([values, index], j, end, gap)
            value, columns = self.entries(values, index, j, mask)
            return self.fma(value, self.look_up(panel, columns), total)

        j, (total,) = self.loop(start, stop, self.lanes, [total], lambda j, t: [add(j, t[0])])
        rest = b.sub(stop, j)
        before = b.block
        inside, after = b.append_basic_block("rest"), b.append_basic_block("whole")
        b.cbranch(b.icmp_signed(">", rest, i64(0)), inside, after)
        b.position_at_end(inside)
        more = add(j, total, self.below(rest))
        inside = b.block
        b.branch(after)
        b.position_at_end(after)
        out = b.phi(self.vector)
        out.add_incoming(total, before)
        out.add_incoming(more, inside)
        return out

    def spread_row(self, panel: list[Any], values: Any, j: Any, masks: Any, total: Any, *, last: bool) -> Any:
        """Return where the next row begins, and total + the products of the row at j, lane by lane.

        last  whether the array may end less than WIDTH values after j, so that reads need a mask
        """
        b, mask = self.builder, self.builder.load(masks)
        bits = b.bitcast(mask, ir.VectorType(ir.IntType(1), WIDTH))
        n = count(b, mask)
        for k, x in enumerate(panel):
            columns = list(range(k * self.lanes, (k + 1) * self.lanes))
            # entries of the columns before these; each count is of its own, so that none waits for another
            before = count(b, b.shl(mask, i64(WIDTH - columns[0]))) if k else i64(0)
            value = self.read(values, b.add(j, before), self.below(b.sub(n, before)) if last else None)
            value = value if self.halves is None else self.widened(value)
            # force a register, because spreading from memory made a product take 1.1 times as long here
            value = b.asm(ir.FunctionType(value.type, [value.type]), "", "=v,0", [value], side_effect=False)
            name = f"llvm.x86.avx512.mask.expand.v{self.lanes}f{8 * self.align}"
            spread = self.intrinsic(name, self.vector, [value, self.zero, self.shuffle(bits, bits, columns)])
            total = self.fma(spread, x, total)
        return b.add(j, n), total

    def row_one_by_one(
        self, x: Any, x_base: Any, values: Any, index: Any, start: Any, stop: Any, end: Any, gap: Any, total: Any
    ) -> Any:
        """Return total + the products of a row's entries, added one by one to the first lanes in turn."""
        b = self.builder
        self.ask([values, index], start, end, gap)
        numbers = [ir.Constant(_I32, k) for k in range(_SUMS)]

        def add(j: Any, total: Any) -> Any:
            column = b.zext(b.load(b.gep(index, [j])), _I64)
            factor = b.load(b.gep(x, [b.add(x_base, column)]))
            value = b.load(b.gep(values, [j]))
            value = value if self.halves is None else self.widened(value)
            return b.fadd(total, b.fmul(value, factor))

        def add_all(j: Any, sums: list[Any]) -> list[Any]:
            return [add(b.add(j, i64(k)), sums[k]) for k in range(_SUMS)]

        j, sums = self.loop(start, stop, _SUMS, [b.extract_element(total, k) for k in numbers], add_all)
        _, (first,) = self.loop(j, stop, 1, sums[:1], lambda j, t: [add(j, t[0])])
        for k, value in zip(numbers, [first, *sums[1:]], strict=True):
            total = b.insert_element(total, value, k)
        return total


@intrinsic
def gather_panel(
    typing_context: Any,
    values: Any,
    index: Any,
    pointer: Any,
    first: Any,
    last: Any,
    x: Any,
    x_base: Any,
    y: Any,
    y_base: Any,
    following: Any,
) -> Any:
    """Add one panel's products to the sums of rows first to last of pointer, a register each, from y[y_base] on.

    x[x_base:] is the panel of x, and `following` the number of the entry that the caller reads after these rows.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = _Panel(context, builder, signature, args)
        values_, index_, pointer_, first_, last_, x_, x_base_, y_, y_base_, following_ = e.args
        end = e.place(pointer_, last_)
        gap = builder.sub(following_, end)
        permutes = has_permutes(context)
        panel = [e.load(x_, x_base_, k) for k in range(WIDTH // e.lanes)] if permutes else []

        def of_a_row(r: Any, carried: list[Any]) -> list[Any]:
            start, line = carried
            stop = e.place(pointer_, builder.add(r, i64(1)))
            total = e.load(y_, line)
            if permutes:
                total = e.row(panel, values_, index_, start, stop, end, gap, total)
            else:
                total = e.row_one_by_one(x_, x_base_, values_, index_, start, stop, end, gap, total)
            e.store(total, y_, line)
            return [stop, builder.add(line, i64(e.lanes))]

        start = e.place(pointer_, first_)
        e.loop(first_, last_, 1, [start, y_base_], of_a_row)
        return context.get_dummy_value()

    return types.void(values, index, pointer, first, last, x, x_base, y, y_base, following), emit


@intrinsic
def spread_panel(
    typing_context: Any,
    values: Any,
    masks: Any,
    start: Any,
    end: Any,
    first: Any,
    inside: Any,
    last: Any,
    x: Any,
    x_base: Any,
    y: Any,
    y_base: Any,
    following: Any,
) -> Any:
    """Do what `gather_panel` does with entries start to end, by the masks of rows first to last.

    Rows before `inside` are read without a mask, because at least WIDTH values follow the start of each of them in the
    array.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = _Panel(context, builder, signature, args)
        values_, masks_, start_, end_, first_, inside_, last_, x_, x_base_, y_, y_base_, following_ = e.args
        if not has_permutes(context):
            # this processor lacks the instructions, and `with_masks` gives it no masks
            return context.get_dummy_value()
        gap = builder.sub(following_, end_)
        panel = [e.load(x_, x_base_, k) for k in range(WIDTH // e.lanes)]

        def of_a_row(r: Any, carried: list[Any], *, last: bool) -> list[Any]:
            j, line = carried
            # prefetch two cache lines, because a row of 32 values in float32 fills two
            e.ask([values_, values_], j, end_, gap)
            j, total = e.spread_row(panel, values_, j, builder.gep(masks_, [r]), e.load(y_, line), last=last)
            e.store(total, y_, line)
            return [j, builder.add(line, i64(e.lanes))]

        _, carried = e.loop(first_, inside_, 1, [start_, y_base_], partial(of_a_row, last=False))
        e.loop(inside_, last_, 1, carried, partial(of_a_row, last=True))
        return context.get_dummy_value()

    return types.void(values, masks, start, end, first, inside, last, x, x_base, y, y_base, following), emit


@intrinsic
def sum_register(typing_context: Any, y: Any, y_base: Any) -> Any:
    """Return the sum of the lanes of the register at y[y_base], adding one half to the other until one lane is left."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 1)
        y_, y_base_ = e.args
        sums = e.totals([e.load(y_, y_base_)])
        return builder.extract_element(sums, ir.Constant(ir.IntType(32), 0))

    return y.dtype(y, y_base), emit


@compiled()
def fill_masks(index, pointer, masks):
    """Fill masks (panels * out,), uint64: a bit for each stored column of each row of each panel."""
    for i in range(masks.shape[0]):
        mask = np.uint64(0)
        for entry in range(pointer[i], pointer[i + 1]):
            mask |= np.uint64(1) << np.uint64(index[entry])
        masks[i] = mask


@compiled()
def lay_out_token(x, n_in, n_padded, work, base):
    """Copy x (n_in,) to work[base:] and pad it with zeros to n_padded numbers, which are whole panels."""
    for c in range(n_in):
        work[base + c] = x[c]
    for c in range(n_in, n_padded):
        work[base + c] = 0


def token_task(
    values, index, pointer, masks, by_mask, n_out, n_in, x, y, n_parts, work, work_size, lanes, task, worker
):
    """Compute y = x Wᵀ for one token and one of n_parts parts of the rows of W, by masks or by index."""
    first_row, last_row = task * n_out // n_parts, (task + 1) * n_out // n_parts
    n_panels = (n_in + WIDTH - 1) // WIDTH
    n_values = pointer[n_panels * n_out]
    x_line = worker * work_size
    y_lines = x_line + n_panels * WIDTH
    lay_out_token(x, n_in, n_panels * WIDTH, work, x_line)
    top = first_row
    while top < last_row:
        bottom = min(top + TOKEN_ROWS, last_row)
        for i in range(y_lines, y_lines + (bottom - top) * lanes):
            work[i] = 0
        for p in range(n_panels):
            first, last = p * n_out + top, p * n_out + bottom
            following = pointer[first + n_out] if p + 1 < n_panels else pointer[last]
            x_panel = x_line + p * WIDTH
            if not by_mask:
                gather_panel(values, index, pointer, first, last, work, x_panel, work, y_lines, following)
                continue
            inside, start, end = last, pointer[first], pointer[last]
            while inside > first and pointer[inside - 1] + WIDTH > n_values:
                inside -= 1
            spread_panel(values, masks, start, end, first, inside, last, work, x_panel, work, y_lines, following)
        for r in range(top, bottom):
            y[r] = sum_register(work, y_lines + (r - top) * lanes)
        top = bottom
