# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-defs, allow-incomplete-defs
"""RMSNorm, compiled row by row (LYR-002, LYR-015); `layers/rmsnorm.py` defines it."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from seft_ref.arrays.library import Array, NumpyArray
from seft_ref.errors import LayerOverflow
from seft_ref.layers.compiled.rows import ROWS, contiguous, over_rows
from seft_ref.layers.compiled.sums import sum_of_products
from seft_ref.layers.rmsnorm import RmsNormCache


def _forward(kind: Any) -> Any:
    one = kind(1)

    def forward(x, weight, eps, y, r, width, n_rows, task, worker):
        """Write r (rows,) and y (rows, width) at the rows of one task."""
        for i in range(task * ROWS, min((task + 1) * ROWS, n_rows)):
            base = i * width
            mean = kind(sum_of_products(x, base, x, base, width) / width)
            scale = one / math.sqrt(mean + eps[0])
            r[i] = scale
            for j in range(width):
                y[base + j] = x[base + j] * scale * weight[j]

    return forward


def rmsnorm_forward(
    x: Float[Array, "*n C"], weight: Float[Array, " C"], eps: float
) -> tuple[Float[Array, "*n C"], RmsNormCache]:
    """Return x scaled to unit mean square and by weight, and the cache (LYR-002).

    Raises:
        LayerOverflow: LYR-015 if the mean square of a row is NaN or infinite, or if it and eps are 0.
    """
    # the loops would read and write beyond arrays of other shapes or dtypes
    assert weight.shape == x.shape[-1:], f"the weight is {weight.shape}, rows are {x.shape[-1:]}"
    assert weight.dtype == x.dtype, f"the weight is {weight.dtype}, x is {x.dtype}"
    x = contiguous(x)
    y, r = np.empty_like(x), np.empty((*x.shape[:-1], 1), dtype=x.dtype)
    over_rows(_forward, r.size, x, weight, np.full(1, eps, dtype=x.dtype), y, r, x.shape[-1])
    if not bool(np.all((r > 0) & np.isfinite(r))):
        raise LayerOverflow("LYR-015", f"the mean square of a row of RMSNorm is beyond what {x.dtype} holds")
    return y, RmsNormCache(x, weight, r)


def _backward(kind: Any) -> Any:
    zero = kind(0)

    def backward(dy, x, weight, r, dx, dweight, width, n_rows, task, worker):
        """Write dx (rows, width), and the sum of this task's rows to its row of dweight (tasks, width)."""
        own = task * width
        for j in range(width):
            dweight[own + j] = zero
        for i in range(task * ROWS, min((task + 1) * ROWS, n_rows)):
            base, scale = i * width, r[i]
            for j in range(width):
                # forward: y = normed * weight, normed = x * r
                dweight[own + j] += dy[base + j] * (x[base + j] * scale)
                dx[base + j] = dy[base + j] * weight[j]
            # forward: r = 1 / sqrt(mean(x * x) + eps)
            mean = kind(sum_of_products(dx, base, x, base, width) / width) * scale
            for j in range(width):
                dx[base + j] = scale * (dx[base + j] - (x[base + j] * scale) * mean)

    return backward


def rmsnorm_backward(dy: Float[Array, "*n C"], cache: RmsNormCache) -> tuple[Float[Array, "*n C"], Float[Array, " C"]]:
    """Return (dx, dweight)."""
    assert dy.shape == cache.x.shape, f"gradients are {dy.shape}, x is {cache.x.shape}"
    assert dy.dtype == cache.x.dtype, f"gradients are {dy.dtype}, x is {cache.x.dtype}"
    dy, n_rows, width = contiguous(dy), cache.r.size, dy.shape[-1]
    dx: NumpyArray = np.empty_like(dy)
    dweight = np.empty((-(-n_rows // ROWS), width), dtype=dy.dtype)
    over_rows(_backward, n_rows, dy, cache.x, cache.weight, cache.r, dx, dweight, width)
    return dx, dweight.sum(axis=0)
