"""The decoder: forward and backward of each half of a block, of a block and of the model (MDL-001).

A backward goes through the lines of its forward in reverse order. Gradients have the names of their parameters. They
are yielded one by one, last layer first, so that a caller keeps only those that it wants.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.kernels import KernelSet
from seft_ref.layers.attention import AttentionCache, visible_keys
from seft_ref.layers.attention_blocks import WHOLE, BlockwiseCache, Sight, blockwise_backward, blockwise_forward
from seft_ref.layers.embedding import EmbeddingCache, EmbeddingGradient, embedding_backward, embedding_forward
from seft_ref.layers.linear import Linear, LinearCache, WeightGradient, linear_backward, linear_forward
from seft_ref.layers.past import Past, extend
from seft_ref.layers.rmsnorm import RmsNormCache
from seft_ref.layers.rope import RopeTable, rope_table
from seft_ref.layers.sets import LayerSet, layers_of
from seft_ref.layers.swiglu import SwigluCache
from seft_ref.model.config import ModelConfig, block_prefix
from seft_ref.model.weights import Block, Weights

NamedGradient = tuple[str, WeightGradient | EmbeddingGradient | Array]
"""A parameter's name and its gradient: factors for a matrix, rows for a table, an array for a norm or a bias."""


@dataclass(frozen=True, slots=True, eq=False)
class SelfAttentionCache:
    """Caches of the attention half of a block for its backward, in the order of the forward."""

    q_proj: LinearCache
    k_proj: LinearCache
    v_proj: LinearCache
    q_norm: RmsNormCache | None
    k_norm: RmsNormCache | None
    rope: RopeTable
    attention: AttentionCache | BlockwiseCache
    o_proj: LinearCache
    past: Past | None
    """keys and values of all tokens so far, these included; None in training, which keeps no context"""


@dataclass(frozen=True, slots=True, eq=False)
class MlpCache:
    """Caches of the MLP half of a block for its backward."""

    gate_proj: LinearCache
    up_proj: LinearCache
    swiglu: SwigluCache
    down_proj: Linear
    """the layer alone, because its input is as large as gate and the backward can recompute it from gate and up"""


@dataclass(frozen=True, slots=True, eq=False)
class BlockCache:
    """Caches of a block for its backward."""

    input_layernorm: RmsNormCache
    self_attn: SelfAttentionCache
    post_attention_layernorm: RmsNormCache
    mlp: MlpCache


@dataclass(frozen=True, slots=True, eq=False)
class BlockInput:
    """The arguments of a block's forward, kept in place of its cache, which they recompute bit for bit (MDL-008)."""

    x: Float[Array, "B T C"]
    block: Block
    config: ModelConfig
    layer: int
    around: "Surroundings"
    kernels: KernelSet

    def cache(self) -> BlockCache:
        """Return the cache of the block, from a second forward."""
        _, cache = block_forward(self.x, self.block, self.config, self.layer, self.around, self.kernels)
        return cache


@dataclass(frozen=True, slots=True, eq=False)
class DecoderCache:
    """Caches of a forward up to the last norm, for `decoder_backward`."""

    embed_tokens: EmbeddingCache
    blocks: tuple[BlockCache | BlockInput, ...]
    norm: RmsNormCache
    layers: LayerSet


@dataclass(frozen=True, slots=True, eq=False)
class ModelCache:
    """Caches of a whole forward, for `model_backward`."""

    decoder: DecoderCache
    lm_head: LinearCache


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """RoPE angles, and the keys that each query sees under each window; all blocks of a forward share them."""

    rope: RopeTable
    visible: dict[int | None, Bool[Array, "M T S"] | Sight]


def surroundings(
    config: ModelConfig, length: int, mask: Bool[Array, "B S"] | None, like: Float[Array, "..."], first: int = 0
) -> Surroundings:
    """Return angles and masks for the tokens `first` to `length` − 1, in the dtype and on the device of `like`.

    mask  (B, S), True for tokens and False for padding; None if nothing is padded
    """
    rope = rope_table(config.rope, config.head_dim, length, config.max_position_embeddings, like, first)
    windows = set(config.windows)
    # LYR-013: no (T, S) mask is held for a long sequence, so compute it for some queries at a time
    if length - first > WHOLE:
        return Surroundings(rope, {window: Sight(length, window, mask, like, first) for window in windows})
    return Surroundings(rope, {window: visible_keys(length, window, mask, like, first) for window in windows})


def self_attention_forward(
    x: Float[Array, "B T C"],
    block: Block,
    config: ModelConfig,
    layer: int,
    around: Surroundings,
    kernels: KernelSet,
    past: Past | None = None,
) -> tuple[Float[Array, "B T C"], SelfAttentionCache]:
    """Return the output of the attention half, before the residual sum, and its cache.

    past  keys and values of the tokens before x, in generation
    """
    layers = layers_of(kernels)
    q, q_proj = linear_forward(x, block.q_proj, kernels)
    k, k_proj = linear_forward(x, block.k_proj, kernels)
    v, v_proj = linear_forward(x, block.v_proj, kernels)
    q, k, v = (_split_heads(part, config.head_dim) for part in (q, k, v))
    q_norm = k_norm = None
    if block.q_norm is not None:
        q, q_norm = layers.rmsnorm_forward(q, block.q_norm, config.rms_norm_eps)
    if block.k_norm is not None:
        k, k_norm = layers.rmsnorm_forward(k, block.k_norm, config.rms_norm_eps)
    q, rope = layers.rope_forward(q, around.rope)
    k, _ = layers.rope_forward(k, around.rope)
    # GEN-001
    if past is not None:
        past = extend(past, k, v)
        k, v = past.keys, past.values
    y, attention = _attend(q, k, v, around.visible[config.windows[layer]], layers)
    y = _join_heads(y)
    y, o_proj = linear_forward(y, block.o_proj, kernels)
    return y, SelfAttentionCache(q_proj, k_proj, v_proj, q_norm, k_norm, rope, attention, o_proj, past)


def self_attention_backward(
    dy: Float[Array, "B T C"], cache: SelfAttentionCache, prefix: str
) -> tuple[Float[Array, "B T C"], list[NamedGradient]]:
    """Return (dx, gradients); keys and values of a past get no gradient."""
    layers = layers_of(cache.q_proj.kernels)
    gradients: list[NamedGradient] = []
    dy = _linear_backward(dy, cache.o_proj, f"{prefix}.o_proj", gradients)
    dy = _split_heads(dy, cache.attention.q.shape[-1])
    dq, dk, dv = _attend_backward(dy, cache.attention, layers)
    # the forward put the past before k and v; a past gets no gradient, so only the last T entries are kept
    dk, dv = (part[:, :, part.shape[2] - dq.shape[2] :, :] for part in (dk, dv))
    dk = layers.rope_backward(dk, cache.rope)
    dq = layers.rope_backward(dq, cache.rope)
    if cache.k_norm is not None:
        dk, dweight = layers.rmsnorm_backward(dk, cache.k_norm)
        gradients.append((f"{prefix}.k_norm.weight", dweight))
    if cache.q_norm is not None:
        dq, dweight = layers.rmsnorm_backward(dq, cache.q_norm)
        gradients.append((f"{prefix}.q_norm.weight", dweight))
    dq, dk, dv = (_join_heads(part) for part in (dq, dk, dv))
    dx_v = _linear_backward(dv, cache.v_proj, f"{prefix}.v_proj", gradients)
    dx_k = _linear_backward(dk, cache.k_proj, f"{prefix}.k_proj", gradients)
    dx_q = _linear_backward(dq, cache.q_proj, f"{prefix}.q_proj", gradients)
    return dx_q + dx_k + dx_v, gradients


def mlp_forward(x: Float[Array, "B T C"], block: Block, kernels: KernelSet) -> tuple[Float[Array, "B T C"], MlpCache]:
    """Return the output of the MLP half, before the residual sum, and its cache."""
    gate, gate_proj = linear_forward(x, block.gate_proj, kernels)
    up, up_proj = linear_forward(x, block.up_proj, kernels)
    y, swiglu = layers_of(kernels).swiglu_forward(gate, up)
    y, _ = linear_forward(y, block.down_proj, kernels)
    return y, MlpCache(gate_proj, up_proj, swiglu, block.down_proj)


def mlp_backward(
    dy: Float[Array, "B T C"], cache: MlpCache, prefix: str
) -> tuple[Float[Array, "B T C"], list[NamedGradient]]:
    """Return (dx, gradients)."""
    layers = layers_of(cache.gate_proj.kernels)
    gradients: list[NamedGradient] = []
    y, swiglu = layers.swiglu_again(cache.swiglu)
    down_proj = LinearCache(y, cache.down_proj, cache.gate_proj.kernels)
    dy = _linear_backward(dy, down_proj, f"{prefix}.down_proj", gradients)
    dgate, dup = layers.swiglu_backward(dy, swiglu)
    dx_up = _linear_backward(dup, cache.up_proj, f"{prefix}.up_proj", gradients)
    dx_gate = _linear_backward(dgate, cache.gate_proj, f"{prefix}.gate_proj", gradients)
    return dx_gate + dx_up, gradients


def block_forward(
    x: Float[Array, "B T C"],
    block: Block,
    config: ModelConfig,
    layer: int,
    around: Surroundings,
    kernels: KernelSet,
    past: Past | None = None,
) -> tuple[Float[Array, "B T C"], BlockCache]:
    """Return the output of a block and its cache (MDL-001).

    past  keys and values of the tokens before x, in generation
    """
    layers = layers_of(kernels)
    normed, input_layernorm = layers.rmsnorm_forward(x, block.input_layernorm, config.rms_norm_eps)
    attended, self_attn = self_attention_forward(normed, block, config, layer, around, kernels, past)
    h = x + attended
    normed, post_attention_layernorm = layers.rmsnorm_forward(h, block.post_attention_layernorm, config.rms_norm_eps)
    inner, mlp = mlp_forward(normed, block, kernels)
    return h + inner, BlockCache(input_layernorm, self_attn, post_attention_layernorm, mlp)


def block_backward(
    dy: Float[Array, "B T C"], cache: BlockCache, prefix: str
) -> tuple[Float[Array, "B T C"], list[NamedGradient]]:
    """Return (dx, gradients)."""
    layers = layers_of(cache.mlp.gate_proj.kernels)
    # forward: y = h + inner
    dnormed, gradients = mlp_backward(dy, cache.mlp, f"{prefix}.mlp")
    dh, dweight = layers.rmsnorm_backward(dnormed, cache.post_attention_layernorm)
    gradients.append((f"{prefix}.post_attention_layernorm.weight", dweight))
    dh = dh + dy
    # forward: h = x + attended
    dnormed, more = self_attention_backward(dh, cache.self_attn, f"{prefix}.self_attn")
    dx, dweight = layers.rmsnorm_backward(dnormed, cache.input_layernorm)
    more.append((f"{prefix}.input_layernorm.weight", dweight))
    return dx + dh, gradients + more


def decoder_forward(
    tokens: Int[Array, "B T"],
    weights: Weights,
    config: ModelConfig,
    kernels: KernelSet,
    mask: Bool[Array, "B T"] | None = None,
    *,
    recompute: bool = False,
) -> tuple[Float[Array, "B T C"], DecoderCache]:
    """Return the output of the last norm at every position, and the cache (MDL-001).

    Shapes     mask (B, T), True for tokens and False for padding; None if nothing is padded
    Dtypes     tokens int64; the result the dtype of the weights
    recompute  keep the input of each block only, and let the backward compute the rest again (MDL-008)
    Raises     LayerError LYR-001 for a token outside the vocabulary
    """
    x, embed_tokens, around = _embedded(tokens, weights, config, mask)
    blocks: list[BlockCache | BlockInput] = []
    for layer, block in enumerate(weights.blocks):
        before = BlockInput(x, block, config, layer, around, kernels)
        x, cache = block_forward(x, block, config, layer, around, kernels)
        blocks.append(before if recompute else cache)
        del before, cache
    layers = layers_of(kernels)
    x, norm = layers.rmsnorm_forward(x, weights.norm, config.rms_norm_eps)
    return x, DecoderCache(embed_tokens, tuple(blocks), norm, layers)


def _embedded(
    tokens: Int[Array, "B T"], weights: Weights, config: ModelConfig, mask: Bool[Array, "B T"] | None
) -> tuple[Float[Array, "B T C"], EmbeddingCache, Surroundings]:
    """Return the embedded tokens with their cache, and the surroundings of the blocks."""
    xp = array_namespace(tokens)
    x, cache = embedding_forward(xp.reshape(tokens, (-1,)), weights.embed_tokens)
    return xp.reshape(x, (*tokens.shape, -1)), cache, surroundings(config, tokens.shape[1], mask, weights.norm)


def decoder_output(
    tokens: Int[Array, "B T"],
    weights: Weights,
    config: ModelConfig,
    kernels: KernelSet,
    mask: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T C"]:
    """Return the same bits as `decoder_forward`, without a cache, so that only one block's arrays are alive at a time.

    Shapes, dtypes and errors are those of `decoder_forward`.
    """
    x, _, around = _embedded(tokens, weights, config, mask)
    for layer, block in enumerate(weights.blocks):
        x, cache = block_forward(x, block, config, layer, around, kernels)
        del cache  # free it before the next block computes its own
    x, _ = layers_of(kernels).rmsnorm_forward(x, weights.norm, config.rms_norm_eps)
    return x


def decoder_backward(dx: Float[Array, "B T C"], cache: DecoderCache) -> Iterator[NamedGradient]:
    """Yield the gradient of every parameter but lm_head's, from the last layer to the first."""
    xp = array_namespace(dx)
    embed_tokens, blocks = cache.embed_tokens, list(cache.blocks)
    dx, dnorm = cache.layers.rmsnorm_backward(dx, cache.norm)
    del cache  # drop this reference, so that the cache of each block is freed once it is used
    yield "model.norm.weight", dnorm
    while blocks:
        block_cache = blocks.pop()
        dx, gradients = block_backward(
            dx, block_cache.cache() if isinstance(block_cache, BlockInput) else block_cache, block_prefix(len(blocks))
        )
        del block_cache
        yield from gradients
        del gradients
    dx = xp.reshape(dx, (-1, dx.shape[-1]))
    yield "model.embed_tokens.weight", embedding_backward(dx, embed_tokens)


def model_forward(
    tokens: Int[Array, "B T"],
    weights: Weights,
    config: ModelConfig,
    kernels: KernelSet,
    mask: Bool[Array, "B T"] | None = None,
    *,
    recompute: bool = False,
) -> tuple[Float[Array, "B T V"], ModelCache]:
    """Return the logits of every position, and the cache (MDL-001); arguments are those of `decoder_forward`."""
    x, decoder = decoder_forward(tokens, weights, config, kernels, mask, recompute=recompute)
    logits, lm_head = linear_forward(x, weights.lm_head, kernels)
    return logits, ModelCache(decoder, lm_head)


def model_backward(dlogits: Float[Array, "B T V"], cache: ModelCache) -> Iterator[NamedGradient]:
    """Yield every parameter's gradient, from the last layer to the first.

    With tied embeddings both lm_head.weight and model.embed_tokens.weight are yielded; the gradient of the table is
    their sum (MDL-005).
    """
    dx, dweight, _ = linear_backward(dlogits, cache.lm_head)
    yield "lm_head.weight", dweight
    yield from decoder_backward(dx, cache.decoder)


def _linear_backward(dy: Any, cache: LinearCache, name: str, gradients: list[NamedGradient]) -> Any:
    """Return dx of a linear layer and append its gradients, under its name, to the list."""
    dx, dweight, dbias = linear_backward(dy, cache)
    gradients.append((f"{name}.weight", dweight))
    if dbias is not None:
        gradients.append((f"{name}.bias", dbias))
    return dx


def _attend(q: Any, k: Any, v: Any, visible: Any, layers: LayerSet) -> tuple[Any, AttentionCache | BlockwiseCache]:
    """Return the output of attention and its cache, computed in blocks for a long sequence (LYR-013)."""
    if isinstance(visible, Sight):
        return blockwise_forward(q, k, v, visible, layers)
    return layers.attention_forward(q, k, v, visible)


def _attend_backward(dy: Any, cache: AttentionCache | BlockwiseCache, layers: LayerSet) -> tuple[Any, Any, Any]:
    """Return (dq, dk, dv)."""
    if isinstance(cache, BlockwiseCache):
        return blockwise_backward(dy, cache, layers)
    return layers.attention_backward(dy, cache)


def _split_heads(x: Float[Array, "B T HD"], head_dim: int) -> Float[Array, "B H T D"]:
    xp = array_namespace(x)
    b, t, _ = x.shape
    return xp.permute_dims(xp.reshape(x, (b, t, -1, head_dim)), (0, 2, 1, 3))


def _join_heads(x: Float[Array, "B H T D"]) -> Float[Array, "B T HD"]:
    xp = array_namespace(x)
    b, _, t, _ = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (b, t, -1))
