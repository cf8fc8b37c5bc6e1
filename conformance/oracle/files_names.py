"""The file names that a writer refuses (FMT-112), and the bytes of a tensor that is expanded to dense (FMT-098)."""

import math
from collections.abc import Sequence

from conformance.oracle.select_pools import RefusedError


def check_name(name: str) -> None:
    """Refuse a name that programs take for a file of dense weights (FMT-112)."""
    stem, dot, end = name.lower().rpartition(".")
    if not dot or end != "safetensors":
        return
    parts = stem.rsplit("-of-", 1)
    if len(parts) == 2 and parts[1].isascii() and parts[1].isdigit():
        head, dash, number = parts[0].rpartition("-")
        if dash and number.isascii() and number.isdigit():
            stem = head
    if stem in ("model", "adapter_model", "pytorch_model"):
        msg = f"FMT-112: {name}"
        raise RefusedError(msg)


def expanded(
    dtype: str, shape: Sequence[int], at: Sequence[int] | None, bits: bytes, width: int, limit: int | None
) -> bytes:
    """Return the bytes of a tensor as a dense array; values of 4 or 6 bits take a byte each (FMT-098).

    at     the stored positions, None for all
    width  bits of a value, 0 for a mask
    limit  the most bytes that the array may have
    """
    numel, size = math.prod(shape), max(1, width // 8)
    if numel * size > (2**36 if limit is None else limit):
        msg = f"FMT-098: {numel} values of {size} bytes"
        raise RefusedError(msg)
    places = range(numel) if at is None else at
    out = bytearray(numel * size)
    whole = int.from_bytes(bits, "little")
    for i, p in enumerate(places):
        value = 1 if width == 0 else whole >> (i * width) & (2**width - 1)
        out[p * size : (p + 1) * size] = value.to_bytes(size, "little")
    return bytes(out)
