"""Checkpoints and files in the form of inputs and outputs of operations."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from conformance.answers.answer import ids
from conformance.oracle import files
from conformance.oracle.files import Tensor

__all__ = ["content", "raw_array", "tensors_of", "tree_of"]


def raw_array(raw: bytes) -> Any:
    """Return bytes as a uint8 array, the form in which cases store them."""
    return np.frombuffer(raw, dtype=np.uint8).copy()


def tree_of(arrays: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of an input by name."""
    return {name: raw.tobytes() for name, raw in arrays.items()}


def content(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return tensors in the form of inputs and outputs of operations."""
    made: dict[str, Any] = {}
    for name, t in tensors.items():
        full = t.support is None or t.nnz == prod(t.shape)
        made[name] = {
            "dtype": t.dtype,
            "shape": ids(t.shape),
            "row_pointers": None if full else ids(files.pointers(t)),
            "columns": None if full else ids(c for _, c in t.support or ()),
            "bits": raw_array(t.bits),
        }
    return made


def tensors_of(stated: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of an input, the inverse of `content`."""
    made = {}
    for name, t in stated.items():
        support = None
        if t["row_pointers"] is not None:
            rows = np.repeat(np.arange(len(t["row_pointers"]) - 1), np.diff(t["row_pointers"]))
            support = tuple(zip(rows.tolist(), t["columns"].tolist(), strict=True))
        made[name] = Tensor(t["dtype"], tuple(t["shape"].tolist()), t["bits"].tobytes(), support)
    return made
