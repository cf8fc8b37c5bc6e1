# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-decorators, allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
"""Attention, four queries at a time while their scores are in the cache (LYR-007 to LYR-009, LYR-016);
`layers/attention.py` defines it.

Four queries are multiplied only with the keys from the first to the last that one of them sees. Other keys are not
read, so infinity or NaN in them does not reach these queries; in the plain layer they give NaN. A forward of few
queries, as in generation, uses BLAS, because transposing keys into lines takes many queries to pay.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from seft_ref.arrays.library import Array, overflow_allowed
from seft_ref.errors import LayerOverflow
from seft_ref.kernels.cpu.compiled import compiled
from seft_ref.kernels.cpu.emitter import REGISTER_BYTES
from seft_ref.kernels.cpu.panels import to_lines
from seft_ref.kernels.cpu.scratch import scratch
from seft_ref.kernels.cpu.vectors import in_whole_registers
from seft_ref.layers.attention import AttentionCache
from seft_ref.layers.compiled.exp import exp
from seft_ref.layers.compiled.products import ROWS, add_product, padded, rounded_up, zeroed
from seft_ref.layers.compiled.rows import ROWS as ROWS_OF_TASK
from seft_ref.layers.compiled.rows import contiguous, over_rows, over_tasks, workers_of
from seft_ref.layers.compiled.sums import largest_of, sum_of, sum_of_products

FEW = 16
"""Number of queries of a head below which the forward uses BLAS; the backward never does."""


@compiled()
def seen_span(marks, base, n_rows, n_columns, lanes):
    """Return where the nonzero marks of n_rows rows begin, rounded down to lanes, and where they end.

    Return (0, 0) if there is no such mark.
    """
    low, high = n_columns, 0
    for row in range(n_rows):
        i, first, last = base + row * n_columns, 0, n_columns
        while first < last and marks[i + first] == 0:
            first += 1
        while first < last and marks[i + last - 1] == 0:
            last -= 1
        if first < last:
            low, high = min(low, first), max(high, last)
    return min(low, high) // lanes * lanes, high


@compiled()
def softmax(scores, base, visible, there, n, fault, row, one, lowest):
    """Turn n scores into probabilities; fault[row] becomes 0, or NaN if the largest or the sum is NaN or infinite.

    `one` is 1 and `lowest` is −∞, in the dtype of scores.
    """
    in_whole_registers()
    n_seen = 0
    for j in range(n):
        n_seen += visible[there + j]
        scores[base + j] = scores[base + j] if visible[there + j] else lowest
    fault[row] = 0
    if n_seen == 0:
        zeroed(scores, base, n)
        return
    most = largest_of(scores, base, n)
    for j in range(n):
        scores[base + j] = exp(scores[base + j] - most)
    # the sum goes through `fault`, because storing it there rounds it from binary64 to the dtype of scores
    fault[row] = sum_of(scores, base, n)
    share = one / fault[row]
    # 0 times infinity or NaN is NaN, so `fault` becomes NaN if the largest score or the sum is not finite
    fault[row] = most * 0 + fault[row] * 0
    for j in range(n):
        scores[base + j] *= share


def _forward(kind: Any) -> Any:
    one, lowest = kind(1), kind(-math.inf)

    def forward(
        q,
        k,
        v,
        visible,
        y,
        probabilities,
        fault,
        heads,
        group,
        length,
        n_keys,
        depth,
        shared,
        work,
        work_size,
        lanes,
        task,
        worker,
    ):
        """Write y, probabilities and fault of one query head, which is the task.

        q and y are (batch, heads, length, depth), k and v (batch, heads / group, keys, depth), probabilities
        (batch, heads, length, keys), fault (batch, heads, length), all dense. `visible` is (batch, length, keys) of
        bytes, or (1, length, keys) if the batch shares it. `softmax` explains fault.
        """
        in_whole_registers()
        batch, pair = task // heads, task // group
        keys, wide = rounded_up(n_keys, lanes), rounded_up(depth, lanes)
        k_lines = worker * work_size
        values = k_lines + depth * keys
        scores = values + n_keys * wide
        result = scores + ROWS * keys
        to_lines(k, depth, pair * n_keys, n_keys, 0, depth, work, k_lines, keys, lanes)
        padded(v, pair * n_keys * depth, n_keys, depth, work, values, wide)
        for top in range(0, length, ROWS):
            n, row = min(ROWS, length - top), task * length + top
            offset = ((0 if shared else batch * length) + top) * n_keys
            low, high = seen_span(visible, offset, n, n_keys, lanes)
            end = rounded_up(high, lanes)
            zeroed(work, scores, n * keys)
            add_product(q, row * depth, depth, 1, n, depth, work, k_lines, keys, work, scores, keys, low, end, lanes)
            for i in range(n):
                base, target = scores + i * keys, (row + i) * n_keys
                softmax(work, base + low, visible, offset + i * n_keys + low, high - low, fault, row + i, one, lowest)
                zeroed(probabilities, target, low)
                for j in range(low, high):
                    probabilities[target + j] = work[base + j]
                zeroed(probabilities, target + high, n_keys - high)
            zeroed(work, result, n * wide)
            at, steps = values + low * wide, high - low
            add_product(work, scores + low, keys, 1, n, steps, work, at, wide, work, result, wide, 0, wide, lanes)
            for i in range(n):
                for j in range(depth):
                    y[(row + i) * depth + j] = work[result + i * wide + j]

    return forward


def _softmax_of_rows(kind: Any) -> Any:
    one, lowest = kind(1), kind(-math.inf)

    def of_rows(scores, visible, fault, n_keys, length, heads, shared, n_rows, task, worker):
        """Turn scores (batch, heads, length, keys) into probabilities, and write fault (rows,) as `softmax` does."""
        in_whole_registers()
        for i in range(task * ROWS_OF_TASK, min((task + 1) * ROWS_OF_TASK, n_rows)):
            row = i % length if shared else i // (heads * length) * length + i % length
            softmax(scores, i * n_keys, visible, row * n_keys, n_keys, fault, i, one, lowest)

    return of_rows


def attention_forward(
    q: Float[Array, "B H T D"],
    k: Float[Array, "B K S D"],
    v: Float[Array, "B K S D"],
    visible: Bool[Array, "M T S"],
) -> tuple[Float[Array, "B H T D"], AttentionCache]:
    """Return the output of attention, and the cache (LYR-007, LYR-009).

    Raises:
        LayerOverflow: LYR-016 if one of the last t keys, or the largest score that a query sees, is NaN or infinite.
    """
    b, h, t, d = q.shape
    kv, s = k.shape[1:3]
    # the loops would read beyond arrays of other shapes or dtypes
    assert k.shape == v.shape, f"keys are {k.shape}, values {v.shape}"
    assert visible.shape in ((b, t, s), (1, t, s)), f"visible is {visible.shape}, expected {(b, t, s)}"
    assert q.dtype == k.dtype == v.dtype, f"queries are {q.dtype}, keys {k.dtype}, values {v.dtype}"
    q = contiguous(q * (1.0 / math.sqrt(d))).reshape(b, kv, h // kv * t, d)
    y = np.empty((b, h, t, d), dtype=q.dtype)
    probabilities = np.empty((b, kv, h // kv * t, s), dtype=q.dtype)
    fault = np.empty(b * h * t, dtype=q.dtype)
    visible_bytes = contiguous(visible).view(np.uint8)
    shared = int(visible_bytes.shape[0] == 1)
    if t < FEW:
        with overflow_allowed():
            np.matmul(q, np.matrix_transpose(k), out=probabilities)
            over_rows(_softmax_of_rows, fault.size, probabilities, visible_bytes, fault, s, t, h, shared)
            np.matmul(probabilities, v, out=y.reshape(q.shape))
    else:
        lanes = REGISTER_BYTES // q.itemsize
        keys, wide = (-(-n // lanes) * lanes for n in (s, d))
        work_size = d * keys + s * wide + ROWS * (keys + wide)
        work = scratch.take((workers_of(b * h) * work_size,), q.dtype)
        flat = (contiguous(a).reshape(-1) for a in (q, k, v, visible_bytes, y, probabilities))
        over_tasks(_forward, b * h, *flat, fault, h, h // kv, t, s, d, shared, work, work_size, lanes)
    if not bool(not np.any(np.isnan(fault)) and np.all(np.isfinite(k[:, :, s - t :, :]))):
        raise LayerOverflow(
            "LYR-016", f"a key of attention or the largest score of a query is beyond what {k.dtype} holds"
        )
    return y, AttentionCache(q, k, v, probabilities)


@compiled()
def through_softmax(work, base, keys, probabilities, there, n_keys, n_rows, low, high, end, spare):
    """Turn the gradients of probabilities, rows of `work`, into those of scores; rows that see no key become 0.

    `spare` is an index of `work`. Storing a mean there rounds it to the dtype of `work`.
    """
    for i in range(n_rows):
        at, by = base + i * keys, there + i * n_keys
        work[spare] = sum_of_products(work, at + low, probabilities, by + low, high - low)
        mean = work[spare]
        for j in range(low, high):
            work[at + j] = probabilities[by + j] * (work[at + j] - mean)
        zeroed(work, at + high, end - high)


def _backward(kind: Any) -> Any:
    def backward(
        dy,
        q,
        k,
        v,
        probabilities,
        dq,
        dk,
        dv,
        scale,
        since,
        until,
        group,
        length,
        n_keys,
        depth,
        work,
        work_size,
        lanes,
        task,
        worker,
    ):
        """Write dk and dv of one key/value head, which is the task, and dq of the query heads that share it.

        dy, q and dq are (tasks, group, length, depth), k, v, dk and dv (tasks, keys, depth), probabilities
        (tasks, group, length, keys), all dense; scale is (1,). `since` and `until` (workers * fours,) have, for each
        worker and four keys, the first query that sees one of them and the end.
        """
        rows = group * length
        keys, wide = rounded_up(n_keys, lanes), rounded_up(depth, lanes)
        n_fours = (n_keys + ROWS - 1) // ROWS
        fours = worker * n_fours
        v_lines = worker * work_size
        k_rows = v_lines + depth * keys
        q_rows = k_rows + n_keys * wide
        dy_rows = q_rows + rows * wide
        dscores = dy_rows + rows * wide
        result = dscores + rows * keys
        of_keys, of_values = result + ROWS * wide, result + (ROWS + n_keys) * wide
        to_lines(v, depth, task * n_keys, n_keys, 0, depth, work, v_lines, keys, lanes)
        padded(k, task * n_keys * depth, n_keys, depth, work, k_rows, wide)
        padded(q, task * rows * depth, rows, depth, work, q_rows, wide)
        padded(dy, task * rows * depth, rows, depth, work, dy_rows, wide)
        zeroed(work, dscores, rows * keys)
        zeroed(work, of_keys, 2 * n_keys * wide)
        for head in range(group):
            for four in range(fours, fours + n_fours):
                since[four], until[four] = length, 0
            for top in range(0, length, ROWS):
                n, row = min(ROWS, length - top), head * length + top
                there = (task * rows + row) * n_keys
                low, high = seen_span(probabilities, there, n, n_keys, lanes)
                end = rounded_up(high, lanes)
                for four in range(fours + low // ROWS, fours + (high + ROWS - 1) // ROWS):
                    since[four], until[four] = min(since[four], top), top + n
                # forward: y = probabilities @ v
                base, of = dscores + row * keys, dy_rows + row * wide
                add_product(work, of, wide, 1, n, depth, work, v_lines, keys, work, base, keys, low, end, lanes)
                # forward: probabilities = softmax(scores)
                through_softmax(work, base, keys, probabilities, there, n_keys, n, low, high, end, result)
                # forward: scores = q @ kᵀ, with q divided by sqrt(D)
                zeroed(work, result, n * wide)
                at, steps = k_rows + low * wide, high - low
                add_product(work, base + low, keys, 1, n, steps, work, at, wide, work, result, wide, 0, wide, lanes)
                for i in range(n):
                    for j in range(depth):
                        dq[(task * rows + row + i) * depth + j] = work[result + i * wide + j] * scale[0]
            # the heads of a group share keys and values, so their gradients are summed
            for four in range(n_fours):
                key, n = four * ROWS, min(ROWS, n_keys - four * ROWS)
                row, steps = head * length + since[fours + four], until[fours + four] - since[fours + four]
                if steps > 0:
                    a, b, c = dscores + row * keys + key, q_rows + row * wide, of_keys + key * wide
                    add_product(work, a, 1, keys, n, steps, work, b, wide, work, c, wide, 0, wide, lanes)
                    a, b, c = (task * rows + row) * n_keys + key, dy_rows + row * wide, of_values + key * wide
                    add_product(probabilities, a, 1, n_keys, n, steps, work, b, wide, work, c, wide, 0, wide, lanes)
        for i in range(n_keys):
            for j in range(depth):
                dk[(task * n_keys + i) * depth + j] = work[of_keys + i * wide + j]
                dv[(task * n_keys + i) * depth + j] = work[of_values + i * wide + j]

    return backward


def attention_backward(
    dy: Float[Array, "B H T D"], cache: AttentionCache
) -> tuple[Float[Array, "B H T D"], Float[Array, "B K S D"], Float[Array, "B K S D"]]:
    """Return (dq, dk, dv)."""
    q, k, v, probabilities = (contiguous(a) for a in (cache.q, cache.k, cache.v, cache.probabilities))
    b, h, t, d = dy.shape
    kv, s = k.shape[1:3]
    assert dy.size == q.size, f"gradients {dy.shape} are not those of queries {q.shape}"
    assert dy.dtype == q.dtype, f"gradients are {dy.dtype}, queries {q.dtype}"
    dy, group = contiguous(dy), h // kv
    dq, dk, dv = np.empty_like(dy), np.empty_like(k), np.empty_like(v)
    lanes, workers = REGISTER_BYTES // dy.itemsize, workers_of(b * kv)
    keys, wide = (-(-n // lanes) * lanes for n in (s, d))
    work_size = d * keys + (3 * s + 2 * group * t + ROWS) * wide + group * t * keys
    since, until = np.empty((2, workers * -(-s // ROWS)), dtype=np.int64)
    scale, work = np.full(1, 1.0 / math.sqrt(d), dtype=dy.dtype), scratch.take((workers * work_size,), dy.dtype)
    flat = (a.reshape(-1) for a in (dy, q, k, v, probabilities, dq, dk, dv))
    over_tasks(_backward, b * kv, *flat, scale, since, until, group, t, s, d, work, work_size, lanes)
    return dq, dk, dv
