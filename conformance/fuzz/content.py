"""What the readers say of a file, in words that all of them share."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Disagreement(Exception):
    """Two readers disagree, or one of them breaks down; the message says which, `culprit` on what if not the last."""

    def __init__(self, message: str, culprit: bytes | None = None) -> None:
        super().__init__(message)
        self.culprit = culprit


@dataclass(frozen=True, slots=True)
class Content:
    """What a reader says that a file holds, in words that all of them share."""

    about: tuple[str, ...]
    """kind, state digest (FMT-099), then attributes, delta, scales and ties as canonical text"""
    tensors: dict[str, tuple[Any, ...]]
    """name -> dtype, shape, and digests of row pointers, columns (as I64, None if all are there) and values"""


def integers(array: NDArray[Any]) -> str:
    """Return the digest of row pointers or columns, as I64."""
    return sha256(np.asarray(array).astype("<i8").tobytes()).hexdigest()
