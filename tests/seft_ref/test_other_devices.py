"""A whole run away from the host: files to a foreign device and back, on a library that refuses what CuPy would (CKP).

array-api-strict has devices that mix with nothing, so that an array which stayed on the host is an error; the kernels
of the GPU run on NumPy arrays where a g++ can compile them.
"""

import array_api_strict
import numpy as np
import pytest

import formats
from formats.dialects.hf import to_sparse
from seft_ref import (
    evaluate_windows,
    finish,
    first_batches,
    generate_tokens,
    initial_state,
    load_model,
    read_tokens,
    save_model,
    settings_of,
    step_batches,
    train,
)
from seft_ref.arrays.library import device, to_numpy
from seft_ref.files.state import Origin, load_state, save_state
from seft_ref.kernels import reference
from seft_ref.model.config import ModelConfig
from seft_ref.topology.csr import flat
from tests.kernels.sets import NAMED
from tests.seft_ref.folders import BF16, CONFIG, TEXT, hf_folder, parameters, sparse_folder

DEVICE1 = array_api_strict.zeros(0, device=array_api_strict.Device("device1"))
ORIGIN = Origin("model", "text")
PLACES = {"reference": (reference, None), "device1": (reference, DEVICE1)}
if "gpu" in NAMED:
    PLACES["gpu"] = (NAMED["gpu"], None)
CHOICES = {
    "seft": {},
    "row": {"scope": "row"},
    "model": {"scope": "model"},
    "window": {"gradient_window": 2},
    "looks": {"event_batches": 2, "start_batches": 2},
    "first-step": {"preset": "spiel-ag", "gradient_window": 2, "evolve_every": 4},
    "group": {"scope": "group", "pattern": (2, 4)},
    "sm3": {"preset": "spiel-ma", "gradient_window": 1},
    "rigl": {"preset": "rigl"},
}


# every call of such a library takes long, and a second block makes the calls of the first
ONE_BLOCK = {**CONFIG, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    (path / "text.txt").write_text(TEXT)
    return sparse_folder(path / "sparse", ONE_BLOCK)


@pytest.fixture(scope="module")
def folder_in_groups(folder):
    """The same model pruned to 2:4."""
    tensors = parameters(ONE_BLOCK)
    for matrix in ModelConfig.from_json(ONE_BLOCK).targets():
        groups = tensors[matrix.name].reshape(-1, 4)
        np.put_along_axis(groups, np.argsort(np.abs(groups), axis=1)[:, :2], 0, axis=1)
    source = hf_folder(folder.with_name("groups-hf"), ONE_BLOCK, tensors)
    to_sparse(source, folder.with_name("groups"))
    return folder.with_name("groups")


def settings_for(choice):
    changes = {"steps": 7, "batch": 2, "length": 12, "density": 0.1, "evolve_every": 3, "lr": 1e-2} | CHOICES[choice]
    return settings_of(changes.pop("preset", "seft"), **changes)


def run(folder, settings, place, state_file, stop=5):
    """Train to a step, save, load again, train to the end; the final weights and the losses."""
    kernels, like = PLACES[place]
    tokens = read_tokens(folder.parent / "text.txt", folder)
    model = load_model(folder, kernels, like=like)
    first = first_batches(settings, tokens, model.weights)
    state = initial_state(settings, model.config, model.weights, model.bases, kernels, first)
    losses = []
    for after, record in train(state, settings, model.config, tokens, kernels):
        state = after
        losses.append(record.loss)
        if record.step == stop:
            break
    save_state(state_file, state, settings, ORIGIN)
    if place == "gpu" and settings.pattern:
        assert state.weights.blocks[0].up_proj.weight.grouped is not None
    model = load_model(folder, kernels, like=like)
    state = load_state(state_file, model.weights, settings, ORIGIN, kernels)
    if like is not None:
        assert {device(t.delta.values) for t in state.targets.values()} == {device(like)}
    for after, record in train(state, settings, model.config, tokens, kernels):
        state = after
        losses.append(record.loss)
    return finish(state, settings, model.config, tokens, kernels), losses


def described(file):
    """Names, kinds, shapes and dtypes of the tensors of a file, and its attributes."""
    with formats.open(file) as reader:
        tensors = {name: reader[name] for name in reader.names()}
        told = {n: (type(t), tuple(t.shape), getattr(t, "dtype", None)) for n, t in tensors.items()}
        return told, dict(reader.attributes)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("place", [name for name in PLACES if name != "reference"])
def test_CKP_009_a_run_elsewhere_is_the_run(tmp_path, folder, folder_in_groups, choice, place):
    if choice == "group":
        folder = folder_in_groups
    settings = settings_for(choice)
    expected, losses = run(folder, settings, "reference", tmp_path / "here.state")
    found, others = run(folder, settings, place, tmp_path / "there.state")
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    assert list(found) == list(expected)
    for name in expected:
        (topology, values), (other, theirs) = expected[name], found[name]
        np.testing.assert_array_equal(to_numpy(flat(other)), flat(topology), err_msg=name)
        np.testing.assert_allclose(to_numpy(theirs), values, rtol=1e-3, atol=1e-5, err_msg=name)
    # CKP-009: the files hold the same tensors, whatever the numbers are
    assert described(tmp_path / "there.state") == described(tmp_path / "here.state")
    save_model(folder, tmp_path / "here", expected)
    save_model(folder, tmp_path / "there", found)
    here, there = (load_model(tmp_path / name, reference) for name in ("here", "there"))
    for name, base in here.bases.items():
        np.testing.assert_array_equal(flat(there.bases[name].topology), flat(base.topology))


@pytest.mark.parametrize("choice", ["seft", "first-step"])
def test_CKP_009_a_state_goes_on_on_another_device(tmp_path, folder, choice):
    settings = settings_for(choice)
    tokens = read_tokens(folder.parent / "text.txt", folder)
    expected, _ = run(folder, settings, "reference", tmp_path / "here.state")
    run(folder, settings, "device1", tmp_path / "there.state")
    model = load_model(folder, reference)
    state = load_state(tmp_path / "there.state", model.weights, settings, ORIGIN, reference)
    for after, _record in train(state, settings, model.config, tokens, reference):
        state = after
    final = finish(state, settings, model.config, tokens, reference)
    for name, (topology, values) in expected.items():
        np.testing.assert_array_equal(flat(final[name][0]), flat(topology))
        np.testing.assert_allclose(final[name][1], values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("place", [name for name in PLACES if name != "reference"])
def test_EVL_001_GEN_007_a_model_elsewhere_says_the_same(tmp_path, folder, place):
    kernels, like = PLACES[place]
    tokens, folder = read_tokens(folder.parent / "text.txt", folder), sparse_folder(tmp_path / "two-blocks")
    told = []
    for its_kernels, there in ((reference, None), (kernels, like)):
        model = load_model(folder, its_kernels, like=there)
        found = evaluate_windows(model.weights, model.config, tokens, its_kernels, length=24, windows=3)
        text = list(generate_tokens(tokens[:9], model.weights, model.config, its_kernels, max_tokens=12))
        told.append((found.perplexity, text))
    assert told[1][0] == pytest.approx(told[0][0], rel=1e-5)
    assert told[1][1] == told[0][1]


def test_CKP_008_009_a_compact_run_on_a_foreign_device(tmp_path):
    folder = sparse_folder(tmp_path / "sparse", dtype=BF16)
    (tmp_path / "text.txt").write_text(TEXT)
    settings = settings_for("seft")
    tokens = read_tokens(tmp_path / "text.txt", folder)
    finals = []
    for like in (None, DEVICE1):
        model = load_model(folder, reference, compact=True, like=like)
        first = step_batches(settings, tokens, 1, model.weights)
        state = initial_state(settings, model.config, model.weights, model.bases, reference, first)
        for after, _record in train(state, settings, model.config, tokens, reference):
            state = after
        save_state(tmp_path / f"{like is None}.state", state, settings, ORIGIN)
        finals.append(finish(state, settings, model.config, tokens, reference))
    for name, (topology, values) in finals[0].items():
        np.testing.assert_array_equal(to_numpy(flat(finals[1][name][0])), flat(topology))
        np.testing.assert_allclose(to_numpy(finals[1][name][1]), values, rtol=1e-3, atol=1e-5)
