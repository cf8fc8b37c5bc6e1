"""Trainers and followers that are killed at any line or moment, and full disks: no version is lost or mixed."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch

import formats
from examples import rl_sync
from formats.check import violations
from formats.steps import Follower, Publisher
from tests.formats.steps_torture import Judge, torture

resource = pytest.importorskip("resource")  # not on Windows
from tests.formats.test_faults import in_child, killed_at, lines_of  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="fork, signals and locks of POSIX")


def version_of(number):
    """Return what every version is: two tensors that say its number, of which an entry a step changes."""
    values = np.zeros((40, 50), np.float32)
    values[0, 0] = number
    values[1 + np.arange(number) % 39, np.arange(number) % 50] = np.arange(number)
    return formats.Checkpoint("model", {"a": formats.Dense(values), "b": formats.from_dense(values)})


def check_file(path):
    """Verify that a file is one version, and return its number."""
    read = formats.read(path)
    number = read.attributes["published"]["version"]
    for name, tensor in version_of(number).tensors.items():
        assert formats.to_dense(read.tensors[name]).tobytes() == formats.to_dense(tensor).tobytes(), (name, number)
    return number


def check_folder(steps):
    """Verify every file of a folder, and return its newest version, got by a follower that starts with nothing."""
    assert [str(error) for path in steps.glob("0*") for _, error in violations(path)] == []
    served = steps.parent / "fresh.sparse"
    with Follower(steps, served) as follower:
        follower.poll()
    number = check_file(served)
    served.unlink()
    return number


def publish(steps, numbers):
    # every third version is whole, and old files go each time
    with Publisher(steps, "r", every=3, keep=2) as publisher:
        for number in numbers:
            publisher.publish(version_of(number))


def test_a_trainer_may_be_killed_at_any_line(tmp_path):
    first = tmp_path / "first"
    publish(first, range(8))
    shutil.copytree(first, tmp_path / "count")
    total = lines_of(lambda: publish(tmp_path / "count", [8, 9]))
    reached = set()
    for i, line in enumerate(range(total // 50, total, total // 25)):
        steps = tmp_path / f"steps-{i}"
        shutil.copytree(first, steps)
        assert in_child(killed_at(line, lambda s=steps: publish(s, [8, 9]))) == -signal.SIGKILL
        newest = check_folder(steps)
        owed = newest == 9 and not (steps / "000009.model").exists()
        reached.add(newest)
        publish(steps, range(newest + 1, 11))
        assert check_folder(steps) == 10
        # the whole version 9 that a killed trainer owed comes with version 10
        whole = "000010.model" if owed else "000009.model"
        assert {p.name for p in steps.iterdir()} == {"000006.model", "000009.delta", whole, "000010.delta", "lock"}
    assert reached == {7, 8, 9}


@pytest.mark.parametrize("keep", [100, 0], ids=["by deltas", "by a whole model"])
def test_a_follower_may_be_killed_at_any_line(tmp_path, keep):
    steps, served = tmp_path / "steps", tmp_path / "current.sparse"
    publish(steps, range(2))

    def follow():
        with Follower(steps, served) as follower:
            follower.poll()

    follow()
    first = served.read_bytes()
    with Publisher(steps, "r", every=3, keep=keep) as publisher:
        for number in range(2, 8):
            publisher.publish(version_of(number))
    total = lines_of(follow)
    reached = set()
    # the last lines come after the renaming
    for line in [*range(total // 24, total, total // 12), total - 1]:
        served.unlink()
        served.write_bytes(first)
        assert in_child(killed_at(line, follow)) == -signal.SIGKILL
        reached.add(check_file(served))
        follow()
        assert check_file(served) == 7
        assert sorted(p.name for p in tmp_path.iterdir()) == [".current.sparse.lock", "current.sparse", "steps"]
    assert reached == {1, 7}


def limit_files(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize(("room", "out"), [(100, 4), (9000, 5)], ids=["for nothing", "for a delta only"])
def test_a_step_that_finds_the_disk_full_fails_whole_and_the_next_one_works(tmp_path, room, out):
    steps = tmp_path / "steps"
    publish(steps, range(5))

    def work():
        with Publisher(steps, "r", every=1, keep=2) as publisher:
            before = sorted(steps.iterdir())
            limit_files(room)
            with pytest.raises(OSError, match="too large"):
                publisher.publish(version_of(5))
            assert publisher.version == out
            assert sorted(steps.iterdir()) == sorted([*before, *([steps / "000005.delta"] if out == 5 else [])])
            limit_files(resource.RLIM_INFINITY)
            # the same step again, and the next one
            assert publisher.publish(version_of(5)) == 5
            assert (steps / "000005.model").is_file()
            assert publisher.publish(version_of(6)) == 6

    assert in_child(work) == 0
    assert check_folder(steps) == 6


def test_a_follower_that_finds_the_disk_full_keeps_its_file_and_tries_again(tmp_path):
    steps, served = tmp_path / "steps", tmp_path / "current.sparse"
    publish(steps, range(2))

    def work():
        with Follower(steps, served) as follower:
            follower.poll()
            publish(steps, range(2, 5))
            limit_files(100)
            with pytest.raises(OSError, match="too large"):
                follower.poll()
            assert follower.version == check_file(served) == 1
            limit_files(resource.RLIM_INFINITY)
            assert follower.poll() == 4

    assert in_child(work) == 0
    assert check_file(served) == 4


def test_FMT_176_4_another_process_that_publishes_is_refused(tmp_path):
    def work():
        with pytest.raises(formats.FormatError, match="FMT-176: another Publisher, of this"):
            Publisher(tmp_path / "steps", "r")

    with Publisher(tmp_path / "steps", "r"):
        assert in_child(work) == 0


# two processes that are killed at random moments -------------------------------------------------


def test_processes_that_are_killed_at_random_moments(tmp_path):
    counts = torture(kills=4, seed=3, root=tmp_path)
    assert counts.trainer + counts.follower == 4
    assert counts.versions_read > 1


@pytest.fixture
def judge(tmp_path):
    return Judge(tmp_path / "current.sparse")


def serve(path, version, state):
    told = rl_sync.checkpoint_of(state)
    told.attributes["published"] = {"run": "r", "version": version}
    formats.write_file(path, told)


def trained(version):
    policy = rl_sync.new_policy()
    for step in range(1, version + 1):
        rl_sync.reinforce(policy, step)
    return policy.state_dict()


def test_the_judge_takes_versions_that_rise(judge):
    for version in (0, 2, 2, 5):
        serve(judge.served, version, trained(version))
        judge.look()
    assert (judge.looks, judge.versions) == (4, {0, 2, 5})


def test_the_judge_finds_a_mixed_model_a_step_back_and_a_file_that_is_gone(judge):
    old, new = trained(2), trained(3)
    name = next(iter(new))
    assert not torch.equal(old[name], new[name])
    serve(judge.served, 3, new | {name: old[name]})
    with pytest.raises(AssertionError, match=r"says version 3 of digest .* and holds no version"):
        judge.look()
    serve(judge.served, 3, new)
    judge.look()
    serve(judge.served, 2, old)
    with pytest.raises(AssertionError, match="version 2 came after version 3"):
        judge.look()
    judge.served.unlink()
    with pytest.raises(AssertionError, match="is gone"):
        judge.look()


# the example -------------------------------------------------------------------------------------


def test_the_example_ships_a_state_dict_and_goes_on(tmp_path, capsys):
    state = {"w": torch.randn(60, 50, dtype=torch.bfloat16), "b": torch.zeros(7), "n": torch.tensor(3)}
    torch.save(state, tmp_path / "state.pt")
    steps, served = tmp_path / "steps", tmp_path / "current.sparse"
    for until in (3, 5):
        rl_sync.publish(steps, "r", until, tmp_path / "state.pt", share=0.01, pause=0)
    rl_sync.follow(steps, served, until=5)
    for step in range(1, 6):
        rl_sync.change(state, step, 0.01)
    got = rl_sync.state_of(formats.read(served))
    assert all(torch.equal(got[name], state[name]) for name in state)
    assert capsys.readouterr().out.splitlines() == [
        *("trains from version 0", "published 1", "published 2", "published 3"),
        *("trains from version 3", "published 4", "published 5"),
        *("follows from version None", "serves 5"),
    ]


def test_the_policy_of_the_example_learns():
    def reward(policy):
        contexts = torch.randn(2000, rl_sync.ACTIONS, generator=torch.Generator().manual_seed(99)).bfloat16()
        return float((policy(contexts).argmax(-1) == contexts.argmax(-1)).float().mean())

    policy = rl_sync.new_policy()
    before = reward(policy)
    for step in range(1, 201):
        rl_sync.reinforce(policy, step)
    assert before < 0.3
    assert reward(policy) > 0.6
