"""Mutants of products in the 16-bit classes (PRT-011).

They keep sums in sixteen bits, or do not round results to nearest. SPEC.md asks for float32 sums and one rounding.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases.compare import float_type
from conformance.wrong.mutants.base import Mutant, Operation, Values, ids

__all__ = ["CONTROLS", "MUTANTS"]
Array = NDArray[Any]
Add = Callable[[Array], Array]
Change = Callable[[Array], Array]


def one_by_one(terms: Array) -> Array:
    total = np.zeros(terms.shape[1:], terms.dtype)
    for term in terms:
        total = total + term
    return total


def in_pairs(terms: Array) -> Array:
    while len(terms) > 1:
        if len(terms) % 2:
            terms = np.concatenate([terms, np.zeros_like(terms[:1])])
        terms = terms[::2] + terms[1::2]
    return terms[0] if len(terms) else np.zeros(terms.shape[1:], terms.dtype)


def summed(a: Array, b: Array, dtype: str, add: Add) -> Array:
    """Return a @ b with sums by `add` in a dtype; operands are float32 arrays of 16-bit numbers."""
    kind = float_type(dtype)
    with np.errstate(all="ignore"):
        terms = a.astype(kind).T[:, :, None] * b.astype(kind)[:, None, :]
        return add(terms).astype(np.float32)


def kept(sums: Array) -> Array:
    return sums


def cut(dtype: str) -> Change:
    """Return a change that cuts float32 numbers to a 16-bit dtype."""
    mask = np.uint32(0xFFFF0000 if dtype == "bfloat16" else 0xFFFFE000)
    return lambda sums: (np.ascontiguousarray(sums).view(np.uint32) & mask).view(np.float32)


def away_from_zero(dtype: str) -> Change:
    """Return a change that rounds float32 numbers away from zero to a 16-bit dtype."""
    down, one = cut(dtype), np.uint32(0x10000 if dtype == "bfloat16" else 0x2000)

    def change(sums: Array) -> Array:
        less = down(sums)
        more = (less.view(np.uint32) + one).view(np.float32)
        return np.where(less == sums, less, more).astype(np.float32)

    return change


def flushed(dtype: str) -> Change:
    """Return a change that sets subnormal numbers of a 16-bit dtype to 0."""
    least = 2.0**-126 if dtype == "bfloat16" else 2.0**-14
    return lambda sums: np.where(np.abs(sums) < least, np.float32(0), sums).astype(np.float32)


def products(op: str, dtype: str, add: Add, change: Change = kept) -> Operation:
    """Return an operation of plain products with sums by `add`; `change` is applied to float32 results."""

    def product(a: Array, b: Array, dtype: str, add: Add) -> Array:
        return change(summed(a, b, dtype, add))

    def call(a: Values) -> Values:
        gradient = product(a["dy"].T, a["x"], dtype, add)
        if op == "gradient.whole":
            return {"gradient": gradient}
        if op == "gradient.at":
            return {"values": gradient.reshape(-1)[a["positions"]]}
        if op == "kernel.dense":
            w = a["weight"]
        else:
            w = np.zeros((a["out"], a["in"]), np.float32)
            w.reshape(-1)[a["positions"]] = a["values"]
        out = {"y": product(a["x"], w.T, dtype, add), "dx": product(a["dy"], w, dtype, add), "shape": ids(w.shape)}
        return out if op == "kernel.dense" else out | {"dvalues": gradient.reshape(-1)[a["positions"]]}

    return call


_OPS = ("kernel.sparse", "kernel.dense", "gradient.whole", "gradient.at")
_DTYPES = ("bfloat16", "float16")

MUTANTS: list[Mutant] = [
    Mutant(op, f"sums in {dtype}, {how}", ("PRT-011",), products(op, dtype, add), dtype=dtype)
    for op in _OPS
    for dtype in _DTYPES
    for how, add in (("one by one", one_by_one), ("in pairs", in_pairs))
]
MUTANTS += [
    Mutant(op, f"results in {dtype} {how}", ("PRT-011",), products(op, "float32", one_by_one, change), dtype=dtype)
    for op in _OPS
    for dtype, how, change in (
        *((dtype, "cut", cut(dtype)) for dtype in _DTYPES),
        *((dtype, "rounded away from zero", away_from_zero(dtype)) for dtype in _DTYPES),
        ("float16", "flushed to zero", flushed("float16")),
    )
]
CONTROLS = tuple(
    Mutant(op, "none", (), products(op, "float32", one_by_one), dtype=dtype) for op in _OPS for dtype in _DTYPES
)
"""The same products with sums in float32, which every case must pass."""
