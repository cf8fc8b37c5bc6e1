"""Mutants of models, configs and evaluations (MDL, EVL)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.flaws import silent_norms
from conformance.engine.parts import attention_blocks, config, model
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, edits, mutants, right

_CONTEXT = "original_max_position_embeddings"


def loss_over_padding(a: Values) -> Values:
    out = right("model.step")(a)
    part = int((a["labels"][:, 1:] != -100).sum()) / a["labels"][:, 1:].size
    gradients = {name: (g * part).astype(g.dtype) for name, g in out["gradients"].items()}
    return out | {"loss": out["loss"] * part, "gradients": gradients}


def mean_of_means(a: Values) -> Values:
    n = a["rows_at_once"]
    parts = []
    for i in range(0, len(a["tokens"]), n):
        more = {k: None if a[k] is None else a[k][i : i + n] for k in ("tokens", "labels", "mask")}
        parts.append(right("model.step")(a | more))
    logits = np.concatenate([p["logits"] for p in parts])
    gradients = {k: np.mean([p["gradients"][k] for p in parts], axis=0) for k in parts[0]["gradients"]}
    return {"loss": float(np.mean([p["loss"] for p in parts])), "logits": logits, "gradients": gradients}


def last_rows(a: Values) -> Values:
    n = a["rows_at_once"]
    first = (len(a["tokens"]) - 1) // n * n
    labels, mask = a["labels"][first:], None if a["mask"] is None else a["mask"][first:]
    part = right("model.step")(a | {"tokens": a["tokens"][first:], "labels": labels, "mask": mask})
    share = (labels[:, 1:] != -100).sum() / (a["labels"][:, 1:] != -100).sum()
    return right("model.step")(a) | {"loss": part["loss"] * float(share)}


def untied(a: Values) -> Values:
    out = right("model.step")(a)
    if not a["config"].get("tie_word_embeddings"):
        return out
    name = "model.embed_tokens.weight"
    twin = a["config"] | {"tie_word_embeddings": False}
    split = right("model.step")(a | {"config": twin, "tensors": a["tensors"] | {"lm_head.weight": a["tensors"][name]}})
    return out | {"gradients": out["gradients"] | {name: split["gradients"][name]}}


def windows_everywhere(a: Values) -> Values:
    out = right("config.describe")(a)
    return out | {"windows": [a["config"].get("sliding_window")] * len(out["windows"])}


def targets_by_name(a: Values) -> Values:
    return right("config.describe")(a) | {"targets": sorted(right("config.describe")(a)["targets"])}


def refuses_nothing(a: Values) -> Values:
    try:
        return right("config.describe")(a)
    except REFUSALS:
        return {"targets": [], "windows": [], "head_dim": 1, "kv_heads": 1}


def exchanged(one: str, two: str) -> Operation:
    """Return a model with two matrices of the same shape exchanged."""

    def swapped(values: Values) -> Values:
        mark = "\0"
        return {k.replace(one, mark).replace(two, one).replace(mark, two): v for k, v in values.items()}

    def f(a: Values) -> Values:
        out = right("model.step")(a | {"tensors": swapped(a["tensors"])})
        return out | {"gradients": swapped(out["gradients"])}

    return f


def without(*names: str) -> Operation:
    """Return a model in which tensors whose names contain one of `names` are 0."""

    def f(a: Values) -> Values:
        tensors = {k: v * 0 if any(n in k for n in names) else v for k, v in a["tensors"].items()}
        return right("model.step")(a | {"tensors": tensors})

    return f


def configured(op: str, **new: Callable[[Values], Any]) -> Operation:
    """Return the operation under a config with some entries replaced."""
    return lambda a: right(op)(a | {"config": a["config"] | {k: f(a["config"]) for k, f in new.items()}})


def with_rope(change: Callable[[Values, Values], Values]) -> Operation:
    """Return `config.describe` under a config whose RoPE settings are changed in whichever key has them.

    change  (RoPE settings, whole config) -> the settings that the config has instead
    """

    def f(a: Values) -> Values:
        config = a["config"]
        ropes = {key: change(config[key], config) for key in ("rope_parameters", "rope_scaling") if config.get(key)}
        return right("config.describe")(a | {"config": config | ropes})

    return f


def without_keys(*keys: str, op: str = "config.describe") -> Operation:
    """Return the operation under a config without some keys."""
    return lambda a: right(op)(a | {"config": {k: v for k, v in a["config"].items() if k not in keys}})


def only_of_two(key: str, other: str) -> Operation:
    """Return a description that ignores the RoPE object `other` if there is one under `key`."""
    alone = without_keys(other)
    return lambda a: alone(a) if a["config"].get(key) else right("config.describe")(a)


def old_spelling_first(rope: Values, _: Values) -> Values:
    return rope | {"rope_type": rope["type"]} if "type" in rope else rope


def new_spelling_first(rope: Values, _: Values) -> Values:
    return {key: value for key, value in rope.items() if key != "type" or "rope_type" not in rope}


def default_type(rope: Values, _: Values) -> Values:
    return {"rope_type": "default"} | rope if "type" not in rope else rope


def context_beside_first(rope: Values, config: Values) -> Values:
    return rope | ({_CONTEXT: config[_CONTEXT]} if _CONTEXT in config else {})


def without_objects(rope: Values, _: Values) -> Values:
    return {key: value for key, value in rope.items() if not isinstance(value, dict)}


def as_many_as_query_heads(out: Values, a: Values) -> Values:
    return {"kv_heads": a["config"]["num_attention_heads"]}


def head_dim_by_division(out: Values, a: Values) -> Values:
    return {"head_dim": a["config"]["hidden_size"] // a["config"]["num_attention_heads"]}


def settings(**new: Any) -> Operation:
    """Return a run with some settings replaced."""
    return lambda a: right("train.run")(a | {"settings": a["settings"] | new})


def behind_silent_norms(op: str) -> Operation:
    """Return the operation of a model whose RMSNorm gives 0 if the squares of a row overflow."""

    def f(a: Values) -> Values:
        with silent_norms():
            return right(op)(a)

    return f


def looks_at_windows_alone(a: Values) -> Values:
    n, length, windows = len(a["text"]), a["length"], a["windows"]
    in_window = np.zeros(n, dtype=bool)
    for i in range(windows):
        start = i * (n - length) // max(windows - 1, 1)
        in_window[start : start + length] = True
    return right("evaluate.perplexity")(a | {"text": np.where(in_window, a["text"], 0)})


def dynamic_goes_beyond(a: Values) -> Values:
    config = a["config"]
    if (config.get("rope_scaling") or {}).get("rope_type") == "dynamic":
        config = config | {"max_position_embeddings": max(config["max_position_embeddings"], a["length"])}
    return right("evaluate.perplexity")(a | {"config": config})


def any_perplexity(a: Values) -> Values:
    try:
        return right("evaluate.perplexity")(a)
    except REFUSALS:
        return {"perplexity": float("inf"), "targets": 0}


def loss_in_sixteen_bits(out: Values, _: Values) -> Values:
    return {"logits": out["logits"].astype(np.float16).astype(out["logits"].dtype)}


_READ = config.ModelConfig.from_json
_WINDOWS, _ROPE, ROPE_OF = config._windows, config._rope, config._rope_of
_ROPE_KIND, CONTEXT = config._rope_kind, config._original_context


MUTANTS: list[Mutant] = [
    *mutants("config.describe",
        ("MDL-003", windows_everywhere, "windows everywhere"),
        ("MDL-006 MDL-002 MDL-004", refuses_nothing, "nothing refused"),
        ("MDL-004", head_dim_by_division, "head_dim always by division"),
        ("MDL-004", as_many_as_query_heads, "as many key heads as query heads"),
        ("MDL-007", targets_by_name, "targets in order of name"),
        ("MDL-009", only_of_two("rope_parameters", "rope_scaling"), "rope_parameters goes first"),
        ("MDL-009", only_of_two("rope_scaling", "rope_parameters"), "rope_scaling goes first"),
        ("MDL-010", with_rope(old_spelling_first), "type goes before rope_type"),
        ("MDL-010", with_rope(new_spelling_first), "rope_type goes before type"),
        ("MDL-010", with_rope(default_type), "RoPE settings without a type taken for default"),
        ("MDL-011", with_rope(context_beside_first), "a context beside the settings goes first"),
        ("MDL-011", without_keys(_CONTEXT), "a context beside the settings not looked at"),
        ("MDL-012", with_rope(without_objects), "RoPE settings of kinds of layers left out"),
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
         "a switch that is no switch"),
        unchecked="MDL-002 MDL-006"),
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
    *mutants("model.step",
        ("MDL-011", without_keys(_CONTEXT, op="model.step"), "a context beside the settings ignored"),
        ("MDL-005", untied, "one use of a tied table"),
        ("MDL-001", exchanged("gate_proj", "up_proj"), "gate and up exchanged"),
        ("MDL-001", exchanged("input_layernorm", "post_attention_layernorm"), "norms exchanged"),
        ("MDL-002", without("q_proj.bias", "k_proj.bias", "v_proj.bias"), "no biases on q, k, v"),
        ("LYR-005", configured("model.step", rope_theta=lambda c: 2 * c.get("rope_theta", 1e4)), "another base"),
        ("NUM-004", loss_in_sixteen_bits, "logits in sixteen bits"),
        ("TRN-001", loss_over_padding, "the loss averaged over padding"),
        ("TRN-002 LYR-012", mean_of_means, "a mean of means"),
        ("LYR-012", last_rows, "the loss of the last rows alone"),
        ("LYR-013 LYR-008", attention_blocks.Sight.keys, "start - self.window + 1", "start - self.window + 2",
         "edited, a block of queries a key short"),
        ("LYR-013", attention_blocks.Sight.rows, "self.mask[:, low:high]", "self.mask[:, : high - low]",
         "edited, the mask of the first keys"),
        ("LYR-013", attention_blocks.blockwise_backward, "dk[:, :, low:high, :] + dk_block", "dk_block",
         "edited, keys that two blocks see overwritten"),
        ("MDL-008", model.BlockInput.cache, "self.layer", "0", "edited, the window of layer 0 computed again"),
        ("MDL-004", _ROPE, "in _ROPE_OBJECTS", "in _ROPE_OBJECTS[1:]", "edited, rope_parameters unread"),
        ("MDL-004", _ROPE_KIND, '("rope_type", "type")', '("rope_type",)', "edited, type unread"),
        unchecked="LYR-001"),
    *mutants("evaluate.perplexity",
        ("EVL-001", {"windows": lambda a: a["windows"] - 1}, "one short"),
        ("EVL-003", any_perplexity, "an infinite perplexity"),
        ("TRN-019 LYR-015", behind_silent_norms("evaluate.perplexity"), "RMSNorm gives 0 where squares overflow"),
        ("TRN-018", looks_at_windows_alone, "tokens looked at where a window holds them"),
        ("TRN-017", dynamic_goes_beyond, "dynamic RoPE goes beyond the positions"),
        unchecked="TRN-017"),
    *mutants("config.biases", unchecked="MDL-002"),
    *edits("config.biases", "MDL-002", config._biased,
        ('("llama", "qwen3")', '("llama",)', "biases of attention for llama alone"),
        ('family == "llama" and', 'family != "mistral" and', "biases of the MLP for a switch that is llama's"),
        ('"q_proj", "k_proj", "v_proj"', '"q_proj", "k_proj", "v_proj", "o_proj"', "a bias on o of qwen2")),
]  # fmt: skip
