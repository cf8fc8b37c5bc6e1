"""Models written as folders of compressed-tensors: the bytes of the library, read back, and what is refused."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import formats
from formats.dialects.bitmasks import READERS
from formats.dialects.compressed_tensors import open_compressed_tensors
from formats.dialects.hf import open_hf
from formats.records import Dense, Sparse, flat, from_flat, to_dense, with_values

FIXTURES = Path(__file__).parent / "fixtures" / "compressed_tensors"
CONFIG = {"model_type": "llama", "hidden_size": 16}
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8)


def model(tensors, config=CONFIG):
    return formats.Checkpoint("model", tensors, {}, {}, {"config.json": json.dumps(config).encode()}, {})


def sparse(shape, positions, dtype=np.float32):
    values = (np.arange(len(positions)) - 3).astype(dtype)
    return with_values(from_flat(shape, np.sort(positions)), values)


def two_of_four(shape, seed, most=2):
    rng = np.random.default_rng(seed)
    groups = shape[0] * shape[1] // 4
    return np.concatenate([4 * g + rng.permutation(4)[: rng.integers(most, 3)] for g in range(groups)]).astype(np.int64)


def structure(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]["sparsity_config"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 12), (1, 4), (7, 16), (3, 8)])
def test_FMT_179_two_of_every_four_are_read_back_with_every_bit(tmp_path, shape, dtype):
    found = model({"a.weight": sparse(shape, two_of_four(shape, 1), dtype), "norm.weight": Dense(np.ones(3, dtype))})
    assert formats.convert(found, tmp_path / "ct", to="compressed-tensors") == [READERS]
    assert structure(tmp_path / "ct")["format"] == "sparse-24-bitmask"
    read = open_compressed_tensors(tmp_path / "ct").tensors
    assert set(read) == set(found.tensors)
    np.testing.assert_array_equal(flat(read["a.weight"]), flat(found.tensors["a.weight"]))
    assert read["a.weight"].values.tobytes() == found.tensors["a.weight"].values.tobytes()
    assert open_hf(tmp_path / "ct")["a.compressed"].shape == (shape[0], shape[1] // 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 13), (2, 3, 9), (6, 8), (1, 1), (4, 64)])
def test_FMT_179_other_supports_are_read_back_with_every_bit(tmp_path, shape, dtype):
    positions = np.flatnonzero(np.random.default_rng(2).random(np.prod(shape)) < 0.4)
    found = model({"a.weight": sparse(shape, positions, dtype), "b.weight": sparse((3, 5), np.array([], np.int64))})
    assert formats.convert(found, tmp_path / "ct", to="compressed-tensors") == [READERS]
    assert structure(tmp_path / "ct")["format"] == "sparse-bitmask"
    read = open_compressed_tensors(tmp_path / "ct").tensors
    for name in found.tensors:
        assert read[name].shape == found.tensors[name].shape
        np.testing.assert_array_equal(flat(read[name]), flat(found.tensors[name]))
        assert read[name].values.tobytes() == found.tensors[name].values.tobytes()


def test_FMT_179_places_that_are_filled_are_said_and_hold_zeros(tmp_path):
    positions = two_of_four((6, 16), 4, most=0)
    found = model({"a.weight": sparse((6, 16), positions)})
    free = 48 - len(positions)
    assert free > 5
    said = formats.convert(found, tmp_path / "ct", to="compressed-tensors")
    assert said[1:] == [READERS]
    assert f"that {free} places of groups of four with fewer than two weights store nothing" in said[0]
    read = open_compressed_tensors(tmp_path / "ct").tensors["a.weight"]
    assert read.values.size == 48
    np.testing.assert_array_equal(to_dense(read), to_dense(found.tensors["a.weight"]))
    assert set(flat(found.tensors["a.weight"])) <= set(flat(read))


@pytest.mark.parametrize("written", ["0.9.0-sparse-bitmask", "0.14.0.1-sparse-bitmask", "0.14.0.1-sparse-24-bitmask"])
def test_FMT_179_parts_are_those_that_the_library_writes(tmp_path, written):
    theirs = open_hf(FIXTURES / written)
    source = open_compressed_tensors(FIXTURES / written)
    # k_proj of the fixture for two of four has groups that straddle rows, which we do not write
    tensors = {
        name: source.tensors[name]
        for name in source.tensors
        if "24" not in written or not name.startswith("k_proj") or not isinstance(source.tensors[name], Sparse)
    }
    formats.convert(model(tensors), tmp_path / "ct", to="compressed-tensors")
    ours = open_hf(tmp_path / "ct")
    packed = {name for name in ours if name.endswith((".bitmask", ".compressed", ".shape", ".row_offsets"))}
    assert len(packed) >= 9
    for name in packed:
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].values.tobytes() == theirs[name].values.tobytes(), name
        assert ours[name].shape == theirs[name].shape
    for key in ("format", "sparsity_structure", "registry_requires_subclass"):
        assert structure(tmp_path / "ct")[key] == structure(FIXTURES / written)[key]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tensors": {"norm.weight": Dense(np.ones(3, np.float32))}}, "no sparse tensor"),
        ({"tensors": {"a": sparse((2, 4), np.array([0, 5]))}}, "'a' is sparse, and no weight"),
        ({"tensors": {"a.weight.weight": sparse((2, 4), np.array([0, 5]))}}, "no weight of a module"),
        ({"config": CONFIG | {"quantization_config": {}}}, "has quantization_config already"),
        ({"config": CONFIG | {"text_config": {"quantization_config": {"quant_method": "gptq"}}}}, r"\(gptq\) already"),
        ({"config": CONFIG | {"text_config": {"sparsity_config": {"format": "dense"}}}}, "format 'dense' already"),
    ],
)
def test_FMT_179_what_cannot_be_written_is_refused(tmp_path, change, says):
    given = {"tensors": {"a.weight": sparse((2, 4), np.array([0, 5]))}, "config": CONFIG} | change
    with pytest.raises(formats.FormatError, match=says) as error:
        formats.convert(model(given["tensors"], given["config"]), tmp_path / "ct", to="compressed-tensors")
    assert error.value.clause == "FMT-179"
    assert not (tmp_path / "ct").exists()
    bare = formats.Checkpoint("model", given["tensors"], {}, {}, {}, {})
    with pytest.raises(formats.FormatError, match="FMT-179"):
        formats.convert(bare, tmp_path / "ct", to="compressed-tensors")
