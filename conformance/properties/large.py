"""Sizes beyond every boundary of an index type, for the properties named AREA_large."""

from collections.abc import Sequence
from typing import Any

from conformance.properties.draws import Array, Draw, Many, Shape
from conformance.properties.trial import Trial

BEYOND = "more than 65,536 entries"
FAR = "a position above 2³¹"
FARTHER = "a position above 2³²"


def lengths(d: Draw) -> list[int]:
    """Return lengths of vectors: around 256, in between, and beyond 65,536."""
    return [255 + d.integer(0, 2), d.integer(1301, 5000), 65_536 + d.integer(1, 300)]


def shapes(d: Draw) -> list[Shape]:
    """Return four shapes: a width around 256, a width, a height and a number of entries beyond 65,536."""
    return [
        (3, 255 + d.integer(0, 2)),
        (1, 65_900 + d.integer(0, 99)),
        (65_900 + d.integer(0, 99), 1),
        (257 + d.integer(0, 3), 257 + d.integer(0, 9)),
    ]


def beyond(d: Draw, border: int) -> int:
    """Return an odd number above a border, so that every program that takes a power of two at once has a rest.

    border  a number of rows, columns or tokens that programs take at once: 64, 128, 256, 512
    """
    return border + d.integer(1, 31) * 2 - 1


def far_at(d: Draw) -> list[Shape]:
    """Return two shapes whose last positions are beyond 2³¹ and 2³², for matrices with few entries."""
    return [(2, 1_100_000_000 + d.integer(0, 10**6)), (65_600 + d.integer(0, 99), 65_537 + d.integer(0, 99))]


def sees_beyond(t: Trial, shape: Shape, at: Array | Sequence[int]) -> None:
    """Record in the trial the boundaries that a matrix and its positions exceed."""
    t.saw(BEYOND, len(at) > 65_536)
    t.saw(FAR, len(at) and at[-1] >= 2**31)
    t.saw(FARTHER, len(at) and at[-1] >= 2**32)
    t.saw("more than 65,536 rows", shape[0] > 65_536)
    t.saw("more than 65,536 columns", shape[1] > 65_536)


def sides(shape: Shape) -> dict[str, Any]:
    """Return the shape of a matrix as inputs of an operation."""
    return {"out": shape[0], "in": shape[1]}


def most_of(many: Many, shape: Shape) -> list[int]:
    """Return most flat positions of a matrix, or 41 if it has more than 2²²."""
    size = shape[0] * shape[1]
    if size > 2**22:
        return [*many.subset(size - 1, 40).tolist(), size - 1]
    return list(many.subset(size, size - size // 200).tolist())
