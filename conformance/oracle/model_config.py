"""Which clauses a config.json breaks (MDL-002 to MDL-004, MDL-006, MDL-009 to MDL-012)."""

import math
from typing import Any

from conformance.oracle.model import ROPE_NUMBERS, Config, head_width, rope

_MUST_NAME = {
    "llama": (),
    "mistral": ("num_key_value_heads", "sliding_window"),
    "qwen2": ("num_key_value_heads",),
    "qwen3": ("num_key_value_heads", "head_dim"),
}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "max_position_embeddings")  # fmt: skip
_SIZES_OR_NULL = ("head_dim", "num_key_value_heads", "sliding_window")
_SWITCHES = ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window")
_ONLY = (("hidden_act", "silu"), ("attention_dropout", 0), ("partial_rotary_factor", 1), ("quantization_config", None))
"""Keys that every family defines for one value only; null stands for it."""


def broken(config: Config) -> list[str]:
    """Return the clauses that a config breaks, none if it is legal."""
    if config.get("model_type") not in _MUST_NAME:
        return ["MDL-002"]
    sizes = [config.get(key) for key in _SIZES]
    sizes += [config[key] for key in _SIZES_OR_NULL if config.get(key) is not None]
    if not all(type(size) is int and size > 0 for size in sizes):
        return ["MDL-006"]
    clauses = set()
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    if any(key not in config for key in _MUST_NAME[config["model_type"]]):
        clauses.add("MDL-004")
    if config.get("head_dim") is None and config["hidden_size"] % heads:
        clauses.add("MDL-004")
    first = config.get("max_window_layers", 28)
    if type(first) is not int or first < 0:
        clauses.add("MDL-003")
    clauses |= _by_rope(config)
    odd = [
        head_width(config) % 2 > 0,
        heads % (config.get("num_key_value_heads") or heads) > 0,
        not _is_positive(config.get("rms_norm_eps")),
        any(type(config.get(key)) not in (bool, type(None)) for key in _SWITCHES),
        any(config.get(key) not in (None, value) for key, value in _ONLY),
        not _are_layer_types(config, depth),
    ]
    return sorted(clauses | {"MDL-006"}) if clauses or any(odd) else []


def _are_layer_types(config: Config, depth: int) -> bool:
    types = config.get("layer_types")
    if types is None or config["model_type"] not in ("qwen2", "qwen3"):
        return True
    slides = "sliding_attention" in types
    return (
        len(types) == depth
        and {*types} <= {"full_attention", "sliding_attention"}
        and (not slides or config.get("sliding_window") is not None)
    )


def _by_rope(config: Config) -> set[str]:
    names = [name for name in ("rope_parameters", "rope_scaling") if config.get(name)]
    clauses = {clause for name in names for clause in _by_settings(config, config[name])}
    # MDL-009.4 is about an unknown type in either of both
    if len(names) == 2 and (clauses or rope(config) != rope(config | {"rope_parameters": None})):
        clauses |= {"MDL-009"}
    return clauses if clauses or _is_positive(rope(config)["base"]) else {"MDL-006"}


def _by_settings(config: Config, settings: dict[str, Any]) -> set[str]:
    if any(isinstance(value, dict) for value in settings.values()):
        return {"MDL-012"}
    kinds = {settings[key] for key in ("rope_type", "type") if settings.get(key) is not None}
    if len(kinds) > 1 or (not kinds and settings.keys() - {"rope_theta", "partial_rotary_factor"}):
        return {"MDL-010"}
    (kind,) = kinds or {"default"}
    numbers = [settings.get(key) for key in ROPE_NUMBERS.get(kind, ("rope_type",))]
    if kind not in ROPE_NUMBERS or None in numbers:
        return {"MDL-004"}
    contexts = {c[key] for c in (settings, config) if c.get(key := "original_max_position_embeddings") is not None}
    if kind == "llama3" and len(contexts) > 1:
        return {"MDL-011"}
    odd = [
        not all(map(_is_positive, numbers)),
        kind == "dynamic" and head_width(config) == 2,
        kind == "llama3" and settings["low_freq_factor"] >= settings["high_freq_factor"],
        settings.get("partial_rotary_factor") not in (None, 1),
    ]
    return {"MDL-006"} if any(odd) else set()


def _is_positive(number: Any) -> bool:
    return type(number) in (int, float) and 0 < number < math.inf
