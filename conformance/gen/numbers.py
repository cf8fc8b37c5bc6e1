"""Random numbers for cases by the counter of RNG-001: the same words give the same numbers on every machine."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.answers.answer import ids, reals
from conformance.cases.case import Bound, Case
from conformance.oracle import select_rng

__all__ = ["Area", "Array", "Numbers", "ids", "product_bound", "reals"]

Array = NDArray[Any]


class Numbers:
    """A stream of random numbers from a key of words; all floats are exact in binary32."""

    def __init__(self, *words: int) -> None:
        self._key = select_rng.key(7, *words)
        self._next = 0

    def _draw(self) -> int:
        self._next += 1
        return select_rng.draw(self._key, self._next - 1)

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return low + self._draw() % (high - low + 1)

    def integers(self, shape: int | tuple[int, ...], low: int, high: int) -> Array:
        """Return integers from low to high, both included, as int64."""
        size = shape if isinstance(shape, tuple) else (shape,)
        flat = [self.integer(low, high) for _ in range(math.prod(size))]
        return np.array(flat, dtype=np.int64).reshape(size)

    def lattice(self, shape: int | tuple[int, ...], limit: int = 8) -> Array:
        """Return small integers as floats: sums of their products are exact in every precision."""
        return self.integers(shape, -limit, limit).astype(np.float64)

    def real(self, shape: int | tuple[int, ...], scale: float = 1.0) -> Array:
        """Return roughly normal numbers around 0 with a standard deviation near `scale`, rounded to binary32."""
        size = shape if isinstance(shape, tuple) else (shape,)
        flat = [sum(self._draw() / 2**64 for _ in range(6)) - 3 for _ in range(math.prod(size))]
        return (np.array(flat) * (scale * math.sqrt(2))).astype(np.float32).astype(np.float64).reshape(size)

    def balanced(self, terms: int) -> tuple[Array, Array]:
        """Return two vectors of integers from −31 to 31. Their product is from 1 to 31, partial sums reach thousands.

        Vectors and product are exact in 16-bit types, the partial sums are not.
        """
        a, b = self.lattice(terms, 31), self.lattice(terms, 31)
        *ends, last = self.subset(terms, 16)
        a[last] = b[last] = a[ends] = b[ends] = 0.0
        rest = float(a @ b)
        for at in ends:
            a[at], b[at] = 31.0, 0.0 - np.clip(rest // 31, -31, 31)
            rest += a[at] * b[at]
        a[last], b[last] = 1.0, 16.0 * (rest == 0)
        assert 0 < a @ b < 32
        return a, b

    def subset(self, size: int, n: int) -> list[int]:
        """Return n of the numbers 0 to size − 1, ascending."""
        return sorted(sorted(range(size), key=lambda _: self._draw())[:n])


class Area:
    """Collects the cases of one vector file."""

    def __init__(self, name: str, oracle: str = "plain Python") -> None:
        self.name, self.oracle = name, oracle
        self.cases: list[Case] = []

    def add(
        self,
        name: str,
        op: str,
        clauses: str,
        purpose: str,
        inputs: dict[str, Any],
        expected: dict[str, Any] | None = None,
        *,
        refused: str = "",
        **more: Any,
    ) -> None:
        """Add a case; clauses and the ids of a refusal are separated by spaces."""
        case = Case(
            f"{self.name}.{name}",
            op,
            tuple(clauses.split()),
            purpose,
            inputs,
            expected or {},
            tuple(refused.split()),
            **({"oracle": self.oracle} | more),
        )
        self.cases.append(case)


def product_bound(a: Array, b: Array, terms: int) -> Bound:
    """Return the bound of a @ b, whose entries are sums of `terms` products."""
    return Bound(np.abs(a) @ np.abs(b), terms)
