# mypy: allow-untyped-decorators, allow-untyped-calls
"""Rows of codes, eight columns at a time, on processors with AVX2 and BMI2.

`pdep` takes codes that lie side by side in a word, and moves each to the place of its column; other places get 0. AMD's
processors before Zen 3 run it in microcode, a step for each bit, so they get the loops of `decode_row`.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir

from seft_ref.kernels.cpu.decode_row import I8, I32, PANEL, InRegisters
from seft_ref.kernels.cpu.emitter import I64, count, i64

FEATURES = {"+avx2", "+bmi2"}
SLOW = {"bdver4", "znver1", "znver2"}
"""LLVM's names of processors whose `pdep` is microcode."""
COLUMNS = 8
"""Columns whose codes fill a word of 64 bits."""


class Deposit(InRegisters):
    """An emitter for a row whose codes are put in their columns eight at a time."""

    def parts(self) -> Iterator[tuple[Any, Any]]:
        """Yield the mask of each eight columns, and how many columns are stored before them."""
        b, before = self.builder, i64(0)
        for k in range(PANEL // COLUMNS):
            mask = b.and_(b.lshr(self.mask, i64(COLUMNS * k)), i64(255))
            yield mask, before
            before = b.add(before, count(b, mask))

    def widened_mask(self, mask: Any, bits: int) -> Any:
        """Return a mask of eight bits with each bit `bits` times."""
        b = self.builder
        first_bits = i64(side_by_side([1] * COLUMNS, bits))
        return b.mul(self.of_processor("llvm.x86.bmi.pdep.64", mask, first_bits), i64(2**bits - 1))

    def widened_codes(self, word: Any) -> Any:
        """Return eight codes, side by side in a word, as int32."""
        b, lanes = self.builder, ir.VectorType(I32, COLUMNS)
        if not self.two_a_byte:
            return b.sext(b.bitcast(word, ir.VectorType(I8, COLUMNS)), lanes)
        first = b.insert_element(ir.Constant(lanes, ir.Undefined), b.trunc(word, I32), ir.Constant(I32, 0))
        all_eight = self.shuffle(first, first, [0] * COLUMNS)
        # move each code to the upper end of its lane, so that shifting it back extends its sign
        return b.ashr(b.shl(all_eight, ir.Constant(lanes, list(range(28, -1, -4)))), ir.Constant(lanes, [28] * COLUMNS))

    def codes_from(self, j: Any) -> Any:
        """Return a word whose lower bits are the codes from stored column j on."""
        b = self.builder
        if not self.two_a_byte:
            return self.load_at(b.add(self.at, j), I64)
        word = self.load_at(b.add(self.at, b.lshr(j, i64(1))), I64)
        return b.lshr(word, b.shl(b.and_(j, i64(1)), i64(2)))

    def registers(self) -> Iterator[Any]:
        """Yield the weights of the 64 columns of the panel in four registers, 0 where nothing is stored."""
        b, n_scales = self.builder, len(self.scale_at)
        bits = 4 if self.two_a_byte else 8
        eights: list[Any] = []
        for k, (mask, before) in enumerate(self.parts()):
            word = self.of_processor("llvm.x86.bmi.pdep.64", self.codes_from(before), self.widened_mask(mask, bits))
            if not self.symmetric:
                # a column that is not stored gets the zero point as its code, because that stands for the weight 0
                elsewhere = b.not_(self.widened_mask(mask, bits))
                word = b.or_(word, b.and_(self.zero_points(k * COLUMNS * n_scales // PANEL, bits), elsewhere))
            eights.append(self.widened_codes(word))
            if k % 2:
                part = k * COLUMNS * n_scales // PANEL
                sixteen = self.shuffle(eights[-2], eights[-1], list(range(16)))
                yield self.scaled(sixteen, self.zero_point(part), self.scale(part))

    def zero_points(self, part: int, bits: int) -> Any:
        """Return eight times the zero point beside a scale, side by side in a word."""
        b = self.builder
        zero = b.and_(b.sext(b.load(b.gep(self.zeros, [self.scale_at[part]])), I64), i64(2**bits - 1))
        return b.mul(zero, i64(side_by_side([1] * COLUMNS, bits)))

    def write_weights(self) -> None:
        """Write the weights of the stored columns, in order, to the last array."""
        self.write_in_order(self.weights_from)

    def weights_from(self, first: int) -> Any:
        """Return the weights of 16 codes from stored column `first` on; behind the row's end they are arbitrary."""
        b = self.builder
        lower, upper = (self.widened_codes(self.codes_from(i64(j))) for j in (first, first + COLUMNS))
        zero, scale = self.zero_point(0), self.scale(0)
        lanes = ir.Constant(ir.VectorType(I32, 16), list(range(first, first + 16)))
        for part in range(1, len(self.scale_at)):
            # stored columns from here on have the next scale
            columns_before = b.and_(self.mask, i64(2 ** (part * PANEL // len(self.scale_at)) - 1))
            later = b.icmp_signed(">=", lanes, self.in_every_lane(b.trunc(count(b, columns_before), I32)))
            zero, scale = b.select(later, self.zero_point(part), zero), b.select(later, self.scale(part), scale)
        return self.scaled(self.shuffle(lower, upper, list(range(16))), zero, scale)


def side_by_side(numbers: list[int], bits: int) -> int:
    """Return numbers of some bits, the first in the lowest bits."""
    return sum(number << (bits * i) for i, number in enumerate(numbers))
