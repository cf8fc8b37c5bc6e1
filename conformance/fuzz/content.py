"""`Content`, the common form in which the answers of different readers are compared."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Disagreement(Exception):
    """Two readers disagree, or one of them breaks down.

    The message names the reader. `culprit` is the input, if it is not the last one.
    """

    def __init__(self, message: str, culprit: bytes | None = None) -> None:
        super().__init__(message)
        self.culprit = culprit


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file according to one reader; readers that agree give equal contents."""

    about: tuple[str, ...]
    """kind, state digest (FMT-099), then attributes, delta, scales and ties as canonical text"""
    tensors: dict[str, tuple[Any, ...]]
    """name -> dtype, shape, and digests of row pointers and columns (as I64, None for a full tensor) and of values"""


def integers(array: NDArray[Any]) -> str:
    """Return the SHA-256 of row pointers or columns, taken as little-endian int64."""
    return sha256(np.asarray(array).astype("<i8").tobytes()).hexdigest()
