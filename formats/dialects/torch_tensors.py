"""Arrays and sparse records as torch tensors and back, bit for bit.

    numpy bfloat16  --view as uint16-->  torch uint16  --view as bfloat16-->  torch bfloat16

Floats that NumPy itself lacks travel as unsigned integers of their size, so that no value is ever converted.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import torch

from formats import validate
from formats.errors import CannotHold, ExpansionTooLarge, FormatError
from formats.records import LIMIT, Array, DType, Sparse, from_flat, rows_of, to_dense, with_values

# hasattr leaves out the dtypes that an older release of torch lacks
_DIRECT: dict[DType, Any] = {
    np.dtype(name): getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64", "complex64"),
    )
    if hasattr(torch, name)
}
_CARRIED: dict[DType, Any] = {
    np.dtype(getattr(ml_dtypes, name)): getattr(torch, name)
    for name in ("bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
}
TORCH: dict[DType, Any] = {**_DIRECT, **_CARRIED}
"""NumPy dtype -> torch dtype of the same bits."""

NUMPY: dict[Any, DType] = {theirs: ours for ours, theirs in TORCH.items()}

_CARRIER: dict[int, Any] = {1: torch.uint8, 2: torch.uint16}

# pattern of kept entries in a group of four, first entry in bit 0 -> position of the first packed value in bits 0 and
# 1, of the second in bits 2 and 3. Groups with fewer than two get the same extra positions that torch chooses.
_NIBBLE = np.zeros(16, dtype=np.uint8)
for _pattern, _first, _second in (
    *((0b0000, 2, 3), (0b0001, 0, 2), (0b0010, 1, 2), (0b0100, 2, 3), (0b1000, 2, 3)),
    *((0b0011, 0, 1), (0b0101, 0, 2), (0b0110, 1, 2), (0b1001, 0, 3), (0b1010, 1, 3), (0b1100, 2, 3)),
):
    _NIBBLE[_pattern] = _first | _second << 2


def to_torch(array: Array, *, name: str = "array") -> torch.Tensor:
    """Return a copy of an array of any shape and layout as a contiguous tensor in main memory, bit for bit.

    Raises:
        CannotHold: FMT-154 for a dtype that torch has no equal of, such as float4 and float6.
    """
    dtype = TORCH.get(array.dtype)
    if dtype is None:
        raise CannotHold(
            "FMT-154", f"{name!r} has dtype {array.dtype}, torch has none with the same bits; cast it first"
        )
    copied = np.array(array, order="C")
    if array.dtype in _CARRIED:
        return torch.from_numpy(copied.view(f"u{dtype.itemsize}")).view(dtype)
    return torch.from_numpy(copied)


def from_torch(tensor: torch.Tensor, *, name: str = "tensor") -> Array:
    """Return the values of a strided tensor of any shape and device, bit for bit.

    The array shares memory with a contiguous tensor in main memory, and is a copy of any other.

    Raises:
        CannotHold: FMT-154 for a subclass, a sparse or quantised tensor, one without data, or a dtype that
            the table of FMT-006 has no equal of.
    """
    check_kind(tensor, name)
    if tensor.layout != torch.strided:
        raise CannotHold(
            "FMT-154", f"{name!r} has layout {tensor.layout}, expected a strided tensor; use from_torch_csr"
        )
    # conjugate and negative views are resolved, because their memory does not hold their values
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    dtype = NUMPY[tensor.dtype]
    return plain.view(_CARRIER[dtype.itemsize]).numpy().view(dtype) if dtype in _CARRIED else plain.numpy()


def check_kind(tensor: torch.Tensor, name: str) -> None:
    """Verify that a tensor is a plain one with data and a dtype that a checkpoint can hold.

    Raises:
        CannotHold: FMT-154.
    """
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise CannotHold(
            "FMT-154", f"{name!r} is a {type(tensor).__name__}, expected a plain torch.Tensor; convert it first"
        )
    if tensor.is_meta:
        raise CannotHold("FMT-154", f"{name!r} is on the meta device and has no values; load them first")
    if tensor.is_quantized or tensor.dtype not in NUMPY:
        raise CannotHold(
            "FMT-154", f"{name!r} has dtype {tensor.dtype}, which a checkpoint has no equal of; dequantise or cast it"
        )


def to_torch_csr(sparse: Sparse, *, index_dtype: torch.dtype = torch.int64, name: str = "tensor") -> torch.Tensor:
    """Return a matrix as a torch.sparse_csr tensor that owns its parts; stored zeros stay stored.

    Args:
        sparse: rank 2; verified here before torch sees it.
        index_dtype: torch.int64 or torch.int32, of row pointers and columns.
        name: its name in messages.

    Raises:
        CannotHold: FMT-154 for another rank, a mask, a dtype that torch lacks, or more than 2^31 − 1 values
            with int32.
        FormatError: FMT-015 or FMT-066 to FMT-069 if the record is wrong, FMT-084 for another index dtype.
    """
    if index_dtype not in (torch.int32, torch.int64):
        raise FormatError("FMT-084", f"index_dtype is {index_dtype}, expected torch.int64 or torch.int32")
    if not isinstance(sparse, Sparse) or len(sparse.shape) != 2:
        raise CannotHold(
            "FMT-154",
            f"{name!r} is a {type(sparse).__name__} of shape {list(sparse.shape)}, torch's CSR holds matrices with "
            f"values only; give a mask values with with_values, or expand other shapes with to_dense",
        )
    validate.check_record(sparse, name)
    if index_dtype == torch.int32 and sparse.nnz > validate.MAX_SPARSE_DIM:
        raise CannotHold(
            "FMT-154", f"{name!r} stores {sparse.nnz} values, int32 row pointers end at 2^31 - 1; use torch.int64"
        )
    with without_warnings_of_torch():
        return torch.sparse_csr_tensor(
            to_torch(sparse.indptr).to(index_dtype),
            to_torch(sparse.indices).to(index_dtype),
            to_torch(sparse.values, name=name),
            size=sparse.shape,
            check_invariants=True,
        )


@contextmanager
def without_warnings_of_torch() -> Iterator[None]:
    """Suppress the warnings of torch about its own sparse tensors, because a user can do nothing about them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        warnings.filterwarnings("ignore", message="Validating sparse tensor invariants")
        yield


def from_torch_csr(tensor: torch.Tensor, *, name: str = "tensor", limit: int = LIMIT) -> Sparse:
    """Return a sparse CSR matrix, or a sparse COO tensor of 1 to 8 dimensions, as a record that owns its arrays.

    Stored zeros stay stored. Indices are verified here, even if a flag of the tensor says that torch has checked them.

    Args:
        tensor: torch.sparse_csr of rank 2 or torch.sparse_coo, indices of any integer dtype.
        name: its name in messages.
        limit: bytes that the row pointers of a COO tensor may take, because they are made from its shape.

    Raises:
        FormatError: FMT-153 for row pointers or indices that are out of range, unsorted or repeated.
        CannotHold: FMT-154 for another layout, batches, blocks, or a dimension of 2^31 or more.
        ExpansionTooLarge: FMT-098.
    """
    check_kind(tensor, name)
    tensor = tensor.detach()
    if tensor.layout not in (torch.sparse_csr, torch.sparse_coo):
        raise CannotHold(
            "FMT-154", f"{name!r} has layout {tensor.layout}, expected sparse CSR or COO; call to_sparse_csr() first"
        )
    shape = tuple(int(d) for d in tensor.shape)
    if not 1 <= len(shape) <= validate.MAX_RANK or max(shape) > validate.MAX_SPARSE_DIM:
        raise CannotHold("FMT-154", f"{name!r} has shape {list(shape)}, expected 1 to 8 dimensions below 2^31")
    if min(shape) < 0:
        raise FormatError("FMT-153", f"{name!r} has shape {list(shape)}, expected dimensions from 0")
    return (
        _from_csr(tensor, shape, name) if tensor.layout == torch.sparse_csr else _from_coo(tensor, shape, name, limit)
    )


def _from_csr(tensor: torch.Tensor, shape: tuple[int, ...], name: str) -> Sparse:
    if len(shape) != 2 or tensor.values().dim() != 1:
        raise CannotHold(
            "FMT-154", f"{name!r} has batches or dense dimensions, expected a matrix of scalars; take it apart first"
        )
    row_ptr = _indices(tensor.crow_indices(), name)
    columns = _indices(tensor.col_indices(), name)
    values = from_torch(tensor.values(), name=name)
    if row_ptr.shape != (shape[0] + 1,) or columns.shape != values.shape:
        raise FormatError(
            "FMT-153",
            f"{name!r} of shape {list(shape)} has row pointers of shape {list(row_ptr.shape)}, columns of shape "
            f"{list(columns.shape)} and values of shape {list(values.shape)}, expected [rows + 1], [nnz] and [nnz]",
        )
    try:
        validate.check_row_ptr(row_ptr, len(values), name)
        indptr = row_ptr.astype(np.int64)
        validate.check_columns(indptr, columns, shape[1], name)
    except FormatError as error:
        raise FormatError("FMT-153", f"{name!r} is no valid CSR matrix and was not repaired: {error}") from error
    return Sparse(shape, indptr, columns.astype(np.int32), values.copy())


def _from_coo(tensor: torch.Tensor, shape: tuple[int, ...], name: str, limit: int) -> Sparse:
    values = from_torch(tensor._values(), name=name)
    if tensor.dense_dim() or values.ndim != 1:
        raise CannotHold(
            "FMT-154", f"{name!r} has dense dimensions, expected scalars at {len(shape)} indices; take it apart first"
        )
    indices = _indices(tensor._indices(), name)
    if indices.shape != (len(shape), len(values)):
        raise FormatError(
            "FMT-153",
            f"{name!r} has indices of shape {list(indices.shape)}, expected {[len(shape), len(values)]} "
            f"for its shape and values",
        )
    try:
        validate.check_shape(shape, name)
    except FormatError as error:
        raise CannotHold("FMT-154", f"{name!r} is larger than a checkpoint can hold: {error}") from error
    if 8 * (rows_of(shape) + 1) > limit:
        raise ExpansionTooLarge(
            "FMT-098", f"row pointers of {name!r} of shape {list(shape)} take more than {limit} bytes"
        )
    positions = np.zeros(len(values), dtype=np.int64)
    for axis, size in zip(indices, shape, strict=True):
        if axis.size and not 0 <= int(axis.min()) <= int(axis.max()) < size:
            raise FormatError(
                "FMT-153", f"{name!r} has indices from {axis.min()} to {axis.max()} along a dimension of {size}"
            )
        positions = positions * size + axis.astype(np.int64)
    if (positions[1:] <= positions[:-1]).any():
        raise FormatError(
            "FMT-153", f"{name!r} has unsorted or repeated indices; call coalesce(), which adds repeated values up"
        )
    return with_values(from_flat(shape, positions), values.copy())


def _indices(part: torch.Tensor, name: str) -> Array:
    array = from_torch(part, name=f"indices of {name}")
    if array.dtype.kind not in "iu":
        raise FormatError("FMT-153", f"indices of {name!r} are {part.dtype}, expected integers")
    return array


def to_semi_structured(sparse: Sparse, *, device: str = "cpu", name: str = "tensor") -> Any:
    """Return a 2:4 matrix as torch's semi-structured tensor in the layout of the CUTLASS kernels.

    It is built from the support, not from the values, so stored zeros and −0.0 stay. Multiplying takes a CUDA device.
    The pattern of float32 is 1:2.

    Args:
        sparse: rank 2, dtype F16, BF16, I8 or F32, at most two stored in each four columns (F32: one in two).
        device: the device of the result.
        name: its name in messages.

    Raises:
        CannotHold: FMT-154 for another dtype, sizes the kernels do not take, or a group with too many values.
        FormatError: FMT-015 or FMT-066 to FMT-069 if the record is wrong, FMT-098 if it is too large.
    """
    # these imports stand here because the names are private to torch, and other converters must work without them
    from torch.sparse import SparseSemiStructuredTensorCUTLASS as Cutlass
    from torch.sparse._semi_structured_conversions import _calculate_meta_reordering_scatter_offsets as offsets_of

    dtype = TORCH.get(sparse.values.dtype) if isinstance(sparse, Sparse) and len(sparse.shape) == 2 else None
    sizes = Cutlass._DTYPE_SHAPE_CONSTRAINTS.get(dtype)
    if sizes is None:
        raise CannotHold(
            "FMT-154",
            f"{name!r} is no matrix of F16, BF16, I8 or F32 with values, which semi-structured tensors are made of",
        )
    validate.check_record(sparse, name)
    rows, columns = sparse.shape
    if not rows or not columns or rows % sizes.sparse_min_rows or columns % sizes.sparse_min_cols:
        raise CannotHold(
            "FMT-154",
            f"{name!r} has shape {[rows, columns]}, semi-structured kernels of {dtype} take multiples of "
            f"{sizes.sparse_min_rows} rows and {sizes.sparse_min_cols} columns",
        )
    group = 2 if dtype == torch.float32 else 4
    mask = to_dense(with_values(sparse, np.ones(sparse.nnz, dtype=np.uint8))).reshape(rows, -1, group)
    counts = mask.sum(axis=2)
    if int(counts.max()) > group // 2:
        row, at = (int(i) for i in np.argwhere(counts > group // 2)[0])
        raise CannotHold(
            "FMT-154",
            f"row {row} of {name!r} stores {counts[row, at]} of columns {at * group} to {at * group + group - 1}, "
            f"semi-structured tensors of {dtype} hold {group // 2}; prune it to that pattern first",
        )
    # a float32 counts as two entries, because the kernels see groups of four
    nibbles = _NIBBLE[(mask.repeat(4 // group, axis=2) << np.arange(4, dtype=np.uint8)).sum(axis=2)]
    first, second = (nibbles & 3).astype(np.int64), (nibbles >> 2).astype(np.int64)
    offsets = (first // 2)[..., None] if group == 2 else np.stack([first, second], axis=2)
    dense = to_dense(sparse).reshape(rows, -1, group)
    packed = to_torch(np.take_along_axis(dense, offsets, axis=2).reshape(rows, columns // 2))
    unsigned, signed, each = (np.uint32, np.int32, 8) if dtype == torch.int8 else (np.uint16, np.int16, 4)
    shifts = (4 * np.arange(each)).astype(unsigned)
    words = np.left_shift(nibbles.reshape(rows, -1, each).astype(unsigned), shifts).sum(axis=2, dtype=unsigned)
    ordered = torch.from_numpy(words.view(signed))
    meta = torch.empty(ordered.numel(), dtype=ordered.dtype)
    meta.scatter_(0, offsets_of(rows, ordered.shape[1], ordered.dtype, "cpu"), ordered.reshape(-1))
    return Cutlass(
        torch.Size(sparse.shape),
        packed=packed.to(device),
        meta=meta.view(rows, -1).to(device),
        packed_t=None,
        meta_t=None,
        compressed_swizzled_bitmask=None,
    )
