"""The evidence of a gradient window, entry by entry (GRD-001, GRD-004 to GRD-008)."""

from collections.abc import Iterable, Sequence
from typing import Any

from conformance.oracle.select import largest

Rows = Sequence[Sequence[float]]


def of_batches(out: int, cols: int, batches: Sequence[tuple[Rows, Rows]]) -> list[float]:
    """Return the gradient of a step, flat: dyᵀ x over the rows of all its micro-batches (GRD-001)."""
    g = [0.0] * (out * cols)
    for dy, x in batches:
        for dy_row, x_row in zip(dy, x, strict=True):
            for o in range(out):
                for i in range(cols):
                    g[o * cols + i] += dy_row[o] * x_row[i]
    return g


def of_tokens(cols: int, batches: Sequence[tuple[Rows, Rows]], support: Sequence[int]) -> list[float]:
    """Return Σ dy² x² over the rows of all micro-batches of a step, at the positions `support` (GRD-008)."""
    total = [0.0] * len(support)
    for dy, x in batches:
        for dy_row, x_row in zip(dy, x, strict=True):
            for k, p in enumerate(support):
                o, i = divmod(p, cols)
                total[k] += (dy_row[o] * dy_row[o]) * (x_row[i] * x_row[i])
    return total


def added(numbers: Iterable[float]) -> float:
    """Return the sum of numbers, added one by one, because `sum` of Python 3.12 and later compensates the rounding."""
    total = 0.0
    for x in numbers:
        total += x
    return total


def mean(values: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over steps, entry by entry; the steps are summed in their order."""
    return [added(column) / len(values) for column in zip(*values, strict=True)]


def evidence(gradients: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Return gradient, absolute and square of the gradients of a window's steps (GRD-004, GRD-005)."""
    return {
        "gradient": mean(gradients),
        "absolute": mean([[abs(x) for x in g] for g in gradients]),
        "square": mean([[x * x for x in g] for g in gradients]),
    }


def inputs(cols: int, batches: Sequence[Rows]) -> list[float]:
    """Return h, the mean square of each input over all rows of a window (GRD-006)."""
    rows = [row for batch in batches for row in batch]
    return [added(row[j] * row[j] for row in rows) / len(rows) if rows else 0.0 for j in range(cols)]


def candidates(first: Sequence[float], n: int) -> list[int]:
    """Return the n positions with the largest |g| of the first step of a window (GRD-007)."""
    return largest([abs(x) for x in first], range(len(first)), n)


def floats(matrix: Any) -> list[list[float]]:
    """Return a matrix as rows of Python floats."""
    return [[float(x) for x in row] for row in matrix]
