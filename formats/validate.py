"""The rules of the format as small functions. Each raises a FormatError that names the broken clause."""

import re
from collections.abc import Collection, Mapping
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

from formats import container
from formats.errors import ExpansionTooLarge, FormatError
from formats.records import Array, Dense, Mask, Pattern, Sparse, Tensor, rows_of

MAX_NUMEL = 2**53 - 1
MAX_RANK = 8
MAX_SPARSE_DIM = 2**31 - 1
MAX_NAME_BYTES = 512
MAX_M = 64
MAX_GAP_ROWS = 1 << 20
GAP_ROWS_A_BYTE = 1 << 16
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
_ROLE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Verify rank and size of a shape (FMT-007), leaving out dimensions of 0, because they would hide the others."""
    if len(shape) > MAX_RANK:
        raise FormatError("FMT-007", f"tensor {name!r} has {len(shape)} dimensions, at most {MAX_RANK} are allowed")
    if any(d < 0 for d in shape) or prod(d for d in shape if d) > MAX_NUMEL:
        raise FormatError("FMT-007", f"tensor {name!r} has shape {list(shape)}, beyond {MAX_NUMEL} elements")


def check_sparse_shape(shape: tuple[int, ...], name: str) -> None:
    """Verify that a sparse shape has rows and columns that signed 32-bit integers can count (FMT-008)."""
    if not shape or max(rows_of(shape), shape[-1]) > MAX_SPARSE_DIM:
        raise FormatError(
            "FMT-008",
            f"sparse tensor {name!r} has shape {list(shape)}, expected at least one dimension, "
            f"and fewer than 2^31 rows and columns",
        )


def check_name(name: str) -> None:
    """Verify length and characters of a tensor name (FMT-009)."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise FormatError("FMT-009", f"tensor name {name!r} holds half of a surrogate pair") from error
    if not 1 <= size <= MAX_NAME_BYTES:
        raise FormatError("FMT-009", f"tensor name {name[:40]!r} has {size} bytes, expected 1 to {MAX_NAME_BYTES}")
    if re.search(r"[\x00-\x1f#\x7f]", name):
        raise FormatError("FMT-009", f"tensor name {name!r} holds '#' or a control character")


def check_limit(nbytes: int, limit: int | None, what: str) -> None:
    """Verify that expanding takes at most limit bytes in all (FMT-098), before it begins; None sets no limit."""
    if limit is not None and nbytes > limit:
        raise ExpansionTooLarge(
            "FMT-098",
            f"{what} would take {nbytes} bytes once expanded, at most {limit} are allowed; if you trust the file, "
            f"raise the limit (limit={nbytes}, or --max-bytes {nbytes})",
        )


def check_tied(tied: Mapping[str, str], stored: Collection[str]) -> None:
    """Verify that every tied name is not stored, and that its target is (FMT-010)."""
    for alias, target in tied.items():
        check_name(alias)
        if alias in stored:
            raise FormatError("FMT-010", f"{alias!r} is tied to {target!r} and stored as well; store it once")
        if target not in stored:
            raise FormatError("FMT-010", f"{alias!r} is tied to {target!r}, which is not stored")


def check_scales(scales: Mapping[str, Mapping[str, str]], stored: Collection[str]) -> None:
    """Verify that scales have legal roles, and name stored tensors other than their own (FMT-016)."""
    for name, roles in scales.items():
        if name not in stored:
            raise FormatError("FMT-016", f"{name!r} has scales and is not stored")
        if not roles:
            raise FormatError("FMT-016", f"{name!r} has an empty list of scales; leave it out")
        for role, target in roles.items():
            if not _ROLE.fullmatch(role):
                raise FormatError("FMT-016", f"{name!r} has a scale of role {role[:80]!r}, expected a lower-case word")
            if target not in stored or target == name:
                raise FormatError(
                    "FMT-016", f"{role} of {name!r} is {target!r}, expected the name of another stored tensor"
                )


def check_kind(kind: str) -> None:
    """Verify the spelling of a kind (FMT-012)."""
    if not _KIND.fullmatch(kind):
        raise FormatError(
            "FMT-012", f"kind is {kind[:80]!r}, expected a lower-case letter and up to 63 letters, digits or hyphens"
        )


def check_file_names(names: Collection[str]) -> None:
    """Verify the names of companions (FMT-013)."""
    by_lower_case: dict[str, str] = {}
    for name in names:
        if not _FILE_NAME.fullmatch(name):
            raise FormatError(
                "FMT-013",
                f"companion {name[:80]!r} is no plain file name: expected up to 255 of A-Z a-z 0-9 . _ - "
                f"and no leading dot",
            )
        low = name.lower()
        if low.startswith("model.sparse") or low.endswith(WEIGHT_SUFFIXES):
            raise FormatError("FMT-013", f"companion {name!r} has the name of a weight file")
        if low in by_lower_case:
            raise FormatError(
                "FMT-013", f"companions {by_lower_case[low]!r} and {name!r} are one file where case does not count"
            )
        by_lower_case[low] = name


def check_file_size(name: str, size: int) -> None:
    """Verify the size of a companion, in bytes (FMT-014)."""
    if size > MAX_FILE_BYTES:
        raise FormatError("FMT-014", f"companion {name!r} has {size} bytes, at most {MAX_FILE_BYTES} are allowed")


def check_record(tensor: Tensor, name: str) -> None:
    """Verify a tensor to be written: FMT-006 to FMT-009, FMT-015, and FMT-066 to FMT-069 for one with a support."""
    check_arrays(tensor, name)
    check_support(tensor, name)


def check_arrays(tensor: Tensor, name: str) -> None:
    """Verify name, shapes and dtypes of a tensor to be written, without reading arrays: FMT-006 to FMT-009, FMT-015."""
    check_name(name)
    if not isinstance(tensor, Dense | Sparse | Mask):
        raise FormatError("FMT-015", f"{name!r} is a {type(tensor).__name__}, expected a Dense, Sparse or Mask")
    if not isinstance(tensor, Mask):
        if not isinstance(tensor.values, np.ndarray):
            raise FormatError(
                "FMT-015", f"values of {name!r} are a {type(tensor.values).__name__}, expected a NumPy array"
            )
        container.dtype_name(tensor.dtype)
    if not isinstance(tensor.shape, tuple) or not all(type(d) is int for d in tensor.shape):
        raise FormatError("FMT-015", f"{name!r} has shape {tensor.shape!r}, expected a tuple of Python integers")
    check_shape(tensor.shape, name)
    if isinstance(tensor, Dense):
        return
    check_sparse_shape(tensor.shape, name)
    # FMT-015: dtypes must match exactly, because a cast could change values
    last = tensor.indices if isinstance(tensor, Mask) else tensor.values
    nnz = last.shape[0] if isinstance(last, np.ndarray) and last.ndim == 1 else -1
    _check_array(tensor.indptr, "indptr", np.int64, rows_of(tensor.shape) + 1, name)
    _check_array(tensor.indices, "indices", np.int32, nnz, name)
    if isinstance(tensor, Sparse):
        _check_array(tensor.values, "values", tensor.dtype, nnz, name)


def check_support(tensor: Tensor, name: str) -> None:
    """Verify FMT-066 to FMT-069 for a tensor to be written, after `check_arrays`."""
    if not isinstance(tensor, Dense):
        check_row_ptr(tensor.indptr, tensor.nnz, name)
        check_columns(tensor.indptr, tensor.indices, tensor.shape[-1], name)


def _check_array(array: object, what: str, dtype: DTypeLike, count: int, name: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (count,):
        expected = f"{np.dtype(dtype)} of shape [{count}]" if count >= 0 else "one dimension"
        raise FormatError(
            "FMT-015",
            f"{what} of {name!r} is {getattr(array, 'dtype', type(array))} of shape "
            f"{list(getattr(array, 'shape', ()))}, expected {expected}",
        )


def check_row_ptr(row_ptr: Array, nnz: int, name: str) -> None:
    """Verify row pointers (rows + 1,) by FMT-066 and FMT-067, in their stored dtype, so that nothing wraps."""
    first, last = int(row_ptr[0]), int(row_ptr[-1])
    if first != 0 or last != nnz:
        raise FormatError("FMT-066", f"row pointers of {name!r} run from {first} to {last}, expected 0 to {nnz}")
    falls = np.flatnonzero(row_ptr[1:] < row_ptr[:-1])
    if falls.size:
        row = int(falls[0])
        raise FormatError(
            "FMT-067", f"row pointers of {name!r} fall from {row_ptr[row]} to {row_ptr[row + 1]} in row {row}"
        )


def check_columns(indptr: NDArray[np.int64], columns: Array, n_columns: int, name: str) -> None:
    """Verify columns (nnz,) of any integer dtype by FMT-068 and FMT-069; indptr must be valid."""
    from formats import loops

    faults = loops.by_rows(
        indptr.size - 1, columns.size, lambda a, b: loops.first_fault(indptr[a : b + 1], columns, n_columns)
    )
    fault, slot = next((f for f in faults if f[0]), (0, 0))
    if fault == 1:
        raise FormatError("FMT-068", f"slot {slot} of {name!r} has column {columns[slot]}, the tensor has {n_columns}")
    if fault == 2:
        raise FormatError(
            "FMT-069",
            f"slot {slot} of {name!r} has column {columns[slot]} after {columns[slot - 1]} in the same row: "
            f"columns of a row must strictly increase",
        )


def check_mask(mask: NDArray[np.uint8], n_columns: int, nnz: int, name: str) -> NDArray[np.int64]:
    """Verify mask (rows, ceil(columns / 8)) by FMT-062 to FMT-064; return how many bits each row has set, (rows,)."""
    from formats import loops

    check_has_columns(n_columns, name)
    tail = n_columns % 8
    if tail:
        wrong = np.flatnonzero(mask[:, -1] >> tail)
        if wrong.size:
            raise FormatError(
                "FMT-062", f"row {wrong[0]} of the bitmask of {name!r} has a bit set past column {n_columns - 1}"
            )
    counts = np.empty(mask.shape[0], dtype=np.int64)
    loops.mask_rows(mask, counts)
    n_set = int(counts.sum())
    if n_set != nnz:
        raise FormatError("FMT-063", f"the bitmask of {name!r} has {n_set} bits set, its manifest says {nnz}")
    return counts


def check_has_columns(n_columns: int, name: str) -> None:
    """Verify that there are columns (FMT-064), because empty rows take no bytes in a file, but memory in a reader."""
    if not n_columns:
        raise FormatError("FMT-064", f"{name!r} has no columns and cannot be a bitmask; use csr")


def check_pattern(pattern: Pattern, shape: tuple[int, ...], nnz: int, name: str) -> None:
    """Verify that a pattern fits the shape and the number of slots (FMT-051)."""
    n, m, axis = pattern.n, pattern.m, pattern.axis
    if not (axis < len(shape) and 2 <= m <= MAX_M and 1 <= n < m and all(shape)):
        raise FormatError(
            "FMT-051",
            f"{name!r} of shape {list(shape)} has the pattern {n}:{m} along axis {axis}, "
            f"expected 1 <= n < m <= {MAX_M}, an axis that the shape has, and no empty dimension",
        )
    if shape[axis] % m or nnz * m != prod(shape) * n:
        raise FormatError(
            "FMT-051", f"{name!r} of shape {list(shape)} with {nnz} stored cannot be {n}:{m} along axis {axis}"
        )


def check_rank(rank: int, limit: int, name: str) -> None:
    """Verify that the largest rank of a tensor is below limit, which is C(m, n) (FMT-053)."""
    if rank >= limit:
        raise FormatError("FMT-053", f"{name!r} has the rank {rank}, a group has only {limit} of them")


def most_gap_rows(nbytes: int) -> int:
    """Return how many rows a tensor with nbytes of gaps may have (FMT-056)."""
    return min(MAX_GAP_ROWS, GAP_ROWS_A_BYTE * (nbytes + 1))


def check_gap_rows(rows: int, nbytes: int, name: str) -> None:
    """Verify that nbytes of gaps allow so many rows (FMT-056): in a file rows take no bytes, in a reader memory."""
    if rows > most_gap_rows(nbytes):
        raise FormatError(
            "FMT-056", f"{name!r} has {rows} rows, {nbytes} bytes of gaps can tell of {most_gap_rows(nbytes)}; use csr"
        )


def check_gap_length(nbytes: int, least: int, most: int, name: str) -> None:
    """Verify that gaps take from least to most bytes (FMT-057)."""
    if not least <= nbytes <= most:
        raise FormatError("FMT-057", f"gaps of {name!r} take {nbytes} bytes, expected {least} to {most}")


def check_gap_count(n_gaps: int, nnz: int, *, ends: bool, name: str) -> None:
    """Verify that there are nnz gaps, and that the last byte ends one (FMT-058)."""
    if n_gaps != nnz or not ends:
        raise FormatError(
            "FMT-058",
            f"{name!r} has {n_gaps} gaps{'' if ends else ' and bytes that end none'}, its manifest says {nnz}",
        )


def check_last_position(last: int, numel: int, name: str) -> None:
    """Verify that the last position, -1 of an empty support, is below numel (FMT-059)."""
    if last >= numel:
        raise FormatError("FMT-059", f"{name!r} has position {last}, its shape has {numel}")


def check_spare(bits: int, name: str) -> None:
    """Verify that the bits past the last packed value are 0 (FMT-072)."""
    if bits:
        raise FormatError("FMT-072", f"a byte of {name!r} has a bit set past its last value")


def check_bool(values: Array, name: str) -> None:
    """Verify that every byte of BOOL values is 0 or 1 (FMT-070); other dtypes pass."""
    if values.dtype == np.bool_ and values.size and int(np.max(values.view(np.uint8))) > 1:
        raise FormatError(
            "FMT-070", f"a BOOL of {name!r} is stored as {int(np.max(values.view(np.uint8)))}, expected 0 or 1"
        )


def check_pad(pad: Array, section: str) -> None:
    """Verify that every byte of a pad is 0 (FMT-036)."""
    if pad.any():
        raise FormatError("FMT-036", f"{section!r} is not all zero")
