"""config.json: what is refused, what is assumed, what the files of real models mean (MDL-002 to MDL-007)."""

import math

import pytest

from seft_ref.errors import ConfigError
from seft_ref.layers.rope import Rope
from seft_ref.model.config import Matrix, ModelConfig

SMALL = {
    "model_type": "llama",
    "vocab_size": 7,
    "hidden_size": 12,
    "intermediate_size": 5,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
}
NAMED = ("num_key_value_heads", "head_dim", "sliding_window")
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def parse(**changes):
    """Return SMALL with changes, parsed; a change to ... removes the key. Other families than llama get the keys they
    must name, as null.
    """
    named = {} if changes.get("model_type", "llama") == "llama" else dict.fromkeys(NAMED)
    return ModelConfig.from_json({key: value for key, value in (SMALL | named | changes).items() if value is not ...})


def refused(clause, key, **changes):
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    assert caught.value.clause == clause
    assert key in str(caught.value)


# Refusals


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("mistral", "num_key_value_heads"),
        ("mistral", "sliding_window"),
        ("qwen2", "num_key_value_heads"),
        ("qwen3", "num_key_value_heads"),
        ("qwen3", "head_dim"),
    ],
)
def test_MDL_004_a_key_that_libraries_fill_in_differently_must_be_named(family, key):
    refused("MDL-006", key, model_type=family, **{key: ...})


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe", "gemma", "LLaMA", "", None, ...])
def test_MDL_002_unknown_family_is_refused_by_name(family):
    refused("MDL-002", "None" if family in (None, ...) else repr(family), model_type=family)


@pytest.mark.parametrize("key", [key for key in SMALL if key != "model_type"])
@pytest.mark.parametrize("value", [..., None])
def test_MDL_006_missing_key_is_refused_by_name(key, value):
    refused("MDL-006", key, **{key: value})


@pytest.mark.parametrize(
    "key",
    [*(key for key in SMALL if key not in ("model_type", "rms_norm_eps")), "num_key_value_heads", "head_dim"],
)
@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, 2**31, 10**30])
def test_MDL_006_size_that_is_no_positive_integer_is_refused(key, value):
    refused("MDL-006", key, **{key: value})


@pytest.mark.parametrize("value", ["1e-5", 0, 0.0, -1e-5, math.nan, math.inf, True, 10**400])
def test_MDL_006_eps_that_is_no_positive_number_is_refused(value):
    refused("MDL-006", "rms_norm_eps", rms_norm_eps=value)


def test_MDL_004_hidden_size_that_heads_do_not_divide_is_refused():
    refused("MDL-004", "head_dim", hidden_size=13)
    assert parse(hidden_size=13, head_dim=4).head_dim == 4


def test_MDL_006_heads_that_key_value_heads_do_not_divide_are_refused():
    refused("MDL-006", "num_key_value_heads", num_key_value_heads=2)


def test_MDL_006_odd_head_dim_is_refused():
    refused("MDL-006", "head_dim", head_dim=5)


@pytest.mark.parametrize("activation", ["gelu", "relu", "SiLU", None])
def test_MDL_006_other_activation_is_refused(activation):
    refused("MDL-006", "hidden_act", hidden_act=activation)


def test_MDL_006_dropout_in_attention_is_refused():
    refused("MDL-006", "attention_dropout", attention_dropout=0.1)
    assert parse(attention_dropout=0.0) == parse()


def test_MDL_006_quantized_model_is_refused():
    refused("MDL-006", "quantization_config", quantization_config={"bits": 4})


@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("where", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", ["yarn", "longrope", "su", "proportional"])
def test_MDL_006_other_rope_type_is_refused(kind, where, key):
    refused("MDL-006", repr(kind), **{where: {key: kind, "factor": 2.0}})


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_MDL_006_rope_without_factor_is_refused(kind):
    refused("MDL-006", "factor", rope_scaling={"rope_type": kind})


@pytest.mark.parametrize("key", ["factor", "low_freq_factor", "high_freq_factor"])
def test_MDL_006_llama3_rope_without_a_needed_key_is_refused(key):
    refused("MDL-006", key, rope_scaling={name: value for name, value in LLAMA3.items() if name != key})


@pytest.mark.parametrize("key", ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1.0, "8", math.nan, True])
def test_MDL_006_rope_number_that_is_not_positive_is_refused(key, value):
    refused("MDL-006", key, rope_scaling=LLAMA3 | {"original_max_position_embeddings": 8} | {key: value})


@pytest.mark.parametrize("value", [0, -1.0, "10000", math.inf, True])
@pytest.mark.parametrize("style", ["old", "new"])
def test_MDL_006_rope_theta_that_is_not_positive_is_refused(value, style):
    changes = (
        {"rope_theta": value} if style == "old" else {"rope_parameters": {"rope_type": "default", "rope_theta": value}}
    )
    refused("MDL-006", "rope_theta", **changes)


def test_MDL_006_llama3_rope_with_equal_or_crossed_bounds_is_refused():
    for low in (4.0, 5.0):
        refused("MDL-006", "low_freq_factor", rope_scaling=LLAMA3 | {"low_freq_factor": low})


@pytest.mark.parametrize("where", ["rope_scaling", "rope_parameters"])
def test_MDL_006_rope_settings_that_are_no_object_are_refused(where):
    refused("MDL-006", where, **{where: ["linear", 2.0]})


def test_MDL_006_dynamic_rope_needs_more_than_one_pair():
    refused("MDL-006", "head_dim", head_dim=2, rope_scaling={"rope_type": "dynamic", "factor": 2.0})


@pytest.mark.parametrize("where", ["top", "rope_parameters"])
def test_MDL_006_partial_rotation_is_refused(where):
    partial = {"partial_rotary_factor": 0.5}
    refused(
        "MDL-006",
        "partial_rotary_factor",
        **(partial if where == "top" else {"rope_parameters": {"rope_type": "default"} | partial}),
    )
    assert parse(partial_rotary_factor=1.0) == parse()


@pytest.mark.parametrize("value", [0, -4, 4.0, "4", True])
@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_MDL_006_window_that_is_no_positive_integer_is_refused(family, value):
    refused("MDL-006", "sliding_window", model_type=family, sliding_window=value, use_sliding_window=True)


@pytest.mark.parametrize("value", [-1, 1.0, "1", True])
def test_MDL_006_max_window_layers_that_is_no_count_is_refused(value):
    refused(
        "MDL-006",
        "max_window_layers",
        model_type="qwen2",
        sliding_window=4,
        use_sliding_window=True,
        max_window_layers=value,
    )


@pytest.mark.parametrize(
    "kinds",
    [
        ["full_attention"] * 2,
        ["full_attention"] * 4,
        ["full_attention", "chunked_attention", "full_attention"],
        "full_attention",
        3,
        [[], [], []],
    ],
)
def test_MDL_006_layer_types_that_do_not_name_every_layer_are_refused(kinds):
    refused(
        "MDL-006",
        "layer_types",
        model_type="qwen2",
        sliding_window=4,
        use_sliding_window=True,
        layer_types=kinds,
    )


def test_MDL_006_a_switch_without_its_window_is_refused():
    refused("MDL-006", "sliding_window", model_type="qwen2", use_sliding_window=True, sliding_window=...)


def test_MDL_006_sliding_layer_without_a_window_is_refused():
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    refused("MDL-006", "sliding_window", model_type="qwen3", layer_types=kinds)


@pytest.mark.parametrize("key", ["tie_word_embeddings", "attention_bias", "mlp_bias"])
@pytest.mark.parametrize("value", ["false", 0.5, []])
def test_MDL_006_switch_that_is_no_boolean_is_refused(key, value):
    refused("MDL-006", key, **{key: value})


# What a family fixes


def test_MDL_002_biases_of_each_family():
    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    both = {"attention_bias": True, "mlp_bias": True}
    assert parse().biased == set()
    assert parse(attention_bias=True).biased == attention
    assert parse(mlp_bias=True).biased == mlp
    assert parse(**both).biased == attention | mlp
    assert parse(model_type="mistral", **both).biased == set()
    assert parse(model_type="qwen2", attention_bias=False).biased == {"q_proj", "k_proj", "v_proj"}
    assert parse(model_type="qwen3").biased == set()
    assert parse(model_type="qwen3", **both).biased == attention


def test_MDL_002_only_qwen3_normalises_queries_and_keys():
    families = ("llama", "mistral", "qwen2", "qwen3")
    assert [parse(model_type=family).qk_norm for family in families] == [False, False, False, True]


def test_MDL_003_mistral_slides_everywhere_or_nowhere():
    assert parse(model_type="mistral", sliding_window=4).windows == (4, 4, 4)
    assert parse(model_type="mistral", sliding_window=None).windows == (None, None, None)
    assert parse(model_type="mistral").windows == (None, None, None)
    assert parse(model_type="llama", sliding_window=4).windows == (None, None, None)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_MDL_003_qwen_slides_from_a_layer_on(family):
    sliding = {"model_type": family, "sliding_window": 4, "use_sliding_window": True}
    assert parse(**sliding, max_window_layers=1).windows == (None, 4, 4)
    assert parse(**sliding, max_window_layers=0).windows == (4, 4, 4)
    assert parse(**sliding, max_window_layers=3).windows == (None, None, None)
    assert parse(**(sliding | {"use_sliding_window": False}), max_window_layers=1).windows == (
        None,
        None,
        None,
    )
    assert parse(model_type=family, sliding_window=4, max_window_layers=1).windows == (None, None, None)


@pytest.mark.parametrize("switch", [{"use_sliding_window": True}, {}])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_MDL_003_layer_types_decide_where_they_are_given(family, switch):
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    parsed = parse(model_type=family, sliding_window=4, max_window_layers=3, layer_types=kinds, **switch)
    assert parsed.windows == (4, None, 4)


# Defaults


def test_MDL_004_defaults():
    parsed = parse()
    assert (parsed.head_dim, parsed.num_key_value_heads) == (4, 3)
    assert parse(head_dim=None, num_key_value_heads=None) == parsed
    assert parse(head_dim=6).head_dim == 6
    assert parse(num_key_value_heads=1).num_key_value_heads == 1
    assert parsed.rope == Rope("default", 10000.0)
    assert not parsed.tie_word_embeddings
    assert parsed.biased == frozenset()
    assert parse(hidden_act="silu") == parsed


def test_MDL_004_rope_settings_in_both_styles():
    linear = Rope("linear", 500.0, factor=2.0)
    assert parse(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.0}).rope == linear
    assert parse(rope_theta=500, rope_scaling={"rope_type": "linear", "factor": 2}).rope == linear
    assert parse(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}).rope == linear
    assert parse(rope_theta=500.0, rope_parameters={"rope_type": "linear", "factor": 2.0}).rope == linear
    assert parse(rope_theta=500.0, rope_scaling=None).rope == Rope("default", 500.0)
    assert parse(rope_parameters={"rope_theta": 500.0}).rope == Rope("default", 500.0)


def test_MDL_004_llama3_rope_keeps_its_original_context():
    with_context = parse(rope_scaling=LLAMA3 | {"original_max_position_embeddings": 8}).rope
    assert with_context == Rope("llama3", 10000.0, 8.0, 1.0, 4.0, 8)
    assert parse(rope_scaling=LLAMA3).rope.original_max_position_embeddings == SMALL["max_position_embeddings"]


# Names and shapes


def test_MDL_007_targets_block_by_block_in_order():
    parsed = parse(
        num_hidden_layers=2, num_key_value_heads=1, head_dim=6, tie_word_embeddings=True, attention_bias=True
    )
    shapes = {
        "self_attn.q_proj": (18, 12), "self_attn.k_proj": (6, 12), "self_attn.v_proj": (6, 12),
        "self_attn.o_proj": (12, 18),
        "mlp.gate_proj": (5, 12), "mlp.up_proj": (5, 12), "mlp.down_proj": (12, 5),
    }  # fmt: skip
    expected = [Matrix(f"model.layers.{i}.{part}.weight", shape) for i in (0, 1) for part, shape in shapes.items()]
    assert list(parsed.targets()) == expected


def test_MDL_005_tied_model_has_no_lm_head():
    assert parse().parameters()["lm_head.weight"] == (7, 12)
    assert "lm_head.weight" not in parse(tie_word_embeddings=True).parameters()


def test_CKP_002_parameters_of_the_largest_block():
    parsed = parse(model_type="qwen3", attention_bias=True, num_hidden_layers=1, head_dim=6, tie_word_embeddings=True)
    block = "model.layers.0"
    assert parsed.parameters() == {
        "model.embed_tokens.weight": (7, 12),
        f"{block}.input_layernorm.weight": (12,),
        f"{block}.self_attn.q_proj.weight": (18, 12), f"{block}.self_attn.q_proj.bias": (18,),
        f"{block}.self_attn.k_proj.weight": (18, 12), f"{block}.self_attn.k_proj.bias": (18,),
        f"{block}.self_attn.v_proj.weight": (18, 12), f"{block}.self_attn.v_proj.bias": (18,),
        f"{block}.self_attn.o_proj.weight": (12, 18), f"{block}.self_attn.o_proj.bias": (12,),
        f"{block}.self_attn.q_norm.weight": (6,), f"{block}.self_attn.k_norm.weight": (6,),
        f"{block}.mlp.gate_proj.weight": (5, 12), f"{block}.mlp.up_proj.weight": (5, 12),
        f"{block}.mlp.down_proj.weight": (12, 5),
        f"{block}.post_attention_layernorm.weight": (12,),
        "model.norm.weight": (12,),
    }  # fmt: skip
