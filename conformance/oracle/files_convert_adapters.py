"""Adapters and patches of other libraries as changes of a base, entry by entry from 12.11 (FMT-151, FMT-152)."""

import math
import struct
from collections.abc import Sequence

from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_deltas import number
from conformance.oracle.select_pools import RefusedError


def changed(shape: tuple[int, ...], places: Sequence[int], values: Tensor) -> Tensor:
    """Return the sparse tensor with these values at flat positions, which may come in any order (FMT-151).

    Raises:
        RefusedError: a position lies outside the shape, or comes twice.
    """
    size = BITS[values.dtype] // 8
    pairs = sorted((at, values.bits[i * size : (i + 1) * size]) for i, at in enumerate(places))
    flat = [at for at, _ in pairs]
    if len({*flat}) != len(flat) or (flat and (flat[0] < 0 or flat[-1] >= math.prod(shape))):
        raise RefusedError(f"FMT-151: {flat}")
    return Tensor(values.dtype, shape, b"".join(raw for _, raw in pairs), tuple(divmod(at, shape[-1]) for at in flat))


def entries(t: Tensor) -> list[list[float]]:
    """Return the rows of a dense matrix of floats as binary64."""
    size, columns = BITS[t.dtype] // 8, t.shape[1]
    flat = [number(t.dtype, t.bits[i : i + size]) for i in range(0, len(t.bits), size)]
    return [flat[r * columns : (r + 1) * columns] for r in range(t.shape[0])]


def product(a: Tensor, b: Tensor, alpha: float, *, root: bool, turned: bool) -> list[list[float]]:
    """Return B·A or its transpose. Entries are summed from the first rank on, scaled, and rounded to F32 (FMT-152).

    Raises:
        RefusedError: an entry is not finite in F32.
    """
    rows_a, rows_b, rank = entries(a), entries(b), a.shape[0]
    scale = alpha / (math.sqrt(rank) if root else rank)
    out = [[_rounded([row[k] * rows_a[k][c] for k in range(rank)], scale) for c in range(a.shape[1])] for row in rows_b]
    return [list(column) for column in zip(*out, strict=True)] if turned else out


def _rounded(terms: list[float], scale: float) -> float:
    total = terms[0]
    for term in terms[1:]:
        total += term
    try:
        single = float(struct.unpack("<f", struct.pack("<f", total * scale))[0])
    except OverflowError as error:
        raise RefusedError("FMT-152: beyond F32") from error
    if not math.isfinite(single):
        raise RefusedError("FMT-152: not finite")
    return single


def lora(base: Tensor, amounts: list[list[float]]) -> tuple[Tensor, int]:
    """Return the amounts on the support of the base, and the number of other amounts that are not +0.0 (FMT-152)."""
    rows, columns = base.shape
    every = [(r, c) for r in range(rows) for c in range(columns)]
    support = every if base.support is None else list(base.support)
    raw = {(r, c): struct.pack("<f", amounts[r][c]) for r, c in every}
    left_out = sum(raw[at] != bytes(4) for at in {*every} - {*support})
    return Tensor("F32", base.shape, b"".join(raw[at] for at in support), tuple(support)), left_out
