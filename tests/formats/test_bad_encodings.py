"""Encodings and frames that are refused: sums past 63 bits, sizes, options, limits; `test_three_readers` has more."""

import numpy as np
import pytest

import formats
from formats import compress, errors
from tests.formats.conftest import apart


def on(shape, at, dtype=np.int8):
    mask = formats.from_flat(shape, np.array(at, np.int64))
    return formats.with_values(mask, np.arange(1, mask.nnz + 1).astype(dtype))


def test_FMT_059_a_sum_beyond_63_bits_is_noticed():
    # 128 gaps of 2^56 - 1 come to 2^63 and more, where the sum turns negative and rises again
    mask = formats.Mask((1, 10), np.array([0, 300]), np.zeros(300, np.int32))
    raw = {"gaps": np.frombuffer((b"\xff" * 7 + b"\x7f") * 300, np.uint8)}
    from formats.encodings import gaps
    from formats.header import Entry

    with pytest.raises(formats.FormatError, match="FMT-059"):
        gaps.decode_varint(Entry("NONE", (1, 10), "varint", mask.nnz, "", {}), "w", raw, (0, 1))


# compression -------------------------------------------------------------------------------------


@pytest.fixture
def compressed(tmp_path):
    """One F32 matrix of 60 positions whose values are all 1: the frame is far smaller than its 240 bytes."""
    values = formats.with_values(formats.from_flat((4, 300), np.arange(60) * 7), np.ones(60, np.float32))
    formats.write_file(tmp_path / "z.safetensors", formats.Checkpoint("model", {"w": values}), compress="zstd")
    return apart((tmp_path / "z.safetensors").read_bytes())


def test_FMT_141_a_frame_is_not_too_small_to_be_true(compressed, opened):
    entry = compressed.manifest["tensors"]["w"]
    entry.update(shape=[4, 2**20], nnz=2**20)
    with pytest.raises(errors.FormatError, match=r"FMT-(049|057|141)"):
        opened(compressed.pack())
    with pytest.raises(formats.FormatError, match=r"FMT-141.*1024"):
        compress.check_size(10, 10_241, "w#values")
    compress.check_size(10, 10_240, "w#values")


def test_FMT_043_another_codec_is_told(compressed, opened):
    compressed.manifest["tensors"]["w"]["sections"]["values"]["codec"] = "lz4"
    with pytest.raises(formats.FormatError, match=r"FMT-043.*lz4"):
        opened(compressed.pack())


@pytest.mark.parametrize(
    ("option", "tensor", "clause"),
    [
        ("nm", on((1, 6), [0, 1, 2]), "FMT-051"),
        ("nm:2:4", on((1, 8), [0, 1, 2, 4]), "FMT-051"),
        ("nm:2:4:0", on((1, 8), [0, 1, 4, 5]), "FMT-051"),
        ("nm:2:4:5", on((1, 8), [0, 1, 4, 5]), "FMT-051"),
        ("gap8", on((2**20 + 1, 1), [0]), "FMT-056"),
        ("nm:0:4", on((1, 8), [0]), "FMT-084"),
        ("coo", on((1, 8), [0]), "FMT-084"),
        ("dense", formats.from_support(np.ones(3, bool)), "FMT-082"),
    ],
)
def test_FMT_084_an_encoding_that_cannot_hold_a_tensor_is_refused(tmp_path, option, tensor, clause):
    with pytest.raises(formats.FormatError, match=clause):
        formats.write_file(tmp_path / "f.st", formats.Checkpoint("model", {"w": tensor}), encoding=option)
    assert list(tmp_path.iterdir()) == []


def test_FMT_084_a_codec_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(formats.FormatError, match="FMT-084"):
        formats.write_file(tmp_path / "f.st", formats.Checkpoint("model", {}), compress="lz4")


def test_FMT_098_an_expansion_has_a_limit():
    empty = formats.from_flat((2**20, 2**20), np.empty(0, np.int64))
    with pytest.raises(errors.ExpansionTooLarge, match="FMT-098"):
        formats.to_dense(formats.with_values(empty, np.empty(0, np.float32)))
    small = formats.with_values(formats.from_flat((3, 4), np.array([5])), np.ones(1, np.float32))
    with pytest.raises(errors.ExpansionTooLarge):
        formats.to_dense(small, limit=47)
    assert formats.to_dense(small, limit=48)[1, 1] == 1
