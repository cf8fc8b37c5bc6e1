"""Our engine with kernel sets that add up in other orders, and in 16 bits: the kit must accept each of them.

Each set is the reference set with its three products replaced. The terms of a product and its refusals stay.
"""

from types import SimpleNamespace
from typing import Any

from conformance.engine.port import EnginePort, Reduced
from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.kernels import NAMES, reference
from seft_ref.kernels.split import multiply_parts
from seft_ref.topology.csr import Topology, flat

__all__ = ["fused", "permuted", "reduced", "split"]


def _whole(stored: reference.PackedEntries) -> Array:
    """Return a packed matrix, or a part of one that is split, as one dense array."""
    xp, (n_out, n_in) = array_namespace(stored.values), stored.shape
    if stored.positions is None:
        return xp.reshape(stored.values, (n_out, n_in))
    whole = xp.zeros(n_out * n_in, dtype=stored.values.dtype, device=device(stored.values))
    whole[stored.positions] = stored.values
    return xp.reshape(whole, (n_out, n_in))


def _set(product: Any) -> Any:
    """Return the reference kernel set with its three products computed by `product`.

    product  a function of a (m, k) and b (k, n) in place of a @ b
    """

    def matmul(x: Array, packed: Any) -> Array:
        # called on no rows, because only its refusals are needed
        reference.matmul(x[:0, ...], packed)
        return multiply_parts(lambda x, part: product(x, _whole(part).T), x, packed, reference.PackedEntries)

    def matmul_transposed(dy: Array, packed: Any) -> Array:
        reference.matmul_transposed(dy[:0, ...], packed)
        return multiply_parts(lambda dy, part: product(dy, _whole(part)), dy, packed, reference.PackedEntries)

    def sample(dy: Array, x: Array, topology: Topology) -> Array:
        result = reference.sample(dy, x, topology)
        if not topology.nnz:
            return result
        xp = array_namespace(dy, x)
        return xp.take(xp.reshape(product(dy.T, x), (-1,)), flat(topology))

    functions = {name: getattr(reference, name) for name in ("LAYERS", *NAMES)}
    return SimpleNamespace(**(functions | {"matmul": matmul, "matmul_transposed": matmul_transposed, "sample": sample}))


def _backwards(a: Array, b: Array) -> Array:
    """Return a @ b, the terms added one by one from the last to the first, odd ones before even ones."""
    xp = array_namespace(a, b)
    total = xp.zeros((a.shape[0], b.shape[1]), dtype=a.dtype, device=device(a))
    terms = range(a.shape[1])
    for k in [*reversed(terms[1::2]), *reversed(terms[::2])]:
        total = total + a[:, k][:, None] * b[k, :][None, :]
    return total


def _halves(a: Array, b: Array) -> Array:
    """Return a @ b as the sum of two products of half of the terms."""
    middle = a.shape[1] // 2
    return a[:, :middle] @ b[:middle, :] + a[:, middle:] @ b[middle:, :]


def _fused(a: Array, b: Array) -> Array:
    """Return a @ b, each product added before it is rounded."""
    xp = array_namespace(a, b)
    total = xp.zeros((a.shape[0], b.shape[1]), dtype=a.dtype, device=device(a))
    for k in range(a.shape[1]):
        total = _multiply_add(a[:, k][:, None], b[k, :][None, :], total)
    return total


def _multiply_add(a: Array, b: Array, c: Array) -> Array:
    """Return a · b + c with one rounding, or within the last bit of it."""
    xp = array_namespace(a, b, c)
    if a.dtype == xp.float32:
        # the product of two binary32 is exact in binary64
        wide = xp.astype(a, xp.float64) * xp.astype(b, xp.float64) + xp.astype(c, xp.float64)
        return xp.astype(wide, xp.float32)
    product = a * b
    lost = _rest_of_product(a, b, product)
    total = product + c
    # two-sum: `rest` is the exact rounding error of the addition
    back = total - product
    rest = (product - (total - back)) + (c - back)
    return total + (rest + lost)


def _rest_of_product(a: Array, b: Array, product: Array) -> Array:
    """Return the exact rounding error of a product of two binary64, by splitting both factors in halves."""

    def halves(x: Array) -> tuple[Array, Array]:
        wide = x * 134217729.0
        high = wide - (wide - x)
        return high, x - high

    a1, a2 = halves(a)
    b1, b2 = halves(b)
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def permuted() -> EnginePort:
    """Return the engine with sums in another order of their terms."""
    return EnginePort("engine with permuted sums", kernels=_set(_backwards), kinds=("layer", "whole"))


def split() -> EnginePort:
    """Return the engine with sums of two halves."""
    return EnginePort("engine with split sums", kernels=_set(_halves), kinds=("layer", "whole"))


def fused() -> EnginePort:
    """Return the engine with products that are added before they are rounded."""
    return EnginePort("engine with fused sums", kernels=_set(_fused), kinds=("layer", "whole"))


def reduced() -> EnginePort:
    """Return the engine in 16 bits, with sums in float32."""
    return Reduced("engine in 16 bits", classes=("bf16", "fp16"), kinds=("layer",))
