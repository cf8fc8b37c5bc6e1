"""Mutants of tasks: items, scores, metrics and filters with another rule (TSK)."""

from dataclasses import replace
from typing import Any

from conformance.engine.parts import arithmetic, commonsense, mmlu, rng, task_runs, task_scores, task_table
from conformance.wrong.mutants.base import Mutant, Operation, Values, after, changed, ids, mutant, mutants, reset, right


def _each(out: Values, name: str, change: Any) -> Values:
    """Return an output of `task.items` with every text of every item changed."""
    return {name: [[change(text) for text in texts] for texts in out[name]]}


def _fills_alone(out: Values, a: Values) -> Values:
    """Count of WinoGrande the characters of what fills the blank."""
    if a["task"] != "winogrande":
        return {}
    starts = [len(texts[0]) - len(texts[0].lstrip()) for texts in out["choices"]]
    ends = [[text.split()[-1] for text in texts] for texts in out["choices"]]
    return {
        "choices": [texts if start else end for texts, start, end in zip(out["choices"], starts, ends, strict=True)]
    }


def _of_task(name: str, **changes: Any) -> dict[str, Any]:
    """Return the table of tasks with one entry changed."""
    return task_table.TASKS | {name: replace(task_table.TASKS[name], **changes)}


def _asked_by(template: str, name: str) -> dict[str, Any]:
    """Return the table of tasks with another prompt for one of them."""
    formatted = commonsense.behind(template)

    def read(file: Any) -> Any:
        return commonsense.read_instructions(file, formatted, "Answer"), []

    return _of_task(name, read=read)


def _renumbered(out: Values, _: Values) -> Values:
    """Number the items that are left from 0."""
    return {"numbers": ids(range(len(out["numbers"])))}


def _largest_draws(a: Values) -> Values:
    """Take the items that the engine's sample leaves out."""
    if a.get("sample") is None:
        return right("task.items")(a)
    whole = right("task.items")(a | {"sample": None})
    kept, numbers = right("task.items")(a)["numbers"].tolist(), whole["numbers"].tolist()
    rest = [i for i, number in enumerate(numbers) if number not in kept][: len(kept)]
    per_item = ("contexts", "continuations", "choices", "right")
    return (
        whole | {"numbers": ids(numbers[i] for i in rest)} | {name: [whole[name][i] for i in rest] for name in per_item}
    )


def _sampled_first(a: Values) -> Values:
    """Take the first items for a sample."""
    if a.get("sample") is None:
        return right("task.items")(a)
    right("task.items")(a)
    return right("task.items")(a | {"sample": None, "limit": a["sample"]})


def _alone(a: Values) -> Values:
    """Score a continuation without its context but for the last token."""
    right("task.score")(a)
    return right("task.score")(a | {"contexts": [context[-1:] for context in a["contexts"]]})


def _without_special_value(name: str) -> Operation:
    """Give 0 where a task of one item has no error."""

    def change(out: Values, _: Values) -> Values:
        return {"errors": {key: 0.0 if one is None else one for key, one in out["errors"].items()}}

    return after(name, change)


MUTANTS: list[Mutant] = [
    *mutants("task.items", unchecked="TSK-005 TSK-006 TSK-007 TSK-012 TSK-014"),
    *mutants("task.score", unchecked="TSK-001 TSK-003"),
    *mutants("task.filter", unchecked="TSK-005"),
    mutant("TSK-001", "task.score", _alone, "a context of one token"),
    mutant("TSK-004", "task.items", after("task.items", _fills_alone), "the characters of what fills the blank"),
    mutant("TSK-004", "task.metrics", _without_special_value("task.metrics"), "an error of 0 for one item"),
    mutant(
        "TSK-004",
        "task.metrics",
        after("task.metrics", lambda out, _: {"metrics": dict.fromkeys(out["metrics"], out["metrics"]["acc"])}),
        "acc for acc_norm",
    ),
    mutant(
        "TSK-005",
        "task.items",
        after("task.items", lambda out, _: {"metrics": sorted(out["metrics"])}),
        "metrics in alphabetical order",
    ),
    mutant(
        "TSK-005",
        "task.items",
        after("task.items", lambda out, _: _each(out, "continuations", str.strip)),
        "continuations without a space",
    ),
    mutant(
        "TSK-005",
        "task.items",
        after("task.items", lambda out, _: _each(out, "contexts", lambda text: text + " ")),
        "a space behind the prompt",
    ),
    reset(
        "TSK-005", "task.items", task_table, "Question for openbookqa",
        TASKS=_asked_by("Question: {question}\nAnswer:", "openbookqa"),
    ),
    reset(
        "TSK-005", "task.items", task_table, "the prompt of ARC for social_iqa",
        TASKS=_asked_by("Question: {question}\nAnswer:", "social_iqa"),
    ),
    reset("TSK-005", "task.items", task_table, "piqa in a folder of its name in upper case", TASKS=_of_task(
        "piqa", folder="commonsense/PIQA")),
    reset("TSK-005", "task.items", task_table, "acc first for arc_easy", TASKS=_of_task("arc_easy", main="acc")),
    reset("TSK-005", "task.items", arithmetic, "prompts of problems without Question", PROMPT="{question}\nAnswer:"),
    reset("TSK-005", "task.items", mmlu, "letters in lower case", LETTERS=("a", "b", "c", "d")),
    mutant("TSK-014", "task.items", after("task.items", _renumbered), "items that are left numbered anew"),
    mutant("TSK-014", "task.items", _largest_draws, "the items that a sample leaves out"),
    mutant("TSK-014", "task.items", _sampled_first, "the first items for a sample"),
    mutant("TSK-014", "task.items", changed("task.items", seed=lambda a: 0), "samples without a seed"),
    mutant("TSK-014", "task.items", changed("task.items", seed=lambda a: a.get("seed") or 1), "a seed of 1 by default"),
    reset("TSK-014", "task.items", task_runs, "the stream of examples", STREAM_ITEMS=rng.STREAM_EXAMPLES),
    mutant("TSK-012", "task.items", changed("task.items", shots=lambda a: 0), "no shots"),
    mutant(
        "TSK-007",
        "task.items",
        changed("task.items", skip_trained=lambda a: 1),
        "training items left out unasked",
    ),
    mutant("TSK-007", "task.items", after("task.items", lambda out, _: {"left_out": 0}), "items left out unreported"),
    mutant(
        "TSK-008",
        "task.items",
        after("task.items", lambda out, _: {"other_encoding": []}),
        "no report of another encoding",
    ),
    reset("TSK-010", "task.filter", task_scores, "numbers that are equal", TOLERANCE=0.0),
    reset("TSK-010", "task.filter", task_scores, "numbers 0.01 apart", TOLERANCE=1e-2),
    reset("TSK-010", "task.filter", task_scores, "an empty text without a match", INVALID=""),
    reset("TSK-010", "task.filter", task_table, "AQuA by its first letter", TASKS=_of_task("aqua", filters={
        name: replace(one, which=0) for name, one in task_scores.LETTER.items()})),
    reset("TSK-010", "task.filter", task_table, "SVAMP by texts", TASKS=_of_task("svamp", numbers=False)),
    reset("TSK-010", "task.filter", task_table, "GSM8K by numbers", TASKS=_of_task("gsm8k", numbers=True)),
    reset("TSK-010", "task.filter", task_table, "the marks of GSM8K for AddSub", TASKS=_of_task(
        "addsub", filters=task_scores.GSM8K)),
]  # fmt: skip
