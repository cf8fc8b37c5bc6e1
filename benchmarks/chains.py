# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Loops over the instructions or over one row of a sparse product, which `bounds` times: tasks of `panels.run`."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu.emitter import Emitter
from seft_ref.kernels.cpu.vectors import gather_row_8

CHAINS = 16
"""Number of independent sums, so that no multiply-add waits for the one before it, which takes four cycles."""
_I64 = ir.IntType(64)


def _chain(add: Any) -> Any:
    """Return an intrinsic that updates each of CHAINS sums n times: sum = add(emitter, factor, line, number, sum).

    `line` is one of 31 lines of CHAINS registers in 32 KiB. It changes with every repeat, so that LLVM has to load its
    operands each time.
    """

    @intrinsic
    def chain(typing_context: Any, lines: Any, sums: Any, n: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args, CHAINS)
            lines_, sums_, n_ = e.args
            zero = ir.Constant(_I64, 0)
            first = [e.load(sums_, zero, k) for k in range(CHAINS)]
            factor = e.load(lines_, zero)

            def once(j: Any, carried: list[Any]) -> list[Any]:
                number = builder.urem(j, ir.Constant(_I64, 31))
                line = e.pinned(lines_, builder.mul(number, ir.Constant(_I64, CHAINS * e.lanes)))
                return [add(e, factor, line, k, total) for k, total in enumerate(carried)]

            _, last = e.loop(zero, n_, 1, first, once)
            for k, total in enumerate(last):
                e.store(total, sums_, zero, k)
            return context.get_dummy_value()

        return types.void(lines, sums, n), emit

    return chain


def _of_register(e: Emitter, factor: Any, line: Any, k: int, total: Any) -> Any:
    return e.fma(factor, factor, total)


def _of_load(e: Emitter, factor: Any, line: Any, k: int, total: Any) -> Any:
    return e.fma(factor, e.load(line, ir.Constant(_I64, 0), k), total)


def _of_pairs(e: Emitter, factor: Any, line: Any, k: int, total: Any) -> Any:
    # the operands are vectors of integers, which LLVM before 16 requires and later versions accept
    pairs = ir.VectorType(ir.IntType(32), e.lanes)
    kind = ir.FunctionType(e.vector, [e.vector, pairs, pairs])
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    dot = cgutils.get_or_insert_function(e.builder.module, kind, name)
    both = e.builder.bitcast(factor, pairs)
    return e.builder.call(dot, [total, both, both])


_registers, _loads, _pairs = (_chain(add) for add in (_of_register, _of_load, _of_pairs))


def from_registers(lines, sums, n, task, worker):
    """Run CHAINS multiply-adds n times, with operands in registers."""
    _registers(lines, sums, n)


def from_memory(lines, sums, n, task, worker):
    """Run CHAINS multiply-adds n times, each with an operand loaded from 32 KiB of memory."""
    _loads(lines, sums, n)


def of_bfloat16(lines, sums, n, task, worker):
    """Run CHAINS dot products of pairs of bfloat16 n times."""
    _pairs(lines, sums, n)


def of_one_row(values, index, stored, lines, sums, n, task, worker):
    """Add the products of one row to its line of y, n times."""
    for _ in range(n):
        gather_row_8(values, index, 0, stored, lines, 0, sums, 0)
