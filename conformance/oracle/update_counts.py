"""The budget of a delta, and its initial positions (DLT)."""

import math
from collections.abc import Sequence

from conformance.oracle import select_rng
from conformance.oracle.select import largest


def count(x: float) -> int:
    """Return the count of the rate expression x (SEL-006)."""
    return math.floor(x + 2.0**-20)


def delta_budget(density: float, rows: int, cols: int, stored: int) -> int:
    """Return d_φ (DLT-002)."""
    return min(count(density * rows * cols), stored)


def delta_budgets(by: str, amount: float, shapes: Sequence[tuple[int, int]], stored: Sequence[int]) -> list[int]:
    """Return d_φ of every matrix; amount is density, slots or rank (DLT-002)."""
    total = sum(rows * cols for rows, cols in shapes)
    out = []
    for (rows, cols), k in zip(shapes, stored, strict=True):
        d = {
            "numel": lambda: count(amount * rows * cols),  # noqa: B023  called at once
            "nnz": lambda: count(amount * k),  # noqa: B023
            "count": lambda: int(amount) * rows * cols // max(total, 1),  # noqa: B023
            "rank": lambda: int(amount) * (rows + cols),  # noqa: B023
        }[by]()
        out.append(min(d, k))
    return out


def initial_random(base: Sequence[int], n: int, seed: int, matrix: int) -> list[int]:
    """Return initial positions that are chosen at random (DLT-004)."""
    key = select_rng.key(seed, 1, matrix)
    return sorted(sorted(base, key=lambda p: (select_rng.draw(key, p), p))[:n])


def initial_gradient(base: Sequence[int], n: int, gradient: Sequence[float]) -> list[int]:
    """Return the n positions of the base with the largest |gradient|, which is flat over the matrix (DLT-004)."""
    return largest([abs(gradient[p]) for p in base], base, n)


def initial(
    by: str,
    open_to: Sequence[int],
    n: int,
    *,
    seed: int,
    matrix: int,
    gradient: Sequence[float],
    base: dict[int, float],
) -> list[int]:
    """Return n initial positions among `open_to`, chosen at random, by magnitude or by gradient (DLT-004)."""
    if by == "random":
        return initial_random(open_to, n, seed, matrix)
    if by == "magnitude":
        return largest([abs(base.get(p, 0.0)) for p in open_to], open_to, n)
    return initial_gradient(open_to, n, gradient)
