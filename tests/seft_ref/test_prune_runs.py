"""Pruning that was stopped and goes on, and pruning of a loaded model, against runs from folder to folder."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

import formats
from formats.dialects.hf import open_hf
from seft_ref import evaluate, finetune, load_model, prune, quantise, read_tokens
from seft_ref.errors import CheckpointError, PruneError
from seft_ref.files.model import Model
from seft_ref.kernels import cpu, reference
from seft_ref.prune import blockwise
from tests.seft_ref.folders import CONFIG, TEXT, hf_folder, parameters

THREE = CONFIG | {"num_hidden_layers": 3}
MEASURED = {"samples": 6, "length": 32}
RUNS = {
    "wanda": {"method": "wanda", "sparsity": 0.6},
    "wanda-2:4": {"method": "wanda", "pattern": "2:4", "dtype": "float64"},
    "sparsegpt": {"method": "sparsegpt", "sparsity": 0.6},
    "owl": {"method": "wanda", "sparsity": 0.6, "layers": "owl"},
}


class Stopped(Exception):
    pass


def stop_after(matrices):
    seen = []

    def progress(name, total):
        seen.append(name)
        if len(seen) == matrices:
            raise Stopped

    return progress


@pytest.fixture
def place(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    hf_folder(tmp_path / "dense", THREE, parameters(THREE, dtype=ml_dtypes.bfloat16))
    return tmp_path


def run(place, out, settings, **more):
    return prune(place / "dense", place / out, text=place / "text.txt", **{**MEASURED, **settings, **more})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_PRN_019_a_run_that_was_stopped_goes_on_to_the_same_bytes(place, settings):
    run(place, "whole", settings)
    for matrices in (1, 7, 8, 20, 21):
        out = f"stopped-{matrices}"
        with pytest.raises(Stopped):
            run(place, out, settings, progress=stop_after(matrices))
        finished = place / f"{out}.state"
        # a block is finished when the pruner is asked for the next matrix
        assert finished.exists() == (matrices > 7)
        assert not (place / out).exists()
        run(place, out, settings, resume=finished.exists())
        assert contents(place / out) == contents(place / "whole"), matrices
        assert not finished.exists()


def test_PRN_019_blocks_that_are_finished_are_not_pruned_again(place, monkeypatch):
    with pytest.raises(Stopped):
        run(place, "out", RUNS["wanda"], progress=stop_after(15))
    pruned = []
    plain = blockwise.wanda_mask
    monkeypatch.setattr(blockwise, "wanda_mask", lambda *given: pruned.append(given) or plain(*given))
    run(place, "out", RUNS["wanda"], resume=True)
    assert len(pruned) == 7


def test_PRN_019_a_run_may_be_stopped_again_and_again(place):
    run(place, "whole", RUNS["sparsegpt"])
    for _ in range(2):
        with pytest.raises(Stopped):
            run(place, "out", RUNS["sparsegpt"], progress=stop_after(8), resume=(place / "out.state").exists())
    run(place, "out", RUNS["sparsegpt"], resume=True)
    assert contents(place / "out") == contents(place / "whole")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sparsity": 0.5}, "sparsity 0.6, not 0.5"),
        ({"method": "sparsegpt"}, "method 'wanda', not 'sparsegpt'"),
        ({"length": 16}, "calibration"),
        ({"seed": 1}, "calibration"),
        ({"scope": "matrix"}, "scope 'row', not 'matrix'"),
        ({"layers": "owl"}, "layers 'uniform', not"),
        ({"dtype": "float64"}, "dtype 'float32', not 'float64'"),
    ],
)
def test_PRN_019_blocks_of_another_run_are_refused(place, change, named):
    with pytest.raises(Stopped):
        run(place, "out", RUNS["wanda"], progress=stop_after(8))
    kept = contents(place / "out.state")
    with pytest.raises(PruneError, match=named):
        run(place, "out", RUNS["wanda"], resume=True, **change)
    assert contents(place / "out.state") == kept
    assert not (place / "out").exists()


def test_PRN_019_blocks_of_another_text_or_of_other_weights_are_refused(place):
    with pytest.raises(Stopped):
        run(place, "out", RUNS["wanda"], progress=stop_after(15))
    (place / "text.txt").write_text(TEXT[::-1])
    with pytest.raises(PruneError, match="windows"):
        run(place, "out", RUNS["wanda"], resume=True)
    (place / "text.txt").write_text(TEXT)
    changed = parameters(THREE, dtype=ml_dtypes.bfloat16)
    changed["model.layers.1.mlp.up_proj.weight"] *= 2
    shutil.rmtree(place / "dense")
    hf_folder(place / "dense", THREE, changed)
    with pytest.raises(PruneError, match=r"block-0001.seft was made of other weights"):
        run(place, "out", RUNS["wanda"], resume=True)
    shutil.rmtree(place / "dense")
    hf_folder(place / "dense", THREE | {"rope_theta": 500.0}, parameters(THREE, dtype=ml_dtypes.bfloat16))
    with pytest.raises(PruneError, match="config"):
        run(place, "out", RUNS["wanda"], resume=True)


def test_PRN_019_what_cannot_be_resumed_or_begun_is_refused_and_nothing_is_lost(place):
    with pytest.raises(PruneError, match=r"there is no .*out\.state with a block"):
        run(place, "out", RUNS["wanda"], resume=True)
    with pytest.raises(Stopped):
        run(place, "out", RUNS["wanda"], progress=stop_after(8))
    kept = contents(place / "out.state")
    with pytest.raises(PruneError, match="holds the blocks of an unfinished run"):
        run(place, "out", RUNS["wanda"])
    with pytest.raises(ValueError, match="magnitude keeps no finished blocks"):
        prune(place / "dense", place / "out", "magnitude", resume=True)
    with pytest.raises(ValueError, match="nothing to resume without a folder"):
        prune(place / "dense", None, "wanda", text=place / "text.txt", resume=True)
    assert contents(place / "out.state") == kept
    (block,) = (place / "out.state").iterdir()
    spoilt = bytearray(block.read_bytes())
    spoilt[-5] ^= 1
    block.write_bytes(spoilt)
    with pytest.raises(formats.FormatError):
        run(place, "out", RUNS["wanda"], resume=True)
    assert not (place / "out").exists()


def test_PRN_019_a_folder_of_that_name_that_holds_something_else_is_left_alone(place):
    (place / "out.state").mkdir()
    (place / "out.state" / "notes.txt").write_text("mine")
    with pytest.raises(PruneError, match="with a block to resume from"):
        run(place, "out", RUNS["wanda"], resume=True)
    (place / "out.state" / "notes.txt").unlink()
    (place / "out.state").rmdir()
    with pytest.raises(Stopped):
        run(place, "out", RUNS["wanda"], progress=stop_after(8))
    (place / "out.state" / "notes.txt").write_text("mine")
    run(place, "out", RUNS["wanda"], resume=True)
    assert contents(place / "out.state") == {"notes.txt": b"mine"}


def test_PRN_019_the_state_lies_beside_the_folder_however_it_is_spelled(place):
    with pytest.raises(Stopped):
        run(place, "new/below/out/", RUNS["wanda"], progress=stop_after(8))
    assert (place / "new" / "below" / "out.state" / "block-0000.seft").is_file()
    run(place, "new/below/out", RUNS["wanda"], resume=True)
    assert not (place / "new" / "below" / "out.state").exists()


def test_PRN_019_a_block_that_lacks_a_matrix_is_refused(place):
    with pytest.raises(Stopped):
        run(place, "out", RUNS["wanda"], progress=stop_after(8))
    (block,) = (place / "out.state").iterdir()
    found = formats.read(block)
    fewer = {name: found.tensors[name] for name in list(found.tensors)[:3]}
    formats.write_file(block, formats.Checkpoint(found.kind, fewer, found.attributes))
    with pytest.raises(PruneError, match="does not fit the block"):
        run(place, "out", RUNS["wanda"], resume=True)


SETTINGS = {
    "magnitude": {"method": "magnitude", "sparsity": 0.5},
    "magnitude-model": {"method": "magnitude", "sparsity": 0.5, "scope": "model"},
    "random": {"method": "random", "pattern": "2:4", "seed": 3},
    **{name: dict(settings) for name, settings in RUNS.items()},
}


@pytest.mark.parametrize("kernels", [cpu, reference], ids=["cpu", "reference"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_loaded_model_and_its_folder_are_pruned_alike(tmp_path, settings, kernels):
    hf_folder(tmp_path / "dense", CONFIG)
    (tmp_path / "text.txt").write_text(TEXT)
    settings = dict(settings)
    measured = settings["method"] in ("wanda", "sparsegpt") or "layers" in settings
    more = {"text": read_tokens(tmp_path / "text.txt", tmp_path / "dense"), **MEASURED} if measured else {}
    prune(tmp_path / "dense", tmp_path / "out", **settings, **more, kernels=kernels)
    formats.convert(tmp_path / "out", tmp_path / "sparse", "sparse")
    dtype = settings.pop("dtype", None)
    expected = load_model(tmp_path / "sparse", kernels, dtype)
    loaded = load_model(tmp_path / "dense", kernels, dtype)
    anonymous = Model(loaded.config, loaded.weights, {})
    for model in (loaded, anonymous):
        found = prune(model, None, **settings, **more, kernels=kernels)
        assert (found.removed, found.of - found.removed) == (found.of - expected.stored(), found.model.stored())
        assert found.model.bases.keys() == expected.bases.keys()
        for name, base in expected.bases.items():
            mine, theirs = found.model.bases[name].open(), base.open()
            np.testing.assert_array_equal(mine.topology.indptr, theirs.topology.indptr)
            np.testing.assert_array_equal(mine.topology.indices, theirs.topology.indices)
            if settings["method"] == "sparsegpt" and dtype is None:
                np.testing.assert_allclose(mine.values, theirs.values, rtol=1e-6)
            else:
                np.testing.assert_array_equal(mine.values, theirs.values)
    # the model that was given is as it was
    fresh = load_model(tmp_path / "dense", kernels, dtype)
    before, after = (evaluate(m, list(range(64)), length=16, windows=2, kernels=kernels) for m in (fresh, loaded))
    assert before == after


def test_a_whole_round_in_memory_ends_like_one_over_folders(tmp_path):
    hf_folder(tmp_path / "dense", CONFIG)
    (tmp_path / "text.txt").write_text(TEXT)
    tokens = read_tokens(tmp_path / "text.txt", tmp_path / "dense")
    short = {"steps": 6, "length": 16, "batch": 2, "evolve_every": 2, "density": 0.05}
    prune(tmp_path / "dense", tmp_path / "pruned", "wanda", 0.6, text=tokens, length=32)
    formats.convert(tmp_path / "pruned", tmp_path / "sparse", "sparse")
    finetune(tmp_path / "sparse", tmp_path / "tuned", tokens, **short)
    model = prune(load_model(tmp_path / "dense", cpu), None, "wanda", 0.6, text=tokens, length=32).model
    done = finetune(model, None, tokens, **short)
    with formats.open(tmp_path / "tuned") as reader:
        for name, (topology, values) in done.final.items():
            np.testing.assert_array_equal(reader[name].indices, topology.indices)
            np.testing.assert_array_equal(reader[name].values, values)


def test_a_loaded_model_is_written_from_its_folder_in_the_dtype_it_was_loaded_in(place):
    loaded = load_model(place / "dense", cpu, "float64")
    prune(loaded, place / "one", "wanda", 0.6, text=place / "text.txt", **MEASURED)
    run(place, "two", RUNS["wanda"], dtype="float64")
    assert contents(place / "one") == contents(place / "two")
    with open_hf(place / "one") as folder:
        assert folder["model.norm.weight"].dtype == ml_dtypes.bfloat16
    record = json.loads((place / "one" / "pruning.json").read_text())
    assert list(record) == ["method", "sparsity", "pattern", "scope", "removed", "of", "calibration"]


def test_what_does_not_go_together_with_a_loaded_model_is_refused(place):
    loaded = load_model(place / "dense", cpu)
    anonymous = Model(loaded.config, loaded.weights, {})
    with pytest.raises(ValueError, match="dtype is an option of loading"):
        prune(loaded, place / "out", "magnitude", dtype="float64")
    with pytest.raises(ValueError, match="the model has no folder; give tokens instead of a text"):
        prune(anonymous, place / "out", "magnitude")
    with pytest.raises(ValueError, match="the model has no folder"):
        prune(anonymous, None, "wanda", text=place / "text.txt")
    pruned = prune(loaded, None, "magnitude", 0.5).model
    with pytest.raises(CheckpointError, match="CKP-002"):
        prune(pruned, None, "magnitude", 0.7)
    infinite = parameters(THREE)
    infinite["model.layers.1.mlp.up_proj.weight"][3, 3] = np.inf
    shutil.rmtree(place / "dense")
    hf_folder(place / "dense", THREE, infinite)
    with pytest.raises(CheckpointError, match="up_proj"):
        prune(place / "dense", None, "magnitude", 0.5)
    assert not (place / "out").exists()


def test_a_model_that_is_pruned_already_is_said_to_be(place):
    assert prune(place / "dense", place / "half", "magnitude", 0.5).remarks == ()
    done = prune(place / "half", place / "quarter", "magnitude", 0.25)
    stayed = done.of // 2 - done.removed
    assert done.remarks == (f"{stayed:,} weights that stay were 0 in the model that was read: was it pruned already?",)


@pytest.mark.parametrize("samples", [0, -1])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_PRN_007_no_calibration_window_is_refused(place, method, samples):
    with pytest.raises(PruneError, match=rf"PRN-007.*samples is {samples}"):
        run(place, "out", {"method": method, "sparsity": 0.5}, samples=samples)
    with pytest.raises(PruneError, match=rf"PRN-007.*samples is {samples}"):
        quantise(place / "dense", place / "out", "int8:g8", text=place / "text.txt", samples=samples, length=32)
    assert not (place / "out").exists()
