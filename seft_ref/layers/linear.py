"""Linear: y = x Wᵀ + bias, with W in a kernel set's own layout and its gradient left in two factors (LYR-003)."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.kernels import KernelSet, Packed


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A weight (out, in) as packed by a kernel set, and an optional bias (out,)."""

    weight: Packed
    bias: Float[Array, " out"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LinearCache:
    """What the backward needs."""

    x: Float[Array, "*n in_"]
    linear: Linear
    kernels: KernelSet


@dataclass(frozen=True, slots=True, eq=False)
class WeightGradient:
    """The gradient dyᵀ x of a weight, not multiplied out (GRD-001)."""

    dy: Float[Array, "n out"]
    x: Float[Array, "n in_"]


def linear_forward(
    x: Float[Array, "*n in_"], linear: Linear, kernels: KernelSet
) -> tuple[Float[Array, "*n out"], LinearCache]:
    """Return x Wᵀ + bias, and the cache (LYR-003)."""
    xp = array_namespace(x)
    y = kernels.matmul(xp.reshape(x, (-1, x.shape[-1])), linear.weight)
    if linear.bias is not None:
        y = y + linear.bias
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
    return (
        xp.reshape(dx, cache.x.shape),
        WeightGradient(rows, xp.reshape(cache.x, (-1, cache.x.shape[-1]))),
        dbias,
    )
