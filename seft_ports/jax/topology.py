"""Positions in arrays of fixed capacity, row pointers, and moving values when positions change (TOP, CHG)."""

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
"""The position that fills the free tail of an array; it is larger than every real one."""


def padded(values: Any, capacity: int, fill: Any = 0) -> Array:
    """Return a vector of length `capacity`: the values, then `fill`; for positions fill is NOWHERE."""
    values = jnp.asarray(values)
    return jnp.full(capacity, fill, values.dtype).at[: values.shape[0]].set(values)


def count(positions: Array) -> Array:
    """Return how many positions there are before the tail."""
    return jnp.sum(positions != NOWHERE)


def packed(keep: Array, positions: Array, *arrays: Array) -> tuple[Array, ...]:
    """Return the kept positions with NOWHERE behind them, and the arrays at kept positions with 0 behind them."""
    targets = jnp.where(keep & (positions != NOWHERE), jnp.cumsum(keep) - 1, NOWHERE)
    tails = [NOWHERE, *(0 for _ in arrays)]
    blanks = [jnp.full_like(x, tail) for x, tail in zip((positions, *arrays), tails, strict=True)]
    return tuple(new.at[targets].set(x, mode="drop") for new, x in zip(blanks, (positions, *arrays), strict=True))


def source(old: Array, new: Array) -> Array:
    """Return for each new slot the old slot of the same position, −1 where there is none (CHG-001)."""
    if old.shape[0] == 0:
        return jnp.full(new.shape, -1, jnp.int64)
    # CHG-001
    slot = jnp.minimum(jnp.searchsorted(old, new), old.shape[0] - 1)
    return jnp.where((old[slot] == new) & (new != NOWHERE), slot, -1).astype(jnp.int64)


def holds(positions: Array, queries: Array) -> Array:
    """Return for each query whether it is one of `positions`."""
    return source(positions, queries) >= 0


def realign(values: Array, source: Array, fill: Any = 0) -> Array:
    """Return values in new slots: those of the source slots bit for bit, `fill` where the source is −1 (CHG-002)."""
    fill = jnp.asarray(fill, values.dtype)
    if values.shape[0] == 0:
        return jnp.full(source.shape, fill)
    # CHG-002
    return jnp.where(source >= 0, values[jnp.maximum(source, 0)], fill)


def from_csr(indptr: Array, indices: Array, columns: Any) -> Array:
    """Return the flat position of each slot of a CSR matrix, NOWHERE behind the last."""
    slots = jnp.arange(indices.shape[0])
    # TOP-003: a slot lies in the last row that starts at or before it
    # searchsorted may give int32, in which row * columns can overflow
    row = (jnp.searchsorted(indptr, slots, side="right") - 1).astype(jnp.int64)
    return jnp.where(slots < indptr[-1], row * columns + indices, NOWHERE)


def csr(positions: Array, rows: int, columns: Any) -> tuple[Array, Array]:
    """Return row pointers and column indices (TOP-001); those of the tail are 0."""
    # TOP-001
    indptr = jnp.searchsorted(positions, jnp.arange(rows + 1) * columns).astype(jnp.int64)
    occupied = positions != NOWHERE
    return indptr, jnp.where(occupied, positions % jnp.maximum(columns, 1), 0)


def positions_wrong(positions: Array, rows: Any, columns: Any) -> Array:
    """Return whether positions repeat, decrease or lie outside an (rows, columns) matrix (TOP-003)."""
    occupied = positions != NOWHERE
    falls = (positions[1:] <= positions[:-1]) & (positions[1:] != NOWHERE)
    hole = occupied[1:] & ~occupied[:-1]
    return jnp.any(falls | hole) | jnp.any(occupied & ((positions < 0) | (positions >= rows * columns)))


def pointers_wrong(indptr: Array, slots: Any) -> Array:
    """Return whether row pointers do not start at 0, decrease, or do not end at `slots` (TOP-001)."""
    return (indptr[0] != 0) | (indptr[-1] != slots) | jnp.any(indptr[1:] < indptr[:-1])


def columns_wrong(indptr: Array, indices: Array, columns: Any) -> Array:
    """Return whether a column lies outside the matrix, or columns do not increase within a row (TOP-002)."""
    slots = jnp.arange(indices.shape[0])
    row = jnp.searchsorted(indptr, slots, side="right")
    occupied = slots < indptr[-1]
    falls = (indices[1:] <= indices[:-1]) & (row[1:] == row[:-1]) & occupied[1:]
    return jnp.any(occupied & ((indices < 0) | (indices >= columns))) | jnp.any(falls)
