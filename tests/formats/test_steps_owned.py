"""What a publisher holds is its own, and a version that is out stays what it is (FMT-176)."""

import numpy as np
import pytest

import formats
from formats import FormatError, steps
from formats.steps import Follower, Publisher


def model(value, tied=None):
    tensors = {"w": formats.Dense(np.full((4, 5), value, np.float32)), "v": formats.Dense(np.ones(3, np.float32))}
    return formats.Checkpoint("model", tensors, {"list": [1, 2]}, tied=tied or {})


def test_a_version_is_not_published_twice_where_something_fails_behind_its_file(tmp_path, monkeypatch):
    with Publisher(tmp_path / "steps", "r") as publisher:
        publisher.publish(model(0))
        write = steps.write_file

        def late(*given, **more):
            write(*given, **more)
            raise OSError("the folder cannot be brought to disk")

        monkeypatch.setattr(steps, "write_file", late)
        with pytest.raises(OSError, match="brought to disk"):
            publisher.publish(model(1))
        assert publisher.version == 1
        monkeypatch.undo()
        with Follower(tmp_path / "steps", tmp_path / "now") as follower:
            assert follower.poll() == 1
            assert publisher.publish(model(2)) == 2
            assert follower.poll() == 2
        assert formats.read(tmp_path / "now").tensors["w"].values[0, 0] == 2


def test_a_version_of_another_publisher_is_not_replaced(tmp_path):
    with Publisher(tmp_path / "steps", "r") as publisher:
        publisher.publish(model(0))
        publisher.publish(model(1))
        there = (tmp_path / "steps" / "000001.delta").read_bytes()
        (tmp_path / "steps" / "000002.delta").write_bytes(there)
        with pytest.raises(FormatError, match=r"FMT-176: .*000002.delta is there already"):
            publisher.publish(model(2))
        assert (tmp_path / "steps" / "000002.delta").read_bytes() == there
        assert publisher.version == 1


def test_what_the_caller_holds_is_not_what_is_published(tmp_path):
    given = model(0, {"head": "w"})
    with Publisher(tmp_path / "steps", "r") as publisher:
        publisher.publish(given)
        with pytest.raises(ValueError, match="read-only"):
            publisher.model.tensors["w"].values[0, 0] = 7
        given.tied["other"] = "v"
        given.attributes["list"].append(3)
        given.tensors["w"].values[:] = 1
        assert publisher.publish(given) == 1
        with Follower(tmp_path / "steps", tmp_path / "now") as follower:
            assert follower.poll() == 1
    read = formats.read(tmp_path / "now")
    assert (read.tied, read.attributes["list"]) == ({"head": "w", "other": "v"}, [1, 2, 3])
    with Publisher(tmp_path / "steps", "r") as again:
        assert again.version == 1


def test_a_whole_checkpoint_that_was_removed_is_written_again(tmp_path):
    with Publisher(tmp_path / "steps", "r", every=100) as publisher:
        publisher.publish(model(0))
        (tmp_path / "steps" / "000000.model").unlink()
        assert publisher.publish(model(1)) == 1
    assert (tmp_path / "steps" / "000001.model").is_file()


def test_who_is_closed_writes_nothing(tmp_path):
    publisher = Publisher(tmp_path / "steps", "r")
    publisher.publish(model(0))
    follower = Follower(tmp_path / "steps", tmp_path / "now")
    publisher.close()
    follower.close()
    with pytest.raises(FormatError, match="this publisher is closed"):
        publisher.publish(model(1))
    with pytest.raises(FormatError, match="this follower is closed"):
        follower.poll()
    assert not (tmp_path / "now").exists()


def test_a_delta_is_no_file_to_follow_into(tmp_path):
    with Publisher(tmp_path / "steps", "r") as publisher:
        publisher.publish(model(0))
        publisher.publish(model(1))
    (tmp_path / "now").write_bytes((tmp_path / "steps" / "000001.delta").read_bytes())
    with pytest.raises(FormatError, match=r"FMT-176: .* is a delta"):
        Follower(tmp_path / "steps", tmp_path / "now")
