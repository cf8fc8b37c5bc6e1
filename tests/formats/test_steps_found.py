"""Publishers and followers where a reader found them wrong: other runs, forks, moves, files that are gone (FMT-176)."""

import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

import formats
from formats import FormatError
from formats.steps import Follower, Publisher
from tests.formats.test_steps_owned import model


def published(folder, run, values, **how):
    with Publisher(folder, run, **how) as publisher:
        for value in values:
            publisher.publish(model(value))


def value_of(path):
    return formats.read(path).tensors["w"].values[0, 0]


@pytest.mark.parametrize("every", [1, 100])
def test_FMT_176_a_follower_refuses_another_run_that_ends_at_its_own_version(tmp_path, every):
    published(tmp_path / "steps", "A", [0, 1], every=every)
    with Follower(tmp_path / "steps", tmp_path / "now") as follower:
        assert follower.poll() == 1
        assert follower.poll() is None
        shutil.rmtree(tmp_path / "steps")
        published(tmp_path / "steps", "B", [5, 6], every=every)
        with pytest.raises(FormatError, match="FMT-176"):
            follower.poll()
    with Follower(tmp_path / "steps", tmp_path / "now") as follower, pytest.raises(FormatError, match="FMT-176"):
        follower.poll()
    assert value_of(tmp_path / "now") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_closed_publisher_leaves_the_folder_to_the_next_although_a_forked_child_lives(tmp_path):
    with Publisher(tmp_path / "steps", "A") as publisher:
        publisher.publish(model(0))
        child = os.fork()
        if not child:
            publisher.close()  # a child that leaves the block must not unlock the folder of its parent
            time.sleep(60)
            os._exit(0)
        with pytest.raises(FormatError, match="another Publisher"):
            Publisher(tmp_path / "steps", "A")
    try:
        published(tmp_path / "steps", "A", [1])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_FMT_177_a_packed_step_that_compresses_too_well_is_published_with_packed_sections(tmp_path):
    ones = formats.Checkpoint("model", {"w": formats.Dense(np.ones((1024, 1024), np.float32))})
    zeros = replace(ones, tensors={"w": formats.Dense(np.zeros((1024, 1024), np.float32))})
    with Publisher(tmp_path / "steps", "A", compress="file") as publisher:
        publisher.publish(ones)
        assert publisher.publish(zeros) == 1
    with Follower(tmp_path / "steps", tmp_path / "now") as follower:
        assert follower.poll() == 1
    assert value_of(tmp_path / "now") == 0


def test_a_relative_folder_stays_the_same_where_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with Publisher("steps", "A") as publisher, Follower("steps", "now") as follower:
        publisher.publish(model(0))
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert publisher.publish(model(1)) == 1
        assert follower.poll() == 1
    assert value_of(tmp_path / "now") == 1


@pytest.mark.parametrize("name", ["model.safetensors", "now.zst", "now.ZST"])
def test_a_follower_refuses_a_name_before_anything_is_published(tmp_path, name):
    with pytest.raises(FormatError, match=r"FMT-112|FMT-177"):
        Follower(tmp_path / "steps", tmp_path / name)


def test_a_followed_file_that_is_removed_is_made_again(tmp_path):
    published(tmp_path / "steps", "A", [0, 1])
    with Follower(tmp_path / "steps", tmp_path / "now") as follower:
        assert follower.poll() == 1
        (tmp_path / "now").unlink()
        assert follower.poll() == 1
        assert follower.poll() is None
    assert value_of(tmp_path / "now") == 1


def test_a_model_with_a_delta_is_refused_instead_of_taken_for_the_same(tmp_path):
    described = formats.DeltaOf("0" * 64, "1" * 64, {}, {}, {})
    with Publisher(tmp_path / "steps", "A") as publisher:
        publisher.publish(model(0))
        with pytest.raises(FormatError, match="with `delta` set"):
            publisher.publish(replace(model(1), delta=described))
