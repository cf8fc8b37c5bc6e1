"""Scopes, random pruning and OWL, against sorted lists and a forward written out with NumPy in float64."""

import json

import numpy as np
import pytest

import seft_ref
from formats.dialects.hf import open_hf
from seft_ref.arrays.library import from_numpy, to_numpy
from seft_ref.arrays.rng import counter_key, draw
from seft_ref.errors import PruneError
from seft_ref.kernels import reference
from seft_ref.prune.blockwise import owl_sparsities, prune_magnitude, prune_random, prune_sparsegpt, prune_wanda
from seft_ref.prune.keep import keep_in_scope
from seft_ref.prune.owl import block_sparsities, outlier_share
from seft_ref.prune.record import read_record
from tests.seft_ref.folders import CONFIG as SMALL
from tests.seft_ref.folders import TEXT, hf_folder
from tests.seft_ref.test_calibrate import BATCHES, plain_blocks
from tests.seft_ref.tiny import CONFIG, parameters
from tests.seft_ref.update.by_hand import LIBRARIES, floor_of, library_id

SPARSITY = 0.7


def removed_in_order(scores, sparsity):
    """What stays of {name: scores} when all of them are one list, ties by name's order and flat position."""
    entries = [(float(x), i, p) for i, m in enumerate(scores.values()) for p, x in enumerate(m.reshape(-1))]
    gone = {entry[1:] for entry in sorted(entries)[: floor_of(sparsity * len(entries))]}
    return {
        name: np.array([(i, p) not in gone for p in range(m.size)]).reshape(m.shape)
        for i, (name, m) in enumerate(scores.items())
    }


def assert_masks(found, expected):
    assert list(found) == list(expected)
    for name, mask in found.items():
        np.testing.assert_array_equal(np.asarray(mask), expected[name], err_msg=name)


def test_PRN_016_a_whole_model_is_one_list():
    dense = {name: np.round(2 * value) / 2 for name, value in parameters(CONFIG).items()}  # many ties
    names = [matrix.name for matrix in CONFIG.targets()]
    found = dict(prune_magnitude(CONFIG, dense.__getitem__, SPARSITY, scope="model"))
    assert_masks(found, removed_in_order({name: np.abs(dense[name]) for name in names}, SPARSITY))
    assert len({int(mask.sum()) / mask.size for mask in found.values()}) > 1


@pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
@pytest.mark.parametrize("scope", ["row", "matrix", "model"])
def test_PRN_016_any_library_and_matrices_without_weights(library, scope):
    rng = np.random.default_rng(4)
    shapes = ((3, 4), (0, 5), (2, 6), (4, 0))
    scores = [np.asarray(rng.integers(0, 4, shape), dtype=library.dtype) for shape in shapes]
    masks = keep_in_scope([from_numpy(m, library.like) for m in scores], 0.5, scope)
    kept = [int(to_numpy(mask).sum()) for mask in masks]
    assert [tuple(mask.shape) for mask in masks] == list(shapes)
    assert sum(kept) == 12
    if scope != "model":
        assert kept == [6, 0, 6, 0]


def test_PRN_017_scores_are_the_draws_of_a_key_a_matrix():
    dense = parameters(CONFIG)
    found = dict(prune_random(CONFIG, dense.__getitem__, 5, SPARSITY))
    for number, (name, mask) in enumerate(found.items()):
        draws = [draw(counter_key(5, 7, number), p) >> 11 for p in range(mask.size)]
        order = sorted(range(mask.size), key=lambda p: (draws[p], p))
        expected = np.ones(mask.size, dtype=bool)
        expected[order[: floor_of(SPARSITY * mask.size)]] = False
        np.testing.assert_array_equal(np.asarray(mask).reshape(-1), expected, err_msg=name)
    assert_masks(dict(prune_random(CONFIG, dense.__getitem__, 5, SPARSITY)), found)
    # matrices of one shape differ
    first, second = (np.asarray(found[f"model.layers.0.mlp.{name}.weight"]) for name in ("gate_proj", "up_proj"))
    assert (first != second).any()


def test_PRN_018_shares_are_those_of_the_model_before_pruning():
    dense = {name: value.copy() for name, value in parameters(CONFIG).items()}
    dense["model.layers.1.mlp.up_proj.weight"][:2] *= 20.0
    scores = {}

    def look(weight, inputs):
        return np.abs(weight) * np.sqrt(np.sum(inputs**2, axis=0)), weight

    found = plain_blocks(dense, CONFIG, look, behind_pruned=False)
    for name, (score, _) in found.items():
        scores.setdefault(name.split(".")[2], []).append(score.reshape(-1))
    shares = []
    for block in map(np.concatenate, scores.values()):
        shares.append(np.mean(block > 3.0 * block.mean()))
    assert len(set(shares)) > 1
    x = 2 * 0.1 * (np.array(shares) - min(shares)) / (max(shares) - min(shares))
    got = owl_sparsities(CONFIG, dense.__getitem__, BATCHES, reference, SPARSITY, outlier=3.0, spread=0.1)
    np.testing.assert_allclose(got, SPARSITY - (x - x.mean()), rtol=0, atol=1e-15)
    assert np.mean(got) == pytest.approx(SPARSITY)
    assert np.argmin(got) == np.argmax(shares)  # a block with more outliers keeps more


@pytest.mark.parametrize("prune", [prune_wanda, prune_sparsegpt])
def test_PRN_018_every_block_has_its_own_sparsity(prune):
    dense = parameters(CONFIG)
    rates = [0.25 + 0.5 * layer / CONFIG.num_hidden_layers for layer in range(CONFIG.num_hidden_layers)]
    whole = {name: mask for name, mask, *_ in prune(CONFIG, dense.__getitem__, BATCHES, reference, rates[0])}
    found = {name: mask for name, mask, *_ in prune(CONFIG, dense.__getitem__, BATCHES, reference, rates)}
    per_block = len(found) // CONFIG.num_hidden_layers
    # the first block is that of a model with its sparsity everywhere
    for name in list(found)[:per_block]:
        np.testing.assert_array_equal(found[name], whole[name])
    for number, mask in enumerate(found.values()):
        rate = rates[number // per_block]
        n = mask.shape[1] if prune is prune_wanda else mask.size
        assert int((~mask).sum()) == floor_of(rate * n) * (mask.size // n)


def test_PRN_018_blocks_that_are_alike_and_numbers_that_give_no_sparsity():
    assert block_sparsities([0.25, 0.25, 0.25], 0.5) == [0.5, 0.5, 0.5]
    assert outlier_share([np.ones((2, 3))]) == 0.0
    for shares, sparsity, spread in (([0.0, 0.5], 0.05, 0.1), ([0.0, 0.5], 0.95, 0.1), ([0.0, 0.5], 0.5, -0.1)):
        with pytest.raises(PruneError, match="PRN-018"):
            block_sparsities(shares, sparsity, spread)
    with pytest.raises(PruneError, match="SEL-004"):
        outlier_share([np.array([1.0, np.nan])])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    return hf_folder(tmp_path / "dense", SMALL)


OWL = {"layers": "owl", "outlier": 2.0, "text": "text", "length": 32}


@pytest.mark.parametrize(
    ("method", "more", "told"),
    [
        ("magnitude", {}, {"scope": "matrix"}),
        ("magnitude", {"scope": "model"}, {"scope": "model"}),
        ("magnitude", {"pattern": "2:4"}, {"scope": None, "sparsity": None}),
        ("magnitude", OWL, {"scope": "matrix"}),
        ("random", {"seed": 3, "scope": "row"}, {"scope": "row", "seed": 3, "calibration": None}),
        ("wanda", {"text": "text", "length": 32}, {"scope": "row"}),
        ("wanda", OWL | {"scope": "matrix"}, {"scope": "matrix"}),
        ("sparsegpt", OWL, {"scope": None}),
    ],
)
def test_PRN_008_the_record_says_how(method, more, told, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = seft_ref.prune(folder, tmp_path / "out", method, 0.6, **more)
    record = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert {key: record[key] for key in told} == told
    assert (record["method"], record["removed"], record["of"]) == (method, done.removed, done.of)
    assert ("layers" in record) == ("layers" in more)
    if "layers" in record:
        assert record["layers"].keys() == {"rule", "outlier", "spread", "sparsity"}
        assert sum(record["layers"]["sparsity"]) == pytest.approx(2 * 0.6)
    with open_hf(tmp_path / "out") as found:
        zeros = sum(int((found[name].values == 0).sum()) for name in found if "_proj" in name)
    assert zeros == done.removed


@pytest.mark.parametrize(
    ("method", "more", "clause"),
    [
        ("wanda", {"scope": "model", "text": "text"}, "PRN-016: wanda has no scope model; it has row, matrix"),
        ("sparsegpt", {"scope": "row", "text": "text"}, "PRN-016: sparsegpt has no scope row"),
        ("magnitude", {"scope": "all"}, "PRN-016: magnitude has no scope all"),
        ("magnitude", {"scope": "row", "pattern": "2:4"}, "PRN-016: pattern 2:4"),
        ("magnitude", {"layers": "lod"}, "PRN-018: layers is 'lod'"),
        ("magnitude", OWL | {"pattern": "2:4"}, "PRN-018: owl .* pattern 2:4"),
        ("random", OWL | {"scope": "model"}, "PRN-018: owl .* scope model"),
        ("magnitude", OWL | {"spread": 0.7}, "PRN-018: a spread of 0.7"),
        ("magnitude", OWL | {"outlier": 0.0}, "PRN-018: outlier is 0.0"),
    ],
)
def test_PRN_016_PRN_018_what_does_not_go_together_is_refused(method, more, clause, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PruneError, match=clause):
        seft_ref.prune(folder, tmp_path / "out", method, 0.6, **more)
    assert not (tmp_path / "out").exists()


def test_a_text_is_asked_for_where_something_is_measured_and_nowhere_else(folder, tmp_path):
    with pytest.raises(ValueError, match="layers owl needs a text"):
        seft_ref.prune(folder, tmp_path / "out", "magnitude", layers="owl")
    with pytest.raises(ValueError, match="random uses no text"):
        seft_ref.prune(folder, tmp_path / "out", "random", text="text")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("method", [None, 1]),
        ("sparsity", ["x", 1.0, -0.1, True, [0.5]]),
        ("pattern", ["2", 3, [2, 4]]),
        ("scope", [1, ["row"], "bogus"]),
        ("removed", ["a", -1, 1.5, None]),
        ("of", [None, "a"]),
        ("seed", ["x", -1, None]),
        (
            "calibration",
            [{}, 3, "x", {"samples": 0, "length": 16, "seed": 0}, {"samples": 1, "length": "x", "seed": 0}],
        ),
        ("calibration", [{"samples": 1, "length": 16, "seed": 0, "more": 1}, {"samples": 1, "length": 16}]),
        ("layers", [{}, [1], None, {"sparsity": [1.0]}, {"sparsity": ["a"]}, {"sparsity": 0.5}]),
    ],
)
def test_PRN_008_2_a_record_with_a_value_that_the_table_does_not_allow(field, values):
    whole = {"method": "wanda", "sparsity": 0.5, "pattern": None, "scope": "row", "removed": 1, "of": 2, "seed": 0}
    whole |= {"calibration": {"samples": 1, "length": 16, "seed": 0}, "layers": {"sparsity": [0.5, 0]}, "more": 1}
    assert read_record(json.dumps(whole).encode()) == whole
    with pytest.raises(PruneError, match=r"PRN-008.*a sparsity and a pattern"):
        read_record(json.dumps(whole | {"pattern": "2:4"}).encode())
    for value in values:
        with pytest.raises(PruneError, match=f"PRN-008.*pruning.json has {field} "):
            read_record(json.dumps(whole | {field: value}).encode())
