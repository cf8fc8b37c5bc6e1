"""What a checkpoint is made of, as plain records over NumPy arrays. No file is touched here.

[ 5 . 0 ]      Sparse(shape=(2, 3), indptr=[0, 2, 3], indices=[0, 2, 1], values=[5, 0, 7])
[ . 7 . ]      the zero at (0, 2) is stored: it belongs to the support (FMT-003)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from formats.strict_json import JSON

Array: TypeAlias = NDArray[Any]
DType: TypeAlias = np.dtype[Any]


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
    """A matrix with values at the positions of its support only, in row-major order, each once (FMT-004).

    Construction checks nothing; the writer verifies every rule.
    """

    shape: tuple[int, int]
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


Tensor: TypeAlias = Dense | Sparse


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything one checkpoint says (FMT-001)."""

    kind: str
    """What it is for: ``"model"``, ``"training-state"`` (FMT-012)."""
    tensors: Mapping[str, Tensor]
    """Name to tensor. May be lazy: the writer asks for each tensor once and holds one at a time."""
    attributes: dict[str, JSON] = field(default_factory=dict)
    """Free JSON without fractions (FMT-011)."""
    tied: dict[str, str] = field(default_factory=dict)
    """Name of a tensor that is not stored -> name of the stored tensor it equals (FMT-010)."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Companions of a folder, name -> bytes: configuration, tokenizer (FMT-013). May be lazy."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the manifest says of one tensor, without reading it."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    encoding: str
    nnz: int
    """Size of the support; of a dense tensor the number of its elements."""
    nbytes: int
    """Bytes of its sections, pads not counted."""
    content_sha256: str

    @property
    def numel(self) -> int:
        """Number of positions, stored or not."""
        return prod(self.shape)


def bits(values: Array) -> Array:
    """Return values as unsigned integers of the same size, for comparing bit by bit: −0.0 is not 0."""
    return values.view(np.dtype(f"u{values.dtype.itemsize}"))


def count_bits(values: Array) -> int:
    """Return how many elements have a bit set."""
    return int(np.count_nonzero(bits(np.asarray(values, order="C"))))


def from_dense(values: Array) -> Sparse:
    """Return the matrix whose support is every element with a bit set; −0.0 is stored, +0.0 is not (FMT-122).

    Shapes and dtypes: values (rows, columns), any dtype of the table, fewer than 2^31 rows and columns.
    """
    values = np.asarray(values, order="C")
    present = bits(values) != 0
    indptr = np.zeros(values.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.count_nonzero(present, axis=1), out=indptr[1:])
    slots = np.flatnonzero(present)
    columns = (slots % max(values.shape[1], 1)).astype(np.int32)
    return Sparse((values.shape[0], values.shape[1]), indptr, columns, values.reshape(-1)[slots])


def to_dense(tensor: Tensor) -> Array:
    """Return the array with +0.0 at every absent position; which zeros were stored is no longer told."""
    if isinstance(tensor, Dense):
        return tensor.values
    rows, columns = tensor.shape
    values = np.zeros(rows * columns, dtype=tensor.dtype)
    values[row_starts(tensor) + tensor.indices] = tensor.values
    return values.reshape(rows, columns)


def row_starts(tensor: Sparse) -> NDArray[np.int64]:
    """Return for each slot the flat position of the first column of its row, int64 (nnz,)."""
    rows, columns = tensor.shape
    return np.repeat(np.arange(rows, dtype=np.int64) * columns, np.diff(tensor.indptr))
