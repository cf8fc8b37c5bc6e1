"""Mutants of configs and models with one condition of a clause forgotten, or a limit off by one."""

from conformance.engine.parts import attention_blocks, config, model
from conformance.wrong.mutants.base import Mutant, edits, mutants

_READ = config.ModelConfig.from_json
_WINDOWS, _ROPE, ROPE_OF = config._windows, config._rope, config._rope_of
_ROPE_KIND, CONTEXT = config._rope_kind, config._original_context


MUTANTS: list[Mutant] = [
    *mutants("config.biases", unchecked="MDL-002"),
    *edits("config.biases", "MDL-002", config._biased,
        ('("llama", "qwen3")', '("llama",)', "biases of attention for llama alone"),
        ('family == "llama" and', 'family != "mistral" and', "biases of the MLP for a switch that is llama's"),
        ('"q_proj", "k_proj", "v_proj"', '"q_proj", "k_proj", "v_proj", "o_proj"', "a bias on o of qwen2")),
    *mutants("model.step",
        ("LYR-013 LYR-008", attention_blocks.Sight.keys, "start - self.window + 1", "start - self.window + 2",
         "edited, a block of queries a key short"),
        ("LYR-013", attention_blocks.Sight.rows, "self.mask[:, low:high]", "self.mask[:, : high - low]",
         "edited, the mask of the first keys"),
        ("LYR-013", attention_blocks.blockwise_backward, "dk[:, :, low:high, :] + dk_block", "dk_block",
         "edited, keys that two blocks see overwritten"),
        ("MDL-008", model.BlockInput.cache, "self.layer", "0", "edited, the window of layer 0 computed again"),
        ("MDL-004", _ROPE, "in _ROPE_OBJECTS", "in _ROPE_OBJECTS[1:]", "edited, rope_parameters unread"),
        ("MDL-004", _ROPE_KIND, '("rope_type", "type")', '("rope_type",)', "edited, type unread")),
    *mutants("config.describe",
        ("MDL-004 MDL-006", _READ, "_NAMED.get(family, ())", "()", "what libraries fill in taken for a default"),
        ("MDL-004 MDL-006", _READ, "_NAMED.get(family, ()) if key not in config",
         "_NAMED.get(family, ())[:1] if key not in config", "head_dim of qwen3, window of mistral not asked for"),
        ("MDL-004", _READ, "_NAMED.get(family, ()) if key not in config",
         "_NAMED.get(family, ()) if config.get(key) is None", "null refused where it is a value"),
        ("MDL-004", _READ, 'config.get("head_dim") is None and sizes', "sizes",
         "a head width that need not divide refused"),
        ("MDL-006", _READ, "if heads % kv_heads", "if False", "query heads that do not divide"),
        ("MDL-006", _READ, "if head_dim % 2", "if False", "an odd head width"),
        ("MDL-006", config._positive_int, " or isinstance(value, bool)", "", "true for 1"),
        ("MDL-006", config._positive_int, "1 <= value", "0 <= value", "0 of something"),
        ("MDL-006", config._positive_number, "0 < value <= sys.float_info.max", "0 <= value",
         "an eps of 0 or infinity"),
        ("MDL-006", config._switch, "value is not None and not isinstance(value, bool)", "False",
         "a switch that is no switch")),
    *edits("config.describe", "MDL-006", config._refuse_unsupported,
        ('config.get("hidden_act", "silu")', '"silu"', "any activation"),
        ('config.get("quantization_config")', "False", "quantised weights"),
        ('config.get("attention_dropout")', "False", "dropout")),
    *edits("config.describe", "MDL-003", _WINDOWS,
        ("layer >= first", "layer > first", "a layer late"),
        ("kinds is None:", 'kinds is None or not config.get("use_sliding_window"):', "layer_types unread"),
        ('"max_window_layers", 28', '"max_window_layers", 0', "every layer slides unless told"),
        ('"max_window_layers", 28', '"max_window_layers", layers', "no layer slides unless told"),
        (" or first < 0", "", "a first layer below 0"),
        ('if family == "llama"', "if False", "windows for llama")),
    *edits("config.describe", "MDL-006", _WINDOWS,
        (" or len(kinds) != layers", "", "layer_types of another length"),
        (" or any(kind not in allowed for kind in kinds)", "", "any layer type"),
        ('window is None and "sliding_attention" in kinds', "False", "a window of nothing")),
    *edits("config.describe", "MDL-006", ROPE_OF,
        ('any(part.get("partial_rotary_factor") not in (None, 1) for part in (settings, config))', "False",
         "a part of the head rotated"),
        ('kind == "dynamic" and head_dim <= 2', "False", "dynamic heads of 2"),
        ('not numbers["low_freq_factor"] < numbers["high_freq_factor"]', "False", "low above high"),
        ('numbers["low_freq_factor"] < numbers', 'numbers["low_freq_factor"] <= numbers', "low as high")),
]  # fmt: skip
