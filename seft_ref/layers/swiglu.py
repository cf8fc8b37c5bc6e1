"""SwiGLU: y = silu(gate) · up with silu(z) = z / (1 + exp(−z)) (LYR-010)."""

from dataclasses import dataclass

from jaxtyping import Float

from seft_ref.arrays import Array, array_namespace


@dataclass(frozen=True, slots=True, eq=False)
class SwigluCache:
    """What the backward needs."""

    gate: Float[Array, "*n F"]
    up: Float[Array, "*n F"]


def swiglu_forward(gate: Float[Array, "*n F"], up: Float[Array, "*n F"]) -> tuple[Float[Array, "*n F"], SwigluCache]:
    """Return silu(gate) · up, and the cache (LYR-010)."""
    return gate * _sigmoid(gate) * up, SwigluCache(gate, up)


def swiglu_backward(dy: Float[Array, "*n F"], cache: SwigluCache) -> tuple[Float[Array, "*n F"], Float[Array, "*n F"]]:
    """Return (dgate, dup)."""
    sigmoid = _sigmoid(cache.gate)
    # forward: y = silu * up
    dup = dy * (cache.gate * sigmoid)
    dsilu = dy * cache.up
    # forward: silu = gate * sigmoid(gate), sigmoid' = sigmoid * (1 - sigmoid)
    return dsilu * (sigmoid * (1.0 + cache.gate * (1.0 - sigmoid))), dup


def _sigmoid(z: Float[Array, "*n F"]) -> Float[Array, "*n F"]:
    """Return 1 / (1 + exp(−z)) without overflow: exp only sees numbers up to 0."""
    xp = array_namespace(z)
    e = xp.exp(-xp.abs(z))
    return xp.where(z >= 0, xp.ones_like(e), e) / (1.0 + e)
