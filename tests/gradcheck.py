"""Numerical derivatives of forward functions, which tests compare with the backward functions."""

from collections.abc import Callable

import numpy as np


def directional_derivative(
    f: Callable[[np.ndarray], float], x: np.ndarray, direction: np.ndarray, step: float = 1e-3
) -> float:
    """Return d/ds f(x + s·direction) at s = 0 in float64, by central differences over four points.

    The error is of order step⁴ · f⁽⁵⁾ + 1e-16 · f / step; the direction should have norm 1.
    """
    assert x.dtype == direction.dtype == np.float64

    def at(s: float) -> float:
        return f(x + s * direction)

    return (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step)


def unit_direction(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return a random direction of norm 1."""
    direction = rng.standard_normal(shape)
    return direction / np.sqrt(np.sum(direction * direction))
