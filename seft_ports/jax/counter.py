"""Random numbers from a counter: draw i of a key is a pure function of the key and i (RNG-001, RNG-002)."""

from typing import Any

import jax.numpy as jnp
from jax import Array

import seft_ports.jax.wide  # noqa: F401  64-bit numbers, or an error that says how
from seft_ports.jax.errors import Refusal

__all__ = ["counter_key", "draws", "seed_word"]

_GAMMA = 0x9E3779B97F4A7C15


def seed_word(seed: int) -> Array:
    """Return a seed as the first word of a key (RNG-002).

    Raises:
        Refusal: RNG-002 for a seed that is no integer in 0 … 2⁶⁴ − 1.
    """
    # RNG-002
    if int(seed) != seed or not 0 <= seed < 2**64:
        raise Refusal("RNG-002", f"{seed} is no integer from 0 to 2^64 - 1")
    return jnp.uint64(seed)


def _mix(z: Array) -> Array:
    z = (z ^ (z >> 30)) * jnp.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> 27)) * jnp.uint64(0x94D049BB133111EB)
    return z ^ (z >> 31)


def counter_key(*words: Any) -> Array:
    """Return the key of these words, each an integer in 0 … 2⁶⁴ − 1 or a scalar array (RNG-002)."""
    key = jnp.uint64(0)
    for word in words:
        # RNG-002
        key = _mix((key + jnp.uint64(_GAMMA)) ^ jnp.asarray(word, dtype=jnp.uint64))
    return key


def draws(key: Array, numbers: Array) -> Array:
    """Return the draws of a key with these numbers, as uint64 (RNG-001)."""
    # RNG-001; arithmetic of uint64 is modulo 2⁶⁴
    return _mix(key + (numbers.astype(jnp.uint64) + jnp.uint64(1)) * jnp.uint64(_GAMMA))
