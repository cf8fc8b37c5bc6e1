"""The commands of tutorials and of the README are typed as they stand, and print what the page shows."""

import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.cases.case import load_all
from conformance.judge.conduct import CHECKS
from conformance.judge.judgement import cases_of
from conformance.properties import PROPERTIES
from tests.mpirun import MPIRUN, OPEN_MPI, needs_mpi
from tests.seft_cli.calling import call
from tests.seft_ref.folders import BF16, CONFIG, TEXT, hf_folder, parameters, pruned

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
OLD = ROOT / "tests" / "formats" / "fixtures" / "compressed_tensors" / "0.9.0-sparse-bitmask"


def before_nothing(folder, command):
    """Make nothing, because the page makes all it needs."""


def before_repairing(folder, command):
    """Make the dense model and the texts that the page assumes."""
    if not (folder / "llama").exists():
        hf_folder(folder / "llama", CONFIG | {"max_position_embeddings": 256})
        for name in ("train.txt", "valid.txt"):
            (folder / name).write_text(TEXT)


def before_training(folder, command):
    """Make a pruned folder in bfloat16, and the texts."""
    if not (folder / "pruned-hf").exists():
        config = CONFIG | {"max_position_embeddings": 256}
        hf_folder(folder / "pruned-hf", config, pruned(parameters(config, dtype=BF16), config), dtype=BF16)
        for name in ("train.txt", "valid.txt"):
            (folder / name).write_text(TEXT)


def before_judging(folder, command):
    """Break the port where the page says so, and name an issue for every known failure."""
    port, known = folder / "myport" / "my_port.py", folder / "myport" / "seft-expect.toml"
    if "FAILED" in command:
        wrong = '    order = np.argsort(scores, kind="stable")[::-1]'
        port.write_text(re.sub(r"^    order = .*$", wrong, port.read_text(), flags=re.MULTILINE))
    if known.exists():
        known.write_text(known.read_text().replace('issue = ""', 'issue = "https://example.org/1"'))


BEFORE = {
    "README": before_repairing,
    "ship": before_nothing,
    "rescue": before_nothing,
    "repair": before_repairing,
    "judge": before_judging,
    "peft": before_training,
}
ELSEWHERE = ("make -C seft_ports/c", "--port seft_ports/c/seft-port", "--profile core", "seft demo --quick")
"""Commands that tests of the ports run, and one that downloads a model."""
FAILURE = re.compile(r"^error: |1 rule is broken$|, [1-9]\d* failed,|^  WRONG", re.MULTILINE)
"""Output of a command that exits with another status than 0."""
SHORTER = ("--steps 300", "--steps 2")
SHORTER_PYTHON = ("max_steps=300", "max_steps=25")


def typed(block):
    """Return the commands of a block, each with the lines that it is shown to print."""
    if re.match(r"^\$ ", block):
        return [
            (first, rest)
            for first, *rest in (one.splitlines() for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:])
        ]
    return [(line, []) for line in block.replace("\\\n", " ").splitlines() if line.startswith("seft ")]


def shows(shown, printed):
    """Return whether printed lines contain the lines of a page in their order; ... stands for any text."""
    rest = iter(printed)
    patterns = [".*".join(map(re.escape, line.strip().split("..."))) for line in shown if line.strip() != "..."]
    return all(any(re.fullmatch(f"{pattern}.*", line.strip()) for line in rest) for pattern in patterns)


@pytest.mark.filterwarnings("default")  # transformers warns about its own code
@pytest.mark.parametrize("page", BEFORE)
def test_commands_print_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD, tmp_path / "old")
    names: dict[str, object] = {}
    ran = 0
    text = (ROOT / "README.md" if page == "README" else TUTORIALS / f"{page}.md").read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        # blocks of python print what the page shows beside them, which `test_readme` compares
        if language == "python" or (page, language) in (("peft", "py"), ("ship", "py")):
            exec(compile(block.replace(*SHORTER_PYTHON), f"{page}.md", "exec"), names)
            capsys.readouterr()
            continue
        for command, shown in typed(block):
            if any(words in command for words in ELSEWHERE):
                continue
            program, name, *arguments = shlex.split(command.replace(*SHORTER))
            if program == "cd":
                monkeypatch.chdir(name)
                continue
            assert program == "seft"
            BEFORE[page](tmp_path, "\n".join((command, *shown)))
            code, out, err = call(monkeypatch, capsys, name, *arguments)
            assert shows(shown, (out + err).splitlines()), f"{command}\n{out}{err}"
            if shown:
                fails = FAILURE.search("\n".join(shown))
                assert bool(code) == bool(fails), command
            ran += 1
    assert ran >= 4


@needs_mpi
def test_commands_of_several_processes_print_what_the_page_shows(tmp_path, monkeypatch, capsys):
    text = (TUTORIALS / "processes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (made,) = [block for language, block in blocks if language == "py"]
    (tmp_path / "make_tiny.py").write_text(made)
    paths = os.pathsep.join(map(str, (Path(sys.executable).parent, Path(str(MPIRUN)).parent, os.environ["PATH"])))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    env = os.environ | OPEN_MPI | {"PATH": paths, "PYTHONPATH": str(ROOT)}
    ran = 0
    for language, block in blocks:
        for command, shown in () if language else typed(block):
            if command.startswith("seft "):
                # in this process, because starting another takes longer than the twelve steps
                code, out, err = call(monkeypatch, capsys, *shlex.split(command)[1:])
            else:
                line = command.replace("PYTHONPATH=CLONE python", shlex.quote(sys.executable))
                done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True, check=False)
                code, out, err = done.returncode, done.stdout, done.stderr
            assert code == 0, f"{command}\n{out}{err}"
            assert shows(shown, (out + err).splitlines()), f"{command}\n{out}{err}"
            ran += 1
    assert ran >= 8


@pytest.mark.parametrize(
    ("program", "folder", "names"),
    [
        ("draw.py", "figures", {"event", "round"}),
        ("results.py", "results", {"growth", "large", "fuzzing", "kill-matrix"}),
    ],
)
def test_figures_of_the_manual_are_drawn_from_its_results(program, folder, names, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, str(tmp_path)])
    runpy.run_path(str(ROOT / "docs" / "figures" / program), run_name="__main__")
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.svg" for name in names}
    for file in tmp_path.iterdir():
        # another version of matplotlib draws other lines, but the same words, each in a comment
        old, new = (
            re.findall("<!-- (.+?) -->", one.read_text("utf-8")) for one in (ROOT / "docs" / folder / file.name, file)
        )
        assert old == new, f"run `python docs/figures/{program}`"


@pytest.mark.parametrize("page", ["reference/command-line", "reference/presets", "paper", "results/ports"])
def test_tables_of_a_page_are_those_of_the_code_and_of_results(page):
    filled = runpy.run_path(str(ROOT / "docs" / "tables.py"))["filled"]
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert filled(text) == text, "run `python docs/tables.py`"


def test_the_counts_of_the_page_on_judging_are_those_of_the_kit():
    text = (TUTORIALS / "judge.md").read_text(encoding="utf-8")
    cases = len(cases_of(("core",), load_all()))
    everything = cases + sum(one.profile == "core" for one in PROPERTIES.values()) + len(CHECKS)
    assert f"properties unsupported of {cases} (SPEC" in text
    assert f"\n{everything} passed, 0 failed, 0 skipped" in text


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """The namespace of docs/tables.py, with a list of ports in another folder."""
    names = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    for path in (ROOT / "docs" / "results" / "ports").glob("*.json"):
        shutil.copy(path, tmp_path)
    monkeypatch.setitem(names["reports"].__globals__, "PORTS", tmp_path)
    return names


def test_a_report_from_the_network_is_fetched_once_and_shown_as_text(tables, tmp_path, monkeypatch):
    header = json.loads((tmp_path / "c.json").read_text())
    header["port"] |= {"version": "[1](x)|<b>", "language": "Zig\n\n# 0.14"}
    whole = json.dumps(header).encode() + b"\n" + b'{"type": "case"}\n'
    asked = []
    fetch = lambda address, timeout: asked.append(address) or io.BytesIO(whole)  # noqa: E731
    monkeypatch.setitem(tables["header_of"].__globals__, "urlopen", fetch)
    (tmp_path / "list.csv").write_text("port,report,contact\nMy Zig,https://example.org/report.jsonl,me\n")
    (_, _, line), *_ = ([*tables["ports"]().splitlines()] for _ in range(2))
    assert line.startswith("| My Zig | 1(x)b | Zig 0.14 | 1.0-r1 |")
    assert tables["profiles"]().splitlines()[0] == "| profile | My Zig |"
    assert asked == ["https://example.org/report.jsonl"]
    assert json.loads((tmp_path / "my-zig.json").read_text()) == header


@pytest.mark.parametrize("content", ["", "[]", '{"type": "footer"}', "<html>"])
def test_a_port_without_a_report_is_named(tables, tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    (tmp_path / "list.csv").write_text("port,report,contact\nMine,x.json,me@example.org\n")
    with pytest.raises(SystemExit, match=r"x.json of Mine \(me@example.org\) does not begin with the header"):
        tables["ports"]()


def test_a_port_that_passes_some_profiles_shows_which(tables, tmp_path):
    header = json.loads((tmp_path / "c.json").read_text())
    header["verdict"] |= {"conformant": False, "badge": "not conformant", "claimable": ["core"]}
    header["verdict"]["classes"] = {"core": ["fp32"]}
    (tmp_path / "c.json").write_text(json.dumps(header))
    (tmp_path / "list.csv").write_text("port,report,contact\nC,c.json,me\n")
    assert "| not conformant | me |" in tables["ports"]()
    assert tables["profiles"]().splitlines()[2:] == [
        "| `core` | fp32 |",
        "| `kernels` | not passed |",
        "| `ckpt-read` | not passed |",
    ]
