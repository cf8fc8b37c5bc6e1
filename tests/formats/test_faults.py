"""Processes that are killed, disks that are full, folders that cannot be written: the old file is whole, or the new."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import formats
from formats import FormatError

resource = pytest.importorskip("resource")  # not on Windows
pytestmark = pytest.mark.skipif(os.name != "posix", reason="fork, signals and limits of POSIX")

OWN = str(Path(formats.__file__).parent)


def model(seed: int) -> formats.Checkpoint:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((40, 60)).astype(np.float32) * (rng.random((40, 60)) < 0.3)
    tensors = {"a": formats.from_dense(values), "b": formats.Dense(values[:3]), "c": formats.from_dense(values[5:])}
    return formats.Checkpoint("model", tensors, {"seed": seed})


OLD, NEW = model(1), model(2)


def in_child(work: Callable[[], object]) -> int:
    """Run work in a process of its own; return 0 if it ends well, 3 for an OSError, minus a signal that ended it."""
    with warnings.catch_warnings():
        # JAX warns of a fork, and Python of one beside threads, where other tests of this process have started them
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        code = 4
        try:
            work()
            code = 0
        except OSError:
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(line: int, work: Callable[[], object]) -> Callable[[], None]:
    """Return work that kills its process at the given line of this package that it comes to."""
    left = line

    def trace(frame, event, _argument):
        nonlocal left
        if not frame.f_code.co_filename.startswith(OWN):
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def run() -> None:
        sys.settrace(trace)
        work()

    return run


def seed_of(path: Path) -> int:
    """Read everything, every digest compared; return which model it is."""
    with formats.open(path) as reader:
        reader.verify()
        return int(str(reader.attributes["seed"]))


def lines_of(work: Callable[[], object]) -> int:
    """Count the lines of this package that work comes to."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename.startswith(OWN) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def moments(total: int) -> list[int]:
    """Lines all over the work, and more of the last ones, where files are synchronised and get their names."""
    return [*range(1, total, total // 16), *range(total - 40, total - 4, 4)]


def test_FMT_111_a_file_is_the_old_one_or_the_new_one_wherever_its_writer_is_killed(tmp_path):
    path = tmp_path / "m.sparse"
    total = lines_of(lambda: formats.write_file(tmp_path / "count.sparse", NEW))
    seen = set()
    for line in moments(total):
        formats.write_file(path, OLD)
        assert in_child(killed_at(line, lambda: formats.write_file(path, NEW))) == -signal.SIGKILL
        seen.add(seed_of(path))
    # the last lines come after the renaming
    formats.write_file(path, OLD)
    in_child(killed_at(total - 1, lambda: formats.write_file(path, NEW)))
    seen.add(seed_of(path))
    assert seen == {1, 2}


def test_FMT_110_a_folder_is_there_and_whole_or_not_there_wherever_its_writer_is_killed(tmp_path):
    total = lines_of(lambda: formats.write(tmp_path / "count", NEW, shard_bytes=1))
    for i, line in enumerate(moments(total)):
        path = tmp_path / str(i)
        assert in_child(killed_at(line, lambda p=path: formats.write(p, NEW, shard_bytes=1))) == -signal.SIGKILL
        if path.exists():
            assert seed_of(path) == 2
        formats.write(tmp_path / f"again-{i}", NEW)


@pytest.mark.parametrize("compress", [None, "zstd"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, compress):
    path = tmp_path / "m.sparse"
    formats.write_file(path, NEW, compress=compress)
    size = path.stat().st_size
    formats.write_file(path, OLD)

    def limited(limit: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        formats.write_file(path, NEW, compress=compress)

    for limit in (0, 1, 1000, 1024, size // 2, size - 1):
        assert in_child(lambda limit=limit: limited(limit)) == 3
        assert seed_of(path) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["m.sparse"]
    # the gap for the header may be guessed too large
    assert in_child(lambda: limited(2 * size)) == 0
    assert seed_of(path) == 2


def test_a_full_disk_leaves_no_folder(tmp_path):
    def limited(limit: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        formats.write(tmp_path / "m", NEW, shard_bytes=4000)

    for limit in (0, 100, 2000, 5000):
        assert in_child(lambda limit=limit: limited(limit)) == 3
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_folder_that_cannot_be_written_is_an_error_of_the_system():
    with pytest.raises(OSError, match="/proc"):
        formats.write("/proc/model", NEW)
    with pytest.raises(OSError, match="/proc"):
        formats.write_file("/proc/model.sparse", NEW)


def test_a_disk_that_fails_beside_is_told(tmp_path, monkeypatch):
    from formats import v1

    def fails(_descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(v1, "_SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        formats.write_file(tmp_path / "m.sparse", NEW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("wanted", ["auto", "bitmask", "csr", "gap8", "varint"])
def test_FMT_096_no_rows_take_no_memory_however_wide_they_are(tmp_path, wanted):
    wide = formats.Mask((4, 0, 2**31 - 1), np.zeros(1, np.int64), np.zeros(0, np.int32))
    held = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmData"))

    def limited() -> None:
        limit = int(held.split()[1]) * 1024 + (1 << 29)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        formats.write_file(tmp_path / "m.sparse", formats.Checkpoint("model", {"w": wide}), encoding=wanted)
        formats.read(tmp_path / "m.sparse")

    assert in_child(limited) == 0


ENCODINGS = ["bitmask", "csr", "gap8", "varint"]


@pytest.mark.parametrize("wanted", ENCODINGS)
@pytest.mark.parametrize("compress", [None, "zstd"])
def test_no_flipped_byte_gives_wrong_values_where_digests_are_compared(tmp_path, wanted, compress):
    path, other = tmp_path / "m.sparse", tmp_path / "n.sparse"
    formats.write_file(path, OLD, encoding=wanted, compress=compress)
    raw = path.read_bytes()
    for at in np.random.default_rng(2).integers(0, len(raw), 200):
        spoiled = bytearray(raw)
        spoiled[at] ^= 1 << at % 8
        other.unlink(missing_ok=True)
        other.write_bytes(spoiled)
        with pytest.raises(FormatError):
            seed_of(other)
    for size in np.random.default_rng(3).integers(0, len(raw), 50):
        other.unlink(missing_ok=True)
        other.write_bytes(raw[:size])
        with pytest.raises(FormatError):
            seed_of(other)
