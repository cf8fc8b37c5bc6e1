# mypy: allow-untyped-decorators, allow-untyped-calls
"""The innermost loops for matrices of codes (`coded`), which decode one row of a panel at a time.

    open_row     values[base:], index[base:]  =  weights of the row and their columns within the panel
    dot_row      y[:]  +=  weight of column c * x[c]      for every stored c; lanes of the register y are added later
    spread_row   x[c]  +=  weight of column c * y         for every stored c

A row has a mask of 64 bits, one for each column of the panel, and a code for each bit that is set. AVX512 spreads the
codes over the 64 lanes of their columns, or gathers lanes, in one instruction each (VBMI2). On other processors a loop
takes one bit after another. Either way a weight is (code - zero point) * scale, rounded once (QNT-002).

Codes are int8, one a byte, or uint8, two a byte with the first in the lower half. Zero points are int8; an array of
uint8 means that all are 0. The loops may read the byte at `at` together with the 63 bytes behind it.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu.vectors import Emitter, _i64, _widen

_PANEL = 64
_REGISTERS = 4
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))


def has_expansion(context: Any) -> bool:
    """Return whether code is compiled for a processor with AVX512 instructions that spread bytes by a mask."""
    _, _, features = context.codegen().magic_tuple()
    return {"+avx512f", "+avx512bw", "+avx512vl", "+avx512vbmi2"} <= set(features.split(","))


class _Row(Emitter):
    """An emitter for one row of a panel.

    Its arguments are codes, the first byte of the row, mask, scales, zero points, the index of the scale of each
    register of columns, and two arrays with an offset each (`rest`). A row has one scale, one for each half of its
    columns, or one for each register.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, kinds: list[Any], args: list[Any], n_scales: int) -> None:
        super().__init__(context, builder, types.void(*kinds), tuple(args), 1)
        self.expands = has_expansion(context)
        self.in_halves = not kinds[0].dtype.signed
        self.symmetric = not kinds[4].dtype.signed
        self.codes, self.at, self.mask, self.scales, self.zeros = self.args[:5]
        self.scale_at = self.args[5 : 5 + _REGISTERS : _REGISTERS // n_scales]
        self.rest = self.args[5 + _REGISTERS :]

    def of_processor(self, name: str, data: Any, *more: Any) -> Any:
        """Return the result of an AVX512 instruction on vectors like `data`."""
        kind = ir.FunctionType(data.type, [data.type, *(a.type for a in more)])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [data, *more])

    def by_mask(self, name: str, data: Any, bits: Any, others: Any = None) -> Any:
        """Return bytes or floats after spreading ("expand") or gathering ("compress") by a mask.

        others  the vector that fills other lanes; 0 by default
        """
        lanes = data.type.count
        of = "f32" if isinstance(data.type.element, ir.FloatType) else "i8"
        mask = self.builder.bitcast(bits, ir.VectorType(_I1, lanes))
        others = ir.Constant(data.type, None) if others is None else others
        return self.of_processor(f"llvm.x86.avx512.mask.{name}.v{lanes}{of}", data, others, mask)

    def part_of_mask(self, k: int) -> Any:
        """Return the 16 bits of the mask that belong to register k of the columns."""
        return self.builder.trunc(self.builder.lshr(self.mask, _i64(16 * k)), _I16)

    def bytes_of_codes(self) -> Any:
        """Return 64 bytes with a code each: those of the row, then others. Codes of 4 bits are not sign-extended."""
        b = self.builder
        first = b.gep(self.codes, [self.at])
        if not self.in_halves:
            read = b.load(b.bitcast(first, ir.VectorType(_I8, 64).as_pointer()), align=1)
            # force a register, because spreading bytes from memory made a product take 1.3 times as long here
            return b.asm(ir.FunctionType(read.type, [read.type]), "", "=v,0", [read], side_effect=False)
        read = b.zext(b.load(b.bitcast(first, ir.VectorType(_I8, 32).as_pointer()), align=1), ir.VectorType(_I16, 32))
        both = b.or_(read, b.shl(read, ir.Constant(read.type, [4] * 32)))
        return b.bitcast(b.and_(both, ir.Constant(read.type, [0x0F0F] * 32)), ir.VectorType(_I8, 64))

    def scale(self, part: int) -> Any:
        """Return a scale in every lane."""
        return self.in_every_lane(self.builder.load(self.builder.gep(self.scales, [self.scale_at[part]])))

    def zero_point(self, part: int) -> Any:
        """Return the zero point beside a scale in every lane, as int32."""
        b = self.builder
        zero = ir.Constant(_I8, 0) if self.symmetric else b.load(b.gep(self.zeros, [self.scale_at[part]]))
        return self.in_every_lane(b.sext(zero, _I32))

    def table(self, part: int) -> Any:
        """Return the weight of each code of 4 bits by a scale."""
        b = self.builder
        signed = [float(c if c < 8 else c - 16) for c in range(16)]
        if self.symmetric:
            return b.fmul(ir.Constant(self.vector, signed), self.scale(part))
        # steps from a zero point are looked up, because to compute them took a sixth of a product with one token
        rows = [ir.Constant(self.vector, [c - zero for c in signed]) for zero in range(-8, 8)]
        steps = cgutils.global_constant(b, "steps_from_zero_points", ir.Constant(ir.ArrayType(self.vector, 16), rows))
        zero = b.sext(b.load(b.gep(self.zeros, [self.scale_at[part]])), _I64)
        # the mask keeps a number that is no zero point of 4 bits from reading outside
        at = b.and_(b.add(zero, _i64(8)), _i64(15))
        return b.fmul(b.load(b.gep(steps, [_i64(0), at])), self.scale(part))

    def sixteen(self, codes: Any, first: int) -> Any:
        """Return 16 codes from `first` on as int32."""
        lanes = self.shuffle(codes, codes, list(range(first, first + 16)))
        return (self.builder.zext if self.in_halves else self.builder.sext)(lanes, ir.VectorType(_I32, 16))

    def scaled(self, codes: Any, zero: Any, scale: Any) -> Any:
        """Return the weights of 16 codes of 8 bits."""
        b = self.builder
        return b.fmul(b.sitofp(b.sub(codes, zero), self.vector), scale)

    def weights_by(self, part: int) -> Callable[[Any, int], Any]:
        """Return a function (codes, first) -> weights of 16 codes from `first` on, by one scale."""
        if self.in_halves:
            table, name = self.table(part), "llvm.x86.avx512.permvar.sf.512"
            return lambda codes, first: self.of_processor(name, table, self.sixteen(codes, first))
        zero, scale = self.zero_point(part), self.scale(part)
        return lambda codes, first: self.scaled(self.sixteen(codes, first), zero, scale)

    def weights_in_order(self) -> Callable[[Any, int], Any]:
        """Return the same function for stored codes in order: those of the first half of the columns come first."""
        if len(self.scale_at) == 1:
            return self.weights_by(0)
        b = self.builder
        n_first = b.zext(count(b, b.trunc(self.mask, _I32)), _I64)
        later = b.shl(_i64(-1), n_first)
        if self.in_halves:
            tables, name = [self.table(part) for part in range(2)], "llvm.x86.avx512.vpermi2var.ps.512"
            bit = b.select(
                b.bitcast(later, ir.VectorType(_I1, _PANEL)),
                ir.Constant(ir.VectorType(_I8, _PANEL), [16] * _PANEL),
                ir.Constant(ir.VectorType(_I8, _PANEL), None),
            )
            # a code with bit 4 is looked up in the second table
            return lambda codes, first: self.of_processor(
                name, tables[0], self.sixteen(b.or_(codes, bit), first), tables[1]
            )
        zeros, scales = ([one(part) for part in range(2)] for one in (self.zero_point, self.scale))

        def weights(codes: Any, first: int) -> Any:
            bits = b.bitcast(b.trunc(b.lshr(later, _i64(first)), _I16), ir.VectorType(_I1, 16))
            zero, scale = (b.select(bits, two, one) for one, two in (zeros, scales))
            return self.scaled(self.sixteen(codes, first), zero, scale)

        return weights

    def codes_of_nothing(self) -> Any:
        """Return 64 bytes with the codes that have the weight 0: the zero points; None if they are 0."""
        if self.symmetric:
            return None
        b, n_scales = self.builder, len(self.scale_at)
        points: Any = ir.Constant(ir.VectorType(_I8, n_scales), None)
        for part, place in enumerate(self.scale_at):
            points = b.insert_element(points, b.load(b.gep(self.zeros, [place])), ir.Constant(_I32, part))
        if self.in_halves:
            points = b.and_(points, ir.Constant(points.type, [15] * n_scales))
        return self.shuffle(points, points, [lane * n_scales // _PANEL for lane in range(_PANEL)])

    def registers(self) -> list[Any]:
        """Return the weights of the 64 columns of the panel in four registers, 0 where nothing is stored."""
        columns = self.by_mask("expand", self.bytes_of_codes(), self.mask, self.codes_of_nothing())
        by = [self.weights_by(part) for part in range(len(self.scale_at))]
        return [by[k * len(by) // _REGISTERS](columns, 16 * k) for k in range(_REGISTERS)]

    def write_row(self, index: Any, index_at: Any, values: Any, values_at: Any) -> None:
        """Write the weights of the stored columns of the row, in order, to `values`, and the columns to `index`."""
        b = self.builder
        lanes = ir.Constant(ir.VectorType(_I8, _PANEL), list(range(_PANEL)))
        columns = self.by_mask("compress", lanes, self.mask)
        b.store(columns, b.bitcast(b.gep(index, [index_at]), columns.type.as_pointer()), align=1)
        if len(self.scale_at) == _REGISTERS:
            for k, weights in enumerate(self.registers()):
                bits = self.part_of_mask(k)
                self.store(self.by_mask("compress", weights, bits), values, values_at)
                values_at = b.add(values_at, b.zext(count(b, bits), _I64))
            return
        codes, weights_of = self.bytes_of_codes(), self.weights_in_order()
        for k in range(_REGISTERS // 2):
            self.store(weights_of(codes, 16 * k), values, values_at, k)
        with b.if_then(b.icmp_signed(">", count(b, self.mask), _i64(_PANEL // 2)), likely=False):
            for k in range(_REGISTERS // 2, _REGISTERS):
                self.store(weights_of(codes, 16 * k), values, values_at, k)

    def one_by_one(self, carried: list[Any], body: Callable[[Any, Any, Any, list[Any]], list[Any]]) -> list[Any]:
        """Emit `carried = body(j, column, weight, carried)` for each entry of the row; return the last `carried`."""
        b = self.builder
        low = ir.FunctionType(_I64, [_I64, _I1])
        trailing = cgutils.get_or_insert_function(b.module, low, "llvm.cttz.i64")

        def entry(j: Any, all_carried: list[Any]) -> list[Any]:
            remaining_bits, *own = all_carried
            column = b.call(trailing, [remaining_bits, ir.Constant(_I1, 1)])
            if self.in_halves:
                byte = b.load(b.gep(self.codes, [b.add(self.at, b.lshr(j, _i64(1)))]))
                shift = b.trunc(b.shl(b.and_(j, _i64(1)), _i64(2)), _I8)
                half = b.and_(b.lshr(byte, shift), ir.Constant(_I8, 15))
                eight = ir.Constant(_I8, 8)
                code = b.sub(b.xor(half, eight), eight)
            else:
                code = b.load(b.gep(self.codes, [b.add(self.at, j)]))
            code = b.sext(code, _I32)
            place = self.scale_at[0]
            for k in range(1, len(self.scale_at)):
                first = _i64(k * _PANEL // len(self.scale_at))
                place = b.select(b.icmp_signed(">=", column, first), self.scale_at[k], place)
            if not self.symmetric:
                code = b.sub(code, b.sext(b.load(b.gep(self.zeros, [place])), _I32))
            weight = b.fmul(b.sitofp(code, self.scalar), b.load(b.gep(self.scales, [place])))
            return [b.and_(remaining_bits, b.sub(remaining_bits, _i64(1))), *body(j, column, weight, own)]

        _, (_, *carried) = self.loop(_i64(0), count(b, self.mask), 1, [self.mask, *carried], entry)
        return carried


def count(builder: ir.IRBuilder, mask: Any) -> Any:
    """Return how many bits of a mask are set."""
    kind = ir.FunctionType(mask.type, [mask.type])
    name = f"llvm.ctpop.i{mask.type.width}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [mask])


@intrinsic
def popcount(typing_context: Any, mask: Any) -> Any:
    """Return how many bits of a mask are set, int64."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return count(builder, args[0])

    return types.int64(types.int64), emit


def _of_row(emit_row: Callable[[_Row], None]) -> Any:
    """Return an intrinsic with three versions of `emit_row`: for rows with one scale, with two, and with four.

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
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            begin, number = args[5], _widen(builder, args[6])
            scale_at = [builder.add(builder.extract_value(begin, k), number) for k in range(_REGISTERS)]
            kinds = [*signature.args[:5], *[types.int64] * _REGISTERS, *signature.args[7:]]
            values = [*args[:5], *scale_at, *args[7:]]

            def version(n_scales: int) -> None:
                emit_row(_Row(context, builder, kinds, values, n_scales))

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

        return types.void(codes, at, mask, scales, zeros, lines, r, first, first_at, second, second_at), emit

    return row


def _open_row(e: _Row) -> None:
    index, index_at, values, values_at = e.rest
    b = e.builder
    if e.expands:
        e.write_row(index, index_at, values, values_at)
        return

    def write(j: Any, column: Any, weight: Any, carried: list[Any]) -> list[Any]:
        b.store(weight, b.gep(values, [b.add(values_at, j)]))
        b.store(b.trunc(column, _I8), b.gep(index, [b.add(index_at, j)]))
        return carried

    e.one_by_one([], write)


def _dot_row(e: _Row) -> None:
    x, x_base, y, y_base = e.rest
    b, total = e.builder, e.load(y, y_base)
    if e.expands:
        for k, weights in enumerate(e.registers()):
            total = e.fma(weights, e.load(x, x_base, k), total)
        e.store(total, y, y_base)
        return

    def add(j: Any, column: Any, weight: Any, carried: list[Any]) -> list[Any]:
        factor = b.load(b.gep(x, [b.add(x_base, column)]))
        return [e.fma(weight, factor, carried[0])]

    lane = ir.Constant(_I32, 0)
    (first,) = e.one_by_one([b.extract_element(total, lane)], add)
    e.store(b.insert_element(total, first, lane), y, y_base)


def _spread_row(e: _Row) -> None:
    y, y_at, x, x_base = e.rest
    b = e.builder
    factor = b.load(b.gep(y, [y_at]))
    if e.expands:
        factors = e.in_every_lane(factor)
        for k, weights in enumerate(e.registers()):
            e.store(e.fma(weights, factors, e.load(x, x_base, k)), x, x_base, k)
        return

    def add(j: Any, column: Any, weight: Any, carried: list[Any]) -> list[Any]:
        place = b.gep(x, [b.add(x_base, column)])
        # rounded once, as where registers are spread, and as with weights of floats
        b.store(e.fma(weight, factor, b.load(place)), place)
        return carried

    e.one_by_one([], add)


open_row, dot_row, spread_row = (_of_row(code) for code in (_open_row, _dot_row, _spread_row))
