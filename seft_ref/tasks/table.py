"""Every task by name: the folder of its files, the form of its prompt, its metrics (TSK-005).

task = task_named("arc_easy")
loaded = load_items(task, Path("data"))
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seft_ref.errors import TaskError
from seft_ref.tasks.arithmetic import read_gsm8k, read_problems
from seft_ref.tasks.commonsense import Format, behind, fill_in, read_instructions
from seft_ref.tasks.item import Item
from seft_ref.tasks.mmlu import read_subjects
from seft_ref.tasks.scores import GSM8K, LETTER, PROBLEM, Filter

Metric = Literal["acc", "acc_norm", "strict_match", "flexible_extract"]
_NUMBER = r"-?\d+(\.\d+)?"


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        name: the name of the task with this prompt in lm-eval, if it has one.
        folder: the folder of its files in the data folder.
        read: returns the items of a file, or of the folder where `split` is None, and remarks.
        main: the metric to report if only one can be.
        split: the file of the items to score; None if every file of the folder holds such items.
        filters: how an answer is extracted; None for a task with choices.
        numbers: compare answers as numbers, not as texts.
    """

    name: str
    folder: str
    read: Callable[[Path], tuple[list[Item], list[str]]]
    main: Metric
    split: str | None = "test.json"
    filters: Mapping[str, Filter] | None = None
    numbers: bool = False

    @property
    def train(self) -> str | None:
        """The file of training items, which are never scored; it may be absent."""
        return None if self.split is None else self.split.replace("test", "train")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The items of a task.

    Attributes:
        items: number in the file (counted from 0, for MMLU-Redux over all rows marked ok) to item.
        training: the items of the training file, empty if there is none.
        remarks: texts about items that were left out or files that were read in another way.
    """

    items: dict[int, Item]
    training: tuple[Item, ...]
    remarks: tuple[str, ...]


def _choices(name: str, folder: str, formatted: Format, label: str, main: Metric) -> Task:
    def read(file: Path) -> tuple[list[Item], list[str]]:
        return [*read_instructions(file, formatted, label)], []

    return Task(name, f"commonsense/{folder}", read, main)


def _problems(name: str, folder: str, answer_form: str, filters: Mapping[str, Filter], *, numbers: bool) -> Task:
    def read(file: Path) -> tuple[list[Item], list[str]]:
        return [*read_problems(file, answer_form)], []

    return Task(name, f"arithmetic/{folder}", read, "flexible_extract", filters=filters, numbers=numbers)


def _gsm8k(file: Path) -> tuple[list[Item], list[str]]:
    return [*read_gsm8k(file)], []


def _mmlu(folder: Path) -> tuple[list[Item], list[str]]:
    items, remarks = read_subjects(folder)
    return [*items], remarks


_ANSWER = behind("Question: {question}\nAnswer:")

TASKS = {
    task.name: task
    for task in (
        _choices("arc_easy", "ARC-Easy", _ANSWER, "Answer", "acc_norm"),
        _choices("arc_challenge", "ARC-Challenge", _ANSWER, "Answer", "acc_norm"),
        _choices("boolq", "boolq", _ANSWER, "", "acc"),
        _choices("openbookqa", "openbookqa", behind("{question}"), "Answer", "acc_norm"),
        _choices("piqa", "piqa", _ANSWER, "Solution", "acc_norm"),
        _choices("social_iqa", "social_i_qa", behind("Q: {question}\nA:"), "Answer", "acc"),
        _choices("winogrande", "winogrande", fill_in, "Option", "acc"),
        Task("mmlu_redux", "mmlu-redux", _mmlu, "acc", split=None),
        Task("gsm8k", "gsm8k", _gsm8k, "strict_match", split="test.jsonl", filters=GSM8K),
        _problems("addsub", "AddSub", _NUMBER, PROBLEM, numbers=True),
        _problems("multiarith", "MultiArith", _NUMBER, PROBLEM, numbers=True),
        _problems("singleeq", "SingleEq", _NUMBER, PROBLEM, numbers=True),
        _problems("svamp", "SVAMP", _NUMBER, PROBLEM, numbers=True),
        _problems("aqua", "AQuA", "[A-E]", LETTER, numbers=False),
    )
}
"""The tasks by name."""


def task_named(name: str) -> Task:
    """Return the task of a name.

    Raises:
        TaskError: TSK-005 for an unknown one.
    """
    # TSK-005
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, 1)
        advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(TASKS)}"
        raise TaskError("TSK-005", f"there is no task {name!r}; {advice}")
    return TASKS[name]


def metrics_of(task: Task) -> tuple[str, ...]:
    """Return the names of the metrics of a task."""
    return ("acc", "acc_norm") if task.filters is None else tuple(task.filters)


def load_items(task: Task, data: Path, *, skip_trained: bool = False) -> Loaded:
    """Return the items of a task from a data folder; an item that is also a training item is refused (TSK-007).

    skip_trained  leave out training items instead, with a remark
    Raises        TaskError TSK-006 for a folder, file or item that is missing or malformed, TSK-007, TSK-008
    """
    folder = data / task.folder
    if not folder.is_dir():
        raise TaskError(
            "TSK-006", f"there is no folder {folder}, which {task.name} needs; put its files there, or leave it out"
        )
    read, remarks = task.read(folder if task.split is None else folder / task.split)
    train = folder / task.train if task.train is not None else None
    training = tuple(task.read(train)[0]) if train is not None and train.is_file() else ()
    training_questions = {item.question() for item in training}
    trained = [number for number, item in enumerate(read) if item.question() in training_questions]
    # TSK-007
    if trained and not skip_trained:
        more = f" and {len(trained) - 1} more stand" if len(trained) > 1 else " stands"
        raise TaskError(
            "TSK-007",
            f"item {trained[0] + 1} of {folder / str(task.split)}{more} in {task.train} "
            "too, so a model may have been trained on it; leave such items out with --skip-trained, "
            "or take them out of one of the files",
        )
    if trained:
        one = len(trained) == 1
        which = "1 item stands" if one else f"{len(trained)} items stand"
        remarks.append(f"{which} in {task.train} too; {'it was' if one else 'they were'} left out")
    left_out = frozenset(trained)
    items = {number: item for number, item in enumerate(read) if number not in left_out}
    if not items:
        raise TaskError("TSK-007", f"every item of {folder} is also a training item; there is nothing to score")
    return Loaded(items, training, tuple(remarks))
