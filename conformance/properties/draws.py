"""Random inputs of examples: integers, and arrays, masks and choices as functions of integers.

The integers come from hypothesis, which shrinks failing examples, or from the counter of RNG-001, which always gives
the same. 0 is the simplest integer, and the first of several the simplest choice.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from conformance.answers.answer import reals
from conformance.oracle import select_rng

__all__ = ["SMALL", "Array", "Chosen", "Counted", "Draw", "Many", "Shape"]
T = TypeVar("T")
Array = NDArray[Any]
Shape = tuple[int, int]
FAR = 0x5EF7_3D91_C06B_52E8_A417_90
"""An offset for the integers that hypothesis draws.

Hypothesis favours constants of loaded source files, so examples would depend on which modules are loaded. No constant
is near this one.
"""
LENGTHS = (0, 1, 2, 3, 5, 8, 16, 17, 18, 33, 64, 65, 70)
"""Lengths of vectors around 16 and 64, because libraries change their sort there."""
SIDES = (1, 2, 3, 4, 5, 8, 17, 0)
"""Rows and columns of matrices."""
SMALL = (3, 5, 17, 70)
"""The most rows, columns or entries of an example; each example draws one as its size."""
ROOMS = (4, 9, 25, 70)
"""Numbers of integers that `Draw.integers` rounds up to."""
MASKS = ("scattered", "holes", "one row", "band", "full", "empty")
"""How stored positions are spread over a matrix."""


class Draw(ABC):
    """A source of integers, and of arrays and choices made from them.

    Attributes:
        size: the most rows, columns or entries.
    """

    size: int = SMALL[-1]

    @abstractmethod
    def drawn(self, n: int, low: int, high: int) -> list[int]:
        """Return n integers from low to high, both included; low is the simplest."""

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return self.drawn(1, low, high)[0]

    def integers(self, n: int, low: int, high: int) -> list[int]:
        """Return n integers from low to high.

        It draws up to the next of ROOMS, so that later draws stay the same while an example shrinks.
        """
        return self.drawn(next((room for room in ROOMS if n <= room), n), low, high)[:n]

    def choice(self, items: Sequence[T]) -> T:
        """Return one of several, the first being the simplest."""
        return items[self.integer(0, len(items) - 1)]

    def flag(self, one_in: int = 2) -> bool:
        """Return true in one of `one_in` cases."""
        return self.integer(0, one_in - 1) == one_in - 1

    def length(self, most: int = 70) -> int:
        """Return one of LENGTHS, at most `most` and `size`."""
        return self.choice([n for n in LENGTHS if n <= min(most, self.size)])

    def shape(self, most: int = 17, *, none: bool = False) -> Shape:
        """Return (out, in).

        none  0 rows or columns are possible
        """
        sides = [n for n in SIDES if n <= min(most, self.size) and (n or none)]
        return self.choice(sides), self.choice(sides)

    def levels(self, n: int, top: int = 2, unit: float = 0.125) -> list[float]:
        """Return n multiples of a unit from −top to top units; few levels give many ties."""
        return [unit * _signed(i) for i in self.integers(n, 0, 2 * top)]

    def lattice(self, shape: tuple[int, ...], top: int = 8) -> Array:
        """Return small integers as floats: sums of their products are exact in every dtype."""
        return reals(self.levels(int(np.prod(shape)), top, 1.0)).reshape(shape)

    def real(self, shape: tuple[int, ...]) -> Array:
        """Return numbers with 20 binary digits after the point, at most 2 in magnitude."""
        return reals(self.levels(int(np.prod(shape)), 2**21, 2.0**-20)).reshape(shape)

    def subset(self, n: int, one_in: int = 2) -> list[int]:
        """Return a sorted subset of 0 to n − 1, each with chance 1 / one_in."""
        return [i for i, x in enumerate(self.integers(n, 0, one_in - 1)) if x == one_in - 1]

    def some(self, items: Sequence[T], n: int) -> list[T]:
        """Return n of the items in their order; the first n are the simplest."""
        keys = self.integers(len(items), 0, 2**16 - 1)
        indices = sorted(sorted(range(len(items)), key=lambda i: (keys[i], i))[:n])
        return [items[i] for i in indices]

    def order(self, n: int) -> list[int]:
        """Return the numbers 0 to n − 1 in some order."""
        keys = self.integers(n, 0, 2**16 - 1)
        return sorted(range(n), key=lambda i: (keys[i], i))

    def mask(self, shape: Shape) -> tuple[list[int], str]:
        """Return sorted flat positions, and the one of MASKS that they follow."""
        rows, cols = shape
        kind = self.choice(MASKS)
        every = range(rows * cols)
        if kind == "scattered":
            return self.subset(rows * cols), kind
        if kind == "holes":
            row, col = self.integer(0, max(rows - 1, 0)), self.integer(0, max(cols - 1, 0))
            positions = self.subset(rows * cols)
            return [p for p in positions if p // cols != row and p % cols != col], kind
        if kind == "one row":
            row = self.integer(0, max(rows - 1, 0))
            return [p for p in every if p // cols == row], kind
        if kind == "band":
            width = self.integer(0, 2)
            return [p for p in every if abs(p // cols - p % cols) <= width], kind
        return list(every) if kind == "full" else [], kind

    def pattern(self, shape: Shape, n: int, m: int) -> list[int]:
        """Return flat positions with at most n in every group of m columns."""
        positions: list[int] = []
        for first in range(0, shape[0] * shape[1], m):
            positions += self.some(range(first, first + m), self.integer(n - 1, n))
        return positions

    def with_specials(self, values: list[float]) -> list[float]:
        """Return the values; in one of three cases some become −0.0 or subnormals, which a flush to zero would lose."""
        if not values or not self.flag(3):
            return values
        special = [-0.0, 2.0**-149, -(2.0**-149), 2.0**-140, 0.0]
        picks = self.integers(len(values), 0, 2 * len(special))
        return [special[i - 1] if 0 < i <= len(special) else x for i, x in zip(picks, values, strict=True)]


class Many:
    """Large arrays of integers by the counter of RNG-001.

    One word comes from a draw, and all numbers follow from it.
    """

    def __init__(self, d: Draw) -> None:
        self._key, self._next = select_rng.key(d.integer(0, 2**40)), 0

    def integers(self, n: int, low: int, high: int) -> Array:
        """Return n integers from low to high as int64."""
        start, self._next = self._next, self._next + n
        numbers = np.arange(start + 1, start + n + 1, dtype=np.uint64)
        # the masks of RNG-001 are not needed, because uint64 wraps around modulo 2⁶⁴
        z = np.uint64(self._key) + numbers * np.uint64(select_rng.GAMMA)
        for shift, factor in ((30, select_rng.FACTORS[0]), (27, select_rng.FACTORS[1]), (31, 1)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return low + (z % np.uint64(high - low + 1)).astype(np.int64)

    def lattice(self, shape: tuple[int, ...], top: int = 8) -> Array:
        """Return small integers as floats: sums of their products are exact in every dtype."""
        return self.integers(int(np.prod(shape)), -top, top).astype(np.float64).reshape(shape)

    def subset(self, size: int, n: int) -> Array:
        """Return n of the numbers 0 to size − 1, ascending, as int64; size may be beyond 2³²."""
        if size > 2**22:
            # take one number from each stretch of size // n, because sorting them all would take too long
            stretch = size // max(n, 1)
            return np.arange(n, dtype=np.int64) * stretch + self.integers(n, 0, stretch - 1)
        return np.sort(np.argsort(self.integers(size, 0, 2**62), kind="stable")[:n])


def _signed(i: int) -> int:
    """Return 0, 1, −1, 2, −2, … for 0, 1, 2, 3, 4, …."""
    return (i + 1) // 2 if i % 2 else -(i // 2)


class Counted(Draw):
    """Draws by the counter of RNG-001, without hypothesis: the same words give the same integers."""

    def __init__(self, *words: int) -> None:
        self._key, self._next = select_rng.key(*words), 0
        self.size = self.choice(SMALL)

    def drawn(self, n: int, low: int, high: int) -> list[int]:
        """Return n integers from low to high."""
        start, self._next = self._next, self._next + n
        return [low + select_rng.draw(self._key, start + i) % (high - low + 1) for i in range(n)]


class Chosen(Draw):
    """Draws that hypothesis chooses."""

    def __init__(self, data: Any, strategies: Any, size: int | None = None) -> None:
        self._data, self._st = data, strategies
        self.size = self.choice(SMALL) if size is None else size

    def drawn(self, n: int, low: int, high: int) -> list[int]:
        """Return n integers from low to high."""
        if low == high:
            return [low] * n
        one = self._st.integers(FAR + low, FAR + high)
        if n == 1:
            return [int(self._data.draw(one)) - FAR]
        drawn = self._data.draw(self._st.lists(one, min_size=n, max_size=n))
        return [int(x) - FAR for x in drawn]
