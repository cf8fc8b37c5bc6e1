# mypy: allow-untyped-decorators, allow-untyped-calls
"""One row of a panel of codes, on any processor: what the loops of `decode` are given, and how they take its columns.

`Row` takes one stored column after another. `InRegisters` has all 64 columns in registers; its subclasses, in
`decode_spread` and `decode_deposit`, put them there.
"""

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from seft_ref.kernels.cpu.emitter import Emitter, count, i64, lowest

PANEL = 64
LANES = 16
REGISTERS = PANEL // LANES
"""Registers that hold one number for each column of a panel."""
_AHEAD = 4096
"""How many bytes ahead of a row codes are prefetched: one page, because the processor's prefetcher stops at its end."""
I1, I8, I16, I32 = (ir.IntType(bits) for bits in (1, 8, 16, 32))


class Row(Emitter):
    """An emitter for one row of a panel.

    Its arguments are codes, the first byte of the row, mask, scales, zero points, the index of the scale of each
    register of columns, and two arrays with an offset each (`rest`). A row has one scale, one for each half of its
    columns, or one for each register.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, kinds: list[Any], args: list[Any], n_scales: int) -> None:
        super().__init__(context, builder, types.void(*kinds), tuple(args), 1)
        self.two_a_byte = not kinds[0].dtype.signed
        self.symmetric = not kinds[4].dtype.signed
        self.codes, self.at, self.mask, self.scales, self.zeros = self.args[:5]
        self.scale_at = self.args[5 : 5 + REGISTERS : REGISTERS // n_scales]
        self.rest = self.args[5 + REGISTERS :]

    def write_weights(self) -> None:
        """Write the weights of the stored columns, in order, to the last array."""
        *_, values, values_at = self.rest
        b = self.builder

        def one(j: Any, column: Any, weight: Any, carried: list[Any]) -> list[Any]:
            b.store(weight, b.gep(values, [b.add(values_at, j)]))
            return carried

        self.one_by_one([], one)

    def write_square(self) -> None:
        """Write the weight of each stored column c to element c of the last array; other elements are arbitrary."""
        *_, values, values_at = self.rest
        b = self.builder

        def one(j: Any, column: Any, weight: Any, carried: list[Any]) -> list[Any]:
            b.store(weight, b.gep(values, [b.add(values_at, column)]))
            return carried

        self.one_by_one([], one)

    def n_bytes(self) -> Any:
        """Return the bytes of the codes of the row."""
        n = count(self.builder, self.mask)
        return self.builder.lshr(self.builder.add(n, i64(1)), i64(1)) if self.two_a_byte else n

    def panel(self) -> list[Any]:
        """Return the registers of the panel x that `dot` takes."""
        return []

    def dot(self, panel: list[Any]) -> None:
        """Add the products with the panel x to the register of sums y."""
        x, x_base, y, y_base = self.rest
        b, total = self.builder, self.load(y, y_base)

        def add(j: Any, column: Any, weight: Any, carried: list[Any]) -> list[Any]:
            factor = b.load(b.gep(x, [b.add(x_base, column)]))
            return [self.fma(weight, factor, carried[0])]

        lane = ir.Constant(I32, 0)
        (first,) = self.one_by_one([b.extract_element(total, lane)], add)
        self.store(b.insert_element(total, first, lane), y, y_base)

    def spread(self) -> None:
        """Add the products with one number of y to the panel x."""
        y, y_at, x, x_base = self.rest
        b = self.builder
        factor = b.load(b.gep(y, [y_at]))

        def add(j: Any, column: Any, weight: Any, carried: list[Any]) -> list[Any]:
            place = b.gep(x, [b.add(x_base, column)])
            # rounded once, as where registers are spread, and as with weights of floats
            b.store(self.fma(weight, factor, b.load(place)), place)
            return carried

        self.one_by_one([], add)

    def one_by_one(self, carried: list[Any], body: Callable[[Any, Any, Any, list[Any]], list[Any]]) -> list[Any]:
        """Emit `carried = body(j, column, weight, carried)` for each entry of the row; return the last `carried`."""
        b = self.builder

        def entry(j: Any, all_carried: list[Any]) -> list[Any]:
            remaining_bits, *own = all_carried
            column = lowest(b, remaining_bits)
            if self.two_a_byte:
                byte = b.load(b.gep(self.codes, [b.add(self.at, b.lshr(j, i64(1)))]))
                shift = b.trunc(b.shl(b.and_(j, i64(1)), i64(2)), I8)
                half = b.and_(b.lshr(byte, shift), ir.Constant(I8, 15))
                eight = ir.Constant(I8, 8)
                code = b.sub(b.xor(half, eight), eight)
            else:
                code = b.load(b.gep(self.codes, [b.add(self.at, j)]))
            code = b.sext(code, I32)
            place = self.scale_at[0]
            for k in range(1, len(self.scale_at)):
                first = i64(k * PANEL // len(self.scale_at))
                place = b.select(b.icmp_signed(">=", column, first), self.scale_at[k], place)
            if not self.symmetric:
                code = b.sub(code, b.sext(b.load(b.gep(self.zeros, [place])), I32))
            weight = b.fmul(b.sitofp(code, self.scalar), b.load(b.gep(self.scales, [place])))
            return [b.and_(remaining_bits, b.sub(remaining_bits, i64(1))), *body(j, column, weight, own)]

        _, (_, *carried) = self.loop(i64(0), count(b, self.mask), 1, [self.mask, *carried], entry)
        return carried

    def of_processor(self, name: str, data: Any, *more: Any) -> Any:
        """Return the result of an instruction of the processor, which has the type of `data`."""
        kind = ir.FunctionType(data.type, [data.type, *(a.type for a in more)])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [data, *more])

    def load_at(self, byte: Any, kind: Any) -> Any:
        """Return a number or a vector of the type `kind` from byte `byte` of the codes on."""
        b = self.builder
        return b.load(b.bitcast(b.gep(self.codes, [byte]), kind.as_pointer()), align=1)

    def scale(self, part: int) -> Any:
        """Return a scale in every lane."""
        return self.in_every_lane(self.builder.load(self.builder.gep(self.scales, [self.scale_at[part]])))

    def zero_point(self, part: int) -> Any:
        """Return the zero point beside a scale in every lane, as int32."""
        b = self.builder
        zero = ir.Constant(I8, 0) if self.symmetric else b.load(b.gep(self.zeros, [self.scale_at[part]]))
        return self.in_every_lane(b.sext(zero, I32))


class InRegisters(Row):
    """An emitter for a row whose 64 columns are decoded at once."""

    def registers(self) -> Iterator[Any]:
        """Yield the weights of the 64 columns of the panel in four registers, 0 where nothing is stored."""
        raise NotImplementedError

    def panel(self) -> list[Any]:
        """Return the registers of the panel x."""
        x, x_base, *_ = self.rest
        return [self.load(x, x_base, k) for k in range(REGISTERS)]

    def dot(self, panel: list[Any]) -> None:
        """Add the products with the panel x to the register of sums y, lane by lane."""
        self.prefetch(self.codes, self.builder.add(self.at, i64(_AHEAD)))
        *_, y, y_base = self.rest
        total = self.load(y, y_base)
        for weights, x in zip(self.registers(), panel, strict=True):
            total = self.fma(weights, x, total)
        self.store(total, y, y_base)

    def spread(self) -> None:
        """Add the products with one number of y to the panel x, a register at a time."""
        y, y_at, x, x_base = self.rest
        factors = self.in_every_lane(self.builder.load(self.builder.gep(y, [y_at])))
        for k, weights in enumerate(self.registers()):
            self.store(self.fma(weights, factors, self.load(x, x_base, k)), x, x_base, k)

    def write_square(self) -> None:
        """Write the weight of each column c to element c of the last array."""
        *_, values, values_at = self.rest
        for k, weights in enumerate(self.registers()):
            self.store(weights, values, values_at, k)

    def scaled(self, codes: Any, zero: Any, scale: Any) -> Any:
        """Return the weights of 16 codes, which are given as int32."""
        b = self.builder
        return b.fmul(b.sitofp(b.sub(codes, zero), self.vector), scale)

    def write_in_order(self, weights_from: Callable[[int], Any]) -> None:
        """Write the weights of the stored columns in order, 32 or 64 numbers: what follows the row is arbitrary.

        weights_from  a function j -> weights of 16 codes from stored column j on
        """
        *_, values, values_at = self.rest
        for k in range(REGISTERS // 2):
            self.store(weights_from(16 * k), values, values_at, k)
        b = self.builder
        with b.if_then(b.icmp_signed(">", count(b, self.mask), i64(PANEL // 2)), likely=False):
            for k in range(REGISTERS // 2, REGISTERS):
                self.store(weights_from(16 * k), values, values_at, k)
