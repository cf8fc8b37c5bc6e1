"""The door: what comes in, what goes out, and what is refused (chapter 13)."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import formats
from formats.dialects.hf import open_hf, to_hf, to_sparse
from seft_ref import finish, initial_state, load_model, read_tokens, save_model, settings_of, step_batches, train
from seft_ref.errors import SeftError
from seft_ref.files.dtypes import in_file_dtype
from seft_ref.files.model import identity
from seft_ref.files.state import Origin, load_state, save_state
from seft_ref.kernels import cpu, reference
from seft_ref.model.config import ModelConfig
from seft_ref.update.delta import effective
from tests.seft_ref.folders import BF16, CONFIG, TEXT, hf_folder, parameters, pruned, sparse_folder

ORIGIN = Origin("model", "text")
SHORT = {"steps": 7, "batch": 2, "length": 12, "density": 0.1, "evolve_every": 3, "lr": 1e-2}
SETTINGS = settings_of("seft", **SHORT)


def tokens_of(folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    return read_tokens(text, folder)


def start(folder, kernels, settings, tokens):
    model = load_model(folder, kernels)
    return model, initial_state(
        settings, model.config, model.weights, model.bases, kernels, step_batches(settings, tokens, 1, model.weights)
    )


def content(final):
    return {name: (t.indptr.tobytes(), t.indices.tobytes(), v.tobytes()) for name, (t, v) in final.items()}


@pytest.mark.parametrize(("kernels", "window"), [(reference, 1), (cpu, 2)], ids=["reference", "cpu"])
def test_TRN_004_a_run_resumed_after_any_step_equals_the_uninterrupted_one(tmp_path, kernels, window):
    resumes_anywhere(tmp_path, kernels, replace(SETTINGS, gradient_window=window, steps=8, evolve_every=3))


def resumes_anywhere(tmp_path, kernels, settings):
    folder = sparse_folder(tmp_path / "model")
    tokens = tokens_of(folder, tmp_path)
    model, state = start(folder, kernels, settings, tokens)
    begin = state
    for after, (state, _) in enumerate(train(begin, settings, model.config, tokens, kernels), start=1):
        save_state(tmp_path / f"{after}.state.safetensors", state, settings, ORIGIN)
    whole = content(finish(state, settings, model.config, tokens, kernels))

    for after in range(1, settings.steps):
        model = load_model(folder, kernels)
        saved = tmp_path / f"{after}.state.safetensors"
        state = load_state(saved, model.weights, settings, ORIGIN, kernels)
        assert state.step == after
        *_, (state, _) = train(state, settings, model.config, tokens, kernels)
        assert content(finish(state, settings, model.config, tokens, kernels)) == whole, after


def test_CKP_006_a_state_of_another_run_is_refused(tmp_path):
    folder = sparse_folder(tmp_path / "model")
    tokens = tokens_of(folder, tmp_path)
    model, state = start(folder, reference, SETTINGS, tokens)
    file = tmp_path / "run.state"
    save_state(file, state, SETTINGS, ORIGIN)
    for settings, origin, said in (
        (replace(SETTINGS, lr=0.5), ORIGIN, "lr was 0.01, is 0.5"),
        (SETTINGS, Origin("other", "text"), "other model"),
        (SETTINGS, Origin("model", "other"), "other text"),
    ):
        with pytest.raises(SeftError, match=said) as caught:
            load_state(file, model.weights, settings, origin, reference)
        assert caught.value.clause == "CKP-006"
    with pytest.raises(SeftError, match="no training state"):
        load_state(tmp_path / "absent", model.weights, SETTINGS, ORIGIN, reference)


def test_CKP_007_a_state_says_what_it_holds_by_name(tmp_path):
    folder = sparse_folder(tmp_path / "model")
    tokens = tokens_of(folder, tmp_path)
    _, state = start(folder, reference, SETTINGS, tokens)
    file = tmp_path / "run.state"
    save_state(file, state, SETTINGS, ORIGIN)
    with formats.open(file) as reader:
        reader.verify()
        assert reader.kind == "training-state"
        assert set(reader.attributes) == {
            "step",
            "dtype",
            "settings",
            "model",
            "text",
            "matrices",
            "budgets",
            "delta_budgets",
            "windows",
        }
        parts = {"base", "delta", "delta.first_moment", "delta.second_moment", "delta.age"}
        assert set(reader.names()) == {f"{target}.{part}" for target in state.targets for part in parts}
        for target in state.targets:
            slots = reader.info(f"{target}.delta").nnz
            for part in ("first_moment", "second_moment", "age"):
                assert reader.info(f"{target}.delta.{part}").shape == (slots,)


HELD = {
    "seft": ({}, {"first_moment", "second_moment", "age"}, {"gradient"}),
    "fisher": ({"grow": "fisher"}, {"first_moment", "second_moment", "age"}, {"gradient", "square"}),
    "absolute": ({"grow": "absolute"}, {"first_moment", "second_moment", "age"}, {"gradient", "absolute"}),
    "change": ({"drop": "change"}, {"first_moment", "second_moment", "age", "origin"}, {"gradient"}),
    "inputs": ({"adapt": "activation"}, {"first_moment", "second_moment", "age"}, {"gradient", "input_squares"}),
    "active": (
        {"grow_scope": "active", "drop": "fisher"},
        {"first_moment", "second_moment", "age"},
        {"gradient", "square"},
    ),
    "sgd": ({"optimizer": "sgd"}, {"momentum"}, {"gradient"}),
    "sm3": ({"optimizer": "sm3"}, {"rows", "columns"}, {"gradient"}),
    "random": ({"grow": "random", "adapt": "magnitude"}, {"first_moment", "second_moment", "age"}, set()),
}


@pytest.mark.parametrize("rule", HELD)
def test_CKP_007_a_state_names_what_its_rule_keeps_its_open_windows_and_what_left_the_base(tmp_path, rule):
    choices, kept, sums = HELD[rule]
    folder = sparse_folder(tmp_path / "model")
    tokens = tokens_of(folder, tmp_path)
    settings = settings_of(
        "sensitivity", **(SHORT | {"gradient_window": 3, "density": 0.3, "drop_fraction": 1.0} | choices)
    )
    model, begin = start(folder, reference, settings, tokens)
    n_lost = 0
    for state, _ in train(begin, settings, model.config, tokens, reference):
        file = tmp_path / f"{state.step}.state"
        save_state(file, state, settings, ORIGIN)
        collecting = state.step < 6 and state.step % 3 > 0 and bool(sums)
        assert bool(state.window) == collecting
        with formats.open(file) as reader:
            reader.verify()
            names, held = set(reader.names()), reader.attributes
            assert set(held["windows"]) == (set(state.targets) if collecting else set())
            for target, of in state.targets.items():
                mine = {"base", "delta", *(f"delta.{part}" for part in kept)}
                if collecting:
                    mine |= {f"window.{part}" for part in sums}
                    assert held["windows"][target]["steps"] == state.step % 3
                if of.lost.shape[0]:
                    n_lost += 1
                    mine.add("lost")
                    assert formats.flat(reader[f"{target}.lost"]).tolist() == of.lost.tolist()
                names -= {f"{target}.{part}" for part in mine}
                slots, shape = reader.info(f"{target}.delta").nnz, of.base.topology.shape
                for part in kept:
                    expected = {"rows": shape[0], "columns": shape[1]}.get(part, slots)
                    assert reader.info(f"{target}.delta.{part}").shape == (expected,)
                for part in sums if collecting else ():
                    expected = shape[1:] if part == "input_squares" else shape
                    assert reader.info(f"{target}.window.{part}").shape == expected
        assert names == set()
    assert (n_lost > 0) == (rule != "active")


def test_CKP_001_sixteen_bit_weights_are_computed_in_float32(tmp_path):
    for dtype, expected in (
        (BF16, np.float32),
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
    ):
        folder = hf_folder(tmp_path / np.dtype(dtype).name, dtype=dtype)
        assert load_model(folder, reference).weights.norm.dtype == expected
    assert load_model(folder, reference, "float32").weights.norm.dtype == np.float32


def test_CKP_001_integers_are_no_weights(tmp_path):
    tensors = parameters()
    tensors["model.norm.weight"] = np.ones(24, dtype=np.int32)
    with pytest.raises(SeftError, match=r"CKP-001: model.norm.weight is int32"):
        load_model(hf_folder(tmp_path / "m", tensors=tensors), reference)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "lacks model.layers.1.mlp.up_proj.weight"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(25, np.float32)}),
            "model.norm.weight is 25, the config needs 24",
        ),
        (lambda t: t.update({"model.extra": np.ones(3, np.float32)}), "no place for model.extra"),
        (lambda t: t.update({"lm_head.weight": np.ones((256, 24), np.float32)}), "lm_head.weight differs"),
    ],
    ids=["missing", "misshapen", "unknown", "untied"],
)
def test_CKP_002_tensors_must_fit_the_config(tmp_path, change, said):
    tensors = parameters()
    change(tensors)
    with pytest.raises(SeftError, match=said) as caught:
        load_model(hf_folder(tmp_path / "m", tensors=tensors), reference)
    assert caught.value.clause == "CKP-002"


def test_CKP_002_a_stored_copy_of_tied_embeddings_and_rope_frequencies_pass(tmp_path):
    tensors = parameters()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    load_model(hf_folder(tmp_path / "m", tensors=tensors), reference)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"]
)
def test_CKP_003_nan_and_infinity_are_refused_by_name(tmp_path, bad, name):
    tensors = parameters()
    tensors[name].reshape(-1)[5] = bad
    source = hf_folder(tmp_path / "m", tensors=tensors)
    to_sparse(source, tmp_path / "s", encoding="bitmask")
    for folder in (source, tmp_path / "s"):
        with pytest.raises(SeftError, match=f"CKP-003: {name}"):
            load_model(folder, reference)


def test_missing_config_and_folder_are_named(tmp_path):
    with pytest.raises(SeftError, match="there is no folder"):
        load_model(tmp_path / "absent", reference)
    folder = hf_folder(tmp_path / "m")
    (folder / "config.json").unlink()
    with pytest.raises(SeftError, match=r"no config\.json"):
        load_model(folder, reference)
    (folder / "config.json").write_text("{")
    with pytest.raises(SeftError, match="not JSON"):
        load_model(folder, reference)


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16], ids=["f32", "bf16", "f16"])
def test_CKP_004_CKP_005_the_result_has_the_dtype_of_the_file_and_everything_else_untouched(tmp_path, dtype):
    folder = sparse_folder(tmp_path / "model", dtype=dtype)
    tokens = tokens_of(folder, tmp_path)
    model, state = start(folder, reference, SETTINGS, tokens)
    stored = model.stored()
    *_, (state, _) = train(state, SETTINGS, model.config, tokens, reference)
    final = finish(state, SETTINGS, model.config, tokens, reference)
    save_model(folder, tmp_path / "out", final, {"note": "x"})
    before, after = formats.read(folder), formats.read(tmp_path / "out")
    assert list(before.tensors) == list(after.tensors)
    targets = {matrix.name for matrix in model.config.targets()}
    count = 0
    for name, tensor in after.tensors.items():
        assert tensor.dtype == np.dtype(dtype)
        if name not in targets:
            assert tensor.values.tobytes() == before.tensors[name].values.tobytes()
            continue
        topology, values = final[name]
        count += tensor.nnz
        assert tensor.indices.tobytes() == topology.indices.tobytes()  # values that round to zero stay stored
        assert tensor.values.tobytes() == values.astype(dtype).tobytes()
    assert count <= stored
    assert dict(after.files) == dict(before.files)
    assert (tmp_path / "out" / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_CKP_004_a_value_that_overflows_the_file_is_refused_and_nothing_is_written(tmp_path):
    folder = sparse_folder(tmp_path / "model", dtype=np.float16)
    model = load_model(folder, reference)
    name, base = next(iter(model.bases.items()))
    values = base.values.copy()
    values[3] = 1e6
    with pytest.raises(SeftError, match="does not fit float16"):
        save_model(folder, tmp_path / "out", {name: (base.topology, values)})
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_CKP_004_a_weight_that_is_no_number_is_told_from_one_that_does_not_fit(tmp_path, bad):
    folder = sparse_folder(tmp_path / "model", dtype=np.float16)
    name, base = next(iter(load_model(folder, reference).bases.items()))
    values = base.values.copy()
    values[3] = bad
    with pytest.raises(SeftError, match=f"CKP-004: {name} has become NaN or infinite"):
        save_model(folder, tmp_path / "out", {name: (base.topology, values)})


def test_CKP_004_a_value_beside_a_tie_is_rounded_once():
    """By way of float32 each of these would be a tie, and go to the even neighbour: 1, 1.015625, −1, 0."""
    beside = np.array(
        [1 + 2.0**-8 + 2.0**-40, 1 + 3 * 2.0**-8 - 2.0**-40, -1 - 2.0**-8 - 2.0**-45, 2.0**-134 + 2.0**-180]
    )
    once = in_file_dtype("w", beside, np.dtype(BF16)).astype(np.float64)
    assert once.tolist() == [1 + 2.0**-7, 1 + 2.0**-7, -1 - 2.0**-7, 2.0**-133]
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -0.0, 3.3e38])
    assert in_file_dtype("w", ties, np.dtype(BF16)).tolist() == ties.astype(BF16).tolist()
    with pytest.raises(SeftError, match="does not fit bfloat16"):
        in_file_dtype("w", np.array([1e39]), np.dtype(BF16))


def test_TOP_004_stored_zeros_are_loaded_counted_and_written_back(tmp_path):
    folder = sparse_folder(tmp_path / "model")
    whole = formats.read(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = whole.tensors[name]
    values = tensor.values.copy()
    values[::3] = 0
    values[1] = -0.0
    tensors = dict(whole.tensors) | {name: replace(tensor, values=values)}
    formats.write(tmp_path / "zeros", replace(whole, tensors=tensors))
    model = load_model(tmp_path / "zeros", reference)
    assert model.bases[name].topology.nnz == tensor.nnz
    save_model(tmp_path / "zeros", tmp_path / "again", {n: (b.topology, b.values) for n, b in model.bases.items()})
    again = formats.read(tmp_path / "again").tensors[name]
    assert again.values.tobytes() == values.tobytes()
    assert again.indices.tobytes() == tensor.indices.tobytes()


def test_FMT_125_from_hugging_face_to_training_and_back_keeps_untouched_bits(tmp_path):
    tensors = pruned(parameters(dtype=BF16))
    source = hf_folder(tmp_path / "hf", tensors=tensors, shard_bytes=20_000)
    assert len(list(source.glob("model-*.safetensors"))) > 1
    to_sparse(source, tmp_path / "s")
    model = load_model(tmp_path / "s", reference)
    save_model(tmp_path / "s", tmp_path / "t", {n: (b.topology, b.values) for n, b in model.bases.items()})
    to_hf(tmp_path / "t", tmp_path / "back")
    with open_hf(tmp_path / "back") as back:
        assert set(back) == set(tensors)
        for name, values in tensors.items():
            assert back[name].values.tobytes() == values.tobytes(), name


def test_identity_does_not_depend_on_the_encoding(tmp_path):
    first = sparse_folder(tmp_path / "a", encoding="bitmask")
    second = sparse_folder(tmp_path / "b", encoding="csr")
    assert identity(first) == identity(second)
    shutil.rmtree(second)


def test_memory_of_a_loaded_model_grows_with_the_stored_weights(tmp_path):
    config = CONFIG | {"hidden_size": 128, "intermediate_size": 256}
    held = {}
    for keep in (0.1, 0.4):
        tensors = pruned(parameters(config), config, keep)
        source = hf_folder(tmp_path / f"{keep}", config, tensors)
        to_sparse(source, tmp_path / f"{keep}-s")
        model = load_model(tmp_path / f"{keep}-s", cpu)
        blocks = model.weights.blocks
        packed = sum(
            getattr(b, p).weight.nbytes
            for b in blocks
            for p in ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        )
        held[keep] = packed + sum(b.values.nbytes + b.topology.indices.nbytes for b in model.bases.values())
    assert held[0.4] > 2.5 * held[0.1]


def test_the_effective_weight_of_a_fresh_state_is_the_base(tmp_path):
    folder = sparse_folder(tmp_path / "model")
    model, state = start(folder, reference, SETTINGS, tokens_of(folder, tmp_path))
    for name, target in state.targets.items():
        topology, values = effective(target.base, target.delta)
        assert topology.indices.tobytes() == model.bases[name].topology.indices.tobytes()
        assert values.tobytes() == model.bases[name].values.tobytes()
    assert ModelConfig.from_json(json.loads((folder / "config.json").read_text())) == model.config
