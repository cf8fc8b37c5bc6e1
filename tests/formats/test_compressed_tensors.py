"""Sparse checkpoints of compressed-tensors: files that the library wrote, and every broken one refused."""

import json
import shutil
import struct
import tracemalloc
from math import prod
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from formats import errors, records
from formats.container import DTYPES, NAMES
from formats.conversion import convert
from formats.dialects.compressed_tensors import open_compressed_tensors
from formats.dialects.hf import to_sparse
from formats.records import Dense, Sparse, flat, to_dense

FIXTURES = Path(__file__).parent / "fixtures" / "compressed_tensors"
WRITTEN = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
CONFIG = {"hidden_size": 13, "model_type": "llama", "rms_norm_eps": 1e-06, "rope_theta": 10000.0}


def plain(folder: Path, *, bit=lambda column: column % 8, width=lambda columns: -(-columns // 8)) -> dict:
    """The packed tensors of a folder in loops over bytes: name without ".weight" -> {flat position: bytes}."""
    raw = (folder / "model.safetensors").read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + n])

    def section(name: str) -> bytes:
        begin, end = header[name]["data_offsets"]
        return raw[8 + n + begin : 8 + n + end]

    found = {}
    for prefix in (name.removesuffix(".bitmask") for name in header if name.endswith(".bitmask")):
        shape = struct.unpack(f"<{len(section(prefix + '.shape')) // 8}q", section(prefix + ".shape"))
        mask, values = section(prefix + ".bitmask"), section(prefix + ".compressed")
        size = DTYPES[header[prefix + ".compressed"]["dtype"]].itemsize
        columns, at, slots = shape[-1], 0, {}
        for position in range(prod(shape)):
            row, column = divmod(position, columns)
            byte = row * width(columns) + column // 8
            if byte < len(mask) and mask[byte] >> bit(column) & 1:
                slots[position] = values[at : at + size]
                at += size
        found[prefix.removesuffix(".weight")] = slots
    return found


def slots_of(tensor: Sparse) -> dict[int, bytes]:
    return {int(p): tensor.values[i : i + 1].tobytes() for i, p in enumerate(flat(tensor))}


def dense_bits(slots: dict[int, bytes], like: dict) -> str:
    zero = bytes(DTYPES[like["dtype"]].itemsize)
    return b"".join(slots.get(p, zero) for p in range(prod(like["shape"]))).hex()


def expected(name: str) -> dict:
    return json.loads((FIXTURES / name / "expected.json").read_text())


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("block", [records.BLOCK, 16, 1])
def test_FMT_150_every_tensor_is_what_the_library_expands_it_to(monkeypatch, written, block):
    monkeypatch.setattr(records, "BLOCK", block)
    checkpoint = open_compressed_tensors(FIXTURES / written)
    assert checkpoint.kind == "model"
    assert (checkpoint.attributes, checkpoint.tied) == ({}, {})
    assert list(checkpoint.tensors) == sorted(expected(written))
    assert len(checkpoint.tensors) == len(expected(written))
    for name, says in expected(written).items():
        values = to_dense(checkpoint.tensors[name])
        assert (NAMES[values.dtype], list(values.shape)) == (says["dtype"], says["shape"])
        assert values.tobytes().hex() == says["bits"]


@pytest.mark.parametrize("written", WRITTEN)
def test_FMT_150_the_support_is_the_bitmask(written):
    tensors = open_compressed_tensors(FIXTURES / written).tensors
    packed = {name.removesuffix(".weight"): t for name, t in tensors.items() if isinstance(t, Sparse)}
    assert {name: slots_of(t) for name, t in packed.items()} == plain(FIXTURES / written)
    for tensor in packed.values():
        assert (tensor.indptr.dtype, tensor.indices.dtype) == (np.int64, np.int32)
        assert tensor.values.shape == (tensor.nnz,)


def test_FMT_150_ranks_and_names_of_both_styles():
    old = open_compressed_tensors(FIXTURES / "0.8.1-sparse-bitmask").tensors
    new = open_compressed_tensors(FIXTURES / "0.14.0.1-sparse-bitmask").tensors
    assert list(old) == list(new)
    assert {name: len(t.shape) for name, t in old.items()}["conv.weight"] == 3
    # the older ones pack biases and norms as well
    assert [n for n in old if isinstance(old[n], Dense)] == []
    assert [n for n in new if isinstance(new[n], Dense)] == ["lm_head.weight", "norm.weight", "q_proj.bias"]


@pytest.mark.parametrize("written", [w for w in WRITTEN if "24" in w])
def test_FMT_150_zeros_that_two_of_four_stores_stay_in_the_support(written):
    tensor = open_compressed_tensors(FIXTURES / written).tensors["q_proj.weight"]
    assert tensor.nnz == prod(tensor.shape) // 2
    assert np.diff(tensor.indptr)[2] == 6
    assert not tensor.values[tensor.indptr[2] : tensor.indptr[3]].view(np.uint16).any()


@pytest.mark.parametrize(
    ("written", "change"),
    [
        ("0.14.0.1-sparse-bitmask", {"bit": lambda column: 7 - column % 8}),
        ("0.14.0.1-sparse-24-bitmask", {"bit": lambda column: 7 - column % 8}),
        ("0.14.0.1-sparse-bitmask", {"width": lambda columns: columns // 8}),
        ("0.14.0.1-sparse-24-bitmask", {"width": lambda columns: columns // 8}),
    ],
    ids=["highest bit first", "highest bit first, 2:4", "rows without padding", "rows without padding, 2:4"],
)
def test_FMT_150_the_fixtures_tell_wrong_readings_apart(written, change):
    says = expected(written)["q_proj.weight"]
    assert dense_bits(plain(FIXTURES / written)["q_proj"], says) == says["bits"]
    assert dense_bits(plain(FIXTURES / written, **change)["q_proj"], says) != says["bits"]


@pytest.mark.parametrize("written", WRITTEN)
def test_FMT_158_config_loses_what_described_sparsity(written):
    files = open_compressed_tensors(FIXTURES / written).files
    assert {"config.json", "expected.json"} == set(files)
    assert len(files) == 2
    assert files["expected.json"] == (FIXTURES / written / "expected.json").read_bytes()
    config = json.loads(files["config.json"])
    if written.endswith("float-quantized"):
        quantisation = json.loads((FIXTURES / written / "config.json").read_text())["quantization_config"]
        del quantisation["sparsity_config"]
        assert config.pop("quantization_config") == quantisation
    assert config == CONFIG


def matrix() -> dict[str, np.ndarray]:
    """
    a   [ 1 . . . . . . . 2 ]      b   a vector, unpacked
        [ . . . . . . . . 3 ]
    """
    return {
        "a.bitmask": np.array([[1, 1], [0, 1]], np.uint8),
        "a.compressed": np.array([1, 2, 3], np.float16),
        "a.shape": np.array([2, 9]),
        "a.row_offsets": np.array([0, 2]),
        "b.bias": np.array([4], np.float32),
    }


def two_of_four() -> dict[str, np.ndarray]:
    """
    a   [ 1 2 . . | . 3       the second of the three runs lies in both rows
          . 4 | . . 5 6 ]
    """
    return {
        "a.bitmask": np.array([[0b100011], [0b110010]], np.uint8),
        "a.compressed": np.array([[1, 2, 3], [4, 5, 6]], np.float16),
        "a.shape": np.array([[2], [6]]),
    }


def described(kind: object, **more: object) -> dict:
    return {"quantization_config": {"quant_method": "compressed-tensors", "sparsity_config": {"format": kind}, **more}}


@pytest.fixture
def opened(tmp_path):
    """Write tensors and a config.json, open the folder and make every tensor."""

    def read(tensors: dict[str, np.ndarray], config: object) -> tuple[dict, dict]:
        save_file(tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        checkpoint = open_compressed_tensors(tmp_path)
        return dict(checkpoint.tensors), json.loads(checkpoint.files["config.json"])

    return read


def test_FMT_150_the_small_ones_can_be_read(opened):
    tensors, _ = opened(matrix(), described("sparse-bitmask"))
    assert slots_of(tensors["a.weight"]) == {p: np.float16(v).tobytes() for p, v in ((0, 1), (8, 2), (17, 3))}
    assert tensors["b.bias"].values.tolist() == [4]
    tensors, _ = opened(two_of_four(), described("sparse-24-bitmask"))
    assert flat(tensors["a.weight"]).tolist() == [0, 1, 5, 7, 10, 11]
    assert tensors["a.weight"].values.tolist() == [1, 2, 3, 4, 5, 6]


def test_FMT_150_row_offsets_are_not_read(opened):
    tensors, _ = opened({**matrix(), "a.row_offsets": np.array([-7.5])}, described("sparse-bitmask"))
    assert tensors["a.weight"].nnz == 3


def test_FMT_150_no_rows(opened):
    empty = {"a.bitmask": np.zeros((0, 1), np.uint8), "a.compressed": np.zeros(0), "a.shape": np.array([0, 5])}
    tensors, _ = opened({**empty, "a.row_offsets": np.zeros(0)}, described("sparse-bitmask"))
    assert (tensors["a.weight"].shape, tensors["a.weight"].indptr.tolist()) == ((0, 5), [0])


def test_FMT_150_a_group_may_lie_in_two_shards(tmp_path):
    tensors = matrix()
    shards = {"model-1.safetensors": ["a.bitmask", "a.shape"], "model-2.safetensors": []}
    shards["model-2.safetensors"] = sorted(tensors.keys() - shards["model-1.safetensors"])
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, tmp_path / file)
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(described("sparse-bitmask")))
    found = open_compressed_tensors(tmp_path).tensors
    assert (list(found), found["a.weight"].nnz) == (["a.weight", "b.bias"], 3)


def test_FMT_150_tensors_are_made_when_asked_for(tmp_path):
    save_file({**matrix(), "a.bitmask": np.array([[1, 1], [0, 3]], np.uint8)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(described("sparse-bitmask")))
    tensors = open_compressed_tensors(tmp_path).tensors
    assert tensors["b.bias"].values.tolist() == [4]
    with pytest.raises(errors.FormatError, match=r"FMT-150.*'a\.weight'"):
        tensors["a.weight"]
    for name in ("a.bitmask", "a", "b"):
        with pytest.raises(KeyError):
            tensors[name]


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        *((part, None, "expected") for part in ("bitmask", "compressed", "shape", "row_offsets")),
        ("weight", np.zeros((2, 9), np.float16), "as it is and as the parts"),
        ("shape", np.array([2, 9], np.int32), "stored as I32"),
        ("shape", np.array([[2], [9]]), r"shape \[2, 1\]"),
        ("shape", np.array(18), "I64 of shape"),
        ("shape", np.zeros(0, np.int64), "rank 1 to 8"),
        ("shape", np.ones(9, np.int64), "rank 1 to 8"),
        ("shape", np.array([-2, -9]), "FMT-007"),
        ("shape", np.array([2, 8]), r"bitmask is U8 of shape \[2, 2\]"),
        ("shape", np.array([1, 9]), r"bitmask is U8 of shape \[2, 2\]"),
        ("shape", np.array([2**40, 2**40]), "FMT-007"),
        ("shape", np.array([2**20, 2**30]), "bitmask is U8"),
        ("shape", np.array([1, 2**31]), "columns"),
        ("shape", np.array([2**31, 9]), "rows"),
        ("shape", np.array([2**30, 0]), "columns"),
        ("bitmask", np.array([[1, 1], [0, 1]], np.int8), "bitmask is I8"),
        ("bitmask", np.array([1, 1, 0, 1], np.uint8), r"shape \[4\]"),
        ("bitmask", np.array([[1, 1], [0, 3]], np.uint8), "past column 8"),
        ("bitmask", np.array([[1, 1], [1, 1]], np.uint8), "4 bits set for 3"),
        ("bitmask", np.array([[1, 1], [0, 0]], np.uint8), "2 bits set for 3"),
        ("compressed", np.array([1, 2], np.float16), "3 bits set for 2"),
        ("compressed", np.array([1, 2, 3, 4], np.float16), "3 bits set for 4"),
        ("compressed", np.array([[1, 2, 3]], np.float16), "one dimension"),
    ],
)
def test_FMT_150_a_broken_group(opened, part, value, says):
    changed = {**matrix(), f"a.{part}": value}
    with pytest.raises(errors.FormatError, match=rf"FMT-150.*'a\.weight'.*{says}"):
        opened({name: values for name, values in changed.items() if values is not None}, described("sparse-bitmask"))


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        *((part, None, "expected") for part in ("bitmask", "compressed", "shape")),
        ("row_offsets", np.array([0, 3]), "expected"),
        ("shape", np.array([2, 6]), r"stored as I64 of shape \[2\]"),
        ("shape", np.array([[12]]), r"I64 of shape \[2, 1\]"),
        ("shape", np.array([[2], [7]]), "two of every four"),
        ("shape", np.array([[2], [5]]), "two of every four"),
        ("compressed", np.arange(6, dtype=np.float16), "two of every four"),
        ("compressed", np.ones((3, 2), np.float16), "two of every four"),
        ("bitmask", np.array([[0b100011], [0b000111]], np.uint8), "rows 0 to 1"),
        ("bitmask", np.array([[0b000111], [0b110010]], np.uint8), "rows 0 to 1"),
        ("bitmask", np.array([[0b100011], [0b110011]], np.uint8), "7 bits set for 6"),
    ],
)
@pytest.mark.parametrize("block", [records.BLOCK, 1])
def test_FMT_150_a_broken_group_of_two_of_four(monkeypatch, opened, part, value, says, block):
    monkeypatch.setattr(records, "BLOCK", block)
    changed = {**two_of_four(), f"a.{part}": value}
    changed = {name: values for name, values in changed.items() if values is not None}
    with pytest.raises(errors.FormatError, match=rf"FMT-150.*'a\.weight'.*{says}"):
        opened(changed, described("sparse-24-bitmask"))


@pytest.mark.parametrize(("rows", "columns"), [(1, 6), (4, 5), (2, 3)])
def test_FMT_150_sizes_that_two_of_four_cannot_have(monkeypatch, opened, rows, columns):
    monkeypatch.setattr(records, "BLOCK", 1)
    odd = {
        "a.bitmask": np.full((rows, 1), (1 << columns // 2) - 1, np.uint8),
        "a.compressed": np.ones((rows, columns // 2), np.float16),
        "a.shape": np.array([[rows], [columns]]),
    }
    with pytest.raises(errors.FormatError, match=r"FMT-150.*'a\.weight'.*two of every four"):
        opened(odd, described("sparse-24-bitmask"))


@pytest.mark.parametrize("shape", [[2**40, 2**40], [2**26, 2**26], [2**30, 0], [2**52], [2**31 - 1, 9]])
def test_FMT_150_a_stated_shape_reserves_nothing(opened, shape):
    forged = {**matrix(), "a.shape": np.array(shape)}
    tracemalloc.start()
    try:
        with pytest.raises(errors.FormatError, match="FMT-150"):
            opened(forged, described("sparse-bitmask"))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ([], "expected an object"),
        ({}, r"formats \[\].*--from hf"),
        ({"quantization_config": {"quant_method": "gptq", "format": "gptq"}}, r"formats \[\]"),
        (described("marlin-24"), "'marlin-24'.*dense safetensors"),
        (described("sparse-96-bitmask"), "'sparse-96-bitmask'"),
        (described(["sparse-bitmask"]), r"formats \[\]"),
        (described("sparse-bitmask", format="pack-quantized"), "'pack-quantized'.*dense safetensors"),
        (described("sparse-bitmask", format=["dense"]), "format"),
        (
            described("sparse-bitmask", config_groups={"g": {"format": "nvfp4-pack-quantized"}}),
            "'nvfp4-pack-quantized'",
        ),
        (
            {**described("dense"), "compression_config": {"sparsity_config": {"format": "sparse-bitmask"}}},
            "expected one",
        ),
        (described("dense"), r"'a\.weight'.*says that all are 'dense'"),
        (described("sparse-24-bitmask"), r"'a\.weight'.*for 'sparse-24-bitmask'"),
    ],
)
def test_FMT_150_descriptions_that_cannot_be_read(opened, config, says):
    with pytest.raises(errors.FormatError, match=f"FMT-150.*{says}"):
        opened(matrix(), config)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "has no config"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"a": 1, "a": 2}', "has a key twice"),
        (b'{"a":' * 100_000, "recursion"),
        (b"\xff\xfe\xff", "is not JSON"),
    ],
    ids=["none", "empty", "cut", "twice", "deep", "no text"],
)
def test_FMT_150_config_that_is_no_json(tmp_path, text, says):
    save_file(matrix(), tmp_path / "model.safetensors")
    if text is not None:
        (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(errors.FormatError, match=rf"FMT-150.*{says}"):
        open_compressed_tensors(tmp_path)


def test_FMT_150_dense_describes_only(opened):
    tensors, config = opened({"a.weight": np.eye(3)}, {**described("dense"), "pad": None})
    assert isinstance(tensors["a.weight"], Dense)
    assert config == {"pad": None}


def test_FMT_158_what_else_config_says_stays(opened):
    sparsity = {"format": "sparse-bitmask"}
    other = {"quant_method": "gptq", "bits": 4}
    groups = {"config_groups": {"g": {"format": None}}, "format": "float-quantized"}
    config = {
        "sparsity_config": {"window": 7},
        "text_config": {"quantization_config": {"sparsity_config": sparsity, **groups}, "limits": [0.1, float("inf")]},
        "vision_config": {"quantization_config": other, "compression_config": {"sparsity_config": sparsity}},
        "audio_config": {"quantization_config": {"transform_config": {"config_groups": {"r": 1}}}},
        "quantization_config": {"sparsity_config": {}, "kv_cache_scheme": {"num_bits": 8}},
    }
    _, found = opened(matrix(), config)
    assert found == {
        "sparsity_config": {"window": 7},
        "text_config": {"quantization_config": groups, "limits": [0.1, float("inf")]},
        "vision_config": {"quantization_config": other},
        "audio_config": {"quantization_config": {"transform_config": {"config_groups": {"r": 1}}}},
        "quantization_config": {"kv_cache_scheme": {"num_bits": 8}},
    }


@pytest.mark.parametrize("config", [None, {}, {"quantization_config": {"quant_method": "compressed-tensors"}}])
def test_FMT_150_packed_tensors_whose_config_says_nothing_are_refused(tmp_path, config):
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "0.9.0-sparse-bitmask", folder)
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        errors.FormatError, match=r"compressed-tensors packed .* and config\.json does not say how"
    ) as refused:
        convert(folder, tmp_path / "out", "sparse")
    assert refused.value.clause == "FMT-150"
    with pytest.raises(errors.FormatError, match="FMT-150"):
        to_sparse(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
