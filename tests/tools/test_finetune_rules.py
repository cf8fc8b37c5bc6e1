"""finetune.py: every preset and choice from the command line, its log, and what it refuses."""

import importlib
import json
from pathlib import Path

import pytest

from seft_ref.update.presets import PRESETS
from tests.seft_ref.folders import TEXT, sparse_folder
from tests.tools.test_command_lines import call

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("folders")
    (tmp / "text.txt").write_text(TEXT)
    return {"text": tmp / "text.txt", "sparse": sparse_folder(tmp / "sparse")}


@pytest.fixture
def cli(monkeypatch, capsys):
    return lambda tool, *arguments: call(monkeypatch, capsys, tool, *arguments)


def read_log(path):
    return importlib.import_module("_log").read_log(path)


SHORT = ("--steps", "12", "--batch", "2", "--length", "8", "--evolve-every", "4", "--density", "0.2")


def run(cli, folders, out, *more):
    return cli("finetune", folders["sparse"], str(out), "--text", folders["text"], *more)


@pytest.mark.parametrize("preset", [*PRESETS])
def test_TRN_010_every_preset_runs_and_logs_what_it_did(cli, folders, tmp_path, preset):
    log = tmp_path / "run.jsonl"
    window = ("--gradient-window", "2") if preset.startswith("spiel") else ()
    code, _, err = run(cli, folders, tmp_path / "out", "--preset", preset, *SHORT, *window, "--log", str(log))
    assert code == 0, err
    seen = read_log(log)
    assert [step.step for step in seen.steps] == list(range(1, 13))
    assert seen.settings["preset"] == preset
    expected = {"static": []}.get(preset, [2, 6, 10] if preset.startswith("spiel") else [4, 8])
    assert [event.step for event in seen.events] == expected
    for line in log.read_text().splitlines():
        assert json.loads(json.dumps(json.loads(line), allow_nan=False)) == json.loads(line)
    denser = [w for w in seen.warnings if w.name == "denser-at-end"]
    assert bool(denser) == (seen.stored_at_end > seen.budget)
    if preset in ("seft", "literal", "unprotected", "active-only", "no-adapt", "magnitude", "rigl", "set", "static"):
        assert seen.stored_at_end <= seen.budget


def test_TRN_010_a_resumed_run_goes_on_with_its_log(cli, folders, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert run(cli, folders, tmp_path / "a", *SHORT, "--log", str(whole))[0] == 0
    assert run(cli, folders, tmp_path / "b", *SHORT, "--log", str(cut), "--stop-after", "5")[0] == 0
    with cut.open("a") as file:
        file.write('{"type":"step","st')  # a process that died while it wrote
    assert run(cli, folders, tmp_path / "b", *SHORT, "--log", str(cut), "--resume")[0] == 0
    a, b = read_log(whole), read_log(cut)
    assert [(s.step, s.loss, s.gradient_norm) for s in a.steps] == [(s.step, s.loss, s.gradient_norm) for s in b.steps]
    assert a.events == b.events
    assert a.stored_at_end == b.stored_at_end


def test_EVT_011_set_reaches_every_choice(cli, folders, tmp_path):
    log = tmp_path / "run.jsonl"
    wanted = {
        "grow": "curvature",
        "adapt": "activation",
        "drop": "change",
        "scope": "row",
        "evolve_until": 0.75,
        "optimizer": "sgd",
        "momentum": 0.5,
        "budget_by": "rank",
        "rank": 1,
        "regrow": False,
    }
    given = [part for key, value in wanted.items() for part in ("--set", f"{key}={str(value).lower()}")]
    code, _, err = run(cli, folders, tmp_path / "out", *SHORT[:-2], *given, "--log", str(log))
    assert code == 0, err
    settings = read_log(log).settings
    assert {key: settings[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--set", "grow=best"), "GROW-004"),
        (("--set", "grow=moments"), "EVT-012"),
        (("--set", "scope=group"), "EVT-012"),
        (("--set", "nonsense=1"), "there is no setting nonsense"),
        (("--set", "grow"), "write key=value"),
        (("--set", "regrow=maybe"), "true or false"),
        (("--set", "rank=2.5"), "whole number"),
        (("--set", "lr=0.1", "--lr", "0.1"), "given twice"),
        (("--set", "momentum=0.5"), "adamw has no setting momentum"),
        (("--preset", "spiel-ag", "--set", "adapts=always", "--gradient-window", "2"), "EVT-012"),
    ],
)
def test_EVT_012_contradictions_are_refused_in_one_line(cli, folders, tmp_path, given, said):
    code, _, err = run(cli, folders, tmp_path / "out", *SHORT, *given)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.state").exists()
