"""Random models for properties, and answers that rounding cannot change."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.oracle import model
from conformance.oracle.model import Config
from conformance.properties.draws import Array, Draw, Many
from conformance.properties.trial import Trial

Tensors = dict[str, Array]
OFF = 1e-6
"""Relative change of each weight in a neighbouring model; a rounding of binary32 is 6e-8."""

_NEAR = 3e-5
"""Largest difference of answers for neighbouring models, relative to their largest value (NUM-004 allows 1e-4)."""

_TRIED = 20
"""The most models that are drawn to get one whose answer rounding cannot change."""

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
_SLIDES = {"use_sliding_window": True, "sliding_window": 2}
_OF_KIND: dict[str, Config] = {
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "rope_parameters": _LLAMA3},
    "llama-plain": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 3, "tie_word_embeddings": True},
    "qwen2": _SLIDES | {"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]},
    "qwen3": _SLIDES
    | {"model_type": "qwen3", "max_window_layers": 1, "attention_bias": True, "rope_scaling": _DYNAMIC},
}
"""What the config of each kind of model has besides sizes."""
KINDS = tuple(_OF_KIND)
TINY: Config = {
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
"""A config of few weights."""


def drawn_config(d: Draw, kind: str) -> Config:
    """Return a small config of a kind of model with random sizes."""
    heads = d.choice((2, 4))
    config: Config = {
        "num_hidden_layers": 2,
        "max_position_embeddings": 64,
        "vocab_size": d.integer(5, 9),
        "hidden_size": heads * 2 * d.integer(1, 2),
        "intermediate_size": d.integer(3, 6),
        "num_attention_heads": heads,
        "num_key_value_heads": d.choice((1, 2, heads)),
        "rms_norm_eps": 2.0 ** -d.integer(8, 17),
        "rope_theta": float(d.integer(20, 2000)),
    }
    config |= _OF_KIND[kind]
    if kind == "qwen3":
        # the context may be shorter than the text, because dynamic frequencies change beyond it
        config |= {"head_dim": 2 * d.integer(2, 4), "max_position_embeddings": d.integer(3, 8)}
    if config.get("sliding_window"):
        config |= {"sliding_window": d.integer(2, 4)}
    return config


def drawn_tensors(d: Draw, config: Config, top: float = 0.75) -> Tensors:
    """Return random tensors of a config, from −top to top and exact in binary32; weights of norms are near 1."""
    many, unit = Many(d), top / 2**20
    shapes = model.shapes(config).items()
    return {name: many.lattice(shape, 2**20) * unit + name.endswith("norm.weight") for name, shape in shapes}


def _neighbours(d: Draw, tensors: Tensors, off: float) -> Iterator[Tensors]:
    """Return three models whose weights differ from these by a relative change of −off, 0 or off."""
    for _ in range(3):
        many = Many(d)
        yield {name: x * (1 + off * many.integers(x.size, -1, 1).reshape(x.shape)) for name, x in tensors.items()}


def _apart(a: Any, b: Any) -> float:
    """Return the largest difference of two answers relative to the largest value; infinity if a choice differs."""
    if isinstance(a, dict):
        return max((_apart(a[name], b[name]) for name in a), default=0.0)
    if isinstance(a, list):
        return max((_apart(*pair) for pair in zip(a, b, strict=True)), default=0.0) if len(a) == len(b) else math.inf
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype.kind != "f":
        return 0.0 if np.array_equal(x, y) else math.inf
    top = float(np.max(np.abs(x), initial=0.0))
    return float(np.max(np.abs(x - y), initial=0.0)) / top if top else float(np.any(y)) * math.inf


def surely(
    d: Draw, tensors: Tensors, ask: Callable[[Tensors], dict[str, Any]], off: float = OFF
) -> dict[str, Any] | None:
    """Return the oracle's answer for a model, or None if rounding could change it."""
    answer = ask(tensors)
    return None if any(_apart(answer, ask(other)) > _NEAR for other in _neighbours(d, tensors, off)) else answer


def ask_until_sure(
    t: Trial,
    op: str,
    draw: Callable[[], tuple[dict[str, Any], dict[str, Any] | None]],
    saw: str,
    dtypes: tuple[str, ...] | None = None,
) -> None:
    """Draw examples until one has an answer, and ask for it; nothing is asked if none of _TRIED has one."""
    for _ in range(_TRIED):
        inputs, answer = draw()
        if answer is not None:
            t.saw(saw)
            t.case(op, inputs, answer, dtypes=dtypes)
            return


def ask_surely(t: Trial, d: Draw, op: str, draw: Callable[[], dict[str, Any]], saw: str) -> None:
    """Draw inputs until rounding cannot change what `conformance.answers` answers to them, and ask a port for it."""

    def ask(inputs: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
        return dict(answer(op, inputs | {"tensors": tensors}).outputs)

    def tried() -> tuple[dict[str, Any], dict[str, Any] | None]:
        inputs = draw()
        return inputs, surely(d, inputs["tensors"], lambda tensors: ask(inputs, tensors))

    ask_until_sure(t, op, tried, saw)
