"""The families against transformers in float32: config, logits, loss, every gradient (MDL-001, NUM-004)."""

import json

import numpy as np
import pytest

from seft_ref.kernels import reference
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import model_forward
from seft_ref.text.batch import Batch
from seft_ref.text.generate import generate_tokens
from seft_ref.train.gradients import every_gradient
from tests.backends import BACKENDS
from tests.seft_ref.families import CONFIGS, labels_of, padding, parameters_of, tokens_of, weights_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

BOUND = 1e-4
FLOAT32 = BACKENDS["numpy-float32"]


def hugging_config(config_json):
    """Return the transformers config that a config.json of this content gives."""
    settings = {key: value for key, value in config_json.items() if key != "model_type"}
    # every family keeps its padding and end tokens out of the tiny vocabulary
    return transformers.AutoConfig.for_model(
        config_json["model_type"], **settings, pad_token_id=None, bos_token_id=None, eos_token_id=None
    )


def hugging_model(config, named):
    """Return the transformers model with these parameters; all must be taken and none be missing."""
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.eval()
    given = {name: torch.tensor(value, dtype=torch.float32) for name, value in named.items()}
    if config.tie_word_embeddings:
        given["lm_head.weight"] = given["model.embed_tokens.weight"]
    model.load_state_dict(given, strict=True)
    assert not config.tie_word_embeddings or model.lm_head.weight is model.model.embed_tokens.weight
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_MDL_004_old_and_new_config_keys_mean_the_same(family):
    old = CONFIGS[family]
    new = json.loads(hugging_config(old).to_json_string())
    assert "rope_parameters" in new
    assert "rope_theta" not in new
    assert not new.get("rope_scaling")
    assert ModelConfig.from_json(new) == ModelConfig.from_json(old)


@pytest.mark.parametrize(
    ("pad", "style"),
    [
        ("none", "rope_parameters"),
        ("left", "rope_theta"),
        ("left", "rope_parameters"),
        ("right", "rope_parameters"),
    ],
)
@pytest.mark.parametrize("family", CONFIGS)
def test_MDL_001_logits_loss_and_every_gradient(family, pad, style, within):
    theirs = hugging_config(CONFIGS[family])
    config = ModelConfig.from_json(CONFIGS[family] if style == "rope_theta" else json.loads(theirs.to_json_string()))
    named = parameters_of(config, 21)
    model = hugging_model(theirs, named)
    assert model.config._attn_implementation == "eager"

    tokens, mask = tokens_of(config, 22), padding(pad)
    labels = labels_of(tokens, mask)
    if mask is not None:
        # what a padded position predicts is not comparable: transformers lets such a query look somewhere
        labels[:, 1:][~mask[:, :-1]] = -100
    real = np.ones(tokens.shape, dtype=bool) if mask is None else mask
    out = model(
        input_ids=torch.tensor(tokens),
        labels=torch.tensor(labels),
        attention_mask=torch.tensor(real.astype(np.int64)),
    )
    out.loss.backward()

    weights = weights_of(config, FLOAT32.arrays(named), FLOAT32)
    logits, _ = model_forward(tokens, weights, config, reference, mask)
    assert logits.dtype == np.float32
    within(f"transformers {family}", logits[real], out.logits.detach().numpy()[real], BOUND, "logits")
    loss, gradients = every_gradient(weights, config, [Batch(tokens, labels, mask)], reference)
    within(f"transformers {family}", loss, out.loss.item(), BOUND, "loss")
    wanted = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert set(gradients) == set(wanted)
    for name, gradient in gradients.items():
        within(f"transformers {family}", gradient, wanted[name], BOUND, name)


@pytest.mark.parametrize("family", ["llama-gqa", "llama3", "mistral", "qwen2-max_window_layers", "qwen3", "smollm2"])
def test_GEN_003_greedy_texts_are_those_of_transformers(family):
    config = ModelConfig.from_json(CONFIGS[family])
    named = parameters_of(config, 24)
    model = hugging_model(hugging_config(CONFIGS[family]), named)
    weights = weights_of(config, FLOAT32.arrays(named), FLOAT32)
    for prompt in ([5, 2, 11, 7], [0], tokens_of(config, 25, (1, 20))[0].tolist()):
        given = torch.tensor([prompt])
        theirs = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=25, pad_token_id=0
        )
        ours = list(generate_tokens(prompt, weights, config, reference, max_tokens=25))
        assert ours == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (5, 1.0), (None, 0.7), (7, 0.8)])
def test_GEN_004_what_stays_is_what_transformers_keeps(top_k, top_p):
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    from seft_ref.text.sampling import Sampling, pick

    logits = np.random.default_rng(7).standard_normal(23) * 2
    steps = [TemperatureLogitsWarper(0.6)]
    steps += [] if top_k is None else [TopKLogitsWarper(top_k)]
    steps += [] if top_p == 1 else [TopPLogitsWarper(top_p)]
    left = LogitsProcessorList(steps)(None, torch.tensor(logits[None]))
    shares = torch.softmax(left, -1)[0].numpy()
    sampling = Sampling(0.6, top_k, top_p, 3)
    found = np.bincount([pick(logits, sampling, i) for i in range(8000)], minlength=23)
    assert not found[shares == 0].any()
    assert np.all(np.abs(found - 8000 * shares) <= 4.5 * np.sqrt(8000 * shares * (1 - shares)) + 1e-9)
