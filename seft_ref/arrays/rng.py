"""Random numbers as a function of a key and a counter (RNG-001, RNG-002).

    key = counter_key(seed, STREAM_WINDOWS)
    draws(key, [0, 1, 2])            # the same three uint64 numbers on every machine, in any order

Nothing here has a state. What a step draws depends on the seed and on its number alone, so a run resumes without a
saved generator and repeats in another process (TRN-006).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from seft_ref.arrays.library import NumpyArray
from seft_ref.errors import ConfigError, UpdateError

GAMMA = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1

STREAM_POSITIONS, STREAM_WINDOWS, STREAM_SCORES, STREAM_CALIBRATION, STREAM_FACTORS, STREAM_PICKS = 1, 2, 3, 4, 5, 6
STREAM_PRUNING, STREAM_EXAMPLES, STREAM_ITEMS = 7, 8, 9


def mix(z: int) -> int:
    """Return the 64-bit mix of z (RNG-001)."""
    z = ((z ^ (z >> 30)) * _M1) & _MASK
    z = ((z ^ (z >> 27)) * _M2) & _MASK
    return z ^ (z >> 31)


def counter_key(*words: int) -> int:
    """Return the key of the words (RNG-002): the seed, the stream, and further numbers that tell uses apart.

    Raises:
        ConfigError: RNG-002 if a word is negative or needs more than 64 bits.
    """
    key = 0
    for word in words:
        if not 0 <= word <= _MASK:
            raise ConfigError("RNG-002", f"{word} is not an integer from 0 to 2^64 - 1; seeds are")
        key = mix(((key + GAMMA) & _MASK) ^ word)
    return key


def draw(key: int, i: int) -> int:
    """Return draw number i of a key, 0 to 2^64 − 1 (RNG-001)."""
    return mix((key + (i + 1) * GAMMA) & _MASK)


def draws(key: int, counters: Iterable[int] | NumpyArray) -> NDArray[np.uint64]:
    """Return the draws of all counters as uint64, in their order; equal to `draw` one by one."""
    if isinstance(counters, range):
        # an array and no list, because a list has a Python integer for each weight of a large matrix
        counters = np.arange(counters.start, counters.stop, counters.step, dtype=np.uint64)
    if not isinstance(counters, np.ndarray):
        counters = np.asarray(list(counters), dtype=np.uint64)
    z = (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_M1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_M2)
    return z ^ (z >> np.uint64(31))


def choose(key: int, ids: NumpyArray, size: int) -> NumpyArray:
    """Return, ascending, the `size` ids with the smallest draws; id i has draw number i, ties go by id (DLT-004).

    Shapes  ids (n,) non-negative, ascending; result (size,)
    Raises  UpdateError SEL-005 if size is not in 0 … n
    """
    # SEL-005
    if not 0 <= size <= ids.shape[0]:
        raise UpdateError("SEL-005", f"cannot choose {size} of {ids.shape[0]} positions")
    by_draw = np.lexsort((ids, draws(key, ids)))
    return np.sort(ids[by_draw[:size]])


def shuffled(key: int, counters: range) -> list[int]:
    """Return 0 … n − 1 in the order of the draws of n counters, ties in their own order (TRN-021)."""
    return [int(i) for i in np.argsort(draws(key, counters), kind="stable")]


def uniform(key: int, counters: Iterable[int] | NumpyArray) -> NDArray[np.float64]:
    """Return draws as numbers in [0, 1), multiples of 2^-53 (RNG-003, ADP-002)."""
    return (draws(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
