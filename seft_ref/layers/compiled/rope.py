# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-defs, allow-incomplete-defs
"""RoPE in one pass over heads in any layout (LYR-004); `layers/rope.py` defines it."""

from typing import Any

import numpy as np
from jaxtyping import Float

from seft_ref.arrays.library import Array, NumpyArray
from seft_ref.layers.compiled.rows import ROWS, over_rows
from seft_ref.layers.rope import RopeTable


def _rotation(kind: Any) -> Any:
    def rotate(x, cos, sin, y, sign, heads, length, half, stride_b, stride_h, stride_t, n_rows, task, worker):
        """Write y, contiguous (batch, heads, length, 2 half): x rotated by the angles of its positions, or back."""
        way = sign[0]
        for i in range(task * ROWS, min((task + 1) * ROWS, n_rows)):
            t, h, b = i % length, i // length % heads, i // (length * heads)
            source, target, angle = b * stride_b + h * stride_h + t * stride_t, 2 * half * i, half * t
            for j in range(half):
                c, s = cos[angle + j], way * sin[angle + j]
                first, second = x[source + j], x[source + half + j]
                y[target + j] = first * c - second * s
                y[target + half + j] = second * c + first * s

    return rotate


def _rotated(x: NumpyArray, table: RopeTable, way: int) -> NumpyArray:
    """Return x (..., T, D) rotated by the angles of the table, or back for way −1; contiguous."""
    *lead, length, dim = x.shape
    # the loop would read beyond a smaller table, or one of another dtype
    assert table.cos.shape == table.sin.shape == (length, dim // 2), f"{length} tokens, a table {table.cos.shape}"
    assert table.cos.dtype == x.dtype, f"x is {x.dtype}, the table {table.cos.dtype}"
    x = x.reshape(-1, 1, length, dim) if len(lead) != 2 else x
    if x.strides[3] != x.itemsize:
        x = np.ascontiguousarray(x)
    strides = [stride // x.itemsize for stride in x.strides[:3]]
    y = np.empty(x.shape, dtype=x.dtype)
    # a flat view of the memory that x spans, because the loop counts elements from the first one
    spanned = np.lib.stride_tricks.as_strided(
        x, (x.size and 1 + sum(s * (n - 1) for s, n in zip((*strides, 1), x.shape, strict=True)),), (x.itemsize,)
    )
    sign = np.full(1, way, dtype=x.dtype)
    over_rows(
        _rotation, y.size // max(dim, 1), spanned, table.cos, table.sin, y, sign, x.shape[1], length, dim // 2, *strides
    )
    return y.reshape(*lead, length, dim)


def rope_forward(x: Float[Array, "*heads T D"], table: RopeTable) -> tuple[Float[Array, "*heads T D"], RopeTable]:
    """Return x with every head rotated by the angles of its positions, and the table as the cache (LYR-004)."""
    return _rotated(x, table, 1), table


def rope_backward(dy: Float[Array, "*heads T D"], cache: RopeTable) -> Float[Array, "*heads T D"]:
    """Return dx: dy rotated back, because the transpose of a rotation is its inverse (LYR-004)."""
    return _rotated(dy, cache, -1)
