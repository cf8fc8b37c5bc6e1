"""Tiny models of every family: config.json as a dict, random parameters, weights as the engine holds them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from seft_ref.kernels import reference
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights, assemble
from seft_ref.topology.csr import from_flat
from tests.backends import REFERENCE, Backend

# H/K = 2 and K = 2, so that the order in which heads share matters; F and V odd; D differs from everything
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 23,
    "hidden_size": 24,
    "intermediate_size": 13,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}
_QWEN2 = _LLAMA | {"model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}
_QWEN3 = _LLAMA | {"model_type": "qwen3", "head_dim": 10, "rms_norm_eps": 0.02, "rope_theta": 1000000.0}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA | {"num_key_value_heads": 4, "rms_norm_eps": 0.03},
    "llama-gqa": _LLAMA,
    "llama-linear": _LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "llama-dynamic": _LLAMA | {"max_position_embeddings": 5, "rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
    "llama-dynamic-short": _LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
    # wavelengths 6.3, 19.9, 62.8, 199: below 32/4, between, and beyond 32/1
    "llama3": _LLAMA
    | {
        "head_dim": 8,
        "rope_theta": 100.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama-attention-bias": _LLAMA | {"attention_bias": True},
    "llama-mlp-bias": _LLAMA | {"mlp_bias": True},
    "llama-tied": _LLAMA | {"tie_word_embeddings": True},
    "llama-head_dim": _LLAMA | {"head_dim": 10},
    "llama-mqa": _LLAMA | {"num_key_value_heads": 1},
    "smollm2": _LLAMA
    | {
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_theta": 100000.0,
        "num_hidden_layers": 3,
    },
    "deepseek-llm": _LLAMA | {"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "attention_bias": False},
    "mistral": _LLAMA | {"model_type": "mistral", "sliding_window": 3},
    "mistral-full": _LLAMA | {"model_type": "mistral", "sliding_window": None},
    "qwen2": _QWEN2
    | {"tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 3, "max_window_layers": 0},
    "qwen2-max_window_layers": _QWEN2
    | {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "qwen2-layer_types": _QWEN2
    | {
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 2,
        "max_window_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen3": _QWEN3,
    "qwen3-attention-bias": _QWEN3 | {"attention_bias": True, "tie_word_embeddings": True},
    "qwen3-sliding": _QWEN3 | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
}

TOKENS_SHAPE = (3, 7)


def parameters_of(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Return random parameters by name, float32 numbers in float64, of sizes at which every one matters."""
    rng = np.random.default_rng(seed)
    named = {}
    for name, shape in config.parameters().items():
        noise = rng.standard_normal(shape)
        if "norm" in name:
            value = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.5 * noise
        elif name == "model.embed_tokens.weight":
            value = noise
        else:
            value = 1.5 * noise / np.sqrt(shape[1])
        named[name] = value.astype(np.float32).astype(np.float64)
    return named


def tokens_of(config: ModelConfig, seed: int, shape: tuple[int, int] = TOKENS_SHAPE) -> np.ndarray:
    """Return random tokens; with 23 words and 21 places some words come twice and some never."""
    return np.random.default_rng(seed).integers(0, config.vocab_size, size=shape)


def weights_of(
    config: ModelConfig,
    named: Mapping[str, Any],
    backend: Backend = REFERENCE,
    positions: Mapping[str, np.ndarray] | None = None,
) -> Weights:
    """Return the engine's weights; matrices with positions are stored there only.

    named holds arrays of the backend; a matrix with positions either whole or as its values in slot order.
    """
    shapes = config.parameters()
    packed = {}
    for name, shape in shapes.items():
        if len(shape) != 2 or name == "model.embed_tokens.weight":
            continue
        if positions and name in positions:
            topology = from_flat(shape, backend.array(positions[name]))
            values = named[name]
            if len(values.shape) == 2:
                values = backend.xp.take(backend.xp.reshape(values, (-1,)), backend.array(positions[name]))
            packed[name] = reference.pack(topology, values)
        else:
            packed[name] = reference.pack_dense(named[name])
    if config.tie_word_embeddings:
        packed["lm_head.weight"] = reference.pack_dense(named["model.embed_tokens.weight"])
    return assemble(config, named, packed)


def stored_positions(shape: tuple[int, int], seed: int, share: float = 0.3) -> np.ndarray:
    """Return random flat positions, a share of the matrix, ascending."""
    size = shape[0] * shape[1]
    return np.sort(np.random.default_rng(seed).choice(size, size=int(share * size), replace=False)).astype(np.int64)


def padding(kind: str, shape: tuple[int, int] = TOKENS_SHAPE) -> np.ndarray | None:
    """Return a mask, True for tokens: 'none', 'left' or 'right'; rows are padded by 0, 2 and 5."""
    if kind == "none":
        return None
    lengths = shape[1] - np.array([0, 2, 5])[: shape[0]]
    mask = np.arange(shape[1])[None, :] < lengths[:, None]
    return mask if kind == "right" else mask[:, ::-1].copy()


def labels_of(tokens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the tokens as labels, −100 at padding and at two more places."""
    labels = tokens.copy()
    if mask is not None:
        labels[~mask] = -100
    labels[0, 2] = labels[-1, -1] = -100
    return labels
