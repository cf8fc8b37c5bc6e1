"""Folders of steps: what is published arrives bit for bit, files come and go by the rules, wrong ones are refused."""

import os
import shutil

import ml_dtypes
import numpy as np
import pytest

import formats
from formats import FormatError, atomic, step_files
from formats.steps import Follower, Publisher

BF16 = np.dtype(ml_dtypes.bfloat16)


class Model:
    """Tensors that change in place from step to step, and plain copies of them as they were at each."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.dense = self.random.standard_normal((30, 40)).astype(BF16)
        support = formats.from_support(self.random.random((20, 30)) < 0.3)
        self.sparse = formats.with_values(support, np.zeros(support.nnz, np.float32))
        self.past = []

    def step(self):
        at = self.random.integers(self.dense.size, size=5)
        self.dense.reshape(-1)[at] += BF16.type(1)
        self.sparse.values[self.random.integers(self.sparse.nnz, size=3)] += 1
        if len(self.past) % 3 == 2:
            # the support moves
            self.sparse = formats.from_dense(np.roll(formats.to_dense(self.sparse), 1))
        self.past.append((self.dense.tobytes(), formats.to_dense(self.sparse).tobytes()))
        return self.checkpoint()

    def checkpoint(self):
        tensors = {"dense": formats.Dense(self.dense), "sparse": self.sparse}
        return formats.Checkpoint("model", tensors, {"step": len(self.past) - 1}, tied={"head": "dense"})

    def check(self, path, version):
        """Verify that a file holds a version."""
        read = formats.read(path)
        told = (read.tensors["dense"].values.tobytes(), formats.to_dense(read.tensors["sparse"]).tobytes())
        assert told == self.past[version]
        assert read.attributes == {"step": version, "published": {"run": "r", "version": version}}
        assert read.tied == {"head": "dense"}


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def steps(tmp_path):
    return tmp_path / "steps"


@pytest.fixture
def served(tmp_path):
    return tmp_path / "current.sparse"


def publish(steps, model, count, **options):
    with Publisher(steps, "r", **options) as publisher:
        return [publisher.publish(model.step()) for _ in range(count)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("compress", [None, "zstd"])
def test_FMT_176_a_follower_gets_every_version_bit_for_bit(model, steps, served, compress):
    with Follower(steps, served) as follower, Publisher(steps, "r", every=4, keep=6, compress=compress) as publisher:
        assert follower.poll() is None
        for version in range(12):
            assert publisher.publish(model.step()) == version
            assert follower.poll() == version == follower.version
            assert follower.poll() is None
            model.check(served, version)
            assert publisher.state_sha256 == formats.open(served).state_sha256


def test_FMT_176_a_run_that_nobody_could_read_is_refused(steps):
    for options in ({"run": 5}, {"run": "r", "every": "3"}, {"run": "r", "keep": None}):
        with pytest.raises(formats.FormatError, match="FMT-176"):
            Publisher(steps, **options)
    assert not steps.exists()


def test_FMT_176_a_follower_among_the_versions_is_refused(model, steps):
    publish(steps, model, 3)
    for path in (steps / "000000.model", steps / ".." / steps.name / "mine.sparse"):
        with pytest.raises(formats.FormatError, match=r"FMT-176.*lies among the versions"):
            Follower(steps, path)
    publish(steps, model, 1)


def test_FMT_176_2_every_file_says_run_and_version(model, steps):
    publish(steps, model, 3, every=2)
    assert names(steps) == ["000000.model", "000001.delta", "000002.delta", "000002.model", "lock"]
    for path in steps.glob("0*"):
        with formats.open(path) as reader:
            reader.verify()
            assert reader.attributes["published"] == {"run": "r", "version": int(path.stem)}
            assert reader.kind == path.suffix[1:]


def test_FMT_176_6_what_stays(model, steps):
    publish(steps, model, 23, every=5, keep=3)
    assert names(steps) == ["000015.model", "000020.delta", "000020.model", "000021.delta", "000022.delta", "lock"]
    # no delta after the newest whole checkpoint goes, however few are asked for
    publish(steps, model, 2, every=50, keep=0)
    assert names(steps) == ["000015.model", "000020.model", *(f"{n:06}.delta" for n in range(21, 25)), "lock"]


def test_FMT_176_7_one_that_is_behind_what_stays_begins_with_the_newest_model(model, steps, served):
    with Follower(steps, served) as follower:
        publish(steps, model, 1)
        assert follower.poll() == 0
        publish(steps, model, 12, every=5, keep=1)
        assert "000001.delta" not in names(steps)
        assert follower.poll() == 12
    model.check(served, 12)


def test_FMT_176_7_many_deltas_come_in_several_calls(model, steps, served):
    publish(steps, model, 2 * step_files.CHAIN + 3, every=1000)
    with Follower(steps, served) as follower:
        assert follower.poll() == step_files.CHAIN
        model.check(served, step_files.CHAIN)
        assert [follower.poll() for _ in range(3)] == [2 * step_files.CHAIN, 2 * step_files.CHAIN + 2, None]
    model.check(served, 2 * step_files.CHAIN + 2)
    with Publisher(steps, "r") as publisher:
        assert publisher.version == 2 * step_files.CHAIN + 2
        assert publisher.model.tensors["dense"].values.tobytes() == model.past[-1][0]


def test_a_reader_keeps_the_version_that_it_opened(model, steps, served):
    with Follower(steps, served) as follower:
        publish(steps, model, 1)
        follower.poll()
        with formats.open(served) as reader:
            publish(steps, model, 1)
            assert follower.poll() == 1
            assert reader.load_verified("dense").values.tobytes() == model.past[0][0]


def test_a_reader_opens_the_file_once(model, steps, served, monkeypatch):
    # opened twice, it could be another version the second time, as safetensors.safe_open finds
    opened, system_open = [], os.open
    publish(steps, model, 1)
    with Follower(steps, served) as follower:
        follower.poll()
    monkeypatch.setattr(os, "open", lambda path, *args: opened.append(path) or system_open(path, *args))
    formats.read(served)
    assert opened == [served]


def test_what_is_published_is_a_copy(model, steps, served):
    with Publisher(steps, "r") as publisher, Follower(steps, served) as follower:
        publisher.publish(model.step())
        model.dense[:] = 7
        model.sparse.indices[:] = 0
        assert publisher.model.tensors["dense"].values.tobytes() == model.past[0][0]
        publisher.publish(Model().step())
        follower.poll()
        model.check(served, 0)


def test_a_model_that_did_not_change_is_not_published_again(model, steps):
    with Publisher(steps, "r") as publisher:
        publisher.publish(model.step())
        assert publisher.publish(model.checkpoint()) == 0
        assert names(steps) == ["000000.model", "lock"]


# who publishes, and on what ----------------------------------------------------------------------


def test_FMT_176_5_a_publisher_goes_on_after_the_newest_version(model, steps, served):
    publish(steps, model, 3)
    with Publisher(steps, "r") as publisher, Follower(steps, served) as follower:
        assert publisher.version == 2
        assert publisher.publish(model.step(), base=publisher.state_sha256) == 3
        assert follower.poll() == 3
        model.check(served, 3)


def test_FMT_176_5_another_run_is_refused(model, steps, served):
    publish(steps, model, 2)
    before = names(steps)
    with pytest.raises(FormatError, match=r"FMT-176: .* belongs to run 'r', not to 'q'"):
        Publisher(steps, "q")
    assert names(steps) == before
    with Follower(steps, served) as follower:
        follower.poll()
        shutil.rmtree(steps)
        with Publisher(steps, "q") as publisher:
            for _ in range(3):
                publisher.publish(model.step())
        with pytest.raises(FormatError, match=r"FMT-176: .* belongs to run 'q', not to 'r'"):
            follower.poll()
    model.check(served, 1)


def test_FMT_176_another_base_is_refused_and_nothing_published(model, steps):
    with Publisher(steps, "r") as publisher:
        publisher.publish(model.step())
        with pytest.raises(
            FormatError, match=r"FMT-176: the step began with a model of state digest 0+, version 0 has"
        ):
            publisher.publish(model.step(), base="0" * 64)
        assert publisher.version == 0
        assert names(steps) == ["000000.model", "lock"]


def test_FMT_176_4_one_publisher_a_folder_and_one_follower_a_file(model, steps, served):
    with Publisher(steps, "r") as publisher:
        with pytest.raises(FormatError, match="FMT-176: another Publisher, of this"):
            Publisher(steps, "r")
        publisher.publish(model.step())
    with Follower(steps, served), pytest.raises(FormatError, match="FMT-176: another Follower, of this"):
        Follower(steps, served)
    Publisher(steps, "r").close()
    Follower(steps, served).close()


def test_FMT_176_a_folder_that_was_replaced_is_refused(model, steps):
    with Publisher(steps, "r") as publisher:
        publisher.publish(model.step())
        shutil.rmtree(steps)
        with pytest.raises(FormatError, match=r"FMT-176: .* was removed or replaced"):
            publisher.publish(model.step())
        assert not steps.exists()
        with Publisher(steps, "r"), pytest.raises(FormatError, match=r"FMT-176: .* was removed or replaced"):
            publisher.publish(model.step())


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": -1}, {"run": ""}])
def test_FMT_176_options_out_of_range_are_refused(steps, options):
    with pytest.raises(FormatError, match="FMT-176: run is"):
        Publisher(steps, **{"run": "r"} | options)
    assert not steps.exists()


def test_what_is_no_model_is_refused(model, steps):
    with Publisher(steps, "r") as publisher:
        first, second = model.step(), Model(1).step()
        with pytest.raises(FormatError, match="FMT-176: a checkpoint of kind 'delta'"):
            publisher.publish(formats.delta.diff(first, second))
        with pytest.raises(FormatError, match="FMT-013"):
            publisher.publish(formats.Checkpoint("model", first.tensors, files={"config.json": b"{}"}))
        with pytest.raises(FormatError, match="FMT-015"):
            publisher.publish(formats.Checkpoint("model", {"w": np.zeros(3)}))
        assert publisher.version is None
        assert names(steps) == ["lock"]


# files that are gone, damaged or strange ---------------------------------------------------------


def test_FMT_176_8_a_folder_without_a_way_is_refused_and_the_file_stays(model, steps, served):
    with Follower(steps, served) as follower:
        publish(steps, model, 2)
        follower.poll()
        publish(steps, model, 3)
        (steps / "000003.delta").unlink()
        with pytest.raises(FormatError, match=r"FMT-176: .* has no way to version 4"):
            follower.poll()
        with pytest.raises(FormatError, match=r"FMT-176: .* has no way to version 4"):
            Publisher(steps, "r")
        for path in steps.glob("0*"):
            path.unlink()
        with pytest.raises(FormatError, match=r"FMT-176: .* has no version, this follower has version 1"):
            follower.poll()
        publish(steps, Model(), 1)
        with pytest.raises(FormatError, match=r"FMT-176: .* ends at version 0, this follower has version 1"):
            follower.poll()
    model.check(served, 1)


def test_FMT_137_versions_of_the_same_name_and_other_weights_are_refused(model, steps, served):
    with Follower(steps, served) as follower:
        publish(steps, model, 2)
        follower.poll()
        shutil.rmtree(steps)
        publish(steps, Model(9), 4)
        with pytest.raises(FormatError, match="FMT-137"):
            follower.poll()
    model.check(served, 1)


def test_a_damaged_delta_is_refused_and_the_file_stays(model, steps, served):
    with Follower(steps, served) as follower:
        publish(steps, model, 2)
        follower.poll()
        publish(steps, model, 1)
        path = steps / "000002.delta"
        whole = path.read_bytes()
        path.write_bytes(whole[:-64] + bytes(b ^ 1 for b in whole[-64:]))
        with pytest.raises(FormatError, match="FMT-"):
            follower.poll()
        model.check(served, 1)
        path.unlink()
        path.write_bytes(whole)
        assert follower.poll() == 2


def test_FMT_176_2_a_file_that_was_renamed_is_refused(model, steps, served):
    publish(steps, model, 2)
    (steps / "000001.delta").rename(steps / "000001.model")
    with Follower(steps, served) as follower:
        with pytest.raises(FormatError, match=r"FMT-176: .* holds a delta of version 1; it was renamed"):
            follower.poll()
        (steps / "000001.model").unlink()
        (steps / "000000.model").rename(steps / "000003.model")
        with pytest.raises(FormatError, match=r"FMT-176: .* holds a model of version 0; it was renamed"):
            follower.poll()
    assert not served.exists()


@pytest.mark.parametrize("said", [None, {"run": "r"}, {"run": "r", "version": True}, {"run": 1, "version": 1}])
def test_FMT_176_2_a_file_that_is_no_version_is_not_overwritten(steps, served, said):
    formats.write_file(served, formats.Checkpoint("model", {}, {} if said is None else {"published": said}))
    before = served.read_bytes()
    with pytest.raises(FormatError, match=r"FMT-176: .* is no published version"):
        Follower(steps, served)
    assert served.read_bytes() == before


def test_FMT_176_3_other_names_say_nothing(model, steps, served):
    publish(steps, model, 2)
    for name in ("7.model", "0000009.delta", "000009.delta.part", "notes.txt", ".000009.model"):
        (steps / name).write_text("strange")
    with Follower(steps, served) as follower:
        assert follower.poll() == 1


def test_FMT_166_what_killed_publishers_left_goes_and_what_living_ones_write_stays(model, steps):
    publish(steps, model, 1)
    for name in (
        ".000044.model.tmp-0123456789abcdef",
        ".000001.delta.tmp-0123456789abcdef",
        ".notes.tmp-0123456789abcdef",
    ):
        (steps / name).mkdir()
        (steps / name / "half").write_bytes(b"half")
    living = steps / ".000045.model.tmp-0123456789abcdef"
    living.mkdir()
    handle = atomic._lock(living)
    Publisher(steps, "r").close()
    assert names(steps) == [living.name, ".notes.tmp-0123456789abcdef", "000000.model", "lock"]
    atomic.os.close(handle)


def test_files_that_go_while_a_follower_looks_are_no_error(model, steps, served, monkeypatch):
    numbers_in, looks = step_files.numbers_in, []

    def early(folder):
        looks.append(numbers_in(folder))
        if len(looks) == 1:
            publish(steps, model, 12, every=3, keep=0)
        return looks[-1]

    with Follower(steps, served) as follower:
        publish(steps, model, 3)
        monkeypatch.setattr(step_files, "numbers_in", early)
        assert follower.poll() == 14
    assert looks[0] == ({0}, {1, 2})
    assert looks[-1] == ({9, 12}, {13, 14})
    model.check(served, 14)


def test_what_is_no_checkpoint_and_an_unknown_compression_are_refused(tmp_path):
    with pytest.raises(FormatError, match="FMT-176: compress is 'zip'; choose 'zstd', 'file' or None"):
        Publisher(tmp_path / "steps", "run", compress="zip")
    with Publisher(tmp_path / "steps", "run") as publisher, pytest.raises(TypeError, match="publish a Checkpoint"):
        publisher.publish({"weight": np.zeros(3)})
