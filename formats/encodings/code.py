"""The interface that every encoding of a support implements."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from formats.header import Entry
from formats.records import Array, Mask, Pattern, Supported, rows_of

Plan: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Role -> dtype and shape of the section."""

Rows: TypeAlias = tuple[int, int]
"""First row and last row + 1."""


@dataclass(frozen=True, slots=True)
class Code:
    """One way to store a support."""

    name: str
    plan: Callable[[Entry, str], Plan]
    """Entry and tensor name -> the sections they imply; raises if the encoding cannot hold such a tensor."""
    size: Callable[[Supported], int | None]
    """Support -> the bytes that its sections take, None if the encoding cannot hold it."""
    encode: Callable[[Supported, Pattern | None], dict[str, Array]]
    """A support that the encoding can hold -> its sections."""
    decode: Callable[[Entry, str, Mapping[str, Array], Rows], tuple[Mask, int]]
    """Sections of the planned dtypes and shapes -> the support of some rows and the number of slots before them.

    Raises FormatError if the data that it reads for these rows breaks a rule; it may check other rows, too.
    """


def cut(mask: Mask, rows: Rows) -> tuple[Mask, int]:
    """Return the support of some rows, as a matrix, and the number of slots before them."""
    first, last = rows
    if (first, last) == (0, rows_of(mask.shape)):
        return mask, 0
    lo, hi = int(mask.indptr[first]), int(mask.indptr[last])
    return Mask((last - first, mask.shape[-1]), mask.indptr[first : last + 1] - lo, mask.indices[lo:hi]), lo
