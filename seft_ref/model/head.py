"""The product with lm_head and the loss, some rows at a time, so that a long batch's logits are never stored at once
(LYR-012).
"""

from itertools import pairwise

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.kernels import KernelSet
from seft_ref.layers.linear import Linear, linear_backward, linear_forward
from seft_ref.layers.sets import layers_of

LOGITS = 9 << 20
"""Most logits that are stored at once, unless LEAST_ROWS rows have more; the loss takes a few times their memory."""
LEAST_ROWS = 64
_TOGETHER = 16
"""Number of rows that dense products compute together; the rows of a part are a multiple of it."""


def head_loss(
    x: Float[Array, "B T C"], lm_head: Linear, targets: Int[Array, " N"], count: int, kernels: KernelSet
) -> float:
    """Return the sum of the losses of rows whose target is not −100, divided by count (LYR-011, LYR-012).

    Raises:
        LayerError: LYR-011 if count is not positive or a target is outside the vocabulary.
    """
    loss = 0.0
    for part, rows in _parts(x, targets, lm_head):
        logits, _ = linear_forward(part, lm_head, kernels)
        loss += float(layers_of(kernels).cross_entropy_forward(logits, rows, count)[0])
    return loss


def head_loss_and_gradient(
    x: Float[Array, "B T C"], lm_head: Linear, targets: Int[Array, " N"], count: int, kernels: KernelSet
) -> tuple[float, Float[Array, "B T C"]]:
    """Return the loss of `head_loss`, and its gradient by x (LYR-011, LYR-012).

    Raises:
        LayerError: LYR-011 if count is not positive or a target is outside the vocabulary.
    """
    layers = layers_of(kernels)
    loss, gradients = 0.0, []
    for part, rows in _parts(x, targets, lm_head):
        logits, cache = linear_forward(part, lm_head, kernels)
        of_part, loss_cache = layers.cross_entropy_forward(logits, rows, count)
        loss += float(of_part)
        dlogits = layers.cross_entropy_backward(array_namespace(of_part).ones_like(of_part), loss_cache)
        del logits, loss_cache
        gradients.append(linear_backward(dlogits, cache)[0])
        del dlogits
    xp = array_namespace(x)
    return loss, xp.reshape(xp.concat(gradients), x.shape)


def rows_at_once(n_rows: int, n_classes: int) -> int:
    """Return how many rows a part has; parts are of equal size, because the largest one decides the memory."""
    most = max(LEAST_ROWS, LOGITS // n_classes)
    each = -(-n_rows // max(1, -(-n_rows // most)))
    return min(n_rows, most, -(-each // _TOGETHER) * _TOGETHER)


def _parts(x: Array, targets: Array, lm_head: Linear) -> list[tuple[Array, Array]]:
    xp = array_namespace(x)
    x = xp.reshape(x, (-1, x.shape[-1]))
    n_rows = x.shape[0]
    n = max(1, rows_at_once(n_rows, lm_head.weight.shape[0]))
    # a batch without rows has one empty part, so that the loss still checks count and returns 0
    edges = [*range(0, max(n_rows, 1), n), n_rows]
    return [(x[i:j, :], targets[i:j]) for i, j in pairwise(edges)]
