"""RoPE: each pair (j, j + D/2) of a head is rotated by an angle that grows with the position (LYR-004 to LYR-006)."""

import math
from dataclasses import dataclass

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace, device


@dataclass(frozen=True, slots=True)
class Rope:
    """Settings of a rotary position embedding (LYR-004 to LYR-006); fields that `kind` does not use are 0."""

    kind: str
    theta: float
    factor: float = 0.0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    original_max_position_embeddings: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class RopeTable:
    """Cosine and sine of every angle, rounded once from binary64."""

    cos: Float[Array, "T half"]
    sin: Float[Array, "T half"]


def rope_frequencies(rope: Rope, head_dim: int, length: int, max_positions: int) -> list[float]:
    """Return the D/2 frequencies for a sequence of `length` tokens, in binary64 (LYR-005, LYR-006)."""
    base = rope.theta
    if rope.kind == "dynamic":
        longest = max(length, max_positions)
        base *= (rope.factor * longest / max_positions - (rope.factor - 1.0)) ** (head_dim / (head_dim - 2))
    frequencies = [base ** (-2.0 * j / head_dim) for j in range(head_dim // 2)]
    if rope.kind == "linear":
        return [f / rope.factor for f in frequencies]
    if rope.kind == "llama3":
        return [_llama3(rope, f) for f in frequencies]
    return frequencies


def _llama3(rope: Rope, frequency: float) -> float:
    """Return a frequency of type llama3, which depends on its wavelength (LYR-006)."""
    turns = rope.original_max_position_embeddings * frequency / (2.0 * math.pi)
    if turns > rope.high_freq_factor:
        return frequency
    if turns < rope.low_freq_factor:
        return frequency / rope.factor
    m = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1.0 - m) * frequency / rope.factor + m * frequency


def rope_table(
    rope: Rope, head_dim: int, length: int, max_positions: int, like: Float[Array, "..."], first: int = 0
) -> RopeTable:
    """Return the table for positions `first` to length − 1 in the dtype and on the device of `like` (LYR-004)."""
    xp = array_namespace(like)
    frequencies = rope_frequencies(rope, head_dim, length, max_positions)
    angles = [[position * f for f in frequencies] for position in range(first, length)]
    cos = xp.asarray([[math.cos(a) for a in row] for row in angles], dtype=like.dtype, device=device(like))
    sin = xp.asarray([[math.sin(a) for a in row] for row in angles], dtype=like.dtype, device=device(like))
    # a list without rows has no columns
    return RopeTable(*(xp.reshape(x, (len(angles), len(frequencies))) for x in (cos, sin)))


def rope_forward(x: Float[Array, "*heads T D"], table: RopeTable) -> tuple[Float[Array, "*heads T D"], RopeTable]:
    """Return x with every head rotated by the angles of its positions, and the table as the cache (LYR-004)."""
    xp = array_namespace(x)
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return xp.concat([first * table.cos - second * table.sin, second * table.cos + first * table.sin], axis=-1), table


def rope_backward(dy: Float[Array, "*heads T D"], cache: RopeTable) -> Float[Array, "*heads T D"]:
    """Return dx: dy rotated back, because the transpose of a rotation is its inverse (LYR-004)."""
    xp = array_namespace(dy)
    half = dy.shape[-1] // 2
    first, second = dy[..., :half], dy[..., half:]
    # forward: y = concat(first * cos - second * sin, second * cos + first * sin)
    return xp.concat([first * cache.cos + second * cache.sin, second * cache.cos - first * cache.sin], axis=-1)
