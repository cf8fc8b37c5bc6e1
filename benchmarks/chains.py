# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Loops of the instructions of a product and of nothing else, for `bounds`: tasks of `panels.run`."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu.vectors import Emitter, gather_row_8

CHAINS = 16
"""Sums that are added to in turn, so that none waits for another; a multiply-add takes four cycles."""
_I64 = ir.IntType(64)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not have."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _chain(add: Any) -> Any:
    """Return an intrinsic that runs n times through CHAINS sums: sum = add(emitter, lines, number of the sum, sum)."""

    @intrinsic
    def chain(typing_context: Any, lines: Any, sums: Any, n: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args, CHAINS)
            lines_, sums_, n_ = e.args
            first = [e.load(sums_, ir.Constant(_I64, 0), k) for k in range(CHAINS)]
            _, last = e.loop(
                ir.Constant(_I64, 0),
                n_,
                1,
                first,
                lambda j, carried: [add(e, lines_, j, k, total) for k, total in enumerate(carried)],
            )
            for k, total in enumerate(last):
                e.store(total, sums_, ir.Constant(_I64, 0), k)
            return context.get_dummy_value()

        return types.void(lines, sums, n), emit

    return chain


def _of_register(e: Emitter, lines: Any, j: Any, k: int, total: Any) -> Any:
    return e.fma(total, e.zero, total)


def _of_load(e: Emitter, lines: Any, j: Any, k: int, total: Any) -> Any:
    # one of 31 places in 32 KiB, so that LLVM cannot keep what it has loaded
    offset = e.builder.mul(e.builder.urem(j, ir.Constant(_I64, 31)), ir.Constant(_I64, CHAINS * e.lanes))
    return e.fma(e.zero, e.load(lines, offset, k), total)


def _of_pairs(e: Emitter, lines: Any, j: Any, k: int, total: Any) -> Any:
    pairs = ir.VectorType(_BFloat(), 2 * e.lanes)
    kind = ir.FunctionType(e.vector, [e.vector, pairs, pairs])
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    dot = cgutils.get_or_insert_function(e.builder.module, kind, name)
    factor = e.builder.bitcast(total, pairs)
    return e.builder.call(dot, [total, factor, factor])


_registers, _loads, _pairs = (_chain(add) for add in (_of_register, _of_load, _of_pairs))


def from_registers(lines, sums, n, task, worker):
    """Run n times through CHAINS multiply-adds whose operands are in registers."""
    _registers(lines, sums, n)


def from_memory(lines, sums, n, task, worker):
    """Run n times through CHAINS multiply-adds, each with an operand from 32 KiB."""
    _loads(lines, sums, n)


def of_bfloat16(lines, sums, n, task, worker):
    """Run n times through CHAINS dot products of pairs of bfloat16."""
    _pairs(lines, sums, n)


def of_one_row(values, index, stored, lines, sums, n, task, worker):
    """Add n times what a row of these entries adds to its line of y."""
    for _ in range(n):
        gather_row_8(values, index, 0, stored, lines, 0, sums, 0)
