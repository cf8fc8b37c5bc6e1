"""SparsePEFT: LoRA at the stored positions only, y = x (W + D)ᵀ + bias with D = s B A on the support (ADP-007).

The factors, their initial values and their number are LoRA's (`lora.Lora`, `lora.lora_initial`). B A and the gradient
dyᵀ x are evaluated at the stored positions only, as values of a matrix that is then packed.
"""

from dataclasses import dataclass

from jaxtyping import Float

from seft_ref.adapters.frozen import Frozen, transposed
from seft_ref.adapters.lora import Lora, check_lora
from seft_ref.arrays.library import Array, array_namespace
from seft_ref.kernels import KernelSet
from seft_ref.layers.linear import Linear, LinearCache, WeightGradient, linear_backward, linear_forward
from seft_ref.topology.csr import Topology


@dataclass(frozen=True, slots=True, eq=False)
class SparsePeftCache:
    """Caches of a forward that `sparsepeft_backward` needs."""

    linear: LinearCache
    change: LinearCache
    topology: Topology
    lora: Lora


def sparsepeft_forward(
    x: Float[Array, "*n in_"], base: Frozen, lora: Lora, kernels: KernelSet
) -> tuple[Float[Array, "*n out"], SparsePeftCache]:
    """Return x (W + D)ᵀ + bias, and the cache (ADP-007).

    Raises:
        AdapterError: ADP-009 if the factors do not fit the base.
    """
    check_lora(base, lora)
    y, linear = linear_forward(x, base.linear, kernels)
    d = kernels.pack(base.topology, sparsepeft_change(base.topology, lora, kernels))
    more, change = linear_forward(x, Linear(d), kernels)
    return y + more, SparsePeftCache(linear, change, base.topology, lora)


def sparsepeft_backward(
    dy: Float[Array, "*n out"], cache: SparsePeftCache
) -> tuple[Float[Array, "*n in_"], Float[Array, "rank in_"], Float[Array, "out rank"]]:
    """Return (dx, da, db), from the gradient of D at the stored positions (ADP-007)."""
    # forward: y = y + more, more = x @ Dᵀ
    dx, gradient, _ = linear_backward(dy, cache.linear)
    dx_more, _, _ = linear_backward(dy, cache.change)
    return dx + dx_more, *sparsepeft_gradients(gradient, cache.topology, cache.lora, cache.change.kernels)


def sparsepeft_gradients(
    gradient: WeightGradient, topology: Topology, lora: Lora, kernels: KernelSet
) -> tuple[Float[Array, "rank in_"], Float[Array, "out rank"]]:
    """Return (da, db), from the factors of the gradient of the weight that they change (ADP-007)."""
    # forward: D = s · (B @ A) on the support
    stored = kernels.pack(topology, lora.scale * kernels.sample(gradient.dy, gradient.x, topology))
    db = array_namespace(lora.a).matrix_transpose(kernels.matmul(lora.a, stored))
    return kernels.matmul_transposed(transposed(lora.b), stored), db


def sparsepeft_merge(base: Frozen, lora: Lora, kernels: KernelSet) -> Float[Array, " nnz"]:
    """Return the values of W + D on the base's topology (ADP-008).

    Raises:
        AdapterError: ADP-009 if the factors do not fit the base.
    """
    check_lora(base, lora)
    # ADP-008
    return base.values + sparsepeft_change(base.topology, lora, kernels)


def sparsepeft_change(topology: Topology, lora: Lora, kernels: KernelSet) -> Float[Array, " nnz"]:
    """Return s Σ_k B[o, k] A[k, i] in slot order, stored zeros included (ADP-007)."""
    # sample(dy, x) gives entries of dyᵀ x, so with Bᵀ as dy and A as x it gives entries of B A
    return lora.scale * kernels.sample(transposed(lora.b), lora.a, topology)
