"""Cases of chapter 5: configs with one key that is missing, null or of another type."""

import math
from typing import Any

from conformance.gen import tiny
from conformance.gen.model import MODELS, tensors_of
from conformance.gen.numbers import Area, Numbers
from conformance.oracle import generate
from conformance.oracle.model import Config, targets

_PLAIN: Config = MODELS["llama-plain"] | {"num_key_value_heads": 1}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_WINDOWS = ("layer_types", "max_window_layers")
_FIRST: dict[str, Any] = {"layer_types": None, "use_sliding_window": True, "sliding_window": 4}


def configs() -> Area:
    """Return cases of configs with one key that is missing, null or of another type (MDL-003, MDL-004, MDL-006)."""
    area = Area("config-edge", "a table")
    good: dict[str, tuple[Config, list[int | None], int, int]] = {
        "mistral-null": (MODELS["mistral"] | {"num_key_value_heads": None, "sliding_window": None}, [None] * 2, 4, 2),
        "qwen3-null": (
            MODELS["qwen3"] | {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None},
            [None, 2],
            2,
            4,
        ),
        "width": (_PLAIN | {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4}, [None] * 2, 4, 3),
        "llama-slides": (
            _PLAIN | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
            [None] * 2,
            4,
            1,
        ),
        "whole-rotary": (_PLAIN | {"partial_rotary_factor": 1.0}, [None] * 2, 4, 1),
    }
    for name, (config, windows, head_dim, kv_heads) in good.items():
        described = {"windows": windows, "head_dim": head_dim, "kv_heads": kv_heads}
        answer = {"targets": targets(config)} | described
        text = "null refused where it is a value, or a window where the family has none"
        area.add(name, "config.describe", "MDL-003 MDL-004 MDL-006", text, {"config": config}, answer)
    # layers 28 and 29 have a window, because 28 is the default of `max_window_layers`
    deep = {k: v for k, v in (MODELS["qwen2"] | {"num_hidden_layers": 30}).items() if k not in _WINDOWS}
    deep |= {"use_sliding_window": True, "sliding_window": 4}
    described = {"windows": [None] * 28 + [4] * 2, "head_dim": 4, "kv_heads": 1}
    answer = {"targets": targets(deep)} | described
    text = "a window in every layer, or in none, where the config names no first one"
    area.add("default-first", "config.describe", "MDL-003 MDL-007", text, {"config": deep}, answer)
    bad: list[tuple[str, Config, dict[str, Any], str]] = [
        *(
            (f"no-{key}", _PLAIN, {key: None}, "MDL-006")
            for key in ("intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        ),
        ("mistral-no-window", MODELS["mistral"], {"sliding_window": None}, "MDL-006 MDL-004"),
        ("mistral-no-heads", MODELS["mistral"], {"num_key_value_heads": None}, "MDL-006 MDL-004"),
        ("qwen2-no-heads", MODELS["qwen2"], {"num_key_value_heads": None}, "MDL-006 MDL-004"),
        ("qwen3-no-heads", MODELS["qwen3"], {"num_key_value_heads": None}, "MDL-006 MDL-004"),
        ("qwen3-no-width", MODELS["qwen3"], {"head_dim": None}, "MDL-006 MDL-004"),
        ("quantised", _PLAIN, {"quantization_config": {"quant_method": "awq"}}, "MDL-006"),
        ("layer-kind", MODELS["qwen2"], {"layer_types": ["full_attention", "chunked_attention"]}, "MDL-006"),
        ("window-of-nothing", MODELS["qwen2"], {"sliding_window": None}, "MDL-006"),
        ("partial-rotary", _PLAIN, {"partial_rotary_factor": 0.5}, "MDL-006"),
        ("dynamic-2", _PLAIN, {"head_dim": 2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "MDL-006"),
        ("low-high", _PLAIN, {"rope_scaling": _LLAMA3 | {"low_freq_factor": 8.0}}, "MDL-006"),
        ("low-as-high", _PLAIN, {"rope_scaling": _LLAMA3 | {"low_freq_factor": 4.0}}, "MDL-006"),
        ("first-below-0", MODELS["qwen2"], _FIRST | {"max_window_layers": -1}, "MDL-006 MDL-003"),
        ("true-layers", _PLAIN, {"num_hidden_layers": True}, "MDL-006"),
        ("text-size", _PLAIN, {"vocab_size": "11"}, "MDL-006"),
        ("eps-0", _PLAIN, {"rms_norm_eps": 0.0}, "MDL-006"),
        ("eps-infinite", _PLAIN, {"rms_norm_eps": math.inf}, "MDL-006"),
        ("switch", _PLAIN, {"attention_bias": "yes"}, "MDL-006"),
        ("factor-0", _PLAIN, {"rope_scaling": {"rope_type": "linear", "factor": 0.0}}, "MDL-006"),
    ]
    for name, config, change, clause in bad:
        inputs = {"config": {k: v for k, v in (config | change).items() if v is not None or k not in change}}
        text = "a config that the family does not define is run all the same"
        area.add(f"refuse-{name}", "config.describe", clause, text, inputs, refused=clause)
    _angles(area)
    return area


def _angles(area: Area) -> None:
    wide: Config = tiny.CONFIG | {"num_attention_heads": 1, "head_dim": 4}
    changes: dict[str, Config] = {"base": {"rope_theta": None}, "original": {"rope_parameters": _LLAMA3}}
    for i, (name, change) in enumerate(changes.items()):
        config = {k: v for k, v in (wide | change).items() if v is not None}
        n = Numbers(69, i)
        tensors = tensors_of(config, n, 0.9)
        tokens = n.integers((1, 12), 0, 4)
        answer = {"logits": generate.logits_behind(config, tensors, tokens, (12,))}
        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "parts": [12]}
        text = "another base where none is given, or another context than that of the model"
        area.add(f"angles-{name}", "generate.read", "MDL-004 LYR-005 LYR-006", text, inputs, answer)


AREAS = (configs,)
