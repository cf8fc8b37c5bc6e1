"""tools/verify.py: what it prints, what it writes, and what its exit status says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import conformance
from conformance import command
from conformance.harness import Variant
from conformance.ports.engine import EnginePort

ROOT = Path(conformance.__file__).parents[1]


@pytest.fixture
def verify(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["verify.py", *arguments])
        status = command.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def broken(monkeypatch):
    port = EnginePort().with_ops("broken", select__largest=lambda a: {"chosen": a["ids"][: a["k"]]})
    monkeypatch.setattr(command, "variants_of_engine", lambda: [Variant(port, "float64")])


def test_the_tool_ends_with_its_counts():
    done = subprocess.run(
        [sys.executable, "tools/verify.py", "--only", "select.*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "32 passed, 0 failed, 0 skipped"
    assert done.stderr == ""


def test_a_glob_means_cases_and_clauses(verify):
    status, out, _ = verify("--only", "SEL-004")
    assert status == 0
    assert int(out.splitlines()[-1].split()[0]) > 5
    status, out, _ = verify("--only", "rng.key-*")
    assert (status, out.splitlines()[-1]) == (0, "3 passed, 0 failed, 0 skipped")


def test_a_failure_tells_everything(verify, broken, tmp_path):
    path = tmp_path / "out.json"
    status, out, _ = verify("--only", "select.largest-example", "--json", str(path))
    assert status == 1
    assert out.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"
    for part in (
        "FAILED select.largest-example (select.largest)",
        "catches: the example of chapter 7",
        "SEL-001 The k largest of scores with ids",
        "scores = [1., 3., 3., 2.]",
        "k = 2",
        "broken float64: chosen at [0] expected np.int64(7), got np.int64(5)",
    ):
        assert part in out, part
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert (whole["passed"], whole["failed"], whole["skipped"]) == (0, 1, 0)
    (case,) = whole["cases"]
    assert case["status"] == "failed"
    assert case["failures"][0]["output"] == "chosen"


def test_json_holds_every_clause(verify, tmp_path):
    path = tmp_path / "out.json"
    status, _, _ = verify("--only", "[CP][KR][NP]-001", "--json", str(path))
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert status == 0
    rows = {row["id"]: row for row in whole["clauses"]}
    assert rows["PRN-001"]["status"] == "passed"
    assert rows["CKP-001"]["status"] == "skipped"
    assert rows["CKP-001"]["reason"]


def test_list_runs_nothing(verify, monkeypatch):
    monkeypatch.setattr(command, "run", None)
    status, out, _ = verify("--list")
    assert status == 0
    assert "SEL-001 MUST" in out
    assert "select.largest-example  select.largest" in out
    assert "CKP-001 MUST  needs files: tests/" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "nothing*"], "--list"),
        (["--what"], "--help"),
        (["--json"], "--help"),
        (["--json", "no/such/folder/x.json"], "create it first"),
        (["extra"], "--help"),
    ],
)
def test_wrong_use_is_told_in_one_line(verify, arguments, says):
    status, out, err = verify(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_run_of_nothing_is_the_kits_fault(verify, monkeypatch):
    status, _, err = verify("--only", "CKP-001")
    assert (status, err.count("\n")) == (4, 1)
    monkeypatch.setattr(command, "load_all", list)
    assert verify()[0] == 4


def test_a_kit_that_cannot_be_read_says_so(verify, monkeypatch):
    def fail():
        raise ValueError("torn")

    monkeypatch.setattr(command, "load_all", fail)
    status, _, err = verify()
    assert status == 4
    assert "torn" in err


def test_a_clause_that_nothing_covers_fails(verify, monkeypatch):
    monkeypatch.setattr(command, "elsewhere", dict)
    status, out, _ = verify("--only", "*-005")
    assert status == 1
    assert "FAILED NUM-005" in out


def test_what_a_port_raises_is_a_failure_of_the_port(verify, monkeypatch):
    def fall(a):
        return {"draws": np.zeros(1)[5]}

    port = EnginePort().with_ops("falling", rng__draws=fall)
    monkeypatch.setattr(command, "variants_of_engine", lambda: [Variant(port, "float64")])
    status, out, _ = verify("--only", "rng.*")
    assert status == 1
    assert "IndexError" in out
    assert out.splitlines()[-1] == "0 passed, 4 failed, 0 skipped"
