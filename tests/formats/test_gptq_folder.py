"""Quantised models as folders of GPTQ: what is written is read back as the same codes and weights."""

import json

import numpy as np
import pytest

import formats
from formats.conversion import CODED
from formats.dialects import coded
from formats.dialects.coded_folder import LAYOUTS
from formats.dialects.hf import open_hf
from formats.dialects.int_folder import open_quantised
from formats.records import from_flat, to_dense
from tests.formats.test_pack_quantized import CONFIG, GRIDS, model

SHAPES = ((8, 24), (24, 16), (16, 8))


def written(path, found):
    """Write a model and its folder of GPTQ; return the remarks."""
    formats.write(path / "own", found)
    return formats.convert(path / "own", path / "gptq", to="gptq")


@pytest.mark.parametrize("grid", GRIDS)
def test_FMT_180_what_is_written_is_read_as_the_same_codes(tmp_path, grid):
    found = model(grid, SHAPES)
    (said,) = written(tmp_path, found)
    scales = np.concatenate([found.tensors[f"{name}.scale"].values.reshape(-1) for name in found.scales])
    inexact = sum(np.float32(np.float16(x)) != x for x in scales)
    assert said.startswith(f"{inexact} of {scales.size} scales are not exact in F16")
    folder, asymmetric = open_quantised(tmp_path / "gptq"), grid.endswith("asym")
    expanded = coded.expanded(found).tensors
    for name in found.scales:
        matrix, mine = folder.matrices[name], coded.read_coded(found, name)
        present = to_dense(formats.Mask(mine.codes.shape, mine.codes.indptr, mine.codes.indices))
        np.testing.assert_array_equal(matrix.mask, present)
        np.testing.assert_array_equal(matrix.codes[present], mine.codes.values)
        np.testing.assert_array_equal(matrix.scales, mine.scales)
        np.testing.assert_array_equal(matrix.zeros, mine.zeros)
        assert to_dense(folder.checkpoint().tensors[name]).tobytes() == to_dense(expanded[name]).tobytes()
    with open_hf(tmp_path / "gptq") as raw:
        assert raw["norm.weight"].values.tobytes() == found.tensors["norm.weight"].values.tobytes()
        config = json.loads(raw.files["config.json"])
        # by hand: the lowest bits of the first words are the codes of rows 0 and 1 of the first column
        first = coded.read_coded(found, "layers.0.weight")
        column = [int(folder.matrices["layers.0.weight"].codes[0, i]) + 2 ** (int(grid[3]) - 1) for i in (0, 1)]
        word = int(raw["layers.0.qweight"].values[0, 0]) & (1 << 2 * int(grid[3])) - 1
        assert word == column[0] | column[1] << int(grid[3])
        low = int(raw["layers.0.qzeros"].values[0, 0]) & (1 << int(grid[3])) - 1
        assert low == int(first.zeros[0, 0]) + 2 ** (int(grid[3]) - 1) - (not asymmetric)
    assert {key: config[key] for key in CONFIG} == CONFIG
    described = config["quantization_config"]
    assert described["checkpoint_format"] == ("gptq_v2" if asymmetric else "gptq")
    assert described["group_size"] == next((int(o[1:]) for o in grid.split(":") if o.startswith("g")), -1)
    # and back into this format, as codes on the grid that they came from (QNT-010.5)
    formats.convert(tmp_path / "gptq", tmp_path / "kept", to="sparse", keep_codes=True)
    back = formats.read(tmp_path / "kept")
    assert back.attributes["quantised"]["grid"] == grid
    assert back.scales == found.scales
    kept = coded.expanded(back).tensors
    assert all(to_dense(kept[name]).tobytes() == to_dense(expanded[name]).tobytes() for name in expanded)


def test_QNT_009_every_target_of_codes_has_a_layout():
    assert set(CODED) == set(LAYOUTS)


def test_FMT_180_stored_weights_of_zero_are_told(tmp_path):
    lost, _ = written(tmp_path, found := model("int4:g4:asym", SHAPES, zeros_stored=True))
    count = int(lost.split("support of ")[1].split()[0])
    expanded = coded.expanded(found).tensors
    assert count == sum(int((t.values == 0).sum()) for n, t in expanded.items() if n in found.scales) > 0


def test_FMT_180_scales_that_16_bits_hold_need_no_remark(tmp_path):
    found = model("int8", SHAPES)
    short = {
        name: formats.Dense(tensor.values.astype(np.float16).astype(np.float32))
        for name, tensor in found.tensors.items()
        if name.endswith(".scale")
    }
    exact = formats.Checkpoint("model", {**found.tensors, **short}, found.attributes, {}, found.files, found.scales)
    assert written(tmp_path, exact) == []


def test_FMT_180_what_cannot_be_written_is_refused(tmp_path):
    found = model("int4:g8", SHAPES)
    name = "layers.0.weight"
    update = formats.with_values(from_flat(SHAPES[0], np.array([3])), np.array([1.5], np.float32))
    scales = {**found.scales, name: {**found.scales[name], "update": f"{name}.update"}}
    taken = {**found.tensors, "layers.0.qzeros": formats.Dense(np.ones(2, np.float32))}
    plain = {name: formats.Dense(np.ones((8, 8), np.float32))}
    kind = "model", found.attributes, {}, found.files
    for tensors, roles, attributes, files, said in (
        ({**found.tensors, f"{name}.update": update}, scales, *kind[1::2], r"FMT-180.*beside them"),
        (found.tensors, found.scales, found.attributes, {}, r"FMT-180.*config\.json"),
        (taken, found.scales, *kind[1::2], r"FMT-180.*'layers\.0\.qzeros'.*rename"),
        (plain, {}, {}, found.files, "FMT-180.*keep_codes"),
        (model("int4:g8").tensors, found.scales, *kind[1::2], r"FMT-180.*layers\.0\.weight.*\[7, 24\].*whole words"),
    ):
        bad = formats.Checkpoint("model", tensors, attributes, {}, files, roles)
        with pytest.raises(formats.FormatError, match=said):
            formats.convert(bad, tmp_path / "out", to="gptq")
        assert not (tmp_path / "out").exists()
