"""Selection and topologies, by sorted tuples and integers (TOP, CHG, SEL)."""

import struct
from collections.abc import Callable, Sequence
from itertools import accumulate

Round = Callable[[float], float]


def binary64(x: float) -> float:
    """Return x itself, because Python floats are binary64."""
    return x


def binary32(x: float) -> float:
    """Return x rounded once to binary32, to nearest, ties to even."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def largest(scores: Sequence[float], ids: Sequence[int], k: int) -> list[int]:
    """Return the ids of the k largest scores, ascending (SEL-001, SEL-003)."""
    order = sorted(zip(scores, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
    return sorted(i for _, i in order[:k])


def smallest(scores: Sequence[float], ids: Sequence[int], k: int) -> list[int]:
    """Return the ids of the k smallest scores, ascending (SEL-002, SEL-003)."""
    order = sorted(zip(scores, ids, strict=True), key=lambda pair: (pair[0], pair[1]))
    return sorted(i for _, i in order[:k])


def rows_and_columns(shape: tuple[int, int], flat: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return row pointers and columns of flat positions (TOP-001, TOP-002)."""
    counts = [0] * (shape[0] + 1)
    for p in flat:
        counts[p // shape[1] + 1] += 1
    return list(accumulate(counts)), [p % shape[1] for p in flat]


def source(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Return for each new position the old slot that holds it, or −1 (CHG-001)."""
    slots = {p: s for s, p in enumerate(old)}
    return [slots.get(p, -1) for p in new]


def realign(values: Sequence[float], old: Sequence[int], new: Sequence[int], fill: float) -> list[float]:
    """Return the values at the new positions: those of old positions, `fill` at others (CHG-002)."""
    old_values = dict(zip(old, values, strict=True))
    return [old_values.get(p, fill) for p in new]
