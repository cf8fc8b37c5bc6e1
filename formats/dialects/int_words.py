"""What the layouts of other libraries store of a matrix on a grid: its codes at all positions, packed into words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.dialects.coded import Coded
from formats.dialects.int_codes import words_of
from formats.errors import FormatError
from formats.records import Array, DType, flat


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid in its parts (QNT-001)."""

    bits: int
    size: int | None
    """columns of a group; None if a row is one group"""
    asymmetric: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """How a library stores the codes of a matrix."""

    clause: str
    """the clause that defines it"""
    parts: Callable[[Grid], tuple[str, ...]]
    """what follows the name of a module in the names of its parts"""
    part: Callable[[Coded, str, Grid], Array]
    """the content of a part"""
    described: Callable[[Grid, list[str]], dict[str, Any]]
    """quantization_config, for a grid and the names of the matrices that have codes"""
    scales_held: DType
    """the dtype in which programs that read the layout hold scales"""
    whole_words: bool = False
    """whether codes must fill whole words along both sides of a matrix (FMT-180.3)"""


def refuse_parts_of_words(layout: Layout, grid: Grid, shape: tuple[int, ...], name: str) -> None:
    """Refuse a matrix whose codes do not fill whole words, where the layout needs that.

    Raises:
        FormatError: the clause of the layout.
    """
    each, clause = 32 // grid.bits, layout.clause
    if layout.whole_words and not all(side and side % each == 0 for side in shape):
        raise FormatError(
            clause,
            f"{name!r} of shape {list(shape)} has no whole words of {each} codes along both sides; expand the model",
        )


def codes_everywhere(matrix: Coded) -> NDArray[np.int8]:
    """Return the codes of all positions, (out, in); a pruned weight has the zero point, because that stands for 0."""
    columns = matrix.codes.shape[1]
    codes = np.repeat(matrix.zeros, columns // max(matrix.zeros.shape[1], 1), axis=1)
    codes.reshape(-1)[flat(matrix.codes)] = matrix.codes.values
    return codes


def packed(codes: NDArray[np.int8], bits: int) -> NDArray[np.int32]:
    """Return rows of signed codes as 32-bit words, lowest bits first; the inverse of `int_codes.unpacked` (FMT-173).

    Shapes  codes (rows, n), words (rows, `words_of(n, bits)`)
    """
    each, (rows, n) = 32 // bits, codes.shape
    padded = np.zeros((rows, words_of(n, bits, straddling=False) * each), dtype=np.uint32)
    padded[:, :n] = codes.astype(np.int32) + (1 << (bits - 1))
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    # the fields of a word do not overlap, so their sum is their union
    fields = padded.reshape(rows, padded.shape[1] // each, each) << shifts
    return np.asarray(np.sum(fields, axis=2, dtype=np.uint32)).view(np.int32)
