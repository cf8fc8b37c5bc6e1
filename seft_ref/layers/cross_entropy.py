"""Cross-entropy: the mean of −log p(target) over the rows whose target is not −100 (LYR-011)."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from seft_ref.arrays.library import Array, array_namespace, device, with_values
from seft_ref.errors import LayerError

IGNORE = -100
"""Label of a position that the loss ignores."""


@dataclass(frozen=True, slots=True, eq=False)
class CrossEntropyCache:
    """Arrays of a forward that `cross_entropy_backward` needs."""

    logits: Float[Array, "N V"]
    logsumexp: Float[Array, "N 1"]
    targets: Int[Array, " N"]
    counted: Bool[Array, " N"]
    count: int


def checked_targets(
    logits: Float[Array, "N V"], targets: Int[Array, " N"], count: int
) -> tuple[Bool[Array, " N"], Int[Array, " N"]]:
    """Return which rows have a target other than −100, and the targets with 0 in the other rows.

    Raises:
        LayerError: LYR-011 if count is not positive or a target lies outside 0 … V − 1.
    """
    xp = array_namespace(logits, targets)
    # LYR-011
    if count < 1:
        raise LayerError("LYR-011", f"the count of targets is {count}; a step needs at least one")
    counted = targets != IGNORE
    safe = xp.where(counted, targets, xp.zeros_like(targets))
    if targets.shape[0] and not 0 <= int(xp.min(safe)) <= int(xp.max(safe)) < logits.shape[1]:
        raise LayerError(
            "LYR-011",
            f"targets run from {int(xp.min(safe))} to {int(xp.max(safe))}, there are {logits.shape[1]} classes",
        )
    return counted, safe


def cross_entropy_forward(
    logits: Float[Array, "N V"], targets: Int[Array, " N"], count: int
) -> tuple[Float[Array, ""], CrossEntropyCache]:
    """Return the sum of the losses of rows whose target is not −100, divided by count, and the cache (LYR-011).

    count is the number of such rows in the whole step, so that losses and gradients of its micro-batches add up.

    Raises:
        LayerError: LYR-011 if count is not positive or a target lies outside 0 … V − 1.
    """
    xp = array_namespace(logits, targets)
    counted, safe = checked_targets(logits, targets, count)
    largest = xp.max(logits, axis=1, keepdims=True)
    logsumexp = largest + xp.log(xp.sum(xp.exp(logits - largest), axis=1, keepdims=True))
    at_target = xp.take_along_axis(logits, safe[:, None], axis=1)
    losses = xp.where(counted, (logsumexp - at_target)[:, 0], xp.zeros_like(logsumexp[:, 0]))
    return xp.sum(losses) / count, CrossEntropyCache(logits, logsumexp, safe, counted, count)


def cross_entropy_backward(dloss: Float[Array, ""], cache: CrossEntropyCache) -> Float[Array, "N V"]:
    """Return dlogits, exactly 0 in rows whose target is −100."""
    xp = array_namespace(cache.logits)
    # forward: loss = sum(logsumexp - logits[target]) / count
    n, n_classes = cache.logits.shape
    softmax = xp.reshape(xp.exp(cache.logits - cache.logsumexp), (-1,))
    rows = xp.arange(n, dtype=xp.int64, device=device(cache.targets))
    at_target = rows * n_classes + xp.astype(cache.targets, xp.int64)
    softmax = with_values(softmax, at_target, xp.take(softmax, at_target) - 1.0)
    scale = xp.where(cache.counted, dloss / cache.count, xp.zeros_like(cache.logsumexp[:, 0]))[:, None]
    return xp.reshape(softmax, (n, n_classes)) * scale
