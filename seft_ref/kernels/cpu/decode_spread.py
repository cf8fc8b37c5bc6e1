# mypy: allow-untyped-decorators, allow-untyped-calls
"""Rows of codes on processors with AVX512's VBMI2, which spreads 64 bytes over the lanes of a mask at once."""

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from seft_ref.kernels.cpu.decode_row import I1, I8, I16, I32, PANEL, REGISTERS, InRegisters
from seft_ref.kernels.cpu.emitter import I64, count, i64

FEATURES = {"+avx512f", "+avx512bw", "+avx512vl", "+avx512vbmi", "+avx512vbmi2"}


class Spread(InRegisters):
    """An emitter for a row whose codes one instruction spreads over the lanes of their columns."""

    def by_mask(self, name: str, data: Any, bits: Any) -> Any:
        """Return bytes or floats after spreading ("expand") or gathering ("compress") by a mask; other lanes are 0."""
        lanes = data.type.count
        of = "f32" if isinstance(data.type.element, ir.FloatType) else "i8"
        mask = self.builder.bitcast(bits, ir.VectorType(I1, lanes))
        zeros = ir.Constant(data.type, None)
        return self.of_processor(f"llvm.x86.avx512.mask.{name}.v{lanes}{of}", data, zeros, mask)

    def part_of_mask(self, k: int) -> Any:
        """Return the 16 bits of the mask that belong to register k of the columns."""
        return self.builder.trunc(self.builder.lshr(self.mask, i64(16 * k)), I16)

    def bytes_of_codes(self) -> Any:
        """Return 64 bytes with a code each: those of the row, then others. Above a code of 4 bits lie other bits."""
        b = self.builder
        if not self.two_a_byte:
            read = self.load_at(self.at, ir.VectorType(I8, PANEL))
            # force a register, because spreading bytes from memory made a product take 1.3 times as long here
            return b.asm(ir.FunctionType(read.type, [read.type]), "", "=v,0", [read], side_effect=False)
        eights = b.zext(self.load_at(self.at, ir.VectorType(I32, 8)), ir.VectorType(I64, 8))
        # byte i of a word becomes its eight bits from bit 4 i on, whose lower half is code i
        first_bits = ir.Constant(ir.VectorType(I8, PANEL), [4 * (lane % 8) for lane in range(PANEL)])
        words = b.bitcast(eights, first_bits.type)
        return self.of_processor("llvm.x86.avx512.pmultishift.qb.512", first_bits, words)

    def table(self, part: int) -> Any:
        """Return the weight of each code of 4 bits by a scale."""
        b = self.builder
        signed = [float(c if c < 8 else c - 16) for c in range(16)]
        if self.symmetric:
            return b.fmul(ir.Constant(self.vector, signed), self.scale(part))
        # steps from a zero point are looked up, because to compute them took a sixth of a product with one token
        rows = [ir.Constant(self.vector, [c - zero for c in signed]) for zero in signed]
        steps = cgutils.global_constant(b, "steps_from_zero_points", ir.Constant(ir.ArrayType(self.vector, 16), rows))
        # the lower half of a zero point is its row, so that no number reads outside
        at = b.zext(b.and_(b.load(b.gep(self.zeros, [self.scale_at[part]])), ir.Constant(I8, 15)), I64)
        return b.fmul(b.load(b.gep(steps, [i64(0), at])), self.scale(part))

    def sixteen(self, codes: Any, first: int) -> Any:
        """Return 16 codes from `first` on as int32; above codes of 4 bits lie other bits."""
        if not self.two_a_byte:
            lanes = self.shuffle(codes, codes, list(range(first, first + 16)))
            return self.builder.sext(lanes, ir.VectorType(I32, 16))
        # a code stands in all four bytes of its lane, because a look-up reads only the lower bits of a lane
        places = ir.Constant(codes.type, [first + lane // 4 for lane in range(PANEL)])
        name = "llvm.x86.avx512.permvar.qi.512"
        return self.builder.bitcast(self.of_processor(name, codes, places), ir.VectorType(I32, 16))

    def stored(self) -> Callable[[int], Any]:
        """Return a function j -> 16 codes from stored column j on, as int32."""
        b = self.builder
        if self.two_a_byte:
            codes = self.bytes_of_codes()
            return lambda first: self.sixteen(codes, first)
        kinds = ir.VectorType(I8, 16), ir.VectorType(I32, 16)
        return lambda first: b.sext(self.load_at(b.add(self.at, i64(first)), kinds[0]), kinds[1])

    def weights_by(self, part: int) -> Callable[[Any], Any]:
        """Return a function: 16 codes as int32 -> their weights by one scale."""
        if self.two_a_byte:
            table, name = self.table(part), "llvm.x86.avx512.permvar.sf.512"
            return lambda codes: self.of_processor(name, table, codes)
        zero, scale = self.zero_point(part), self.scale(part)
        return lambda codes: self.scaled(codes, zero, scale)

    def weights_in_order(self) -> Callable[[int], Any]:
        """Return a function j -> weights of 16 codes from stored column j on, by one scale or by two."""
        b, stored = self.builder, self.stored()
        if len(self.scale_at) == 1:
            weights_of = self.weights_by(0)
            return lambda first: weights_of(stored(first))
        # columns of the second half of the panel have the second scale
        later = b.shl(i64(-1), b.zext(count(b, b.trunc(self.mask, I32)), I64))

        def is_later(first: int) -> Any:
            return b.bitcast(b.trunc(b.lshr(later, i64(first)), I16), ir.VectorType(I1, 16))

        if self.two_a_byte:
            one, two = (self.weights_by(part) for part in range(2))

            def looked_up(first: int) -> Any:
                codes = stored(first)
                return b.select(is_later(first), two(codes), one(codes))

            return looked_up
        zeros, scales = ([one(part) for part in range(2)] for one in (self.zero_point, self.scale))

        def weights(first: int) -> Any:
            zero, scale = (b.select(is_later(first), two, one) for one, two in (zeros, scales))
            return self.scaled(stored(first), zero, scale)

        return weights

    def registers(self) -> Iterator[Any]:
        """Yield the weights of the 64 columns of the panel in four registers, 0 where nothing is stored."""
        columns = self.by_mask("expand", self.bytes_of_codes(), self.mask)
        by = [self.weights_by(part) for part in range(len(self.scale_at))]
        for k in range(REGISTERS):
            weights = by[k * len(by) // REGISTERS](self.sixteen(columns, 16 * k))
            if not self.symmetric:
                # the code 0 of a column that is not stored may stand for another weight
                stored = self.builder.bitcast(self.part_of_mask(k), ir.VectorType(I1, 16))
                weights = self.builder.select(stored, weights, self.zero)
            yield weights

    def write_weights(self) -> None:
        """Write the weights of the stored columns, in order, to the last array."""
        *_, values, values_at = self.rest
        b = self.builder
        if len(self.scale_at) == REGISTERS:
            for k, weights in enumerate(self.registers()):
                bits = self.part_of_mask(k)
                self.store(self.by_mask("compress", weights, bits), values, values_at)
                values_at = b.add(values_at, b.zext(count(b, bits), I64))
            return
        self.write_in_order(self.weights_in_order())
