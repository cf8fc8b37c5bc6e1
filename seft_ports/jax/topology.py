"""Positions in arrays of fixed capacity, row pointers, and what moves when positions change (TOP, CHG)."""

from typing import Any

import jax.numpy as jnp
from jax import Array

import seft_ports.jax.wide  # noqa: F401  64-bit numbers, or an error that says how

__all__ = [
    "NOWHERE",
    "columns_wrong",
    "count",
    "csr",
    "from_csr",
    "holds",
    "packed",
    "padded",
    "pointers_wrong",
    "positions_wrong",
    "realign",
    "source",
]

NOWHERE = 2**63 - 1
"""Position of the free tail of an array of positions; behind every other one."""


def padded(values: Any, capacity: int, fill: Any = 0) -> Array:
    """Return a vector with a tail of `fill` up to the capacity; for positions fill is NOWHERE."""
    values = jnp.asarray(values)
    return jnp.full(capacity, fill, values.dtype).at[: values.shape[0]].set(values)


def count(positions: Array) -> Array:
    """Return how many positions there are before the tail."""
    return jnp.sum(positions != NOWHERE)


def packed(keep: Array, positions: Array, *arrays: Array) -> tuple[Array, ...]:
    """Return the kept positions with NOWHERE behind them, and arrays on them with 0 there."""
    to = jnp.where(keep & (positions != NOWHERE), jnp.cumsum(keep) - 1, NOWHERE)
    tails = [NOWHERE, *(0 for _ in arrays)]
    moved = [jnp.full_like(x, tail) for x, tail in zip((positions, *arrays), tails, strict=True)]
    return tuple(new.at[to].set(x, mode="drop") for new, x in zip(moved, (positions, *arrays), strict=True))


def source(old: Array, new: Array) -> Array:
    """Return for each new slot the old slot of the same position, −1 where there is none."""
    if old.shape[0] == 0:
        return jnp.full(new.shape, -1, jnp.int64)
    # CHG-001
    slot = jnp.minimum(jnp.searchsorted(old, new), old.shape[0] - 1)
    return jnp.where((old[slot] == new) & (new != NOWHERE), slot, -1).astype(jnp.int64)


def holds(positions: Array, asked: Array) -> Array:
    """Tell of each position asked for whether it is there."""
    return source(positions, asked) >= 0


def realign(values: Array, source: Array, fill: Any = 0) -> Array:
    """Return values in new slots: those of the sources bit for bit, `fill` in the others."""
    fill = jnp.asarray(fill, values.dtype)
    if values.shape[0] == 0:
        return jnp.full(source.shape, fill)
    # CHG-002
    return jnp.where(source >= 0, values[jnp.maximum(source, 0)], fill)


def from_csr(indptr: Array, indices: Array, columns: Any) -> Array:
    """Return the flat position of each slot, NOWHERE behind the last."""
    slots = jnp.arange(indices.shape[0])
    # TOP-003; a slot lies in the last row that starts at or before it; a search gives int32, too small for a product
    row = (jnp.searchsorted(indptr, slots, side="right") - 1).astype(jnp.int64)
    return jnp.where(slots < indptr[-1], row * columns + indices, NOWHERE)


def csr(positions: Array, rows: int, columns: Any) -> tuple[Array, Array]:
    """Return row pointers and columns; the columns of the tail are 0."""
    # TOP-001
    indptr = jnp.searchsorted(positions, jnp.arange(rows + 1) * columns).astype(jnp.int64)
    held = positions != NOWHERE
    return indptr, jnp.where(held, positions % jnp.maximum(columns, 1), 0)


def positions_wrong(positions: Array, rows: Any, columns: Any) -> Array:
    """Tell whether positions repeat, decrease or lie outside an (rows, columns) matrix (TOP-003)."""
    held = positions != NOWHERE
    falls = (positions[1:] <= positions[:-1]) & (positions[1:] != NOWHERE)
    hole = held[1:] & ~held[:-1]
    return jnp.any(falls | hole) | jnp.any(held & ((positions < 0) | (positions >= rows * columns)))


def pointers_wrong(indptr: Array, slots: Any) -> Array:
    """Tell whether row pointers do not start at 0, decrease, or end elsewhere than at the slots (TOP-001)."""
    return (indptr[0] != 0) | (indptr[-1] != slots) | jnp.any(indptr[1:] < indptr[:-1])


def columns_wrong(indptr: Array, indices: Array, columns: Any) -> Array:
    """Tell whether columns lie outside, or do not increase within a row (TOP-002)."""
    slots = jnp.arange(indices.shape[0])
    row = jnp.searchsorted(indptr, slots, side="right")
    held = slots < indptr[-1]
    falls = (indices[1:] <= indices[:-1]) & (row[1:] == row[:-1]) & held[1:]
    return jnp.any(held & ((indices < 0) | (indices >= columns))) | jnp.any(falls)
