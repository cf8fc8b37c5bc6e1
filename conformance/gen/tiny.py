"""A model small enough to be stored in every case of a run, and a text for it."""

import numpy as np

from conformance.gen.model import tensors_of
from conformance.gen.numbers import Array, Numbers
from conformance.oracle import prune
from conformance.oracle.model import Config, targets

CONFIG: Config = {
    "model_type": "llama",
    "vocab_size": 5,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
}
SMALLEST: Config = CONFIG | {"hidden_size": 2, "intermediate_size": 2, "num_attention_heads": 1}
"""The smallest config, for runs that are refused."""


def world(
    n: Numbers, config: Config, *, pattern: bool = False
) -> tuple[dict[str, Array], dict[str, list[int]], list[int]]:
    """Return tensors, stored positions of each target, and a text in which a token narrows down the next one."""
    tensors, stored = tensors_of(config, n), {}
    for name in targets(config):
        w = tensors[name]
        stored[name] = prune.pattern(abs(w), 2, 4) if pattern else prune.magnitude(w, 0.5)
        mask = np.zeros(w.size)
        mask[stored[name]] = 1.0
        tensors[name] = w * mask.reshape(w.shape)
    text = [1]
    for step in n.integers(29, 0, 3):
        text.append((3 * text[-1] + 1 + int(step) // 3) % 5)
    return tensors, stored, text
