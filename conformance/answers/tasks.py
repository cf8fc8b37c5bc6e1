"""Items of tasks, scores of continuations, metrics, answers and filters (chapter 18)."""

from typing import Any

from conformance.answers.answer import Inputs, answers, ids
from conformance.oracle import tasks, tasks_answers

__all__: list[str] = []


@answers("task.items")
def _items(a: Inputs) -> dict[str, Any]:
    files = {name: raw.tobytes() for name, raw in a["files"].items()}
    loaded = tasks.load(a["task"], files, skip_trained=bool(a["skip_trained"]))
    numbers = tasks.scored(loaded, a["limit"], a["sample"], a["seed"] or 0)
    front, items = tasks.shots(loaded, a["shots"] or 0), [loaded.items[number] for number in numbers]
    return {
        "numbers": ids(numbers),
        "contexts": [[front + context for context in item.contexts] for item in items],
        "continuations": [item.continuations for item in items],
        "choices": [item.choices for item in items],
        "right": [item.right for item in items],
        "metrics": tasks.metrics_of(a["task"]),
        "left_out": loaded.left_out,
        "marked_ok": loaded.marked_ok,
        "other_encoding": list(loaded.other_encoding),
    }


@answers("task.score")
def _score(a: Inputs) -> dict[str, Any]:
    pairs = zip(a["contexts"], a["continuations"], strict=True)
    scores = [tasks.score(a["config"], a["tensors"], before.tolist(), after.tolist()) for before, after in pairs]
    return {"scores": [nats for nats, *_ in scores], "greedy": ids(greedy for _, greedy, _ in scores)}


@answers("task.metrics")
def _metrics(a: Inputs) -> dict[str, Any]:
    items = [tasks.of_choices(*one) for one in zip(a["scores"], a["choices"], a["right"], strict=True)]
    metrics = {"acc": [first for first, _ in items], "acc_norm": [second for _, second in items]}
    totals = {name: tasks.mean_and_error(values) for name, values in metrics.items()}
    return {
        "metrics": {name: ids(values) for name, values in metrics.items()},
        "means": {name: mean for name, (mean, _) in totals.items()},
        "errors": {name: error for name, (_, error) in totals.items()},
    }


@answers("task.filter")
def _filter(a: Inputs) -> dict[str, Any]:
    tasks.folder_of(a["task"])
    taken = [tasks.taken(a["task"], text) for text in a["answers"]]
    right = list(zip(taken, a["right"], strict=True))
    names = ("strict_match", "flexible_extract")
    return {
        "taken": {name: [one[name] for one in taken] for name in names},
        "metrics": {name: ids(tasks.is_right(a["task"], one[name], answer) for one, answer in right) for name in names},
    }


@answers("task.answers")
def _answers(a: Inputs) -> dict[str, Any]:
    model, stops, most = (a["config"], a["tensors"], a["pieces"]), a["stops"], a["max_tokens"]
    most = tasks_answers.MOST if most is None else most
    return {"texts": [tasks_answers.answered(*model, prompt.tolist(), stops, most)[0] for prompt in a["prompts"]]}
