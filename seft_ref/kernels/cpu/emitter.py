# mypy: allow-untyped-decorators, allow-untyped-calls
"""Writes the LLVM instructions of loops over lines of registers, in portable IR that LLVM compiles for any processor.

A line is `n_vectors` registers of 64 bytes, each with 16 tokens of float32 or 8 of float64. `vectors` has the loops.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

REGISTER_BYTES = 64
BFLOAT16, FLOAT16 = types.uint16, types.int16
"""The integer types in whose arrays the bits of 16-bit floats are stored."""
I64 = ir.IntType(64)


def i64(value: int) -> ir.Constant:
    """Return a constant of 64 bits."""
    return ir.Constant(I64, value)


def widen(builder: ir.IRBuilder, integer: Any) -> Any:
    """Return a signed integer as one of 64 bits."""
    return builder.sext(integer, I64) if integer.type.width < 64 else integer


def count(builder: ir.IRBuilder, bits: Any) -> Any:
    """Return how many bits of a number are set."""
    return _of_bits(builder, "ctpop", bits)


def lowest(builder: ir.IRBuilder, bits: Any) -> Any:
    """Return the place of the lowest bit of a number that is set; one must be."""
    return _of_bits(builder, "cttz", bits, ir.Constant(ir.IntType(1), 1))


def _of_bits(builder: ir.IRBuilder, name: str, bits: Any, *more: Any) -> Any:
    kind = ir.FunctionType(bits.type, [bits.type, *(a.type for a in more)])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.i{bits.type.width}")
    return builder.call(function, [bits, *more])


def compiled_for(context: Any) -> tuple[str, set[str]]:
    """Return LLVM's name of the processor that code is compiled for, and its features."""
    _, processor, features = context.codegen().magic_tuple()
    return processor, set(features.split(","))


def has_permutes(context: Any) -> bool:
    """Return whether the processor that code is compiled for has AVX512, which has 32 registers and looks up lanes."""
    return compiled_for(context)[1] >= {"+avx512f", "+avx512bw", "+avx512vl"}


class Emitter:
    """Emits IR for lines of registers of one element type; `halves` is the type of 16-bit values, or None."""

    def __init__(
        self,
        context: Any,
        builder: ir.IRBuilder,
        signature: Any,
        args: tuple[Any, ...],
        n_vectors: int,
    ) -> None:
        self.builder = builder
        self.n_vectors = n_vectors
        self.args = [
            arg if isinstance(kind, types.CPointer) else widen(builder, arg)
            for kind, arg in zip(signature.args, args, strict=True)
        ]
        # the last array has the dtype of products and sums, because the first may have 16-bit values
        dtype = [kind.dtype for kind in signature.args if isinstance(kind, types.CPointer)][-1]
        self.lanes = REGISTER_BYTES // (dtype.bitwidth // 8)
        self.align = dtype.bitwidth // 8
        self.scalar = context.get_data_type(dtype)
        self.vector = ir.VectorType(self.scalar, self.lanes)
        first = next(kind for kind in signature.args if isinstance(kind, types.CPointer)).dtype
        self.halves = first if first in (BFLOAT16, FLOAT16) else None
        self.zero = ir.Constant(self.vector, None)

    def register(self, array: Any, offset: Any, k: int = 0) -> Any:
        """Return the address of register k of the line that starts at element `offset`."""
        start = self.builder.gep(array, [self.builder.add(offset, i64(k * self.lanes))])
        return self.builder.bitcast(start, self.vector.as_pointer())

    def load(self, array: Any, offset: Any, k: int = 0) -> Any:
        """Return register k of the line that starts at element `offset`."""
        return self.builder.load(self.register(array, offset, k), align=self.align)

    def store(self, value: Any, array: Any, offset: Any, k: int = 0) -> None:
        """Write register k of the line that starts at element `offset`."""
        self.builder.store(value, self.register(array, offset, k), align=self.align)

    def broadcast(self, array: Any, j: Any) -> Any:
        """Return a register with element j in every lane."""
        scalar = self.builder.load(self.builder.gep(array, [j]))
        if self.halves is not None:
            scalar = self.widened(scalar)
        return self.in_every_lane(scalar)

    def in_every_lane(self, scalar: Any) -> Any:
        """Return a vector of as many lanes as a register has, with a scalar in each of them."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        lane0 = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(lane0, lane0, [0] * self.lanes)

    def widened(self, bits: Any) -> Any:
        """Return the numbers of the compute dtype that 16 bits, or a vector of them, stand for; exact."""
        b = self.builder
        n = bits.type.count if isinstance(bits.type, ir.VectorType) else None
        i32, single, wide = (
            kind if n is None else ir.VectorType(kind, n) for kind in (ir.IntType(32), ir.FloatType(), self.scalar)
        )

        def constant(kind: Any, value: Any) -> Any:
            return ir.Constant(kind, value if n is None else [value] * n)

        bits = b.zext(bits, i32)
        if self.halves == BFLOAT16:
            number = b.bitcast(b.shl(bits, constant(i32, 16)), single)
        else:
            # exponent and fraction, shifted to their places in float32, are 2^-112 times the number, subnormals too
            small = b.bitcast(b.shl(b.and_(bits, constant(i32, 0x7FFF)), constant(i32, 13)), single)
            size = b.bitcast(b.fmul(small, constant(single, 2.0**112)), i32)
            sign = b.shl(b.and_(bits, constant(i32, 0x8000)), constant(i32, 16))
            number = b.bitcast(b.or_(size, sign), single)
        return number if self.scalar == ir.FloatType() else b.fpext(number, wide)

    def prefetch(self, array: Any, offset: Any) -> None:
        """Ask for the cache line of element `offset`, which may lie behind the array."""
        b = self.builder
        byte, number = ir.IntType(8), ir.IntType(32)
        at = b.bitcast(b.gep(array, [offset]), byte.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [at.type, number, number, number])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        # to read, and to keep in every level of the data caches
        b.call(function, [at, *(ir.Constant(number, n) for n in (0, 3, 1))])

    def pinned(self, array: Any, offset: Any) -> Any:
        """Return the address of element `offset`, in one register.

        LLVM would compute the address again for every register of a line. On Intel's processors an instruction that
        adds two numbers to an address takes as much room in the pipeline as two instructions.
        """
        b = self.builder
        address = b.ptrtoint(b.gep(array, [offset]), I64)
        nothing = ir.InlineAsm(ir.FunctionType(I64, [I64]), "", "=r,0")
        return b.inttoptr(b.call(nothing, [address]), array.type)

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        """Return the lanes with these numbers of two registers a and b laid end to end."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        return self.builder.shuffle_vector(a, b, mask)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a · b + c, rounded once, of registers or of numbers."""
        kind = ir.FunctionType(a.type, [a.type] * 3)
        name = f"llvm.fma.{f'v{self.lanes}' if a.type == self.vector else ''}f{self.align * 8}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def totals(self, vectors: list[Any]) -> Any:
        """Return a vector with the sum of the lanes of each of 1, 2, 4 or 8 vectors; halves are added to each other."""
        length = self.lanes
        while length > 1 or len(vectors) > 1:
            length //= 2
            # lane indices of the first half, then of the second half, of every partial sum
            first = [i for i in range(2 * self.lanes) if i % (2 * length) < length]
            second = [i + length for i in first]
            pairs = list(zip(vectors[::2], vectors[1::2], strict=False))
            if not pairs:
                first, second = ([i for i in half if i < vectors[0].type.count] for half in (first, second))
                pairs = [(vectors[0], vectors[0])]
            vectors = [self.builder.fadd(self.shuffle(a, b, first), self.shuffle(a, b, second)) for a, b in pairs]
        return vectors[0]

    def columns_left(self, index: Any) -> list[Any]:
        """Return what `lines` takes as `left` at the first entry of a row."""
        return [] if isinstance(index.type, ir.PointerType) else [index]

    def lines(self, index: Any, base: Any, j: Any, n: int, left: list[Any]) -> tuple[list[Any], list[Any]]:
        """Return the element offsets of the lines of entries j to j + n - 1, and what is left of the row's columns.

        index  an array with the column of each entry; or a number with a bit for each column of the row, and then
               `left` has those whose entries come from j on
        """
        b = self.builder
        if left:
            return self._lines_of_bits(base, left[0], n)
        first = b.gep(index, [j])
        width = first.type.pointee.width
        # indices are loaded a word at a time, because a row loop waits for loads
        word = ir.IntType(min(64, n * width))
        columns = []
        for i in range(0, n, word.width // width):
            packed = b.load(b.bitcast(b.gep(first, [i64(i)]), word.as_pointer()), align=width // 8)
            packed = b.zext(packed, I64) if word.width < 64 else packed
            shifted = (b.lshr(packed, i64(bits)) for bits in range(0, word.width, width))
            columns += [b.and_(column, i64(2**width - 1)) for column in shifted]
        return [self._line_of(base, column) for column in columns], []

    def _lines_of_bits(self, base: Any, mask: Any, n: int) -> tuple[list[Any], list[Any]]:
        b, lines = self.builder, []
        for _ in range(n):
            lines.append(self._line_of(base, lowest(b, mask)))
            mask = b.and_(mask, b.sub(mask, i64(1)))
        return lines, [mask]

    def _line_of(self, base: Any, column: Any) -> Any:
        return self.builder.add(base, self.builder.mul(column, i64(self.n_vectors * self.lanes)))

    def loop(
        self,
        start: Any,
        stop: Any,
        step: int,
        carried: list[Any],
        body: Callable[[Any, list[Any]], list[Any]],
    ) -> tuple[Any, list[Any]]:
        """Emit `while j + step <= stop: carried = body(j, carried); j += step`; return j and carried after it."""
        b = self.builder
        before = b.block
        head, inside, after = (b.append_basic_block(name) for name in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        j = b.phi(I64)
        j.add_incoming(start, before)
        phis = [b.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<=", b.add(j, i64(step)), stop), inside, after)
        b.position_at_end(inside)
        for phi, value in zip(phis, body(j, phis), strict=True):
            phi.add_incoming(value, b.block)
        j.add_incoming(b.add(j, i64(step)), b.block)
        b.branch(head)
        b.position_at_end(after)
        return j, phis
