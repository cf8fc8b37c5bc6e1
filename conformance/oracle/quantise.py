"""Quantised matrices in exact fractions, entry by entry (chapter 19)."""

import math
import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from conformance.oracle import prune
from conformance.oracle.select import Round
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.tape import Array


@dataclass
class Coded:
    """A quantised matrix: codes by flat position, scales and zero points by row and group."""

    shape: tuple[int, int]
    columns: int
    low: int
    high: int
    codes: dict[int, int]
    scales: list[list[float]]
    zeros: list[list[int]]

    def parts(self, position: int) -> tuple[float, int]:
        """Return scale and zero point of the group of a position (QNT-001)."""
        row, column = divmod(position, self.shape[1])
        return self.scales[row][column // self.columns], self.zeros[row][column // self.columns]

    def weight(self, position: int) -> Fraction:
        """Return the exact weight that the code of a position stands for (QNT-002)."""
        scale, zero = self.parts(position)
        return (self.codes[position] - zero) * Fraction(scale)

    def free(self, position: int, weight: float) -> int:
        """Return the code of a weight before it is clamped (QNT-004)."""
        scale, zero = self.parts(position)
        return round(float(Fraction(weight) / Fraction(scale))) + zero

    def clamped(self, code: int) -> int:
        """Return the nearest code within the range of the grid (QNT-004)."""
        return min(max(code, self.low), self.high)


def empty(grid: str, shape: tuple[int, int]) -> tuple[Coded, bool]:
    """Return a matrix without codes, and whether its grid is symmetric (QNT-001)."""
    match = re.fullmatch(r"int([48])(:g([1-9][0-9]*))?(:asym)?", grid)
    columns = int(match[3] or shape[1]) if match else 0
    if match is None or (match[3] and shape[1] % columns):
        raise RefusedError(f"QNT-001: grid {grid!r}")
    half = 2 ** (int(match[1]) - 1)
    return Coded(shape, columns, -half, half - 1, {}, [], []), not match[4]


def group_scale(weights: list[float], low: int, high: int, *, symmetric: bool) -> tuple[float, int, float]:
    """Return scale and zero point of a group, and the distance of the scale's rounding from a tie (QNT-003).

    The scale is 0 if it rounds to 0. The distance is relative to the scale.
    """
    if not all(math.isfinite(w) for w in weights):
        raise RefusedError("QNT-003: a weight that is not finite")
    lo, hi = min([0.0, *weights]), max([0.0, *weights])
    wide = max(-lo, hi) / high if symmetric else (hi - lo) / (high - low)
    if wide > float(np.finfo(np.float32).max):
        raise RefusedError("QNT-003: a scale beyond float32")
    scale = float(np.float32(wide))
    if scale * (-low if symmetric else high - low) > float(np.finfo(np.float32).max):
        raise RefusedError("QNT-003: a code beyond float32")
    if not scale:
        return 0.0, 0, 1.0
    other = float(np.nextafter(np.float32(scale), np.float32(np.inf if wide > scale else 0)))
    gap = abs(Fraction(wide) - (Fraction(scale) + Fraction(other)) / 2) / Fraction(scale) if wide != scale else 1
    zero = 0 if symmetric else min(max(round(-lo / scale) + low, low), high)
    return scale, zero, float(gap)


def declare(scales: list[list[float]]) -> list[list[float]]:
    """Return the scales with the largest of the row, or 1 without any, in place of a scale of 0 (QNT-003.3)."""
    return [[s or max(row) or 1.0 for s in row] for row in scales]


def nearest(weights: Array, positions: list[int], grid: str) -> Coded:
    """Return the quantised matrix of weights that are rounded independently (QNT-003, QNT-004)."""
    shape = (weights.shape[0], weights.shape[1])
    coded, symmetric = empty(grid, shape)
    at = {p: float(weights.reshape(-1)[p]) for p in positions}
    for row in range(shape[0]):
        coded.scales.append([])
        coded.zeros.append([])
        for first in range(row * shape[1], (row + 1) * shape[1], coded.columns):
            group = [at[p] for p in range(first, first + coded.columns) if p in at]
            scale, zero, _ = group_scale(group, coded.low, coded.high, symmetric=symmetric)
            coded.scales[-1].append(scale)
            coded.zeros[-1].append(zero)
    for p, w in at.items():
        scale, zero = coded.parts(p)
        coded.codes[p] = coded.clamped(coded.free(p, w)) if scale else zero
    coded.scales = declare(coded.scales)
    return coded


def gptq(weights: Array, positions: list[int], grid: str, x: Array, damping: float = 0.01) -> tuple[Coded, float]:
    """Return the matrix quantised by GPTQ, and the smallest distance of its rounding decisions from a tie (QNT-005)."""
    rows, columns = weights.shape
    coded, symmetric = empty(grid, (rows, columns))
    nearest(weights, positions, grid)  # QNT-005.7: called for its refusals
    stored = set(positions)
    h, dead = prune.hessian(x, damping)
    z = prune.trailing_columns(h)
    now = [[0.0 if c in dead or r * columns + c not in stored else float(weights[r, c]) for c in range(columns)]
           for r in range(rows)]  # fmt: skip
    coded.scales, coded.zeros, gap = [[] for _ in range(rows)], [[] for _ in range(rows)], 1.0
    for j in range(columns):
        for r in range(rows):
            if j % coded.columns == 0:
                group = [now[r][c] for c in range(j, j + coded.columns) if r * columns + c in stored]
                scale, zero, away = group_scale(group, coded.low, coded.high, symmetric=symmetric)
                coded.scales[r].append(scale)
                coded.zeros[r].append(zero)
                gap = min(gap, 1e6 * away, _tie(min([0.0, *group]) / scale) if scale and not symmetric else 1.0)
            p = r * columns + j
            if p not in stored:
                continue
            scale, zero = coded.scales[r][-1] or 1.0, coded.zeros[r][-1]
            quotient = now[r][j] / scale
            gap = min(gap, _tie(quotient))
            coded.codes[p] = coded.clamped(round(quotient) + zero)
            error = now[r][j] - float((coded.codes[p] - zero) * Fraction(scale))
            for k in range(j + 1, columns):
                if r * columns + k in stored:
                    # QNT-005 subtracts (error / U_jj) · U_jk, and z[j][k - j] is U_jj · U_jk
                    now[r][k] -= error * z[j][k - j] / z[j][0]
    coded.scales = declare(coded.scales)
    return coded, gap


def _tie(quotient: float) -> float:
    """Return the distance of a quotient to the nearest tie of rounding."""
    return abs(abs(quotient) % 1.0 - 0.5)


def given(grid: str, shape: tuple[int, int], codes: dict[int, int], scales: Array, zeros: Array | None) -> Coded:
    """Return a quantised matrix from its codes, scales and zero points (QNT-001)."""
    coded, _ = empty(grid, shape)
    coded.codes, coded.scales = codes, [[float(s) for s in row] for row in scales]
    coded.zeros = [[0 for _ in row] for row in coded.scales]
    if zeros is not None:
        coded.zeros = [[int(z) for z in row] for row in zeros]
    return coded


def merge(coded: Coded, support: dict[int, float], mode: str, rounded: Round) -> dict[str, Any]:
    """Return the answer to `quantise.merge`; support has effective weights by position (QNT-006, QNT-007).

    rounded  rounds a number once to the dtype of computation
    """
    codes = {p: code for p, code in coded.codes.items() if p in support}

    def bits(value: float) -> bytes:
        return struct.pack("<d", rounded(value))

    differs = [p for p, w in support.items() if p not in codes or bits(w) != bits(float(coded.weight(p)))]
    vanished = saturated = 0
    for p in () if mode == "beside" else differs:
        free = coded.free(p, support[p])
        new = coded.clamped(free)
        vanished += new == codes.get(p, coded.parts(p)[1])
        saturated += new != free
        codes[p] = new
    beside = differs if mode == "beside" else []
    return {
        "positions": sorted(codes),
        "codes": [codes[p] for p in sorted(codes)],
        "update": beside,
        "update_values": [support[p] for p in beside],
        "changed": len(differs),
        "vanished": vanished,
        "saturated": saturated,
    }
