"""LoRA: y = x Wᵀ + bias + s (x Aᵀ) Bᵀ with s = alpha / rank (ADP-001). LoRA* prunes the merged weight (ADP-005)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float

from seft_ref.adapters.frozen import Frozen, check_factors, check_scale, uniform_factor
from seft_ref.arrays.library import Array, array_namespace, device, spread
from seft_ref.errors import AdapterError
from seft_ref.kernels import KernelSet
from seft_ref.layers.linear import LinearCache, LowRank, WeightGradient, linear_backward, linear_forward
from seft_ref.topology.csr import Topology, flat, from_flat
from seft_ref.update.delta import Base

Keep = Callable[[Float[Array, "out in_"]], Bool[Array, "out in_"]]
"""A function from a merged weight to the mask of the weights that stay: a pruner with its other arguments bound."""


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """The factors A and B of a change s B A of low rank."""

    a: Float[Array, "rank in_"]
    b: Float[Array, "out rank"]
    alpha: float

    @property
    def scale(self) -> float:
        """The factor alpha / rank of the change."""
        return self.alpha / self.a.shape[0]

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters, rank · (in + out)."""
        return int(self.a.shape[0] * (self.a.shape[1] + self.b.shape[0]))

    def change(self) -> LowRank:
        """Return the change in the form that a linear layer takes."""
        return LowRank(self.a, self.b, self.scale)


def lora_initial(shape: tuple[int, int], *, rank: int, alpha: float, seed: int, matrix: int, like: Array) -> Lora:
    """Return factors that change no weight yet (ADP-003), in the dtype and on the device of `like` (ADP-002).

    Raises:
        AdapterError: ADP-009 for a rank or an alpha that gives no scale.
    """
    check_scale(alpha, rank)
    n_out, n_in = shape
    zero = array_namespace(like).zeros((n_out, rank), dtype=like.dtype, device=device(like))
    return Lora(uniform_factor(rank, n_in, seed, matrix, like), zero, alpha)


def lora_forward(
    x: Float[Array, "*n in_"], base: Frozen, lora: Lora, kernels: KernelSet
) -> tuple[Float[Array, "*n out"], LinearCache]:
    """Return x Wᵀ + bias + s (x Aᵀ) Bᵀ, and the cache (ADP-001).

    Raises:
        AdapterError: ADP-009 if the factors do not fit the base.
    """
    check_lora(base, lora)
    return linear_forward(x, replace(base.linear, beside=lora.change()), kernels)


def lora_backward(
    dy: Float[Array, "*n out"], cache: LinearCache
) -> tuple[Float[Array, "*n in_"], Float[Array, "rank in_"], Float[Array, "out rank"]]:
    """Return (dx, da, db)."""
    assert cache.linear.beside is not None, "a cache of lora_forward has factors"
    dx, gradient, _ = linear_backward(dy, cache)
    return dx, *lora_gradients(gradient, cache.linear.beside)


def lora_gradients(
    gradient: WeightGradient, change: LowRank
) -> tuple[Float[Array, "rank in_"], Float[Array, "out rank"]]:
    """Return (da, db), from the factors of the gradient of the weight that they change (ADP-001)."""
    xp = array_namespace(gradient.dy)
    # forward: u = x @ Aᵀ, y = y + s · (u @ Bᵀ)
    u = gradient.x @ xp.matrix_transpose(change.a)
    du = change.scale * (gradient.dy @ change.b)
    return xp.matrix_transpose(du) @ gradient.x, change.scale * (xp.matrix_transpose(gradient.dy) @ u)


def lora_merge(base: Frozen | Base, lora: Lora) -> Float[Array, "out in_"]:
    """Return W + s B A, a dense matrix (ADP-004).

    Raises:
        AdapterError: ADP-009 if the factors do not fit the base.
    """
    check_lora(base, lora)
    topology = base.topology
    weight = spread(base.values, flat(topology), topology.numel)
    # ADP-004
    return array_namespace(weight).reshape(weight, topology.shape) + lora.scale * (lora.b @ lora.a)


def lora_star(base: Frozen, lora: Lora, keep: Keep, *, patterned: bool) -> tuple[Topology, Float[Array, " nnz"]]:
    """Return the support and the values that are left when a pruner has pruned the merged weight (ADP-005).

    keep       the pruner, with the rule, rate and pattern that gave the base its support
    patterned  whether it prunes by a pattern

    Raises:
        AdapterError: ADP-005 if the merged weight is not finite, or as `kept_of_merged`; ADP-009 if the factors do not
            fit the base.
    """
    merged = lora_merge(base, lora)
    check_merged(merged)
    return kept_of_merged(base, merged, keep(merged), patterned=patterned)


def check_merged(merged: Float[Array, "out in_"]) -> None:
    """Refuse a merged weight that cannot be pruned (ADP-005)."""
    xp = array_namespace(merged)
    # ADP-005
    if not bool(xp.all(xp.isfinite(merged))):
        raise AdapterError("ADP-005", "the merged weight holds NaN or infinity; the training of its factors diverged")


def kept_of_merged(
    base: Frozen | Base, merged: Float[Array, "out in_"], mask: Bool[Array, "out in_"], *, patterned: bool
) -> tuple[Topology, Float[Array, " nnz"]]:
    """Return the support and the values of a merged weight at the positions where a mask is True (ADP-005).

    Raises:
        AdapterError: ADP-005 if there are fewer than the base stores, or more and the pruner has no pattern.
    """
    xp = array_namespace(merged)
    positions = xp.nonzero(xp.reshape(mask, (-1,)))[0]
    # the base stores fewer than N of M where a weight that its pruner kept is 0
    if positions.shape[0] < base.topology.nnz or (positions.shape[0] > base.topology.nnz and not patterned):
        raise AdapterError(
            "ADP-005",
            f"the pruner keeps {positions.shape[0]} weights, the base stores {base.topology.nnz}; prune by the rule, "
            "rate and pattern that the base was pruned by",
        )
    return from_flat(base.topology.shape, positions), xp.take(xp.reshape(merged, (-1,)), positions)


def check_lora(base: Frozen | Base, lora: Lora) -> None:
    """Refuse factors that do not fit the base (ADP-009)."""
    n_out, n_in = base.topology.shape
    rank = lora.a.shape[0]
    check_scale(lora.alpha, rank)
    check_factors(base, {"a": (lora.a, (rank, n_in)), "b": (lora.b, (n_out, rank))})
