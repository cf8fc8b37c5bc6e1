"""The action that judges a port, step by step as a runner of GitHub takes it, and the workflows of this repository."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import seft_ref
from conformance.command.export import ARCHIVE

ROOT = Path(seft_ref.__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
INSTALL, JUDGE, SHOW, UPLOAD = ACTION["runs"]["steps"]


def filled(text, inputs):
    """Return a text with the inputs of the action, or their defaults, in the place of its expressions."""
    defaults = {name: one.get("default") for name, one in ACTION["inputs"].items()}
    return re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: (defaults | inputs)[m[1]], text)


def taken(step, folder, /, **inputs):
    """Run the command of a step in a folder as a runner does; return the finished process."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "RUNNER_TEMP": str(folder / "temp"),
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(folder / "step-summary.md"),
        "OMP_NUM_THREADS": "1",
        **{name: filled(value, inputs) for name, value in step["env"].items()},
    }
    (folder / "script.sh").write_text(step["run"], encoding="utf-8")
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", folder / "script.sh"]
    return subprocess.run(
        command, cwd=folder / "workspace", env=environment, capture_output=True, text=True, check=False
    )


PYTHON = """#!/bin/bash
# python3 -m venv FOLDER links the programs of this environment; its pip writes down what it is asked to install
set -eu
case "$2" in
  venv) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; ln -s {bin}/seft "$3/bin/seft";;
  pip) printf '%s\\n' "${{@:3}}" > "$HOME/installed";;
esac
"""


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """A folder with a workspace, which has a port of two operations; the first step was taken, without the network."""
    folder = tmp_path_factory.mktemp("runner")
    shutil.copytree(ROOT / "conformance" / "templates" / "python", folder / "workspace")
    (folder / "workspace" / "count.txt").touch()  # a glob of the input `only` is not for the shell
    (folder / "python").write_text(PYTHON.format(bin=shlex.quote(str(Path(sys.executable).parent))))
    (folder / "python").chmod(0o755)
    done = taken(INSTALL, folder, python=str(folder / "python"))
    assert done.returncode == 0, done.stderr
    return folder


def test_the_action_installs_the_kit_with_what_its_properties_need(runner):
    # tests/wheel.py installs the kit for real
    assert (runner / "installed").read_text().splitlines() == ["install", "--quiet", str(ROOT), "hypothesis"]


def port_of():
    return f"{shlex.quote(sys.executable)} -m conformance.protocol.serve my_port:Port"


def test_the_action_judges_a_port_and_leaves_its_report_with_a_badge(runner):
    inputs = {"port": port_of(), "only": "select.largest count.*", "options": "--examples 2 --seed 1"}
    done = taken(JUDGE, runner, **inputs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* passed, 0 failed", done.stdout, re.MULTILINE)
    report = runner / "workspace" / filled(UPLOAD["with"]["path"], {})
    header = json.loads((report / "report.jsonl").read_text().split("\n")[0])
    assert (header["port"]["name"], header["seed"]) == ("my_port", "1")
    assert header["options"]["filtered"] == "--only select.largest --only count.*"
    assert json.loads((report / "badge.json").read_text())["message"] == "no claim"
    assert taken(SHOW, runner).returncode == 0
    assert (runner / "step-summary.md").read_text() == (report / "summary.md").read_text()


def test_the_action_fails_with_a_report_if_an_answer_is_wrong(runner):
    workspace = runner / "workspace"
    source = (workspace / "my_port.py").read_text(encoding="utf-8")
    (workspace / "wrong.py").write_text(source.replace("+ 2**-20", ""), encoding="utf-8")
    inputs = {"port": port_of().replace("my_port", "wrong"), "only": "count.drop", "report": "its report"}
    done = taken(JUDGE, runner, **inputs)
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads((workspace / "its report" / "badge.json").read_text())["message"] == "not conformant"


def test_the_action_fails_without_a_report_if_the_port_does_not_start(runner):
    done = taken(JUDGE, runner, port="./nothing", report="none", profile="core")
    assert (done.returncode, "did not start" in done.stderr) == (3, True)
    assert taken(SHOW, runner, report="none").returncode == 0


def test_inputs_reach_commands_as_variables_only():
    named = set()
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")  # what a user writes is no part of a script
        named |= set(re.findall(r"inputs\.(\w+)", json.dumps(step)))
    assert named == set(ACTION["inputs"])


def test_the_workflow_judges_each_of_our_ports_by_the_action():
    (judged,) = (step for step in WORKFLOW["jobs"]["ports"]["steps"] if step.get("uses") == "./")
    assert judged["with"].keys() <= ACTION["inputs"].keys()
    used = set(re.findall(r"matrix\.(\w+)", json.dumps(WORKFLOW["jobs"]["ports"]["steps"])))
    rows = WORKFLOW["jobs"]["ports"]["strategy"]["matrix"]["include"]
    for row in rows:
        assert row.keys() <= used, row
        served = re.search(r"serve ([\w.]+):(\w+)", row["port"])
        if served is not None:
            source = (ROOT / Path(*served[1].split("."))).with_suffix(".py").read_text(encoding="utf-8")
            assert re.search(rf"^(class|def) {served[2]}\b", source, re.MULTILINE), row
    judged_ports = {word for row in rows for word in re.findall(r"seft_ports[./](\w+)", row["port"])}
    assert judged_ports == {path.parent.name for path in (ROOT / "seft_ports").glob("*/port.*")}


def test_a_tag_is_released_with_the_archive_after_everything_else_passed():
    jobs = WORKFLOW["jobs"]
    release = jobs["release"]
    assert set(release["needs"]) == jobs.keys() - {"release"}
    commands = [step["run"] for step in release["steps"] if "run" in step]
    assert "seft verify export" in commands
    for pattern in re.findall(r"seft-vectors\S+", " ".join(commands)):
        assert Path(f"{ARCHIVE}.sha256").match(pattern)
