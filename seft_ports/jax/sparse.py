"""A linear layer whose weight is a base and a delta, both sparse (KRN, GRD).

XLA has no fast product with an unstructured sparse matrix, so each product writes the weight out as a dense one.
Everything kept between forward and backward is sparse. The gradient of the delta is evaluated at its positions only.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from seft_ports.jax.errors import Refusal
from seft_ports.jax.event import Base, effective
from seft_ports.jax.exact import key
from seft_ports.jax.select import first
from seft_ports.jax.topology import NOWHERE

__all__ = [
    "candidates",
    "dense",
    "gradient_at",
    "gradient_whole",
    "matmul",
    "matmul_transposed",
    "sparse_linear",
    "store",
]

Shape = tuple[int, int]
_AT_ONCE = 4096


def dense(positions: Array, values: Array, shape: Shape) -> Array:
    """Return an (out, in) matrix with values at flat positions and 0 elsewhere."""
    _check_values(positions, values)
    size = shape[0] * shape[1]
    return jnp.zeros(size, values.dtype).at[positions].set(values, mode="drop").reshape(shape)


def matmul(x: Array, positions: Array, values: Array, shape: Shape) -> Array:
    """Return y = x Wᵀ, (n, out)."""
    _check(x, values, shape[1], "x")
    # KRN-001
    return _product(x, dense(positions, values, shape), ((1,), (1,)))


def matmul_transposed(dy: Array, positions: Array, values: Array, shape: Shape) -> Array:
    """Return dx = dy W, (n, in)."""
    _check(dy, values, shape[0], "dy")
    # KRN-002
    return _product(dy, dense(positions, values, shape), ((1,), (0,)))


def gradient_at(dy: Array, x: Array, positions: Array) -> Array:
    """Return the gradient Σ_n dy[n, row] · x[n, column] at flat positions, 0 in the tail."""
    _check_rows(dy, x)
    columns = max(x.shape[1], 1)

    def one(position: Array) -> Array:
        at = jnp.where(position == NOWHERE, 0, position)
        return jnp.dot(dy[:, at // columns], x[:, at % columns], precision=lax.Precision.HIGHEST)

    if 0 in (positions.shape[0], dy.shape[1], x.shape[1]):
        return jnp.zeros(positions.shape, x.dtype)
    # KRN-003, GRD-002; positions are processed in batches, so that no (n, slots) array is formed
    many = jax.vmap(one)(positions) if positions.shape[0] <= _AT_ONCE else lax.map(one, positions, batch_size=_AT_ONCE)
    return jnp.where(positions == NOWHERE, 0, many)


def gradient_whole(dy: Array, x: Array) -> Array:
    """Return the whole gradient dyᵀ x, (out, in)."""
    _check_rows(dy, x)
    # GRD-001
    return _product(dy, x, ((0,), (0,)))


def store(values: Array, slots: Array, new: Array) -> Array:
    """Return a copy of values with the new ones in these slots (KRN-012).

    A traced call cannot look at slots; it drops those that are out of range.

    Raises:
        Refusal: KRN-009 for another number of slots than of values, KRN-010 for values of another dtype, KRN-012 for
            slots out of range.
    """
    if slots.shape != new.shape:
        raise Refusal("KRN-009", f"{slots.shape} slots and {new.shape} values")
    if new.dtype != values.dtype:
        raise Refusal("KRN-010", f"the new values are {new.dtype}, the values {values.dtype}")
    inside = (slots >= 0) & (slots < values.shape[0])
    if not isinstance(slots, jax.core.Tracer) and not bool(jnp.all(inside)):
        raise Refusal("KRN-012", f"slots lie in 0 … {values.shape[0] - 1}")
    # KRN-012
    return values.at[jnp.where(inside, slots, values.shape[0])].set(new, mode="drop")


def candidates(
    dy: Sequence[Array], x: Sequence[Array], steps: Any, base: Array, delta: Array, n: int, *, active: Any, at_once: int
) -> tuple[Array, Array]:
    """Return the positions of the n largest |g| outside the delta, ascending, and g there (GRD-003).

    dy, x     dy and x of each micro-batch of a window of `steps` steps
    active    whether only positions of the base count
    at_once   number of rows of g that are formed at a time
    Returns   positions, NOWHERE where there are no more, and values
    """
    rows, columns = dy[0].shape[1], x[0].shape[1]
    size = rows * columns
    n = min(n, size)
    if not size:
        return jnp.full(0, NOWHERE, jnp.int64), jnp.zeros(0, x[0].dtype)
    blocks = -(-rows // at_once)
    wide = [jnp.pad(part, ((0, 0), (0, blocks * at_once - rows))) for part in dy]

    def block(best: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        # GRD-004: g is the signed mean over the window
        cut = [lax.dynamic_slice_in_dim(part, number * at_once, at_once, 1) for part in wide]
        parts = jnp.stack([gradient_whole(a, b) for a, b in zip(cut, x, strict=True)])
        g = jnp.sum(parts, axis=0).reshape(-1) / steps
        # −0 becomes +0, because a sum that starts at +0 never gives −0
        g = jnp.where(key(g) == 0, 0, g)
        ids = number * at_once * columns + jnp.arange(at_once * columns)
        # GROW-001
        free = (ids < size) & ~_in(delta, ids) & (_in(base, ids) | ~jnp.asarray(active))
        values, ids = jnp.concatenate([best[0], g]), jnp.concatenate([best[1], jnp.where(free, ids, NOWHERE)])
        order = first(-key(jnp.abs(values)), ids, ids != NOWHERE)[:n]
        return (values[order], ids[order]), None

    start = jnp.zeros(n, x[0].dtype), jnp.full(n, NOWHERE)
    # GRD-003: each block keeps the n best of itself and all blocks before; SEL-003: at the end they are sorted
    values, ids = lax.scan(block, start, jnp.arange(blocks))[0]
    order = jnp.argsort(ids)
    return ids[order], values[order]


def _in(positions: Array, ids: Array) -> Array:
    """Return for each of consecutive ids whether it is one of the positions."""
    start = ids[0] if ids.shape[0] else jnp.int64(0)
    near = (positions >= start) & (positions < start + ids.shape[0])
    return jnp.zeros(ids.shape, bool).at[jnp.where(near, positions - start, NOWHERE)].set(True, mode="drop")


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def sparse_linear(x: Array, base: Base, delta_positions: Array, delta_values: Array, shape: Shape) -> Array:
    """Return y = x (θ′ + δ)ᵀ, (n, out); it has gradients by x and delta_values, none by the base, which is frozen."""
    weight = effective(base, delta_positions, delta_values)
    return matmul(x, weight.positions, weight.values, shape)


def _forward(x: Array, base: Base, delta_positions: Array, delta_values: Array, shape: Shape) -> tuple[Array, Any]:
    return sparse_linear(x, base, delta_positions, delta_values, shape), (x, base, delta_positions, delta_values)


def _backward(shape: Shape, residuals: Any, dy: Array) -> tuple[Array, None, None, Array]:
    x, base, delta_positions, delta_values = residuals
    weight = effective(base, delta_positions, delta_values)
    dx = matmul_transposed(dy, weight.positions, weight.values, shape)
    # W = b + φ at the delta, so ∂L/∂φ equals ∂L/∂W at these positions; the full gradient is not computed
    return dx, None, None, gradient_at(dy, x, delta_positions)


sparse_linear.defvjp(_forward, _backward)


def _product(a: Array, b: Array, over: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    # NUM-002: the precision is HIGHEST, because accelerators use a lower one by default
    return lax.dot_general(a, b, (over, ((), ())), precision=lax.Precision.HIGHEST)


def _check(x: Array, values: Array, width: int, name: str) -> None:
    if x.ndim != 2 or x.shape[1] != width:
        raise Refusal("KRN-009", f"{name} has the shape {x.shape}; (n, {width}) is needed")
    if x.dtype != values.dtype or x.dtype not in (jnp.float32, jnp.float64):
        raise Refusal("KRN-010", f"{name} is {x.dtype}, the values are {values.dtype}; both float32 or both float64")


def _check_values(positions: Array, values: Array) -> None:
    if values.ndim != 1 or positions.shape != values.shape:
        raise Refusal("KRN-009", f"values have the shape {values.shape}, the positions {positions.shape}")


def _check_rows(dy: Array, x: Array) -> None:
    if dy.ndim != 2 or x.ndim != 2 or dy.shape[0] != x.shape[0]:
        raise Refusal("KRN-009", f"dy has the shape {dy.shape}, x {x.shape}; (n, out) and (n, in) are needed")
    if dy.dtype != x.dtype or x.dtype not in (jnp.float32, jnp.float64):
        raise Refusal("KRN-010", f"dy is {dy.dtype}, x is {x.dtype}; both float32 or both float64")
