# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Where entries of a vector exceed a number (KRN-014): 64 comparisons at a time become the 64 bits of one integer, and
only set bits are looked at, so that an entry that does not exceed costs a lane of a comparison and no branch.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.vectors import REGISTER_BYTES

_I64 = ir.IntType(64)
BITS = 64


@intrinsic
def above(typing_context: Any, address: Any, least: Any) -> Any:
    """Return 64 bits: bit i is set where the i-th number at the address has |number| > least or is NaN."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address_, least_ = args
        width = signature.args[1].bitwidth
        lanes = 8 * REGISTER_BYTES // width
        vector = ir.VectorType(context.get_data_type(signature.args[1]), lanes)
        lane0 = builder.insert_element(ir.Constant(vector, ir.Undefined), least_, ir.Constant(ir.IntType(32), 0))
        to_all = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        bound = builder.shuffle_vector(lane0, lane0, to_all)
        kind = ir.FunctionType(vector, [vector])
        magnitude = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fabs.v{lanes}f{width}")
        registers = builder.inttoptr(address_, vector.as_pointer())
        bits = ir.Constant(_I64, 0)
        for k in range(BITS // lanes):
            numbers = builder.load(builder.gep(registers, [ir.Constant(_I64, k)]), align=width // 8)
            # unordered: true for NaN too
            exceeds = builder.fcmp_unordered(">", builder.call(magnitude, [numbers]), bound)
            part = builder.zext(builder.bitcast(exceeds, ir.IntType(lanes)), _I64)
            bits = builder.or_(bits, builder.shl(part, ir.Constant(_I64, k * lanes)))
        return bits

    return types.uint64(types.uint64, least), emit


@intrinsic
def lowest(typing_context: Any, bits: Any) -> Any:
    """Return the number of the lowest set bit; there must be one."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


@compiled()
def fill(values, start, least, found):
    """Fill found with what exceeds from start on, while 64 more fit; return how many, and where to go on.

    A function of its own: counted references to an array that may be replaced would be taken in its loop.
    """
    address, size = np.uint64(values.ctypes.data), np.uint64(values.itemsize)
    n_found = 0
    while start + BITS <= values.shape[0] and n_found + BITS <= found.shape[0]:
        bits = above(address + np.uint64(start) * size, least)
        while bits != 0:
            found[n_found] = start + lowest(bits)
            n_found += 1
            bits &= bits - np.uint64(1)
        start += BITS
    return n_found, start


@compiled()
def indices_above(values, least):
    """Return where |value| > least or value is NaN, ascending."""
    n = values.shape[0]
    found = np.empty(4096, dtype=np.int64)
    n_found, start = fill(values, 0, least, found)
    while start + BITS <= n:
        larger = np.empty(2 * found.shape[0], dtype=np.int64)
        larger[:n_found] = found[:n_found]
        found = larger
        more, start = fill(values, start, least, found[n_found:])
        n_found += more
    result = np.empty(n_found + n - start, dtype=np.int64)
    result[:n_found] = found[:n_found]
    for i in range(start, n):
        if not (abs(values[i]) <= least):
            result[n_found] = i
            n_found += 1
    return result[:n_found]
