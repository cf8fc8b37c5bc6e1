# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-defs, allow-incomplete-defs
"""SwiGLU in one pass, forward and backward (LYR-010); `layers/swiglu.py` defines it."""

from typing import Any

import numpy as np
from jaxtyping import Float

from seft_ref.arrays.library import Array
from seft_ref.kernels.cpu.vectors import in_whole_registers
from seft_ref.layers.compiled.exp import exp
from seft_ref.layers.compiled.rows import ROWS, contiguous, over_rows
from seft_ref.layers.swiglu import SwigluCache


def _forward(kind: Any) -> Any:
    one = kind(1)

    def forward(gate, up, y, width, n_rows, task, worker):
        """Write y (rows, width) at the rows of one task."""
        in_whole_registers()
        for i in range(task * ROWS * width, min((task + 1) * ROWS, n_rows) * width):
            y[i] = gate[i] * (one / (one + exp(-gate[i]))) * up[i]

    return forward


def swiglu_forward(gate: Float[Array, "*n F"], up: Float[Array, "*n F"]) -> tuple[Float[Array, "*n F"], SwigluCache]:
    """Return silu(gate) · up, and the cache (LYR-010)."""
    # the loops would read beyond arrays of other shapes or dtypes
    assert gate.shape == up.shape, f"gate is {gate.shape}, up is {up.shape}"
    assert gate.dtype == up.dtype, f"gate is {gate.dtype}, up is {up.dtype}"
    gate, up = contiguous(gate), contiguous(up)
    y, width = np.empty_like(gate), gate.shape[-1]
    over_rows(_forward, gate.size // max(width, 1), gate, up, y, width)
    return y, SwigluCache(gate, up)


def _backward(kind: Any) -> Any:
    one = kind(1)

    def backward(dy, gate, up, dgate, dup, width, n_rows, task, worker):
        """Write dgate and dup (rows, width) at the rows of one task."""
        in_whole_registers()
        for i in range(task * ROWS * width, min((task + 1) * ROWS, n_rows) * width):
            sigmoid = one / (one + exp(-gate[i]))
            silu = gate[i] * sigmoid
            # forward: y = silu * up
            dup[i] = dy[i] * silu
            # forward: silu = gate * sigmoid(gate), sigmoid' = sigmoid * (1 - sigmoid)
            dgate[i] = dy[i] * up[i] * (sigmoid + silu * (one - sigmoid))

    return backward


def swiglu_backward(dy: Float[Array, "*n F"], cache: SwigluCache) -> tuple[Float[Array, "*n F"], Float[Array, "*n F"]]:
    """Return (dgate, dup)."""
    assert dy.shape == cache.gate.shape, f"gradients are {dy.shape}, gate is {cache.gate.shape}"
    assert dy.dtype == cache.gate.dtype, f"gradients are {dy.dtype}, gate is {cache.gate.dtype}"
    dy, width = contiguous(dy), dy.shape[-1]
    dgate, dup = np.empty_like(dy), np.empty_like(dy)
    over_rows(_backward, dy.size // max(width, 1), dy, cache.gate, cache.up, dgate, dup, width)
    return dgate, dup


def swiglu_again(cache: SwigluCache) -> tuple[Float[Array, "*n F"], SwigluCache]:
    """Return y as the forward gave it, bit for bit, and a cache without sigmoid, which the backward computes again."""
    return swiglu_forward(cache.gate, cache.up)
