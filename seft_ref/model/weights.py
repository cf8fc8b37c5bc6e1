"""The weights of a model as the engine multiplies them, put together from named parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Float

from seft_ref.arrays.library import Array
from seft_ref.kernels import Packed
from seft_ref.layers.linear import Linear, LowRank
from seft_ref.model.config import ATTENTION, MLP, ModelConfig, block_prefix


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The weights of one block; fields are named as Hugging Face names the parameters."""

    input_layernorm: Float[Array, " C"]
    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    o_proj: Linear
    q_norm: Float[Array, " D"] | None
    k_norm: Float[Array, " D"] | None
    post_attention_layernorm: Float[Array, " C"]
    gate_proj: Linear
    up_proj: Linear
    down_proj: Linear


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The weights of a whole model. With tied embeddings lm_head is embed_tokens, packed (MDL-005)."""

    embed_tokens: Float[Array, "V C"]
    blocks: tuple[Block, ...]
    norm: Float[Array, " C"]
    lm_head: Linear
    limits: Mapping[str, float] = field(default_factory=dict)
    """target -> smallest magnitude that overflows the dtype of its file; targets without one are absent (CKP-010)"""


def assemble(config: ModelConfig, dense: Mapping[str, Array], packed: Mapping[str, Packed]) -> Weights:
    """Return the weights of a model from its named parameters.

    dense holds the embedding table, norms and biases by parameter name; packed holds every matrix of a linear
    layer, lm_head included.
    """
    return Weights(
        embed_tokens=dense["model.embed_tokens.weight"],
        blocks=tuple(block_of(config, layer, dense, packed) for layer in range(config.num_hidden_layers)),
        norm=dense["model.norm.weight"],
        lm_head=Linear(packed["lm_head.weight"]),
    )


def block_of(config: ModelConfig, layer: int, dense: Mapping[str, Array], packed: Mapping[str, Packed]) -> Block:
    """Return one block of a model from named parameters."""
    prefix = block_prefix(layer)
    linears = {
        projection: Linear(
            packed[f"{prefix}.{part}.{projection}.weight"], dense.get(f"{prefix}.{part}.{projection}.bias")
        )
        for part, projections in (("self_attn", ATTENTION), ("mlp", MLP))
        for projection in projections
    }
    return Block(
        input_layernorm=dense[f"{prefix}.input_layernorm.weight"],
        q_norm=dense.get(f"{prefix}.self_attn.q_norm.weight"),
        k_norm=dense.get(f"{prefix}.self_attn.k_norm.weight"),
        post_attention_layernorm=dense[f"{prefix}.post_attention_layernorm.weight"],
        **linears,
    )


def matrix_of(weights: Weights, name: str) -> Packed:
    """Return the packed weight of a projection by parameter name."""
    layer, projection = _address(name)
    return getattr(weights.blocks[layer], projection).weight


def with_matrices(weights: Weights, packed: Mapping[str, Packed]) -> Weights:
    """Return the weights with other matrices for some projections, which `packed` has by parameter name."""
    blocks = list(weights.blocks)
    for name, matrix in packed.items():
        layer, projection = _address(name)
        block = blocks[layer]
        blocks[layer] = replace(block, **{projection: replace(getattr(block, projection), weight=matrix)})
    return replace(weights, blocks=tuple(blocks))


def with_changes(weights: Weights, changes: Mapping[str, LowRank]) -> Weights:
    """Return the weights with low-rank changes added to some projections, by parameter name (ADP-001)."""
    blocks = list(weights.blocks)
    for name, change in changes.items():
        layer, projection = _address(name)
        linear = replace(getattr(blocks[layer], projection), beside=change)
        blocks[layer] = replace(blocks[layer], **{projection: linear})
    return replace(weights, blocks=tuple(blocks))


def _address(name: str) -> tuple[int, str]:
    """Return layer and projection of a parameter such as model.layers.3.mlp.up_proj.weight."""
    _, _, layer, _, projection, _ = name.split(".")
    return int(layer), projection
