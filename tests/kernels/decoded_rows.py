"""The innermost loops of codes against plain ones: python -m tests.kernels.decoded_rows KIND

Codes, and what a row is written to, end where a page without access begins.
"""

import ctypes
import itertools
import sys

import numpy as np
from numba import cfunc, types
from numba.core.registry import cpu_target

from seft_ref.kernels.cpu import decode
from seft_ref.kernels.cpu.columns import add_column_8, turn_masks
from seft_ref.kernels.cpu.vectors import gather_pair_8, gather_row_8, scatter_row_8
from tests.kernels.test_bounds import Fence

PANEL, REGISTER = 64, 16
GROUPS = ((0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 2, 3), (0, 0, 0, 1), (0, 1, 1, 1), (0, 1, 1, 2))
"""The group of each 16 columns."""
ROWS = 3
BEHIND = 63
"""Bytes behind the first byte of a row that the loops may read."""


def masks(rng, n):
    """Draw masks as int64; the first are full, empty, and have the highest bit, the lowest and a quarter."""
    few = [-1, 0, -(2**63), 1, -(2**48)]
    drawn = (rng.random(PANEL) < share for share in rng.choice([0.05, 0.3, 0.5, 0.9], n - len(few)))
    return few + [int(np.packbits(bits, bitorder="little").view(np.int64)[0]) for bits in drawn]


def columns_of(mask):
    return np.flatnonzero(np.unpackbits(np.array([mask]).view(np.uint8), bitorder="little"))


def address(array):
    return array.ctypes.data


def loops(two_a_byte, asymmetric):
    """Compile the loops of one kind of codes as one C function."""
    codes, zeros = types.uint8 if two_a_byte else types.int8, types.int8 if asymmetric else types.uint8
    floats = types.CPointer(types.float32)
    numbers = [types.int64] * 5

    @cfunc(
        types.void(
            types.CPointer(codes),
            types.CPointer(types.int64),
            floats,
            types.CPointer(zeros),
            *numbers,
            *[floats] * 6,
        )
    )
    def run(codes, masks, scales, zeros, a, b, c, d, r, weights, square, x, sums, dy, dx):
        lines, mask = (a, b, c, d), masks[0]
        decode.open_rows(codes, 0, masks, -r, scales, zeros, lines, r, r + 1, weights, 0)
        decode.open_square(codes, 0, masks, -r, scales, zeros, lines, r, r + 1, square, 0)
        decode.dot_rows(codes, 0, masks, -r, scales, zeros, lines, r, r + 1, x, 0, sums, 0)
        decode.spread_row(codes, 0, mask, scales, zeros, lines, r, dy, r, dx, 0)

    pointers = [ctypes.c_void_p] * 6
    signature = (*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 5, *pointers)
    return run, ctypes.CFUNCTYPE(None, *signature)(run.address)


def compare_rows(two_a_byte, asymmetric, n=400):
    rng, fence = np.random.default_rng(1), Fence()
    kept, call = loops(two_a_byte, asymmetric)
    low, high = (-8, 8) if two_a_byte else (-128, 128)
    raw = fence.empty((BEHIND + 1,), np.uint8)
    weights, square, dx = (fence.empty((PANEL,), np.float32) for _ in range(3))
    sums = fence.empty((REGISTER,), np.float32)
    for trial, mask in enumerate(masks(rng, n)):
        columns, groups, r = columns_of(mask), GROUPS[trial % len(GROUPS)], trial % ROWS
        code = rng.integers(low, high, columns.size).astype(np.int8)
        raw[:] = rng.integers(0, 256, raw.size)
        if two_a_byte:
            nibbles = (code & 15).astype(np.uint8)
            raw[: columns.size // 2] = nibbles[:-1:2][: columns.size // 2] | nibbles[1::2] << 4
            if columns.size % 2:
                raw[columns.size // 2] = raw[columns.size // 2] & 240 | nibbles[-1]
        else:
            raw[: columns.size] = code.view(np.uint8)
        scales = rng.standard_normal(ROWS * 4).astype(np.float32) if trial % 13 else np.full(12, 2.0**-149, np.float32)
        zeros = rng.integers(low, high, ROWS * 4).astype(np.int8) if asymmetric else np.zeros(1, np.uint8)
        at = np.array(groups)[columns // REGISTER] * ROWS + r
        steps = code.astype(np.float64) - (zeros[at] if asymmetric else 0)
        wanted = (steps * scales[at].astype(np.float64)).astype(np.float32)
        x, dy = rng.integers(-8, 9, PANEL).astype(np.float32), rng.integers(-8, 9, ROWS).astype(np.float32)
        before = rng.integers(-8, 9, PANEL).astype(np.float32)
        sums[:], dx[:] = 0, before
        numbers = (*(group * ROWS for group in groups), r)
        pointers = map(address, (weights, square, x, sums, dy, dx))
        call(address(raw), address(np.array([mask], np.int64)), address(scales), address(zeros), *numbers, *pointers)
        assert weights[: columns.size].tobytes() == wanted.tobytes(), mask
        assert square[columns].tobytes() == wanted.tobytes(), mask
        wide = wanted.astype(np.float64)
        assert abs(sums.astype(np.float64).sum() - wide @ x[columns]) <= 1e-5 * (abs(wide) @ abs(x[columns])), mask
        # a product of numbers of 24 and 4 bits is exact in float64, and so is its sum with a small number
        before[columns] = (wide * dy[r] + before[columns]).astype(np.float32)
        assert np.array_equal(dx, before), mask
    del kept


def compare_pairs(n=60):
    """Compare two rows that are multiplied at once with one after the other, to the bit."""
    floats = types.CPointer(types.float32)

    @cfunc(types.void(floats, types.int64, types.int64, floats, floats))
    def at_once(values, short, long, x, y):
        gather_pair_8(values, short, 0, long, PANEL, x, 0, y, 0, 8 * REGISTER)

    @cfunc(types.void(floats, types.int64, types.int64, floats, floats))
    def in_turn(values, short, long, x, y):
        gather_row_8(values, short, 0, decode.popcount(short), x, 0, y, 0)
        gather_row_8(values, long, PANEL, PANEL + decode.popcount(long), x, 0, y, 8 * REGISTER)

    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2)
    rng = np.random.default_rng(2)
    drawn = sorted(masks(rng, n), key=lambda mask: columns_of(mask).size)
    for short, long in itertools.combinations_with_replacement(drawn, 2):
        sizes = (2 * PANEL, PANEL * 8 * REGISTER, 2 * 8 * REGISTER)
        values, x, y = (rng.standard_normal(size).astype(np.float32) for size in sizes)
        wanted = y.copy()
        signature(at_once.address)(address(values), short, long, address(x), address(y))
        signature(in_turn.address)(address(values), short, long, address(x), address(wanted))
        assert y.tobytes() == wanted.tobytes(), (short, long)


def compare_columns():
    """Compare the masks and sums of the columns of a square with plain loops, the sums to the bit."""
    floats, bits = types.CPointer(types.float32), types.CPointer(types.int64)

    @cfunc(types.void(bits, bits))
    def turn(masks, turned):
        turn_masks(masks, 1, turned, 2)

    @cfunc(types.void(floats, types.int64, floats, floats))
    def by_column(square, rows, dy, dx):
        add_column_8(square, 3, rows, dy, 0, dx, 0)

    @cfunc(types.void(floats, types.int64, types.int64, floats, floats))
    def by_row(values, column, stop, dx, dy):
        scatter_row_8(values, column, 0, stop, dx, 0, dy, 0)

    pointer, number = ctypes.c_void_p, ctypes.c_int64
    turn_64 = ctypes.CFUNCTYPE(None, pointer, pointer)(turn.address)
    add_column = ctypes.CFUNCTYPE(None, pointer, number, pointer, pointer)(by_column.address)
    add_row = ctypes.CFUNCTYPE(None, pointer, number, number, pointer, pointer)(by_row.address)
    rng = np.random.default_rng(2)
    drawn = masks(rng, 4 * PANEL)
    for first in range(0, len(drawn) - PANEL - 1, 17):
        of_rows, of_columns = np.array(drawn[first : first + PANEL + 1], np.int64), np.full(PANEL + 3, -7, np.int64)
        turn_64(address(of_rows), address(of_columns))
        stored = of_rows[1:].astype(np.uint64)[:, None] >> np.arange(PANEL, dtype=np.uint64) & np.uint64(1)
        wanted = (stored << np.arange(PANEL, dtype=np.uint64)[:, None]).sum(axis=0, dtype=np.uint64)
        assert np.array_equal(of_columns[2:-1].astype(np.uint64), wanted), first
        assert (of_columns[[0, 1, -1]] == -7).all(), first
    for rows in drawn[:PANEL]:
        square, dy, dx = (
            rng.standard_normal(size).astype(np.float32) for size in (PANEL * PANEL, PANEL * 8 * REGISTER, 8 * REGISTER)
        )
        in_turn = dx.copy()
        for r in range(PANEL):
            if rows >> r & 1:
                line = dy[r * 8 * REGISTER : (r + 1) * 8 * REGISTER]
                add_row(address(square[3 + PANEL * r :][:1]), 1, 1, address(in_turn), address(line))
        add_column(address(square), rows, address(dy), address(dx))
        assert dx.tobytes() == in_turn.tobytes(), rows


if __name__ == "__main__":
    kind = decode.kind_of_row(cpu_target.target_context).__name__
    assert kind == sys.argv[1], f"this processor gets {kind}"
    for two_a_byte in (False, True):
        for asymmetric in (False, True):
            compare_rows(two_a_byte, asymmetric)
    compare_pairs()
    compare_columns()
    print("the same")
