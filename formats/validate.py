"""The rules of the format, a small function for one or two of them. Each raises the error of its clause."""

import re
from collections.abc import Collection, Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from formats import container
from formats.errors import (
    BadFileName,
    BadKind,
    BadRecord,
    BadShape,
    BadSparseShape,
    BadTensorName,
    BadTie,
    ColumnOrder,
    ColumnOutOfRange,
    FileTooLarge,
    NoColumns,
    NotBoolean,
    PadNotZero,
    RowPointerEnds,
    RowPointerOrder,
    TailBits,
    WrongPopcount,
)
from formats.records import Array, Dense, Sparse, Tensor

MAX_NUMEL = 2**53 - 1
MAX_RANK = 8
MAX_SPARSE_DIM = 2**31 - 1
MAX_NAME_BYTES = 512
MAX_FILE_BYTES = 50_000_000
WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".index.json",
)
"""Endings of files that hold weights or lead to them; compared in lower case."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Verify FMT-007. Dimensions of 0 are left out of the product: they would hide the others."""
    if len(shape) > MAX_RANK:
        raise BadShape(f"tensor {name!r} has {len(shape)} dimensions, at most {MAX_RANK} are allowed")
    if any(d < 0 for d in shape) or prod(d for d in shape if d) > MAX_NUMEL:
        raise BadShape(f"tensor {name!r} has shape {list(shape)}, beyond {MAX_NUMEL} elements")


def check_sparse_shape(shape: tuple[int, ...], name: str) -> None:
    """Verify FMT-008."""
    if len(shape) != 2 or max(shape) > MAX_SPARSE_DIM:
        raise BadSparseShape(f"sparse tensor {name!r} has shape {list(shape)}, expected two dimensions below 2^31")


def check_name(name: str) -> None:
    """Verify FMT-009."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise BadTensorName(f"tensor name {name!r} holds half of a surrogate pair") from error
    if not 1 <= size <= MAX_NAME_BYTES:
        raise BadTensorName(f"tensor name {name[:40]!r} has {size} bytes, expected 1 to {MAX_NAME_BYTES}")
    if any(c < " " or c in "#\x7f" for c in name):
        raise BadTensorName(f"tensor name {name!r} holds '#' or a control character")


def check_tied(tied: Mapping[str, str], stored: Collection[str]) -> None:
    """Verify FMT-010."""
    for alias, target in tied.items():
        check_name(alias)
        if alias in stored:
            raise BadTie(f"{alias!r} is tied to {target!r} and stored as well; store it once")
        if target not in stored:
            raise BadTie(f"{alias!r} is tied to {target!r}, which is not stored")


def check_kind(kind: str) -> None:
    """Verify FMT-012."""
    if not _KIND.fullmatch(kind):
        raise BadKind(f"kind is {kind[:80]!r}, expected a lower-case letter and up to 63 letters, digits or hyphens")


def check_file_names(names: Collection[str]) -> None:
    """Verify FMT-013."""
    seen: dict[str, str] = {}
    for name in names:
        if not _FILE_NAME.fullmatch(name):
            raise BadFileName(
                f"companion {name[:80]!r} is no plain file name: expected up to 255 of A-Z a-z 0-9 . _ - "
                f"and no leading dot"
            )
        low = name.lower()
        if low.startswith("model.sparse") or low.endswith(WEIGHT_SUFFIXES):
            raise BadFileName(f"companion {name!r} has the name of a weight file")
        if low in seen:
            raise BadFileName(f"companions {seen[low]!r} and {name!r} are one file where case does not count")
        seen[low] = name


def check_file_size(name: str, size: int) -> None:
    """Verify FMT-014."""
    if size > MAX_FILE_BYTES:
        raise FileTooLarge(f"companion {name!r} has {size} bytes, at most {MAX_FILE_BYTES} are allowed")


def check_record(tensor: Tensor, name: str) -> None:
    """Verify a tensor to be written: FMT-006 to FMT-009, FMT-015, and FMT-066 to FMT-069 for a sparse one."""
    check_name(name)
    if not isinstance(tensor, Dense | Sparse) or not isinstance(tensor.values, np.ndarray):
        raise BadRecord(f"{name!r} is a {type(tensor).__name__}, expected a Dense or Sparse over NumPy arrays")
    if not isinstance(tensor.shape, tuple) or not all(type(d) is int for d in tensor.shape):
        raise BadRecord(f"{name!r} has shape {tensor.shape!r}, expected a tuple of Python integers")
    container.dtype_name(tensor.dtype)
    check_shape(tensor.shape, name)
    if isinstance(tensor, Dense):
        return
    check_sparse_shape(tensor.shape, name)
    # FMT-015: nothing is cast, so that nothing can be cast wrongly
    rows, nnz = tensor.shape[0], tensor.nnz if tensor.values.ndim == 1 else -1
    for what, array, dtype, shape in (
        ("indptr", tensor.indptr, np.int64, (rows + 1,)),
        ("indices", tensor.indices, np.int32, (nnz,)),
        ("values", tensor.values, tensor.dtype, (nnz,)),
    ):
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            raise BadRecord(
                f"{what} of {name!r} is {getattr(array, 'dtype', type(array))} of shape "
                f"{list(getattr(array, 'shape', ()))}, expected {np.dtype(dtype)} of shape {list(shape)} "
                f"beside values of shape {list(tensor.values.shape)}"
            )
    check_row_ptr(tensor.indptr, nnz, name)
    check_columns(tensor.indptr, tensor.indices, tensor.shape[1], name)


def check_row_ptr(row_ptr: Array, nnz: int, name: str) -> None:
    """Verify FMT-066 and FMT-067 in the stored dtype of row_ptr (rows + 1,), so that nothing wraps."""
    first, last = int(row_ptr[0]), int(row_ptr[-1])
    if first != 0 or last != nnz:
        raise RowPointerEnds(f"row pointers of {name!r} run from {first} to {last}, expected 0 to {nnz}")
    falls = np.flatnonzero(row_ptr[1:] < row_ptr[:-1])
    if falls.size:
        row = int(falls[0])
        raise RowPointerOrder(f"row pointers of {name!r} fall from {row_ptr[row]} to {row_ptr[row + 1]} in row {row}")


def check_columns(indptr: NDArray[np.int64], columns: Array, n_columns: int, name: str) -> None:
    """Verify FMT-068 and FMT-069 for columns (nnz,) of any integer dtype; indptr must be valid."""
    if not columns.size:
        return
    lowest, highest = int(columns.min()), int(columns.max())
    if lowest < 0 or highest >= n_columns:
        raise ColumnOutOfRange(f"columns of {name!r} run from {lowest} to {highest}, the matrix has {n_columns}")
    rises = np.empty(columns.size, dtype=np.bool_)
    np.greater(columns[1:], columns[:-1], out=rises[1:])
    # the first slot of a row has no one before it; empty last rows start past the end
    rises[indptr[:-1][indptr[:-1] < columns.size]] = True
    if not rises.all():
        slot = int(np.argmin(rises))
        raise ColumnOrder(
            f"slot {slot} of {name!r} has column {columns[slot]} after {columns[slot - 1]} in the same row: "
            f"columns of a row must strictly increase"
        )


def check_mask(mask: NDArray[np.uint8], n_columns: int, nnz: int, name: str) -> NDArray[np.int64]:
    """Verify FMT-062 to FMT-064 for mask (rows, ceil(columns / 8)); return the bits of each row, (rows,)."""
    check_has_columns(n_columns, name)
    tail = n_columns % 8
    if tail:
        wrong = np.flatnonzero(mask[:, -1] >> tail)
        if wrong.size:
            raise TailBits(f"row {wrong[0]} of the bitmask of {name!r} has a bit set past column {n_columns - 1}")
    counts = np.bitwise_count(mask).sum(axis=1, dtype=np.int64)
    found = int(counts.sum())
    if found != nnz:
        raise WrongPopcount(f"the bitmask of {name!r} has {found} bits set, its manifest says {nnz}")
    return counts


def check_has_columns(n_columns: int, name: str) -> None:
    """Verify FMT-064: rows without bytes would cost a file nothing and a reader memory."""
    if not n_columns:
        raise NoColumns(f"{name!r} has no columns and cannot be a bitmask; use csr")


def check_bool(values: Array, name: str) -> None:
    """Verify FMT-070."""
    if values.dtype == np.bool_ and values.size and int(values.view(np.uint8).max()) > 1:
        raise NotBoolean(f"a BOOL of {name!r} is stored as {int(values.view(np.uint8).max())}, expected 0 or 1")


def check_pad(pad: Array, section: str) -> None:
    """Verify FMT-036."""
    if pad.any():
        raise PadNotZero(f"{section!r} is not all zero")
