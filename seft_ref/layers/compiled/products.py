# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Products of small dense matrices inside a compiled loop: four rows times four registers of columns at a time.

    c[i, j]  +=  sum over k of a[i, k] · b[k, j]

Each sum adds its terms in the order of k. BLAS is not used, for two reasons. One product of attention is too small for
the threads of BLAS, and rows that see few keys need only a part of a product.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.emitter import Emitter

ROWS = 4
"""Rows of c that are summed at once."""
VECTORS = 4
"""Registers of 64 bytes of a row of c that are summed at once with AVX512. These 16 sums keep a processor busy whose
multiply-add takes four cycles. Without AVX512 there is room for one, which fills two or four of its registers."""
_I64 = ir.IntType(64)


def _make_tile(n_rows: int, n_vectors: int) -> Any:
    """Return the intrinsic that adds the product of n_rows rows of a with n_vectors registers of columns of b to c."""

    @intrinsic
    def tile(
        typing_context: Any,
        a: Any,
        a_base: Any,
        a_row: Any,
        a_step: Any,
        n_steps: Any,
        b: Any,
        b_base: Any,
        b_step: Any,
        c: Any,
        c_base: Any,
        c_row: Any,
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args, n_vectors)
            a_, a_base_, a_row_, a_step_, n_steps_, b_, b_base_, b_step_, c_, c_base_, c_row_ = e.args

            def row_of(base: Any, row: Any, i: int) -> Any:
                return builder.add(base, builder.mul(row, ir.Constant(_I64, i)))

            rows, results = ([row_of(*of, i) for i in range(n_rows)] for of in ((a_base_, a_row_), (c_base_, c_row_)))

            def add(registers: range) -> None:
                """Add the product with these registers of columns of b to c."""

                def step(k: Any, sums: list[Any]) -> list[Any]:
                    there = builder.add(b_base_, builder.mul(k, b_step_))
                    columns = [e.load(b_, there, v) for v in registers]
                    at = builder.mul(k, a_step_)
                    factors = [e.broadcast(a_, builder.add(row, at)) for row in rows]
                    terms = [(factor, column) for factor in factors for column in columns]
                    return [e.fma(*term, total) for term, total in zip(terms, sums, strict=True)]

                places = [(result, v) for result in results for v in registers]
                _, sums = e.loop(ir.Constant(_I64, 0), n_steps_, 1, [e.load(c_, *place) for place in places], step)
                for place, total in zip(places, sums, strict=True):
                    e.store(total, c_, *place)

            _, _, features = context.codegen().magic_tuple()
            at_once = n_vectors if "+avx512f" in features.split(",") else 1
            for first in range(0, n_vectors, at_once):
                add(range(first, first + at_once))
            return context.get_dummy_value()

        return types.void(a, a_base, a_row, a_step, n_steps, b, b_base, b_step, c, c_base, c_row), emit

    return tile


_tile_4_4, _tile_4_1, _tile_1_4, _tile_1_1 = (_make_tile(r, v) for r in (ROWS, 1) for v in (VECTORS, 1))


@compiled()
def add_product(a, a_base, a_row, a_step, n_rows, n_steps, b, b_base, b_step, c, c_base, c_row, first, last, lanes):
    """Add to c[i, j], i < n_rows and first <= j < last, the sum over k < n_steps of a[i, k] · b[k, j].

    a[i, k] is a[a_base + i * a_row + k * a_step], b[k, j] is b[b_base + k * b_step + j], and c[i, j] is
    c[c_base + i * c_row + j]; first and last are multiples of the lanes of a register.
    """
    j = first
    while j < last:
        wide = j + VECTORS * lanes <= last
        i = 0
        while i < n_rows:
            x, y = a_base + i * a_row, c_base + i * c_row + j
            if i + ROWS <= n_rows:
                if wide:
                    _tile_4_4(a, x, a_row, a_step, n_steps, b, b_base + j, b_step, c, y, c_row)
                else:
                    _tile_4_1(a, x, a_row, a_step, n_steps, b, b_base + j, b_step, c, y, c_row)
                i += ROWS
            else:
                if wide:
                    _tile_1_4(a, x, a_row, a_step, n_steps, b, b_base + j, b_step, c, y, c_row)
                else:
                    _tile_1_1(a, x, a_row, a_step, n_steps, b, b_base + j, b_step, c, y, c_row)
                i += 1
        j += VECTORS * lanes if wide else lanes


@compiled()
def padded(a, a_base, n_rows, n_columns, b, b_base, b_row):
    """Copy n_rows rows of n_columns numbers of a to rows of b_row numbers of b, padded with zeros."""
    for i in range(n_rows):
        for j in range(n_columns):
            b[b_base + i * b_row + j] = a[a_base + i * n_columns + j]
        for j in range(n_columns, b_row):
            b[b_base + i * b_row + j] = 0


@compiled()
def zeroed(a, base, n):
    """Write zeros to a[base] and the n - 1 numbers behind it."""
    for i in range(base, base + n):
        a[i] = 0


@compiled()
def rounded_up(n, lanes):
    """Return the least multiple of lanes that is not less than n."""
    return (n + lanes - 1) // lanes * lanes
