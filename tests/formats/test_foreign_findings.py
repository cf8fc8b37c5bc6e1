"""What the fuzzer of foreign readers found: inputs that were accepted, or ended in something else than a refusal."""

import json
import re
import struct
import zlib
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import torch

from formats import Checkpoint, Dense, FormatError, strict_json, write_file
from formats.dialects.changes import check_options
from formats.dialects.compressed_tensors import open_compressed_tensors
from formats.dialects.hf import open_hf
from formats.dialects.int_folder import open_quantised
from formats.dialects.shira import read_shira
from formats.dialects.sources import detect
from formats.dialects.super_tuning import read_super_tuning
from formats.dialects.vllm_patch import delta_from_patches
from formats.dialects.weight_sync import apply_weight_sync, read_weight_sync
from formats.steps import Follower, Publisher
from tests.formats import int_files
from tests.formats.adapter_files import dense_base, shira, super_tuning

zstandard = pytest.importorskip("zstandard")
INDEX = "model.safetensors.index.json"
FILE = "model-00000-of-00001.safetensors"


def refused(clause, read):
    with pytest.raises(FormatError) as caught:
        read()
    assert caught.value.clause == clause
    return caught.value.message


# version folders ---------------------------------------------------------------------------------


def version(folder, frame, total, *, base_version="000006", number="000007", file=FILE):
    """A version folder that changes the tensor w by one frame, with xor and adler32."""
    folder.mkdir()
    told = {"version": number, "base_version": base_version, "delta_encoding": "xor", "compression_format": "zstd"}
    index = {"metadata": told | {"checksum_format": "adler32"}, "weight_map": {"w": file}}
    (folder / INDEX).write_text(json.dumps(index))
    entry = {"dtype": "U8", "shape": [len(frame)], "data_offsets": [0, len(frame)]}
    head = json.dumps({"__metadata__": {"w": total}, "w": entry}).encode()
    if len(file) < 256:
        (folder / file).write_bytes(struct.pack("<Q", len(head)) + head + frame)
    return folder


def adler(data):
    return f"{zlib.adler32(data):08x}"


def test_FMT_168_a_version_of_thousands_of_digits_is_a_version(tmp_path):
    base = {"w": Dense(np.zeros(4, np.uint8))}
    frame, digits = zstandard.ZstdCompressor().compress(b"\1\0\0\0"), "7" * 5000
    one = version(tmp_path / "one", frame, adler(b"\1\0\0\0"), number=digits)
    assert read_weight_sync(one, base).tensors["w"].values.tolist() == [1]
    two = version(tmp_path / "two", frame, adler(bytes(4)), base_version=f"0{digits}", number=f"{digits}8")
    made = apply_weight_sync(Checkpoint("model", base), [one, two])
    assert made.tensors["w"].values.tolist() == [0, 0, 0, 0]
    refused("FMT-168", lambda: apply_weight_sync(Checkpoint("model", base), [two, one]))
    named = version(tmp_path / "weight_v000008", frame, adler(b"\1\0\0\0"), number=digits)
    refused("FMT-168", lambda: read_weight_sync(named, base))


def test_FMT_168_a_name_that_no_file_system_has_is_refused(tmp_path):
    one = version(tmp_path / "one", b"", "00000001", file="m" * 300 + ".safetensors")
    refused("FMT-168", lambda: read_weight_sync(one, {"w": Dense(np.zeros(4, np.uint8))}))


def test_FMT_168_a_skippable_frame_is_no_frame_of_an_empty_tensor(tmp_path):
    base = {"w": Dense(np.zeros((0, 3), np.float32))}
    empty = version(tmp_path / "empty", zstandard.ZstdCompressor().compress(b""), adler(b""))
    assert read_weight_sync(empty, base).tensors["w"].nnz == 0
    skipped = version(tmp_path / "skipped", struct.pack("<II", 0x184D2A50, 0), adler(b""))
    refused("FMT-168", lambda: read_weight_sync(skipped, base).tensors["w"])


def test_FMT_168_a_number_is_no_checksum(tmp_path):
    base = {"w": Dense(np.zeros(64, np.uint8))}
    # one whose checksum has decimal digits only, and no zero in front that a number would lose
    new = next(data for data in (bytes([i]) * 64 for i in range(1, 256)) if re.fullmatch("[1-9][0-9]{7}", adler(data)))
    frame = zstandard.ZstdCompressor().compress(new)
    assert read_weight_sync(version(tmp_path / "text", frame, adler(new)), base).tensors["w"].nnz == 64
    number = version(tmp_path / "number", frame, int(adler(new)))
    refused("FMT-168", lambda: read_weight_sync(number, base).tensors["w"])


# patches of vLLM ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", ["name", "values", "indices"])
def test_FMT_169_an_object_that_is_no_patch_is_refused(lacking):
    base = Checkpoint("model", {"w": Dense(np.zeros(4, np.float32))})
    whole = {"name": "w", "values": torch.ones(1), "indices": torch.tensor([2]), "full_shape": (4,)}
    assert delta_from_patches(base, [SimpleNamespace(**whole)]).tensors["replace:w"].nnz == 1
    whole.pop(lacking)
    assert lacking in refused("FMT-169", lambda: delta_from_patches(base, [SimpleNamespace(**whole)]))


# adapters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [[0, 0, 7], [0, 3, 99], [0, 3, -1]])
def test_FMT_170_positions_of_padding_are_checked(positions, tmp_path):
    folder = super_tuning(
        tmp_path / "a",
        indices=torch.tensor(positions),
        values=torch.tensor([1.0, -0.0, -0.0]),
        sparsity=0.8,
        metadata={"seft.padding": "-0.0"},
    )
    refused("FMT-170", lambda: dict(read_super_tuning(folder, dense_base()).tensors))


def test_FMT_157_positions_of_padding_are_checked(tmp_path):
    folder = shira(
        tmp_path / "a",
        indices=torch.tensor([[0, 0, 1], [1, 1, 2]], dtype=torch.int32),
        values=torch.tensor([1.0, -0.0, 2.0]),
        mask_type="given-padded",
    )
    refused("FMT-151", lambda: dict(read_shira(folder, dense_base()).tensors))


@pytest.mark.parametrize("sparsity", ["0.8", "\u0660.\u0668", "8e-1"])
def test_FMT_170_a_text_is_no_sparsity(sparsity, tmp_path):
    given = {"indices": torch.tensor([0, 3, 7]), "values": torch.ones(3)}
    assert read_super_tuning(super_tuning(tmp_path / "a", **given, sparsity=0.8), dense_base()).tensors
    folder = super_tuning(tmp_path / "b", **given, sparsity=sparsity)
    refused("FMT-170", lambda: read_super_tuning(folder, dense_base()))


def test_an_option_is_off_if_it_is_a_zero_and_no_text():
    fractions = strict_json.parse_any(b'{"a": 0.0, "b": -0.00, "c": 0e5, "d": "none", "e": 0}', "it")
    check_options(fractions, frozenset(), "FMT-170")
    for on in (b'{"a": "0.0"}', b'{"a": 0.1}', b'{"a": 1e-400, "b": 1}'):
        refused("FMT-170", lambda on=on: check_options(strict_json.parse_any(on, "it"), frozenset(), "FMT-170"))


@pytest.mark.parametrize("index", [float("inf"), float("nan"), -float("inf"), 0.5])
def test_FMT_151_an_index_that_is_no_number_is_refused_without_a_warning(index, tmp_path):
    folder = shira(tmp_path / "a", indices=torch.tensor([[0.0, index], [1.0, 2.0]]), values=torch.tensor([1.0, 2.0]))
    refused("FMT-151", lambda: dict(read_shira(folder, dense_base()).tensors))


# integer codes -----------------------------------------------------------------------------------


def awq(folder, *, scales=None, description=None):
    codes, drawn, zeros = int_files.drawn(1, 8, 8, 1, 4, np.float32)
    parts = int_files.awq("a", codes, drawn if scales is None else scales, zeros)
    told = {"quant_method": "awq", "bits": 4, "group_size": -1}
    return int_files.write(folder, parts, told if description is None else description)


@pytest.mark.parametrize("bits", [0x7F81, 0xFF81, 0x7FC0, 0x7F80])
def test_FMT_173_a_signalling_nan_among_scales_is_refused_without_a_warning(bits, tmp_path):
    pieces = {
        "a.qweight": np.zeros((8, 1), np.int32),
        "a.qzeros": np.zeros((1, 1), np.int32),
        "a.scales": np.full((1, 8), bits, np.uint16),
    }
    order = sorted(pieces)
    head, data = {}, b""
    for name in order:
        dtype = {"int32": "I32", "uint16": "BF16"}[pieces[name].dtype.name]
        span = [len(data), len(data) + pieces[name].nbytes]
        head[name] = {"dtype": dtype, "shape": [*pieces[name].shape], "data_offsets": span}
        data += pieces[name].tobytes()
    text = json.dumps(head).encode()
    awq(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    refused("FMT-173", lambda: open_quantised(tmp_path).matrices["a.weight"])


@pytest.mark.parametrize("depth", [150, 400, 600, 900, 980])
def test_a_configuration_of_many_levels_is_refused_or_carried(depth, tmp_path):
    awq(tmp_path)
    deep = '{"a":' + "[" * depth + "]" * depth + "}"
    (tmp_path / "config.json").write_text(deep)
    refused("FMT-175", lambda: open_quantised(tmp_path))
    refused("FMT-150", lambda: open_compressed_tensors(tmp_path))
    assert open_hf(tmp_path).checkpoint().files["config.json"] == deep.encode()
    refused("FMT-027", lambda: strict_json.parse_any(deep.encode(), "it"))


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("llama", "\ud800").encode("utf-8", "surrogatepass"),
    ],
)
def test_FMT_175_a_configuration_is_utf_8(spell, tmp_path):
    awq(tmp_path)
    assert open_quantised(tmp_path).layers
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_bytes(spell(text))
    refused("FMT-175", lambda: open_quantised(tmp_path))


# folders of steps --------------------------------------------------------------------------------


def test_FMT_176_no_version_is_below_0(tmp_path):
    # a follower of an empty folder wrote such a file again at every poll
    model = Checkpoint("model", {"w": Dense(np.zeros(4))}, attributes={"published": {"run": "r", "version": -1}})
    write_file(tmp_path / "current.sparse", model)
    (tmp_path / "steps").mkdir()
    refused("FMT-176", lambda: Follower(tmp_path / "steps", tmp_path / "current.sparse"))


def test_FMT_176_a_folder_is_no_version(tmp_path):
    with Publisher(tmp_path / "steps", "run") as publisher:
        publisher.publish(Checkpoint("model", {"w": Dense(np.zeros(4, ml_dtypes.bfloat16))}))
    file = tmp_path / "steps" / "000000.model"
    raw = file.read_bytes()
    file.unlink()
    file.mkdir()
    (file / "model.sparse.safetensors").write_bytes(raw)
    with Follower(tmp_path / "steps", tmp_path / "current.sparse") as follower:
        refused("FMT-176", follower.poll)
    assert not (tmp_path / "current.sparse").exists()


@pytest.mark.parametrize("number", [1, 2**70])
def test_FMT_150_a_sparsity_format_is_read_beside_numbers_of_any_size(tmp_path, number):
    """A whole number beyond 2^53 elsewhere in config.json hid the description of sparsity."""
    drawn = int_files.drawn(3, 4, 8, 1, 4)
    description = int_files.library(int_files.scheme(4, "channel"), bits=number)
    folder = int_files.write(tmp_path / "m", int_files.pack_quantized("a", *drawn[:3], 4), description)
    config = json.loads((folder / "config.json").read_text())
    config["sparsity_config"] = {"format": "unheard-of"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "unheard-of" in refused("FMT-150", lambda: open_quantised(folder))
    assert detect(folder) == "compressed-tensors"
