"""SciPy's CSR arrays, and folders of the NPZ files that scipy.sparse.save_npz writes.

`scipy.sparse.load_npz` reads the file of a sparse matrix. The file of a dense tensor has the members `format`
(b"dense") and `data`, and `numpy.load` reads it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from formats import validate
from formats.container import NAMES
from formats.dialects import npz
from formats.dialects.checks import cast, check_cast
from formats.errors import CannotHold, FormatError
from formats.records import LIMIT, Array, Checkpoint, Dense, Sparse, Supported, Tensor

TARGETS = frozenset({"F32", "F64"})
"""Dtypes that floats can be cast to: those that SciPy computes with."""

_NATIVE = frozenset("?bBhHiIlLqQfdF")
"""NumPy's one-letter codes of the dtypes that SciPy's sparse arrays hold."""


def to_scipy(sparse: Supported, *, name: str = "tensor") -> Any:
    """Return a matrix as a scipy.sparse.csr_array that owns its parts; stored zeros stay stored.

    Args:
        sparse: rank 2 with values, a dtype that SciPy computes with: no float16, bfloat16 or float8.
        name: its name in messages.

    Raises:
        CannotHold: FMT-154 for another rank, a mask or a dtype that SciPy lacks.
        FormatError: FMT-015 or FMT-066 to FMT-069 if the record is wrong.
    """
    if not isinstance(sparse, Sparse) or len(sparse.shape) != 2:
        raise CannotHold(
            "FMT-154",
            f"{name!r} is a {type(sparse).__name__} of shape {list(sparse.shape)}, SciPy's CSR holds matrices with "
            f"values only; give a mask values with with_values, or expand other shapes with to_dense",
        )
    validate.check_record(sparse, name)
    _check_native(sparse.values, name)
    parts = (sparse.values, sparse.indices, sparse.indptr)
    return scipy.sparse.csr_array(parts, shape=sparse.shape, copy=True)


def from_scipy(matrix: Any, *, name: str = "matrix") -> Sparse:
    """Return a SciPy CSR array or matrix as a record that owns its arrays; stored zeros stay stored.

    Raises:
        FormatError: FMT-153 for indices that are out of range, unsorted or repeated; nothing is repaired.
        CannotHold: FMT-154 for another format, a dtype that a checkpoint lacks, or 2^31 rows or columns or more.
    """
    if not scipy.sparse.issparse(matrix) or matrix.format != "csr" or matrix.ndim != 2:
        raise CannotHold(
            "FMT-154",
            f"{name!r} is a {type(matrix).__name__} of format {getattr(matrix, 'format', None)!r}, expected a "
            f"two-dimensional CSR array; call tocsr() first",
        )
    return _from_parts(matrix.indptr, matrix.indices, matrix.data, tuple(int(d) for d in matrix.shape), name)


def _from_parts(indptr: Array, indices: Array, data: Array, shape: tuple[int, ...], name: str) -> Sparse:
    for what, part in (("indptr", indptr), ("indices", indices)):
        if part.dtype.kind not in "iu":
            raise FormatError("FMT-153", f"{what} of {name!r} is {part.dtype}, expected integers")
    if data.dtype not in NAMES:
        raise CannotHold(
            "FMT-154", f"{name!r} has dtype {data.dtype}, expected one of {', '.join(sorted(map(str, NAMES)))}"
        )
    if min(shape) < 0 or max(shape) > validate.MAX_SPARSE_DIM:
        raise CannotHold("FMT-154", f"{name!r} has shape {list(shape)}, expected two dimensions below 2^31")
    if indptr.shape != (shape[0] + 1,) or indices.ndim != 1 or indices.shape != data.shape:
        raise FormatError(
            "FMT-153",
            f"{name!r} of shape {list(shape)} has indptr of shape {list(indptr.shape)}, indices of shape "
            f"{list(indices.shape)} and data of shape {list(data.shape)}, expected [rows + 1], [nnz] and [nnz]; "
            f"prune() cuts off what no row owns",
        )
    try:
        validate.check_row_ptr(indptr, len(data), name)
        row_ptr = indptr.astype(np.int64)
        validate.check_columns(row_ptr, indices, shape[1], name)
        validate.check_bool(data, name)
    except FormatError as error:
        raise FormatError(
            "FMT-153",
            f"{name!r} is no canonical CSR matrix and was not repaired: {error}; prune() cuts off what no row owns, "
            f"sort_indices() sorts, sum_duplicates() adds repeated entries up",
        ) from error
    return Sparse(shape, row_ptr, indices.astype(np.int32), data.copy())


def write_scipy(folder: str | os.PathLike[str], checkpoint: Checkpoint, *, dtype: str | None = None) -> None:
    """Write a new folder with one NPZ for each tensor and an index; one tensor in memory at a time.

    Args:
        folder: the folder to make.
        checkpoint: a model without attributes and companions, for which there is no place.
        dtype: ``"F32"`` or ``"F64"`` to cast F16, BF16, F32 and F64 to; None casts nothing (FMT-126).

    Raises:
        CannotHold: FMT-154 for a sparse tensor that is no matrix, a mask, and, after the cast, a sparse float16
            and any bfloat16 or float8.
        FormatError: FMT-110 if the folder is there, FMT-126 for a cast that overflows.
    """
    check_cast(dtype, TARGETS)

    def arrays_of(tensor: Tensor, name: str) -> Mapping[str, Any]:
        validate.check_record(tensor, name)
        tensor = cast(tensor, dtype, name)
        if isinstance(tensor, Dense):
            if tensor.dtype != np.float16:
                _check_native(tensor.values, name)
            return {"format": np.array(b"dense"), "data": tensor.values}
        # these are the members that scipy.sparse.save_npz writes, so that load_npz reads the file
        matrix = to_scipy(tensor, name=name)
        return {
            "indices": matrix.indices,
            "indptr": matrix.indptr,
            "format": np.array(b"csr"),
            "shape": np.array(matrix.shape, dtype=np.int64),
            "data": matrix.data,
            "_is_array": np.array(True),  # noqa: FBT003 - a value, not a switch
        }

    npz.write_folder(Path(folder), checkpoint, "a folder of SciPy files", arrays_of)


def read_scipy(folder: str | os.PathLike[str], *, limit: int = LIMIT) -> Checkpoint:
    """Return the tensors of a folder that `write_scipy` wrote, all in memory; nothing is unpickled.

    Args:
        folder: an index and one NPZ for each tensor.
        limit: bytes that all tensors may take together, verified before anything is inflated.

    Raises:
        FormatError: FMT-153 for an index, a file or indices that are malformed.
        CannotHold: FMT-154 for another sparse format than CSR, or a dtype that a checkpoint lacks.
        ExpansionTooLarge: FMT-098.
    """
    paths, tied = npz.read_folder(Path(folder))
    tensors, used = {}, 0
    for name, path in paths.items():
        arrays = npz.read_npz(path, limit=limit, used=used)
        used += sum(array.nbytes for array in arrays.values())
        tensors[name] = _tensor(arrays, path, name)
    return Checkpoint("model", tensors, tied=tied)


def _tensor(arrays: dict[str, Array], path: Path, name: str) -> Tensor:
    if "binsparse" in arrays:
        raise CannotHold("FMT-154", f"{path.name} is a binsparse file, which is only written; read what it was made of")
    member = arrays.pop("format", np.array(""))
    arrays.pop("_is_array", None)
    kind = member.tobytes().rstrip(b"\0") if member.dtype.kind == "S" and not member.ndim else str(member).encode()[:20]
    members = {b"dense": {"data"}, b"csr": {"data", "indices", "indptr", "shape"}}.get(kind)
    if members is None:
        raise CannotHold(
            "FMT-154", f"{path.name} holds format {kind!r}, expected CSR or dense; call tocsr() before saving"
        )
    if set(arrays) != members:
        raise FormatError(
            "FMT-153", f"{path.name} has members {sorted(arrays)}, expected {sorted(members)} beside the format"
        )
    if kind == b"csr":
        shape = arrays["shape"]
        if shape.dtype.kind not in "iu" or shape.shape != (2,):
            raise FormatError(
                "FMT-153", f"shape in {path.name} is {shape.dtype} of {list(shape.shape)}, expected two integers"
            )
        sizes = tuple(int(d) for d in shape)
        return _from_parts(arrays["indptr"], arrays["indices"], arrays["data"], sizes, name)
    data = arrays["data"]
    if data.dtype not in NAMES:
        raise CannotHold(
            "FMT-154", f"{name!r} has dtype {data.dtype}, expected one of {', '.join(sorted(map(str, NAMES)))}"
        )
    try:
        validate.check_shape(data.shape, name)
        validate.check_bool(data, name)
    except FormatError as error:
        raise FormatError("FMT-153", f"{path.name} cannot be read: {error}") from error
    return Dense(np.asarray(data, order="C"))


def _check_native(values: Array, name: str) -> None:
    if values.dtype.char not in _NATIVE or not values.dtype.isnative:
        raise CannotHold(
            "FMT-154",
            f"{name!r} has dtype {values.dtype}, which SciPy does not compute with; F16 and BF16 are cast with "
            f'dtype="F32" (--dtype F32), float8 has no meaning without its scales',
        )
