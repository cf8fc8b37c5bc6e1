"""Small configs, and random tensors for them."""

import numpy as np

from conformance.gen.numbers import Array, Numbers
from conformance.oracle import model
from conformance.oracle.model import Config

SMALL: Config = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "tie_word_embeddings": False,
}

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

ONE_HEAD = {
    "vocab_size": 5,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}

_SLIDES = ["full_attention", "sliding_attention"]

MODELS: dict[str, Config] = {
    "llama": SMALL | {"attention_bias": True, "mlp_bias": True, "rope_parameters": _LLAMA3},
    "llama-plain": SMALL | {"num_key_value_heads": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral": SMALL | {"model_type": "mistral", "sliding_window": 3, "tie_word_embeddings": True},
    "qwen2": SMALL
    | {
        "model_type": "qwen2",
        "sliding_window": 2,
        "use_sliding_window": True,
        "layer_types": _SLIDES,
        "max_window_layers": 0,
    },
    "qwen3": SMALL
    | {
        "model_type": "qwen3",
        "head_dim": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 2,
        "max_window_layers": 1,
        "max_position_embeddings": 4,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
}


def tensors_of(config: Config, n: Numbers, scale: float = 0.4) -> dict[str, Array]:
    """Return random tensors of a model, exact in binary32; weights of norms are near 1."""
    return {
        name: (n.real(shape, scale) + name.endswith("norm.weight")).astype(np.float32).astype(np.float64)
        for name, shape in model.shapes(config).items()
    }
