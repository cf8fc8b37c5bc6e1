"""finetune.py as several processes that mpirun starts: one result, one voice, one end (TRN-013 to TRN-015)."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import formats
from conformance.engine.on_cpu import without_gpp
from tests.kernels import cupy_on_cpu
from tests.mpirun import needs_mpi, together
from tests.seft_cli.calling import call
from tests.seft_ref.folders import TEXT, sparse_folder

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SHORT = ("--steps", "6", "--batch", "3", "--length", "16", "--evolve-every", "2", "--density", "0.1", "--lr", "0.01")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("folders")
    (tmp / "text.txt").write_text(TEXT)
    return {"text": tmp / "text.txt", "sparse": sparse_folder(tmp / "sparse")}


def arguments(folders, out, *more):
    return [str(folders["sparse"]), str(out), "--text", str(folders["text"]), *SHORT, *map(str, more)]


def assert_same_model(found, expected):
    """The same positions, and values as close as sums in another order are."""
    found, expected = formats.read(found), formats.read(expected)
    for name, tensor in expected.tensors.items():
        other = found.tensors[name]
        if isinstance(tensor, formats.Sparse):
            np.testing.assert_array_equal(other.indices, tensor.indices, err_msg=name)
            np.testing.assert_array_equal(other.indptr, tensor.indptr, err_msg=name)
        np.testing.assert_allclose(other.values, tensor.values, rtol=1e-5, atol=1e-7, err_msg=name)


@needs_mpi
def test_TRN_013_TRN_015_processes_leave_what_one_leaves(folders, tmp_path, monkeypatch, capsys):
    wide = ("--dtype", "float64", "--gradient-window", 2)
    one, many = ((*wide, "--json", tmp_path / f"{x}.json", "--log", tmp_path / f"{x}.jsonl") for x in ("one", "many"))
    code, _, err = call(monkeypatch, capsys, "finetune", *arguments(folders, tmp_path / "one", *one))
    assert code == 0, err
    done = together(2, [TOOLS / "finetune.py", *arguments(folders, tmp_path / "many", *many)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps 1 to 6") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "many",
        "many.json",
        "many.jsonl",
        "one",
        "one.json",
        "one.jsonl",
    ]
    assert_same_model(tmp_path / "many", tmp_path / "one")
    told, others = (json.loads((tmp_path / f"{x}.json").read_text()) for x in ("one", "many"))
    assert told["settings"] == others["settings"]
    for a, b in zip(told["records"], others["records"], strict=True):
        assert a["event"] == b["event"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-9)
    lines = [json.loads(line)["type"] for line in (tmp_path / "many.jsonl").read_text().splitlines()]
    assert lines == [json.loads(line)["type"] for line in (tmp_path / "one.jsonl").read_text().splitlines()]


@needs_mpi
@pytest.mark.skipif(bool(without_gpp()), reason=without_gpp())
def test_TRN_013_processes_on_gpus_leave_what_one_processor_leaves(folders, tmp_path, monkeypatch, capsys):
    """Each takes a device of a CuPy whose arrays are NumPy's, and whose kernels run on the processor."""
    stub = tmp_path / "stub"
    stub.mkdir()
    cupy_on_cpu.install(stub)
    more = ("--dtype", "float64", "--steps", 4)
    code, _, err = call(monkeypatch, capsys, "finetune", *arguments(folders, tmp_path / "one", *more))
    assert code == 0, err
    script = tmp_path / "noting.py"
    script.write_text(
        "from seft_cli import launcher\nfrom seft_cli.commands import finetune\n"
        "plain = finetune.place_of\n"
        "def noting(*given, **more):\n"
        "    place = plain(*given, **more)\n"
        f"    open({str(tmp_path)!r} + f'/rank-{{launcher.launched()[1]}}', 'w').write(place.name)\n"
        "    return place\n"
        "finetune.place_of = noting\n"
        "launcher.run(finetune.main)\n"
    )
    line = [script, *arguments(folders, tmp_path / "many", *more, "--device", "cuda")]
    done = together(2, line, stub)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank-{r}").read_text() for r in range(2)] == ["0000:00:00.0", "0000:01:00.0"]
    assert_same_model(tmp_path / "many", tmp_path / "one")


@needs_mpi
def test_TRN_015_a_stopped_run_goes_on_with_another_number_of_processes(folders, tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "finetune", *arguments(folders, tmp_path / "one"))
    assert code == 0, err
    out = arguments(folders, tmp_path / "many")
    done = together(2, [TOOLS / "finetune.py", *out, "--stop-after", 3])
    assert done.returncode == 0, done.stderr
    code, _, err = call(monkeypatch, capsys, "finetune", *out, "--resume")
    assert code == 0, err
    expected, found = (formats.read(tmp_path / name) for name in ("one", "many"))
    for name, tensor in expected.tensors.items():
        np.testing.assert_allclose(found.tensors[name].values, tensor.values, rtol=1e-3, atol=1e-5, err_msg=name)


@needs_mpi
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--batch", "1"), "TRN-013: a step of 1 rows cannot be shared by 2 processes"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_TRN_015_what_all_refuse_is_told_once(folders, tmp_path, more, words):
    done = together(2, [TOOLS / "finetune.py", *arguments(folders, tmp_path / "out", *more)])
    assert done.returncode != 0
    assert done.stderr.count(words) == 1
    assert list(tmp_path.iterdir()) == []


FAILING = """
import os, sys
from seft_cli import launcher
from seft_cli.commands import finetune
launcher.PATIENCE = launcher.LAST_WORDS = 0.3
seen = []
def failing(*given, **more):
    seen.append(0)
    if len(seen) == 4 and launcher.launched()[1] == {rank}:
        raise {error}
    return plain(*given, **more)
loop = sys.modules["seft_ref.train.loop"]
plain, loop.loss_and_gradients = loop.loss_and_gradients, failing
launcher.run(finetune.main)
"""


@needs_mpi
@pytest.mark.parametrize(
    ("rank", "error", "words"),
    [
        (1, "OSError('the disk is gone')", "error: process 1 of 2: the disk is gone"),
        (0, "MemoryError()", "error: process 0 of 2: memory ran out (MemoryError)"),
    ],
)
def test_TRN_015_an_error_on_one_rank_ends_all(folders, tmp_path, monkeypatch, capsys, rank, error, words):
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(rank=rank, error=error))
    started = time.monotonic()
    done = together(2, [script, *arguments(folders, tmp_path / "out", "--save-every", 2, "--length", 12)])
    assert done.returncode != 0
    assert time.monotonic() - started < 60
    assert done.stderr.count("error: process") == done.stderr.count(words) == 1
    # the state of step 2 is whole
    # of a run that was killed the lock stays too, which the next one takes (CKP-012)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["failing.py", "out.state"]
    again = arguments(folders, tmp_path / "out", "--length", 12, "--resume")
    code, _, err = call(monkeypatch, capsys, "finetune", *again)
    # mpirun may return a moment before the process that it ended has let go of the place
    while "CKP-012" in err and time.monotonic() - started < 60:
        time.sleep(0.1)
        code, _, err = call(monkeypatch, capsys, "finetune", *again)
    assert code == 0, err


@needs_mpi
def test_TRN_014_processes_with_other_texts_are_refused(folders, tmp_path):
    script = tmp_path / "other.py"
    script.write_text(
        "from seft_cli import launcher\nfrom seft_cli.commands import finetune\nfrom seft_ref.runs import source\n"
        "plain = source.read_tokens\n"
        "source.read_tokens = lambda *given: plain(*given)[launcher.launched()[1] :]\n"
        "launcher.run(finetune.main)\n"
    )
    done = together(2, [script, *arguments(folders, tmp_path / "out")])
    assert done.returncode != 0
    assert done.stderr.count("TRN-014: at the start process 1 of 2 holds other text") == 1
    assert list(tmp_path.iterdir()) == [script]


@pytest.mark.parametrize("launcher", ["PMI", "OMPI_COMM_WORLD"])
def test_TRN_013_processes_that_cannot_talk_do_not_train_alone(folders, tmp_path, monkeypatch, capsys, launcher):
    monkeypatch.setenv(f"{launcher}_SIZE", "2")
    monkeypatch.setenv(f"{launcher}_RANK", "0")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    code, _, err = call(monkeypatch, capsys, "finetune", *arguments(folders, tmp_path / "out"))
    assert (code, err.count("\n")) == (2, 1)
    assert "TRN-013: 2 processes were started together" in err
    assert "[mpi]" in err
    assert list(tmp_path.iterdir()) == []


def test_processes_of_one_machine_share_its_threads():
    code = "import os, seft_cli, numba; print(os.environ['OMP_NUM_THREADS'], numba.config.NUMBA_NUM_THREADS)"
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}

    def threads(**environment):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain | environment)
        return done.stdout.split()

    for launcher in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        assert threads(**{launcher: "2"}) == [str(max(1, os.cpu_count() // 2))] * 2
    assert threads(MPI_LOCALNRANKS="2", OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1") == ["1", "1"]


def test_TRN_013_a_launcher_of_another_mpi_is_refused(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    ranks = importlib.import_module("seft_cli.launcher")
    monkeypatch.setattr(ranks, "over_mpi", lambda: ranks.ALONE)
    code, _, err = call(monkeypatch, capsys, "finetune", *arguments(folders, tmp_path / "out"))
    assert code == 2
    assert "MPI counts 1: the launcher and mpi4py belong to different MPI libraries" in err
    assert list(tmp_path.iterdir()) == []


def test_TRN_012_processes_of_one_machine_need_memory_each(folders):
    memory = importlib.import_module("seft_cli.memory")
    settings = importlib.import_module("seft_ref.train.settings").settings_of(length=16)
    needed = sum(memory.memory_of(folders["sparse"], settings).values())
    memory.require_memory(folders["sparse"], settings, needed)
    with pytest.raises(memory.console.Refused, match="fewer processes"):
        memory.require_memory(folders["sparse"], settings, needed, 2)
