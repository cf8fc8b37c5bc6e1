"""The scores of drop, grow and adapt: a function for each name, every operation rounded once (NUM-006).

    DROP["fisher"](known)            the score of each slot; the smallest are dropped
    GROW["curvature"](known)         the score of each candidate; the largest are grown
    ADAPT["activation"](known)       the score of each weight; the smallest are pruned

The argument is a `Known`. Its arrays broadcast against each other: they have one value for each position, or a value
for each row or column of a block of rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, from_numpy, to_numpy
from seft_ref.arrays.rng import STREAM_SCORES, counter_key, uniform


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """The operands of a criterion at some positions; fields that the criterion does not read are None."""

    gradient: Array | None = None
    """ḡ, loss per unit of weight"""
    absolute: Array | None = None
    """mean of |g| over the steps of the window"""
    square: Array | None = None
    """mean of g² over the steps of the window"""
    tokens: Array | None = None
    """sum of the squared gradients of single tokens, mean over the steps of the window (GRD-008)"""
    inputs: Array | None = None
    """mean square of the layer's input at the column"""
    row: Array | None = None
    """SM3's accumulator of the row"""
    column: Array | None = None
    """SM3's accumulator of the column"""
    weight: Array | None = None
    """W, the effective weight"""
    value: Array | None = None
    """φ, the value of the slot"""
    origin: Array | None = None
    """φ₀, the value with which the slot entered"""
    uniform: Array | None = None
    """a random number in [0, 1), binary64 (RNG-003)"""


Score = Callable[[Any], Array]


def _abs(x: Array) -> Array:
    return array_namespace(x).abs(x)


def _curvature(k: Known) -> Array:
    gradient, inputs = k.gradient, k.inputs
    assert gradient is not None
    assert inputs is not None
    xp = array_namespace(gradient)
    # GROW-004: a dead input scores 0; its gradient is 0 too, and 0 / 0 would be NaN
    dead = inputs == 0
    divisor = xp.where(dead, xp.ones_like(inputs), inputs)
    return xp.where(dead, xp.zeros_like(gradient), (gradient * gradient) / divisor)


DROP: dict[str, Score] = {  # DROP-003
    "magnitude": lambda k: _abs(k.value),
    "change": lambda k: _abs(k.value - k.origin),
    "fisher": lambda k: k.square * (k.value * k.value),
    "weight": lambda k: _abs(k.weight),
    "random": lambda k: k.uniform,
}

GROW: dict[str, Score] = {  # GROW-004
    "gradient": lambda k: _abs(k.gradient),
    "absolute": lambda k: k.absolute,
    "fisher": lambda k: k.square,
    "moments": lambda k: k.row * k.column,
    "curvature": _curvature,
    "random": lambda k: k.uniform,
}

ADAPT: dict[str, Score] = {  # ADPT-002, ADPT-005
    "sensitivity": lambda k: _abs(k.gradient * k.weight),
    "absolute": lambda k: _abs(k.weight) * k.absolute,
    "fisher": lambda k: (k.weight * k.weight) * k.square,
    "token-fisher": lambda k: (k.weight * k.weight) * k.tokens,
    "magnitude": lambda k: _abs(k.weight),
    "activation": lambda k: _abs(k.weight) * array_namespace(k.inputs).sqrt(k.inputs),
    "curvature": lambda k: 0.5 * ((k.weight * k.weight) * k.inputs),
    "random": lambda k: k.uniform,
}

USE_DROP, USE_GROW, USE_ADAPT, USE_END = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Chance:
    """The source of an event's random scores: the seed of the run and the step that it follows (RNG-003)."""

    seed: int
    step: int

    def scores(self, matrix: int, positions: Int[Array, " n"], use: int) -> Float[Array, " n"]:
        """Return the random score of each flat position, binary64 in [0, 1); `use` is one of the USE_ numbers."""
        key = counter_key(self.seed, STREAM_SCORES, matrix, self.step, use)
        return from_numpy(uniform(key, to_numpy(positions)), positions)
