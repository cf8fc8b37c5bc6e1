"""SwiGLU: y = silu(gate) · up with silu(z) = z / (1 + exp(−z)) (LYR-010)."""

from dataclasses import dataclass, replace

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace, overflow_allowed


@dataclass(frozen=True, slots=True, eq=False)
class SwigluCache:
    """Arrays of a forward that `swiglu_backward` needs."""

    gate: Float[Array, "*n F"]
    up: Float[Array, "*n F"]
    sigmoid: Float[Array, "*n F"] | None = None
    """of gate; None until `swiglu_again` has computed it"""


def swiglu_forward(gate: Float[Array, "*n F"], up: Float[Array, "*n F"]) -> tuple[Float[Array, "*n F"], SwigluCache]:
    """Return silu(gate) · up, and the cache (LYR-010)."""
    return gate * _sigmoid(gate) * up, SwigluCache(gate, up)


def swiglu_backward(dy: Float[Array, "*n F"], cache: SwigluCache) -> tuple[Float[Array, "*n F"], Float[Array, "*n F"]]:
    """Return (dgate, dup)."""
    sigmoid = _sigmoid(cache.gate) if cache.sigmoid is None else cache.sigmoid
    silu = cache.gate * sigmoid
    # forward: y = silu * up
    dup = dy * silu
    dsilu = dy * cache.up
    # forward: silu = gate * sigmoid(gate), sigmoid' = sigmoid * (1 - sigmoid)
    return dsilu * (sigmoid + silu * (1.0 - sigmoid)), dup


def swiglu_again(cache: SwigluCache) -> tuple[Float[Array, "*n F"], SwigluCache]:
    """Return y as the forward gave it, bit for bit, and a cache with the sigmoid, which spares the backward an exp."""
    sigmoid = _sigmoid(cache.gate)
    return cache.gate * sigmoid * cache.up, replace(cache, sigmoid=sigmoid)


def _sigmoid(z: Float[Array, "*n F"]) -> Float[Array, "*n F"]:
    """Return 1 / (1 + exp(−z)), and its limit 0 where exp overflows."""
    with overflow_allowed():
        return 1.0 / (1.0 + array_namespace(z).exp(-z))
