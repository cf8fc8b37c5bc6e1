"""What converters verify of a record before it leaves for a format that cannot say everything a checkpoint says."""

from dataclasses import replace

import numpy as np

from formats import validate
from formats.container import DTYPES, NAMES, dtype_name
from formats.errors import BadRecord, BadSparseShape, CannotHold, CastOverflow, UnknownOption
from formats.records import Checkpoint, Dense, Mask, Sparse, Tensor, rows_of

HELD = frozenset({*NAMES, np.dtype(np.complex64)})
"""NumPy dtypes of what may become a record."""

CASTABLE = frozenset({"F16", "BF16", "F32", "F64"})
"""Floats that a cast reads and makes (FMT-126)."""


def check_arrays(tensor: Tensor, name: str) -> None:
    """Verify a record of any rank: its arrays (FMT-015), its shape (FMT-008), its support (FMT-066 to FMT-069).

    Raises:
        FormatError: the clause that is broken, naming the tensor.
    """
    if isinstance(tensor, Dense):
        if not isinstance(tensor.values, np.ndarray):
            raise BadRecord(f"values of {name!r} are {type(tensor.values).__name__}, expected a NumPy array")
        return
    if not isinstance(tensor, Sparse | Mask):
        raise BadRecord(f"{name!r} is a {type(tensor).__name__}, expected a Dense, Sparse or Mask")
    shape = tensor.shape
    if not 1 <= len(shape) <= validate.MAX_RANK or not all(0 <= d <= validate.MAX_SPARSE_DIM for d in shape):
        raise BadSparseShape(f"sparse tensor {name!r} has shape {list(shape)}, expected 1 to 8 dimensions below 2^31")
    nnz = len(tensor.indices) if isinstance(tensor.indices, np.ndarray) and tensor.indices.ndim == 1 else -1
    expected = {"indptr": (np.dtype(np.int64), (rows_of(shape) + 1,)), "indices": (np.dtype(np.int32), (nnz,))}
    if isinstance(tensor, Sparse):
        expected["values"] = (getattr(tensor.values, "dtype", None), (nnz,))
    for what, (dtype, size) in expected.items():
        array = getattr(tensor, what)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != size:
            raise BadRecord(
                f"{what} of {name!r} is {getattr(array, 'dtype', type(array))} of shape "
                f"{list(getattr(array, 'shape', ()))}, expected {dtype} of shape {list(size)}"
            )
    validate.check_row_ptr(tensor.indptr, nnz, name)
    validate.check_columns(tensor.indptr, tensor.indices, shape[-1], name)


def require_plain(checkpoint: Checkpoint, target: str) -> None:
    """Verify that a checkpoint is a model of named tensors and nothing else, and that its ties are sound (FMT-010).

    Raises:
        CannotHold: FMT-154 for another kind, attributes or companions, which target has no place for.
        FormatError: FMT-009 or FMT-010 for a name or a tie.
    """
    extra = {
        "kind": checkpoint.kind if checkpoint.kind != "model" else "",
        "attributes": sorted(checkpoint.attributes),
        "files": sorted(checkpoint.files),
    }
    for what, found in extra.items():
        if found:
            raise CannotHold(
                f"the checkpoint has {what} {found!r:.200}, which {target} cannot hold; to write the tensors alone, "
                f'pass dataclasses.replace(checkpoint, kind="model", attributes={{}}, files={{}})'
            )
    for name in checkpoint.tensors:
        validate.check_name(name)
    validate.check_tied(checkpoint.tied, checkpoint.tensors)


def check_cast(dtype: str | None, targets: frozenset[str] = CASTABLE) -> None:
    """Verify the name of a dtype to cast to; None casts nothing.

    Raises:
        UnknownOption: FMT-084.
    """
    if dtype is not None and dtype not in targets:
        raise UnknownOption(f"dtype {dtype!r} cannot be cast to, expected one of {', '.join(sorted(targets))}")


def cast(tensor: Tensor, dtype: str | None, name: str) -> Tensor:
    """Return the tensor with its floats cast to a dtype of the table; the same one if no cast applies (FMT-126).

    Raises:
        CastOverflow: FMT-126.
    """
    if dtype is None or isinstance(tensor, Mask) or NAMES.get(tensor.dtype) not in CASTABLE - {dtype}:
        return tensor
    with np.errstate(over="ignore", invalid="ignore"):
        values = tensor.values.astype(DTYPES[dtype])
        overflows = bool((np.isfinite(values) != np.isfinite(tensor.values)).any())
    # FMT-126
    if overflows:
        raise CastOverflow(f"{name!r} holds finite values of {dtype_name(tensor.dtype)} that {dtype} cannot hold")
    return replace(tensor, values=values)
