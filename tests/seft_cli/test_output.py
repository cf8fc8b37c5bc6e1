"""Where command lines write: places are looked at before any work is done, and folders that lead there are made."""

import importlib
import sys

import pytest

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
