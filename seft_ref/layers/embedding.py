"""Embedding: a row of a table for each token (LYR-001)."""

from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.errors import LayerError


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingCache:
    """Tokens of a forward and rows of its table, which `embedding_backward` needs."""

    tokens: Int[Array, " n"]
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingGradient:
    """The gradient of the table in two parts: row tokens[i] receives dy[i] (LYR-001)."""

    dy: Float[Array, "n C"]
    tokens: Int[Array, " n"]
    rows: int


def embedding_forward(
    tokens: Int[Array, " n"], weight: Float[Array, "V C"]
) -> tuple[Float[Array, "n C"], EmbeddingCache]:
    """Return row tokens[i] of the table for each i, and the cache (LYR-001).

    Raises:
        LayerError: LYR-001 for a token outside the table.
    """
    xp = array_namespace(tokens, weight)
    rows = weight.shape[0]
    # LYR-001
    if tokens.shape[0] and not 0 <= int(xp.min(tokens)) <= int(xp.max(tokens)) < rows:
        raise LayerError(
            "LYR-001",
            f"tokens run from {int(xp.min(tokens))} to {int(xp.max(tokens))}, the table has {rows} rows: "
            "tokenizer and model do not belong together",
        )
    return xp.take(weight, tokens, axis=0), EmbeddingCache(tokens, rows)


def embedding_backward(dy: Float[Array, "n C"], cache: EmbeddingCache) -> EmbeddingGradient:
    """Return the gradient of the table in two parts, not summed by token yet."""
    # forward: y = weight[tokens]
    return EmbeddingGradient(dy, cache.tokens, cache.rows)


def embedding_gradient(gradient: EmbeddingGradient) -> Float[Array, "V C"]:
    """Return the whole gradient of the table: dy summed by token (LYR-001), as a product with one-hot rows."""
    xp = array_namespace(gradient.dy, gradient.tokens)
    ids = xp.arange(gradient.rows, dtype=gradient.tokens.dtype, device=device(gradient.tokens))
    onehot = xp.astype(ids[:, None] == gradient.tokens[None, :], gradient.dy.dtype)
    return onehot @ gradient.dy
