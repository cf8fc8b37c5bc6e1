"""Reverse-mode gradients from a record of the computation; they are the expected gradients of every layer.

    x = Var(array);  y = ...;  gradients(y, dy, [x])

A forward is written once with `Var`; its gradients follow from a dozen elementary derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pull = Callable[[Array], Array]


def _fold(g: Array, shape: tuple[int, ...]) -> Array:
    """Return g summed over the axes along which an operand of this shape was broadcast."""
    if g.shape == shape:
        # adding 0.0 turns -0.0 into 0.0, as the sums below would
        return g + 0.0
    extra = g.ndim - len(shape)
    g = g.sum(axis=tuple(range(extra)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True)


class Var:
    """An array that remembers the arrays it was computed from, each with a function that carries gradients back."""

    def __init__(self, value: Array | float, parents: Sequence[tuple[Var, Pull]] = ()) -> None:
        self.value = np.asarray(value)
        self.parents = parents

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return self.value.shape

    def __add__(self, other: Var | float) -> Var:
        b = other if isinstance(other, Var) else Var(other)
        pulls: list[tuple[Var, Pull]] = [(self, lambda g: _fold(g, self.shape))]
        if b is other:
            pulls.append((b, lambda g: _fold(g, b.shape)))
        return Var(self.value + b.value, pulls)

    def __mul__(self, other: Var | float) -> Var:
        b = other if isinstance(other, Var) else Var(other)
        pulls: list[tuple[Var, Pull]] = [(self, lambda g: _fold(g * b.value, self.shape))]
        if b is other:
            pulls.append((b, lambda g: _fold(g * self.value, b.shape)))
        return Var(self.value * b.value, pulls)

    def __neg__(self) -> Var:
        return self * -1.0

    def __sub__(self, other: Var | float) -> Var:
        return self + (-other)

    def __truediv__(self, other: Var | float) -> Var:
        if isinstance(other, Var):
            return self * other.inverse()
        return self * (1 / other)

    def __getitem__(self, index: Any) -> Var:
        def pull(g: Array) -> Array:
            full = np.zeros(self.shape, dtype=g.dtype)
            np.add.at(full, index, g)
            return full

        return Var(self.value[index], [(self, pull)])

    def inverse(self) -> Var:
        """Return 1 / self."""
        y = 1 / self.value
        return Var(y, [(self, lambda g: -g * y * y)])

    def exp(self) -> Var:
        """Return e to the power of self."""
        y = np.exp(self.value)
        return Var(y, [(self, lambda g: g * y)])

    def log(self) -> Var:
        """Return the natural logarithm."""
        return Var(np.log(self.value), [(self, lambda g: g / self.value)])

    def sqrt(self) -> Var:
        """Return the square root."""
        y = np.sqrt(self.value)
        return Var(y, [(self, lambda g: g / (2 * y))])

    def sum(self, axis: int | None = None) -> Var:
        """Return the sum over one axis, kept with length 1, or over all of them as a scalar."""
        if axis is None:
            return Var(np.asarray(np.sum(self.value)), [(self, lambda g: np.broadcast_to(g, self.shape))])
        total = self.value.sum(axis=axis, keepdims=True)
        return Var(total, [(self, lambda g: np.broadcast_to(g, self.shape))])

    def reshape(self, *shape: int) -> Var:
        """Return the same entries in another shape."""
        return Var(self.value.reshape(shape), [(self, lambda g: g.reshape(self.shape))])


def contract(rule: str, a: Var, b: Var) -> Var:
    """Return ``einsum(rule, a, b)``; every letter of an operand must be in the other operand or the result."""
    inputs, out = rule.split("->")
    left, right = inputs.split(",")
    return Var(
        np.einsum(rule, a.value, b.value),
        [
            (a, lambda g: np.einsum(f"{out},{right}->{left}", g, b.value)),
            (b, lambda g: np.einsum(f"{out},{left}->{right}", g, a.value)),
        ],
    )


def stack(parts: Sequence[Var]) -> Var:
    """Return the parts, all of one shape, along a new first axis."""

    def entry(i: int) -> Pull:
        return lambda g: g[i]

    return Var(np.stack([p.value for p in parts]), [(p, entry(i)) for i, p in enumerate(parts)])


def computed(y: Var) -> list[Var]:
    """Return y and what it was computed from, each after its parents; Vars without parents are left out."""
    order: list[Var] = []
    visited: set[int] = set()
    todo = [(y, False)]
    while todo:
        node, done = todo.pop()
        if done:
            order.append(node)
        elif id(node) not in visited:
            visited.add(id(node))
            todo.append((node, True))
            todo += [(parent, False) for parent, _ in node.parents if parent.parents and id(parent) not in visited]
    return order


def largest(y: Var) -> float:
    """Return the largest magnitude of a number on the way to y, infinity for NaN (TRN-019)."""
    tops = [float(np.abs(node.value).max(initial=0.0)) for node in computed(y)]
    return max(math.inf if math.isnan(top) else top for top in tops)


def gradients(y: Var, dy: Array | float, wrt: Sequence[Var]) -> list[Array]:
    """Return the gradient of sum(dy · y) with respect to each of `wrt`, zeros if y does not depend on it."""
    total: dict[int, Array] = {id(y): np.asarray(dy, dtype=np.float64)}
    for node in reversed(computed(y)):
        for parent, pull in node.parents:
            g = pull(total[id(node)])
            total[id(parent)] = total[id(parent)] + g if id(parent) in total else g
    return [np.array(total.get(id(x), np.zeros(x.shape))) for x in wrt]
