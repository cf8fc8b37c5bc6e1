"""Scores of slots, candidates and weights, every operation rounded once (DROP-003, GROW-004, ADPT-005, RNG-003)."""

import math
import struct

from conformance.oracle import select_rng
from conformance.oracle.select import Round, binary64

DROP, GROW, ADAPT, LAST = 1, 2, 3, 4
"""The uses of a random score, each a word of its key (RNG-003)."""


def binary32(x: float) -> float:
    """Return x rounded once to binary32, or an infinity if it overflows."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def chance(seed: int, matrix: int, step: int, use: int, p: int) -> float:
    """Return the random score of a flat position, in binary64 whatever the dtype (RNG-003)."""
    return (select_rng.draw(select_rng.key(seed, 3, matrix, step, use), p) >> 11) * 2.0**-53


def of_slot(
    criterion: str, phi: float, *, origin: float = 0.0, square: float = 0.0, weight: float = 0.0, r: Round = binary64
) -> float:
    """Return the score of a slot by any criterion but random (DROP-003)."""
    if criterion == "magnitude":
        return abs(phi)
    if criterion == "change":
        return abs(r(phi - origin))
    if criterion == "fisher":
        return r(square * r(phi * phi))
    if criterion == "weight":
        return abs(weight)
    raise KeyError(criterion)


def of_candidate(
    criterion: str,
    *,
    g: float = 0.0,
    absolute: float = 0.0,
    square: float = 0.0,
    h: float = 0.0,
    row: float = 0.0,
    column: float = 0.0,
    r: Round = binary64,
) -> float:
    """Return the score of a candidate by any criterion but random (GROW-004)."""
    if criterion == "gradient":
        return abs(g)
    if criterion == "absolute":
        return absolute
    if criterion == "fisher":
        return square
    if criterion == "moments":
        return r(row * column)
    if criterion == "curvature":
        return r(r(g * g) / h) if h else 0.0
    raise KeyError(criterion)


def of_weight(
    criterion: str,
    w: float,
    *,
    g: float = 0.0,
    absolute: float = 0.0,
    square: float = 0.0,
    tokens: float = 0.0,
    h: float = 0.0,
    r: Round = binary64,
) -> float:
    """Return the score of a weight by any criterion but random (ADPT-005)."""
    if criterion == "sensitivity":
        return abs(r(g * w))
    if criterion == "absolute":
        return r(abs(w) * absolute)
    if criterion == "fisher":
        return r(r(w * w) * square)
    if criterion == "token-fisher":
        return r(r(w * w) * tokens)
    if criterion == "magnitude":
        return abs(w)
    if criterion == "activation":
        return r(abs(w) * r(math.sqrt(h)))
    if criterion == "curvature":
        return r(0.5 * r(r(w * w) * h))
    raise KeyError(criterion)
