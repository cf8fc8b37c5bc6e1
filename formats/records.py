"""Records of tensors and checkpoints over NumPy arrays, and dense arrays to and from them. No file is touched here.

[ 5 . 0 ]      Sparse(shape=(2, 3), indptr=[0, 2, 3], indices=[0, 2, 1], values=[5, 0, 7])
[ . 7 . ]      the zero at (0, 2) is stored: it belongs to the support (FMT-003)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from formats.errors import ExpansionTooLarge, FormatError
from formats.strict_json import JSON

Array: TypeAlias = NDArray[Any]
DType: TypeAlias = np.dtype[Any]

BLOCK = 1 << 22
"""Positions that are handled at once, which bounds temporary memory."""

ANY, POSITIVE = "any", "positive"
ZEROS = (ANY, POSITIVE)
"""Which entries of a dense array are absent: those equal to zero, or those without a set bit (FMT-127)."""

LIMIT = 1 << 36
"""Bytes that an expanded tensor may take in memory by default (FMT-098)."""


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A tensor with a value at every position (FMT-004)."""

    values: Array
    """Any shape of at most 8 dimensions, any dtype of the table (FMT-006)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.values.shape

    @property
    def dtype(self) -> DType:
        """The dtype of its values."""
        return self.values.dtype

    @property
    def nnz(self) -> int:
        """Number of stored values: all of them."""
        return self.values.size


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """A tensor with values at the positions of its support only, in row-major order, each once (FMT-004).

    A row is a run along the last axis; a shape of any rank has rows = prod(shape[:-1]) of them.
    Construction checks nothing; the writer verifies every rule.
    """

    shape: tuple[int, ...]
    """1 to 8 dimensions."""
    indptr: NDArray[np.int64]
    """int64, (rows + 1,): row r owns slots indptr[r] to indptr[r + 1]."""
    indices: NDArray[np.int32]
    """int32, (nnz,): the column of each slot."""
    values: Array
    """(nnz,), any dtype of the table: the value of each slot; zeros may be stored."""

    @property
    def dtype(self) -> DType:
        """The dtype of its values."""
        return self.values.dtype

    @property
    def nnz(self) -> int:
        """Size of the support."""
        return int(self.values.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A support without values (FMT-017): it says which positions are stored."""

    shape: tuple[int, ...]
    """1 to 8 dimensions."""
    indptr: NDArray[np.int64]
    """int64, (rows + 1,), as in `Sparse`."""
    indices: NDArray[np.int32]
    """int32, (nnz,), as in `Sparse`."""

    @property
    def nnz(self) -> int:
        """Size of the support."""
        return int(self.indices.shape[0])


Tensor: TypeAlias = Dense | Sparse | Mask
Supported: TypeAlias = Sparse | Mask
"""A tensor that stores its support."""


@dataclass(frozen=True, slots=True)
class DeltaOf:
    """Which model a delta starts from, and which it leads to (FMT-131)."""

    base_sha256: str
    """State digest of the base (FMT-099)."""
    target_sha256: str
    """State digest of the target, which the base becomes."""
    tensors: Mapping[str, tuple[str | None, str | None]]
    """Name of each tensor that changes -> its content digest before and after; None where there is no such tensor."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """The tied names of the target."""
    scales: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The scales of the target."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The content of one checkpoint (FMT-001)."""

    kind: str
    """Its purpose: ``"model"``, ``"training-state"``, ``"delta"`` (FMT-012)."""
    tensors: Mapping[str, Tensor] = field(repr=False)
    """Name -> tensor. May be lazy, because the writer fetches each tensor once and holds one at a time."""
    attributes: dict[str, JSON] = field(default_factory=dict)
    """Free JSON without fractions (FMT-011)."""
    tied: dict[str, str] = field(default_factory=dict)
    """Name of a tensor that is not stored -> name of the stored tensor it equals (FMT-010)."""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Companions of a folder, name -> bytes: configuration, tokenizer (FMT-013). May be lazy."""
    scales: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name of a quantised tensor -> role -> name of the stored tensor that plays it (FMT-016)."""
    delta: DeltaOf | None = None
    """Set for kind ``"delta"`` only (FMT-130)."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user, such as a list of files that were left out (FMT-154). Never written."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """n of m: exactly n of every m neighbours along an axis are stored (FMT-051)."""

    n: int
    m: int
    axis: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The description of one tensor in the manifest, available without reading the tensor."""

    name: str
    dtype: str
    """Name in the table (FMT-006); ``"NONE"`` for a mask."""
    shape: tuple[int, ...]
    encoding: str
    nnz: int
    """Size of the support; of a dense tensor the number of its elements."""
    nbytes: int
    """Bytes of its sections, pads not counted."""
    content_sha256: str
    pattern: Pattern | None = None
    """Set for encoding `nm` only."""

    @property
    def numel(self) -> int:
        """Number of positions, stored or not."""
        return prod(self.shape)


def rows_of(shape: tuple[int, ...]) -> int:
    """Return how many rows a shape has: the product of all dimensions but the last."""
    return prod(shape[:-1])


def bits(values: Array) -> Array:
    """Return values viewed as unsigned integers of the same size, to compare bits: −0.0 differs from 0.

    A complex64 becomes a uint64.
    """
    return values.view(np.dtype(f"u{values.dtype.itemsize}"))


def sign_of_zero(dtype: DType) -> int:
    """Return the bits of −0.0 as an unsigned integer; 0 for a dtype that has no −0.0."""
    # F8_E8M0 has neither zero nor sign; NumPy would convert −0.0 to its NaN
    if dtype.name == "float8_e8m0fnu":
        return 0
    zero = complex(-0.0, -0.0) if dtype.kind == "c" else -0.0
    return int(bits(np.array([zero]).astype(dtype))[0])


def check_zeros(zeros: str) -> None:
    """Verify the value of the option zeros (FMT-127).

    Raises:
        FormatError: FMT-084.
    """
    if zeros not in ZEROS:
        raise FormatError("FMT-084", f"zeros {zeros!r} does not exist, expected {' or '.join(ZEROS)}")


def _counted_bits(dtype: DType, zeros: str) -> Any:
    """Return a bit mask of the dtype's size: an element is in the support if it shares a set bit with the mask.

    Raises:
        FormatError: FMT-084.
    """
    check_zeros(zeros)
    every = np.iinfo(f"u{dtype.itemsize}").max
    # FMT-127: `any` leaves out the bits of −0.0, so that −0.0 is absent like +0.0
    return np.dtype(f"u{dtype.itemsize}").type(every ^ sign_of_zero(dtype) if zeros == ANY else every)


def count_stored(values: Array, zeros: str = ANY) -> int:
    """Return how many elements of values are in the support that `from_dense` makes.

    Raises:
        FormatError: FMT-084.
    """
    from formats import loops

    counted = _counted_bits(values.dtype, zeros)
    return int(loops.count_stored(bits(np.asarray(values, order="C")).reshape(-1), counted))


def from_dense(values: Array, zeros: str = ANY) -> Sparse:
    """Return a dense array as a sparse tensor; the option zeros says which elements are absent (FMT-127).

    Args:
        values: rank 1 to 8, any dtype of the table, fewer than 2^31 rows and columns.
        zeros: ``"any"``: elements that equal zero are absent, and −0.0 comes back as +0.0; ``"positive"``: those
            without a bit set, so that −0.0 is stored.

    Raises:
        FormatError: FMT-084 for a `zeros` other than ``any`` and ``positive``.
    """
    from formats import loops

    rows, columns = rows_of(values.shape), values.shape[-1]
    matrix = bits(np.asarray(values, order="C")).reshape(rows, columns)
    nnz = count_stored(values, zeros)
    indptr, indices = np.zeros(rows + 1, dtype=np.int64), np.empty(nnz + 1, dtype=np.int32)
    stored_bits = np.empty(nnz + 1, dtype=matrix.dtype)
    loops.gather(matrix, _counted_bits(values.dtype, zeros), indptr, indices, stored_bits)
    return Sparse(values.shape, indptr, indices[:nnz], stored_bits[:nnz].view(values.dtype))


def from_support(present: NDArray[np.bool_]) -> Mask:
    """Return a boolean array of rank 1 to 8 as a mask whose support is where it is True."""
    rows, columns = rows_of(present.shape), present.shape[-1]
    matrix = present.reshape(rows, columns)
    none = np.empty(0, dtype=np.bool_)
    parts = [(*_columns_present(matrix[first:last]), none) for first, last in row_blocks(rows, columns)]
    indptr, indices, _ = _joined(rows, parts, none)
    return Mask(present.shape, indptr, indices)


def _columns_present(present: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the number of True columns of each row, (rows,), and these columns row by row, (nnz,)."""
    columns = np.flatnonzero(present) % max(present.shape[1], 1)
    return np.count_nonzero(present, axis=1), columns.astype(np.int32)


def _joined(
    rows: int, parts: list[tuple[NDArray[np.int64], NDArray[np.int32], Array]], empty: Array
) -> tuple[NDArray[np.int64], NDArray[np.int32], Array]:
    """Return row pointers, columns and values of blocks of rows in order; a part is (counts a row, columns, values)."""
    indptr = np.zeros(rows + 1, dtype=np.int64)
    if not parts:
        return indptr, np.empty(0, dtype=np.int32), empty
    counts, indices, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    np.cumsum(counts, out=indptr[1:])
    return indptr, indices, values


def from_flat(shape: tuple[int, ...], positions: NDArray[np.int64]) -> Mask:
    """Return the mask of flat row-major positions, (nnz,) int64, strictly increasing and below prod(shape).

    They are not checked here; whoever writes the mask refuses one that breaks a rule.
    """
    rows, columns = rows_of(shape), shape[-1]
    indptr = np.searchsorted(positions, np.arange(rows + 1, dtype=np.int64) * columns).astype(np.int64)
    # NumPy casts a few thousand values at a time, so no array of remainders in int64 is made
    indices = np.empty(positions.size, dtype=np.int32)
    np.remainder(positions, max(columns, 1), out=indices, casting="unsafe")
    return Mask(shape, indptr, indices)


def with_values(mask: Supported, values: Array) -> Sparse:
    """Return the sparse tensor of a support and its values, (nnz,), row by row, of any dtype of the table.

    Their number is not checked here; whoever writes the tensor refuses another.
    """
    return Sparse(mask.shape, mask.indptr, mask.indices, values)


def flat(tensor: Supported) -> NDArray[np.int64]:
    """Return the row-major positions of all slots, (nnz,) int64, strictly increasing."""
    return flat_rows(tensor, 0, rows_of(tensor.shape))


def flat_rows(tensor: Supported, first: int, last: int) -> NDArray[np.int64]:
    """Return the row-major positions of the slots of rows first to last - 1, int64, counted from row first."""
    starts = np.arange(last - first, dtype=np.int64) * tensor.shape[-1]
    lo, hi = tensor.indptr[first], tensor.indptr[last]
    return np.repeat(starts, np.diff(tensor.indptr[first : last + 1])) + tensor.indices[lo:hi]


def to_dense(tensor: Tensor, *, limit: int = LIMIT) -> Array:
    """Return a tensor as a dense array with zero bits at absent positions (FMT-002).

    They look like stored values of +0.0 there. A mask becomes an array of booleans, True on the support.

    Args:
        tensor: the tensor to expand.
        limit: bytes that the array may take, because a small file can describe a large array.

    Raises:
        ExpansionTooLarge: FMT-098, before anything is reserved.
    """
    from formats import loops

    if isinstance(tensor, Dense):
        return tensor.values
    dtype = np.dtype(np.bool_) if isinstance(tensor, Mask) else tensor.dtype
    nbytes = prod(tensor.shape) * dtype.itemsize
    if nbytes > limit:
        raise ExpansionTooLarge(
            "FMT-098",
            f"shape {list(tensor.shape)} would take {nbytes} bytes, at most {limit} are allowed; "
            f"if you trust the file, raise the limit",
        )
    values = np.zeros((rows_of(tensor.shape), tensor.shape[-1]), dtype=dtype)
    stored_values = np.ones(tensor.nnz, dtype=dtype) if isinstance(tensor, Mask) else tensor.values
    indptr, indices, source, target = tensor.indptr, tensor.indices, bits(stored_values), bits(values)
    loops.by_rows(len(values), tensor.nnz, lambda a, b: loops.scatter(indptr[a : b + 1], indices, source, target[a:b]))
    return values.reshape(tensor.shape)


def row_blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return first and last + 1 of runs of rows that hold about BLOCK positions each."""
    step = max(1, BLOCK // max(columns, 1))
    return [(first, min(first + step, rows)) for first in range(0, rows, step)]
