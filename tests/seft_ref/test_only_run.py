"""Two runs at one place: the second is refused, in every process; a killed run leaves the place free (CKP-012)."""

import signal
import subprocess
import sys

import pytest

from formats import atomic
from formats.atomic import lock_file, locked
from seft_ref import finetune, prune
from seft_ref.errors import CheckpointError
from seft_ref.files.only_run import only_run
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder
from tests.seft_ref.threads_as_ranks import on_ranks

SHORT = {"steps": 4, "length": 16, "batch": 2, "evolve_every": 2, "density": 0.05, "save_every": 1}
HOLDS = """
import sys, time
from pathlib import Path
from formats import atomic
from formats.atomic import lock_file, locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def refused(call):
    with pytest.raises(CheckpointError, match="another run is at work") as error:
        call()
    assert error.value.clause == "CKP-012"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("resume", [False, True])
def test_CKP_012_a_second_run_at_a_place_is_refused(place, resume):
    sparse_folder(place / "sparse")
    seen = []

    def again(state, record, seconds):
        refused(lambda: finetune(place / "sparse", place / "new" / "out", place / "text.txt", resume=resume, **SHORT))
        finetune(place / "sparse", place / "new" / f"other-{state.step}", place / "text.txt", **SHORT)
        seen.append(state.step)

    finetune(place / "sparse", place / "new" / "out", place / "text.txt", **SHORT, on_step=again)
    assert seen == [1, 2, 3, 4]
    assert names(place / "new") == ["other-1", "other-2", "other-3", "other-4", "out"]


def test_a_run_that_refuses_or_stops_leaves_the_place_free(place):
    sparse_folder(place / "sparse")
    run = place / "sparse", place / "new" / "out", place / "text.txt"
    with pytest.raises(CheckpointError, match="there is no"):
        finetune(*run, resume=True, **SHORT)
    assert names(place) == ["sparse", "sparse-hf", "text.txt"]
    finetune(*run, stop_after=2, **SHORT)
    assert names(place / "new") == ["out.state"]
    finetune(*run, resume=True, **SHORT)
    assert names(place / "new") == ["out"]


def test_CKP_012_a_second_pruner_at_a_place_is_refused(place):
    hf_folder(place / "dense")
    run = place / "dense", place / "out", "wanda", 0.5
    seen = []

    def again(name, total):
        refused(lambda: prune(*run, text=place / "text.txt", length=32, resume=bool(seen)))
        seen.append(name)

    prune(*run, text=place / "text.txt", length=32, progress=again)
    assert len(seen) == 14
    assert names(place) == ["dense", "out", "text.txt"]


def test_CKP_012_after_a_run_that_was_killed_the_place_is_free(tmp_path):
    state = tmp_path / "out.state"
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(state)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        refused(lambda: only_run(state).__enter__())
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert names(tmp_path) == [".out.state.lock"]
    with only_run(state):
        refused(lambda: only_run(state).__enter__())
    assert names(tmp_path) == []


def test_every_process_of_a_run_refuses(tmp_path):
    state = tmp_path / "out.state"

    def attempt(ranks):
        try:
            with only_run(state, ranks):
                return ranks.every("holds")
        except CheckpointError as error:
            return error.clause

    with locked(state):
        assert on_ranks(3, attempt) == ["CKP-012"] * 3
    assert on_ranks(3, attempt) == [["holds"] * 3] * 3


def test_a_lock_of_a_file_that_its_holder_removed_meanwhile_counts_for_nothing(tmp_path, monkeypatch):
    file, handles = tmp_path / ".out.lock", []

    def too_late(path):
        handles.append(lock_file(path))
        if len(handles) == 1:
            path.unlink()
        return handles[-1]

    monkeypatch.setattr(atomic, "lock_file", too_late)
    with locked(tmp_path / "out"):
        assert len(handles) == 2
        assert atomic.is_file_of(file, handles[1])
    assert names(tmp_path) == []
