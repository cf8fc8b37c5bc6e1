"""The config of a model, read from its Hugging Face config.json and checked once.

config = ModelConfig.from_json(json.loads(text))
config.windows[3]                # None, or how many keys a query of layer 3 sees
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seft_ref.errors import ConfigError
from seft_ref.layers.rope import Rope

OTHER_FAMILIES = "docs/how-to/other-families.md"
"""The page that shows how to prune, train and read a model that this engine does not know."""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_NAMED = {
    "mistral": ("num_key_value_heads", "sliding_window"),
    "qwen2": ("num_key_value_heads",),
    "qwen3": ("num_key_value_heads", "head_dim"),
}
"""Keys that config.json must have, if only as null, because libraries fill in different numbers for absent ones."""
_ROPE_OBJECTS = ("rope_parameters", "rope_scaling")
_ROPE_NEEDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A target of sparse fine-tuning (MDL-007): its parameter's name and shape (out, in)."""

    name: str
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A LLaMA-family decoder. Names are those of config.json; see chapter 5 of SPEC.md for what each family fixes."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: Rope
    tie_word_embeddings: bool
    biased: frozenset[str]
    """projections with a bias"""
    qk_norm: bool
    windows: tuple[int | None, ...]
    """per layer: how many keys a query sees, None for all (LYR-008)"""

    @staticmethod
    def from_json(config: Mapping[str, object]) -> "ModelConfig":
        """Return the model that a config.json describes.

        Raises:
            ConfigError: MDL-002 for an unknown architecture, MDL-004, MDL-006 and MDL-009 to MDL-012 for keys that are
            missing, contradictory or not supported.
        """
        family = config.get("model_type")
        # MDL-002
        if not isinstance(family, str) or family not in FAMILIES:
            raise ConfigError(
                "MDL-002",
                f"model_type {family!r} is not supported; this engine knows {', '.join(FAMILIES)}; a model of another "
                f"family is pruned, trained and read in PyTorch, and stored by seft convert: {OTHER_FAMILIES}",
            )
        missing = [key for key in _REQUIRED if config.get(key) is None]
        missing += [key for key in _NAMED.get(family, ()) if key not in config]
        if missing:
            raise ConfigError("MDL-006", f"config.json lacks {', '.join(missing)}")
        sizes = {key: _positive_int(config, key) for key in _REQUIRED if key != "rms_norm_eps"}
        heads = sizes["num_attention_heads"]
        kv_heads = _positive_int(config, "num_key_value_heads", heads)
        # MDL-004
        if config.get("head_dim") is None and sizes["hidden_size"] % heads:
            raise ConfigError(
                "MDL-004",
                f"hidden_size {sizes['hidden_size']} is not a multiple of num_attention_heads {heads}, "
                "and there is no head_dim",
            )
        head_dim = _positive_int(config, "head_dim", sizes["hidden_size"] // heads)
        if heads % kv_heads:
            raise ConfigError(
                "MDL-006", f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if head_dim % 2:
            raise ConfigError("MDL-006", f"head_dim {head_dim} is odd; rotary embedding needs pairs")
        _refuse_unsupported(config)
        return ModelConfig(
            model_type=family,
            **sizes,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=_positive_number("rms_norm_eps", config["rms_norm_eps"]),
            rope=_rope(config, head_dim),
            tie_word_embeddings=_switch(config, "tie_word_embeddings"),
            biased=_biased(family, config),
            qk_norm=family == "qwen3",
            windows=_windows(family, config, sizes["num_hidden_layers"]),
        )

    def projection_shape(self, projection: str) -> tuple[int, int]:
        """Return (out, in) of a projection of every block."""
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (queries, hidden),
            "k_proj": (keys, hidden),
            "v_proj": (keys, hidden),
            "o_proj": (hidden, queries),
            "gate_proj": (inner, hidden),
            "up_proj": (inner, hidden),
            "down_proj": (hidden, inner),
        }[projection]

    def targets(self) -> tuple[Matrix, ...]:
        """Return the matrices that sparse fine-tuning may change; a matrix index counts them from 0 (MDL-007)."""
        return tuple(
            Matrix(f"{block_prefix(layer)}.{part}.{projection}.weight", self.projection_shape(projection))
            for layer in range(self.num_hidden_layers)
            for part, projections in (("self_attn", ATTENTION), ("mlp", MLP))
            for projection in projections
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Return every parameter's name and shape, in model order (CKP-002)."""
        named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_hidden_layers):
            prefix = block_prefix(layer)
            named[f"{prefix}.input_layernorm.weight"] = (self.hidden_size,)
            for part, projections in (("self_attn", ATTENTION), ("mlp", MLP)):
                for projection in projections:
                    shape = self.projection_shape(projection)
                    named[f"{prefix}.{part}.{projection}.weight"] = shape
                    if projection in self.biased:
                        named[f"{prefix}.{part}.{projection}.bias"] = shape[:1]
            if self.qk_norm:
                named[f"{prefix}.self_attn.q_norm.weight"] = (self.head_dim,)
                named[f"{prefix}.self_attn.k_norm.weight"] = (self.head_dim,)
            named[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden_size,)
        named["model.norm.weight"] = (self.hidden_size,)
        if not self.tie_word_embeddings:
            named["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        return named


def block_prefix(layer: int) -> str:
    """Return the prefix of the names of a block's parameters."""
    return f"model.layers.{layer}"


def _positive_int(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    # the names of all layers are made before they are compared with those of the files
    most = 100_000 if key == "num_hidden_layers" else (1 << 31) - 1
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ConfigError("MDL-006", f"{key} is {value!r:.40}, must be an integer from 1 to {most}")
    return value


def _positive_number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
        raise ConfigError("MDL-006", f"{key} is {value!r:.40}, must be a positive number")
    return float(value)


def _switch(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ConfigError("MDL-006", f"{key} is {value!r}, must be true or false")
    return bool(value)


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    """Refuse settings that would change the formulas of chapter 4 (MDL-006)."""
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigError("MDL-006", f"hidden_act {activation!r} is not supported; the family uses silu")
    if config.get("attention_dropout"):
        raise ConfigError("MDL-006", "attention_dropout is not supported; set it to 0")
    if config.get("quantization_config"):
        raise ConfigError(
            "MDL-006",
            "quantization_config is not supported; save the model with plain weights, or let "
            "seft convert --expand-quantised make them",
        )


def _biased(family: str, config: Mapping[str, Any]) -> frozenset[str]:
    """Return the projections that have a bias (MDL-002)."""
    if family == "qwen2":
        return frozenset({"q_proj", "k_proj", "v_proj"})
    biased: set[str] = set()
    if family in ("llama", "qwen3") and _switch(config, "attention_bias"):
        biased.update(ATTENTION)
    if family == "llama" and _switch(config, "mlp_bias"):
        biased.update(MLP)
    return frozenset(biased)


def _windows(family: str, config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """Return the window of each layer (MDL-003)."""
    window = config.get("sliding_window")
    if window is not None:
        window = _positive_int(config, "sliding_window")
    if family == "mistral":
        return (window,) * layers
    if family == "llama":
        return (None,) * layers
    kinds = config.get("layer_types")
    if kinds is None:
        if not _switch(config, "use_sliding_window"):
            return (None,) * layers
        if "sliding_window" not in config:
            raise ConfigError("MDL-006", "use_sliding_window is set, and config.json lacks sliding_window")
        first = config.get("max_window_layers", 28)
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise ConfigError("MDL-006", f"max_window_layers is {first!r}, must be a number of layers")
        return tuple(window if layer >= first else None for layer in range(layers))
    allowed = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list | tuple) or len(kinds) != layers or any(kind not in allowed for kind in kinds):
        raise ConfigError(
            "MDL-006", f"layer_types must name full_attention or sliding_attention for each of {layers} layers"
        )
    if window is None and "sliding_attention" in kinds:
        raise ConfigError("MDL-006", "layer_types asks for sliding_attention, and there is no sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _rope(config: Mapping[str, Any], head_dim: int) -> Rope:
    """Return the rotary embedding of rope_parameters or rope_scaling; if both are set, they must agree (MDL-009)."""
    ropes: dict[str, Rope] = {}
    for key in _ROPE_OBJECTS:
        settings = config.get(key)
        if settings is not None and not isinstance(settings, Mapping):
            raise ConfigError("MDL-006", f"{key} is {settings!r}, must be an object")
        if settings:
            ropes[key] = _rope_of(key, settings, config, head_dim)
    # MDL-009
    if len(set(ropes.values())) > 1:
        raise ConfigError(
            "MDL-009",
            f"rope_parameters and rope_scaling contradict each other: {ropes['rope_parameters']} and "
            f"{ropes['rope_scaling']}; remove the one that does not hold",
        )
    return next(iter(ropes.values())) if ropes else _rope_of("rope_parameters", {}, config, head_dim)


def _rope_of(key: str, settings: Mapping[str, Any], config: Mapping[str, Any], head_dim: int) -> Rope:
    """Return the rotary embedding that one object of settings describes (MDL-004, MDL-010 to MDL-012)."""
    kind = _rope_kind(key, settings)
    # MDL-004
    theta = next((v for v in (settings.get("rope_theta"), config.get("rope_theta")) if v is not None), 10000.0)
    if any(part.get("partial_rotary_factor") not in (None, 1) for part in (settings, config)):
        raise ConfigError("MDL-006", "partial_rotary_factor is not supported; the family rotates the whole head")
    if kind == "dynamic" and head_dim <= 2:
        raise ConfigError("MDL-006", "dynamic RoPE needs head_dim above 2")
    missing = [name for name in _ROPE_NEEDS[kind] if settings.get(name) is None]
    if missing:
        raise ConfigError("MDL-006", f"{key} of RoPE type {kind} lacks {', '.join(missing)}")
    numbers: dict[str, Any] = {name: _positive_number(name, settings[name]) for name in _ROPE_NEEDS[kind]}
    if kind == "llama3":
        numbers[_ORIGINAL] = _original_context(key, settings, config)
        if not numbers["low_freq_factor"] < numbers["high_freq_factor"]:
            raise ConfigError("MDL-006", "low_freq_factor must be below high_freq_factor")
    return Rope(kind, _positive_number("rope_theta", theta), **numbers)


def _rope_kind(key: str, settings: Mapping[str, Any]) -> str:
    """Return the RoPE type that settings name, as `rope_type` or as `type` (MDL-010)."""
    named = {name: value for name, value in settings.items() if value is not None}
    # MDL-012
    for name, value in named.items():
        if isinstance(value, Mapping):
            raise ConfigError(
                "MDL-012", f"{key} has settings of its own for {name}; one rotary embedding must serve all layers"
            )
    kinds = [named[name] for name in ("rope_type", "type") if name in named]
    # MDL-010
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise ConfigError("MDL-010", f"{key} has rope_type {kinds[0]!r} and type {kinds[1]!r}; remove the wrong one")
    if not kinds and named.keys() - {"rope_theta", "partial_rotary_factor"}:
        raise ConfigError("MDL-010", f"{key} has {', '.join(sorted(named))}, and no rope_type says what for")
    kind = kinds[0] if kinds else "default"
    if not isinstance(kind, str) or kind not in _ROPE_NEEDS:
        raise ConfigError(
            "MDL-006",
            f"RoPE type {kind!r} of {key} is not supported; this engine knows {', '.join(_ROPE_NEEDS)}",
        )
    return kind


def _original_context(key: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return the original context of llama3, from the settings or else from config.json itself (MDL-011)."""
    contexts = [_positive_int(part, _ORIGINAL) for part in (settings, config) if part.get(_ORIGINAL) is not None]
    # MDL-011
    if len(set(contexts)) > 1:
        raise ConfigError(
            "MDL-011",
            f"{_ORIGINAL} is {contexts[0]} in {key} and {contexts[1]} beside it; remove the one that does not hold",
        )
    return contexts[0] if contexts else _positive_int(config, "max_position_embeddings")
