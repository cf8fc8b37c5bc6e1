"""The scores of drop, grow and adapt, one function for each name; every operation is rounded once (NUM-006).

DROP["fisher"](evidence)       the score of each slot; the smallest are dropped
GROW["curvature"](evidence)    the score of each candidate; the largest are grown
ADAPT["activation"](evidence)  the score of each weight; the smallest are pruned

`evidence` maps these names to arrays that are aligned with each other:

gradient, absolute, square, tokens  ḡ, mean |g|, mean g², and the squared gradients of tokens (GRD-004 to GRD-008)
inputs                              mean square of the layer's input at the column
row, column                         the accumulators of sm3
weight, value, origin               W, φ, and the φ with which the slot entered
uniform                             a random number in [0, 1), binary64
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from seft_ports.pytorch.counter import counter_key, draws

__all__ = ["ADAPT", "DROP", "GROW", "USE_ADAPT", "USE_DROP", "USE_END", "USE_GROW", "uniform"]

Known = Mapping[str, Tensor]
Score = Callable[[Known], Tensor]

_BY_MKL = (torch.float32, torch.float64)
"""Dtypes whose square roots torch lets MKL compute."""
USE_DROP, USE_GROW, USE_ADAPT, USE_END = 1, 2, 3, 4
"""The last word of the key of random scores (RNG-003)."""


def root(x: Tensor) -> Tensor:
    """Return the square root, rounded once; torch would call MKL, which is an ulp off on some Intel processors."""
    return torch.from_numpy(np.sqrt(x.numpy())) if x.device.type == "cpu" and x.dtype in _BY_MKL else x.sqrt()


def _curvature(k: Known) -> Tensor:
    gradient, inputs = k["gradient"], k["inputs"]
    # GROW-004: a dead input scores 0; its gradient is 0 too, and 0 / 0 would be NaN
    dead = inputs == 0
    return torch.where(dead, 0, (gradient * gradient) / torch.where(dead, 1, inputs))


DROP: dict[str, Score] = {
    # DROP-001, DROP-003
    "magnitude": lambda k: k["value"].abs(),
    "change": lambda k: (k["value"] - k["origin"]).abs(),
    "fisher": lambda k: k["square"] * (k["value"] * k["value"]),
    "weight": lambda k: k["weight"].abs(),
    "random": lambda k: k["uniform"],
}

GROW: dict[str, Score] = {
    # GROW-002, GROW-004
    "gradient": lambda k: k["gradient"].abs(),
    "absolute": lambda k: k["absolute"],
    "fisher": lambda k: k["square"],
    "moments": lambda k: k["row"] * k["column"],
    "curvature": _curvature,
    "random": lambda k: k["uniform"],
}

ADAPT: dict[str, Score] = {
    # ADPT-002, ADPT-005
    "sensitivity": lambda k: (k["gradient"] * k["weight"]).abs(),
    "absolute": lambda k: k["weight"].abs() * k["absolute"],
    "fisher": lambda k: (k["weight"] * k["weight"]) * k["square"],
    "token-fisher": lambda k: (k["weight"] * k["weight"]) * k["tokens"],
    "magnitude": lambda k: k["weight"].abs(),
    "activation": lambda k: k["weight"].abs() * root(k["inputs"]),
    "curvature": lambda k: 0.5 * ((k["weight"] * k["weight"]) * k["inputs"]),
    "random": lambda k: k["uniform"],
}


def uniform(seed: int, matrix: int, step: int, use: int, positions: Tensor) -> Tensor:
    """Return the random score of each flat position, binary64 in [0, 1) (RNG-003)."""
    # RNG-003
    bits = draws(counter_key(seed, 3, matrix, step, use), positions)
    return ((bits >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53
