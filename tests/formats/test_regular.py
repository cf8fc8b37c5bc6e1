"""Pipes and devices in the place of files: refused before they are opened, and never waited for."""

import os
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import formats
from formats.check import violations
from formats.dialects import sources
from formats.dialects.gguf_file import open_gguf
from formats.dialects.hf import open_hf
from formats.dialects.npz import read_npz
from formats.regular import open_regular, read_bounded

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and alarms of POSIX")
MODEL = formats.Checkpoint("model", {"w": formats.from_dense(np.eye(9, dtype=np.float32))}, files={"a.txt": b"hi"})


@pytest.fixture(autouse=True)
def alarm():
    """A reader that waits is ended, and its test fails."""

    def ring(_number, _frame):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_FMT_165_a_pipe_a_device_or_a_folder_is_no_file(pipe, tmp_path):
    for path in (pipe, tmp_path, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(formats.FormatError, match=r"FMT-165.*regular file"):
            open_regular(path)


def test_FMT_165_the_kind_of_a_path_is_asked_for_before_it_is_opened(pipe, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it is opened"))
    with pytest.raises(formats.FormatError, match="FMT-165"):
        open_regular(pipe)


def test_FMT_165_what_a_name_stands_for_is_asked_again_once_it_is_open(pipe, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    open_by_name = os.open
    monkeypatch.setattr(os, "open", lambda _, flags: open_by_name(pipe, flags))
    with pytest.raises(formats.FormatError, match="FMT-165"):
        open_regular(tmp_path / "file")


@pytest.mark.parametrize("read", [formats.open, formats.read, open_gguf, sources.detect, sources.open_source])
def test_FMT_165_no_reader_waits_for_a_pipe(pipe, read):
    with pytest.raises(formats.FormatError, match="FMT-165"):
        read(pipe)


def test_FMT_165_no_npz_or_torch_reader_waits_for_a_pipe(pipe):
    with pytest.raises(formats.FormatError, match="FMT-165"):
        read_npz(pipe, limit=1)
    torch_file = pytest.importorskip("formats.dialects.torch_file")
    with pytest.raises(formats.FormatError, match="FMT-165"):
        torch_file.read_torch(pipe)


@pytest.mark.parametrize("name", ["model.sparse.safetensors", "model.sparse.index.json", "a.txt"])
def test_FMT_165_a_pipe_in_a_folder_is_a_broken_rule(tmp_path, name):
    formats.write(tmp_path / "m", MODEL)
    (tmp_path / "m" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "m" / name)
    with pytest.raises(formats.FormatError), formats.open(tmp_path / "m") as reader:
        reader.verify()
    assert list(violations(tmp_path / "m"))


def test_FMT_165_a_folder_where_a_part_should_be_is_a_broken_rule(tmp_path):
    (tmp_path / "m" / "model.sparse.safetensors").mkdir(parents=True)
    assert [error.clause for _, error in violations(tmp_path / "m")] == ["FMT-165"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_FMT_165_a_pipe_among_weights_is_no_weight_file(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(formats.FormatError, match="FMT-120"):
        open_hf(tmp_path)


def test_FMT_021_a_forged_header_length_is_not_read(tmp_path):
    path = tmp_path / "forged.sparse"
    with path.open("wb") as file:
        file.write((1_500_000_000).to_bytes(8, "little") + b"{")
        file.truncate(1_500_000_008)  # a hole, which takes no space
    tracemalloc.start()
    told = [error.clause for _, error in violations(path)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told == ["FMT-021"]
    assert peak < 1 << 20


def test_FMT_096_a_configuration_beyond_all_limits_is_not_read(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(400_000_000)
    tracemalloc.start()
    with pytest.raises(formats.FormatError, match=r"FMT-084.*config"):
        sources.detect(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 110_000_000


def test_read_bounded_returns_all_or_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_bounded(tmp_path / "a", 3) == b"abc"
    assert read_bounded(tmp_path / "a", 2) is None


def test_FMT_096_a_bound_is_not_reserved_for_a_small_file(tmp_path):
    small = tmp_path / "small"
    small.write_bytes(b"abc")
    tracemalloc.start()
    assert read_bounded(small, 1 << 26) == b"abc"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert read_bounded(small, 2) is None
