"""Reads MMLU-Redux: one CSV file a subject, in which reviewers have marked each row as ok or faulty (TSK-008)."""

import ast
from pathlib import Path

from seft_ref.errors import TaskError
from seft_ref.tasks.files import is_text, malformed, read_bytes, read_csv
from seft_ref.tasks.item import Choices

LETTERS = ("A", "B", "C", "D")
_COLUMNS = ("question", "choices", "answer", "error_type")


def read_subjects(folder: Path) -> tuple[list[Choices], list[str]]:
    """Return the items of all rows that are marked ok, and remarks on the other rows and on encodings.

    Raises:
        TaskError: TSK-006 if there is no file mmlu_SUBJECT.csv, TSK-008 for a row that is malformed.
    """
    files = sorted(folder.glob("mmlu_*.csv"))
    if not files:
        raise TaskError(
            "TSK-006", f"there is no mmlu_SUBJECT.csv in {folder}; put the files there, or leave the task out"
        )
    items: list[Choices] = []
    remarks: list[str] = []
    n_rows = 0
    for file in files:
        text, encoding = _decoded(read_bytes(file))
        # TSK-008
        if encoding != "utf-8":
            remarks.append(f"{file.name} is not UTF-8, so it was read as {encoding}")
        subject = file.stem.removeprefix("mmlu_")
        for number, row in enumerate(read_csv(file, text, _COLUMNS), start=1):
            n_rows += 1
            if row["error_type"].strip().lower() == "ok":
                items.append(_item(row, subject, file, number))
    remarks.append(f"{len(items)} of {n_rows} rows are marked ok; the others were left out")
    if not items:
        raise TaskError("TSK-006", f"no row in {folder} is marked ok; download the files again")
    return items, remarks


def _decoded(content: bytes) -> tuple[str, str]:
    """Return the text of a file and its encoding, ISO 8859-1 if it is not UTF-8."""
    try:
        return content.decode(), "utf-8"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "ISO 8859-1 (Latin-1)"


def _item(row: dict[str, str], subject: str, file: Path, number: int) -> Choices:
    question = row["question"].strip()
    try:
        choices = ast.literal_eval(row["choices"])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise malformed(file, number, "has choices that are no list of texts") from error
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or not all(map(is_text, choices)):
        raise malformed(file, number, f"must have a list of {len(LETTERS)} texts as choices")
    if row["answer"] not in ("0", "1", "2", "3") or not question:
        raise malformed(file, number, "must have a question, and an answer from 0 to 3")
    named = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    context = (
        f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        f"{question}\n{named}\nAnswer:"
    )
    n = len(LETTERS)
    return Choices((context,) * n, tuple(f" {letter}" for letter in LETTERS), LETTERS, int(row["answer"]), subject)
