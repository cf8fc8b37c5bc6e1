"""GGUF: what the gguf package writes is read bit for bit, and every lie of a header refused."""

import struct
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from formats import errors
from formats.dialects.gguf_file import open_gguf
from formats.records import Dense

PLAIN = {
    "f32": (np.float32, Kind.F32),
    "f16": (np.float16, Kind.F16),
    "bf16": (ml_dtypes.bfloat16, Kind.BF16),
    "f64": (np.float64, Kind.F64),
    "i8": (np.int8, Kind.I8),
    "i16": (np.int16, Kind.I16),
    "i32": (np.int32, Kind.I32),
    "i64": (np.int64, Kind.I64),
}
QUANTISED = [
    *(Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K),
    *(Kind.IQ4_NL, Kind.IQ4_XS, Kind.TQ1_0, Kind.TQ2_0, Kind.MXFP4),
]


def bits(dtype, shape) -> np.ndarray:
    """Bit patterns of every kind: NaN payloads, infinities and −0.0 among them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    values = raw.view(dtype).reshape(shape)
    if np.dtype(dtype) == np.float32:
        values.view(np.uint32).flat[:3] = (0x7FA00001, 0x80000000, 0xFF800000)
    return values


def write(path: Path, tensors, **options) -> Path:
    """A file by the gguf package: name -> (array, type)."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "é"])
    writer.add_array("some.numbers", [1.5, 2.5])
    writer.add_bool("some.flag", True)
    for name, (array, kind) in tensors.items():
        if kind == Kind.BF16:
            writer.add_tensor(name, array.view(np.uint8), raw_dtype=kind)
        elif array.dtype == np.uint8:
            writer.add_tensor(name, array, raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def plain(tmp_path):
    return write(tmp_path / "plain.gguf", {f"{n}.weight": (bits(d, (3, 5)), k) for n, (d, k) in PLAIN.items()})


def test_plain_types_keep_every_bit(plain):
    found = open_gguf(plain)
    assert (found.kind, found.attributes, found.tied) == ("model", {}, {})
    assert list(found.tensors) == [f"{name}.weight" for name in PLAIN]
    theirs = {t.name: t for t in gguf.GGUFReader(plain).tensors}
    for name, (dtype, _) in PLAIN.items():
        tensor = found.tensors[f"{name}.weight"]
        assert isinstance(tensor, Dense)
        assert (tensor.dtype, tensor.shape) == (np.dtype(dtype), (3, 5))
        assert tensor.values.tobytes() == bits(dtype, (3, 5)).tobytes()
        assert tensor.values.tobytes() == theirs[f"{name}.weight"].data.tobytes()
        assert theirs[f"{name}.weight"].shape.tolist() == [5, 3]
        assert not tensor.values.flags.writeable


@pytest.mark.parametrize("alignment", [8, 32, 64, 256])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_shapes_are_row_major_at_any_alignment(tmp_path, shape, alignment):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    first, second = bits(np.float32, shape), bits(np.int8, (3,))
    writer.add_tensor("a", first)
    writer.add_tensor("b", second)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_gguf(path).tensors
    assert found["a"].shape == shape
    assert found["a"].values.tobytes() == first.tobytes()
    assert found["b"].values.tobytes() == second.tobytes()
    with pytest.raises(KeyError):
        found["c"]


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_quantised_tensors_are_expanded_if_asked_for(tmp_path, kind):
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(2).integers(0, 256, (5, 2 * block_bytes), dtype=np.uint8)
    path = write(tmp_path / "x.gguf", {"w": (raw, kind), "b": (bits(np.float16, (3,)), Kind.F16)})
    with pytest.raises(errors.FormatError, match=r"FMT-155.*expand_quantised=True"):
        open_gguf(path)
    found = open_gguf(path, expand_quantised=True)
    assert found.attributes == {"source": "gguf", "expanded": ["w"]}
    w = found.tensors["w"]
    assert (w.dtype, w.shape) == (np.float32, (5, 2 * per_block))
    with np.errstate(all="ignore"):
        assert w.values.tobytes() == gguf.dequantize(raw, kind).tobytes()
    assert found.tensors["b"].dtype == np.float16


def test_a_quantised_matrix_is_close_to_what_was_quantised(tmp_path):
    values = np.random.default_rng(3).standard_normal((6, 64)).astype(np.float32)
    path = write(tmp_path / "x.gguf", {"w": (gguf.quantize(values, Kind.Q8_0), Kind.Q8_0)})
    found = open_gguf(path, expand_quantised=True).tensors["w"].values
    assert np.abs(found - values).max() < 0.02


def test_an_empty_file_of_pairs_has_no_tensors(tmp_path):
    assert dict(open_gguf(write(tmp_path / "x.gguf", {})).tensors) == {}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def info(name: str | bytes = "w", dims=(3, 2), kind=0, offset=0) -> bytes:
    sizes = struct.pack(f"<{len(dims)}Q", *dims)
    return text(name) + struct.pack("<I", len(dims)) + sizes + struct.pack("<IQ", kind, offset)


MATRIX = info()


def whole(
    *,
    magic=b"GGUF",
    version=3,
    pairs=(),
    infos=(MATRIX,),
    counts=None,
    data=bytes(range(24)),
    pad=None,
) -> bytes:
    """A file by hand: a 2 x 3 float32 matrix unless told otherwise."""
    n_tensors, n_pairs = counts or (len(infos), len(pairs))
    head = magic + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(infos)
    return head + b"\0" * (-len(head) % 32 if pad is None else pad) + data


def test_a_file_by_hand_is_read_and_its_last_pad_is_free(tmp_path):
    path = tmp_path / "x.gguf"
    for data in (whole(), whole(version=2), whole(data=bytes(range(24)) + bytes(8))):
        path.write_bytes(data)
        found = open_gguf(path).tensors["w"]
        assert found.shape == (2, 3)
        assert found.values.tobytes() == bytes(range(24))


def test_values_at_odd_addresses_are_copied(tmp_path):
    infos = (info("a", (1,), 24), info("b", (2,), 0, 1))
    one = pair("general.alignment", 4, struct.pack("<I", 1))
    (tmp_path / "x.gguf").write_bytes(whole(pairs=(one,), infos=infos, data=bytes(range(9)), pad=0))
    found = open_gguf(tmp_path / "x.gguf").tensors
    assert found["b"].values.tobytes() == bytes(range(1, 9))
    assert found["b"].values.flags.aligned


ROOF = 2**64 - 1
NESTED = struct.pack("<IQ", 9, 1) * 40 + struct.pack("<IQ", 0, 0)
MALFORMED = {
    "empty": b"",
    "magic": whole(magic=b"GGML"),
    "version 1": whole(version=1),
    "big-endian": whole(version=3 << 24),
    "more tensors than bytes": whole(counts=(ROOF, 0)),
    "more pairs than bytes": whole(counts=(1, ROOF)),
    "one tensor too many": whole(counts=(2, 0)),
    "one pair too many": whole(counts=(1, 1)),
    "long key": whole(pairs=(struct.pack("<Q", ROOF) + b"k",)),
    "long string": whole(pairs=(pair("k", 8, struct.pack("<Q", ROOF)),)),
    "wrapping array": whole(pairs=(pair("k", 9, struct.pack("<IQ", 12, 2**61)),)),
    "array of strings": whole(pairs=(pair("k", 9, struct.pack("<IQ", 8, 2**40)),)),
    "array of nothing": whole(pairs=(pair("k", 9, struct.pack("<IQ", 77, 1)),)),
    "deep array": whole(pairs=(pair("k", 9, NESTED),)),
    "type of a pair": whole(pairs=(pair("k", 13, b"\0" * 8),)),
    "key twice": whole(pairs=(pair("k", 0, b"\0"), pair("k", 0, b"\0"))),
    "key no text": whole(pairs=(pair(b"\xff", 0, b"\0"),)),
    "alignment 0": whole(pairs=(pair("general.alignment", 4, struct.pack("<I", 0)),)),
    "alignment 24": whole(pairs=(pair("general.alignment", 4, struct.pack("<I", 24)),)),
    "alignment of bytes": whole(pairs=(pair("general.alignment", 0, b"\x20"),)),
    "alignment beyond the file": whole(pairs=(pair("general.alignment", 4, struct.pack("<I", 2**31)),)),
    "part": whole(pairs=(pair("split.count", 2, struct.pack("<H", 3)),)),
    "name twice": whole(infos=(info("w"), info("w", offset=32)), data=bytes(56)),
    "name empty": whole(infos=(info(""),)),
    "name with #": whole(infos=(info("a#b"),)),
    "name no text": whole(infos=(info(b"\xff"),)),
    "rank": whole(infos=(info(dims=(1, 1, 1, 2, 3)),)),
    "rank beyond the file": whole(infos=(text("w") + struct.pack("<I", 2**32 - 1),)),
    "wrapping shape": whole(infos=(info(dims=(2**32, 2**32)),)),
    "hidden shape": whole(infos=(info(dims=(0, 2**63)),)),
    "shape beyond the file": whole(infos=(info(dims=(3, 3)),)),
    "unknown type": whole(infos=(info(kind=99),)),
    "type without values": whole(infos=(info(dims=(32, 1), kind=9),), data=bytes(40)),
    "broken block": whole(infos=(info(dims=(31, 1), kind=8),), data=bytes(34)),
    "scalar block": whole(infos=(info(dims=(), kind=8),), data=bytes(34)),
    "offset": whole(infos=(info(offset=32),), data=bytes(56)),
    "offset beyond": whole(infos=(info(offset=ROOF - 7),)),
    "shared": whole(infos=(info("a"), info("b")), data=bytes(56)),
    "hole": whole(infos=(info("a"), info("b", offset=64)), data=bytes(88)),
    "trailing": whole(data=bytes(33)),
    "cut data": whole(data=bytes(23)),
    "no data": whole(data=b"", pad=0),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_FMT_155_malformed_files_are_refused(tmp_path, case):
    path = tmp_path / "x.gguf"
    path.write_bytes(MALFORMED[case])
    with pytest.raises(errors.FormatError, match="FMT-155"):
        open_gguf(path, expand_quantised=True)


def test_FMT_155_a_file_cut_anywhere_is_refused(tmp_path):
    raw = np.zeros((2, 34), dtype=np.uint8)
    path = write(tmp_path / "x.gguf", {"a": (bits(np.float32, (3, 5)), Kind.F32), "q": (raw, Kind.Q8_0)})
    data = path.read_bytes()
    end = len(data) - (-raw.nbytes % 32)
    for cut in (*range(0, end, 7), end - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(errors.FormatError, match="FMT-155"):
            open_gguf(path, expand_quantised=True)


def test_no_edit_of_a_header_byte_gets_past_as_another_kind_of_error(tmp_path):
    path = write(tmp_path / "x.gguf", {"a": (bits(np.float32, (3, 5)), Kind.F32)})
    data = path.read_bytes()
    for at in range(len(data) - 60):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
            try:
                found = open_gguf(path, expand_quantised=True)
            except errors.FormatError as error:
                if error.clause != "FMT-155":
                    raise
                continue
            assert all(tensor.values.nbytes <= 8 * len(data) for tensor in found.tensors.values())


def test_FMT_155_shards_of_the_package_are_refused(tmp_path):
    write(tmp_path / "x.gguf", {n: (bits(np.float32, (8, 8)), Kind.F32) for n in "abc"}, split_max_tensors=1)
    shards = sorted(tmp_path.glob("x-*.gguf"))
    assert len(shards) == 3
    for shard in shards:
        with pytest.raises(errors.FormatError, match=r"FMT-155.*merge"):
            open_gguf(shard)
