"""What generators of other areas use of files: tensors, and checkpoints in the form of cases."""

import struct
from math import prod
from typing import Any

from conformance.answers.files_content import raw_array
from conformance.gen.numbers import ids
from conformance.oracle import files
from conformance.oracle.files import Tensor, on

__all__ = ["WIDE", "content", "on", "raw_array"]

WIDE = Tensor("F32", (3, 40), struct.pack("<2f", -0.0, 7.5), ((0, 39), (2, 1)))


def content(tensors: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    """Return a checkpoint in the form of inputs and outputs of operations."""
    out: dict[str, Any] = {}
    for name, t in tensors.items():
        full = t.nnz == prod(t.shape)
        out[name] = {
            "dtype": t.dtype,
            "shape": ids(t.shape),
            "row_pointers": None if full else ids(files.pointers(t)),
            "columns": None if full or t.support is None else ids(c for _, c in t.support),
            "bits": raw_array(t.bits),
        }
    return {
        "kind": more.get("kind", "model"),
        "tensors": out,
        "attributes": files.text(more.get("attributes", {})),
        "tied": more.get("tied", {}),
        "scales": files.text(more.get("scales", {})),
        "delta": files.text(more.get("delta")),
    }
