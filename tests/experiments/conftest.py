"""What tests of experiments share: a pruned model, two texts, and the command line."""

import importlib
import json
import sys

import pytest

from experiments.table import EXPERIMENTS, Experiment, Row
from tests.experiments.helpers import EVALUATION, OPTIONS
from tests.seft_ref.folders import TEXT, sparse_folder


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A pruned model and two texts."""
    folder = tmp_path_factory.mktemp("given")
    model = sparse_folder(folder / "pruned")
    (model / "pruning.json").write_text(
        json.dumps({"method": "wanda", "sparsity": 0.6, "pattern": None, "removed": 6, "of": 10})
    )
    (folder / "train.txt").write_text(TEXT)
    (folder / "valid.txt").write_text(TEXT[::-1])
    return folder


@pytest.fixture
def cli(monkeypatch, capsys, given, tmp_path):
    """Run an experiment into tmp_path; return (exit code, stdout, stderr)."""
    tool = importlib.import_module("experiments.app")
    two = Experiment("Two arms", "One is random.", "Nothing.", (Row("seft", "seft"), Row("random", "seft-random")))
    monkeypatch.setitem(EXPERIMENTS, "two", two)

    def call(name, *arguments, folder=given / "pruned", seeds=2, options=OPTIONS):
        words = [name, folder, "--train", given / "train.txt", "--valid", given / "valid.txt", "--seeds", seeds]
        words += ["--out", tmp_path / "out", "--work", tmp_path / "work", *options, *EVALUATION, *arguments]
        monkeypatch.setattr(sys, "argv", ["experiment.py", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            tool.console.run(tool.main)
        said = capsys.readouterr()
        return left.value.code or 0, said.out, said.err

    return call
