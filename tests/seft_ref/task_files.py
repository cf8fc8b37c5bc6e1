"""A small data folder with every task, in the layout and the forms of the real one."""

import json
from pathlib import Path

WORDS = (
    *("bees", "make", "wax", "and", "honey", "while", "the", "old", "fox", "reads"),
    *("a", "map", "of", "the", "red", "hills", "near", "our", "quiet", "town"),
)
"""Words from which questions and choices are made, so that their lengths differ."""


def words(seed, n):
    """Return n words that the seed picks."""
    return " ".join(WORDS[(seed * 7 + i * i + i) % len(WORDS)] for i in range(n))


def instruction(word, question, choices, gold):
    """Return an item of a commonsense set with choices."""
    n = len(choices)
    named = " ".join(f"{word}{i}: {choice}" for i, choice in enumerate(choices, start=1))
    labels = "/".join(f"{word.lower()}{i}" for i in range(1, n + 1))
    text = f"Please choose the correct answer to the question: {question}\n\n{named}\n\nAnswer format: {labels}"
    answer = f"{word.lower()}{gold + 1}"
    return {"instruction": text, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


def choices_of(word, n_choices, n_items, first=0, question=lambda i: f"{words(i, 3 + i % 4)} {i}?"):
    """Return items with choices of different lengths; the right ones take turns."""
    return [
        instruction(word, question(i), [words(i + 3 * c, 1 + (i + c) % 4) for c in range(n_choices)], i % n_choices)
        for i in range(first, first + n_items)
    ]


def true_or_false(i):
    """Return an item of BoolQ."""
    question = f"Please answer the following question with true or false, question: {words(i, 4)} {i}?"
    answer = ("false", "true")[i % 2]
    return {"instruction": f"{question}\n\nAnswer format: true/false", "output": answer, "answer": answer}


def blank(i):
    """Return the sentence of an item of WinoGrande."""
    return f"{words(i, 3)} so _ {words(i + 1, 2)}."


def problem(i, answer):
    """Return an item of an arithmetic set."""
    return {"instruction": f" {words(i, 4)} {i} ? ", "output": f"\nA: so. The answer is {i}.", "answer": answer}


def worked(i):
    """Return an item of GSM8K."""
    return {"question": f"{words(i, 5)} {i}?", "answer": f"It is {i}.\n#### {i},000"}


def row(i, mark="ok", separator=","):
    """Return a row of MMLU-Redux; the question has the separator in it."""
    choices = str([words(i + c, 1 + c % 3) for c in range(4)])
    values = [f"{words(i, 4)}{separator} what?", choices, str(i % 4), mark]
    return separator.join('"' + value.replace('"', '""') + '"' for value in values)


def write(file, content):
    """Write bytes, or text as UTF-8, or anything else as JSON, and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    file.write_bytes(content)
    return file


def data_folder(folder: Path, items: int = 7) -> Path:
    """Write every task with so many items (three times as many for MMLU-Redux, in three subjects), and return it."""
    common = folder / "commonsense"
    for name, seed in (("ARC-Easy", 0), ("ARC-Challenge", 40), ("openbookqa", 80)):
        write(common / name / "test.json", choices_of("Answer", 4, items, seed))
        write(common / name / "train.json", choices_of("Answer", 4, 3, 500))
    write(common / "boolq" / "test.json", [true_or_false(i) for i in range(items)])
    write(common / "boolq" / "train.json", [true_or_false(i) for i in range(500, 503)])
    write(common / "social_i_qa" / "test.json", choices_of("Answer", 3, items, 120))
    write(common / "piqa" / "test.json", choices_of("Solution", 2, items, 160))
    write(common / "winogrande" / "test.json", choices_of("Option", 2, items, 200, blank))
    for name in ("AddSub", "MultiArith", "SingleEq", "SVAMP"):
        write(folder / "arithmetic" / name / "test.json", [problem(i, f"{i}.0") for i in range(items)])
    write(folder / "arithmetic" / "AQuA" / "test.json", [problem(i, "ABCDE"[i % 5]) for i in range(items)])
    write(folder / "gsm8k" / "test.jsonl", "".join(json.dumps(worked(i)) + "\n" for i in range(items)))
    write(folder / "gsm8k" / "train.jsonl", "".join(json.dumps(worked(i)) + "\n" for i in range(500, 503)))
    header = ("question", "choices", "answer", "error_type")
    for subject, separator, mark in (("anatomy", ",", "OK"), ("world_religions", ";", "ok "), ("virology", ",", "ok")):
        rows = [separator.join(header)] + [row(i, mark, separator) for i in range(items)]
        rows.append(row(99, "wrong groundtruth", separator))
        text = "\r\n".join(rows) + "\r\n"
        write(folder / "mmlu-redux" / f"mmlu_{subject}.csv", text)
    return folder
