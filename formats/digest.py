"""Digests: of bytes, and of a tensor's content however it is encoded."""

from hashlib import sha256
from math import prod

from formats import encoding
from formats.container import dtype_name, raw_bytes
from formats.records import Array, Dense, Tensor
from formats.strict_json import JSON, canonical


def of_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes in lower-case hexadecimal."""
    return sha256(data).hexdigest()


def of_section(values: Array) -> str:
    """Return the SHA-256 of the little-endian row-major bytes of an array (FMT-090)."""
    return sha256(raw_bytes(values)).hexdigest()


def of_content(tensor: Tensor) -> str:
    """Return the SHA-256 of what a tensor says: dtype, shape, support and values (FMT-091).

    Two encodings of one tensor agree; a stored zero and an absent position do not.
    """
    head: dict[str, JSON] = {
        "dtype": dtype_name(tensor.dtype),
        "nnz": tensor.nnz,
        "shape": list(tensor.shape),
    }
    digest = sha256(canonical(head).encode() + b"\n")
    # a full support needs no telling, so that it hashes alike as Dense and as Sparse (FMT-005)
    if not isinstance(tensor, Dense) and tensor.nnz != prod(tensor.shape):
        support = encoding.csr_support(tensor)
        digest.update(raw_bytes(support["row_ptr"]))
        digest.update(raw_bytes(support["col_idx"]))
    digest.update(raw_bytes(tensor.values))
    return digest.hexdigest()
