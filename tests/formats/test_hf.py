"""Hugging Face folders: there and back bit for bit, and every bad one refused."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import formats
from formats import errors
from formats.dialects import hf, sources

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def state() -> dict[str, torch.Tensor]:
    """A pruned bfloat16 matrix with −0.0 and a NaN payload, and what else stands in a model."""
    g = torch.Generator().manual_seed(0)
    pruned = torch.randn(40, 70, generator=g).bfloat16()
    pruned[torch.rand(40, 70, generator=g) < 0.6] = 0
    pruned[0, 0] = -0.0
    pruned.view(torch.int16)[0, 1] = 0x7FA1
    embed = torch.randn(30, 16, generator=g).bfloat16()
    embed[3, 4] = 0
    return {
        "model.layers.0.w": pruned,
        "model.embed": embed,
        "model.norm": torch.ones(70, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "ids": torch.arange(12).reshape(3, 4),
        "mask": torch.tensor([[True, False], [False, False]]),
        "zeros": torch.zeros(20, 20, dtype=torch.float16),
        "conv": torch.zeros(3, 4, 5),
        "f8": torch.randn(9, 9, generator=g).to(torch.float8_e4m3fn),
    }


@pytest.fixture
def folder(tmp_path):
    """A folder with one file."""
    path = tmp_path / "hf"
    path.mkdir()
    save_file(state(), path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text('{"torch_dtype": "bfloat16", "rope_theta": 1e4}')
    (path / "tokenizer.json").write_bytes(b"\x00\xff")
    (path / ".gitattributes").write_text("hidden")
    (path / "pytorch_model.bin").write_bytes(b"weights of another kind")
    (path / "original").mkdir()
    return path


@pytest.fixture
def sharded(folder):
    """The same in two shards, with a fraction in the index, as some have."""
    tensors = state()
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for file, part in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 123.0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder


def raw(values: torch.Tensor) -> bytes:
    return values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""


def assert_state(folder: Path) -> None:
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    expected = state()
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert raw(found[name]) == raw(values)


@pytest.mark.parametrize("source", ["folder", "sharded"])
@pytest.mark.parametrize("wanted", ["auto", "dense", "bitmask", "csr"])
def test_FMT_125_there_and_back_bit_for_bit(request, tmp_path, source, wanted):
    hf.to_sparse(request.getfixturevalue(source), tmp_path / "sparse", encoding=wanted, zeros="positive")
    hf.to_hf(tmp_path / "sparse", tmp_path / "back")
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json")
    ]
    assert_state(tmp_path / "back")
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == b"\x00\xff"


def test_FMT_124_shards_and_index_that_stock_readers_take(folder, tmp_path):
    hf.to_sparse(folder, tmp_path / "sparse", zeros="positive")
    hf.to_hf(tmp_path / "sparse", tmp_path / "back", shard_bytes=2000)
    assert_state(tmp_path / "back")
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(raw(t)) for t in state().values())
    assert len(set(index["weight_map"].values())) > 2
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "back" / file, "pt") as shard:
            assert shard.metadata() == {"format": "pt"}
            assert name in shard.keys()  # noqa: SIM118 - not a mapping
    with hf.open_hf(tmp_path / "back") as again:
        assert list(again) == sorted(state())


def test_FMT_080_FMT_122_one_file_or_shards_give_the_same_checkpoint(folder, tmp_path):
    hf.to_sparse(folder, tmp_path / "one", zeros="positive")
    hf.to_hf(tmp_path / "one", tmp_path / "back", shard_bytes=3000)
    hf.to_sparse(tmp_path / "back", tmp_path / "two", zeros="positive")
    one, two = ((tmp_path / n / "model.sparse.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two


def encodings(path: Path) -> dict[str, str]:
    with formats.open(path) as reader:
        return {name: reader.info(name).encoding for name in reader.names()}


def test_FMT_122_what_becomes_sparse(folder, tmp_path):
    for wanted in ("auto", "bitmask", "csr", "dense"):
        hf.to_sparse(folder, tmp_path / wanted, encoding=wanted)
    dense = dict.fromkeys(state(), "dense")
    assert encodings(tmp_path / "dense") == dense
    # a matrix with few zeros or none would grow; one of zeros alone takes no gap
    found = dense | {"model.layers.0.w": "bitmask", "zeros": "gap8", "conv": "gap8"}
    assert encodings(tmp_path / "auto") == found
    matrices = ("model.layers.0.w", "model.embed", "zeros", "f8", "empty", "conv")
    for wanted in ("bitmask", "csr"):
        assert encodings(tmp_path / wanted) == dense | dict.fromkeys(matrices, wanted)


def test_FMT_127_positive_stores_every_entry_with_a_bit_set(folder, tmp_path):
    hf.to_sparse(folder, tmp_path / "sparse", zeros="positive")
    with formats.open(tmp_path / "sparse") as reader:
        found = reader["model.layers.0.w"]
    bits = state()["model.layers.0.w"].view(torch.int16)
    assert found.indices[:2].tolist() == [0, 1]
    assert found.nnz == int((bits != 0).sum())
    assert found.values.view(np.uint16)[:2].tolist() == [0x8000, 0x7FA1]


def test_FMT_123_companions(folder, tmp_path, monkeypatch):
    with hf.open_hf(folder) as source:
        assert dict(source.files) == {
            "config.json": (folder / "config.json").read_bytes(),
            "tokenizer.json": b"\x00\xff",
        }
    (folder / "my notes.txt").write_text("")
    with pytest.raises(formats.FormatError, match=r"FMT-013.*my notes"):
        hf.to_sparse(folder, tmp_path / "sparse")
    (folder / "my notes.txt").unlink()
    monkeypatch.setattr(formats.validate, "MAX_FILE_BYTES", 2)
    with hf.open_hf(folder) as source:
        assert list(source.files) == ["tokenizer.json"]


@pytest.mark.parametrize("source", ["folder", "sharded"])
def test_FMT_123_every_entry_that_is_left_out_is_named(request, tmp_path, monkeypatch, source):
    folder = request.getfixturevalue(source)
    (folder / "1_Pooling").mkdir()
    (folder / ".cache").mkdir()
    (folder / "large.json").write_bytes(b"0" * 101)
    os.mkfifo(folder / "pipe")
    (folder / "linked.json").symlink_to(folder / "config.json")
    (folder / "adapter_model.safetensors").write_bytes(b"not looked at")
    monkeypatch.setattr(formats.validate, "MAX_FILE_BYTES", 100)
    expected = {
        ".cache/": "a folder",
        ".gitattributes": "hidden",
        "1_Pooling/": "a folder",
        "adapter_model.safetensors": "weights that are not read",
        "large.json": "more than 100 bytes",
        "original/": "a folder",
        "pipe": "no regular file",
        "pytorch_model.bin": "weights that are not read",
    }
    with hf.open_hf(folder) as found:
        assert found.left_out == expected
        assert set(found.files) == {"config.json", "linked.json", "tokenizer.json"}
    remarks = hf.to_sparse(folder, tmp_path / "sparse", zeros="positive")
    assert remarks[0] == "left out: " + ", ".join(f"{name} ({reason})" for name, reason in expected.items())


def test_FMT_123_an_index_beside_a_whole_file_is_left_out(folder):
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / SHARDS[0]).write_bytes(b"")
    with hf.open_hf(folder) as found:
        assert {SHARDS[0], "model.safetensors.index.json"} < set(found.left_out)


PACKED = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {}}}
DESCRIBED = {
    "pack-quantized": {"quantization_config": PACKED | {"format": "pack-quantized"}},
    "int-quantized": {"quantization_config": PACKED | {"format": "int-quantized"}},
    "marlin-24": {"text_config": {"compression_config": PACKED | {"format": "marlin-24"}}},
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "a list": {"parts": [1, [{"quantization_config": {"quant_method": "gptq", "bits": 4}}]]},
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_FMT_128_a_quantised_folder_is_carried_and_said_to_be(name, tmp_path):
    (tmp_path / "hf").mkdir()
    codes = torch.zeros(16, 16, dtype=torch.int32)
    codes[0, 1] = -5
    save_file({"w.weight_packed": codes, "w.weight": codes.to(torch.int8)}, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(DESCRIBED[name]))
    (remark,) = hf.to_sparse(tmp_path / "hf", tmp_path / "sparse")
    method = "gptq" if name in ("gptq", "a list") else f"compressed-tensors, {name}"
    assert remark == (
        f"config.json describes a quantisation ({method}): its tensors are carried as they are, bit for bit, and zeros "
        f"among packed codes are not taken for sparsity"
    )
    assert encodings(tmp_path / "sparse") == {"w.weight": "dense", "w.weight_packed": "dense"}
    hf.to_hf(tmp_path / "sparse", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert raw(back["w.weight_packed"]) == raw(codes)


OF_SPARSITY = b'{"compression_config": {"quant_method": "sparseml", "format": "dense", "sparsity_config": {"a": 1}}}'
NO_QUANTISATION = [b"", b"[", b"[" * 100_000, b"[1]", b'{"quantization_config": null}', OF_SPARSITY]


@pytest.mark.parametrize("config", NO_QUANTISATION)
def test_FMT_128_no_quantisation_no_remark(config, tmp_path):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(config)
    with hf.open_hf(tmp_path) as found:
        assert found.checkpoint().remarks == ()


def test_FMT_124_tied_names_stay_absent(tmp_path):
    tensors = {"embed": formats.from_dense(np.eye(4, dtype=np.float32))}
    formats.write(tmp_path / "sparse", formats.Checkpoint("model", tensors, tied={"lm_head": "embed"}))
    hf.to_hf(tmp_path / "sparse", tmp_path / "back")
    assert list(load_file(tmp_path / "back" / "model.safetensors")) == ["embed"]


def test_FMT_124_damage_is_not_converted(folder, tmp_path):
    hf.to_sparse(folder, tmp_path / "sparse")
    path = tmp_path / "sparse" / "model.sparse.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(formats.FormatError):
        hf.to_hf(tmp_path / "sparse", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_FMT_126_a_cast_is_asked_for(folder, tmp_path):
    hf.to_sparse(folder, tmp_path / "sparse", dtype="F32")
    with formats.open(tmp_path / "sparse") as reader:
        dtypes = {name: reader.info(name).dtype for name in reader.names()}
        assert dtypes["model.layers.0.w"] == dtypes["scalar"] == dtypes["zeros"] == "F32"
        assert (dtypes["ids"], dtypes["mask"], dtypes["f8"]) == ("I64", "BOOL", "F8_E4M3")
    hf.to_hf(tmp_path / "sparse", tmp_path / "back", dtype="BF16")
    assert load_file(tmp_path / "back" / "model.safetensors")["model.norm"].dtype == torch.bfloat16
    for name in ("w", "F8_E4M3"):
        with pytest.raises(formats.FormatError, match="FMT-084"):
            hf.to_sparse(folder, tmp_path / "other", dtype=name)


def test_FMT_110_destinations_that_exist_are_refused(folder, tmp_path):
    hf.to_sparse(folder, tmp_path / "sparse")
    with pytest.raises(errors.DestinationExists):
        hf.to_sparse(folder, tmp_path / "sparse")
    with pytest.raises(errors.DestinationExists):
        hf.to_hf(tmp_path / "sparse", folder)


def test_FMT_154_a_folder_holds_models_only(tmp_path):
    state = formats.Checkpoint("training-state", {"w": formats.Dense(np.ones(3))}, {"step": 1})
    formats.write_file(tmp_path / "state", state)
    words = "the checkpoint has kind 'training-state', which a Hugging Face folder cannot hold"
    with pytest.raises(errors.CannotHold, match=f"^FMT-154: {words}"):
        hf.to_hf(tmp_path / "state", tmp_path / "back")
    with pytest.raises(errors.CannotHold, match=f"^FMT-154: {words}"):
        hf.checkpoint_to_hf(tmp_path / "back", state)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def edit(path: Path, change) -> None:
    index = json.loads((path / "model.safetensors.index.json").read_text())
    change(index)
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


INDEXES = {
    "a_shard_is_missing": lambda f: (f / SHARDS[1]).unlink(),
    "everything_is_missing": lambda f: (f / "model.safetensors.index.json").unlink(),
    "the_index_leads_out": lambda f: edit(f, lambda i: i["weight_map"].update(conv="../x.safetensors")),
    "the_index_leads_to_the_root": lambda f: edit(f, lambda i: i["weight_map"].update(conv="/x.safetensors")),
    "the_index_names_another_kind": lambda f: edit(f, lambda i: i["weight_map"].update(conv="config.json")),
    "the_index_names_no_text": lambda f: edit(f, lambda i: i["weight_map"].update(conv=1)),
    "the_index_names_another_tensor": lambda f: edit(f, lambda i: i["weight_map"].update(more=SHARDS[0])),
    "the_index_lacks_a_tensor": lambda f: edit(f, lambda i: i["weight_map"].pop("conv")),
    "the_index_names_the_wrong_shard": lambda f: edit(f, lambda i: i["weight_map"].update(conv=SHARDS[1])),
    "the_index_has_no_map": lambda f: edit(f, lambda i: i.pop("weight_map")),
    "the_index_is_no_json": lambda f: (f / "model.safetensors.index.json").write_text("{"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_FMT_120(case, sharded):
    hf.open_hf(sharded).close()
    INDEXES[case](sharded)
    with pytest.raises(formats.FormatError, match="FMT-120"):
        hf.open_hf(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
@pytest.mark.parametrize("read", [hf.open_hf, sources.detect])
def test_FMT_120_weights_in_a_pickle_are_named(read, name, tmp_path):
    """Each reader of folders says what to do, not only that of conversions."""
    (tmp_path / name).write_bytes(b"weights of another kind")
    with pytest.raises(formats.FormatError, match=f"has its weights in {name}.*save it as safetensors"):
        read(tmp_path)


def test_FMT_096_an_index_takes_the_memory_of_its_bytes(sharded):
    tracemalloc.start()
    hf.open_hf(sharded).close()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    os.truncate(sharded / "model.safetensors.index.json", hf.MAX_INDEX + 1)
    with pytest.raises(formats.FormatError, match=r"FMT-120.* more than 100000000 bytes"):
        hf.open_hf(sharded)


@pytest.mark.filterwarnings("default")
def test_FMT_100_a_stock_loader_fails_instead_of_filling_in_random_weights(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "vocab_size": 8}
    config |= {"intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    (tmp_path / "hf").mkdir()
    save_file({"model.embed_tokens.weight": torch.eye(8)}, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    for shard_bytes in (10**9, 1):
        path = tmp_path / f"sparse{shard_bytes}"
        with hf.open_hf(tmp_path / "hf") as source:
            formats.write(path, formats.Checkpoint("model", source, files=source.files), shard_bytes=shard_bytes)
        with pytest.raises(OSError, match=r"model\.safetensors"):
            transformers.AutoModelForCausalLM.from_pretrained(path)
