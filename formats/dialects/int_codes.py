"""Matrices of whole numbers: their packing in 32-bit words, and the weights that they stand for (FMT-173).

    word 0x0000000A, 4 bits     codes 10, 0, 0, ...     as signed codes 2, -8, -8, ...
    weight = (code - zero point of its group) * scale of its group

This module knows no files and no libraries; `int_layers` finds the arrays of a matrix in a file.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formats import validate
from formats.container import NAMES
from formats.errors import FormatError
from formats.records import Array, Dense, DType, Sparse, from_support, row_blocks, with_values

SCALES = frozenset({"F16", "BF16", "F32"})
"""Dtypes of scales, which are those of the weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A weight matrix (out, in) as codes, with a scale and a zero point for each group of columns of a row.

    Codes of b bits are signed, -2^(b-1) to 2^(b-1) - 1, whatever the file stores. Construction checks nothing.
    """

    codes: NDArray[np.int8]
    """int8, (out, in)."""
    scales: Array
    """F16, BF16 or F32, (out, groups)."""
    zeros: NDArray[np.int8] | None
    """int8, (out, groups), signed like the codes; None where every zero point is 0."""
    group_of_column: NDArray[np.int32]
    """int32, (in,), 0 to groups - 1."""
    mask: NDArray[np.bool_]
    """bool, (out, in): False at pruned weights (FMT-174)."""
    bits: int
    """Bits of a code, 1 to 8."""
    mask_is_stored: bool = False
    """Whether the file stores the mask. Otherwise it is computed from codes, zero points and scales."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def dtype(self) -> DType:
        """The dtype of scales and weights."""
        return self.scales.dtype


def words_of(n: int, bits: int, *, straddling: bool) -> int:
    """Return how many 32-bit words n codes take; straddling codes leave no bit of a word unused."""
    return -(-n * bits // 32) if straddling else -(-n // (32 // bits))


def unpacked(words: NDArray[np.int32], n: int, bits: int, *, straddling: bool) -> NDArray[np.int8]:
    """Return the codes of rows of 32-bit words, lowest bits first, as signed numbers.

    Args:
        words: int32, (rows, `words_of(n, bits)`).
        n: codes of a row; bits behind the last one are not read.
        bits: bits of a code, 1 to 8.
        straddling: whether a code may begin in one word and end in the next. Otherwise each word holds 32 // bits
            codes, and its highest bits are unused.

    Returns:
        int8, (rows, n).
    """
    lowest, half = np.uint32((1 << bits) - 1), np.uint8(1 << (bits - 1))
    raw = np.ascontiguousarray(words).view(np.uint32)
    codes = np.empty((len(raw), n), dtype=np.int8)
    for first, last in row_blocks(len(raw), n):
        block = raw[first:last]
        if straddling and 32 % bits:
            numbers = _straddling(block, n, bits)
        else:
            shifts = np.arange(0, 32 - bits + 1, bits, dtype=np.uint32)
            numbers = (block[:, :, None] >> shifts).reshape(len(block), -1)[:, :n]
        codes[first:last] = ((numbers & lowest).astype(np.uint8) - half).view(np.int8)
    return codes


def _straddling(words: NDArray[np.uint32], n: int, bits: int) -> NDArray[np.uint32]:
    """Return 32 bits of each row from bit i * bits on, for i = 0 to n - 1; only the lowest `bits` are a code."""
    word, bit = np.divmod(np.arange(n) * bits, 32)
    # padded with a word of zeros, because a pair of words is read for the last code, too
    padded = np.zeros((len(words), words.shape[1] + 1), dtype=np.uint64)
    padded[:, :-1] = words
    pairs = padded[:, word] | padded[:, word + 1] << np.uint64(32)
    return (pairs >> bit.astype(np.uint64)).astype(np.uint32)


def check_values(matrix: Quantised, name: str) -> None:
    """Verify the numbers of a matrix, whose arrays have the right dtypes and shapes.

    Raises:
        FormatError: FMT-173 for a scale that is infinite or no number, for a group that is not there, and for codes
            or zero points that their bits cannot hold.
    """
    with np.errstate(invalid="ignore"):  # because NumPy warns of a signalling NaN of 16 bits
        finite = np.isfinite(matrix.scales).all()
    if not finite:
        raise FormatError("FMT-173", f"{name!r} has a scale that is infinite or no number; quantise the model again")
    groups, of_column = matrix.scales.shape[1], matrix.group_of_column
    if int(np.min(of_column)) < 0 or int(np.max(of_column)) >= groups:
        raise FormatError(
            "FMT-173",
            f"{name!r} puts its columns into the groups {np.min(of_column)} to {np.max(of_column)}, "
            f"expected 0 to {groups - 1}, which have scales",
        )
    half = 1 << (matrix.bits - 1)
    for what, numbers in (("codes", matrix.codes), ("zero points", matrix.zeros)):
        if numbers is not None and (int(np.min(numbers)) < -half or int(np.max(numbers)) >= half):
            raise FormatError(
                "FMT-173",
                f"{name!r} has {what} from {np.min(numbers)} to {np.max(numbers)}, expected {-half} to {half - 1} "
                f"for {matrix.bits} bits",
            )


def made(
    name: str,
    codes: NDArray[np.int8],
    scales: Array,
    zeros: NDArray[np.int8] | None,
    group_of_column: NDArray[np.int32],
    bits: int,
    stored_mask: NDArray[np.bool_] | None = None,
) -> Quantised:
    """Return a matrix after verifying its numbers, with the mask of FMT-174.

    Args:
        name: for errors.
        codes: int8, (out, in).
        scales: F16, BF16 or F32, (out, groups).
        zeros: int8, (out, groups), or None.
        group_of_column: int32, (in,).
        bits: bits of a code.
        stored_mask: bool, (out, in), False at pruned weights; None if the file stores no mask.

    Raises:
        FormatError: FMT-173.
    """
    mask = np.empty(codes.shape, dtype=np.bool_) if stored_mask is None else stored_mask
    matrix = Quantised(codes, scales, zeros, group_of_column, mask, bits, stored_mask is not None)
    check_values(matrix, name)
    if stored_mask is None:
        # FMT-174
        for first, last in row_blocks(*matrix.shape):
            zero = 0 if zeros is None else np.take(zeros[first:last], group_of_column, axis=1)
            np.not_equal(codes[first:last], zero, out=mask[first:last])
            if (scaled := scales[first:last] != 0).all():
                continue
            mask[first:last] &= np.take(scaled, group_of_column, axis=1)
    return matrix


def dequantised(matrix: Quantised, name: str) -> Array:
    """Return the weights, (out, in), in the dtype of the scales: each product is rounded once (FMT-173).

    Raises:
        FormatError: FMT-173 for a weight that the dtype cannot hold.
    """
    weights = np.empty(matrix.shape, dtype=matrix.dtype)
    columns = matrix.group_of_column
    for first, last in row_blocks(*matrix.shape):
        steps = matrix.codes[first:last].astype(np.float32)
        if matrix.zeros is not None:
            steps -= np.take(matrix.zeros[first:last].astype(np.float32), columns, axis=1)
        with np.errstate(over="ignore"):
            # exact in F32 if the scale has 11 bits or fewer, so that astype rounds F16 and BF16 only once
            steps *= np.take(matrix.scales[first:last].astype(np.float32), columns, axis=1)
            # FMT-173.6: 0 times a negative scale is −0.0; adding +0.0 turns it into +0.0
            steps += np.float32(0)
            weights[first:last] = steps.astype(matrix.dtype)
        # FMT-174.3: a weight that the mask leaves out is 0, whatever the zero point of its group is
        weights[first:last][~matrix.mask[first:last]] = 0
        if not np.isfinite(weights[first:last]).all():
            raise FormatError(
                "FMT-173",
                f"{name!r} has a weight that {NAMES[matrix.dtype]} cannot hold; quantise the model again",
            )
    return weights


def expanded(matrix: Quantised, name: str) -> Dense | Sparse:
    """Return the weights as a tensor: sparse, on the mask, if the file stores one; otherwise dense (FMT-174).

    Raises:
        FormatError: FMT-173.
    """
    weights = dequantised(matrix, name)
    if not matrix.mask_is_stored:
        return Dense(weights)
    validate.check_sparse_shape(matrix.shape, name)
    return with_values(from_support(matrix.mask), weights[matrix.mask])
