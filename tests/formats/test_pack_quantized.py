"""Quantised models as folders of compressed-tensors: what is written is read back as the same codes and weights."""

import json
from pathlib import Path

import numpy as np
import pytest

import formats
from formats.dialects import coded
from formats.dialects.hf import open_hf, to_hf
from formats.dialects.int_codes import unpacked
from formats.dialects.int_folder import open_quantised
from formats.dialects.int_words import packed
from formats.records import from_flat, to_dense

FIXTURES = Path(__file__).parent / "fixtures" / "int_codes"
GRIDS = ("int4", "int4:g8", "int8:g4", "int8", "int4:g8:asym", "int8:asym", "int4:g4:asym")
CONFIG = {"model_type": "llama", "hidden_size": 24}


def model(grid, shapes=((7, 24), (24, 16), (9, 8)), *, zeros_stored=False):
    """A quantised model of three matrices, one of them without a weight, and a norm."""
    rng = np.random.default_rng(3)
    bits, columns = int(grid[3]), next((int(o[1:]) for o in grid.split(":") if o.startswith("g")), 0)
    tensors, scales = {"norm.weight": formats.Dense(np.ones(24, np.float32))}, {}
    for i, shape in enumerate(shapes):
        name, groups = f"layers.{i}.weight", shape[1] // (columns or shape[1])
        zero = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (shape[0], groups)).astype(np.int8)
        zero *= grid.endswith("asym")
        at = np.flatnonzero(rng.random(shape) < (0.4 if i < 2 else 0))
        codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), at.size).astype(np.int8)
        of_slot = zero.repeat(shape[1] // groups, axis=1).reshape(-1)[at]
        codes = np.where(codes == of_slot, of_slot if zeros_stored else np.where(of_slot > 0, -1, 1), codes)
        tensors[name] = formats.with_values(from_flat(shape, at), codes.astype(np.int8))
        tensors[f"{name}.scale"] = formats.Dense((rng.random((shape[0], groups)) + 0.1).astype(np.float32))
        scales[name] = {"scale": f"{name}.scale"}
        if grid.endswith("asym"):
            tensors[f"{name}.zero_point"] = formats.Dense(zero)
            scales[name]["zero_point"] = f"{name}.zero_point"
    attributes = {"quantised": {"grid": grid, "rounding": "nearest"}}
    return formats.Checkpoint("model", tensors, attributes, {}, {"config.json": json.dumps(CONFIG).encode()}, scales)


@pytest.mark.parametrize("grid", GRIDS)
def test_FMT_178_what_is_written_is_read_as_the_same_codes(tmp_path, grid):
    found = model(grid)
    formats.write(tmp_path / "own", found)
    assert formats.convert(tmp_path / "own", tmp_path / "ct", to="compressed-tensors") == []
    folder = open_quantised(tmp_path / "ct")
    read, expanded = folder.checkpoint().tensors, coded.expanded(found).tensors
    assert set(read) == set(expanded)
    for name in found.scales:
        matrix, mine = folder.matrices[name], coded.read_coded(found, name)
        present = to_dense(formats.Mask(mine.codes.shape, mine.codes.indptr, mine.codes.indices))
        np.testing.assert_array_equal(matrix.mask, present)
        np.testing.assert_array_equal(matrix.codes[present], mine.codes.values)
        np.testing.assert_array_equal(matrix.scales, mine.scales)
        np.testing.assert_array_equal(matrix.zeros if matrix.zeros is not None else 0 * mine.zeros, mine.zeros)
        assert to_dense(read[name]).tobytes() == to_dense(expanded[name]).tobytes()
    with open_hf(tmp_path / "ct") as raw:
        assert raw["norm.weight"].values.tobytes() == found.tensors["norm.weight"].values.tobytes()
        config = json.loads(raw.files["config.json"])
    assert {key: config[key] for key in CONFIG} == CONFIG
    weights = config["quantization_config"]["config_groups"]["group_0"]["weights"]
    assert weights["num_bits"] == int(grid[3])
    assert weights["symmetric"] is not grid.endswith("asym")
    assert config["quantization_config"].get("dequantize") is (True if grid.endswith("asym") else None)
    # and back into this format, as weights
    formats.convert(tmp_path / "ct", tmp_path / "back", to="sparse", expand_quantised=True)
    back = formats.read(tmp_path / "back").tensors
    assert all(to_dense(back[name]).tobytes() == to_dense(expanded[name]).tobytes() for name in expanded)


def test_FMT_178_stored_weights_of_zero_are_told(tmp_path):
    formats.write(tmp_path / "own", model("int4:g4:asym", zeros_stored=True))
    (said,) = formats.convert(tmp_path / "own", tmp_path / "ct", to="compressed-tensors")
    count = int(said.split("support of ")[1].split()[0])
    whole = model("int4:g4:asym", zeros_stored=True)
    expected = sum(int((t.values == 0).sum()) for n, t in coded.expanded(whole).tensors.items() if n in whole.scales)
    assert count == expected > 0


@pytest.mark.parametrize(
    ("name", "grid"), [("q_proj", "int4:g16:asym"), ("k_proj", "int4:g8"), ("o_proj", "int8:asym")]
)
def test_FMT_178_the_parts_are_those_that_the_library_writes(tmp_path, name, grid):
    written = FIXTURES / "compressed-tensors-0.20.0-pack-quantized"
    matrix = open_quantised(written).matrices[f"{name}.weight"]
    codes = formats.with_values(formats.from_support(matrix.mask), matrix.codes[matrix.mask])
    weight = f"{name}.weight"
    tensors = {weight: codes, f"{weight}.scale": formats.Dense(matrix.scales.astype(np.float32))}
    scales = {weight: {"scale": f"{weight}.scale"}}
    if grid.endswith("asym"):
        tensors[f"{weight}.zero_point"] = formats.Dense(np.ascontiguousarray(matrix.zeros))
        scales[weight]["zero_point"] = f"{weight}.zero_point"
    attributes = {"quantised": {"grid": grid, "rounding": "nearest"}}
    found = formats.Checkpoint("model", tensors, attributes, {}, {"config.json": b"{}"}, scales)
    formats.convert(found, tmp_path / "ct", to="compressed-tensors")
    with open_hf(tmp_path / "ct") as ours, open_hf(written) as theirs:
        of_matrix = [part for part in theirs if part.startswith(f"{name}.") and not part.endswith((".bias", "scale"))]
        assert len(of_matrix) == 2 + grid.endswith("asym")
        for part in of_matrix:
            mine, recorded = ours[part].values, theirs[part].values
            assert (mine.dtype, mine.shape) == (recorded.dtype, recorded.shape), part
            assert mine.tobytes() == recorded.tobytes(), part


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n", [1, 7, 8, 33])
def test_FMT_173_words_are_those_that_are_read(bits, n):
    codes = np.random.default_rng(n).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, n)).astype(np.int8)
    np.testing.assert_array_equal(unpacked(packed(codes, bits), n, bits, straddling=False), codes)


def test_FMT_178_what_cannot_be_written_is_refused(tmp_path):
    found = model("int4:g8")
    name = "layers.0.weight"
    update = formats.with_values(from_flat((7, 24), np.array([3])), np.array([1.5], np.float32))
    scales = {**found.scales, name: {**found.scales[name], "update": f"{name}.update"}}
    tensors = {**found.tensors, f"{name}.update": update}
    beside = formats.Checkpoint("model", tensors, found.attributes, {}, found.files, scales)
    bare = formats.Checkpoint("model", found.tensors, found.attributes, {}, {}, found.scales)
    for bad, said in (
        (beside, "FMT-178.*beside them"),
        (bare, "FMT-178.*config.json"),
    ):
        with pytest.raises(formats.FormatError, match=said):
            formats.convert(bad, tmp_path / "out", to="compressed-tensors")
        assert not (tmp_path / "out").exists()


def test_QNT_009_a_folder_never_has_codes_as_weights(tmp_path):
    formats.write(tmp_path / "model", model("int4:g8"))
    with pytest.raises(formats.FormatError, match="QNT-009"):
        to_hf(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantised": {"grid": "int3", "rounding": "gptq"}}, "QNT-001.*int3"),
        ({"quantised": {"grid": "int4:g8"}}, "QNT-009.*expected an object"),
        ({"quantised": {"grid": "int4:g5", "rounding": "gptq"}}, "QNT-009.*no whole number of groups"),
        ({"quantised": {"grid": "int4:g4", "rounding": "gptq"}}, "QNT-009.*of shape"),
    ],
)
def test_QNT_009_a_grid_that_does_not_fit_is_refused(tmp_path, change, said):
    found = model("int4:g8")
    bad = formats.Checkpoint("model", found.tensors, change, {}, found.files, found.scales)
    with pytest.raises(formats.FormatError, match=said):
        formats.convert(bad, tmp_path / "out", to="hf", expand_quantised=True)
    with pytest.raises(formats.FormatError, match=said):
        formats.convert(bad, tmp_path / "out", to="compressed-tensors")
    assert not (tmp_path / "out").exists()


# codes of others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_QNT_010_codes_of_a_folder_are_kept(tmp_path, grid):
    found = model(grid)
    formats.write(tmp_path / "own", found)
    formats.convert(tmp_path / "own", tmp_path / "ct", to="compressed-tensors")
    (said,) = formats.convert(tmp_path / "ct", tmp_path / "kept", to="sparse", keep_codes=True, verify=True)
    assert "stay codes" in said
    kept = formats.read(tmp_path / "kept")
    assert kept.attributes["quantised"] == {"grid": grid, "rounding": "unknown"}
    assert kept.scales == found.scales
    assert set(kept.tensors) == set(found.tensors)
    for name, tensor in found.tensors.items():
        assert to_dense(kept.tensors[name]).tobytes() == to_dense(tensor).tobytes(), name
        assert kept.tensors[name].nnz == tensor.nnz
    assert json.loads(kept.files["config.json"]) == CONFIG
    again = coded.expanded(kept).tensors
    assert all(to_dense(again[n]).tobytes() == to_dense(t).tobytes() for n, t in coded.expanded(found).tensors.items())


WRITTEN = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
REFUSED = set(WRITTEN) - {"autoawq-0.2.9-4-bits"}
"""Fixtures of several grids, of other bits, or of columns in another order."""


@pytest.mark.parametrize("written", WRITTEN)
def test_QNT_010_folders_of_the_libraries_are_kept_or_refused(tmp_path, written):
    if written in REFUSED:
        with pytest.raises(formats.FormatError, match="QNT-010"):
            formats.convert(FIXTURES / written, tmp_path / "kept", to="sparse", keep_codes=True)
        assert not (tmp_path / "kept").exists()
        return
    formats.convert(FIXTURES / written, tmp_path / "kept", to="sparse", keep_codes=True)
    kept, folder = formats.read(tmp_path / "kept"), open_quantised(FIXTURES / written)
    expanded = folder.checkpoint().tensors
    for name, matrix in folder.matrices.items():
        tensor = coded.weights_of(coded.read_coded(kept, name))
        np.testing.assert_array_equal(to_dense(formats.Mask(tensor.shape, tensor.indptr, tensor.indices)), matrix.mask)
        # exact here, rounded to the dtype of the scale there (D108)
        theirs = to_dense(expanded[name])
        np.testing.assert_array_equal(to_dense(tensor).astype(theirs.dtype), theirs)


def test_QNT_010_what_has_no_codes_is_refused(tmp_path):
    found = model("int4:g8")
    formats.write(tmp_path / "own", found)
    formats.convert(tmp_path / "own", tmp_path / "ct", to="compressed-tensors")
    for source, options in (
        (tmp_path / "own", {}),
        (found, {}),
        (tmp_path / "ct", {"dtype": "BF16"}),
        (tmp_path / "ct", {"expand_quantised": True}),
    ):
        with pytest.raises(formats.FormatError, match=r"FMT-084.*keep_codes"):
            formats.convert(source, tmp_path / "out", to="sparse", keep_codes=True, **options)
    with pytest.raises(formats.FormatError, match=r"FMT-084.*keep_codes"):
        formats.convert(tmp_path / "ct", tmp_path / "out", to="hf", keep_codes=True)
    assert not (tmp_path / "out").exists()
