# mypy: allow-untyped-decorators, allow-untyped-calls
"""The innermost loops of the CPU kernels as LLVM vectors, in portable IR that LLVM compiles for any processor.

    gather_row    y[row, :]  +=  sum over stored j of values[j] * x[index[j], :]
    scatter_row   x[index[j], :]  +=  values[j] * y[row, :]     for every stored j
    dot_row       values[base + j]  +=  sum over tokens of x[index[j], :] * y[row, :]
    transpose     dst[j, i]  =  src[i, j]                       one square of 64-byte rows

A line is `n_vectors` registers of 64 bytes, each with 16 tokens of float32 or 8 of float64. A row loop takes (values,
index, start, stop, x, x_base, y, y_base): the stored entries start to stop of one row, and the first elements of the
lines of x and of the line of y. dot_row also takes a base of values.

Loop vectorisers do not keep eight accumulators in registers over a loop of unknown length, and doing so is 1.4 to 1.6
times as fast here. Every multiply-add is one fused operation in a fixed order, so a result does not depend on which
worker computes it (KRN-008).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

REGISTER_BYTES = 64
BFLOAT16, FLOAT16 = types.uint16, types.int16
"""The integer types in whose arrays the bits of 16-bit floats are stored."""
_I64 = ir.IntType(64)


def _i64(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _widen(builder: ir.IRBuilder, integer: Any) -> Any:
    return builder.sext(integer, _I64) if integer.type.width < 64 else integer


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
            arg if isinstance(kind, types.CPointer) else _widen(builder, arg)
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
        start = self.builder.gep(array, [self.builder.add(offset, _i64(k * self.lanes))])
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

    def pinned(self, array: Any, offset: Any) -> Any:
        """Return the address of element `offset`, in one register.

        LLVM would compute the address again for every register of a line. On Intel's processors an instruction that
        adds two numbers to an address takes as much room in the pipeline as two instructions.
        """
        b = self.builder
        address = b.ptrtoint(b.gep(array, [offset]), _I64)
        nothing = ir.InlineAsm(ir.FunctionType(_I64, [_I64]), "", "=r,0")
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

    def line(self, index: Any, base: Any, j: Any) -> Any:
        """Return the element offset of the line that stored entry j refers to."""
        return self._line_of(base, self.builder.zext(self.builder.load(self.builder.gep(index, [j])), _I64))

    def lines(self, index: Any, base: Any, j: Any, n: int) -> list[Any]:
        """Return the element offsets of the lines of entries j to j + n - 1, whose indices fill one or more words.

        Indices are loaded a word at a time, because a row loop waits for loads.
        """
        b = self.builder
        first = b.gep(index, [j])
        width = first.type.pointee.width
        word = ir.IntType(min(64, n * width))
        columns = []
        for i in range(0, n, word.width // width):
            packed = b.load(b.bitcast(b.gep(first, [_i64(i)]), word.as_pointer()), align=width // 8)
            packed = b.zext(packed, _I64)
            shifted = (b.lshr(packed, _i64(bits)) for bits in range(0, word.width, width))
            columns += [b.and_(column, _i64(2**width - 1)) for column in shifted]
        return [self._line_of(base, column) for column in columns]

    def _line_of(self, base: Any, column: Any) -> Any:
        return self.builder.add(base, self.builder.mul(column, _i64(self.n_vectors * self.lanes)))

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
        j = b.phi(_I64)
        j.add_incoming(start, before)
        phis = [b.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<=", b.add(j, _i64(step)), stop), inside, after)
        b.position_at_end(inside)
        for phi, value in zip(phis, body(j, phis), strict=True):
            phi.add_incoming(value, b.block)
        j.add_incoming(b.add(j, _i64(step)), b.block)
        b.branch(head)
        b.position_at_end(after)
        return j, phis


def _make_gather_row(n_vectors: int, at_once: int = 8) -> Any:
    """Return the intrinsic gather_row for lines of n registers, which takes `at_once` entries at a time if it can."""
    # short lines get several independent sums, because a fused multiply-add takes four cycles
    n_sums = max(1, 4 // n_vectors)

    @intrinsic
    def gather_row(
        typing_context: Any,
        values: Any,
        index: Any,
        start: Any,
        stop: Any,
        x: Any,
        x_base: Any,
        y: Any,
        y_base: Any,
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args, n_vectors)
            values_, index_, start_, stop_, x_, x_base_, y_, y_base_ = e.args

            def add(j: Any, line: Any, sums: list[Any]) -> list[Any]:
                scale, line = e.broadcast(values_, j), e.pinned(x_, line)
                return [e.fma(scale, e.load(line, _i64(0), k), sums[k]) for k in range(n_vectors)]

            def one(j: Any, sums: list[Any]) -> list[Any]:
                return add(j, e.line(index_, x_base_, j), sums)

            def several(j: Any, sums: list[Any]) -> list[Any]:
                groups = [sums[i : i + n_vectors] for i in range(0, len(sums), n_vectors)]
                for i, line in enumerate(e.lines(index_, x_base_, j, at_once)):
                    groups[i % n_sums] = add(builder.add(j, _i64(i)), line, groups[i % n_sums])
                return [total for group in groups for total in group]

            j, sums = e.loop(start_, stop_, at_once, [e.zero] * (n_sums * n_vectors), several)
            _, first = e.loop(j, stop_, 1, sums[:n_vectors], one)
            for k in range(n_vectors):
                # the sum of a panel starts at zero and is added to the row once, because that rounds less
                total = first[k]
                for i in range(1, n_sums):
                    total = builder.fadd(total, sums[i * n_vectors + k])
                e.store(builder.fadd(e.load(y_, y_base_, k), total), y_, y_base_, k)
            return context.get_dummy_value()

        return types.void(values, index, start, stop, x, x_base, y, y_base), emit

    return gather_row


def _make_scatter_row(n_vectors: int) -> Any:
    """Return the intrinsic scatter_row for lines of n registers."""

    @intrinsic
    def scatter_row(
        typing_context: Any,
        values: Any,
        index: Any,
        start: Any,
        stop: Any,
        x: Any,
        x_base: Any,
        y: Any,
        y_base: Any,
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args, n_vectors)
            values_, index_, start_, stop_, x_, x_base_, y_, y_base_ = e.args
            row = [e.load(y_, y_base_, k) for k in range(n_vectors)]

            def spread(j: Any, carried: list[Any]) -> list[Any]:
                scale, line = e.broadcast(values_, j), e.pinned(x_, e.line(index_, x_base_, j))
                for k in range(n_vectors):
                    e.store(e.fma(scale, row[k], e.load(line, _i64(0), k)), line, _i64(0), k)
                return carried

            e.loop(start_, stop_, 1, [], spread)
            return context.get_dummy_value()

        return types.void(values, index, start, stop, x, x_base, y, y_base), emit

    return scatter_row


def _make_dot_row(n_vectors: int) -> Any:
    """Return the intrinsic dot_row for lines of n registers."""

    @intrinsic
    def dot_row(
        typing_context: Any,
        values: Any,
        index: Any,
        start: Any,
        stop: Any,
        x: Any,
        x_base: Any,
        y: Any,
        y_base: Any,
        values_base: Any,
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args, n_vectors)
            values_, index_, start_, stop_, x_, x_base_, y_, y_base_, values_base_ = e.args
            row = [e.load(y_, y_base_, k) for k in range(n_vectors)]

            def product(line: Any) -> Any:
                sums = builder.fmul(row[0], e.load(x_, line))
                for k in range(1, n_vectors):
                    sums = e.fma(row[k], e.load(x_, line, k), sums)
                return sums

            def measure(n: int) -> Callable[[Any, list[Any]], list[Any]]:
                def body(j: Any, carried: list[Any]) -> list[Any]:
                    lines = e.lines(index_, x_base_, j, n) if n > 1 else [e.line(index_, x_base_, j)]
                    totals = e.totals([product(line) for line in lines])
                    place = builder.gep(values_, [builder.add(values_base_, j)])
                    place = builder.bitcast(place, totals.type.as_pointer())
                    builder.store(builder.fadd(builder.load(place, align=e.align), totals), place, align=e.align)
                    return carried

                return body

            # both loops add the lanes of a sum in the same order, so a slot's result does not depend on which takes it
            j, _ = e.loop(start_, stop_, 8, [], measure(8))
            e.loop(j, stop_, 1, [], measure(1))
            return context.get_dummy_value()

        return types.void(values, index, start, stop, x, x_base, y, y_base, values_base), emit

    return dot_row


@intrinsic
def call(typing_context: Any, address: Any, arguments: Any, task: Any, worker: Any) -> Any:
    """Call the C function at `address` with `arguments` (arrays become data pointers), task and worker."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function_address, packed, task_, worker_ = args
        values = []
        for i, kind in enumerate(signature.args[1]):
            value = builder.extract_value(packed, i)
            is_array = isinstance(kind, types.Array)
            values.append(
                context.make_array(kind)(context, builder, value).data if is_array else _widen(builder, value)
            )
        values += [_widen(builder, task_), _widen(builder, worker_)]
        function = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        builder.call(builder.inttoptr(function_address, function.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, arguments, task, worker), emit


@intrinsic
def in_whole_registers(typing_context: Any) -> Any:
    """Let LLVM's loop vectoriser use whole registers in the function that calls this; no result depends on it.

    By default the vectoriser uses half registers for Intel's processors, and loops with `exp` then take 1.2 to 1.4
    times as long.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # llvmlite's own `add` refuses attributes that it does not know
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def transpose(
    typing_context: Any, src: Any, src_base: Any, src_stride: Any, dst: Any, dst_base: Any, dst_stride: Any
) -> Any:
    """Transpose a square of `lanes` rows of one register each, from src to dst; bases and strides count elements."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 1)
        src_, src_base_, src_stride_, dst_, dst_base_, dst_stride_ = e.args
        n = e.lanes
        square = [e.load(src_, builder.add(src_base_, builder.mul(src_stride_, _i64(i)))) for i in range(n)]
        low = [lane for i in range(n // 2) for lane in (i, n + i)]
        high = [lane for i in range(n // 2, n) for lane in (i, n + i)]
        # Number the elements by row and lane. Interleaving row i with row i + n/2 rotates the bits of this number
        # by one, so log2(n) passes exchange row and lane.
        for _ in range(n.bit_length() - 1):
            square = [e.shuffle(square[i], square[i + n // 2], half) for i in range(n // 2) for half in (low, high)]
        for i in range(n):
            e.store(square[i], dst_, builder.add(dst_base_, builder.mul(dst_stride_, _i64(i))))
        return context.get_dummy_value()

    return types.void(src, src_base, src_stride, dst, dst_base, dst_stride), emit


gather_row_1, gather_row_2, gather_row_4, gather_row_8 = (_make_gather_row(n) for n in (1, 2, 4, 8))
gather_short_row_8 = _make_gather_row(8, at_once=4)
scatter_row_1, scatter_row_2, scatter_row_4, scatter_row_8 = (_make_scatter_row(n) for n in (1, 2, 4, 8))
dot_row = _make_dot_row(4)
