# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-defs, allow-incomplete-defs
"""Cross-entropy, some columns at a time (LYR-011); `layers/cross_entropy.py` defines it."""

import math
from typing import Any

import numba
import numpy as np
from jaxtyping import Float, Int

from seft_ref.arrays.library import Array
from seft_ref.kernels.cpu.vectors import in_whole_registers
from seft_ref.layers.compiled.exp import exp
from seft_ref.layers.compiled.rows import ROWS, contiguous, over_rows
from seft_ref.layers.compiled.sums import largest_of, sum_of
from seft_ref.layers.cross_entropy import CrossEntropyCache, checked_targets

COLUMNS = 1024
"""Exponentials of a row that are stored at a time before they are summed."""


def _forward(kind: Any) -> Any:
    def forward(logits, logsumexp, work, width, n_rows, task, worker):
        """Write logsumexp (rows,) at the rows of one task; `work` has COLUMNS numbers for each worker."""
        in_whole_registers()
        own = worker * COLUMNS
        for i in range(task * ROWS, min((task + 1) * ROWS, n_rows)):
            base = i * width
            most = largest_of(logits, base, width)
            total = 0.0
            for first in range(0, width, COLUMNS):
                n = min(COLUMNS, width - first)
                for j in range(n):
                    work[own + j] = exp(logits[base + first + j] - most)
                total += sum_of(work, own, n)
            logsumexp[i] = most + kind(math.log(total))

    return forward


def cross_entropy_forward(
    logits: Float[Array, "N V"], targets: Int[Array, " N"], count: int
) -> tuple[Float[Array, ""], CrossEntropyCache]:
    """Return the sum of the losses of rows whose target is not −100, divided by count, and the cache (LYR-011).

    Raises:
        LayerError: LYR-011 if count is not positive or a target lies outside 0 … V − 1.
    """
    counted, safe = checked_targets(logits, targets, count)
    logits = contiguous(logits)
    logsumexp = np.empty((logits.shape[0], 1), dtype=logits.dtype)
    work = np.empty(numba.get_num_threads() * COLUMNS, dtype=logits.dtype)
    over_rows(_forward, logits.shape[0], logits, logsumexp, work, logits.shape[1])
    losses = np.where(counted, (logsumexp - np.take_along_axis(logits, safe[:, None], axis=1))[:, 0], 0)
    return np.sum(losses, dtype=logits.dtype) / count, CrossEntropyCache(logits, logsumexp, safe, counted, count)


def _backward(kind: Any) -> Any:
    one, zero = kind(1), kind(0)

    def backward(logits, logsumexp, targets, scale, dlogits, width, n_rows, task, worker):
        """Write dlogits (rows, width): (softmax − onehot) · scale, exactly 0 where the scale is."""
        in_whole_registers()
        for i in range(task * ROWS, min((task + 1) * ROWS, n_rows)):
            base, of_row, log_total = i * width, scale[i], logsumexp[i]
            if of_row == zero:
                for j in range(width):
                    dlogits[base + j] = zero
                continue
            for j in range(width):
                dlogits[base + j] = exp(logits[base + j] - log_total) * of_row
            at = base + targets[i]
            dlogits[at] = (exp(logits[at] - log_total) - one) * of_row

    return backward


def cross_entropy_backward(dloss: Float[Array, ""], cache: CrossEntropyCache) -> Float[Array, "N V"]:
    """Return dlogits, exactly 0 in rows whose target is −100."""
    # forward: loss = sum(logsumexp - logits[target]) / count
    logits = cache.logits
    scale = np.where(cache.counted, dloss / cache.count, 0).astype(logits.dtype)
    dlogits = np.empty_like(logits)
    targets = np.asarray(cache.targets, dtype=np.int64)
    over_rows(_backward, logits.shape[0], logits, cache.logsumexp, targets, scale, dlogits, logits.shape[1])
    return dlogits
