"""Which layers of a model are wrapped or adapted: the linear layers of the blocks, in every family of transformers."""

import re
import warnings

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from peft import PeftModel, get_peft_model  # noqa: E402

from seft_ports.peft import SeftConfig, SeftLayer, mask_zeros, stored_weights  # noqa: E402
from seft_ports.pytorch import Evolution, SeftError, SeftOptimizer, Settings, layers_of, load_sparse, merge, wrap  # noqa: E402
from seft_ports.pytorch import save_sparse as save  # noqa: E402
from seft_ports.pytorch.model import targets_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
SEQ2SEQ = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8}
MLA = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
QKVO = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
GLU = "mlp.gate_proj mlp.up_proj mlp.down_proj"
FC = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj fc1 fc2"
NEOX = "attention.query_key_value attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h"
CROSS = "encoder_attn.q_proj encoder_attn.k_proj encoder_attn.v_proj encoder_attn.out_proj"

# name: class, config, the layers of each block by the block's name in the model
FAMILIES = {
    "llama": ("LlamaForCausalLM", LLAMA, {"model.layers.#": f"{QKVO} {GLU}"}),
    "gemma-3": ("Gemma3ForCausalLM", LLAMA | {"head_dim": 8}, {"model.layers.#": f"{QKVO} {GLU}"}),
    "olmo-2": ("Olmo2ForCausalLM", LLAMA, {"model.layers.#": f"{QKVO} {GLU}"}),
    "stablelm": ("StableLmForCausalLM", LLAMA, {"model.layers.#": f"{QKVO} {GLU}"}),
    "starcoder-2": ("Starcoder2ForCausalLM", LLAMA, {"model.layers.#": f"{QKVO} mlp.c_fc mlp.c_proj"}),
    "phi-2": (
        "PhiForCausalLM",
        LLAMA,
        {"model.layers.#": f"{QKVO.replace('o_proj', 'dense')} mlp.fc1 mlp.fc2"},
    ),
    "phi-3": (
        "Phi3ForCausalLM",
        LLAMA,
        {"model.layers.#": "self_attn.qkv_proj self_attn.o_proj mlp.gate_up_proj mlp.down_proj"},
    ),
    "mixtral": ("MixtralForCausalLM", LLAMA | {"num_local_experts": 2}, {"model.layers.#": QKVO}),
    "qwen-3-moe": ("Qwen3MoeForCausalLM", LLAMA | MOE, {"model.layers.#": QKVO}),
    "deepseek-3": (
        "DeepseekV3ForCausalLM",
        LLAMA | MLA,
        {
            "model.layers.#": "self_attn.q_a_proj self_attn.q_b_proj self_attn.kv_a_proj_with_mqa self_attn.kv_b_proj "
            "self_attn.o_proj",
            "model.layers.0": GLU,
            "model.layers.1": GLU.replace("mlp.", "mlp.shared_experts."),
        },
    ),
    "falcon": (
        "FalconForCausalLM",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 50,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        {"transformer.h.#": NEOX.replace("attention.", "self_attention.")},
    ),
    "bloom": (
        "BloomForCausalLM",
        {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50},
        {"transformer.h.#": NEOX.replace("attention.", "self_attention.")},
    ),
    "pythia": ("GPTNeoXForCausalLM", LLAMA, {"gpt_neox.layers.#": NEOX}),
    "gpt-j": (
        "GPTJForCausalLM",
        GPT | {"rotary_dim": 4},
        {"transformer.h.#": "attn.q_proj attn.k_proj attn.v_proj attn.out_proj mlp.fc_in mlp.fc_out"},
    ),
    "mpt": (
        "MptForCausalLM",
        {"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": 50},
        {"transformer.blocks.#": "attn.Wqkv attn.out_proj ffn.up_proj ffn.down_proj"},
    ),
    "opt": ("OPTForCausalLM", LLAMA | {"ffn_dim": 24, "word_embed_proj_dim": 16}, {"model.decoder.layers.#": FC}),
    "bart": (
        "BartForConditionalGeneration",
        SEQ2SEQ,
        {"model.encoder.layers.0": FC, "model.decoder.layers.0": f"{FC} {CROSS}"},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        SEQ2SEQ | {"suppress_tokens": [], "begin_suppress_tokens": [3]},
        {"model.encoder.layers.0": FC, "model.decoder.layers.0": f"{FC} {CROSS}"},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "d_model": 16,
            "d_ff": 24,
            "d_kv": 8,
            "num_layers": 2,
            "num_heads": 2,
            "vocab_size": 50,
            "feed_forward_proj": "gated-gelu",
            "decoder_start_token_id": 0,
        },
        {
            "encoder.block.#.layer.0.SelfAttention": "q k v o",
            "encoder.block.#.layer.1.DenseReluDense": "wi_0 wi_1 wo",
            "decoder.block.#.layer.0.SelfAttention": "q k v o",
            "decoder.block.#.layer.1.EncDecAttention": "q k v o",
            "decoder.block.#.layer.2.DenseReluDense": "wi_0 wi_1 wo",
        },
    ),
    "bert": (
        "BertForSequenceClassification",
        {k: LLAMA[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
        {
            "bert.encoder.layer.#": "attention.self.query attention.self.key attention.self.value "
            "attention.output.dense intermediate.dense output.dense"
        },
    ),
    "vit": (
        "ViTForImageClassification",
        VISION,
        {"vit.layers.#": f"{QKVO.replace('self_attn', 'attention')} mlp.fc1 mlp.fc2"},
    ),
    "clip": (
        "CLIPModel",
        {"text_config": LLAMA, "vision_config": VISION, "projection_dim": 8},
        {
            f"{part}_model.encoder.layers.#": FC.replace("fc1", "mlp.fc1").replace("fc2", "mlp.fc2")
            for part in ("text", "vision")
        },
    ),
}
CAUSAL = [name for name, (kind, *_) in FAMILIES.items() if kind.endswith("CausalLM")]
IDS = torch.arange(3, 19).reshape(2, 8)


def expected(name):
    """Return the names that the table says, # being 0 and 1."""
    blocks = FAMILIES[name][2].items()
    return {f"{block.replace('#', i)}.{layer}" for block, layers in blocks for layer in layers.split() for i in "01"}


def pruned(name, also=()):
    """Return a tiny model with random weights, half of those of its block's linear layers 0, and of those of `also`."""
    kind, sizes, _ = FAMILIES[name]
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    made = cls(cls.config_class(**sizes)).float().eval()
    for path in (*(f"{layer}.weight" for layer in sorted(expected(name))), *also):
        weight = made.get_parameter(path).data
        weight[torch.rand(weight.shape) < 0.5] = 0
    return made


def adapted(model, **other):
    return get_peft_model(model, SeftConfig(density=0.1, evolve_every=2, preset="seft", **other))


def trained(model, settings):
    """Train for five steps with two events."""
    optimizer = SeftOptimizer(model, lr=0.01)
    evolution = Evolution(model, optimizer, settings, 5)
    evolution.attach(max_norm=1.0)
    for _ in range(5):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def warned(caught):
    return [str(one.message) for one in caught if "adapted" in str(one.message)]


@pytest.mark.parametrize("name", FAMILIES)
def test_mdl_007_every_linear_layer_of_the_blocks_is_adapted_wrapped_and_counted(name):
    want = expected(name)
    model = pruned(name)
    weights = [model.get_submodule(layer).weight for layer in want]
    masks = mask_zeros(model)
    assert masks.keys() == want
    assert sum(int(mask.sum()) for mask in masks.values()) == stored_weights(model).stored
    assert stored_weights(model).positions == sum(weight.numel() for weight in weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tuned = adapted(model)
    assert warned(caught) == []
    got = {n.removeprefix("base_model.model.") for n, module in tuned.named_modules() if isinstance(module, SeftLayer)}
    assert got == want
    assert layers_of(wrap(pruned(name), Settings(density=0.1), masks)).keys() == want


@pytest.mark.parametrize("name", CAUSAL)
def test_a_model_of_any_family_stays_as_sparse_in_both_forms(name, tmp_path):
    tuned, plain = adapted(pruned(name)), pruned(name)
    settings = tuned.peft_config["default"].settings()
    before = stored_weights(tuned)
    wrapped = wrap(plain, settings, mask_zeros(plain))
    for model in (tuned, wrapped):
        trained(model.train(), settings)
    answers = [model.eval()(IDS).logits for model in (tuned, wrapped)]
    supports = merge(wrapped)
    merged = tuned.merge_and_unload()
    for answer, model in zip(answers, (merged, wrapped), strict=True):
        assert torch.equal(model(IDS).logits, answer)
        # an adapt pass may leave fewer weights than it may keep, never more
        assert stored_weights(model).stored <= before.stored
    assert stored_weights(merged) == stored_weights(wrapped)
    save(merged, tmp_path / "sparse")
    again = load_sparse(pruned(name), tmp_path / "sparse")
    assert {n for n, one in again.named_modules() if "seft_mask" in one._buffers} == supports.keys()
    assert torch.equal(again(IDS).logits, answers[0])


@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_pruned_experts_that_are_not_trained_are_named(targets):
    experts = [f"model.layers.{i}.mlp.experts.{part}" for i in range(2) for part in ("gate_up_proj", "down_proj")]
    model = pruned("mixtral", experts)
    zeros = {n: int((weight == 0).sum()) for n, weight in model.named_parameters() if weight.ndim > 1}
    mine = sum(zeros[f"{layer}.weight"] for layer in expected("mixtral"))
    every = mine + sum(zeros[expert] for expert in experts)
    with pytest.warns(UserWarning, match="partly-adapted") as caught:
        adapted(model, target_modules=targets)
    (message,) = warned(caught)
    share = re.search(r"\((.*) %\)", message)[1]
    assert message == (
        f"partly-adapted: adapts {mine:,} of {every:,} pruned weights ({share} %), "
        "not: model.layers.*.mlp.experts.gate_up_proj, model.layers.*.mlp.experts.down_proj; these stay as they are"
    )
    assert 100 * mine / every - 0.1 < float(share) <= 100 * mine / every


def test_pruned_heads_and_layers_left_out_on_purpose_are_named(tmp_path):
    model = pruned("phi-2", ["lm_head.weight"])
    with pytest.warns(UserWarning, match=r"not: model.layers.\*.mlp.fc2, lm_head; these stay"):
        tuned = adapted(model, exclude_modules=["fc2"])
    tuned.save_pretrained(tmp_path)
    # who loads the adapter has been told when it was made
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(pruned("phi-2", ["lm_head.weight"]), tmp_path)
    assert warned(caught) == []


def test_a_few_zeros_are_not_pruned_weights():
    model = pruned("phi-2")
    head = model.lm_head.weight.data
    head.view(-1)[: head.numel() // 16 - 1] = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted(model)
    assert warned(caught) == []


def test_mdl_007_a_model_without_linear_layers_in_blocks_is_refused():
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT))
    for make in (adapted, lambda model: wrap(model, Settings(density=0.1), {})):
        with pytest.raises(SeftError, match=r"MDL-007: no block of the model has a torch.nn.Linear; Conv1D"):
            make(model)


def test_an_ending_that_another_module_has_too_does_not_reach_it():
    block = torch.nn.ModuleDict({"dense": torch.nn.Linear(4, 4), "mixer": torch.nn.Sequential(torch.nn.Linear(4, 4))})
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([block]), "dense": torch.nn.Linear(4, 4)})
    model.config = {"model_type": "custom"}
    tuned = adapted(model)
    got = {n.removeprefix("base_model.model.") for n, module in tuned.named_modules() if isinstance(module, SeftLayer)}
    assert got == {"blocks.0.dense", "blocks.0.mixer.0"}


def test_mdl_007_a_layer_that_computes_something_else_is_refused():
    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.ModuleDict({"fc": Scaled(4, 4)})])})
    with pytest.raises(SeftError, match=r"MDL-007: blocks.0.fc is a Scaled, expected torch.nn.Linear"):
        wrap(model, Settings(density=0.1), mask_zeros(model))


def test_evt_002_a_layer_whose_weight_is_read_without_a_call_is_named():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 50, "state_size": 4, "bos_token_id": 1}
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes, eos_token_id=2, pad_token_id=0))
    for layer in targets_of(model).values():
        layer.weight.data[:, ::2] = 0
    tuned = adapted(model)
    with pytest.raises(SeftError, match=r"EVT-002: matrix 2 has no gradient .* leave it out by exclude_modules"):
        trained(tuned, tuned.peft_config["default"].settings())
    assert list(layers_of(tuned))[2].endswith("mixer.dt_proj.seft_delta.default")
    tuned = adapted(tuned.unload(), exclude_modules=["dt_proj"])
    trained(tuned, tuned.peft_config["default"].settings())
