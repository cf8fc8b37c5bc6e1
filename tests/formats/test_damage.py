"""Damage anywhere in a file is noticed; nothing but FormatError comes out."""

import tracemalloc

import numpy as np
import pytest

import formats
from formats import FormatError
from tests.formats.conftest import fill


def test_a_file_cut_short_anywhere_is_refused(good, opened):
    for length in range(len(good)):
        with pytest.raises(FormatError):
            opened(good[:length], verify=False)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0x20])
def test_FMT_093_a_flipped_byte_anywhere_is_noticed(good, opened, flip):
    for at in range(len(good)):
        raw = bytearray(good)
        raw[at] ^= flip
        with pytest.raises(FormatError):
            opened(bytes(raw), verify=True)


def test_without_digests_a_flipped_byte_is_noticed_or_changes_values_only(good, opened):
    names = list(opened(good).tensors)
    start = 8 + int.from_bytes(good[:8], "little")
    for at in range(start, len(good)):
        raw = bytearray(good)
        raw[at] ^= 0x10
        try:
            back = opened(bytes(raw), verify=False)
        except FormatError:
            continue
        assert list(back.tensors) == names


def test_a_deleted_or_doubled_byte_is_noticed(good, opened):
    for at in range(0, len(good), 3):
        for raw in (good[:at] + good[at + 1 :], good[:at] + good[at : at + 1] + good[at:]):
            with pytest.raises(FormatError):
                opened(raw, verify=True)


@pytest.mark.parametrize("flip", [0x01, 0x20])
def test_FMT_101_a_flipped_byte_of_the_index_is_noticed(tmp_path, checkpoint, flip):
    formats.write(tmp_path / "c", checkpoint, shard_bytes=1)
    path = tmp_path / "c" / "model.sparse.index.json"
    good = path.read_bytes()
    for at in range(len(good)):
        raw = bytearray(good)
        raw[at] ^= flip
        path.write_bytes(bytes(raw))
        with pytest.raises(FormatError):
            formats.open(tmp_path / "c")
    path.write_bytes(good)
    formats.read(tmp_path / "c")


def test_FMT_096_forged_sizes_reserve_nothing(pieces, opened):
    pieces.manifest["tensors"]["a"].update(shape=[2**26, 2**26], nnz=2**51)
    pieces.manifest["tensors"]["b"].update(shape=[2**52], nnz=2**52)
    raw = pieces.pack()
    tracemalloc.start()
    with pytest.raises(FormatError):
        opened(raw, verify=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_column_may_fall_between_rows(pieces, opened):
    fill(pieces, "c", "col_idx", np.array([4, 9, 3], np.uint16))
    assert opened(pieces.pack(), verify=False).tensors["c"].indices.tolist() == [4, 9, 3]


def test_FMT_090_a_section_has_its_digest(good, pieces, opened):
    assert pieces.pack() == good
    pieces.of("b")["values"].data = bytes([1, 1, 1])
    raw = pieces.pack()
    assert opened(raw, verify=False).tensors["b"].values.tolist() == [True, True, True]
    with pytest.raises(FormatError, match="FMT-090"):
        opened(raw, verify=True)


def test_FMT_091_a_tensor_has_its_content_digest(pieces, opened):
    fill(pieces, "a", "mask", np.array([0b011, 0b010], np.uint8))
    raw = pieces.pack()
    assert opened(raw, verify=False).tensors["a"].indices.tolist() == [0, 1, 1]
    with pytest.raises(FormatError, match="FMT-091"):
        opened(raw, verify=True)
