"""RoPE settings that stand twice, beside each other or under two names (MDL-009 to MDL-012), and what transformers
makes of them.
"""

import json

import pytest

from seft_ref.errors import ConfigError
from seft_ref.layers.rope import Rope, rope_frequencies
from seft_ref.model.config import ModelConfig

CONTEXT = "original_max_position_embeddings"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
BASE = {
    "vocab_size": 7,
    "hidden_size": 16,
    "intermediate_size": 5,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "sliding_window": None,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
LINEAR = {"rope_type": "linear", "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 2.0}

ACCEPTED = {
    "two that agree": {"rope_parameters": LINEAR | {"rope_theta": 500.0}, "rope_theta": 500.0, "rope_scaling": LINEAR},
    "one empty": {"rope_parameters": LINEAR, "rope_scaling": {}},
    "one null": {"rope_parameters": None, "rope_scaling": LINEAR},
    "base inside goes first": {"rope_parameters": LINEAR | {"rope_theta": 500.0}, "rope_theta": 100.0},
    "base inside rope_scaling": {"rope_scaling": LINEAR | {"rope_theta": 500.0}},
    "old name": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "both names": {"rope_scaling": LINEAR | {"type": "linear"}},
    "base alone": {"rope_parameters": {"rope_theta": 500.0}},
    "keys of other types": {"rope_scaling": LINEAR | {CONTEXT: 8, "attention_factor": 3.0, "beta_fast": 1}},
    "dynamic does not look at a context": {"rope_scaling": DYNAMIC | {CONTEXT: 8}, CONTEXT: 16},
    "context nowhere": {"rope_scaling": LLAMA3},
    "context inside": {"rope_scaling": LLAMA3 | {CONTEXT: 16}},
    "context beside": {"rope_scaling": LLAMA3, CONTEXT: 16},
    "context beside rope_parameters": {"rope_parameters": LLAMA3 | {"rope_theta": 500.0}, CONTEXT: 16},
    "context twice": {"rope_scaling": LLAMA3 | {CONTEXT: 16}, CONTEXT: 16},
}
REFUSED = {
    "other factor": ({"rope_parameters": LINEAR, "rope_scaling": LINEAR | {"factor": 4.0}}, "MDL-009"),
    "other type": ({"rope_parameters": LINEAR, "rope_scaling": DYNAMIC}, "MDL-009"),
    "other base": ({"rope_parameters": LINEAR | {"rope_theta": 500.0}, "rope_scaling": LINEAR}, "MDL-009"),
    "default beside": ({"rope_parameters": {"rope_theta": 500.0}, "rope_scaling": LINEAR}, "MDL-009"),
    "yarn in the first": ({"rope_parameters": YARN, "rope_scaling": LINEAR}, "MDL-006"),
    "yarn in the second": ({"rope_parameters": LINEAR, "rope_scaling": YARN}, "MDL-006"),
    "a list as type": ({"rope_scaling": {"rope_type": ["linear"], "factor": 2.0}}, "MDL-006"),
    "an empty type": ({"rope_scaling": {"rope_type": "", "factor": 2.0}}, "MDL-006"),
    "two types": ({"rope_scaling": LINEAR | {"type": "dynamic"}}, "MDL-010"),
    "yarn under the other name": ({"rope_scaling": LINEAR | {"type": "yarn"}}, "MDL-010"),
    "no type": ({"rope_scaling": {"factor": 2.0}}, "MDL-010"),
    "two contexts": ({"rope_scaling": LLAMA3 | {CONTEXT: 16}, CONTEXT: 32}, "MDL-011"),
    "a context that is none": ({"rope_scaling": LLAMA3, CONTEXT: 0}, "MDL-006"),
    "by kind of layer": ({"rope_parameters": {"full_attention": LINEAR}}, "MDL-012"),
    "by kind of layer beside a type": ({"rope_parameters": LINEAR | {"full_attention": {}}}, "MDL-012"),
}


def parse(family, changes):
    return ModelConfig.from_json(BASE | {"model_type": family} | changes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", REFUSED)
def test_MDL_009_to_012_what_contradicts_itself_is_refused_with_the_key(name, family):
    changes, clause = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        parse(family, changes)
    assert caught.value.clause == clause
    keys = [key for key in changes if key in ("rope_parameters", "rope_scaling", CONTEXT)]
    assert any(key in str(caught.value) for key in keys), str(caught.value)


def test_MDL_009_the_error_names_both_objects_and_what_they_say():
    with pytest.raises(ConfigError, match=r"rope_parameters and rope_scaling.*factor=2\.0.*factor=4\.0"):
        parse("llama", REFUSED["other factor"][0])


def test_MDL_011_the_original_context_stands_inside_or_beside():
    for name, context in (("nowhere", 64), ("inside", 16), ("beside", 16), ("twice", 16)):
        assert parse("llama", ACCEPTED[f"context {name}"]).rope == Rope("llama3", 10000.0, 8.0, 1.0, 4.0, context)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ACCEPTED)
def test_MDL_009_to_011_what_is_accepted_rotates_as_in_transformers(name, family):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ours = parse(family, ACCEPTED[name])
    # a copy: transformers writes into what it is given
    theirs = transformers.CONFIG_MAPPING[family].from_dict(json.loads(json.dumps(BASE | ACCEPTED[name])))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    rotary = type(model.model.rotary_emb)(theirs)
    expected = rope_frequencies(ours.rope, ours.head_dim, 8, ours.max_position_embeddings)
    assert rotary.inv_freq.tolist() == pytest.approx(expected, rel=1e-6)
    assert rotary.attention_scaling == 1.0
