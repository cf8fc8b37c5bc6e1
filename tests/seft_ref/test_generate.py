"""Readings behind a context against one forward over everything, and where a text ends (GEN)."""

import json
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from seft_ref.errors import GenerateError, LayerError
from seft_ref.files.model import load_model, stop_tokens
from seft_ref.kernels import NAMES, cpu, reference
from seft_ref.layers import past as past_module
from seft_ref.layers.past import NOTHING, extend
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import model_forward
from seft_ref.text.generate import generate_tokens, nothing_read, read
from seft_ref.text.sampling import Sampling, pick
from tests.backends import BACKENDS, REFERENCE
from tests.compare import assert_close, same_bits
from tests.seft_ref.families import CONFIGS, parameters_of, tokens_of, weights_of
from tests.seft_ref.folders import CONFIG, hf_folder, sparse_folder

LONGEST = 9


def refused(call):
    with pytest.raises(GenerateError) as error:
        call()
    return error.value


def model_of(family, backend=REFERENCE, seed=31):
    config = ModelConfig.from_json(CONFIGS[family])
    return config, weights_of(config, backend.arrays(parameters_of(config, seed)), backend)


def read_in_parts(tokens, parts, weights, config, kernels=reference):
    """Return the logits behind each part."""
    context, found = nothing_read(config), []
    for n in parts:
        part = tokens[:, context.length : context.length + n]
        logits, context = read(part, context, weights, config, kernels)
        found.append(logits)
    return found


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(past_module, "CHUNK", 2)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_GEN_001_readings_equal_one_forward(family, backend, small_chunks):
    config, weights = model_of(family, backend)
    length = min(LONGEST, config.max_position_embeddings)
    tokens = backend.array(tokens_of(config, 32, (3, length)))
    whole = backend.numpy(model_forward(tokens, weights, config, reference)[0])
    for parts in ([1] * length, [3, 1, length - 4], [length]):
        parts = [n for n in parts if n]
        for logits, end in zip(read_in_parts(tokens, parts, weights, config), np.cumsum(parts), strict=True):
            assert backend.owns(logits)
            assert_close(backend.numpy(logits), whole[:, end - 1], backend.tight, f"{family} after {end}")


def test_GEN_001_a_first_token_at_another_place_is_seen():
    # what the test above rests on: a model whose answers depend on places and on far tokens
    config, weights = model_of("llama-gqa")
    tokens = tokens_of(config, 32, (1, 6))
    whole, alone = (read_in_parts(t, [t.shape[1]], weights, config)[0] for t in (tokens, tokens[:, 3:]))
    assert np.abs(whole - alone).max() > 0.1 * np.abs(whole).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_GEN_001_sparse_weights_in_compiled_kernels(tmp_path, dtype):
    folder = sparse_folder(tmp_path / "s", CONFIG | {"hidden_size": 64, "intermediate_size": 96})
    model = load_model(folder, cpu, dtype)
    tokens = np.random.default_rng(3).integers(0, 256, (2, 40))
    whole, _ = model_forward(tokens, model.weights, model.config, cpu)
    parts = [33, 1, 1, 5]
    ends = np.cumsum(parts)
    for logits, end in zip(read_in_parts(tokens, parts, model.weights, model.config, cpu), ends, strict=True):
        assert_close(logits, whole[:, end - 1], 1e-5 if dtype == "float32" else 1e-12)


def test_GEN_001_two_texts_go_on_from_one_context(small_chunks):
    config, weights = model_of("mistral")
    tokens = tokens_of(config, 33, (1, 9))
    _, context = read(tokens[:, :3], nothing_read(config), weights, config, reference)
    held = [(past.keys.copy(), past.values.copy()) for past in context.blocks]
    # both have room for their fourth token in the memory of the first three
    first, one = read(tokens[:, 3:4], context, weights, config, reference)
    other, two = read(tokens[:, 6:7], context, weights, config, reference)
    again, _ = read(tokens[:, 3:4], context, weights, config, reference)
    assert same_bits(first, again)
    assert np.abs(first - other).max() > 0.01
    for branch, fourth in ((one, 3), (two, 6)):
        logits, _ = read(tokens[:, 8:9], branch, weights, config, reference)
        whole, _ = model_forward(tokens[:, [0, 1, 2, fourth, 8]], weights, config, reference)
        assert_close(logits, whole[:, -1], 1e-12)
    for past, (keys, values) in zip(context.blocks, held, strict=True):
        assert same_bits(past.keys, keys)
        assert same_bits(past.values, values)


def test_a_past_grows_in_place_and_copies_only_where_it_must(small_chunks):
    def of(n, at):
        return np.full((1, 1, n, 2), float(at))

    one = extend(NOTHING, of(1, 1), of(1, 1))
    two = extend(one, of(1, 2), of(1, 2))
    assert two.room is one.room  # a chunk has room for two
    three = extend(two, of(1, 3), of(1, 3))
    assert three.room is not two.room
    branch = extend(one, of(1, 9), of(1, 9))
    assert branch.room is not one.room
    assert three.keys[0, 0, :, 0].tolist() == [1, 2, 3]
    assert branch.keys[0, 0, :, 0].tolist() == [1, 9]
    assert (one.length, one.keys.shape[2], NOTHING.keys, NOTHING.values) == (1, 1, None, None)


def test_GEN_002_what_cannot_be_read_is_refused():
    config, weights = model_of("llama-dynamic")  # five positions
    tokens = tokens_of(config, 34, (2, 6))
    start = nothing_read(config)
    for call in (
        lambda: read(tokens, start, weights, config, reference),
        lambda: read(tokens[:, :0], start, weights, config, reference),
        lambda: generate_tokens([], weights, config, reference),
        lambda: generate_tokens([1] * 6, weights, config, reference),
    ):
        assert refused(call).clause == "GEN-002"
    _, context = read(tokens[:, :4], start, weights, config, reference)
    assert "5 of max_position_embeddings" in str(
        refused(lambda: read(tokens[:, :2], context, weights, config, reference))
    )
    assert "2 rows" in str(refused(lambda: read(tokens[:1, :1], context, weights, config, reference)))
    with pytest.raises(LayerError, match="LYR-001"):
        read(tokens[:, :1] + 99, context, weights, config, reference)
    # a refusal leaves the context as it was
    read(tokens[:, :1], context, weights, config, reference)


def slow_text(prompt, weights, config, most, sampling=None, stops=()):
    """Return what follows, every token from a forward over all tokens."""
    tokens = list(prompt)
    while True:
        logits = model_forward(np.array([tokens]), weights, config, reference)[0][0, -1]
        tokens.append(pick(logits, sampling, len(tokens)) if sampling else int(np.argmax(logits)))
        new = tokens[len(prompt) :]
        if new[-1] in stops or len(new) == most or len(tokens) > config.max_position_embeddings:
            return new


@pytest.mark.parametrize("family", ["llama-gqa", "mistral", "qwen2-layer_types", "qwen3-sliding", "smollm2"])
def test_GEN_003_007_texts_equal_those_of_whole_forwards(family, monkeypatch):
    config, weights = model_of(family)
    prompt = [5, 2, 11, 7, 0]
    warm = Sampling(1.0, top_k=9, top_p=0.95, seed=4)
    wanted = slow_text(prompt, weights, config, 12)
    drawn = slow_text(prompt, weights, config, 12, warm)
    assert wanted != drawn
    for block in (1, 2, 5, 256):
        monkeypatch.setattr(import_module("seft_ref.text.generate"), "PROMPT_BLOCK", block)
        assert list(generate_tokens(prompt, weights, config, reference, max_tokens=12)) == wanted
    # how the prompt was read does not reach what draws
    assert list(generate_tokens(prompt, weights, config, reference, max_tokens=12, sampling=warm)) == drawn


def test_GEN_007_where_a_text_ends():
    config, weights = model_of("llama-gqa")
    prompt = [5, 2, 11]
    whole = list(generate_tokens(prompt, weights, config, reference))
    # 64 positions: 3 of the prompt, and one token more is picked behind the last of them
    assert len(whole) == 62
    assert list(generate_tokens(prompt, weights, config, reference, max_tokens=7)) == whole[:7]
    stop = whole[5]
    first = whole.index(stop)
    found = list(generate_tokens(prompt, weights, config, reference, stops=(99, stop)))
    assert found == whole[: first + 1]
    assert refused(lambda: generate_tokens(prompt, weights, config, reference, max_tokens=0)).clause == "GEN-007"
    assert list(generate_tokens(prompt + whole[:61], weights, config, reference)) == whole[61:]


def test_tokens_come_one_by_one():
    config, weights = model_of("llama-gqa")
    calls = []

    def counted(name):
        def call(*given):
            calls.append(name)
            return getattr(reference, name)(*given)

        return call

    kernels = SimpleNamespace(LAYERS=reference.LAYERS, **{name: counted(name) for name in NAMES})
    following = generate_tokens([5, 2], weights, config, kernels)
    assert not calls
    next(following)
    n_first = len(calls)
    next(following)
    assert 0 < n_first < len(calls) <= 2 * n_first


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [
        (None, {}, ()),
        (None, {"eos_token_id": 2}, (2,)),
        ({}, {"eos_token_id": 2}, (2,)),
        ({"eos_token_id": None}, {"eos_token_id": [2, 7]}, (2, 7)),
        ({"eos_token_id": [3, 4]}, {"eos_token_id": 2}, (3, 4)),
        ({"eos_token_id": 0}, {}, (0,)),
        ({"eos_token_id": []}, {"eos_token_id": 2}, ()),
    ],
)
def test_GEN_008_the_stop_tokens_of_a_folder(tmp_path, generation, config, wanted):
    folder = hf_folder(tmp_path / "m", CONFIG | config)
    file = folder / "generation_config.json"
    file.unlink()
    if generation is not None:
        file.write_text(json.dumps(generation))
    assert stop_tokens(folder) == wanted


@pytest.mark.parametrize("named", ["</s>", 1.5, True, [2, -1], [None], {"a": 1}])
def test_GEN_008_what_is_no_token_is_refused(tmp_path, named):
    folder = hf_folder(tmp_path / "m", CONFIG | {"eos_token_id": named})
    assert refused(lambda: stop_tokens(folder)).clause == "GEN-008"
