# mypy: allow-untyped-decorators, allow-untyped-calls
"""The innermost loops of the CPU kernels, as LLVM vectors.

    gather_row    y[row, :]  +=  sum over stored j of values[j] * x[index[j], :]
    gather_pair   the same of two rows, in the same rounds of one loop
    scatter_row   x[index[j], :]  +=  values[j] * y[row, :]     for every stored j
    dot_row       values[base + j]  +=  sum over tokens of x[index[j], :] * y[row, :]
    transpose     dst[j, i]  =  src[i, j]                       one square of 64-byte rows

A line is `n_vectors` registers of 64 bytes, each with 16 tokens of float32 or 8 of float64. A row loop takes (values,
index, start, stop, x, x_base, y, y_base): the stored entries start to stop of one row, and the first elements of the
lines of x and of the line of y. dot_row also takes a base of values. gather_row and scatter_row also take, in place of
the array `index`, a number with a bit for each of the stop - start columns.

Loop vectorisers do not keep eight accumulators in registers over a loop of unknown length, and doing so is 1.4 to 1.6
times as fast here. Every multiply-add is one fused operation in a fixed order, so a result does not depend on which
worker computes it (KRN-008).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from seft_ref.kernels.cpu.emitter import Emitter, count, has_permutes, i64, widen


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
                return [e.fma(scale, e.load(line, i64(0), k), sums[k]) for k in range(n_vectors)]

            def several(n: int) -> Callable[[Any, list[Any]], list[Any]]:
                def body(j: Any, carried: list[Any]) -> list[Any]:
                    left, sums = carried[:n_left], carried[n_left:]
                    lines, left = e.lines(index_, x_base_, j, n, left)
                    groups = [sums[i : i + n_vectors] for i in range(0, len(sums), n_vectors)]
                    for i, line in enumerate(lines):
                        groups[i % n_sums] = add(builder.add(j, i64(i)), line, groups[i % n_sums])
                    return [*left, *(total for group in groups for total in group)]

                return body

            left = e.columns_left(index_)
            n_left = len(left)
            j, carried = e.loop(start_, stop_, at_once, [*left, *[e.zero] * (n_sums * n_vectors)], several(at_once))
            _, carried = e.loop(j, stop_, 1, carried, several(1))
            sums = carried[n_left:]
            for k in range(n_vectors):
                # the sum of a panel starts at zero and is added to the row once, because that rounds less
                total = sums[k]
                for i in range(1, n_sums):
                    total = builder.fadd(total, sums[i * n_vectors + k])
                e.store(builder.fadd(e.load(y_, y_base_, k), total), y_, y_base_, k)
            return context.get_dummy_value()

        return types.void(values, index, start, stop, x, x_base, y, y_base), emit

    return gather_row


@intrinsic
def has_32_registers(typing_context: Any) -> Any:
    """Return whether the processor has AVX512: two lines of eight registers and their factors fit its registers."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.boolean, has_permutes(context))

    return types.boolean(), emit


@intrinsic
def gather_pair_8(
    typing_context: Any,
    values: Any,
    short_mask: Any,
    short_start: Any,
    long_mask: Any,
    long_start: Any,
    x: Any,
    x_base: Any,
    y: Any,
    short_base: Any,
    long_base: Any,
) -> Any:
    """Do what `gather_row_8` does with each of two rows, to the same bits; the first has at most as many columns.

    A processor that has to guess where a loop ends guesses once for two rows. A row's columns are the bits of its mask.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 8)
        values_, short_mask_, short_start_, long_mask_, long_start_, x_, x_base_, y_, short_base_, long_base_ = e.args

        def add(entry: Any, carried: list[Any]) -> list[Any]:
            (line,), left = e.lines(carried[0], x_base_, i64(0), 1, carried[:1])
            scale, line = e.broadcast(values_, entry), e.pinned(x_, line)
            return [*left, *(e.fma(scale, e.load(line, i64(0), k), carried[1 + k]) for k in range(8))]

        def both(n: int) -> Callable[[Any, list[Any]], list[Any]]:
            def body(j: Any, carried: list[Any]) -> list[Any]:
                short, long = carried[:9], carried[9:]
                for i in range(n):
                    entry = builder.add(j, i64(i))
                    short = add(builder.add(short_start_, entry), short)
                    long = add(builder.add(long_start_, entry), long)
                return [*short, *long]

            return body

        n_short, n_long = count(builder, short_mask_), count(builder, long_mask_)
        j, carried = e.loop(i64(0), n_short, 8, [short_mask_, *[e.zero] * 8, long_mask_, *[e.zero] * 8], both(8))
        j, carried = e.loop(j, n_short, 1, carried, both(1))
        _, long = e.loop(j, n_long, 1, carried[9:], lambda j, left: add(builder.add(long_start_, j), left))
        for base, sums in ((short_base_, carried[1:9]), (long_base_, long[1:])):
            for k in range(8):
                e.store(builder.fadd(e.load(y_, base, k), sums[k]), y_, base, k)
        return context.get_dummy_value()

    rows = (short_mask, short_start, long_mask, long_start)
    return types.void(values, *rows, x, x_base, y, short_base, long_base), emit


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

            def spread(j: Any, left: list[Any]) -> list[Any]:
                (line,), left = e.lines(index_, x_base_, j, 1, left)
                scale, line = e.broadcast(values_, j), e.pinned(x_, line)
                for k in range(n_vectors):
                    e.store(e.fma(scale, row[k], e.load(line, i64(0), k)), line, i64(0), k)
                return left

            e.loop(start_, stop_, 1, e.columns_left(index_), spread)
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
                    lines, _ = e.lines(index_, x_base_, j, n, [])
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
            values.append(context.make_array(kind)(context, builder, value).data if is_array else widen(builder, value))
        values += [widen(builder, task_), widen(builder, worker_)]
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
        square = [e.load(src_, builder.add(src_base_, builder.mul(src_stride_, i64(i)))) for i in range(n)]
        low = [lane for i in range(n // 2) for lane in (i, n + i)]
        high = [lane for i in range(n // 2, n) for lane in (i, n + i)]
        # Number the elements by row and lane. Interleaving row i with row i + n/2 rotates the bits of this number
        # by one, so log2(n) passes exchange row and lane.
        for _ in range(n.bit_length() - 1):
            square = [e.shuffle(square[i], square[i + n // 2], half) for i in range(n // 2) for half in (low, high)]
        for i in range(n):
            e.store(square[i], dst_, builder.add(dst_base_, builder.mul(dst_stride_, i64(i))))
        return context.get_dummy_value()

    return types.void(src, src_base, src_stride, dst, dst_base, dst_stride), emit


gather_row_1, gather_row_2, gather_row_4, gather_row_8 = (_make_gather_row(n) for n in (1, 2, 4, 8))
gather_short_row_8 = _make_gather_row(8, at_once=4)
scatter_row_1, scatter_row_2, scatter_row_4, scatter_row_8 = (_make_scatter_row(n) for n in (1, 2, 4, 8))
dot_row = _make_dot_row(4)
