"""RMSNorm: y = x · r · weight with r = 1 / sqrt(mean(x²) + eps) over the last axis (LYR-002, LYR-015)."""

from dataclasses import dataclass

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace, overflow_allowed
from seft_ref.errors import LayerOverflow


@dataclass(frozen=True, slots=True, eq=False)
class RmsNormCache:
    """Arrays of a forward that `rmsnorm_backward` needs."""

    x: Float[Array, "*n C"]
    weight: Float[Array, " C"]
    r: Float[Array, "*n 1"]
    """1 / sqrt(mean(x²) + eps)"""


def rmsnorm_forward(
    x: Float[Array, "*n C"], weight: Float[Array, " C"], eps: float
) -> tuple[Float[Array, "*n C"], RmsNormCache]:
    """Return x scaled to unit mean square and by weight, and the cache (LYR-002).

    Raises:
        LayerOverflow: LYR-015 if the mean square of a row is NaN or infinite, or if it and eps are 0.
    """
    xp = array_namespace(x, weight)
    with overflow_allowed():
        r = 1.0 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    # LYR-015: r is 0 where x² overflows, and then y would be 0 too
    if not bool(xp.all((r > 0) & xp.isfinite(r))):
        raise LayerOverflow("LYR-015", f"the mean square of a row of RMSNorm is beyond what {x.dtype} holds")
    return x * r * weight, RmsNormCache(x, weight, r)


def rmsnorm_backward(dy: Float[Array, "*n C"], cache: RmsNormCache) -> tuple[Float[Array, "*n C"], Float[Array, " C"]]:
    """Return (dx, dweight)."""
    xp = array_namespace(dy, cache.x)
    normed = cache.x * cache.r
    # forward: y = normed * weight
    dnormed = dy * cache.weight
    dweight = xp.sum(dy * normed, axis=tuple(range(dy.ndim - 1)))
    # forward: normed = x * r, r = 1 / sqrt(mean(x * x) + eps)
    dx = cache.r * (dnormed - normed * xp.mean(dnormed * normed, axis=-1, keepdims=True))
    return dx, dweight
