"""Quantised models that are held as codes: loaded, run, resumed and merged (CKP-008, KRN-018)."""

from dataclasses import replace

import numpy as np
import pytest

import formats
import seft_ref
from formats.dialects import coded
from seft_ref import load_model, save_model, settings_of
from seft_ref.errors import CheckpointError, QuantiseError
from seft_ref.files.state import Origin, load_state, save_state
from seft_ref.kernels import cpu, reference
from seft_ref.kernels.cpu import transposed
from seft_ref.matrix.bases import PackedBase
from seft_ref.model.weights import matrix_of
from seft_ref.text.tokens import read_tokens
from seft_ref.topology.csr import flat
from seft_ref.train.loop import initial_state, step_batches, train
from tests.seft_ref.folders import BF16, CONFIG, TEXT, sparse_folder
from tests.seft_ref.test_compact import CHOICES, run, same_bits

WIDE = {**CONFIG, "hidden_size": 32, "intermediate_size": 80}
RUN = {"steps": 8, "batch": 2, "length": 12, "density": 0.1, "evolve_every": 3, "lr": 1e-2}
SETS = {"reference": reference, "cpu": cpu, "transposed": transposed}
GRIDS = ["int8", "int4:g16", "int8:g16:asym", "int4:asym"]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


@pytest.fixture
def quantised(tmp_path):
    def make(grid):
        folder = sparse_folder(tmp_path / "model", WIDE, dtype=BF16)
        seft_ref.quantise(folder, tmp_path / "quantised", grid)
        return tmp_path / "quantised"

    return make


def tensors(folder):
    return formats.read(folder).tensors


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("grid", GRIDS)
def test_CKP_008_a_model_of_codes_is_that_of_their_weights(quantised, grid, kernels):
    folder, kernels = quantised(grid), SETS[kernels]
    held, expanded = (load_model(folder, kernels, compact=compact) for compact in (True, False))
    for name, base in held.bases.items():
        assert isinstance(base, PackedBase)
        assert base.held_in.bits == int(grid[3])
        there, expected = base.open(), expanded.bases[name].open()
        assert same_bits(flat(there.topology), flat(expected.topology))
        assert same_bits(there.values, expected.values)
    scores = [seft_ref.evaluate(m, TEXT.encode()[:600], length=20, kernels=kernels) for m in (held, expanded)]
    np.testing.assert_allclose(scores[0].perplexity, scores[1].perplexity, rtol=1e-6)


# one grid shows every rule; one rule shows the other set, and with one that has slots outside the base the other grid
@pytest.mark.parametrize(
    ("grid", "choice", "kernels"),
    [
        *(("int4:g16", choice, "cpu") for choice in CHOICES),
        *(("int8:asym", choice, "cpu") for choice in ("seft", "anywhere")),
        *((grid, "seft", "transposed") for grid in ("int4:g16", "int8:asym")),
    ],
)
def test_CKP_008_a_run_on_codes_is_the_run(quantised, text, grid, choice, kernels):
    folder, kernels = quantised(grid), SETS[kernels]
    changes = RUN | CHOICES[choice]
    settings = settings_of(changes.pop("preset", "seft"), **changes)
    tokens = read_tokens(text, folder)
    plain, expected, losses = run(folder, kernels, settings, tokens, compact=False)
    state, found, held_losses = run(folder, kernels, settings, tokens, compact=True)
    np.testing.assert_allclose(held_losses, losses, rtol=1e-5)
    for name, (topology, values) in expected.items():
        np.testing.assert_array_equal(flat(found[name][0]), flat(topology), err_msg=name)
        np.testing.assert_allclose(found[name][1], values, rtol=1e-3, atol=1e-5, err_msg=name)
        base, held = plain.targets[name].base.open(), state.targets[name].base
        assert held.held_in is not None
        assert same_bits(held.values, base.values), name
        assert same_bits(flat(held.topology), flat(base.topology)), name


@pytest.mark.parametrize("grid", ["int4:g16", "int8:asym"])
def test_CKP_008_2_weights_beside_codes_are_held_and_trained_again(quantised, text, tmp_path, grid):
    folder = quantised(grid)
    seft_ref.finetune(folder, tmp_path / "once", text, "seft", kernels=cpu, compact=True, **RUN)
    assert any(name.endswith(".update") for name in tensors(tmp_path / "once"))
    held, expanded = (load_model(tmp_path / "once", cpu, compact=compact) for compact in (True, False))
    for name, base in held.bases.items():
        there, expected = base.open(), expanded.bases[name].open()
        assert same_bits(flat(there.topology), flat(expected.topology))
        assert same_bits(there.values, expected.values)
    scores = [seft_ref.evaluate(m, TEXT.encode()[:600], length=20) for m in (held, expanded)]
    np.testing.assert_allclose(scores[0].perplexity, scores[1].perplexity, rtol=1e-6)
    tokens, settings = read_tokens(text, folder), settings_of("seft", **RUN)
    plain, expected, losses = run(tmp_path / "once", cpu, settings, tokens, compact=False)
    state, found, held_losses = run(tmp_path / "once", cpu, settings, tokens, compact=True)
    np.testing.assert_allclose(held_losses, losses, rtol=1e-5)
    for name, (topology, values) in expected.items():
        np.testing.assert_array_equal(flat(found[name][0]), flat(topology), err_msg=name)
        np.testing.assert_allclose(found[name][1], values, rtol=1e-3, atol=1e-5, err_msg=name)
        assert same_bits(state.targets[name].base.values, plain.targets[name].base.open().values)
    save_model(tmp_path / "once", tmp_path / "twice", found)


@pytest.mark.parametrize("merge", ["beside", "grid"])
def test_QNT_006_007_what_is_merged_does_not_tell_how_it_was_held(quantised, text, tmp_path, merge):
    folder = quantised("int4:g16")
    for name, compact in (("held", True), ("expanded", False)):
        seft_ref.finetune(folder, tmp_path / name, text, "seft", kernels=cpu, compact=compact, merge=merge, **RUN)
    one, other = tensors(tmp_path / "held"), tensors(tmp_path / "expanded")
    assert list(one) == list(other)
    for name, tensor in one.items():
        if not name.endswith(".update") and isinstance(tensor, formats.Sparse):
            np.testing.assert_array_equal(tensor.indices, other[name].indices)
            np.testing.assert_allclose(tensor.values, other[name].values, atol=1)


def test_CKP_008_a_run_on_codes_resumes(quantised, text, tmp_path):
    folder = quantised("int4:g16")
    tokens, settings = read_tokens(text, folder), settings_of("seft", **RUN)
    _, expected, _ = run(folder, cpu, settings, tokens, compact=True)
    model = load_model(folder, cpu, compact=True)
    first = step_batches(settings, tokens, 1, model.weights)
    state = initial_state(settings, model.config, model.weights, model.bases, cpu, first)
    for after, record in train(state, settings, model.config, tokens, cpu):
        state = after
        if record.step == 4:
            break
    save_state(tmp_path / "run.state", state, settings, Origin("model", "text"))
    again = load_model(folder, cpu, compact=True)
    state = load_state(tmp_path / "run.state", again.weights, settings, Origin("model", "text"), cpu)
    assert all(target.base.held_in.bits == 4 for target in state.targets.values())
    for after, _record in train(state, settings, again.config, tokens, cpu):
        state = after
    for name, (topology, values) in seft_ref.finish(state, settings, again.config, tokens, cpu).items():
        np.testing.assert_array_equal(flat(topology), flat(expected[name][0]))
        assert same_bits(values, expected[name][1])


def test_CKP_008_codes_are_held_in_float32_only(quantised):
    with pytest.raises(CheckpointError, match=r"CKP-008: model.*computed with in float64"):
        load_model(quantised("int8"), cpu, "float64", compact=True)


def rounded_by_hand(folder, name, flat_positions, weights):
    """Weights at positions as the codes of their groups stand for them, entry by entry."""
    with formats.open(folder) as reader:
        codes, roles = reader[name], reader.scales[name]
        scales = formats.to_dense(reader[roles["scale"]])
        zeros = formats.to_dense(reader[roles["zero_point"]]) if "zero_point" in roles else np.zeros_like(scales)
        bits = int(reader.attributes["quantised"]["grid"][3])
    size, out = codes.shape[1] // scales.shape[1], []
    for position, weight in zip(flat_positions.tolist(), weights.tolist(), strict=True):
        row, group = position // codes.shape[1], position % codes.shape[1] // size
        scale, zero = float(scales[row, group]), int(zeros[row, group])
        code = min(max(round(weight / scale) + zero, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
        out.append(np.float32((code - zero) * scale))
    return np.array(out, dtype=np.float32)


# every set, and every grid in the set whose loops hang on it
@pytest.mark.parametrize(
    ("grid", "kernels"),
    [("int4:g16", "reference"), ("int4:g16", "cpu"), ("int8:asym", "cpu"), ("int8:asym", "transposed")],
)
def test_QNT_011_what_is_multiplied_stays_on_the_grid(quantised, text, grid, kernels):
    folder, kernels = quantised(grid), SETS[kernels]
    model = load_model(folder, kernels, compact=True, exact=True)
    settings, tokens = settings_of("seft", **RUN), read_tokens(text, folder)
    first = step_batches(settings, tokens, 1, model.weights)
    state = initial_state(settings, model.config, model.weights, model.bases, kernels, first)
    moved = 0
    for after, _record in train(state, settings, model.config, tokens, kernels):
        state = after
        for name, target in state.targets.items():
            eta = flat(target.delta.topology)
            latent = target.under + target.delta.values
            live = matrix_of(state.weights, name).live
            found = weights_by(kernels, live)[eta]
            np.testing.assert_array_equal(found, rounded_by_hand(folder, name, eta, latent))
            # QNT-011.2: the update itself is not rounded
            moved += np.count_nonzero(found != latent)
    assert moved > 0


def weights_by(kernels, packed):
    """Return the entries of a packed matrix, flat, by products with the unit vectors."""
    return np.ascontiguousarray(kernels.matmul(np.eye(packed.shape[1], dtype=np.float32), packed).T).reshape(-1)


def test_QNT_011_3_the_model_that_was_trained_is_the_one_that_is_written(quantised, text, tmp_path):
    folder, out = quantised("int4:g16"), tmp_path / "out"
    done = seft_ref.finetune(folder, out, text, "seft", merge="grid-exact", **RUN)
    assert not any(name.endswith(".update") for name in tensors(out))
    assert done.merged.changed > 0
    trained = load_model(folder, cpu, compact=True, exact=True)
    written = load_model(out, cpu, compact=True)
    for name, base in written.bases.items():
        topology, values = done.final[name]
        expected = rounded_by_hand(folder, name, flat(topology), values)
        np.testing.assert_array_equal(base.values, expected)
        np.testing.assert_array_equal(flat(base.topology), flat(topology))
        assert trained.bases[name].shape == base.shape


def test_QNT_011_a_run_that_stays_on_the_grid_resumes(quantised, text, tmp_path):
    folder = quantised("int4:g16")
    seft_ref.finetune(folder, tmp_path / "whole", text, "seft", merge="grid-exact", **RUN)
    seft_ref.finetune(folder, tmp_path / "two", text, "seft", merge="grid-exact", stop_after=4, **RUN)
    with pytest.raises(CheckpointError, match="CKP-006"):
        seft_ref.finetune(folder, tmp_path / "two", text, "seft", resume=True, **RUN)
    seft_ref.finetune(folder, tmp_path / "two", text, "seft", merge="grid-exact", resume=True, **RUN)
    whole, two = tensors(tmp_path / "whole"), tensors(tmp_path / "two")
    assert all(same_bits(tensor.values, two[name].values) for name, tensor in whole.items())


def test_QNT_011_4_what_cannot_stay_on_the_grid_is_refused(quantised, text, tmp_path):
    folder = quantised("int4:g16")
    with pytest.raises(QuantiseError, match=r"QNT-011.*no slots"):
        seft_ref.finetune(folder, tmp_path / "out", text, "lora", merge="grid-exact", steps=2, batch=2, length=12)
    with pytest.raises(QuantiseError, match="QNT-007"):
        seft_ref.finetune(tmp_path / "model", tmp_path / "out", text, "seft", merge="grid-exact", **RUN)
    seft_ref.finetune(folder, tmp_path / "beside", text, "seft", **RUN)
    with pytest.raises(QuantiseError, match=r"QNT-011.*beside its codes"):
        seft_ref.finetune(tmp_path / "beside", tmp_path / "out", text, "seft", merge="grid-exact", **RUN)
    assert not list(tmp_path.glob("out*"))


def test_CKP_008_2_an_update_that_says_what_the_codes_say_stands_beside_nothing(quantised, text, tmp_path):
    folder = quantised("int8")
    found = formats.read(folder)
    name = next(iter(found.scales))
    with formats.open(folder) as reader:
        weights = coded.weights_of(coded.read_coded(found, name), np.dtype(np.float32))
        assert reader[name].nnz == weights.values.size
    for kind, some in (("equal", weights), ("empty", formats.Sparse(weights.shape, 0 * weights.indptr, *EMPTY))):
        tensors_of = {**found.tensors, f"{name}.update": some}
        scales = {**found.scales, name: {**found.scales[name], "update": f"{name}.update"}}
        formats.write(tmp_path / kind, replace(found, tensors=tensors_of, scales=scales))
        held = load_model(tmp_path / kind, cpu, compact=True).bases[name]
        assert same_bits(held.values, weights.values)
        seft_ref.finetune(tmp_path / kind, None, text, "seft", compact=True, **RUN)


EMPTY = np.zeros(0, np.int32), np.zeros(0, np.float32)


def test_QNT_011_a_loaded_model_says_whether_it_stays_on_the_grid(quantised, text, tmp_path):
    folder = quantised("int4:g16")
    seft_ref.finetune(folder, tmp_path / "folder", text, "seft", merge="grid-exact", **RUN)
    exact = load_model(folder, cpu, compact=True, exact=True)
    for merge in ("beside", "grid"):
        with pytest.raises(QuantiseError, match=f"QNT-011.*merge is {merge}"):
            seft_ref.finetune(exact, tmp_path / "out", text, "seft", merge=merge, **RUN)
    with pytest.raises(QuantiseError, match=r"QNT-011.*merge is grid-exact"):
        seft_ref.finetune(load_model(folder, cpu), tmp_path / "out", text, "seft", merge="grid-exact", **RUN)
    seft_ref.finetune(exact, tmp_path / "loaded", text, "seft", merge="grid-exact", **RUN)
    one, other = tensors(tmp_path / "folder"), tensors(tmp_path / "loaded")
    assert all(same_bits(tensor.values, other[name].values) for name, tensor in one.items())
    with pytest.raises(ValueError, match="set compact"):
        load_model(folder, cpu, exact=True)
    with pytest.raises(QuantiseError, match=r"QNT-011.*not quantised"):
        load_model(tmp_path / "model", cpu, compact=True, exact=True)


def test_QNT_011_5_who_resumes_in_another_mode_is_told_so(quantised, text, tmp_path):
    folder = quantised("int4:g16")
    seft_ref.finetune(folder, tmp_path / "two", text, "seft", merge="grid-exact", stop_after=4, **RUN)
    with pytest.raises(CheckpointError, match=r"CKP-006.*resume with the same merge"):
        seft_ref.finetune(folder, tmp_path / "two", text, "seft", resume=True, **RUN)


def test_QNT_011_groups_that_are_not_held_name_the_other_modes(quantised, text, tmp_path):
    folder = quantised("int4:g8")
    with pytest.raises(CheckpointError, match=r"CKP-008.*groups of 8 columns.*into them at the end"):
        seft_ref.finetune(folder, tmp_path / "out", text, "seft", merge="grid-exact", **RUN)
