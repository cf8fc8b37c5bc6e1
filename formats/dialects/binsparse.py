"""Writes folders of binsparse files: one NPZ for each tensor, with a JSON descriptor beside its arrays.

[ 5 . 0 ]      {"binsparse": {"format": "CSR", "shape": [2, 3], "number_of_stored_values": 3, ...}}
[ . 7 . ]      pointers_to_1 = [0, 2, 3], indices_1 = [0, 2, 1], values = [5, 0, 7]

Stored zeros stay stored. Tensors of every rank can be written. A mask becomes a tensor whose values are all the same.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from formats.dialects import npz
from formats.dialects.checks import cast, check_cast
from formats.errors import CannotHold
from formats.records import Array, Checkpoint, Dense, Mask, Supported, Tensor
from formats.strict_json import JSON, canonical
from formats.validate import check_record

VERSION = "0.1.0"

TARGETS = frozenset({"F32", "F64"})
"""Dtypes that floats can be cast to: those that binsparse has."""

_TYPES: dict[np.dtype[Any], str] = {
    np.dtype(name): name
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
}


def write_binsparse(folder: str | os.PathLike[str], checkpoint: Checkpoint, *, dtype: str | None = None) -> None:
    """Write a new folder with one binsparse 0.1 NPZ for each tensor and an index; one tensor in memory at a time.

    A sparse matrix is stored as CSR, a sparse vector as CVEC, a dense matrix as DMATR, a dense vector as DVEC. Tensors
    of other ranks have a custom format of the same arrays. A mask has the values ``iso[bint8]``, a single true.

    Args:
        folder: the folder to make; its index is an object of tensor name -> file.
        checkpoint: a model without attributes and companions, for which there is no place.
        dtype: ``"F32"`` or ``"F64"`` to cast F16, BF16, F32 and F64 to; None casts nothing (FMT-126).

    Raises:
        CannotHold: FMT-154 for a tensor that is float16, bfloat16 or float8 after the cast.
        FormatError: FMT-110 if the folder is there, FMT-126 for a cast that overflows.
    """
    check_cast(dtype, TARGETS)

    def arrays_of(tensor: Tensor, name: str) -> Mapping[str, Any]:
        check_record(tensor, name)
        return _arrays(cast(tensor, dtype, name), name)

    npz.write_folder(Path(folder), checkpoint, "a folder of binsparse files", arrays_of)


def _arrays(tensor: Tensor, name: str) -> dict[str, Array]:
    rank = len(tensor.shape)
    if isinstance(tensor, Mask):
        values, kind = np.ones(1, dtype=np.uint8), "iso[bint8]"
    else:
        values, kind = _typed(np.asarray(tensor.values, order="C").reshape(-1), name)
    arrays: dict[str, Array] = {} if isinstance(tensor, Dense) else _support(tensor)
    arrays["values"] = values
    types: dict[str, JSON] = {what: _TYPES[array.dtype] for what, array in arrays.items()}
    types["values"] = kind
    descriptor: dict[str, JSON] = {
        "version": VERSION,
        "shape": list(tensor.shape),
        "number_of_stored_values": tensor.nnz,
        "data_types": types,
    }
    named = ({1: "DVEC", 2: "DMATR"} if isinstance(tensor, Dense) else {1: "CVEC", 2: "CSR"}).get(rank)
    descriptor["format"] = named or "custom"
    if not named:
        descriptor["custom"] = {"level": _level(rank, dense=isinstance(tensor, Dense))}
    return {"binsparse": np.array(canonical({"binsparse": descriptor})), **arrays}


def _support(tensor: Supported) -> dict[str, Array]:
    last = len(tensor.shape) - 1
    indices: dict[str, Array] = {f"indices_{last}": tensor.indices}
    # a vector has no pointers, because it is a single row
    return {f"pointers_to_{last}": tensor.indptr, **indices} if last else indices


def _level(rank: int, *, dense: bool) -> JSON:
    """Return the levels of a custom format: dense ones, and the last one sparse if the tensor has a support."""
    element: JSON = {"level_desc": "element"}
    if dense:
        return {"level_desc": "dense", "rank": rank, "level": element} if rank else element
    rows: JSON = {"level_desc": "sparse", "rank": 1, "level": element}
    return {"level_desc": "dense", "rank": rank - 1, "level": rows}


def _typed(values: Array, name: str) -> tuple[Array, str]:
    """Return values as binsparse stores them, and the name of their type in binsparse."""
    if values.dtype == np.bool_:
        return values.view(np.uint8), "bint8"
    if values.dtype == np.complex64:
        return values.view(np.float32), "complex[float32]"
    kind = _TYPES.get(values.dtype)
    if kind is None:
        raise CannotHold(
            "FMT-154",
            f"{name!r} has dtype {values.dtype}, which binsparse lacks; F16 and BF16 are cast with "
            f'dtype="F32" (--dtype F32), float8 has no meaning without its scales',
        )
    return values, kind
