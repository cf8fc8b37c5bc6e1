"""Mutants of configs and models with one condition of a clause forgotten, or a limit off by one."""

from typing import Any

from conformance.engine.parts import (
    attention_blocks,
    config,
    model,
)
from conformance.wrong.mutants.base import Mutant, edited, unchecked

_READ = config.ModelConfig.from_json
_WINDOWS, _ROPE, ROPE_OF = config._windows, config._rope, config._rope_of
_ROPE_KIND, CONTEXT = config._rope_kind, config._original_context

_CONFIG: tuple[tuple[str, Any, str, str, str], ...] = (
    ("MDL-004 MDL-006", _READ, "_NAMED.get(family, ())", "()", "what libraries fill in taken for a default"),
    (
        "MDL-004 MDL-006",
        _READ,
        "_NAMED.get(family, ()) if key not in config",
        "_NAMED.get(family, ())[:1] if key not in config",
        "head_dim of qwen3, window of mistral not asked for",
    ),
    (
        "MDL-004",
        _READ,
        "_NAMED.get(family, ()) if key not in config",
        "_NAMED.get(family, ()) if config.get(key) is None",
        "null refused where it is a value",
    ),
    (
        "MDL-004",
        _READ,
        'config.get("head_dim") is None and sizes',
        "sizes",
        "a head width that need not divide refused",
    ),
    ("MDL-006", _READ, "if heads % kv_heads", "if False", "query heads that do not divide"),
    ("MDL-006", _READ, "if head_dim % 2", "if False", "an odd head width"),
    ("MDL-006", config._refuse_unsupported, 'config.get("hidden_act", "silu")', '"silu"', "any activation"),
    ("MDL-006", config._refuse_unsupported, 'config.get("quantization_config")', "False", "quantised weights"),
    ("MDL-006", config._refuse_unsupported, 'config.get("attention_dropout")', "False", "dropout"),
    ("MDL-003", _WINDOWS, "layer >= first", "layer > first", "a layer late"),
    (
        "MDL-003",
        _WINDOWS,
        "kinds is None:",
        'kinds is None or not config.get("use_sliding_window"):',
        "layer_types unread",
    ),
    ("MDL-003", _WINDOWS, '"max_window_layers", 28', '"max_window_layers", 0', "every layer slides unless told"),
    ("MDL-003", _WINDOWS, '"max_window_layers", 28', '"max_window_layers", layers', "no layer slides unless told"),
    ("MDL-003", _WINDOWS, " or first < 0", "", "a first layer below 0"),
    ("MDL-006", _WINDOWS, " or len(kinds) != layers", "", "layer_types of another length"),
    ("MDL-006", _WINDOWS, " or any(kind not in allowed for kind in kinds)", "", "any layer type"),
    ("MDL-006", _WINDOWS, 'window is None and "sliding_attention" in kinds', "False", "a window of nothing"),
    ("MDL-003", _WINDOWS, 'if family == "llama"', "if False", "windows for llama"),
    (
        "MDL-006",
        ROPE_OF,
        'any(part.get("partial_rotary_factor") not in (None, 1) for part in (settings, config))',
        "False",
        "a part of the head rotated",
    ),
    ("MDL-006", ROPE_OF, 'kind == "dynamic" and head_dim <= 2', "False", "dynamic heads of 2"),
    ("MDL-006", ROPE_OF, 'not numbers["low_freq_factor"] < numbers["high_freq_factor"]', "False", "low above high"),
    (
        "MDL-006",
        ROPE_OF,
        'numbers["low_freq_factor"] < numbers',
        'numbers["low_freq_factor"] <= numbers',
        "low as high",
    ),
    ("MDL-006", config._positive_int, " or isinstance(value, bool)", "", "true for 1"),
    ("MDL-006", config._positive_int, "1 <= value", "0 <= value", "0 of something"),
    ("MDL-006", config._positive_number, "0 < value <= sys.float_info.max", "0 <= value", "an eps of 0 or infinity"),
    (
        "MDL-006",
        config._switch,
        "value is not None and not isinstance(value, bool)",
        "False",
        "a switch that is no switch",
    ),
)

_ROWS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "model.step",
        "LYR-013 LYR-008",
        attention_blocks.Sight.keys,
        "start - self.window + 1",
        "start - self.window + 2",
        "a block of queries a key short",
    ),
    (
        "model.step",
        "LYR-013",
        attention_blocks.Sight.rows,
        "self.mask[:, low:high]",
        "self.mask[:, : high - low]",
        "the mask of the first keys",
    ),
    (
        "model.step",
        "LYR-013",
        attention_blocks.blockwise_backward,
        "dk[:, :, low:high, :] + dk_block",
        "dk_block",
        "keys that two blocks see overwritten",
    ),
    ("model.step", "MDL-008", model.BlockInput.cache, "self.layer", "0", "the window of layer 0 computed again"),
)

_EDITS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "model.step",
        "MDL-004",
        _ROPE,
        "in _ROPE_OBJECTS",
        "in _ROPE_OBJECTS[1:]",
        "rope_parameters unread",
    ),
    ("model.step", "MDL-004", _ROPE_KIND, '("rope_type", "type")', '("rope_type",)', "type unread"),
)

_BIASES: tuple[tuple[str, str, str], ...] = (
    ('("llama", "qwen3")', '("llama",)', "biases of attention for llama alone"),
    ('family == "llama" and', 'family != "mistral" and', "biases of the MLP for a switch that is llama's"),
    ('"q_proj", "k_proj", "v_proj"', '"q_proj", "k_proj", "v_proj", "o_proj"', "a bias on o of qwen2"),
)

MUTANTS: list[Mutant] = [
    *(edited("MDL-002", "config.biases", config._biased, old, new, flaw) for old, new, flaw in _BIASES),
    *unchecked("config.biases", "MDL-002"),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _ROWS),
    *(edited(clauses, "config.describe", f, old, new, flaw) for clauses, f, old, new, flaw in _CONFIG),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _EDITS),
]
