"""How many bytes the forward of a step keeps for its backward, and when a step recomputes them instead (MDL-008)."""

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.layers.attention_blocks import WHOLE
from seft_ref.model.config import ModelConfig

LARGE = 1 << 30
"""Bytes of activations above which a step keeps only the inputs of its blocks."""


def activation_bytes(config: ModelConfig, rows: int, length: int, itemsize: int, *, recompute: bool) -> int:
    """Return the most bytes that the blocks hold for the backward of rows x length tokens (MDL-008)."""
    tokens = rows * length
    inputs = config.num_hidden_layers * tokens * config.hidden_size * itemsize
    one_block = tokens * per_token(config, length) * itemsize
    # with recompute only the block whose backward runs has its whole cache; the others have their inputs
    return inputs + one_block if recompute else config.num_hidden_layers * one_block


def per_token(config: ModelConfig, length: int) -> int:
    """Return how many numbers a block keeps of each token."""
    residual, heads = config.hidden_size, config.num_attention_heads
    q, k = (config.projection_shape(name)[0] for name in ("q_proj", "k_proj"))
    # a norm keeps its input and one number a row; the products that follow keep its output
    normed = 2 * residual + 1
    qk_norms = q + k + heads + config.num_key_value_heads if config.qk_norm else 0
    # LYR-013: no scores are kept for a long sequence
    scores = heads * length if length <= WHOLE else 0
    attention = qk_norms + q + 2 * k + scores + q
    # the MLP keeps gate and up, because their product is cheap to compute again
    return normed + attention + normed + 2 * config.intermediate_size


def recomputes(config: ModelConfig, shape: tuple[int, ...], like: Array) -> bool:
    """Return whether a step on tokens of this shape, in the dtype of `like`, should recompute its blocks (MDL-008)."""
    rows, length = shape
    itemsize = array_namespace(like).finfo(like.dtype).bits // 8
    return activation_bytes(config, rows, length, itemsize, recompute=False) > LARGE
