"""Linear: y = x Wᵀ + bias, with W packed by a kernel set and the gradient of W kept as two factors (LYR-003)."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.kernels import KernelSet, Packed


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A low-rank change s B A of a weight, kept as its factors (ADP-001)."""

    a: Float[Array, "rank in_"]
    b: Float[Array, "out rank"]
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A weight (out, in) packed by a kernel set, with an optional bias (out,) and an optional low-rank change."""

    weight: Packed
    bias: Float[Array, " out"] | None = None
    beside: LowRank | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LinearCache:
    """Arguments of a forward that `linear_backward` needs."""

    x: Float[Array, "*n in_"]
    linear: Linear
    kernels: KernelSet


@dataclass(frozen=True, slots=True, eq=False)
class WeightGradient:
    """The gradient dyᵀ x of a weight, kept as its factors (GRD-001)."""

    dy: Float[Array, "n out"]
    x: Float[Array, "n in_"]
    tokens: Int[Array, " k"] | None = None
    """rows whose inputs an event reads; the others are padding that predicts a token. None for all rows"""

    def of_rows(self, rows: Int[Array, " m"], tokens: Int[Array, " k"] | None = None) -> "WeightGradient":
        """Return the part of the gradient that comes from these rows of dy and x.

        tokens  as the attribute, counted in the rows that are left
        """
        xp = array_namespace(self.dy)
        return WeightGradient(xp.take(self.dy, rows, axis=0), xp.take(self.x, rows, axis=0), tokens)

    def inputs(self) -> Float[Array, "k in_"]:
        """Return the rows of x that are no padding (GRD-006)."""
        return self.x if self.tokens is None else array_namespace(self.x).take(self.x, self.tokens, axis=0)


def linear_forward(
    x: Float[Array, "*n in_"], linear: Linear, kernels: KernelSet
) -> tuple[Float[Array, "*n out"], LinearCache]:
    """Return x Wᵀ + bias, plus s (x Aᵀ) Bᵀ if there is a low-rank change, and the cache (LYR-003, ADP-001)."""
    xp = array_namespace(x)
    rows: Any = xp.reshape(x, (-1, x.shape[-1]))
    y = kernels.matmul(rows, linear.weight)
    if linear.bias is not None:
        y = y + linear.bias
    if (change := linear.beside) is not None:
        y = y + change.scale * ((rows @ xp.matrix_transpose(change.a)) @ xp.matrix_transpose(change.b))
    return xp.reshape(y, (*x.shape[:-1], y.shape[-1])), LinearCache(x, linear, kernels)


def linear_backward(
    dy: Float[Array, "*n out"], cache: LinearCache
) -> tuple[Float[Array, "*n in_"], WeightGradient, Float[Array, " out"] | None]:
    """Return (dx, the gradient of W as factors, dbias or None)."""
    xp = array_namespace(dy)
    rows: Any = xp.reshape(dy, (-1, dy.shape[-1]))
    # forward: y = y + bias
    dbias = None if cache.linear.bias is None else xp.sum(rows, axis=0)
    # forward: y = x @ Wᵀ
    dx = cache.kernels.matmul_transposed(rows, cache.linear.weight)
    if (change := cache.linear.beside) is not None:
        # forward: y = y + s · (x @ Aᵀ) @ Bᵀ
        dx = dx + (change.scale * (rows @ change.b)) @ change.a
    return (
        xp.reshape(dx, cache.x.shape),
        WeightGradient(rows, xp.reshape(cache.x, (-1, cache.x.shape[-1]))),
        dbias,
    )
