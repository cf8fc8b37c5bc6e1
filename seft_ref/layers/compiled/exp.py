# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""exp as a few products and sums, so that LLVM computes it for as many numbers at once as a register holds.

    exp(x) = 2^n · exp(r)     n = x / ln 2 rounded, |r| <= ln 2 / 2, and exp(r) by its Taylor series

The exp of the C library takes one number a call and is several times slower. The result is within 2 units in the last
place. It is 0 where it would be below the smallest normal number, because arithmetic with such numbers takes a hundred
times as long. NaN stays NaN.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload


@intrinsic
def scaled(typing_context: Any, number: Any, rounded: Any, rounder: Any) -> Any:
    """Return number · 2^n, where rounded = rounder + n; infinity beyond the largest number of the dtype.

    2^n is multiplied as two factors, because exp needs 2^128 for some numbers, which float32 does not have.
    """
    width, fraction, bias = (32, 23, 127) if number.bitwidth == 32 else (64, 52, 1023)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number_, rounded_, rounder_ = args
        bits = ir.IntType(width)

        def power(n: Any) -> Any:
            exponent = builder.add(n, ir.Constant(bits, bias))
            return builder.bitcast(builder.shl(exponent, ir.Constant(bits, fraction)), number_.type)

        n = builder.sub(builder.bitcast(rounded_, bits), builder.bitcast(rounder_, bits))
        half = builder.ashr(n, ir.Constant(bits, 1))
        return builder.fmul(builder.fmul(number_, power(half)), power(builder.sub(n, half)))

    return number(number, rounded, rounder), emit


def exp(x: Any) -> Any:
    """Return exp of a number in a compiled loop; its implementation depends on the type of x."""
    raise NotImplementedError("only compiled loops call this")


@overload(exp, jit_options={"error_model": "numpy"})
def _exp_of(x):
    """Return the implementation for float32 or float64, whose constants are of that type."""
    kind = np.float32 if x == types.float32 else np.float64
    info = np.finfo(kind)
    # adding `rounder` rounds a number to an integer, which then stands in the lowest bits of the sum
    rounder = kind(1.5 * 2.0**info.nmant)
    # ln 2 is split in two, because the first part has so few bits that its product with n is exact
    high, low = kind(0.693359375), kind(-0.000212194440054690582768)
    per_ln2, zero, one = kind(1 / math.log(2)), kind(0), kind(1)
    least, most = kind(math.log(info.tiny) + 1e-5), kind(math.log(info.max) + 1)
    c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = (kind(1 / math.factorial(k)) for k in range(2, 14))

    def exp32(x):
        within = least if x < least else x
        within = most if within > most else within
        rounded = within * per_ln2 + rounder
        n = rounded - rounder
        r = (within - n * high) - n * low
        series = ((((((c7 * r + c6) * r + c5) * r + c4) * r + c3) * r + c2) * r + one) * r + one
        return zero if x < least else scaled(series, rounded, rounder)

    def exp64(x):
        within = least if x < least else x
        within = most if within > most else within
        rounded = within * per_ln2 + rounder
        n = rounded - rounder
        r = (within - n * high) - n * low
        series = ((((((c13 * r + c12) * r + c11) * r + c10) * r + c9) * r + c8) * r + c7) * r + c6
        series = ((((((series * r + c5) * r + c4) * r + c3) * r + c2) * r + one) * r) + one
        return zero if x < least else scaled(series, rounded, rounder)

    return exp32 if kind is np.float32 else exp64
