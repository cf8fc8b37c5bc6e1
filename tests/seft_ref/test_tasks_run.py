"""Evaluations on tasks: from folders, with limits and shots, stopped and gone on with (TSK-003, TSK-011, TSK-012)."""

import json
from dataclasses import replace

import pytest

import seft_ref
from seft_ref.errors import TaskError
from seft_ref.kernels import reference
from seft_ref.runs import tasks as tasks_module
from seft_ref.runs.tasks import evaluate_tasks
from seft_ref.runs.tasks_log import ItemResult
from seft_ref.tasks.table import TASKS, load_items
from seft_ref.text.score import pair_of, score_pairs
from tests.seft_ref.folders import CONFIG, hf_folder, sparse_folder
from tests.seft_ref.task_files import choices_of, data_folder, write

SOME = ("arc_easy", "mmlu_redux", "gsm8k", "svamp")
SHORT = {"max_tokens": 5, "batch": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data"), 5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sparse_folder(tmp_path_factory.mktemp("model") / "m", CONFIG | {"max_position_embeddings": 256})


def refused(call):
    with pytest.raises(TaskError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_task_gives_the_scores_of_its_items_one_by_one(model, data):
    found = evaluate_tasks(model, [*TASKS], data, **SHORT)
    assert [(result.task, result.items) for result in found.tasks] == [
        (name, 15 if name == "mmlu_redux" else 5) for name in TASKS
    ]
    loaded = seft_ref.load_model(model, reference)
    tokenizer = seft_ref.read_tokenizer(model)
    for task in TASKS.values():
        results = {result.item: result for result in found.items if result.task == task.name}
        items = load_items(task, data).items
        assert [*results] == [*items]
        for number, item in items.items():
            result = results[number]
            if task.filters is not None:
                text = "".join(seft_ref.generate(model, item.prompt, max_tokens=5, sampling=seft_ref.Sampling()))
                assert (result.text, result.gold, result.nats) == (text, item.answer, None)
                continue
            wanted = [
                score_pairs([pair_of(context, continuation, tokenizer)], loaded.weights, loaded.config, reference)[0]
                for context, continuation in zip(item.contexts, item.continuations, strict=True)
            ]
            assert result.nats == pytest.approx([score.nats for score in wanted], rel=1e-5)
            assert result.greedy == tuple(score.greedy for score in wanted)
            best = max(range(len(wanted)), key=lambda i: wanted[i].nats)
            assert (result.gold, result.scores["acc"]) == (item.gold, float(best == item.gold))
        of_task = next(result for result in found.tasks if result.task == task.name)
        for metric, value in of_task.scores.items():
            assert value == sum(result.scores[metric] for result in results.values()) / len(results)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_TSK_001_the_batch_does_not_matter(model, data, batch):
    names = ("arc_easy", "winogrande", "gsm8k")
    wanted = evaluate_tasks(model, names, data, batch=3, max_tokens=5)
    again = evaluate_tasks(model, names, data, batch=batch, max_tokens=5)
    for one, other in zip(wanted.items, again.items, strict=True):
        assert one.text == other.text
        assert one.nats == (None if other.nats is None else pytest.approx(other.nats, rel=1e-5))


def test_a_limit_takes_the_first_items_and_a_name_counts_once(model, data):
    seen = []
    found = evaluate_tasks(model, ("piqa", "piqa"), data, limit=3, on_item=lambda *at: seen.append(at[:2]))
    assert [result.item for result in found.items] == [0, 1, 2]
    assert seen == [(done, 3) for done in range(4)]
    loaded = seft_ref.load_model(model, reference)
    again = evaluate_tasks(loaded, ["piqa"], data, kernels=reference, limit=3)
    assert [one.nats for one in again.items] == [pytest.approx(one.nats, rel=1e-5) for one in found.items]
    alone = evaluate_tasks(model, ["piqa"], data, limit=1).tasks[0]
    assert alone.errors == {"acc": None, "acc_norm": None}


def mixed(z):
    """The mix of RNG-001.2."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def sampled(numbers, n, seed):
    """The items of TSK-014 in a loop."""
    gamma, key = 0x9E3779B97F4A7C15, 0
    for word in (seed, 9):
        key = mixed((key + gamma) % 2**64 ^ word)
    by_draw = sorted((mixed((key + (i + 1) * gamma) % 2**64), i) for i in numbers)
    return sorted(i for _, i in by_draw[:n])


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_TSK_014_a_sample_has_the_items_with_the_smallest_draws(model, data, seed):
    names = ("mmlu_redux", "piqa", "gsm8k")
    found = evaluate_tasks(model, names, data, sample=7, seed=seed, **SHORT)
    of_all = {(one.task, one.item): one for one in evaluate_tasks(model, names, data, **SHORT).items}
    for name in names:
        mine = [one for one in found.items if one.task == name]
        assert [one.item for one in mine] == sampled(range(15 if name == "mmlu_redux" else 5), 7, seed)
        for one in mine:
            assert one.nats is None or one.nats == pytest.approx(of_all[name, one.item].nats, rel=1e-5)
            assert one.text == of_all[name, one.item].text
    # the limit takes one subject, and the sample takes several
    assert len({one.part for one in evaluate_tasks(model, names[:1], data, limit=5).items}) == 1
    assert len({one.part for one in found.items if one.task == "mmlu_redux"}) == 3


def test_TSK_014_items_that_are_left_out_are_in_no_sample(model, tmp_path):
    folder = tmp_path / "commonsense" / "openbookqa"
    write(folder / "test.json", choices_of("Answer", 4, 12))
    write(folder / "train.json", choices_of("Answer", 4, 5, 2))
    found = evaluate_tasks(model, ["openbookqa"], tmp_path, sample=4, seed=3, skip_trained=True)
    assert [one.item for one in found.items] == sampled([0, 1, *range(7, 12)], 4, 3)


def test_TSK_014_a_log_names_the_sample_and_its_seed(model, data, tmp_path):
    log = tmp_path / "log"
    wanted = evaluate_tasks(model, ["mmlu_redux"], data, sample=4, seed=1, log=log)
    header = json.loads(log.read_bytes().splitlines()[0])
    assert (header["sample"], header["seed"]) == (4, 1)
    assert evaluate_tasks(model, ["mmlu_redux"], data, sample=4, seed=1, log=log) == wanted
    for change, why in (
        ({"sample": 4, "seed": 2}, "seed: 1, now 2;"),
        ({"sample": 5, "seed": 1}, "sample: 4, now 5;"),
        ({}, "sample: 4, now None;"),
    ):
        message = refused(lambda change=change: evaluate_tasks(model, ["mmlu_redux"], data, log=log, **change))
        assert f"was written with other {why}" in message


def test_TSK_011_a_log_from_before_samples_goes_on(model, data, whole, tmp_path):
    header, *lines = whole[1].splitlines(keepends=True)
    older = {key: value for key, value in json.loads(header).items() if key not in ("sample", "seed")}
    log = write(tmp_path / "log", b"".join([(json.dumps(older) + "\n").encode(), *lines[:9]]))
    assert evaluate_tasks(model, SOME, data, log=log, **SHORT) == whole[0]


def test_TSK_007_what_is_left_out_is_reported(model, tmp_path):
    folder = tmp_path / "commonsense" / "openbookqa"
    write(folder / "test.json", choices_of("Answer", 4, 3))
    write(folder / "train.json", choices_of("Answer", 4, 1, 1))
    assert "TSK-007" in refused(lambda: evaluate_tasks(model, ["openbookqa"], tmp_path))
    remarks = []
    found = evaluate_tasks(model, ["openbookqa"], tmp_path, skip_trained=True, on_remark=remarks.append)
    assert remarks == ["openbookqa: 1 item stands in train.json too; it was left out"]
    assert [result.item for result in found.items] == [0, 2]


def test_TSK_002_an_error_names_the_item(model, data, monkeypatch):
    def refuse(*_):
        raise TaskError("TSK-002", "the continuation adds no token")

    monkeypatch.setattr(tasks_module, "pair_of", refuse)
    message = refused(lambda: evaluate_tasks(model, ["piqa"], data))
    assert message == "TSK-002: item 1 of piqa: the continuation adds no token"


def test_TSK_012_shots_stand_in_front(model, data, monkeypatch):
    contexts = []
    monkeypatch.setattr(tasks_module, "pair_of", lambda *a: contexts.append(a[0]) or pair_of(*a))
    evaluate_tasks(model, ["arc_easy"], data, shots=2, limit=1)
    loaded = load_items(TASKS["arc_easy"], data)
    shots = [item.contexts[item.gold] + item.continuations[item.gold] for item in loaded.training[:2]]
    assert contexts == ["\n\n".join([*shots, context]) for context in loaded.items[0].contexts]
    assert "TSK-012: 4 shots" in refused(lambda: evaluate_tasks(model, ["arc_easy"], data, shots=4))
    assert "TSK-012: 1 shots" in refused(lambda: evaluate_tasks(model, ["piqa"], data, shots=1))


def test_TSK_003_what_the_model_cannot_read_is_refused_before_anything_is_written(data, tmp_path):
    model = hf_folder(tmp_path / "m", CONFIG | {"max_position_embeddings": 40})
    log = tmp_path / "log"
    message = refused(lambda: evaluate_tasks(model, ["boolq", "arc_easy"], data, log=log))
    assert message.startswith("TSK-003: item 2 of boolq has 41 tokens")
    assert "max_position_embeddings of the model is 40" in message
    message = refused(lambda: evaluate_tasks(model, ["gsm8k"], data, log=log))
    assert message.startswith("TSK-003: item 1 of gsm8k has ")
    assert not log.exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"sample": 0}, "TSK-014: sample is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"limit": 2, "sample": 2}, "TSK-014: limit takes the first items"),
    ],
)
def test_TSK_005_numbers_that_make_no_sense_are_refused(model, data, options, why):
    assert why in refused(lambda: evaluate_tasks(model, ["piqa"], data, **options))
    assert "no task to score" in refused(lambda: evaluate_tasks(model, [], data))


class Stopped(Exception):
    """Raised in the middle of an evaluation."""


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):
    """An evaluation that was never stopped, and its log."""
    log = tmp_path_factory.mktemp("log") / "log"
    return evaluate_tasks(model, SOME, data, log=log, **SHORT), log.read_bytes()


@pytest.mark.parametrize("after", [1, 4, 9, 22, 29])
def test_TSK_011_an_evaluation_that_was_stopped_goes_on(model, data, whole, tmp_path, after):
    wanted, bytes_of_log = whole

    def stop(done, total, result):
        if done == after:
            raise Stopped

    log = tmp_path / "new" / "log"
    with pytest.raises(Stopped):
        evaluate_tasks(model, SOME, data, log=log, on_item=stop, **SHORT)
    assert 0 < len(log.read_bytes()) < len(bytes_of_log)
    seen = []
    assert evaluate_tasks(model, SOME, data, log=log, on_item=lambda *at: seen.append(at[0]), **SHORT) == wanted
    assert log.read_bytes() == bytes_of_log
    # items that the log had are not computed again
    assert after <= seen[0] <= after + 2
    assert seen == [*range(seen[0], 31)]


@pytest.mark.parametrize("cut", [1, 40, 300, 777, 1500, -1, -60])
def test_TSK_011_a_log_that_was_cut_anywhere_goes_on(model, data, whole, tmp_path, cut):
    wanted, bytes_of_log = whole
    log = write(tmp_path / "log", bytes_of_log[:cut])
    assert evaluate_tasks(model, SOME, data, log=log, **SHORT) == wanted
    assert log.read_bytes() == bytes_of_log


def test_TSK_011_a_finished_log_computes_nothing(model, data, whole, tmp_path, monkeypatch):
    log = write(tmp_path / "log", whole[1])
    monkeypatch.setattr(tasks_module, "_computed", lambda *a: pytest.fail("an item was computed again"))
    assert evaluate_tasks(model, SOME, data, log=log, **SHORT) == whole[0]


def test_TSK_011_a_log_of_something_else_is_refused_and_stays(model, data, whole, tmp_path):
    log = write(tmp_path / "log", whole[1])
    other_model = hf_folder(tmp_path / "other", CONFIG | {"max_position_embeddings": 256})
    other_data = data_folder(tmp_path / "data", 6)
    again = {"model": model, "tasks": SOME, "data": data, **SHORT}
    for change, why in (
        ({"model": other_model}, "was written with other model;"),
        ({"data": other_data}, "was written with other items;"),
        ({"limit": 2}, "was written with other items;"),
        ({"tasks": SOME[:2]}, "was written with other items;"),
        ({"batch": 2}, "was written with other batch: 3, now 2;"),
        ({"max_tokens": 6}, "was written with other max_tokens: 5, now 6;"),
        ({"dtype": "float64"}, "was written with other dtype: float32, now float64;"),
    ):
        message = refused(lambda change=change: evaluate_tasks(**(again | change), log=log))
        assert message.startswith(f"TSK-011: {log} {why}")
        assert message.endswith("name another file, or remove it to start anew")
    assert log.read_bytes() == whole[1]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda lines: [b"hello\n"], "is no log"),
        (lambda lines: [b"hello"], "is no log"),
        (lambda lines: [b'{"schema": "seft.run/1"}\n'], "is no log"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "in another order"),
        (lambda lines: [*lines, lines[-1]], "has more items"),
        (lambda lines: [lines[0], b"7\n", *lines[2:]], "no JSON object"),
        (lambda lines: [lines[0], b'{"task": "arc_easy"}\n', *lines[2:]], "damaged line"),
        (lambda lines: [lines[0], b"{\n", *lines[2:]], "damaged line"),
        (lambda lines: [lines[0], lines[1].replace(b'"acc"', b'"f1"'), *lines[2:]], "has other metrics of arc_easy"),
        (lambda lines: [lines[0], lines[1].replace(b'"acc": 0', b'"acc": 7'), *lines[2:]], "not 0 or 1"),
    ],
)
def test_TSK_011_a_damaged_log_is_refused(model, data, whole, tmp_path, spoil, why):
    content = b"".join(spoil(whole[1].splitlines(keepends=True)))
    log = write(tmp_path / "log", content)
    message = refused(lambda: evaluate_tasks(model, SOME, data, log=log, **SHORT))
    assert why in message
    assert log.read_bytes() == content


def test_TSK_011_each_line_of_a_log_says_what_an_item_gave(whole):
    header, *lines = [json.loads(line) for line in whole[1].splitlines()]
    assert header["schema"] == "seft.eval-log/1"
    by_key = {(result.task, result.item): result for result in whole[0].items}
    for line in lines:
        assert line == json.loads(json.dumps(by_key[line["task"], line["item"]].as_json()))
    assert {(line["task"], line["item"]) for line in lines} == set(by_key)
    # no block has items of two subjects, because lm-eval has a task for each
    parts = [line["part"] for line in lines if line["task"] == "mmlu_redux"]
    assert parts == [part for part in ("anatomy", "virology", "world_religions") for _ in range(5)]
    one = ItemResult("gsm8k", 3, "", "5", {"strict_match": 0.0}, text="")
    assert one.as_json() == {"task": "gsm8k", "item": 3, "gold": "5", "scores": {"strict_match": 0.0}, "text": ""}
    assert replace(one, part="law").as_json()["part"] == "law"
