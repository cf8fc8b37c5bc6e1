"""`seft eval --tasks`: the table, the JSON file, and one line for each input that is refused."""

import json

import pytest

from seft_cli.commands import eval_tasks
from seft_ref.tasks.table import TASKS
from tests.seft_cli.test_json import assert_as_told, tables
from tests.seft_ref.folders import CONFIG, TEXT, hf_folder, sparse_folder
from tests.seft_ref.task_files import choices_of, data_folder, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data"), 5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sparse_folder(tmp_path_factory.mktemp("model") / "m", CONFIG | {"max_position_embeddings": 256})


def test_the_table_and_the_json_say_the_same(cli, model, data, tmp_path):
    of_all, of_task, of_item = tables("seft.eval-tasks/1")
    out = tmp_path / "new" / "eval.json"
    options = ("--limit", 4, "--max-tokens", 3, "--batch", 2, "--json", out)
    code, printed, remarks = cli("eval", model, "--tasks", "arc_easy, mmlu_redux,gsm8k", "--data", data, *options)
    assert code == 0
    assert "mmlu_redux: 15 of 18 rows are marked ok; the others were left out" in remarks
    told = json.loads(out.read_text())
    assert (told["schema"], told["limit"], told["shots"], told["batch"]) == ("seft.eval-tasks/1", 4, 0, 2)
    assert_as_told(told, of_all)
    assert len(told["items"]) == 12
    for item in told["items"]:
        kind = ("answers",) if item["task"] == "gsm8k" else ("choices",)
        assert_as_told(item, of_item, *kind, *(("parts",) if item["task"] == "mmlu_redux" else ()))
    rows = [line.split() for line in printed.splitlines()[1:-1]]
    for task in told["tasks"]:
        assert_as_told(task, of_task)
        for metric, value in task["scores"].items():
            mark = ["*"] if metric == task["main"] else []
            error = task["errors"][metric]
            assert [task["task"], str(task["items"]), *mark, metric, f"{value:.4f}", f"{error:.4f}"] in rows
    assert sum(len(task["scores"]) for task in told["tasks"]) == len(rows)
    assert printed.splitlines()[-1].startswith("12 items in ")


def test_TSK_014_a_sample_is_told_with_its_seed(cli, model, data, tmp_path):
    of_all = tables("seft.eval-tasks/1")[0]
    items = {}
    for seed in ((), ("--seed", 0), ("--seed", 5)):
        out = tmp_path / f"{len(items)}.json"
        options = ("--sample", 6, *seed, "--json", out)
        code, printed, _ = cli("eval", model, "--tasks", "mmlu_redux,piqa", "--data", data, *options)
        assert code == 0
        told = json.loads(out.read_text())
        assert_as_told(told, of_all)
        number = seed[1] if seed else 0
        assert (told["limit"], told["sample"], told["seed"]) == (None, 6, number)
        assert printed.splitlines()[-1].startswith(f"11 items, at most 6 of each task by seed {number}, in ")
        items[seed] = told["items"]
    assert items[()] == items["--seed", 0] != items["--seed", 5]


def test_a_log_is_gone_on_from(cli, model, data, tmp_path):
    log = tmp_path / "log.jsonl"
    command = ("eval", model, "--tasks", "piqa,boolq", "--data", data, "--log", log)
    code, first, _ = cli(*command)
    assert code == 0
    kept = log.read_bytes().splitlines(keepends=True)
    assert len(kept) == 11
    log.write_bytes(b"".join(kept[:8]))
    code, second, _ = cli(*command)
    assert (code, log.read_bytes()) == (0, b"".join(kept))
    assert second.splitlines()[:-1] == first.splitlines()[:-1]
    assert second.splitlines()[-1].endswith(f", 5 of them from {log}")


@pytest.mark.parametrize(("log", "advice"), [(True, "goes on from its log"), (False, "nothing is kept")])
def test_an_interrupted_evaluation_says_how_to_go_on(cli, model, data, tmp_path, monkeypatch, log, advice):
    def interrupt(*_, on_item, **__):
        on_item(0, 5, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(eval_tasks, "evaluate_tasks", interrupt)
    options = ("--log", tmp_path / "log") if log else ()
    code, printed, error = cli("eval", model, "--tasks", "piqa", "--data", data, *options)
    assert (code, printed) == (130, "")
    assert error.splitlines()[-1].startswith("interrupted; ")
    assert error.splitlines()[-1].endswith(advice)


def test_every_task_is_in_the_page_of_tasks():
    from tests.test_readme import ROOT

    page = (ROOT / "docs" / "how-to" / "score-tasks.md").read_text(encoding="utf-8")
    assert [name for name in TASKS if f"`{name}`" not in page] == []


TEXTS = {
    "neither text nor tasks": ((), "give either --text FILE"),
    "both": (("--text", "{text}", "--tasks", "piqa"), "give either --text FILE"),
    "no data": (("--tasks", "piqa"), "--tasks needs --data DIR"),
    "no such data": (("--tasks", "piqa", "--data", "{tmp}/absent"), "there is no data folder {tmp}/absent"),
    "a data folder without the task": (("--tasks", "piqa", "--data", "{tmp}"), "there is no folder {tmp}/commonsense"),
    "a task without a split": (("--tasks", "openbookqa", "--data", "{bad}"), "there is no test.json in {bad}"),
    "an unknown task": (("--tasks", "piqa,piqq", "--data", "{data}"), "there is no task 'piqq'; did you mean piqa?"),
    "no task": (("--tasks", ",", "--data", "{data}"), "there is no task to score"),
    "a malformed item": (("--tasks", "piqa", "--data", "{bad}"), "TSK-006: item 2 of {bad}"),
    "an item that is trained on": (("--tasks", "arc_easy", "--data", "{bad}"), "--skip-trained"),
    "a prompt beyond the positions": (
        ("--tasks", "arc_easy,gsm8k", "--data", "{data}"),
        "TSK-003: item 1 of gsm8k has",
    ),
    "an option of text": (("--tasks", "piqa", "--data", "{data}", "--length", "9"), "--tasks does not use --length"),
    "an option of tasks": (("--text", "{text}", "--limit", "9"), "--text does not use --limit"),
    "a limit and a sample": (
        ("--tasks", "piqa", "--data", "{data}", "--limit", "2", "--sample", "2"),
        "--limit takes the first items and --sample picks",
    ),
    "a seed without a sample": (("--tasks", "piqa", "--data", "{data}", "--seed", "2"), "give --sample too"),
    "a seed that is too large": (
        ("--tasks", "piqa", "--data", "{data}", "--sample", "2", "--seed", str(2**64)),
        "RNG-002",
    ),
    "a sample of a text": (("--text", "{text}", "--sample", "9"), "--text does not use --sample"),
    "a log in the place of a folder": (("--tasks", "piqa", "--data", "{data}", "--log", "{tmp}"), "{tmp}"),
    "a log in the model": (
        ("--tasks", "piqa", "--data", "{data}", "--log", "{model}/log"),
        "lies in {model}, which is",
    ),
    "tokens of choices": (("--tasks", "piqa", "--data", "{data}", "--max-tokens", "2"), "--max-tokens is for answers"),
    "a log that is none": (("--tasks", "piqa", "--data", "{data}", "--log", "{text}"), "TSK-011: {text} is no log"),
    "shots of a set without training items": (("--tasks", "piqa", "--data", "{data}", "--shots", "1"), "TSK-012"),
}


@pytest.mark.parametrize("what", TEXTS)
def test_what_is_refused_is_one_line_and_writes_nothing(cli, what, model, data, tmp_path):
    (tmp_path / "text").write_text(TEXT)
    good = choices_of("Solution", 2, 2)
    write(tmp_path / "bad" / "commonsense" / "piqa" / "test.json", [good[0], good[1] | {"answer": "3"}])
    (tmp_path / "bad" / "commonsense" / "openbookqa").mkdir()
    for name in ("test.json", "train.json"):
        write(tmp_path / "bad" / "commonsense" / "ARC-Easy" / name, choices_of("Answer", 4, 2))
    names = {"model": model, "tmp": tmp_path, "text": tmp_path / "text", "data": data, "bad": tmp_path / "bad"}
    options, why = TEXTS[what]
    before = sorted(tmp_path.rglob("*"))
    code, printed, error = cli(
        "eval", model, *(option.format(**names) for option in options), "--json", tmp_path / "out.json"
    )
    assert (code, printed) == (2, "")
    assert why.format(**names) in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_hugging_face_is_scored_too(cli, data, tmp_path):
    folder = hf_folder(tmp_path / "hf", CONFIG | {"max_position_embeddings": 128})
    code, printed, _ = cli("eval", folder, "--tasks", "winogrande", "--data", data, "--limit", 1)
    assert code == 0
    assert printed.splitlines()[1].split()[:4] == ["winogrande", "1", "*", "acc"]
