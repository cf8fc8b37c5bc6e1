"""The command `seft` itself: its table, its help, names that it does not know, and the scripts that run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import formats
from conformance.command import app as kit
from seft_cli import app
from seft_cli.commands import demo
from tests.seft_cli.logs import as_text, run_log
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def words(monkeypatch, capsys, *given):
    """Run `seft GIVEN`; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["seft", *given])
    with pytest.raises(SystemExit) as left:
        app.main()
    said = capsys.readouterr()
    return left.value.code or 0, said.out, said.err


def test_help_names_every_command(monkeypatch, capsys):
    code, out, _ = words(monkeypatch, capsys, "--help")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(app.COMMANDS)
    assert words(monkeypatch, capsys)[0] == 2


OF_KIT = [command.name or command.callback.__name__ for command in kit.app.registered_commands]


@pytest.mark.parametrize("command", [*([name] for name in app.COMMANDS), *(["verify", name] for name in OF_KIT)])
def test_no_help_shows_a_type_of_python(monkeypatch, capsys, command):
    code, out, _ = words(monkeypatch, capsys, *command, "--help")
    assert (code, out.split()[0]) == (0, "Usage:")
    assert re.findall(r"<[^>]*[^a-z0-9 |>][^>]*>", out.replace("<=", "")) == []


NOT_INSTALLED = """
import importlib.metadata, runpy
def missing(name): raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = missing
runpy.run_module("seft_cli", run_name="__main__")
"""


def test_the_version_is_known_without_an_installation():
    command = [sys.executable, "-c", NOT_INSTALLED, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"seft {formats.__version__}\n", "")


@pytest.mark.parametrize(("name", "advice"), [("convret", "did you mean convert?"), ("xyz", "seft --help lists all")])
def test_an_unknown_command_is_refused_in_one_line(monkeypatch, capsys, name, advice):
    assert words(monkeypatch, capsys, name) == (2, "", f"error: there is no command {name!r}; {advice}\n")


def test_a_command_has_its_name_in_its_help(monkeypatch, capsys):
    code, out, _ = words(monkeypatch, capsys, "check", "--help")
    assert (code, out.split()[:3]) == (0, ["Usage:", "seft", "check"])


def test_programs_that_a_tool_starts_find_the_checkout_from_another_folder(tmp_path):
    child = (
        "import subprocess, sys; subprocess.run([sys.executable, '-m', 'benchmarks.files', 'nothing', '.'], check=True)"
    )
    code = f"import sys; sys.path.insert(0, {str(TOOLS)!r}); import _checkout; {child}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"peak"' in done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the scripts of tools/ work on."""
    folder = tmp_path_factory.mktemp("desk")
    sparse_folder(folder / "model")
    (folder / "text").write_text(TEXT)
    (folder / "run.jsonl").write_text(as_text(run_log()))
    # a demo of which all is kept but one stage, which a process of its own does
    work = folder / "demo" / "quick"
    for kept in ("wheels", "text"):
        (folder / "demo" / kept).mkdir(parents=True)
    (folder / "demo" / "wheels" / "done").touch()
    for kept in ("pruned-hf", "repaired", "repaired-hf"):
        hf_folder(work / kept)
    hf_folder(folder / "demo" / "dense")
    (work / "pruned-hf" / "pruning.json").write_text(json.dumps({"of": 9}))
    numbers = ("perplexity", "peak_memory_bytes", "median_seconds_a_step", "stored_weights", "stored_weights_at_load")
    for kept in ("finetune", "eval-dense", "eval-pruned", "eval-repaired", "transformers"):
        (work / f"{kept}.json").write_text(json.dumps(dict.fromkeys(numbers, 5)))
    return folder


SCRIPTS = {
    "bench": ("steps --hidden 64 --steps 2 --every 2", "whole file"),
    "check": ("model", "no rule is broken"),
    "check_gpu": ("--page page.md", "error: --device cuda"),
    "convert": ("model converted --to hf", "% of model"),
    "demo": ("--folder demo --quick", "convert to a sparse checkpoint\ndemo/quick/pruned: "),
    "eval": ("model --text text --length 16 --windows 2", "perplexity"),
    "experiment": ("--list", "recovery"),
    "finetune": ("model tuned --text text --length 16 --steps 1", "stored weights"),
    "generate": ("model hello --max-tokens 3 --threads 1", "3 new"),
    "plot": ("run.jsonl run.svg", "run.svg: steps"),
    "prune": ("model-hf pruned --method magnitude", "removed"),
    "show": ("model", "model.embed_tokens.weight"),
    "verify": ("self-test --only count.drop --jobs 1", "mutants: 6 of 6 killed"),
}
"""Script of tools/ -> words of a quick command of it, and a part of what that prints."""


def test_every_script_is_tried():
    assert list(SCRIPTS) == sorted(path.stem for path in TOOLS.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_tools_works_from_another_folder_with_all_that_it_starts(desk, name):
    line, part = SCRIPTS[name]
    without = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(TOOLS / f"{name}.py"), *line.split()]
    done = subprocess.run(
        command, cwd=desk, env=without, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert part in done.stdout
    assert done.returncode == (2 if "error: " in part else 0), done.stdout


IMPORTED = """
import multiprocessing.spawn, sys
for script in sys.argv[1:]:
    try:
        multiprocessing.spawn.prepare({"init_main_from_path": script})
    except SystemExit:
        print(script)
"""


def test_a_process_that_a_script_of_tools_spawns_does_not_run_it_anew(tmp_path):
    """Such a process first imports the main module of the process that has started it."""
    scripts = [str(TOOLS / f"{name}.py") for name in SCRIPTS]
    command = [sys.executable, "-c", IMPORTED, *scripts]
    environment = os.environ | {"PYTHONPATH": str(TOOLS)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("words", [["--help"], ["show", "--help"], ["verify", "list", "--ops"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(words):
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "seft_cli", *words], stdout=writes, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "code"), [("--help >&-", 0), ("--help 2>&-", 0), ("show nothing <&- >&- 2>&-", 2), ("nonsense 2>&-", 2)]
)
def test_streams_that_the_caller_closed_are_no_error(words, code):
    command = f"exec {sys.executable} -m seft_cli {words}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_an_interrupt_before_a_command_begins_is_one_line(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "import_module", interrupted)
    assert words(monkeypatch, capsys, "show", "nothing") == (130, "", "interrupted\n")


def test_the_demo_names_the_extra_before_it_fetches_anything(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "gguf" else name)
    code, out, err = words(monkeypatch, capsys, "demo", "--folder", str(tmp_path / "demo"))
    assert (code, out) == (2, "")
    assert err == "error: the demo reads a GGUF with gguf; pip install '.[torch]' in the clone brings it\n"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "pip" else name)
    code, out, err = words(monkeypatch, capsys, "demo", "--folder", str(tmp_path / "demo"))
    assert (code, out) == (2, "")
    assert err == "error: the demo fetches a model with pip, which is missing here; python -m ensurepip brings it\n"
    assert list(tmp_path.iterdir()) == []
