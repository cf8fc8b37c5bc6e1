"""Questions that the model answers in its own words: GSM8K, and word problems in instruction form (TSK-006)."""

import re
from pathlib import Path

from seft_ref.tasks.files import malformed, read_json, read_json_lines, text_of
from seft_ref.tasks.item import Question

PROMPT = "Question: {question}\nAnswer:"
_FINAL = re.compile(r"#### (-?[0-9.,]+)\s*\Z")


def read_gsm8k(file: Path) -> list[Question]:
    """Return the items of a file of GSM8K, whose worked answers end with #### and a number.

    Raises:
        TaskError: TSK-006 for a file or item that is not in that form.
    """
    items = []
    for number, record in enumerate(read_json_lines(file), start=1):
        question = text_of(record, "question", file, number)
        worked = text_of(record, "answer", file, number)
        final = _FINAL.search(worked)
        if final is None:
            raise malformed(file, number, "has an answer that does not end with #### and a number")
        items.append(Question(PROMPT.format(question=question), final[1], worked))
    return items


def read_problems(file: Path, answer_form: str) -> list[Question]:
    """Return the items of a file of word problems in instruction form.

    answer_form  the regular expression that every answer matches, for a number or a letter
    Raises       TaskError TSK-006 for a file or item that is not in that form
    """
    items = []
    for number, record in enumerate(read_json(file), start=1):
        question = text_of(record, "instruction", file, number).strip()
        answer = text_of(record, "answer", file, number).strip()
        if not re.fullmatch(answer_form, answer):
            raise malformed(file, number, f"has the answer {answer!r}, which is not of the form {answer_form}")
        worked = record.get("output")
        items.append(
            Question(PROMPT.format(question=question), answer, worked.strip() if isinstance(worked, str) else answer)
        )
    return items
