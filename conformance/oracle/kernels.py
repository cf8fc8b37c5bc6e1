"""Sums over stored positions, one product at a time in binary64 (KRN)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from conformance.oracle.tape import Array


@dataclass(frozen=True)
class Sums:
    """Results and, entry by entry, the gauge Σ|a||b| and the number of terms K."""

    value: Array
    gauge: Array
    terms: Array


def _sums(shape: tuple[int, ...], entries: Iterable[tuple[tuple[int, ...], list[tuple[float, float]]]]) -> Sums:
    value, gauge, terms = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for index, pairs in entries:
        value[index] = math.fsum(a * b for a, b in pairs)
        gauge[index] = math.fsum(abs(a * b) for a, b in pairs)
        terms[index] = len(pairs)
    return Sums(value, gauge, terms)


def matmul(w: dict[tuple[int, int], float], shape: tuple[int, int], x: Array) -> Sums:
    """Return y = x Wᵀ over the stored positions of each row (KRN-001)."""
    return _sums(
        (len(x), shape[0]),
        (
            ((t, r), [(float(x[t, c]), v) for (row, c), v in w.items() if row == r])
            for t in range(len(x))
            for r in range(shape[0])
        ),
    )


def matmul_transposed(w: dict[tuple[int, int], float], shape: tuple[int, int], dy: Array) -> Sums:
    """Return dx = dy W over the stored positions of each column (KRN-002)."""
    flipped = {(c, r): v for (r, c), v in w.items()}
    return matmul(flipped, (shape[1], shape[0]), dy)


def sample(w: dict[tuple[int, int], float], dy: Array, x: Array) -> Sums:
    """Return the entries of dyᵀ x at the stored positions, in slot order (KRN-003)."""
    return _sums(
        (len(w),),
        (((s,), [(float(dy[t, r]), float(x[t, c])) for t in range(len(x))]) for s, (r, c) in enumerate(w)),
    )
