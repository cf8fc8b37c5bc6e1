"""Experiments on methods: time and memory, N:M patterns, examples and tasks."""

import json
from dataclasses import replace

import numpy as np
import pytest

import formats
from experiments.table import EXPERIMENTS, Row
from seft_ref import prune
from tests.experiments.helpers import one_line, part, runs_in
from tests.seft_ref.folders import hf_folder
from tests.seft_ref.task_files import data_folder


def test_cost_tells_multiples_of_the_first_arm(cli, tmp_path, monkeypatch):
    table = part("table")
    rows = (Row("seft", "seft"), Row("lora", "lora"), Row("sparse-peft", "sparse-peft"))
    monkeypatch.setitem(EXPERIMENTS, "cost", replace(EXPERIMENTS["cost"], rows=rows))
    for arm in ("lora", "sparse-peft"):
        monkeypatch.setitem(table.ARMS, arm, {**table.ARMS[arm], "rank": 2})
    assert cli("cost", seeds=3)[0] == 0
    report = part("page").Report.of("cost", EXPERIMENTS["cost"], (tmp_path / "out" / "cost.json").read_bytes())
    cost_page = part("cost_page")
    found = cost_page.multiples(report)
    assert [m.row.label for m in found] == ["lora", "sparse-peft"]
    for m in found:
        of = [
            np.median(report.runs[m.row.arm][seed]["seconds"]) / cost_page.seconds_a_step(report.runs["seft"][seed])
            for seed in range(3)
        ]
        assert m.seconds.mean == pytest.approx(np.prod(of) ** (1 / 3))
        assert 0.2 < m.memory.mean < 5
    page = (tmp_path / "out" / "cost.md").read_text()
    assert f"`lora` takes {found[0].seconds.mean:.2f} ± " in page
    assert "in perplexity" not in page
    assert cli("cost", "--redraw")[0] == 0
    assert (tmp_path / "out" / "cost.md").read_text() == page


def test_examples_are_trained_on_and_tasks_scored(cli, given, tmp_path, monkeypatch):
    lines = [json.dumps({"prompt": f"{i} and ", "completion": f"{i}."}) for i in range(9)]
    (given / "train.jsonl").write_text("\n".join(lines))
    (given / "held.jsonl").write_text(lines[3])
    data_folder(tmp_path / "data")
    monkeypatch.setitem(EXPERIMENTS, "commonsense", replace(EXPERIMENTS["two"], tasks=("boolq", "gsm8k")))
    files = ("--train", given / "train.jsonl", "--valid", given / "held.jsonl")
    code, _, err = cli("commonsense", *files)
    assert (code, "--data DIR" in err) == (2, True)
    code, _, err = cli("two", "--train", given / "train.jsonl")
    assert (code, "both texts, or both examples" in err) == (2, True)
    code, _, err = cli("two", "--limit", 3)
    assert (code, "--limit are for tasks" in err) == (2, True)
    tasks = ("--tasks", "boolq,arc_easy", "--data", tmp_path / "data", "--limit", 2)
    code, _, err = cli("commonsense", *files, *tasks)
    assert code == 0, err
    runs = runs_in(tmp_path / "work")
    assert all(set(run["scores"]) == {"boolq", "arc_easy"} for run in runs)
    page = one_line((tmp_path / "out" / "commonsense.md").read_text())
    assert "| arm | `arc_easy` | `boolq` | mean | points |" in page
    assert "--tasks boolq,arc_easy --data data --limit 2" in page
    mean = np.mean([[100 * x for x in run["scores"].values()] for run in runs if run["arm"] == "seft"])
    assert f"| {mean:.1f}" in page
    # other items are other runs
    file = tmp_path / "data" / "commonsense" / "boolq" / "test.json"
    whole = file.read_text()
    file.write_text(json.dumps(json.loads(whole)[1:]))
    assert "0 in " in cli("commonsense", *files, *tasks, "--plan")[1]
    file.write_text(whole)
    assert "4 in " in cli("commonsense", *files, *tasks, "--plan")[1]
    # a quick run scores few items
    code, _, err = cli("commonsense", *files, *tasks[:4], "--quick", "--only-arm", "seft")
    assert code == 0, err
    assert {run["limit"] for run in runs_in(tmp_path / "work")} == {2, part("app").QUICK_ITEMS}
    # without tasks the runs are others, because what is measured is another
    assert "4 runs, 0 in " in cli("two", *files, "--plan")[1]


def test_nm_is_for_models_with_a_pattern(cli, given, tmp_path, monkeypatch):
    code, _, err = cli("nm")
    assert (code, "needs a model with an N:M pattern" in err) == (2, True)
    dense = hf_folder(tmp_path / "dense")
    prune(dense, tmp_path / "pruned", "magnitude", pattern="2:4")
    formats.convert(tmp_path / "pruned", tmp_path / "nm", "sparse")
    table = part("table")
    rows = tuple(row for row in EXPERIMENTS["nm"].rows if row.label in ("static", "seft in groups", "spp"))
    monkeypatch.setitem(EXPERIMENTS, "nm", replace(EXPERIMENTS["nm"], rows=rows))
    for arm in ("static-rank", "seft-groups-rank", "spp"):
        monkeypatch.setitem(table.ARMS, arm, {**table.ARMS[arm], "rank": 1})
    monkeypatch.setitem(table.ARMS, "spp", {**table.ARMS["spp"], "bands": 4})
    code, _, err = cli("nm", folder=tmp_path / "nm", seeds=1)
    assert code == 0, err
    for run in runs_in(tmp_path / "work"):
        assert run["support_final"] == run["stored"]
        if run["arm"] != "spp":
            assert run["settings"]["pattern"] == [2, 4]
    assert "set pattern" not in (tmp_path / "out" / "nm.md").read_text()
