# mypy: allow-untyped-decorators, allow-untyped-calls
"""The innermost loop of a product with one token, which keeps a panel of x in registers and looks entries up there.

    gather_panel   y[r, :]  +=  values[j] * x[index[j]]     for every stored j of each row r of a panel

Every entry of W is used once, so reading it should be the only cost. A panel of x has 64 columns, which fill four
registers of float32 or eight of float64. AVX512 looks up a register of indices in two of them at once. Each row has a
register of sums, with a lane for each of its entries in turn, and `sum_register` adds the lanes at the end. Without
AVX512 entries are added one by one, in the first lanes. Neither order depends on which worker computes a row (KRN-008).
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu.vectors import Emitter, _i64, _widen

_PANEL = 64
_AHEAD = 2048
"""How many entries ahead of the sums memory is prefetched: two pages of float32 values."""
_SUMS = 4
"""Lanes that take turns where entries are added one by one, because an addition takes several cycles."""
_I8, _I32, _I64 = (ir.IntType(bits) for bits in (8, 32, 64))


def has_permutes(context: Any) -> bool:
    """Tell whether code is compiled for a processor with AVX512 instructions that look up lanes in two registers."""
    _, _, features = context.codegen().magic_tuple()
    return {"+avx512f", "+avx512bw", "+avx512vl"} <= set(features.split(","))


class _Lookup(Emitter):
    """An emitter of loops that look entries up in a panel of x in registers."""

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
        """Return a register of values and one of indices, of the entries from j on; zeros where a mask is false."""
        value = self.read(values, j, mask)
        value = value if self.halves is None else self.widened(value)
        return value, self.builder.zext(self.read(index, j, mask), self.indices)

    def read(self, array: Any, j: Any, mask: Any) -> Any:
        """Return the entries of an array from j on, one for each lane of a register; zeros where a mask is false."""
        b, kind = self.builder, array.type.pointee
        integer = isinstance(kind, ir.IntType)
        size = kind.width // 8 if integer else self.align
        vector = ir.VectorType(kind, self.lanes)
        at = b.bitcast(b.gep(array, [j]), vector.as_pointer())
        if mask is None:
            return b.load(at, align=size)
        name = f"llvm.masked.load.v{self.lanes}{'i' if integer else 'f'}{8 * size}.p0"
        return self.intrinsic(name, vector, [at, ir.Constant(_I32, size), mask, ir.Constant(vector, None)])

    def place(self, pointer: Any, row: Any) -> Any:
        """Return the first entry of a row, as 64 bits; pointers have 32 or 64."""
        return _widen(self.builder, self.builder.load(self.builder.gep(pointer, [row])))

    def ask(self, values: Any, index: Any, j: Any, end: Any, gap: Any) -> None:
        """Prefetch the entry that is read _AHEAD entries after j, because the processor's own prefetcher stops at the
        end of a page. Reading goes on `gap` entries further once it reaches `end`.
        """
        b = self.builder
        later = b.add(j, _i64(_AHEAD))
        later = b.add(later, b.select(b.icmp_signed(">=", later, end), gap, _i64(0)))
        for array in (values, index):
            at = b.bitcast(b.gep(array, [later]), _I8.as_pointer())
            self.intrinsic("llvm.prefetch.p0", ir.VoidType(), [at, *(ir.Constant(_I32, n) for n in (0, 3, 1))])

    def row(
        self, panel: list[Any], values: Any, index: Any, start: Any, stop: Any, end: Any, gap: Any, total: Any
    ) -> Any:
        """Return total + the products of a row's entries start to stop, lane by lane; `ask` explains end and gap."""
        b = self.builder

        def add(j: Any, total: Any, mask: Any = None) -> Any:
            self.ask(values, index, j, end, gap)
            value, columns = self.entries(values, index, j, mask)
            return self.fma(value, self.look_up(panel, columns), total)

        j, (total,) = self.loop(start, stop, self.lanes, [total], lambda j, t: [add(j, t[0])])
        rest = b.trunc(b.sub(stop, j), self.integer) if self.integer is _I32 else b.sub(stop, j)
        before = b.block
        inside, after = b.append_basic_block("rest"), b.append_basic_block("whole")
        b.cbranch(b.icmp_signed(">", rest, ir.Constant(self.integer, 0)), inside, after)
        b.position_at_end(inside)
        first = b.insert_element(ir.Constant(self.indices, ir.Undefined), rest, ir.Constant(_I32, 0))
        undefined = ir.Constant(self.indices, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), None)
        lanes = ir.Constant(self.indices, list(range(self.lanes)))
        mask = b.icmp_unsigned("<", lanes, b.shuffle_vector(first, undefined, zeros))
        more = add(j, total, mask)
        inside = b.block
        b.branch(after)
        b.position_at_end(after)
        out = b.phi(self.vector)
        out.add_incoming(total, before)
        out.add_incoming(more, inside)
        return out

    def row_one_by_one(
        self, x: Any, x_base: Any, values: Any, index: Any, start: Any, stop: Any, end: Any, gap: Any, total: Any
    ) -> Any:
        """Return total + the products of a row's entries, added one by one to the first lanes in turn."""
        b = self.builder
        self.ask(values, index, start, end, gap)
        numbers = [ir.Constant(_I32, k) for k in range(_SUMS)]

        def add(j: Any, total: Any) -> Any:
            column = b.zext(b.load(b.gep(index, [j])), _I64)
            factor = b.load(b.gep(x, [b.add(x_base, column)]))
            value = b.load(b.gep(values, [j]))
            value = value if self.halves is None else self.widened(value)
            return b.fadd(total, b.fmul(value, factor))

        def add_all(j: Any, sums: list[Any]) -> list[Any]:
            return [add(b.add(j, _i64(k)), sums[k]) for k in range(_SUMS)]

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

    x[x_base:] is the panel of x, and `following` the entry that is read after these rows.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = _Lookup(context, builder, signature, args)
        values_, index_, pointer_, first_, last_, x_, x_base_, y_, y_base_, following_ = e.args
        end = e.place(pointer_, last_)
        gap = builder.sub(following_, end)
        permutes = has_permutes(context)
        panel = [e.load(x_, x_base_, k) for k in range(_PANEL // e.lanes)] if permutes else []

        def of_a_row(r: Any, carried: list[Any]) -> list[Any]:
            start, line = carried
            stop = e.place(pointer_, builder.add(r, _i64(1)))
            total = e.load(y_, line)
            if permutes:
                total = e.row(panel, values_, index_, start, stop, end, gap, total)
            else:
                total = e.row_one_by_one(x_, x_base_, values_, index_, start, stop, end, gap, total)
            e.store(total, y_, line)
            return [stop, builder.add(line, _i64(e.lanes))]

        start = e.place(pointer_, first_)
        e.loop(first_, last_, 1, [start, y_base_], of_a_row)
        return context.get_dummy_value()

    return types.void(values, index, pointer, first, last, x, x_base, y, y_base, following), emit


@intrinsic
def sum_register(typing_context: Any, y: Any, y_base: Any) -> Any:
    """Return the sum of the lanes of the register at y[y_base], added by halves."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 1)
        y_, y_base_ = e.args
        sums = e.totals([e.load(y_, y_base_)])
        return builder.extract_element(sums, ir.Constant(ir.IntType(32), 0))

    return y.dtype(y, y_base), emit
