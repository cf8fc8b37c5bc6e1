# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Sums and the largest number of a row, a register at a time.

Vectors are written out here, because loop vectorisers keep the order of a sum and add one number at a time. Sums are
binary64 whatever the dtype of the row, so that they round less than pairwise sums of float32. The order of a sum
depends on the length of the row alone.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.emitter import REGISTER_BYTES, Emitter

LANES = REGISTER_BYTES // 4
"""Vector loops take groups of LANES numbers, which fill registers of either dtype; a scalar loop takes the rest."""
_BINARY64 = ir.DoubleType()


def _wide(e: Emitter, vector: Any) -> Any:
    """Return a vector as binary64."""
    return vector if e.align == 8 else e.builder.fpext(vector, ir.VectorType(_BINARY64, e.lanes))


def _halved(e: Emitter, vector: Any, join: Any) -> Any:
    """Return one number: the lanes of a vector joined half with half by the function `join`."""
    n = vector.type.count
    while n > 1:
        n //= 2
        vector = join(e.shuffle(vector, vector, list(range(n))), e.shuffle(vector, vector, list(range(n, 2 * n))))
    return e.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


@intrinsic
def _products(typing_context: Any, x: Any, x_base: Any, y: Any, y_base: Any, n: Any) -> Any:
    """Return the sum of x[x_base + j] · y[y_base + j] for j < n, a multiple of the lanes of a register."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 1)
        x_, x_base_, y_, y_base_, n_ = e.args
        zero = ir.Constant(ir.VectorType(_BINARY64, e.lanes), None)

        def add(j: Any, carried: list[Any]) -> list[Any]:
            a, b = (_wide(e, e.load(array, builder.add(base, j))) for array, base in ((x_, x_base_), (y_, y_base_)))
            return [builder.fadd(carried[0], builder.fmul(a, b))]

        _, (total,) = e.loop(ir.Constant(ir.IntType(64), 0), n_, e.lanes, [zero], add)
        return _halved(e, total, builder.fadd)

    return types.float64(x, x_base, y, y_base, n), emit


@intrinsic
def _numbers(typing_context: Any, x: Any, base: Any, n: Any) -> Any:
    """Return the sum of x[base + j] for j < n, a multiple of the lanes of a register."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 1)
        x_, base_, n_ = e.args
        zero = ir.Constant(ir.VectorType(_BINARY64, e.lanes), None)

        def add(j: Any, carried: list[Any]) -> list[Any]:
            return [builder.fadd(carried[0], _wide(e, e.load(x_, builder.add(base_, j))))]

        _, (total,) = e.loop(ir.Constant(ir.IntType(64), 0), n_, e.lanes, [zero], add)
        return _halved(e, total, builder.fadd)

    return types.float64(x, base, n), emit


@intrinsic
def _most(typing_context: Any, x: Any, base: Any, n: Any) -> Any:
    """Return the largest of x[base + j] for j < n, a multiple of the lanes of a register; NaN is ignored.

    It is −∞ if n is 0 or all are NaN.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args, 1)
        x_, base_, n_ = e.args
        lowest = ir.Constant(e.vector, [float("-inf")] * e.lanes)

        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        def take(j: Any, carried: list[Any]) -> list[Any]:
            return [larger(e.load(x_, builder.add(base_, j)), carried[0])]

        _, (most,) = e.loop(ir.Constant(ir.IntType(64), 0), n_, e.lanes, [lowest], take)
        return _halved(e, most, larger)

    return x.dtype(x, base, n), emit


@compiled()
def sum_of_products(x, x_base, y, y_base, n):
    """Return the sum of x[x_base + j] · y[y_base + j] for j < n, in binary64."""
    whole = n - n % LANES
    total = _products(x, x_base, y, y_base, whole)
    for j in range(whole, n):
        total += types.float64(x[x_base + j]) * types.float64(y[y_base + j])
    return total


@compiled()
def sum_of(x, base, n):
    """Return the sum of x[base + j] for j < n, in binary64."""
    whole = n - n % LANES
    total = _numbers(x, base, whole)
    for j in range(whole, n):
        total += types.float64(x[base + j])
    return total


@compiled()
def largest_of(x, base, n):
    """Return the largest of x[base + j] for j < n, ignoring NaN; −∞ if there is none."""
    whole = n - n % LANES
    most = _most(x, base, whole)
    for j in range(whole, n):
        most = x[base + j] if x[base + j] > most else most
    return most
