"""Where command lines write: places are looked at before any work is done, and folders that lead there are made.

Long commands say how far they are.
"""

import importlib
import re
import sys
import time

import pytest

from conformance.command import app as kit
from conformance.report import progress
from conformance.report.terminal import Terminal
from experiments import app
from seft_cli import console
from tests.seft_cli.calling import call
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder

WORKS = {
    "prune": "prune",
    "convert": "open_source",
    "eval": "evaluate",
    "finetune": "memory_of",
    "experiment": "read_inputs",
    "plot": "read_log",
}
"""What a command does first of what takes long."""
SHORT = ("--length", "8", "--batch", "2", "--density", "0.2")
EXPERIMENT = ("mask-ablation", "{sparse}", "--train", "{text}", "--valid", "{text}")
TUNED = ("finetune", "{sparse}", "{tmp}/out", "--text", "{text}", *SHORT)
PRUNED = ("prune", "{dense}", "{tmp}/out", "--method", "magnitude")
CASES = {
    "a model below a file": (("prune", "{dense}", "{text}/no/out", *PRUNED[3:]), "{text} is no folder"),
    "a link to nothing": (("prune", "{dense}", "{tmp}/link", *PRUNED[3:]), "{tmp}/link exists"),
    "a conversion below a file": (("convert", "{dense}", "{text}/out", "--to", "sparse"), "{text} is no folder"),
    "a tuned model below a file": (("finetune", "{sparse}", "{text}/out", *TUNED[3:]), "{text} is no folder"),
    "a log that is a folder": ((*TUNED, "--log", "{tmp}"), "{tmp} is a folder"),
    "a record that is a folder": ((*TUNED, "--json", "{tmp}"), "{tmp} is a folder"),
    "a log inside the model": ((*TUNED, "--log", "{tmp}/out/run.jsonl"), "lies in {tmp}/out, which is written last"),
    "a record in place of the model": ((*TUNED, "--json", "{tmp}/out"), "lies in {tmp}/out, which is written last"),
    "a log inside the base": ((*TUNED, "--log", "{sparse}/run.jsonl"), "lies in {sparse}, which is a model"),
    "a result inside the model": (
        ("eval", "{sparse}", "--text", "{text}", "--json", "{sparse}/x.json"),
        "lies in {sparse}, which is a model",
    ),
    "a result that is a folder": (("eval", "{sparse}", "--text", "{text}", "--json", "{tmp}"), "{tmp} is a folder"),
    "a result below a file": (("eval", "{sparse}", "--text", "{text}", "--json", "{text}/x"), "{text} is no folder"),
    "pages below a file": (("experiment", *EXPERIMENT, "--out", "{text}"), "{text} is no folder"),
    "results below a file": (("experiment", *EXPERIMENT, "--work", "{text}/work"), "{text} is no folder"),
    "a picture that is a folder": (("plot", "{text}", "{tmp}/folder.png"), "folder.png is a folder"),
}


@pytest.fixture
def given(tmp_path):
    """Models and a text, a link to nothing, and a folder named like a picture."""
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "folder.png").mkdir()
    found = {"dense": hf_folder(tmp_path / "dense"), "sparse": sparse_folder(tmp_path / "sparse")}
    return found | {"text": tmp_path / "text.txt", "tmp": tmp_path}


@pytest.fixture
def cli(monkeypatch, capsys, given):
    """`cli(words)` runs a command, or an experiment; returns (exit code, stdout, stderr)."""

    def run(words):
        name, *arguments = (word.format(**given) for word in words)
        if name != "experiment":
            return call(monkeypatch, capsys, name, *arguments)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as left:
            console.run(app.main)
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return run


@pytest.mark.parametrize("case", CASES)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(cli, given, monkeypatch, case):
    (tool, *_), said = CASES[case]

    def begun(*_, **__):
        pytest.fail("the work has begun")

    where = {"finetune": "seft_cli.memory", "experiment": "experiments.app"}.get(tool, f"seft_cli.commands.{tool}")
    monkeypatch.setattr(importlib.import_module(where), WORKS[tool], begun)
    before = sorted(given["tmp"].rglob("*"))
    code, _, err = cli(CASES[case][0])
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: ")
    assert said.format(**given) in err
    assert sorted(given["tmp"].rglob("*")) == before


@pytest.mark.parametrize("file", ["{tmp}", "{text}/x.json"])
@pytest.mark.parametrize("command", ["kernels", "generate", "growth", "step", "memory", "large", "sizes"])
def test_a_benchmark_is_refused_before_it_measures(given, monkeypatch, capsys, command, file):
    bench = importlib.import_module("benchmarks.app")
    more = (str(given["dense"]),) if command == "sizes" else ()
    monkeypatch.setattr(sys, "argv", ["bench.py", command, *more, "--json", file.format(**given)])
    with pytest.raises(SystemExit) as left:
        bench.console.run_app(bench.app)
    said = capsys.readouterr()
    assert (left.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "is a folder" in said.err or "is no folder" in said.err


def test_folders_that_lead_to_an_output_are_made(cli, given):
    at = given["tmp"] / "new"
    to = "{tmp}/new/%s"
    assert cli(("prune", "{dense}", to % "a/pruned", "--method", "magnitude"))[0] == 0
    assert cli(("convert", to % "a/pruned", to % "b/c/sparse", "--to", "sparse"))[0] == 0
    assert cli(("convert", "{dense}", to % "d/x.pt", "--to", "torch-csr"))[0] == 0
    tuned = ("finetune", to % "b/c/sparse", to % "e/tuned", "--text", "{text}", *SHORT, "--steps", "2")
    tuned += ("--log", to % "f/run.jsonl", "--json", to % "g/run.json")
    assert cli((*tuned, "--stop-after", "1"))[0] == 0
    assert (at / "e" / "tuned.state").is_file()
    assert cli((*tuned, "--resume"))[0] == 0
    evaluated = ("eval", to % "e/tuned", "--text", "{text}", "--length", "8", "--json", to % "h/eval.json")
    assert cli((*evaluated, "--windows", "2"))[0] == 0
    assert cli(("plot", to % "f/run.jsonl", to % "i/run.svg"))[0] == 0
    assert sorted(path.name for path in at.rglob("*") if path.parent.parent == at) == [
        *("c", "eval.json", "pruned", "run.json", "run.jsonl", "run.svg", "tuned", "x.pt")
    ]


def test_what_cannot_be_said_in_JSON_leaves_no_file(tmp_path):
    output = importlib.import_module("seft_cli.output")
    with pytest.raises(output.Refused, match="is not written"):
        output.write_json(tmp_path / "x.json", {"loss": float("nan")})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        output.write_json(tmp_path / "folder", {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_dangling_link_in_the_source_has_no_bytes(cli, given):
    (given["dense"] / "gone").symlink_to("nothing")
    code, out, err = cli(("convert", "{dense}", "{tmp}/converted", "--to", "sparse"))
    assert (code, "bytes, " in out) == (0, True), err


@pytest.fixture
def often(monkeypatch):
    """Lines of progress come a thousand times as often."""
    monkeypatch.setattr(progress, "FIRST", progress.FIRST / 1000)
    monkeypatch.setattr(progress, "EVERY", progress.EVERY / 1000)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        (
            "finetune {sparse} {tmp}/o --text {text} --length 8 --steps 40",
            r"fine-tuning: \d+ of 40(, loss \d\.\d{3})?, CLOCK",
        ),
        ("eval {sparse} --text {text} --length 8 --windows 300", r"evaluating: \d+ of 300, CLOCK"),
        ("prune {dense} {tmp}/o --method magnitude --dtype float64", r"pruning: \d+( of 14, .*)?, CLOCK"),
    ],
    ids=lambda part: part.split()[0],
)
def test_a_long_command_without_a_terminal_says_how_far_it_is(cli, given, line, pattern):
    code, _, err = cli(line.format(**given).split())
    assert code == 0
    lines = [told for told in err.splitlines() if re.match(r"\w+(-\w+)?: ", told)]
    clock = r"0:00:\d\d elapsed(, 0:00:\d\d remaining)?"
    assert lines
    assert [told for told in lines if not re.fullmatch(pattern.replace("CLOCK", clock), told)] == []
    assert "\x1b" not in err
    assert "━" not in err


@pytest.mark.usefixtures("often")
def test_a_judgement_says_how_far_it_is(monkeypatch, capsys):
    words = ["--backend", "numpy", "--only", "count.*", "--only", "select.*", "--only", "rules.count*"]
    monkeypatch.setattr(sys, "argv", ["verify", *words, "--examples", "2"])
    assert kit.main() == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"judging: \d+( of \d+, .+)?, 0:00:\d\d elapsed.*", line)] == []


def test_the_time_that_remains_is_that_of_the_steps_of_this_process():
    pace = progress.Pace("x", 1000)
    pace.advance(done=900)  # another process did these
    assert pace.line() == "x: 900 of 1,000, 0:00:00 elapsed"
    time.sleep(0.1)
    pace.advance("loss 2", done=901)
    assert re.fullmatch(r"x: 901 of 1,000, loss 2, 0:00:00 elapsed, 0:00:1\d remaining", pace.line())
    pace.advance(done=1000)
    assert pace.line() == "x: 1,000 of 1,000, 0:00:00 elapsed"


def test_a_short_command_and_a_terminal_get_no_line(monkeypatch, capsys):
    with console.progress("converting", gone=True) as advance:
        advance("a", total=2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(console, "err", Terminal(stderr=True, force_terminal=True, width=100))
    with console.progress("pruning", 2) as advance:
        advance("a")
    assert "pruning ━" in re.sub(r"\x1b\[[\d;?]*\w", "", capsys.readouterr().err)
