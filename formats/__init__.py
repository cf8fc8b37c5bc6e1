"""Sparse checkpoints on disk: a strict, deterministic profile of safetensors (SPEC.md, chapter 12).

formats.write("model-sparse", formats.Checkpoint("model", {"w": formats.from_dense(w)}))
with formats.open("model-sparse") as reader:
    w = reader["w"]                                # Sparse(shape, indptr, indices, values), read lazily

This package knows no model architecture. Only `dialects` knows the formats of other tools. Start with `records.py`,
then `writer.py` and `reader.py`.
"""

from formats.conversion import convert
from formats.errors import FormatError
from formats.reader import Reader, read
from formats.reader import open_checkpoint as open  # noqa: A004 - formats.open reads like gzip.open
from formats.records import (
    Checkpoint,
    DeltaOf,
    Dense,
    Mask,
    Pattern,
    Sparse,
    Tensor,
    TensorInfo,
    flat,
    from_dense,
    from_flat,
    from_support,
    to_dense,
    with_values,
)
from formats.strict_json import JSON
from formats.writer import write, write_file

__version__ = "0.2.0"
"""The version of seft_ref, and of this package alone; both pyproject.toml read it here."""

__all__ = [
    "JSON",
    "Checkpoint",
    "DeltaOf",
    "Dense",
    "FormatError",
    "Mask",
    "Pattern",
    "Reader",
    "Sparse",
    "Tensor",
    "TensorInfo",
    "__version__",
    "convert",
    "flat",
    "from_dense",
    "from_flat",
    "from_support",
    "open",
    "read",
    "to_dense",
    "with_values",
    "write",
    "write_file",
]
