"""The pruners of chapter 11, by sorting tuples of scores and positions (PRN)."""

import json
import math
import operator
import re
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

from conformance.oracle import select_rng
from conformance.oracle.model import PROJECTIONS, Config, Decoder, place
from conformance.oracle.select import smallest
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.tape import Array
from conformance.oracle.update_counts import count


def magnitude(w: Array, sparsity: float) -> list[int]:
    """Return the flat positions that magnitude pruning keeps (PRN-001, PRN-002)."""
    flat = [abs(float(x)) for x in w.reshape(-1)]
    gone = smallest(flat, range(len(flat)), count(sparsity * len(flat)))
    return sorted(set(range(len(flat))) - set(gone))


def input_norms(x: Array) -> list[float]:
    """Return the root of the sum of squares of each input over all tokens (PRN-003)."""
    return [math.sqrt(math.fsum(float(v) ** 2 for v in column)) for column in x.reshape(-1, x.shape[-1]).T]


def wanda(w: Array, norms: list[float], sparsity: float) -> list[int]:
    """Return the flat positions that Wanda keeps (PRN-003)."""
    cols = w.shape[1]
    kept = []
    for r, row in enumerate(w):
        scores = [abs(float(x)) * n for x, n in zip(row, norms, strict=True)]
        gone = set(smallest(scores, range(cols), count(sparsity * cols)))
        kept += [r * cols + c for c in range(cols) if c not in gone]
    return kept


def pattern(scores: Array, n: int, m: int) -> list[int]:
    """Return the flat positions kept by an N:M pattern on scores (PRN-004)."""
    kept = []
    for r, row in enumerate(scores):
        for start in range(0, len(row), m):
            group = sorted(range(start, start + m), key=lambda c: (-float(row[c]), c))
            kept += [r * len(row) + c for c in group[:n]]
    return sorted(kept)


def scope(scores: list[Array], sparsity: float, name: str) -> list[list[int]]:
    """Return the flat positions that each matrix keeps; scores compete within a row, matrix or model (PRN-016)."""
    entries = [(float(x), i, p) for i, matrix in enumerate(scores) for p, x in enumerate(matrix.reshape(-1))]

    def pool(i: int, p: int) -> tuple[int, int]:
        if name == "model":
            return 0, 0
        return (i, p // scores[i].shape[1]) if name == "row" else (i, 0)

    pools: dict[tuple[int, int], list[tuple[float, int, int]]] = {}
    for entry in entries:
        pools.setdefault(pool(*entry[1:]), []).append(entry)
    kept: list[list[int]] = [[] for _ in scores]
    for entered in pools.values():
        for _, i, p in sorted(entered)[count(sparsity * len(entered)) :]:
            kept[i].append(p)
    return [sorted(positions) for positions in kept]


def random_mask(shape: tuple[int, int], sparsity: float, seed: int, matrix: int) -> list[int]:
    """Return the flat positions that random pruning keeps of a matrix (PRN-017)."""
    n = shape[0] * shape[1]
    key = select_rng.key(seed, 7, matrix)
    order = sorted(range(n), key=lambda p: (select_rng.draw(key, p) >> 11, p))
    return sorted(order[count(sparsity * n) :])


def owl(scores: list[list[Array]], sparsity: float, outlier: float, spread: float) -> tuple[list[float], float]:
    """Return the sparsity of each block, and the smallest relative distance of a score to its limit (PRN-018)."""
    shares, nearest = [], 1.0
    for block in scores:
        values = [float(x) for matrix in block for x in matrix.reshape(-1)]
        limit = outlier * math.fsum(values) / len(values)
        shares.append(Fraction(sum(x > limit for x in values), len(values)))
        nearest = min([nearest, *(abs(x - limit) / limit for x in values if limit)])
    low, high = min(shares), max(shares)
    offsets = [(s - low) / (high - low) if high > low else Fraction(0) for s in shares]
    mean = sum(offsets, Fraction(0)) / len(offsets)
    return [sparsity - 2.0 * spread * float(offset - mean) for offset in offsets], nearest


Pattern = tuple[int, int]


def hessian(x: Array, damping: float) -> tuple[list[list[float]], list[int]]:
    """Return H of inputs x after damping, and the indices of dead inputs (PRN-009)."""
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    with np.errstate(all="ignore"):
        if not 0 <= damping < math.inf or not np.isfinite(flat.T @ flat).all():
            msg = "PRN-009: damping or H"
            raise RefusedError(msg)
    cols, columns = range(flat.shape[1]), [[float(v) for v in column] for column in flat.T]
    lower = [[math.fsum(map(operator.mul, columns[i], columns[j])) for j in range(i + 1)] for i in cols]
    h = [[lower[max(i, j)][min(i, j)] for j in cols] for i in cols]
    dead = [i for i in cols if h[i][i] == 0.0]
    added = damping * math.fsum(h[i][i] for i in cols) / max(len(cols), 1)
    for i in cols:
        h[i][i] = 1.0 if i in dead else h[i][i] + added
    return h, dead


def trailing_columns(h: list[list[float]]) -> list[list[float]]:
    """Return for each i the first column of the inverse of H without its first i rows and columns.

    The inverses are computed from the last row up: each extends the one before by a border. 60 decimal digits make an
    ill-conditioned H harmless. No library is used, so that every machine gets the same numbers.
    """
    with localcontext(prec=60):
        columns: list[list[Decimal]] = []
        inverse: list[list[Decimal]] = []
        for i in reversed(range(len(h))):
            border = [Decimal(v) for v in h[i][i + 1 :]]
            u = [_dot(row, border) for row in inverse]
            s = Decimal(h[i][i]) - _dot(border, u)
            if s <= 0:
                msg = "PRN-009: H has no inverse"
                raise RefusedError(msg)
            inner = [[x + a * b / s for x, b in zip(row, u, strict=True)] for row, a in zip(inverse, u, strict=True)]
            first = [1 / s, *(-a / s for a in u)]
            inverse = [first, *([head, *row] for head, row in zip(first[1:], inner, strict=True))]
            columns.append(first)
        return [[float(v) for v in column] for column in reversed(columns)]


def _dot(a: list[Decimal], b: list[Decimal]) -> Decimal:
    return sum((x * y for x, y in zip(a, b, strict=True)), Decimal(0))


def sparsegpt(
    w: Array, x: Array, sparsity: float, pattern: Pattern | None = None, damping: float = 0.01, block: int = 128
) -> tuple[list[int], Array, float]:
    """Return the positions that SparseGPT keeps, the new weight, and the smallest relative gap (PRN-009 to PRN-012).

    The factor U of PRN-010 is not computed, because z[i], the first column of the inverse of H without its first i rows
    and columns, has the products U_ii · U_ij.
    """
    rows, cols = w.shape
    h, dead = hessian(x, damping)
    now = [[0.0 if c in dead else float(v) for c, v in enumerate(row)] for row in w]
    z = trailing_columns(h)
    gone: set[int] = set()
    gap = 1.0
    step = block if pattern is None else pattern[1]
    for i in range(cols):
        if i % step == 0:
            columns = range(i, min(i + step, cols))
            costs = {r * cols + c: now[r][c] * now[r][c] / z[c][0] for r in range(rows) for c in columns}
            if not all(map(math.isfinite, costs.values())):
                msg = "PRN-015 SEL-004: a score"
                raise RefusedError(msg)
            for removed, kept in _choice(costs, rows, cols, sparsity, pattern):
                gone |= set(removed)
                gap = min(gap, _gap([costs[p] for p in removed], [costs[p] for p in kept]))
        for r in range(rows):
            if r * cols + i in gone:
                for j in range(i + 1, cols):
                    now[r][j] -= now[r][i] * z[i][j - i] / z[i][0]
                now[r][i] = 0.0
    return sorted(set(range(rows * cols)) - gone), np.array(now).reshape(rows, cols), gap


def _choice(
    costs: dict[int, float], rows: int, cols: int, sparsity: float, pattern: Pattern | None
) -> list[tuple[list[int], list[int]]]:
    """Return (removed, kept) of each pool: the whole block (PRN-011), or the group of each row (PRN-012)."""
    if pattern is None:
        order = sorted(costs, key=lambda p: (costs[p], p))
        n = count(sparsity * len(costs))
        return [(order[:n], order[n:])]
    pools = []
    for r in range(rows):
        order = sorted((p for p in costs if p // cols == r), key=lambda p: (-costs[p], p))
        pools.append((order[pattern[0] :], order[: pattern[0]]))
    return pools


def _gap(removed: list[float], kept: list[float]) -> float:
    """Return the relative gap between removed and kept costs, 1 if one of them is empty (SEL-008)."""
    if not removed or not kept:
        return 1.0
    inside, outside = max(removed), min(kept)
    return (outside - inside) / outside if outside else 0.0


Prune = Callable[[Array, Array], tuple[list[int], Array, float]]
"""Takes a weight and its inputs, returns the kept positions, the new weight and the smallest relative gap."""


def by_wanda(sparsity: float) -> Prune:
    """Return the pruner Wanda at a sparsity (PRN-003)."""

    def prune(w: Array, x: Array) -> tuple[list[int], Array, float]:
        norms = input_norms(x)
        kept = wanda(w, norms, sparsity)
        n = count(sparsity * w.shape[1])
        gap = min(float((row[n] - row[n - 1]) / row[n]) for row in np.sort(np.abs(w) * norms, axis=1))
        mask = np.zeros(w.size)
        mask[kept] = 1.0
        return kept, w * mask.reshape(w.shape), gap

    return prune


def by_sparsegpt(sparsity: float) -> Prune:
    """Return the pruner SparseGPT at a sparsity (PRN-009 to PRN-011)."""
    return lambda w, x: sparsegpt(w, x, sparsity)


def model(
    config: Config, tensors: dict[str, Array], tokens: Array, prune: Prune
) -> tuple[dict[str, list[int]], dict[str, Array], float]:
    """Return the kept positions of every target, the new weights, and the smallest relative gap (PRN-005)."""
    decoder: Any = Decoder(config, tensors)
    x = decoder.embed(tokens)
    kept: dict[str, list[int]] = {}
    weights: dict[str, Array] = {}
    smallest_gap = 1.0
    for i in range(config["num_hidden_layers"]):
        decoder.block(x, i)
        for p in PROJECTIONS:
            name = place(i, p)
            kept[name], weights[name], gap = prune(decoder.tensors[name].value, decoder.inputs[name])
            smallest_gap = min(smallest_gap, gap)
            decoder.tensors[name].value = weights[name]
        x = decoder.block(x, i)
    return kept, weights, smallest_gap


def pattern_of(record: str) -> list[int] | None:
    """Return the pattern of a record of pruning, None if it has none (PRN-008)."""
    try:
        fields = json.loads(record)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        msg = "PRN-008: no JSON object"
        raise RefusedError(msg)
    pattern = fields.get("pattern")
    if pattern is None:
        return None
    match = re.fullmatch(r"([0-9]+):([0-9]+)", pattern) if isinstance(pattern, str) else None
    if match is None or not 1 <= int(match[1]) < int(match[2]):
        msg = f"PRN-008: pattern {pattern!r}"
        raise RefusedError(msg)
    if fields.get("sparsity") is not None:
        msg = "PRN-008: a sparsity and a pattern"
        raise RefusedError(msg)
    return [int(match[1]), int(match[2])]
