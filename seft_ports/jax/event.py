"""`evolve` runs an event: drop, grow, adapt, and it moves the delta to its new positions (DLT, DROP, GROW, ADPT, EVT).

An event is one function of arrays of fixed capacity: the base has room for K weights, the delta for d_φ slots. Neither
ever needs more. Counts may be traced, so one compilation serves every event of a run.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from seft_ports.jax.counter import counter_key, draws
from seft_ports.jax.errors import FINE, NOT_FINITE
from seft_ports.jax.exact import key, plus, times
from seft_ports.jax.select import first, smallest, trouble
from seft_ports.jax.topology import NOWHERE, count, holds, packed, realign, source

__all__ = [
    "Base",
    "Delta",
    "Event",
    "Pruned",
    "adapt",
    "drop",
    "effective",
    "evidence_trouble",
    "evolve",
    "grow",
    "initial_random",
    "last_adapt",
    "new_delta",
]


class Base(NamedTuple):
    """The pruned weights: positions and values."""

    positions: Array
    values: Array


class Delta(NamedTuple):
    """The update: positions, and for each slot its value, both moments and its age."""

    positions: Array
    values: Array
    m: Array
    v: Array
    age: Array


class Event(NamedTuple):
    """The result of an event.

    Attributes:
        base, delta: base and delta after the event; unchanged if it is refused.
        dropped: mask of the old slots that were dropped, including those that grew again in this event.
        grown: the grown positions, NOWHERE behind them.
        pruned: the pruned positions, NOWHERE behind them.
        trouble: a code of `errors`: FINE, or why the event is refused.
    """

    base: Base
    delta: Delta
    dropped: Array
    grown: Array
    pruned: Array
    trouble: Array


class Pruned(NamedTuple):
    """The choice of sensitivity pruning: positions with NOWHERE behind them, and a code of `errors`."""

    positions: Array
    trouble: Array


def new_delta(positions: Array, dtype: Any) -> Delta:
    """Return a delta of new slots: value, moments and age are 0 (DLT-005)."""
    # DLT-005
    zero = jnp.zeros(positions.shape, dtype)
    return Delta(positions, zero, zero, zero, jnp.zeros(positions.shape, jnp.int64))


def initial_random(base: Array, n: Any, seed: Any, matrix: Any) -> Array:
    """Return a mask of the n slots of the base with the smallest random draws (DLT-004)."""
    # DLT-004; draws are uint64, so `first` compares them without sign
    drawn = draws(counter_key(seed, 1, matrix), base)
    order = first(drawn, base, base != NOWHERE)
    return jnp.zeros(base.shape, bool).at[order].set(jnp.arange(base.shape[0]) < n)


def effective(base: Base, delta_positions: Array, delta_values: Array) -> Base:
    """Return the effective weights b + φ on the union of base and delta; its capacity is the sum of theirs."""
    outside = jnp.where(holds(base.positions, delta_positions), NOWHERE, delta_positions)
    support = jnp.sort(jnp.concatenate([base.positions, outside]))
    weight = realign(base.values, source(base.positions, support))
    slot = source(delta_positions, support)
    # DLT-003: b + φ is rounded once at η; elsewhere b is moved bit for bit
    updated = plus(weight, realign(delta_values, slot))
    return Base(support, jnp.where(slot >= 0, updated, weight))


def drop(delta_positions: Array, delta_values: Array, n: Any) -> Array:
    """Return a mask of the n slots with the smallest |φ| (DROP-001)."""
    # DROP-001
    return smallest(jnp.abs(delta_values), delta_positions, n, delta_positions != NOWHERE)


def grow(
    gradient: Array, base: Array, kept_positions: Array, n: Any, *, active: Any = False, size: Any = None
) -> Array:
    """Return the n candidates with the largest |g|, best first, NOWHERE where there are no more (GROW-002).

    It refuses nothing; `evidence_trouble` tells whether the gradient may be used.

    gradient        flat, of all positions
    base            the positions of the base
    kept_positions  positions of the delta that are not dropped
    active          whether candidates must lie in the base (`grow_scope` `active`)
    size            the number of positions, if the gradient has a tail
    """
    everywhere = jnp.arange(gradient.shape[0])
    # GROW-001
    candidates = everywhere < (gradient.shape[0] if size is None else size)
    candidates = candidates.at[kept_positions].set(False, mode="drop")
    stored = jnp.zeros(gradient.shape[0], bool).at[base].set(True, mode="drop")
    candidates &= stored | ~jnp.asarray(active)
    # GROW-002
    order = first(-key(jnp.abs(gradient)), everywhere, candidates)
    return jnp.where(everywhere < jnp.minimum(n, jnp.sum(candidates)), order, NOWHERE)


def adapt(weight: Base, gradient: Array, budget: Any, exempt: Array | None = None) -> Pruned:
    """Return the positions to prune: those with the smallest |g · W|, as many as the support has above the budget.

    weight    the effective weight
    gradient  flat, of all positions
    exempt    mask over the support of weight, None if nothing is exempt
    """
    stored = weight.positions != NOWHERE
    prunable = stored if exempt is None else stored & ~exempt
    positions = jnp.where(stored, weight.positions, 0)
    # ADPT-002
    score = jnp.abs(times(_taken(gradient, positions), weight.values))
    # ADPT-001
    excess = jnp.maximum(0, jnp.sum(stored) - budget)
    chosen = smallest(score, weight.positions, excess, prunable)
    # EVT-005.3: without an excess nothing is ranked, so that only the evidence has to be finite
    finite = jnp.isfinite(_taken(gradient, positions))
    ranked = jnp.where(excess > 0, score, jnp.where(finite, 0, jnp.inf).astype(score.dtype))
    return Pruned(packed(chosen, weight.positions)[0], trouble(ranked, excess, prunable))


def _taken(x: Array, at: Array) -> Array:
    return x[at] if x.shape[0] else jnp.zeros(at.shape, x.dtype)


def last_adapt(base: Base, delta: Delta, gradient: Array, budget: Any) -> tuple[Base, Array]:
    """Return the weights after the last adapt pass, on at most `budget` positions, and a code of `errors` (EVT-004)."""
    weight = effective(base, delta.positions, delta.values)
    # EVT-004: nothing is exempt
    pruned = adapt(weight, gradient.reshape(-1), budget)
    after = Base(*packed(~holds(pruned.positions, weight.positions), weight.positions, weight.values))
    # EVT-005.4: a refused pass leaves the weights as they were
    return jax.tree.map(lambda x, y: jnp.where(pruned.trouble == FINE, x, y), after, weight), pruned.trouble


def evolve(
    base: Base,
    delta: Delta,
    gradient: Array,
    n_drop: Any,
    delta_budget: Any,
    budget: Any,
    *,
    active: Any = False,
    adapts: Any = True,
    size: Any = None,
) -> Event:
    """Return the result of an event on one matrix; if it is refused nothing changes (EVT-005).

    gradient      (out, in), of the step just taken, before clipping
    n_drop        slots to drop
    delta_budget  d_φ, at most the capacity of the delta
    budget        K
    active        whether growth must stay in the base
    adapts        whether weights are pruned
    size          out · in, if the gradient is flat and has a tail of zeros
    """
    gradient = gradient.reshape(-1)
    n_drop, slots, capacity = jnp.asarray(n_drop), count(delta.positions), delta.positions.shape[0]
    occupied = delta.positions != NOWHERE
    # EVT-005; SEL-005
    refusal = evidence_trouble(gradient, base.positions, delta.positions, active)
    refusal = _either(refusal, trouble(delta.values, n_drop, occupied))
    # EVT-001: an event runs drop, grow and adapt with one gradient (EVT-002)
    dropped = drop(delta.positions, delta.values, n_drop)
    kept_positions = jnp.where(dropped, NOWHERE, delta.positions)
    n_grow = jnp.maximum(0, n_drop + (delta_budget - slots))
    grown = grow(gradient, base.positions, kept_positions, n_grow, active=active, size=size)[:capacity]
    positions = jnp.sort(jnp.concatenate([kept_positions, grown]))[:capacity]
    # GROW-003: a position that is dropped and grown keeps its slot; DROP-002: other dropped positions lose theirs
    moved = _moved(delta, positions)
    new = source(delta.positions, positions) < 0
    weight = effective(base, moved.positions, moved.values)
    # ADPT-003
    exempt = realign(new, source(positions, weight.positions), fill=False)
    pruned = adapt(weight, gradient, jnp.where(adapts, budget, weight.positions.shape[0]), exempt)
    refusal = _either(refusal, pruned.trouble)
    # ADPT-004: pruned positions leave the base and the delta, with value, moments and age
    removed = pruned.positions
    after = Base(*packed(~holds(removed, base.positions), *base))
    rest = Delta(*packed(~holds(removed, moved.positions), *moved))
    # EVT-005: a refused event leaves the state as it was
    base, delta = jax.tree.map(lambda x, y: jnp.where(refusal == FINE, x, y), (after, rest), (base, delta))
    return Event(base, delta, dropped, grown, removed, refusal)


def evidence_trouble(gradient: Array, base: Array, delta: Array, active: Any) -> Array:
    """Return a code of `errors`: FINE if an event may use a flat gradient (EVT-005, GRD-009).

    base, delta  positions of the base and of the delta
    active       whether growth must stay in the base, so that the gradient is read on the support alone
    """
    read = jnp.zeros(gradient.shape, dtype=bool)
    for positions in (base, delta):
        read = read.at[positions].set(True, mode="drop")
    finite = jnp.all(jnp.isfinite(gradient) | (active & ~read)) & (active | _has_norm(gradient))
    return jnp.where(finite, FINE, NOT_FINITE)


def _has_norm(gradient: Array) -> Array:
    """Return whether the norm of a gradient is a number of binary64 (EVT-005.2), as it is in float32."""
    if gradient.dtype != jnp.float64:
        return jnp.ones((), dtype=bool)
    # the gradient is scaled, so that no square overflows
    scaled = gradient * 2.0**-540
    return jnp.isfinite(jnp.sqrt(jnp.sum(scaled * scaled)) * 2.0**540)


def _either(first: Array, second: Array) -> Array:
    return jnp.where(first == FINE, second, first)


def _moved(delta: Delta, positions: Array) -> Delta:
    """Return the delta moved to these positions: old slots move bit for bit, new ones are 0 (DLT-005)."""
    slot = source(delta.positions, positions)
    return Delta(positions, *(realign(x, slot) for x in delta[1:]))
