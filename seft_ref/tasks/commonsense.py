"""Reads the commonsense sets in instruction form: splits an item into question and choices, then makes its prompt
(TSK-005, TSK-006).

An item of the file looks like this, with another word for "Answer" in some sets:

    Please choose the correct answer to the question: QUESTION

    Answer1: CHOICE Answer2: CHOICE

    Answer format: answer1/answer2
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seft_ref.tasks.files import Record, malformed, read_json, text_of
from seft_ref.tasks.item import Choices


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its choices, and the number of the right one."""

    question: str
    choices: tuple[str, ...]
    gold: int


Format = Callable[[Asked], Choices]
"""A function that makes the prompts and continuations of a task from a question and its choices."""

_FORM = re.compile(r"\s*Answer format: (?P<labels>\w+(?:/\w+)+)\s*\Z")
_TRUE_FALSE = "Please answer the following question with true or false, question: "


def behind(template: str) -> Format:
    """Return the format that puts the question into a template, and a space and a choice behind it."""

    def formatted(item: Asked) -> Choices:
        context = template.format(question=item.question)
        n = len(item.choices)
        return Choices((context,) * n, tuple(f" {c}" for c in item.choices), item.choices, item.gold)

    return formatted


def fill_in(item: Asked) -> Choices:
    """Return the choices of WinoGrande: the text behind the blank is scored after each way to fill the blank.

    Raises:
        ValueError: if the sentence has no blank "_", or nothing behind it.
    """
    before, blank, after = item.question.partition("_")
    if not blank or not after.strip():
        raise ValueError("has no blank _ with words behind it")
    filled = tuple(before + choice for choice in item.choices)
    return Choices(filled, (f" {after.strip()}",) * len(filled), filled, item.gold)


def read_instructions(file: Path, formatted: Format, label: str) -> list[Choices]:
    """Return the items of a file in instruction form (TSK-006).

    label   the word in front of each choice, such as Answer; empty for questions of true or false
    Raises  TaskError TSK-006 for a file or item that is not in that form
    """
    items = []
    for number, record in enumerate(read_json(file), start=1):
        try:
            items.append(formatted(_asked(record, label, file, number)))
        except ValueError as error:
            raise malformed(file, number, str(error)) from error
    return items


def _asked(record: Record, label: str, file: Path, number: int) -> Asked:
    """Return the question of a record.

    Raises:
        ValueError: if the instruction has another form; TaskError: TSK-006 if a key is missing.
    """
    instruction = text_of(record, "instruction", file, number)
    answer = text_of(record, "answer", file, number)
    form = _FORM.search(instruction)
    if form is None:
        raise ValueError("does not end with its answer format, such as Answer format: answer1/answer2")
    labels = form["labels"].split("/")
    if answer not in labels:
        raise ValueError(f"has the answer {answer!r}, which is none of {', '.join(labels)}")
    text = instruction[: form.start()]
    if not label:
        return _true_or_false(text, labels, answer)
    if labels != [f"{label.lower()}{i}" for i in range(1, len(labels) + 1)]:
        raise ValueError(f"has the answers {', '.join(labels)}; they must be {label.lower()}1, {label.lower()}2, ...")
    return Asked(*_split(text, label, len(labels)), labels.index(answer))


def _true_or_false(text: str, labels: list[str], answer: str) -> Asked:
    question = text.removeprefix(_TRUE_FALSE).strip()
    if labels != ["true", "false"] or question == text or not question:
        raise ValueError("is no question of true or false")
    return Asked(question, ("no", "yes"), int(answer == "true"))


def _split(text: str, label: str, n: int) -> tuple[str, tuple[str, ...]]:
    """Return the question and the choices of an instruction without its answer format.

    The marks of choices must occur once each and in order, else the split would be a guess.
    """
    marks = [f"{label}{i}:" for i in range(1, n + 1)]
    _, colon, rest = text.partition(": ")
    pieces = re.split(rf"\s+({label}\d+:)(?=\s)", rest)
    if not colon or pieces[1::2] != marks:
        raise ValueError(f"must have {' '.join(marks)} once each and in this order")
    question, *choices = (piece.strip() for piece in pieces[::2])
    if not question or not all(choices):
        raise ValueError("has an empty question or choice")
    return question, tuple(choices)
