# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Finds the indices of the entries of a vector that exceed a number in magnitude (KRN-014).

The results of 64 comparisons become the bits of one integer, and the loop visits only the set bits. So an entry that
does not exceed costs one lane of a comparison and no branch.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.emitter import REGISTER_BYTES

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
            # an unordered comparison, because it is true for NaN too
            exceeds = builder.fcmp_unordered(">", builder.call(magnitude, [numbers]), bound)
            part = builder.zext(builder.bitcast(exceeds, ir.IntType(lanes)), _I64)
            bits = builder.or_(bits, builder.shl(part, ir.Constant(_I64, k * lanes)))
        return bits

    return types.uint64(types.uint64, least), emit


@intrinsic
def lowest(typing_context: Any, bits: Any) -> Any:
    """Return the index of the lowest set bit; there must be one."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


@compiled()
def fill(values, start, least, positions):
    """Write the indices of entries that exceed, from `start` on, as long as `positions` has room for 64 more.

    Return how many indices were written, and the index at which to continue.

    This is a separate function, because the caller replaces its array, and numba would then count references in the
    loop.
    """
    address, size = np.uint64(values.ctypes.data), np.uint64(values.itemsize)
    n_found = 0
    while start + BITS <= values.shape[0] and n_found + BITS <= positions.shape[0]:
        bits = above(address + np.uint64(start) * size, least)
        while bits != 0:
            positions[n_found] = start + lowest(bits)
            n_found += 1
            bits &= bits - np.uint64(1)
        start += BITS
    return n_found, start


@compiled()
def indices_above(values, least):
    """Return the ascending indices, int64, at which |value| > least or value is NaN."""
    n = values.shape[0]
    indices = np.empty(4096, dtype=np.int64)
    n_indices, start = fill(values, 0, least, indices)
    while start + BITS <= n:
        larger = np.empty(2 * indices.shape[0], dtype=np.int64)
        larger[:n_indices] = indices[:n_indices]
        indices = larger
        more, start = fill(values, start, least, indices[n_indices:])
        n_indices += more
    result = np.empty(n_indices + n - start, dtype=np.int64)
    result[:n_indices] = indices[:n_indices]
    for i in range(start, n):
        if not (abs(values[i]) <= least):
            result[n_indices] = i
            n_indices += 1
    return result[:n_indices]
