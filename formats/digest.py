"""SHA-256 digests of bytes, of a tensor's content whatever its encoding, and of the state of a checkpoint."""

from collections.abc import Mapping
from hashlib import sha256
from math import prod

from formats import encoding
from formats.container import raw_bytes
from formats.encodings import bitmask, csr
from formats.encodings.code import Code
from formats.records import Dense, Mask, Tensor, rows_of
from formats.strict_json import JSON, canonical


def of_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes in lower-case hexadecimal."""
    return sha256(data).hexdigest()


def of_content(tensor: Tensor) -> str:
    """Return the content digest of a tensor: of its dtype, shape, support and values (FMT-091).

    All encodings of a tensor give the same digest. A stored zero and an absent position give different ones.
    """
    return of_parts(tensor, of_support(tensor), of_values(tensor))


def of_parts(tensor: Tensor, support: Mapping[str, str] | None, values: str | None) -> str:
    """Return the content digest of a tensor from the results of `of_support` and `of_values` for it (FMT-091)."""
    value: dict[str, JSON] = {
        "dtype": encoding.dtype_of(tensor),
        "nnz": tensor.nnz,
        "shape": list(tensor.shape),
        "support": None if support is None else dict(support),
        "values": values,
    }
    return of_bytes(canonical(value).encode())


def of_values(tensor: Tensor) -> str | None:
    """Return the digest of the values of a tensor, None for a mask."""
    return None if isinstance(tensor, Mask) else of_bytes(raw_bytes(tensor.values))


def support_code(shape: tuple[int, ...], nnz: int) -> Code | None:
    """Return the encoding whose sections are hashed for a support: bitmask or csr, the smaller one (FMT-091).

    Returns None for a full support, because a tensor must hash alike as Dense and as Sparse (FMT-005).
    """
    if nnz == prod(shape):
        return None
    rows, columns = rows_of(shape), shape[-1]
    smaller = columns and bitmask.size_of(rows, columns) <= csr.size_of(rows, columns, nnz)
    return bitmask.CODE if smaller else csr.CODE


def of_support(tensor: Tensor) -> dict[str, str] | None:
    """Return role -> digest of the sections that `support_code` makes of a support; None for a full support."""
    code = support_code(tensor.shape, tensor.nnz)
    if code is None:
        return None
    assert not isinstance(tensor, Dense)
    return {role: of_bytes(raw_bytes(section)) for role, section in code.encode(tensor, None).items()}


def of_state(contents: Mapping[str, str], tied: Mapping[str, str], scales: Mapping[str, Mapping[str, str]]) -> str:
    """Return the state digest of a checkpoint, which does not depend on encodings, parts and companions (FMT-099).

    Args:
        contents: tensor name -> content digest.
        tied: tied name -> stored name.
        scales: tensor name -> role -> stored name.
    """
    value: dict[str, JSON] = {
        "scales": {name: dict(roles) for name, roles in scales.items()},
        "tensors": dict(contents),
        "tied": dict(tied),
    }
    return of_bytes(canonical(value).encode())
