"""Matrices of whole numbers: what the libraries write is read to the bit, and their zeros become a support."""

import base64
import json
import zlib
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import formats
from formats import FormatError, records
from formats.container import NAMES
from formats.conversion import convert
from formats.dialects.hf import open_hf
from formats.dialects.int_codes import unpacked, words_of
from formats.dialects.int_folder import open_quantised
from formats.dialects.sources import open_source
from formats.records import Dense, Sparse, from_dense, to_dense
from tests.formats import int_files as made

FIXTURES = Path(__file__).parent / "fixtures" / "int_codes"
WRITTEN = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "GEMM", "zero_point": True}


def expected(name: str) -> dict:
    return json.loads((FIXTURES / name / "expected.json").read_text())


def pruned(says: dict) -> np.ndarray:
    bitmap = np.frombuffer(bytes.fromhex(says["pruned"]), dtype=np.uint8)
    return np.unpackbits(bitmap, bitorder="little")[: prod(says["shape"])].reshape(says["shape"]).astype(bool)


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("block", [records.BLOCK, 64])
def test_FMT_172_every_matrix_is_what_its_library_makes_of_it(monkeypatch, written, block):
    monkeypatch.setattr(records, "BLOCK", block)
    checkpoint = open_source(FIXTURES / written, expand_quantised=True)
    says = expected(written)
    rest = {"norm.weight", *(["q_proj.bias"] if "compressed" in written else [])}
    assert set(checkpoint.tensors) == {*says, *rest}
    assert checkpoint.attributes["expanded"] == sorted(says)
    for name, told in says.items():
        values = to_dense(checkpoint.tensors[name])
        assert (NAMES[values.dtype], list(values.shape)) == (told["dtype"], told["shape"])
        assert values.tobytes() == zlib.decompress(base64.b64decode(told["bits"])), name
    with open_hf(FIXTURES / written) as raw:
        for name in rest:
            assert checkpoint.tensors[name].values.tobytes() == raw[name].values.tobytes()


@pytest.mark.parametrize("written", WRITTEN)
def test_FMT_174_what_was_zero_before_is_pruned(written):
    folder = open_quantised(FIXTURES / written)
    for name, says in expected(written).items():
        matrix = folder.matrices[name]
        assert matrix.shape == tuple(says["shape"])
        assert (matrix.codes.dtype, matrix.group_of_column.dtype) == (np.int8, np.int32)
        assert matrix.scales.shape == (matrix.shape[0], matrix.group_of_column.max() + 1)
        assert np.array_equal(matrix.mask, ~pruned(says))


@pytest.mark.parametrize("written", WRITTEN)
def test_FMT_174_pruned_codes_become_absent_weights(written, tmp_path):
    remarks = convert(FIXTURES / written, tmp_path / "sparse", "sparse", expand_quantised=True, verify=True)
    assert any("become" in remark for remark in remarks)
    read = formats.read(tmp_path / "sparse")
    for name, says in expected(written).items():
        tensor = read.tensors[name]
        if isinstance(tensor, Sparse):
            assert np.array_equal(
                to_dense(records.from_support(~pruned(says))),
                to_dense(records.Mask(tensor.shape, tensor.indptr, tensor.indices)),
            )
        assert to_dense(tensor).tobytes() == zlib.decompress(base64.b64decode(says["bits"]))
    assert sum(isinstance(tensor, Sparse) for tensor in read.tensors.values()) >= 2
    convert(tmp_path / "sparse", tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config == {"model_type": "llama", "rope_theta": 10000.0, "hidden_size": 48, "rms_norm_eps": 1e-06}


@pytest.mark.parametrize("straddling", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [1, 5, 31, 32, 33, 100])
def test_FMT_173_codes_are_those_of_a_plain_loop(bits, n, straddling):
    codes = np.random.default_rng(n).integers(0, 1 << bits, (3, n))
    codes[0] = (1 << bits) - 1
    packed = made.packed(codes, bits, straddling=straddling)
    assert packed.shape == (3, words_of(n, bits, straddling=straddling))
    assert np.array_equal(unpacked(packed, n, bits, straddling=straddling), codes - (1 << bits - 1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("bits", "out", "columns", "size"), [(2, 16, 48, 16), (3, 32, 64, 20), (4, 8, 24, 8), (8, 12, 28, 9)]
)
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
def test_FMT_173_gptq_is_a_plain_loop(tmp_path, layout, bits, out, columns, size, dtype):
    groups = -(-columns // size)
    codes, scales, zeros = made.drawn(bits, out, columns, groups, bits, dtype)
    of_column = np.random.default_rng(1).permutation(np.arange(columns) // size)
    description = {**GPTQ, "bits": bits, "group_size": size, "desc_act": True, "checkpoint_format": layout}
    less = int(layout == "gptq")
    tensors = made.gptq("m", codes, scales, zeros, bits, of_column, stored_less=less)
    # several layers, and one without g_idx
    tensors |= made.gptq("a.b", codes, scales, zeros, bits, np.arange(columns) // size, stored_less=less)
    folder = open_quantised(made.write(tmp_path / "q", tensors, description))
    assert list(folder.matrices) == ["a.b.weight", "m.weight"]
    found = folder.checkpoint().tensors
    assert found["m.weight"].dtype == dtype
    assert np.array_equal(found["m.weight"].values, made.weights(codes, scales, zeros, of_column))
    assert np.array_equal(found["a.b.weight"].values, made.weights(codes, scales, zeros, np.arange(columns) // size))
    for part in ("m", "a.b"):
        matrix = folder.matrices[f"{part}.weight"]
        assert np.array_equal(matrix.codes.astype(int) + (1 << bits - 1), codes)
        assert np.array_equal(matrix.zeros.astype(int) + (1 << bits - 1), zeros)


@pytest.mark.parametrize("size", [16, -1])
def test_FMT_172_runs_of_columns_where_gptq_stores_no_g_idx(tmp_path, size):
    groups = 1 if size == -1 else 3
    codes, scales, zeros = made.drawn(3, 8, 40, groups, 4)
    description = {**GPTQ, "group_size": size, "checkpoint_format": "gptq_v2"}
    folder = made.write(tmp_path / "q", made.gptq("m", codes, scales, zeros, 4), description)
    of_column = np.arange(40) // (40 if size == -1 else size)
    found = open_quantised(folder).checkpoint().tensors["m.weight"].values
    assert np.array_equal(found, made.weights(codes, scales, zeros, of_column))


@pytest.mark.parametrize("size", [16, -1, 7])
def test_FMT_173_awq_is_a_plain_loop(tmp_path, size):
    columns = 35 if size == 7 else 48
    groups = 1 if size == -1 else columns // size
    codes, scales, zeros = made.drawn(4, 24, columns, groups, 4)
    folder = made.write(tmp_path / "q", made.awq("m", codes, scales, zeros), {**AWQ, "group_size": size})
    of_column = np.arange(columns) // (columns if size == -1 else size)
    found = open_quantised(folder).checkpoint().tensors["m.weight"].values
    assert np.array_equal(found, made.weights(codes, scales, zeros, of_column))


@pytest.mark.parametrize("straddling", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_FMT_173_pack_quantized_is_a_plain_loop(tmp_path, bits, symmetric, straddling):
    out, columns, size = 37, 132, 22
    codes, scales, zeros = made.drawn(bits, out, columns, 6, bits, ml_dtypes.bfloat16)
    of_column = np.random.default_rng(bits).permutation(np.arange(columns) // size)
    zeros = np.full_like(zeros, 1 << bits - 1) if symmetric else zeros
    tensors = made.pack_quantized(
        "m",
        codes,
        scales,
        None if symmetric else zeros,
        bits,
        straddling=straddling,
        of_column=of_column,
    )
    description = made.library(made.scheme(bits, "group", size, symmetric=symmetric))
    folder = open_quantised(made.write(tmp_path / "q", tensors, description))
    found = folder.checkpoint().tensors["m.weight"].values
    assert np.array_equal(found, made.weights(codes, scales, zeros, of_column))
    assert (folder.matrices["m.weight"].zeros is None) == symmetric


def test_FMT_172_the_scheme_that_fits_or_names_the_matrix(tmp_path):
    four, eight = made.scheme(4, "channel"), made.scheme(8, "channel")
    tensors, wanted = {}, {}
    for module, bits in (("a", 4), ("b", 8)):
        codes, scales, _ = made.drawn(bits, 5, 12, 1, bits)
        tensors |= made.pack_quantized(module, codes, scales, None, bits)
        half = np.full((5, 1), 1 << bits - 1)
        wanted[f"{module}.weight"] = made.weights(codes, scales, half, np.zeros(12, dtype=int))
    found = open_quantised(made.write(tmp_path / "q", tensors, made.library(four, eight))).checkpoint().tensors
    for name, values in wanted.items():
        assert np.array_equal(found[name].values, values)
    plain = {"a.weight": np.ones((2, 3), np.int8), "a.weight_scale": np.ones((2, 1), np.float16)}
    named = four | {"targets": ["a"]}
    description = made.library(named, eight, kind="int-quantized")
    assert open_quantised(made.write(tmp_path / "p", plain, description)).matrices["a.weight"].bits == 4
    with pytest.raises(formats.FormatError, match=r"FMT-172.*fit 2 schemes"):
        open_quantised(made.write(tmp_path / "r", plain, made.library(four, eight, kind="int-quantized")))


def test_FMT_174_a_group_whose_scale_is_zero_is_pruned(tmp_path):
    codes, scales, zeros = made.drawn(5, 8, 32, 2, 4)
    scales[3, 1] = 0
    folder = made.write(
        tmp_path / "q", made.gptq("m", codes, scales, zeros, 4), GPTQ | {"checkpoint_format": "gptq_v2"}
    )
    opened = open_quantised(folder)
    mask = opened.matrices["m.weight"].mask
    assert not mask[3, 16:].any()
    values = opened.checkpoint().tensors["m.weight"].values
    assert np.array_equal(to_dense(from_dense(values)) != 0, mask)


def test_FMT_174_a_bitmask_that_is_stored_keeps_weights_of_code_zero(tmp_path):
    # a kept code 0 at (0, 1), and absent weights elsewhere
    present = np.array([[1, 1, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0, 1, 0, 0]], dtype=bool)
    codes = np.array([5, 0, -3, 127, -128, 9], dtype=np.int8)
    scales = np.array([[0.5], [0.25]], dtype=np.float16)
    tensors = {
        "m.bitmask": np.packbits(present, axis=1, bitorder="little"),
        "m.compressed": codes,
        "m.shape": np.array([2, 9]),
        "m.row_offsets": np.array([0, 4]),
        "m.weight_scale": scales,
    }
    description = made.library(made.scheme(8, "channel"), kind="int-quantized")
    folder = made.write(tmp_path / "q", tensors, description | {"sparsity_config": {"format": "sparse-bitmask"}})
    opened = open_quantised(folder)
    assert np.array_equal(opened.matrices["m.weight"].mask, present)
    assert opened.matrices["m.weight"].mask_is_stored
    tensor = opened.checkpoint().tensors["m.weight"]
    assert isinstance(tensor, Sparse)
    assert tensor.values.tolist() == [2.5, 0, -1.5, 63.5, -32, 2.25]
    assert tensor.indices.tolist() == [0, 1, 4, 8, 3, 6]
    convert(folder, tmp_path / "sparse", "sparse", expand_quantised=True, verify=True)
    assert formats.read(tmp_path / "sparse").tensors["m.weight"].nnz == 6


def test_FMT_173_6_a_kept_weight_of_zero_has_no_sign(tmp_path):
    tensors = {
        "m.bitmask": np.array([[0b111], [0b101]], dtype=np.uint8),
        "m.compressed": np.array([0, 3, 0, -5, 7], dtype=np.int8),
        "m.shape": np.array([2, 3]),
        "m.row_offsets": np.array([0, 3]),
        # 0 times a negative scale, and a negative code times a scale of 0, are −0.0 in floating point
        "m.weight_scale": np.array([[-0.5], [0.0]], dtype=np.float16),
    }
    description = made.library(made.scheme(8, "channel"), kind="int-quantized")
    folder = made.write(tmp_path / "q", tensors, description | {"sparsity_config": {"format": "sparse-bitmask"}})
    tensor = open_quantised(folder).checkpoint().tensors["m.weight"]
    assert tensor.values.view(np.uint16).tolist() == [0, 0xBE00, 0, 0, 0]


def test_FMT_175_codes_are_not_expanded_unasked(tmp_path):
    source = FIXTURES / "autoawq-0.2.9-4-bits"
    with pytest.raises(formats.FormatError, match=r"FMT-175.*'o_proj\.weight'.*--expand-quantised.*--from hf"):
        convert(source, tmp_path / "out", "sparse")
    assert not (tmp_path / "out").exists()
    (remark,) = [r for r in convert(source, tmp_path / "out", "sparse", source_format="hf") if "quantisation" in r]
    assert "carried as they are" in remark
    assert isinstance(formats.read(tmp_path / "out").tensors["o_proj.qweight"], Dense)
    # a delta of two such folders is one of their codes
    assert "o_proj.qweight" in open_source(source).tensors


@pytest.mark.parametrize("config", [{}, {"quantization_config": {"quant_method": "gptq"}}], ids=["alone", "described"])
def test_FMT_175_2_a_tensor_named_qweight_is_no_codes_if_it_is_no_words(tmp_path, config):
    # the fuzzer found that bytes of this name were refused as codes
    folder = made.write(tmp_path / "q", {"m.qweight": np.arange(6, dtype=np.int8).reshape(2, 3)}, None)
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "out", "sparse")
    assert formats.read(tmp_path / "out").tensors["m.qweight"].values.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("sparsity", ["dense", "dense-sparsity"])
def test_FMT_175_a_description_of_dense_weights_is_no_obstacle(tmp_path, sparsity):
    codes, scales, _ = made.drawn(6, 5, 32, 2, 4)
    tensors = made.pack_quantized("m", codes, scales, None, 4)
    described = made.library(made.scheme(4, "group", 16), sparsity_config={"format": sparsity})
    folder = made.write(tmp_path / "q", tensors, described)
    values = open_source(folder, expand_quantised=True).tensors["m.weight"].values
    half = np.full((5, 2), 8)
    assert np.array_equal(values, made.weights(codes, scales, half, np.arange(32) // 16))
    # without the option its codes are carried, and config.json keeps the quantisation
    carried = open_source(folder)
    assert "m.weight_packed" in carried.tensors
    config = json.loads(carried.files["config.json"])
    assert config["quantization_config"] == made.library(made.scheme(4, "group", 16))
    with pytest.raises(formats.FormatError, match=r"FMT-175.*--from compressed-tensors"):
        convert(folder, tmp_path / "out", "hf")


def test_FMT_175_what_describes_the_quantisation_goes(tmp_path):
    codes, scales, zeros = made.drawn(7, 8, 32, 2, 4)
    parts = made.awq("m", codes, scales, zeros)
    old = json.dumps({"w_bit": 4, "q_group_size": 16, "zero_point": True, "version": "GEMM"})
    folder = made.write(tmp_path / "q", parts, None, quant_config__json=old, vocab__json="{}")
    checkpoint = open_source(folder, expand_quantised=True)
    assert np.array_equal(
        checkpoint.tensors["m.weight"].values, made.weights(codes, scales, zeros, np.arange(32) // 16)
    )
    assert checkpoint.attributes == {"source": "awq", "expanded": ["m.weight"]}
    assert set(checkpoint.files) == {"config.json", "vocab.json"}
    assert any("quant_config.json" in remark for remark in checkpoint.remarks)
    older = json.dumps({"bits": 4, "group_size": 16, "desc_act": False})
    folder = made.write(
        tmp_path / "g", made.gptq("m", codes, scales, zeros, 4, stored_less=1), None, quantize_config__json=older
    )
    found = open_source(folder, expand_quantised=True)
    assert np.array_equal(found.tensors["m.weight"].values, checkpoint.tensors["m.weight"].values)


def test_FMT_175_scales_of_activations_are_left_out_and_named():
    checkpoint = open_source(FIXTURES / "compressed-tensors-0.20.0-int-quantized", expand_quantised=True)
    assert not [name for name in checkpoint.tensors if "input" in name]
    assert any("2 tensors, the first q_proj.input_scale" in remark for remark in checkpoint.remarks)


def test_FMT_098_expanded_matrices_count(tmp_path):
    with pytest.raises(formats.FormatError, match=r"FMT-098.*6144 bytes"):
        open_source(FIXTURES / "gptqmodel-7.3.4-4-bits", expand_quantised=True, limit=6143)
    assert open_source(FIXTURES / "gptqmodel-7.3.4-4-bits", expand_quantised=True, limit=6144)


def test_FMT_172_2_a_folder_with_a_config_of_its_own_is_not_carried_unasked(tmp_path):
    codes, scales, zeros = made.drawn(7, 8, 32, 2, 4)
    older = json.dumps({"bits": 4, "group_size": 16, "desc_act": False})
    parts = made.gptq("m", codes, scales, zeros, 4, stored_less=1)
    folder = made.write(tmp_path / "g", parts, None, quantize_config__json=older)
    with pytest.raises(FormatError, match="FMT-175"):
        convert(folder, tmp_path / "no", "sparse")
    convert(folder, tmp_path / "hf", "hf", expand_quantised=True)
    with open_hf(tmp_path / "hf") as opened:
        weights = made.weights(codes, scales, zeros, np.arange(32) // 16)
        assert np.array_equal(opened["m.weight"].values, weights)


def test_FMT_174_4_a_pruned_weight_is_plus_zero_whatever_its_scale(tmp_path):
    codes, scales, zeros = made.drawn(5, 8, 32, 2, 4)
    scales *= -1
    parts = made.gptq("m", codes, scales, zeros, 4)
    opened = open_quantised(made.write(tmp_path / "q", parts, GPTQ | {"checkpoint_format": "gptq_v2"}))
    values, mask = opened.checkpoint().tensors["m.weight"].values, opened.matrices["m.weight"].mask
    assert not mask.all()
    assert np.array_equal(values.view(np.uint16) != 0, mask)


def test_FMT_128_scales_of_codes_that_are_carried_are_not_cast(tmp_path):
    codes, scales, zeros = made.drawn(5, 8, 32, 2, 4)
    folder = made.write(tmp_path / "q", made.gptq("m", codes, scales, zeros, 4), GPTQ)
    for to in ("hf", "sparse"):
        with pytest.raises(FormatError, match="FMT-128: a cast to BF16 would change the scales"):
            convert(folder, tmp_path / to, to, source_format="hf", dtype="BF16")
        convert(folder, tmp_path / f"{to}-carried", to, source_format="hf")
    convert(folder, tmp_path / "cast", "hf", dtype="BF16", expand_quantised=True)
