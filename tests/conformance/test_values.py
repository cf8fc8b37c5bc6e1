"""PRT-002, PRT-003: values keep their bits over the line, and what is none is refused."""

import json
import math
import os
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.protocol import files, values
from conformance.protocol.files import Folder, read_any
from conformance.protocol.values import Malformed, decode, encode, line, parse

ARRAYS = st.sampled_from(
    [
        np.array([0.0, -0.0, np.nan, np.inf, 5e-324]),
        np.array([[1e-45, -1.5]], dtype=np.float32),
        np.array([1.5], dtype=np.float16),
        np.array([1.5, -2.0], dtype=ml_dtypes.bfloat16),
        np.zeros((0, 3), dtype=np.int64),
        np.array([2**63 - 1, -(2**63)]),
        np.array([2**64 - 1], dtype=np.uint64),
        np.array([0, 255], dtype=np.uint8),
        np.array([True, False]),
        np.array(2.5),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | ARRAYS
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float):
        return isinstance(b, float) and ((math.isnan(a) and math.isnan(b)) or a.hex() == b.hex())
    return type(a) is type(b) and a == b


@pytest.fixture
def folder():
    made = Folder()
    yield made
    made.remove()
    assert not made.path.exists()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(VALUES)
def test_PRT_002_values_come_back_as_they_went(value):
    raw = line({"v": encode(value)})
    assert raw.count(b"\n") == 1
    assert same(decode(parse(raw)["v"]), value)


def test_PRT_003_large_arrays_go_by_file_where_the_port_takes_files(folder):
    x = np.arange(values.INLINE_LIMIT // 8 + 1, dtype=np.float64)
    told = encode(x, folder.write)
    assert set(told) == {"dtype", "shape", "path", "offset", "nbytes"}
    assert same(decode(told, read_any), x)
    assert same(decode(told, folder.reader(time.monotonic() + 9)), x)
    assert "b64" in encode(x)
    assert "b64" in encode(x[:-1], folder.write)


@pytest.mark.parametrize(
    "wrong",
    [
        1.5,
        {"f64": 1.5},
        {"f64": "one"},
        {"int": "1.5"},
        {"dict": [1]},
        {"what": 1},
        {},
        {"dtype": "f32", "shape": [1], "b64": "AAAA"},
        {"dtype": "f32", "shape": [1], "b64": "AAAAAA"},
        {"dtype": "f32", "shape": [1], "b64": "AAAAAA==!"},
        {"dtype": "f32", "shape": [-1], "b64": ""},
        {"dtype": "f32", "shape": [True], "b64": "AAAAAA=="},
        {"dtype": "f8", "shape": [0], "b64": ""},
        {"dtype": "f32", "shape": [0]},
        {"dtype": "f32", "shape": 0, "b64": ""},
        {"dtype": "bool", "shape": [1], "b64": "Ag=="},
        {"dtype": "f32", "shape": [1], "path": "/no/such", "offset": 0, "nbytes": 4},
    ],
)
def test_PRT_002_what_is_no_value_is_refused(wrong):
    with pytest.raises(Malformed):
        decode(wrong)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff{}", b"{} {}", b"1"])
def test_PRT_001_what_is_no_message_is_refused(raw):
    with pytest.raises(Malformed):
        parse(raw)


def test_PRT_002_what_has_no_form_is_not_sent():
    for value in (object(), np.array(["a"]), {1, 2}, 1j):
        with pytest.raises(TypeError):
            encode(value)
    assert json.loads(line({"a": encode(np.float32(0.5))})) == {"a": {"f64": "0x1.0000000000000p-1"}}


def fifo(path):
    os.mkfifo(path)


def link(path):
    path.symlink_to("/etc/hostname")


def device(path):
    path.symlink_to("/dev/zero")


def subfolder(path):
    path.mkdir()


def short(path):
    path.write_bytes(bytes(3))


SIZED = {"dtype": "f32", "shape": [1], "offset": 0, "nbytes": 4}


@pytest.mark.parametrize("make", [fifo, link, device, subfolder, short])
def test_PRT_014_what_is_no_regular_file_of_the_folder_is_not_read(folder, make):
    make(folder.path / "x")
    began = time.monotonic()
    with pytest.raises(Malformed):
        decode(SIZED | {"path": str(folder.path / "x")}, folder.reader(began + 60))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"path": "/etc/hostname"}, "the folder that the hello names"),
        ({"path": "/dev/zero"}, "the folder that the hello names"),
        ({"path": "{folder}/../{name}/x"}, "the folder that the hello names"),
        ({"path": "{folder}/.."}, "the folder that the hello names"),
        ({"path": "x"}, "the folder that the hello names"),
        ({"path": 1}, "path is a string"),
        ({"offset": -1}, "integers from 0"),
        ({"offset": True}, "integers from 0"),
        ({"offset": 5}, "has 8 bytes"),
        ({"offset": 2**80}, "has 8 bytes"),
        ({"nbytes": 8}, "take 4"),
        ({"nbytes": 2**40}, "take 4"),
        ({"shape": [2**40], "nbytes": 2**42}, "more than"),
    ],
)
def test_PRT_014_a_file_that_the_answer_tells_wrongly_is_refused(folder, changes, says):
    (folder.path / "x").write_bytes(bytes(8))
    told = SIZED | {"path": "{folder}/x"} | changes
    if isinstance(told["path"], str):
        told["path"] = told["path"].format(folder=folder.path, name=folder.path.name)
    with pytest.raises(Malformed, match=says):
        decode(told, folder.reader(time.monotonic() + 60))
    right = SIZED | {"path": str(folder.path / "x"), "offset": 4}
    assert decode(right, folder.reader(time.monotonic() + 60)).tolist() == [0.0]


def test_PRT_014_a_sparse_file_and_many_files_stay_within_limit_and_time(folder, monkeypatch):
    with (folder.path / "x").open("wb") as file:
        file.truncate(1 << 40)
    path = {"path": str(folder.path / "x")}
    huge = {"dtype": "u8", "shape": [1 << 40], "offset": 0, "nbytes": 1 << 40}
    with pytest.raises(Malformed, match="more than"):
        decode(huge | path, folder.reader(time.monotonic() + 60))
    assert decode(SIZED | path | {"offset": 1 << 39}, folder.reader(time.monotonic() + 60)).tolist() == [0.0]
    monkeypatch.setattr(files, "MOST", 11)
    assert len(decode([SIZED | path] * 2, folder.reader(time.monotonic() + 60))) == 2
    with pytest.raises(Malformed, match="more than 11"):
        decode([SIZED | path] * 3, folder.reader(time.monotonic() + 60))
    with pytest.raises(Malformed, match="in time"):
        decode(SIZED | path, folder.reader(time.monotonic() - 1))


def test_PRT_014_the_folder_is_emptied_through_links_and_the_kit_writes_through_none(folder, tmp_path):
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    raw = b"x" * 9
    name = Path(folder.write(raw)).name
    (folder.path / name).unlink()
    (folder.path / name).symlink_to(kept)
    assert Path(folder.write(raw)).read_bytes() == raw
    (folder.path / "deep" / "er").mkdir(parents=True)
    (folder.path / "out").symlink_to(tmp_path)
    folder.clear()
    assert list(folder.path.iterdir()) == []
    assert kept.read_bytes() == b"kept"


def test_PRT_014_no_file_is_opened_for_a_port_that_did_not_offer_them(folder):
    with pytest.raises(Malformed, match="files true"):
        decode(SIZED | {"path": str(folder.path / "x")})
