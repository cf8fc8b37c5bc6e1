"""--device and --threads: every product and file goes by way of the place; one line says where there is none."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import array_api_strict
import numpy as np
import pytest

import formats
from conformance.engine.on_cpu import without_gpp
from seft_ref.arrays.library import without_cupy
from seft_ref.kernels import reference
from seft_ref.kernels.cpu import tiles
from tests.backends import CUPY
from tests.kernels import cupy_on_cpu
from tests.seft_ref.folders import BF16, TEXT, sparse_folder

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def foreign(monkeypatch):
    """--device cuda means a device of array-api-strict, which refuses arrays of the host."""
    device = importlib.import_module("seft_cli.device")
    like = array_api_strict.zeros(0, device=array_api_strict.Device("device1"))
    place = device.Place(reference, like, (12, 4), lambda itemsize: 0.55, lambda: 1 << 40)
    monkeypatch.setitem(device._PLACES, device.Device.cuda, lambda turn: place)


def values_of(folder):
    with formats.open(folder) as reader:
        return {name: formats.to_dense(reader[name]) for name in reader.names()}


def assert_same_weights(found, expected):
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name] != 0, values != 0, err_msg=name)
        # one unit of bfloat16
        np.testing.assert_allclose(
            found[name].astype(np.float32), values.astype(np.float32), rtol=2.0**-7, atol=1e-5, err_msg=name
        )


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("more", [[], ["--compact"]], ids=["plain", "compact"])
def test_a_run_elsewhere_stopped_and_resumed_writes_what_a_run_here_writes(cli, tmp_path, more):
    folder = sparse_folder(tmp_path / "sparse", dtype=BF16)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    wanted = ("--text", text, "--steps", 6, "--length", 16, "--evolve-every", 3, "--density", "0.1", *more)
    here, there, log = tmp_path / "here", tmp_path / "there", tmp_path / "run.jsonl"
    assert cli("finetune", folder, here, *wanted)[0] == 0
    code, _, err = cli("finetune", folder, there, *wanted, "--device", "cuda", "--stop-after", 4, "--log", log)
    assert code == 0, err
    code, _, err = cli("finetune", folder, there, *wanted, "--device", "cuda", "--resume", "--log", log)
    assert code == 0, err
    expected, found = values_of(here), values_of(there)
    assert_same_weights(found, expected)
    told = []
    for device in ("cpu", "cuda"):
        result = tmp_path / f"{device}.json"
        options = ("--length", 16, "--windows", 3, "--device", device, "--json", result, *more)
        assert cli("eval", there, "--text", text, *options)[0] == 0
        told.append(json.loads(result.read_text())["perplexity"])
    assert told[1] == pytest.approx(told[0], rel=1e-4)


@pytest.mark.skipif(bool(without_gpp()), reason=without_gpp())
def test_cuda_means_cupy_and_the_kernels_for_it(tmp_path):
    """A module cupy whose arrays are NumPy's, and whose kernels run on a CPU."""
    folder = sparse_folder(tmp_path / "sparse")
    text, stub = tmp_path / "text.txt", tmp_path / "stub"
    text.write_text(TEXT)
    stub.mkdir()
    cupy_on_cpu.install(stub)
    environment = os.environ | {"PYTHONPATH": f"{stub}{os.pathsep}{TOOLS.parent}"}
    out, state = tmp_path / "out", ("--steps", "4", "--length", "16", "--evolve-every", "2", "--density", "0.1")
    line = [sys.executable, TOOLS / "finetune.py", folder, out, "--text", text, *state, "--device", "cuda"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (before, after) = (sum(int((v != 0).sum()) for v in values_of(f).values()) for f in (folder, out))
    assert before == after


@pytest.mark.usefixtures("foreign")
def test_text_goes_on_elsewhere(tmp_path, monkeypatch):
    folder = sparse_folder(tmp_path / "sparse")
    generate = importlib.import_module("seft_cli.commands.generate")
    pieces = {"cpu": [], "cuda": []}
    for device in pieces:
        monkeypatch.setattr(generate, "_print", pieces[device].append)
        monkeypatch.setattr(
            sys, "argv", ["generate.py", str(folder), "the quick", "--max-tokens", "6", "--device", device]
        )
        with pytest.raises(SystemExit) as left:
            generate.console.run(generate.main)
        assert not left.value.code
    assert pieces["cuda"] == pieces["cpu"]
    assert len(pieces["cpu"]) > 1


@pytest.mark.skipif(CUPY is not None, reason="this machine has a GPU")
@pytest.mark.parametrize(
    "line",
    [
        ("eval", "{sparse}", "--text", "{text}"),
        ("generate", "{sparse}", "the"),
        ("finetune", "{sparse}", "{out}", "--text", "{text}"),
    ],
    ids=lambda line: line[0],
)
def test_without_a_gpu_one_line_says_what_to_do_and_nothing_is_written(cli, tmp_path, line):
    folder = sparse_folder(tmp_path / "sparse")
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    before = sorted(p.name for p in tmp_path.iterdir())
    arguments = [a.format(sparse=folder, text=text, out=tmp_path / "out") for a in line]
    code, out, err = cli(*arguments, "--device", "cuda")
    assert code == 2
    assert err == f"error: --device cuda: {without_cupy()}\n"
    assert not out
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.skipif(CUPY is not None, reason="this machine has a GPU")
def test_bench_kernels_without_a_gpu_ends_in_one_line(monkeypatch):
    with pytest.raises(importlib.import_module("seft_cli.console").Refused, match=r"^--device cuda: "):
        importlib.import_module("benchmarks.app").kernels(device=importlib.import_module("seft_cli.device").Device.cuda)


def test_bench_kernels_of_a_gpu_takes_no_threads(monkeypatch):
    bench = importlib.import_module("benchmarks.app")
    for option in ({"threads": 2}, {"shape": ["4x4"]}):
        with pytest.raises(bench.console.Refused, match=f"^--device cuda does not use --{next(iter(option))}"):
            bench.kernels(device=importlib.import_module("seft_cli.device").Device.cuda, **option)


@pytest.mark.skipif(bool(without_gpp()), reason=without_gpp())
def test_processes_of_a_machine_take_its_gpus_in_turn(tmp_path):
    cupy_on_cpu.install(tmp_path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, TOOLS.parent)))}
    code = (
        "from seft_cli.device import Device, place_of\n"
        "print(*[place_of(Device.cuda, turn).name for turn in range(5)], place_of(Device.cpu, 3).name)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, second = "0000:00:00.0", "0000:01:00.0"
    assert done.stdout.split() == [first, second, first, second, first, "cpu"]


def test_verify_takes_a_device(monkeypatch):
    command = importlib.import_module("conformance.command.app")
    assert command._on_device("cuda", None) == ("cupy",)
    assert command._on_device("cpu", None) is None
    assert command._on_device(None, ["numpy"]) == ["numpy"]
    for device, backend in (("tpu", None), ("cuda", ["numpy"])):
        with pytest.raises(command.typer.Exit):
            command._on_device(device, backend)


@pytest.mark.parametrize("more", [[], ["--compact"]], ids=["plain", "compact"])
def test_a_run_with_transposed_copies_stopped_and_resumed_writes_what_a_run_without_writes(cli, tmp_path, more):
    folder = sparse_folder(tmp_path / "sparse", dtype=BF16)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    wanted = ("--text", text, "--steps", 6, "--length", 16, "--evolve-every", 3, "--density", "0.1", *more)
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert cli("finetune", folder, once, *wanted)[0] == 0
    assert cli("finetune", folder, twice, *wanted, "--transposed", "--stop-after", 4)[0] == 0
    assert cli("finetune", folder, twice, *wanted, "--transposed", "--resume")[0] == 0
    expected, found = values_of(once), values_of(twice)
    assert_same_weights(found, expected)


def test_a_gpu_has_no_transposed_copies(cli, tmp_path):
    folder = sparse_folder(tmp_path / "sparse", dtype=BF16)
    (tmp_path / "text.txt").write_text(TEXT)
    wanted = ("--text", tmp_path / "text.txt", "--device", "cuda", "--transposed")
    code, _, err = cli("finetune", folder, tmp_path / "out", *wanted)
    assert code == 2
    assert "--transposed is for --device cpu" in " ".join(err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--device", "cuda"], "--arithmetic bfloat16 is for --device cpu"),
        (["--transposed"], "--arithmetic bfloat16 multiplies both ways from one copy; leave --transposed out"),
        ([], "--arithmetic bfloat16: this processor has no AMX; leave it out"),
    ],
)
def test_KRN_019_4_arithmetic_that_a_place_does_not_have(cli, monkeypatch, tmp_path, more, says):
    monkeypatch.setattr(tiles, "without_tiles", lambda: "this processor has no AMX")
    folder, text = sparse_folder(tmp_path / "sparse"), tmp_path / "text.txt"
    text.write_text(TEXT)
    code, _, err = cli("finetune", folder, tmp_path / "out", "--text", text, "--arithmetic", "bfloat16", *more)
    assert (code, err) == (2, f"error: {says}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(tiles.without_tiles() is not None, reason=str(tiles.without_tiles()))
def test_KRN_019_a_run_in_bfloat16_learns_what_one_in_float32_learns(cli, tmp_path):
    folder, text = sparse_folder(tmp_path / "sparse"), tmp_path / "text.txt"
    text.write_text(TEXT)
    losses = {}
    for arithmetic in ("float32", "bfloat16"):
        log = tmp_path / f"{arithmetic}.jsonl"
        options = ("--steps", 6, "--batch", 2, "--length", 16, "--evolve-every", 3, "--density", "0.1", "--log", log)
        code, _, err = cli(
            "finetune", folder, tmp_path / arithmetic, "--text", text, "--arithmetic", arithmetic, *options
        )
        assert code == 0, err
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        losses[arithmetic] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses["bfloat16"]) == 6
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=2e-2)


COUNTED = """
import sys
from seft_cli import app
try:
    app.run(sys.argv.pop(1))
except SystemExit as left:
    assert not left.code
import numba, threadpoolctl, formats.loops
pools = threadpoolctl.threadpool_info()
assert {pool["user_api"] for pool in pools} >= {"blas"}
print("threads", {numba.get_num_threads(), formats.loops._THREADS, *(pool["num_threads"] for pool in pools)})
"""
"""Runs a command, and then prints the numbers of threads that the libraries have."""


@pytest.mark.parametrize(
    "line",
    [
        "finetune sparse OUT --text text --steps 3 --length 16",
        "eval sparse --text text --length 16 --windows 2 --json OUT",
        "prune sparse-hf OUT --method wanda --calibration text --samples 2 --length 16",
        "convert sparse OUT --to hf",
        "generate sparse hello --max-tokens 3",
    ],
    ids=lambda line: line.split()[0],
)
def test_KRN_008_every_library_has_the_threads_that_are_asked_for_and_no_bit_changes(tmp_path, line):
    sparse_folder(tmp_path / "sparse")
    (tmp_path / "text").write_text(TEXT)
    said = []
    for option in (["--threads", "1"], ["--threads=2"]):
        command = [sys.executable, "-c", COUNTED, *line.replace("OUT", option[-1][-1]).split(), *option]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        text, _, threads = done.stdout.rpartition("threads ")
        assert threads == f"{{{option[-1][-1]}}}\n"
        said.append(text)
    if line.startswith("generate"):
        assert said[0] == said[1]
    if (tmp_path / "1").is_dir():
        for file in (tmp_path / "1").iterdir():
            assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes(), file.name
