"""Quantised folders that lie about shapes, groups and numbers: one clear error, and nothing reserved for a lie."""

import contextlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import formats
from formats.conversion import convert
from formats.dialects.int_folder import open_quantised
from tests.formats import int_files as made

FIXTURES = Path(__file__).parent / "fixtures" / "int_codes"
V2 = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "checkpoint_format": "gptq_v2"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}
PACKED = made.library(made.scheme(4, "group", 16, symmetric=False))
PLAIN = made.library(made.scheme(8, "channel", symmetric=False), kind="int-quantized")
COLUMN = np.arange(32) // 16


def parts(source: str) -> tuple[dict, dict]:
    """A sound matrix m of 8 rows and 32 columns, and its description."""
    codes, scales, zeros = made.drawn(1, 8, 32, 2, 4)
    if source == "gptq":
        return made.gptq("m", codes, scales, zeros, 4, COLUMN), V2
    if source == "awq":
        return made.awq("m", codes, scales, zeros), AWQ
    if source == "packed":
        return made.pack_quantized("m", codes, scales, zeros, 4, of_column=COLUMN), PACKED
    plain = {"weight": codes.astype(np.int8), "weight_scale": scales[:, :1]}
    plain["weight_zero_point"] = zeros[:, :1].astype(np.int8)
    return {f"m.{part}": array for part, array in plain.items()}, PLAIN


def loaded(folder: Path) -> None:
    opened = open_quantised(folder)
    for name in opened.checkpoint().tensors:
        opened.checkpoint().tensors[name]


@pytest.mark.parametrize("source", ["gptq", "awq", "packed", "plain"])
def test_FMT_172_the_matrices_of_these_tests_are_sound(tmp_path, source):
    loaded(made.write(tmp_path / "q", *parts(source)))


NARROW = np.zeros((3, 3), np.int32)
SHAPES = [
    ("gptq", "qweight", None, "'qweight' is missing"),
    ("gptq", "qzeros", None, "'qzeros' is missing"),
    ("gptq", "scales", None, "'scales' is missing"),
    ("gptq", "qweight", NARROW, "expected .* beside|do not fit"),
    ("gptq", "qzeros", NARROW, "expected"),
    ("gptq", "scales", np.ones((2, 7), np.float16), "do not fit"),
    ("gptq", "scales", np.ones((0, 8), np.float16), "do not fit"),
    ("gptq", "scales", np.ones((3, 8), np.float16), "expected"),
    ("gptq", "scales", np.ones((2, 8), np.float64), "F64.*expected BF16 or F16 or F32"),
    ("gptq", "qweight", np.ones((4, 8), np.int16), "I16.*expected I32"),
    ("gptq", "g_idx", np.zeros(31, np.int32), "expected \\[32\\]"),
    ("gptq", "g_idx", np.zeros(32, np.float32), "F32.*expected"),
    ("gptq", "weight", np.ones((8, 32), np.float16), "beside its codes"),
    ("awq", "qweight", np.zeros((31, 1), np.int32), "do not divide into groups"),
    ("awq", "qweight", np.zeros((0, 1), np.int32), "do not divide"),
    ("awq", "qzeros", NARROW, "expected \\[2, 1\\]"),
    ("awq", "qzeros", None, "missing"),
    ("awq", "scales", np.ones((2, 9), np.float16), "expected \\[2, 8\\]"),
    ("packed", "weight_packed", NARROW, "expected \\[8, 4\\]"),
    ("packed", "weight_packed", None, "missing"),
    ("packed", "weight_scale", None, "missing"),
    ("packed", "weight_scale", np.ones((8, 3), np.float16), "expected \\[8, 2\\]"),
    ("packed", "weight_scale", np.ones(2, np.float16), "expected \\[8, 2\\]"),
    ("packed", "weight_zero_point", None, "missing"),
    ("packed", "weight_zero_point", NARROW, "expected \\[1, 2\\]"),
    ("packed", "weight_shape", None, "missing"),
    ("packed", "weight_shape", np.array([8, 33]), "expected \\[8, 3\\]"),
    ("packed", "weight_shape", np.array([8, -32]), "expected 1 to 2\\^31"),
    ("packed", "weight_shape", np.array([8, 0]), "expected 1 to"),
    ("packed", "weight_shape", np.array([1 << 40, 32]), "expected 1 to"),
    ("packed", "weight_shape", np.array([8, 32, 1]), "expected \\[2\\]"),
    ("packed", "weight_global_scale", np.ones(1, np.float32), "no part of its scheme"),
    ("packed", "weight_g_idx", np.zeros(31, np.int32), "expected \\[32\\]"),
    ("plain", "weight", np.ones((8, 32), np.float16), "expected I8"),
    ("plain", "weight", np.ones((2, 8, 2), np.int8), "of 2 dimensions"),
    ("plain", "weight", np.ones((0, 8), np.int8), "at least one row"),
    ("plain", "weight", None, "missing"),
    ("plain", "weight_zero_point", None, "missing"),
]


@pytest.mark.parametrize(("source", "part", "array", "says"), SHAPES)
def test_FMT_172_parts_that_do_not_fit_are_refused(tmp_path, source, part, array, says):
    tensors, description = parts(source)
    if array is None:
        del tensors[f"m.{part}"]
    else:
        tensors[f"m.{part}"] = array
    with pytest.raises(formats.FormatError, match=f"FMT-172.*'m'.*({says})"):
        open_quantised(made.write(tmp_path / "q", tensors, description))


NUMBERS = [
    ("gptq", "scales", np.full((2, 8), np.nan, np.float16), "scale that is infinite or no number"),
    ("awq", "scales", np.full((2, 8), np.inf, np.float16), "scale that is infinite or no number"),
    ("packed", "weight_scale", np.full((8, 2), -np.inf, np.float16), "scale that is infinite or no number"),
    ("plain", "weight_scale", np.full((8, 1), np.nan, np.float32), "scale that is infinite or no number"),
    ("gptq", "g_idx", np.full(32, 2, np.int32), "groups 2 to 2, expected 0 to 1"),
    ("gptq", "g_idx", np.full(32, -1, np.int32), "groups -1 to -1"),
    ("packed", "weight_g_idx", np.full(32, 1 << 32, np.int64), "expected 0 to 1"),
    ("gptq", "scales", np.full((2, 8), 60000, np.float16), "weight that F16 cannot hold"),
]


@pytest.mark.parametrize(("source", "part", "array", "says"), NUMBERS)
def test_FMT_173_numbers_that_mean_nothing_are_refused(tmp_path, source, part, array, says):
    tensors, description = parts(source)
    tensors[f"m.{part}"] = array
    folder = made.write(tmp_path / "q", tensors, description)
    with pytest.raises(formats.FormatError, match=f"FMT-173.*'m.weight'.*{says}"):
        loaded(folder)
    with pytest.raises(formats.FormatError, match="FMT-173"):
        convert(folder, tmp_path / "out", "sparse", expand_quantised=True)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


@pytest.mark.parametrize(
    ("part", "says"), [("weight", "codes from 0 to 9"), ("weight_zero_point", "zero points from 9")]
)
def test_FMT_173_codes_beyond_their_bits_are_refused(tmp_path, part, says):
    tensors = {"m.weight": np.eye(3, dtype=np.int8), "m.weight_scale": np.ones((3, 1), np.float16)}
    tensors |= {"m.weight_zero_point": np.ones((3, 1), np.int8)}
    tensors[f"m.{part}"] *= 9
    description = made.library(made.scheme(4, "channel", symmetric=False), kind="int-quantized")
    with pytest.raises(formats.FormatError, match=f"FMT-173.*{says}.*expected -8 to 7"):
        loaded(made.write(tmp_path / "q", tensors, description))


def test_FMT_173_a_zero_point_that_wrapped_is_refused(tmp_path):
    codes, scales, zeros = made.drawn(1, 8, 32, 2, 4)
    zeros[5, 1] = 16
    tensors = made.gptq("m", codes, scales, zeros, 4, stored_less=1)
    with pytest.raises(formats.FormatError, match=r"FMT-173.*zero points of 0.*gptq_v2"):
        loaded(made.write(tmp_path / "q", tensors, V2 | {"checkpoint_format": "gptq"}))


def test_FMT_172_symmetric_zero_points_are_zero(tmp_path):
    tensors, _ = parts("plain")
    description = made.library(made.scheme(8, "channel"), kind="int-quantized")
    with pytest.raises(formats.FormatError, match=r"FMT-172.*symmetric"):
        loaded(made.write(tmp_path / "q", tensors, description))
    tensors["m.weight_zero_point"][:] = 0
    loaded(made.write(tmp_path / "z", tensors, description))


def test_FMT_172_groups_divide_the_columns(tmp_path):
    codes, scales, _ = made.drawn(1, 8, 40, 3, 4)
    tensors = made.pack_quantized("m", codes, scales, None, 4)
    description = made.library(made.scheme(4, "group", 16))
    with pytest.raises(formats.FormatError, match=r"FMT-172.*40 columns do not divide into groups of 16"):
        open_quantised(made.write(tmp_path / "q", tensors, description))
    codes, scales, zeros = made.drawn(1, 8, 32, 2, 4)
    folder = made.write(tmp_path / "g", made.gptq("m", codes, scales, zeros, 4), V2 | {"desc_act": True})
    with pytest.raises(formats.FormatError, match=r"FMT-172.*'g_idx' is missing"):
        open_quantised(folder)


@pytest.mark.parametrize("straddling", [True, False])
@pytest.mark.parametrize(("out", "columns", "told"), [(4, 12, False), (40, 8, False), (42, 8, True), (42, 12, True)])
def test_FMT_173_three_bits_that_may_mean_two_things_are_refused(tmp_path, out, columns, told, straddling):
    codes, scales, zeros = made.drawn(1, out, columns, 1, 3)
    tensors = made.pack_quantized("m", codes, scales, zeros, 3, straddling=straddling)
    folder = made.write(tmp_path / "q", tensors, made.library(made.scheme(3, "channel", symmetric=False)))
    if told:
        values = open_quantised(folder).checkpoint().tensors["m.weight"].values
        assert np.array_equal(values, made.weights(codes, scales, zeros, np.zeros(columns, dtype=int)))
        return
    with pytest.raises(formats.FormatError, match=r"FMT-172.*codes of 3 bits.*nothing tells"):
        open_quantised(folder)


def test_FMT_173_codes_and_zero_points_are_packed_alike(tmp_path):
    codes, scales, zeros = made.drawn(1, 42, 42, 1, 3)
    tensors = made.pack_quantized("m", codes, scales, zeros, 3)
    tensors["m.weight_zero_point"] = made.packed(zeros.T, 3, straddling=False).T
    with pytest.raises(formats.FormatError, match=r"FMT-172.*in two ways"):
        open_quantised(made.write(tmp_path / "q", tensors, made.library(made.scheme(3, "channel", symmetric=False))))


def test_FMT_172_nothing_is_reserved_for_a_shape_that_lies(tmp_path):
    tensors, description = parts("packed")
    tensors["m.weight_shape"] = np.array([2**31 - 1, 2**31 - 1])
    folder = made.write(tmp_path / "q", tensors, description)
    open_quantised(made.write(tmp_path / "warm", *parts("packed")))
    tracemalloc.start()
    try:
        with pytest.raises(formats.FormatError, match="FMT-172"):
            open_quantised(folder)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


CONFIGS = [
    ({"quant_method": "bitsandbytes"}, "FMT-172.*'bitsandbytes'"),
    (V2 | {"checkpoint_format": "marlin"}, "FMT-172.*'marlin'"),
    (V2 | {"checkpoint_format": "gptq_p"}, "FMT-172.*'gptq_p'"),
    (V2 | {"checkpoint_format": ["gptq"]}, "FMT-172.*layout"),
    (V2 | {"is_marlin_format": True}, "FMT-172.*kernel"),
    (V2 | {"bits": 5}, "FMT-172.*bits = 5, expected one of 2, 3, 4, 8"),
    (V2 | {"bits": "4"}, "FMT-172.*bits = '4'"),
    (V2 | {"group_size": 0}, "FMT-172.*group_size = 0"),
    (V2 | {"group_size": True}, "FMT-172.*group_size = True"),
    (V2 | {"group_size": None}, "FMT-172.*group_size = None"),
    (V2 | {"group_size": 8}, "FMT-172.*2 groups, expected 4 of 8"),
    (AWQ | {"version": "gemv"}, "FMT-172.*'gemv', expected gemm"),
    (AWQ | {"bits": 8}, "FMT-172.*bits = 8"),
    (PACKED | {"transform_config": {"a": 1}}, "FMT-172.*transform_config"),
    (PACKED | {"kv_cache_scheme": {"num_bits": 8}}, "FMT-172.*kv_cache_scheme"),
    (PACKED | {"format": "nvfp4-pack-quantized"}, "FMT-172.*'nvfp4-pack-quantized'"),
    (PACKED | {"format": ["pack-quantized"]}, "FMT-172.*format"),
    (PACKED | {"config_groups": {"a": {"targets": ["Linear"], "weights": None}}}, "FMT-172.*none of its config_groups"),
    (PACKED | {"config_groups": {"a": {"weights": {}}}}, "FMT-172.*no weights and targets"),
    (PACKED | {"config_groups": [1]}, "FMT-172.*none of its"),
    (made.library(made.scheme(4, "group", 16, type="float")), "FMT-172.*'float'"),
    (made.library(made.scheme(9, "group", 16)), "FMT-172.*num_bits = 9"),
    (made.library(made.scheme(4, "block", 16)), "FMT-172.*'block'"),
    (made.library(made.scheme(4, "group")), "FMT-172.*'group' with groups of None"),
    (made.library(made.scheme(4, "group", 16, symmetric=1)), "FMT-172.*symmetric = 1"),
    (None, "FMT-175.*no quantisation"),
]


@pytest.mark.parametrize(("description", "says"), CONFIGS)
def test_FMT_172_descriptions_that_are_not_read(tmp_path, description, says):
    tensors = parts("gptq" if description and "bits" in description else "packed")[0]
    with pytest.raises(formats.FormatError, match=says):
        open_quantised(made.write(tmp_path / "q", tensors, description))


def test_FMT_175_descriptions_that_differ_and_texts_that_are_none(tmp_path):
    folder = made.write(tmp_path / "q", *parts("gptq"))
    (folder / "config.json").write_text(
        json.dumps({"quantization_config": V2, "text_config": {"quantization_config": V2}})
    )
    loaded(folder)
    twice = {"quantization_config": V2, "text_config": {"quantization_config": V2 | {"bits": 8}}}
    for text, says in (
        (json.dumps(twice), "several quantisations that differ"),
        ('{"a": 1, "a": 2}', "a key twice"),
        ("[", "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(formats.FormatError, match=f"FMT-175.*{says}"):
            open_quantised(folder)
    plain = made.write(tmp_path / "plain", {"w.weight": np.ones((2, 2), np.float32)}, V2)
    with pytest.raises(formats.FormatError, match=r"FMT-175.*no tensor"):
        open_quantised(plain)
    with pytest.raises(formats.FormatError, match=r"FMT-084.*holds none"):
        convert(plain, tmp_path / "out", "sparse", expand_quantised=True)


@pytest.mark.parametrize("written", sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()))
def test_FMT_173_damage_ends_in_a_clear_error_or_in_numbers(tmp_path, written):
    rng = np.random.default_rng(3)
    for file in ("model.safetensors", "config.json"):
        data = (FIXTURES / written / file).read_bytes()
        for trial in range(60):
            spoilt = bytearray(data)
            # of the weights' file the header and the first parts
            for at in rng.integers(8, min(len(data), 4000), 1 + trial % 3):
                spoilt[at] = rng.integers(0, 256)
            folder = tmp_path / f"{file}-{trial}"
            folder.mkdir()
            for name in ("model.safetensors", "config.json"):
                (folder / name).write_bytes(spoilt if name == file else (FIXTURES / written / name).read_bytes())
            # any other error would fail this test
            with contextlib.suppress(formats.FormatError):
                loaded(folder)
