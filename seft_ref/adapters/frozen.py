"""The frozen weight beside an adapter, and helpers of all adapters: start values, checks, a transpose."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace, device, from_numpy
from seft_ref.arrays.rng import STREAM_FACTORS, counter_key, uniform
from seft_ref.errors import AdapterError
from seft_ref.kernels import KernelSet
from seft_ref.layers.linear import Linear
from seft_ref.topology.csr import Topology
from seft_ref.update.delta import Base

LARGEST = 2.0**128 - 2.0**104
"""The largest scale of an adapter, that of float32 (ADP-009.2): beyond it 0 times the scale would be NaN."""


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """A weight that is not trained: packed for products, and with topology and values for work on its support."""

    linear: Linear
    topology: Topology
    values: Float[Array, " nnz"]


def frozen(
    topology: Topology, values: Float[Array, " nnz"], kernels: KernelSet, bias: Float[Array, " out"] | None = None
) -> Frozen:
    """Return the weight that stores values at the slots of a topology, packed by a kernel set."""
    return Frozen(Linear(kernels.pack(topology, values), bias), topology, values)


def uniform_factor(rows: int, n_in: int, seed: int, matrix: int, like: Array) -> Float[Array, "rows in_"]:
    """Return the initial A: uniform between ±1/√in, in the dtype and on the device of `like` (ADP-002)."""
    xp = array_namespace(like)
    # ADP-002: computed in binary64 and rounded once
    draws = uniform(counter_key(seed, STREAM_FACTORS, matrix), range(rows * n_in))
    start = (2.0 * draws - 1.0) / math.sqrt(max(n_in, 1))
    rounded = start.reshape(rows, n_in).astype(f"float{xp.finfo(like.dtype).bits}")
    return from_numpy(rounded, like)


def check_scale(alpha: float, rank: int) -> None:
    """Refuse a rank or an alpha that gives no scale alpha / rank.

    Raises:
        AdapterError: ADP-009 if rank is below 1 or alpha is not a positive finite number.
    """
    # ADP-009
    if rank < 1:
        raise AdapterError("ADP-009", f"rank is {rank}, must be at least 1")
    if not 0 < alpha < math.inf:
        raise AdapterError("ADP-009", f"alpha is {alpha}, must be a positive finite number; the scale is alpha / rank")
    if alpha / rank > LARGEST:
        raise AdapterError("ADP-009", f"alpha / rank is {alpha / rank}, beyond float32; choose a smaller alpha")


def check_factors(base: Frozen | Base, factors: Mapping[str, tuple[Array, tuple[int, ...]]]) -> None:
    """Refuse factors that do not fit the base; each comes with the shape that it should have.

    Raises:
        AdapterError: ADP-009 for the first one of another shape, dtype or device.
    """
    n_out, n_in = base.topology.shape
    for name, (factor, shape) in factors.items():
        # ADP-009
        if tuple(factor.shape) != shape:
            raise AdapterError(
                "ADP-009", f"{name} has shape {tuple(factor.shape)}, beside a {n_out}x{n_in} weight it needs {shape}"
            )
        if factor.dtype != base.values.dtype or device(factor) != device(base.values):
            raise AdapterError(
                "ADP-009",
                f"{name} is {factor.dtype} on {device(factor)}, the weight {base.values.dtype} on "
                f"{device(base.values)}; convert one of them first",
            )


def transposed(x: Float[Array, "n m"]) -> Float[Array, "m n"]:
    """Return xᵀ as a contiguous array, because compiled kernels take no other."""
    xp = array_namespace(x)
    return xp.reshape(xp.reshape(xp.matrix_transpose(x), (-1,)), (x.shape[1], x.shape[0]))
