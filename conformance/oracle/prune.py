"""Pruning by sorted tuples (PRN)."""

import math
from typing import Any

import numpy as np

from conformance.oracle.model import PROJECTIONS, Config, Decoder, place
from conformance.oracle.rules import count, smallest
from conformance.oracle.tape import Array


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
        gone = smallest(scores, range(cols), count(sparsity * cols))
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


def model(
    config: Config, tensors: dict[str, Array], tokens: Array, sparsity: float
) -> tuple[dict[str, list[int]], float]:
    """Return what Wanda keeps of every target, and the smallest relative gap of a choice (PRN-005)."""
    decoder: Any = Decoder(config, tensors)
    x = decoder.embed(tokens)
    kept: dict[str, list[int]] = {}
    gap = 1.0
    for i in range(config["num_hidden_layers"]):
        decoder.block(x, i)
        for p in PROJECTIONS:
            name = place(i, p)
            w = decoder.tensors[name].value
            norms = input_norms(decoder.inputs[name])
            kept[name] = wanda(w, norms, sparsity)
            n = count(sparsity * w.shape[1])
            for row in np.sort(np.abs(w) * norms, axis=1):
                gap = min(gap, float((row[n] - row[n - 1]) / row[n]))
            mask = np.zeros(w.size)
            mask[kept[name]] = 1.0
            decoder.tensors[name].value = w * mask.reshape(w.shape)
        x = decoder.block(x, i)
    return kept, gap
