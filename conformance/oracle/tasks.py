"""Items of tasks, scores of continuations, filters and metrics in plain Python (TSK)."""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.oracle import select_rng
from conformance.oracle.model import Config, Decoder
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.tape import Array

_QUESTION = "Question: {}\nAnswer:"
FOLDERS = {
    "arc_easy": "commonsense/ARC-Easy",
    "arc_challenge": "commonsense/ARC-Challenge",
    "boolq": "commonsense/boolq",
    "openbookqa": "commonsense/openbookqa",
    "piqa": "commonsense/piqa",
    "social_iqa": "commonsense/social_i_qa",
    "winogrande": "commonsense/winogrande",
    "mmlu_redux": "mmlu-redux",
    "gsm8k": "gsm8k",
    "addsub": "arithmetic/AddSub",
    "multiarith": "arithmetic/MultiArith",
    "singleeq": "arithmetic/SingleEq",
    "svamp": "arithmetic/SVAMP",
    "aqua": "arithmetic/AQuA",
}
_PROMPTS = {"openbookqa": "{}", "social_iqa": "Q: {}\nA:"}
_WORDS = {"piqa": "Solution", "winogrande": "Option"}
_NORMED_FIRST = ("arc_easy", "arc_challenge", "openbookqa", "piqa")
_TRUE_FALSE = "Please answer the following question with true or false, question: "
_SUBJECT = (
    "The following are multiple choice questions (with answers) about {}.\n\n{}\nA. {}\nB. {}\nC. {}\nD. {}\nAnswer:"
)
_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
_FILTERS = {
    "gsm8k": (r"#### (-?[0-9.,]+)", _NUMBER),
    "aqua": (r"The answer is \(?([A-E])\b", r"\b([A-E])\b"),
}
INVALID = "[invalid]"


@dataclass(frozen=True)
class Item:
    """An item: what the model reads, what it may say, and what is right.

    Attributes:
        contexts: one text a choice; the prompt alone for a question.
        continuations: one text a choice; empty for a question.
        choices: the texts whose characters acc_norm counts; empty for a question.
        right: the number of the right choice, or the right answer.
        worked: what a shot has behind the prompt of a question.
    """

    contexts: list[str]
    continuations: list[str]
    choices: list[str]
    right: int | str
    worked: str = ""

    def same_as(self) -> list[str]:
        """Return a value that is equal for items that are the same (TSK-007)."""
        texts = zip(self.contexts, self.continuations or [""], strict=True)
        return sorted("\n".join(" ".join(text.split()) for text in pair) for pair in texts)

    def shot(self) -> str:
        """Return the item as a shot, without the line feeds (TSK-012)."""
        if isinstance(self.right, int):
            return self.contexts[self.right] + self.continuations[self.right]
        return f"{self.contexts[0]} {self.worked}"


@dataclass
class Loaded:
    """What the files of a task hold: items by number, training items, and what is reported."""

    items: dict[int, Item]
    training: list[Item]
    left_out: int = 0
    marked_ok: int | None = None
    other_encoding: tuple[str, ...] = ()


def _refuse(clause: str, why: object) -> RefusedError:
    return RefusedError(f"{clause}: {why}")


def folder_of(task: str) -> str:
    """Return the folder of a task (TSK-005)."""
    if task not in FOLDERS:
        raise _refuse("TSK-005", task)
    return FOLDERS[task]


def load(task: str, files: Mapping[str, bytes], *, skip_trained: bool) -> Loaded:
    """Return the items of a task from files by their path in the data folder (TSK-006, TSK-007, TSK-008)."""
    folder = folder_of(task)
    mine = {name.removeprefix(f"{folder}/"): raw for name, raw in files.items() if name.startswith(f"{folder}/")}
    if task == "mmlu_redux":
        return _subjects(mine)
    end = ".jsonl" if task == "gsm8k" else ".json"
    if "test" + end not in mine:
        raise _refuse("TSK-006", "no file")
    items = _items(task, mine["test" + end])
    training = _items(task, mine["train" + end]) if "train" + end in mine else []
    trained = [item.same_as() for item in training]
    kept = {number: item for number, item in enumerate(items) if item.same_as() not in trained}
    if len(kept) < len(items) and (not skip_trained or not kept):
        raise _refuse("TSK-007", "a training item")
    return Loaded(kept, training, len(items) - len(kept))


def _without_mark(raw: bytes) -> bytes:
    """Return a file without a byte order mark (TSK-006.3)."""
    return raw[3:] if raw[:3] == b"\xef\xbb\xbf" else raw


def _items(task: str, raw: bytes) -> list[Item]:
    """Return the items of a file, all of which have the form of the task (TSK-006)."""
    try:
        text = _without_mark(raw).decode("utf-8")
        records = [json.loads(line) for line in text.rstrip().split("\n")] if task == "gsm8k" else json.loads(text)
    except (UnicodeDecodeError, ValueError) as error:
        raise _refuse("TSK-006", error) from error
    if not isinstance(records, list) or not records or not all(isinstance(one, dict) for one in records):
        raise _refuse("TSK-006", "no items")
    return [_item(task, record) for record in records]


def _text(record: Mapping[str, Any], name: str) -> str:
    """Return a text of an item (TSK-006.4)."""
    text = record.get(name)
    if not isinstance(text, str) or not text.strip() or not _whole(text):
        raise _refuse("TSK-006", name)
    return text


def _whole(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _item(task: str, record: Mapping[str, Any]) -> Item:
    """Return an item of a JSON file (TSK-005, TSK-006.4)."""
    if task == "gsm8k":
        question, worked = _text(record, "question"), _text(record, "answer")
        final = worked.rstrip().rpartition("#### ")
        if not final[1] or not final[2].removeprefix("-") or set(final[2].removeprefix("-")) - set("0123456789.,"):
            raise _refuse("TSK-006", "the end of an answer")
        return Item([_QUESTION.format(question)], [], [], final[2], worked)
    instruction, answer = _text(record, "instruction"), _text(record, "answer")
    if task in _WORDS or task in _NORMED_FIRST or task in ("social_iqa", "boolq"):
        return _with_choices(task, *_cut(instruction, _WORDS.get(task, "Answer"), answer, two=task == "boolq"))
    answer = answer.strip()
    whole, stop, part = answer.removeprefix("-").partition(".")
    number = whole.isdecimal() and (part.isdecimal() or not stop)
    if answer not in tuple("ABCDE") if task == "aqua" else not number:
        raise _refuse("TSK-006", answer)
    output = record.get("output")
    worked = output.strip() if isinstance(output, str) else answer
    return Item([_QUESTION.format(instruction.strip())], [], [], answer, worked)


def _with_choices(task: str, question: str, choices: list[str], right: int) -> Item:
    """Return an item with its prompt (TSK-005)."""
    if not question or not all(choices):
        raise _refuse("TSK-006", "an empty question or choice")
    if task == "winogrande":
        before, blank, behind = question.partition("_")
        if not blank or not behind.strip():
            raise _refuse("TSK-006", "no blank")
        filled = [before + choice for choice in choices]
        return Item(filled, [" " + behind.strip()] * len(choices), filled, right)
    context = _PROMPTS.get(task, _QUESTION).format(question)
    return Item([context] * len(choices), [" " + choice for choice in choices], choices, right)


def _cut(instruction: str, word: str, answer: str, *, two: bool) -> tuple[str, list[str], int]:
    """Return question, choices and the number of the right one (TSK-006.2, TSK-006.5)."""
    front, opening, names = instruction.rstrip().rpartition("Answer format: ")
    labels = names.split("/")
    own = ["true", "false"] if two else [f"{word.lower()}{i}" for i in range(1, len(labels) + 1)]
    if not opening or len(labels) < 2 or labels != own or answer not in labels:
        raise _refuse("TSK-006", "an answer format")
    if two:
        if not front.startswith(_TRUE_FALSE):
            raise _refuse("TSK-006", "no question of true or false")
        return front.removeprefix(_TRUE_FALSE).strip(), ["no", "yes"], int(answer == "true")
    _, opened, rest = front.rstrip().partition(": ")
    # words at even places, the white space between them at odd ones
    parts, pieces, marks = re.split(r"(\s+)", rest), [""], []
    for i, part in enumerate(parts):
        number = part.removeprefix(word).removesuffix(":")
        if 0 < i < len(parts) - 1 and part == f"{word}{number}:" and number.isdecimal():
            marks.append(int(number))
            pieces.append("")
        else:
            pieces[-1] += part
    if not opened or marks != list(range(1, len(labels) + 1)):
        raise _refuse("TSK-006", "marks")
    question, *choices = (piece.strip() for piece in pieces)
    return question, choices, labels.index(answer)


def _subjects(files: Mapping[str, bytes]) -> Loaded:
    """Return the items of MMLU-Redux (TSK-008, TSK-014.2)."""
    names = sorted(n for n in files if n.startswith("mmlu_") and n.endswith(".csv") and "/" not in n)
    items: list[Item] = []
    others: list[str] = []
    for name in names:
        raw = _without_mark(files[name])
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("iso-8859-1")
            others.append(name)
        subject = name.removeprefix("mmlu_").removesuffix(".csv").replace("_", " ")
        items += [_of_row(row, subject) for row in _rows(text) if row["error_type"].strip().lower() == "ok"]
    if not items:
        raise _refuse("TSK-006", "no row is ok")
    return Loaded(dict(enumerate(items)), [], 0, len(items), tuple(others))


def _rows(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file by column (TSK-008.2)."""
    for separator in ",;":
        header, *rows = _values(text, separator)
        if {"question", "choices", "answer", "error_type"} <= set(header):
            break
    else:
        raise _refuse("TSK-006", "a column")
    while rows and len(rows[-1]) == 1 and not rows[-1][0].strip():
        rows.pop()
    if any(len(row) != len(header) for row in rows):
        raise _refuse("TSK-006", "a row")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _values(text: str, separator: str) -> list[list[str]]:
    """Return the values of each line; quotes around a value protect separators, line ends and doubled quotes."""
    rows: list[list[str]] = [[]]
    value, quoted, i = "", False, 0
    while i < len(text):
        c = text[i]
        if c == '"' and quoted and text[i + 1 : i + 2] == '"':
            value, i = value + '"', i + 1
        elif c == '"':
            quoted = not quoted
        elif quoted or c not in (separator, "\r", "\n"):
            value += c
        else:
            rows[-1].append(value)
            value = ""
            if c != separator:
                rows.append([])
                i += text[i : i + 2] == "\r\n"
        i += 1
    rows[-1].append(value)
    return rows


def _of_row(row: Mapping[str, str], subject: str) -> Item:
    """Return the item of a row of MMLU-Redux (TSK-005, TSK-006.4)."""
    try:
        choices = ast.literal_eval(row["choices"])
    except (ValueError, SyntaxError) as error:
        raise _refuse("TSK-006", error) from error
    texts = isinstance(choices, list) and all(isinstance(one, str) and _whole(one) for one in choices)
    if not texts or len(choices) != 4 or row["answer"] not in ("0", "1", "2", "3") or not row["question"].strip():
        raise _refuse("TSK-006", row)
    context, letters = _SUBJECT.format(subject, row["question"].strip(), *choices), list("ABCD")
    return Item([context] * 4, [f" {letter}" for letter in letters], letters, int(row["answer"]))


def scored(loaded: Loaded, limit: int | None, sample: int | None, seed: int) -> list[int]:
    """Return the numbers of the items that are scored (TSK-014)."""
    if sample is None:
        return list(loaded.items)[:limit]
    if sample < 1 or limit is not None:
        raise _refuse("TSK-014", sample)
    key = select_rng.key(seed, 9)
    return sorted(sorted(loaded.items, key=lambda i: (select_rng.draw(key, i), i))[:sample])


def shots(loaded: Loaded, n: int) -> str:
    """Return the text before every question (TSK-012)."""
    if n > len(loaded.training):
        raise _refuse("TSK-012", n)
    return "".join(f"{item.shot()}\n\n" for item in loaded.training[:n])


def metrics_of(task: str) -> list[str]:
    """Return the metrics of a task, the main one first (TSK-005)."""
    if task in _NORMED_FIRST:
        return ["acc_norm", "acc"]
    if task == "gsm8k":
        return ["strict_match", "flexible_extract"]
    asked = task in ("addsub", "multiarith", "singleeq", "svamp", "aqua")
    return ["flexible_extract", "strict_match"] if asked else ["acc", "acc_norm"]


def taken(task: str, text: str) -> dict[str, str]:
    """Return what the filters of a task take from a text (TSK-010)."""
    first, last = _FILTERS.get(task, (r"The answer is (-?[0-9.,]+).", _NUMBER))
    matches = {"strict_match": re.search(first, text), "flexible_extract": None}
    for match in re.finditer(last, text):
        matches["flexible_extract"] = match
    return {name: next(filter(None, match.groups()), INVALID) if match else INVALID for name, match in matches.items()}


def is_right(task: str, answer: str, right: str) -> bool:
    """Return whether the answer that a filter took is the right one (TSK-010.2)."""
    both = [text.replace(",", "").replace("$", "") for text in (answer, right)]
    bare = [text.rpartition("#### ")[2].removesuffix(".") for text in both]
    if task in ("gsm8k", "aqua"):
        return bare[0].lower() == bare[1].lower()
    return all(map(_is_number, bare)) and abs(float(bare[0]) - float(bare[1])) <= 0.001


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-").replace(".", "", 1)
    return digits.isascii() and digits.isdigit()


def of_choices(scores: Sequence[float], choices: Sequence[str], right: int) -> tuple[int, int]:
    """Return acc and acc_norm of an item (TSK-004)."""
    normed = [score / len(choice) for score, choice in zip(scores, choices, strict=True)]
    first, second = (min(range(len(x)), key=lambda i: (-x[i], i)) == right for x in (scores, normed))
    return int(first), int(second)


def mean_and_error(x: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean over items and its standard error, None for one item (TSK-004.3)."""
    n = len(x)
    m = math.fsum(x) / n
    return m, None if n == 1 else math.sqrt(math.fsum((one - m) ** 2 for one in x) / (n - 1)) / math.sqrt(n)


def score(
    config: Config, tensors: dict[str, Array], context: Sequence[int], continuation: Sequence[int]
) -> tuple[float, bool, float]:
    """Return the score of a continuation, whether it is greedy, and how near this is decided (TSK-001, TSK-003).

    The last number is the least distance of the logit of a token of the continuation to the largest other one.
    """
    tokens = [*context, *continuation]
    if len(tokens) > config["max_position_embeddings"] + 1 or not all(0 <= t < config["vocab_size"] for t in tokens):
        raise _refuse("TSK-003", len(tokens))
    with np.errstate(all="ignore"):
        every = Decoder(config, tensors).logits(np.array([tokens[:-1]])).value[0, len(context) - 1 :]
    nats, greedy, near = [], True, math.inf
    for logits, token in zip(every.tolist(), continuation, strict=True):
        if not all(map(math.isfinite, logits)):
            raise _refuse("TSK-001", logits)
        top = max(logits)
        nats.append(logits[token] - top - math.log(math.fsum(math.exp(x - top) for x in logits)))
        greedy &= logits.index(top) == token
        near = min(near, abs(logits[token] - max(x for i, x in enumerate(logits) if i != token)))
    return math.fsum(nats), greedy, near
