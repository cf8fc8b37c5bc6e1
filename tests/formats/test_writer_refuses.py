"""What a writer refuses, and that nothing is left behind when it does."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import formats
from formats import atomic, errors, v1

I64, I32 = np.int64, np.int32


def matrix(shape=(2, 3), indptr=(0, 2, 3), indices=(0, 2, 1), values=(1.0, 0.0, 2.0), types=(I64, I32)):
    return formats.Sparse(shape, np.array(indptr, types[0]), np.array(indices, types[1]), np.array(values))


TENSORS = {
    "FMT_006_a_dtype_outside_the_table": formats.Dense(np.zeros(2, np.complex128)),
    "FMT_006_big_endian_numbers": formats.Dense(np.zeros(2, ">f4")),
    "FMT_006_objects": formats.Dense(np.array([None])),
    "FMT_007_nine_dimensions": formats.Dense(np.zeros([1] * 9)),
    "FMT_008_a_sparse_scalar": matrix(shape=()),
    "FMT_015_a_mask_of_another_length": formats.Mask((2, 3), np.array([0, 1]), np.array([0], np.int32)),
    "FMT_008_too_many_columns": matrix(shape=(2, 2**31)),
    "FMT_015_an_array_instead_of_a_record": np.zeros(3),
    "FMT_015_a_list_instead_of_an_array": formats.Dense([1, 2]),
    "FMT_015_indptr_of_another_dtype": matrix(types=(I32, I32)),
    "FMT_015_indices_of_another_dtype": matrix(types=(I64, I64)),
    "FMT_015_indptr_of_another_length": matrix(indptr=(0, 3)),
    "FMT_015_indices_of_another_length": matrix(indices=(0, 2)),
    "FMT_015_a_shape_that_is_a_list": matrix(shape=[2, 3]),
    "FMT_015_a_shape_of_numpy_integers": matrix(shape=(I64(2), I64(3))),
    "FMT_015_values_of_rank_two": matrix(values=[[1.0, 0.0, 2.0]]),
    "FMT_066_row_pointers_that_end_early": matrix(indptr=(0, 2, 2)),
    "FMT_067_row_pointers_that_fall": matrix(shape=(3, 3), indptr=(0, 2, 1, 3)),
    "FMT_068_a_column_too_far": matrix(indices=(0, 3, 1)),
    "FMT_068_a_negative_column": matrix(indices=(-1, 2, 1)),
    "FMT_069_columns_out_of_order": matrix(indices=(2, 0, 1)),
    "FMT_069_a_column_twice": matrix(indices=(2, 2, 1)),
}

GOOD = formats.Checkpoint("model", {"w": matrix()})
CHECKPOINTS = {
    "FMT_009_an_empty_name": replace(GOOD, tensors={"": matrix()}),
    "FMT_009_a_hash_in_a_name": replace(GOOD, tensors={"a#b": matrix()}),
    "FMT_009_half_a_surrogate_pair": replace(GOOD, tensors={"\ud800": matrix()}),
    "FMT_009_a_long_name": replace(GOOD, tensors={"x" * 513: matrix()}),
    "FMT_010_a_tie_to_nothing": replace(GOOD, tied={"a": "b"}),
    "FMT_010_a_tie_of_a_stored_name": replace(GOOD, tied={"w": "w"}),
    "FMT_011_a_float": replace(GOOD, attributes={"x": {"y": [0.5]}}),
    "FMT_011_a_tuple": replace(GOOD, attributes={"x": (1, 2)}),
    "FMT_011_a_large_integer": replace(GOOD, attributes={"x": 2**53}),
    "FMT_011_a_key_that_is_no_string": replace(GOOD, attributes={1: "x"}),
    "FMT_011_half_a_surrogate_pair": replace(GOOD, attributes={"x": "\udc00"}),
    "FMT_012_a_kind_in_capitals": replace(GOOD, kind="Model"),
    "FMT_013_a_companion_in_a_folder": replace(GOOD, files={"a/b": b""}),
    "FMT_013_a_hidden_companion": replace(GOOD, files={".a": b""}),
    "FMT_013_a_companion_named_like_weights": replace(GOOD, files={"model.bin": b""}),
    "FMT_013_a_companion_named_like_ours": replace(GOOD, files={"Model.sparse": b""}),
    "FMT_014_a_large_companion": replace(GOOD, files={"a": bytes(50_000_001)}),
}


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("case", TENSORS)
def test_tensors(case, tmp_path, refused):
    with refused:
        formats.write(tmp_path / "c", formats.Checkpoint("model", {"w": TENSORS[case]}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints(case, tmp_path, refused):
    with refused:
        formats.write(tmp_path / "c", CHECKPOINTS[case])
    assert list(tmp_path.iterdir()) == []


def test_FMT_011_FMT_027_attributes_reach_as_deep_as_readers_go(tmp_path):
    formats.write(tmp_path / "c", replace(GOOD, attributes={"x": nested(14)}))
    assert formats.read(tmp_path / "c").attributes == {"x": nested(14)}
    with pytest.raises(formats.FormatError, match="FMT-011"):
        formats.write(tmp_path / "d", replace(GOOD, attributes={"x": nested(15)}))


def test_FMT_084_options(tmp_path):
    for options in ({"encoding": "zip"}, {"shard_bytes": 0}):
        with pytest.raises(formats.FormatError, match="FMT-084"):
            formats.write(tmp_path / "c", GOOD, **options)


def test_FMT_021_a_header_that_no_reader_would_take_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(v1, "MAX_HEAD", 700)
    with pytest.raises(formats.FormatError, match="FMT-021"):
        formats.write(tmp_path / "c", GOOD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "empty", "file", "link"])
def test_FMT_110_a_destination_that_exists_is_refused_and_left_alone(tmp_path, there):
    path = tmp_path / "c"
    if there == "folder":
        formats.write(path, GOOD)
    elif there == "empty":
        path.mkdir()
    elif there == "file":
        path.write_bytes(b"mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(errors.DestinationExists):
        formats.write(path, GOOD)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


class Breaking(Mapping):
    """Two tensors, of which the second cannot be had."""

    def __getitem__(self, name):
        if name == "b":
            raise RuntimeError("no more")
        return matrix()

    def __iter__(self):
        return iter(["a", "b"])

    def __len__(self):
        return 2


@pytest.mark.parametrize("shard_bytes", [1, 10**9])
def test_FMT_110_a_failed_write_leaves_nothing(tmp_path, shard_bytes):
    with pytest.raises(RuntimeError, match="no more"):
        formats.write(tmp_path / "c", formats.Checkpoint("model", Breaking()), shard_bytes=shard_bytes)
    assert list(tmp_path.iterdir()) == []


def test_FMT_110_a_destination_that_appears_meanwhile_is_not_replaced(tmp_path):
    def appears():
        (tmp_path / "c").mkdir()
        return b""

    class Files(dict):
        def __getitem__(self, name):
            return appears()

    with pytest.raises(errors.DestinationExists):
        formats.write(tmp_path / "c", replace(GOOD, files=Files(a=None)))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert list((tmp_path / "c").iterdir()) == []


def test_FMT_111_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.safetensors"
    formats.write_file(path, GOOD)
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        formats.write_file(path, formats.Checkpoint("model", Breaking()))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_FMT_111_a_file_is_replaced_and_its_reader_keeps_the_old_one(tmp_path):
    path = tmp_path / "state.safetensors"
    formats.write_file(path, GOOD)
    with formats.open(path) as reader:
        formats.write_file(path, replace(GOOD, tensors={"v": matrix()}))
        assert reader["w"].values.tolist() == [1, 0, 2]
    assert list(formats.read(path).tensors) == ["v"]


@pytest.mark.parametrize("name", ["model.safetensors", "Model-00001-of-00002.safetensors", "adapter_model.safetensors"])
def test_FMT_112_stock_names_are_refused(tmp_path, name):
    with pytest.raises(formats.FormatError, match="FMT-112"):
        formats.write_file(tmp_path / name, GOOD)


def test_FMT_013_a_single_file_has_no_companions(tmp_path):
    with pytest.raises(formats.FormatError, match="FMT-013"):
        formats.write_file(tmp_path / "x.safetensors", replace(GOOD, files={"config.json": b"{}"}))


KILLED = """
import os, signal, sys
from collections.abc import Mapping
import numpy as np
import formats

class Killing(Mapping):
    def __getitem__(self, name):
        if name == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return formats.Dense(np.ones(1000))
    def __iter__(self):
        return iter("ab")
    def __len__(self):
        return 2

formats.write(sys.argv[1], formats.Checkpoint("model", Killing()), shard_bytes=1)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_FMT_110_a_killed_write_shows_nothing(tmp_path):
    path = tmp_path / "c"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    # what is left is recognisable, and in nobody's way
    assert [p.name.startswith(".c.tmp-") for p in tmp_path.iterdir()] == [True]
    formats.write(path, GOOD)
    formats.read(path)


def test_FMT_110_everything_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, atomic.Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd))[1])
    monkeypatch.setattr(atomic.Path, "rename", lambda self, to: (events.append(f"to {to.name}"), rename(self, to))[1])
    formats.write(tmp_path / "c", replace(GOOD, files={"config.json": b"{}"}))
    # the companion, the part and its names, the folder, the folder's name, the folder around it
    assert events == ["sync", "sync", "to part-0", "to model.sparse.safetensors", "sync", "to c", "sync"]


@pytest.mark.parametrize("write", [formats.write, formats.write_file])
def test_FMT_110_folders_that_lead_to_it_are_made_and_go_with_what_failed(tmp_path, write):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "b" / "c" / "x.sparse"
    with pytest.raises(formats.FormatError, match="FMT-006"):
        write(path, formats.Checkpoint("model", {"w": formats.Dense(np.zeros(2, np.complex128))}))
    writer = atomic.new_folder(path)
    writer.__enter__()
    assert path.parent.is_dir()
    assert not writer.__exit__(OSError, OSError("the disk is full"), None)
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]
    write(path, GOOD)
    assert formats.read(path).tensors.keys() == GOOD.tensors.keys()
    file = path if path.is_file() else path / "model.sparse.safetensors"
    with pytest.raises(OSError, match="sparse"):
        write(file / "d" / "y.sparse", GOOD)
    assert len(list(path.parent.iterdir())) == 1
