"""What killed writers leave: named by its form, removed by the next writer, never taken from a living one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import formats
from formats import atomic

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")
MODEL = formats.Checkpoint("model", {"w": formats.from_dense(np.eye(9, dtype=np.float32))})
WRITERS = {"folder": (formats.write, "m"), "file": (formats.write_file, "m.sparse")}


SLOW = """
import signal, sys, formats
class Slow(dict):
    def __getitem__(self, name):
        print("in the middle", flush=True)
        signal.pause()
getattr(formats, sys.argv[1])(sys.argv[2], formats.Checkpoint("model", Slow(w=None)))
"""


def paused(write, path: Path) -> subprocess.Popen:
    """Start a program that writes to path and stops in the middle; return it once it is there.

    A fork of this process could hang, because other tests may have started threads in it.
    """
    child = subprocess.Popen([sys.executable, "-c", SLOW, write.__name__, str(path)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"in the middle\n"
    return child


def end(child: subprocess.Popen) -> None:
    child.kill()
    child.communicate()


@pytest.mark.parametrize("kind", WRITERS)
def test_FMT_166_the_next_writer_removes_what_a_killed_one_left(tmp_path, kind):
    write, name = WRITERS[kind]
    path = tmp_path / name
    end(paused(write, path))
    (left,) = atomic.leftovers(path)
    assert any(left.iterdir())
    write(path, MODEL)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    formats.read(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_FMT_166_a_living_writer_keeps_its_folder(tmp_path, kind):
    write, name = WRITERS[kind]
    path = tmp_path / name
    child = paused(write, path)
    try:
        (left,) = atomic.leftovers(path)
        held = sorted(left.iterdir())
        write(path, MODEL)
        assert sorted(left.iterdir()) == held
    finally:
        end(child)


def test_FMT_166_what_has_another_name_or_is_no_folder_stays(tmp_path):
    kept = [".m.tmp-0123", ".n.tmp-0123456789abcdef", ".m.tmp-0123456789abcdeg", "m.tmp-0123456789abcdef"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".m.tmp-0123456789abcdef.spool").write_bytes(b"of an older version")
    (tmp_path / "aim").mkdir()
    (tmp_path / ".m.tmp-00000000000000aa").symlink_to(tmp_path / "aim")
    before = sorted(tmp_path.iterdir())
    named = [p.name for p in atomic.leftovers(tmp_path / "m")]
    assert named == [".m.tmp-00000000000000aa", ".m.tmp-0123456789abcdef.spool"]
    formats.write(tmp_path / "m", MODEL)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "m"])


@pytest.mark.parametrize("first", [True, False])
def test_FMT_166_a_folder_that_is_taken_for_dead_before_it_is_locked_is_made_anew(tmp_path, monkeypatch, first):
    lock, calls = atomic._lock, []

    def late(path):
        calls.append(path)
        handle = None if first else lock(path)
        if len(calls) == 1:
            path.rmdir()  # as another writer would
        return lock(path) if first else handle

    monkeypatch.setattr(atomic, "_lock", late)
    formats.write(tmp_path / "m", MODEL)
    assert len(calls) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_FMT_166_without_locks_everything_is_written_and_nothing_removed(tmp_path, monkeypatch):
    end(paused(formats.write, tmp_path / "m"))
    monkeypatch.setattr(atomic, "fcntl", None)
    formats.write(tmp_path / "m", MODEL)
    assert len(list(tmp_path.iterdir())) == 2


def test_FMT_110_3_an_interrupt_while_the_folder_is_locked_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "_lock", interrupted)
    for write in (formats.write, formats.write_file):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "m", formats.Checkpoint("model", {}))
        assert list(tmp_path.iterdir()) == []
