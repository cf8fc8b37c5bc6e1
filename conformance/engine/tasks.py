"""The operations `task.*` as calls into the engine (chapter 18)."""

import re
from typing import Any

import numpy as np

from conformance.engine.model import weights_of_case
from conformance.engine.values import Values, ints, work_folder
from seft_ref.model.config import ModelConfig
from seft_ref.runs.tasks import BATCH, MAX_TOKENS, UNTIL, numbers_to_score, text_of_shots
from seft_ref.tasks.item import Choices, Item
from seft_ref.tasks.scores import answer_scores, choice_scores, mean, standard_error
from seft_ref.tasks.table import load_items, metrics_of, task_named
from seft_ref.text.score import Pair, blocks_of_prompts, check_prompt, generate_until, score_pairs

_LEFT_OUT = r"(\d+) items? stands? in "
_OK = r"(\d+) of \d+ rows are marked ok"
_OTHER = r"(.+) is not UTF-8, so it was read as ISO 8859-1"
"""Texts of the remarks of a task."""


def _items(a: Values) -> Values:
    task = task_named(a["task"])
    with work_folder() as folder:
        for name, raw in a["files"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(raw.tobytes())
        loaded = load_items(task, folder, skip_trained=bool(a.get("skip_trained")))
    numbers = numbers_to_score(loaded, a.get("limit"), a.get("sample"), a.get("seed") or 0)
    front = text_of_shots(task, loaded.training, a.get("shots") or 0)
    items = [_texts(loaded.items[number], front) for number in numbers]
    remarks = {of: [m[1] for text in loaded.remarks if (m := re.match(of, text))] for of in (_LEFT_OUT, _OK, _OTHER)}
    return {
        "numbers": ints(numbers),
        **{name: [item[name] for item in items] for name in ("contexts", "continuations", "choices", "right")},
        "metrics": [task.main, *(name for name in metrics_of(task) if name != task.main)],
        "left_out": sum(map(int, remarks[_LEFT_OUT])),
        "marked_ok": int(remarks[_OK][0]) if remarks[_OK] else None,
        "other_encoding": remarks[_OTHER],
    }


def _texts(item: Item, front: str) -> Values:
    """Return the texts of an item behind its shots, and what is right."""
    if not isinstance(item, Choices):
        return {"contexts": [front + item.prompt], "continuations": [], "choices": [], "right": item.answer}
    contexts = [front + context for context in item.contexts]
    texts = {"continuations": list(item.continuations), "choices": list(item.choices)}
    return {"contexts": contexts, **texts, "right": item.gold}


def _score(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    texts = zip(a["contexts"], a["continuations"], strict=True)
    pairs = [Pair(tuple(map(int, before)), tuple(map(int, after))) for before, after in texts]
    scores = score_pairs(pairs, weights, config, a["kernels"])
    return {"scores": [one.nats for one in scores], "greedy": ints(one.greedy for one in scores)}


def _metrics(a: Values) -> Values:
    every = zip(a["scores"], a["choices"], a["right"], strict=True)
    items = [choice_scores(nats, Choices((), (), tuple(choices), right)) for nats, choices, right in every]
    values = {name: [one[name] for one in items] for name in ("acc", "acc_norm")}
    return {
        "metrics": {name: np.array(of_items, dtype=np.int64) for name, of_items in values.items()},
        "means": {name: mean(of_items) for name, of_items in values.items()},
        "errors": {name: standard_error(of_items) for name, of_items in values.items()},
    }


def _filter(a: Values) -> Values:
    task = task_named(a["task"])
    filters = task.filters or {}
    every = list(zip(a["answers"], a["right"], strict=True))
    scores = [answer_scores(text, right, filters, numbers=task.numbers) for text, right in every]
    return {
        "taken": {name: [one.extracted(text) for text, _ in every] for name, one in filters.items()},
        "metrics": {name: np.array([one[name] for one in scores], dtype=np.int64) for name in filters},
    }


class _Pieces:
    """A tokenizer that can only decode."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def decode(self, tokens: list[int]) -> str:
        """Return the pieces of the tokens, one after another."""
        return "".join(self._pieces[token] for token in tokens)


def _answers(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    most = MAX_TOKENS if a.get("max_tokens") is None else a["max_tokens"]
    prompts = [[int(token) for token in prompt] for prompt in a["prompts"]]
    for prompt in prompts:
        check_prompt(prompt, most, config, "a prompt")
    texts = [""] * len(prompts)
    pieces: Any = _Pieces(a["pieces"])
    for block in blocks_of_prompts(prompts, BATCH):
        answers = generate_until([prompts[i] for i in block], weights, config, a["kernels"], pieces,
                               until=UNTIL, max_tokens=most, stops=a["stops"])  # fmt: skip
        for i, text in zip(block, answers, strict=True):
            texts[i] = text
    return {"texts": texts}


OPERATIONS: dict[str, Any] = {
    "task.items": _items,
    "task.score": _score,
    "task.metrics": _metrics,
    "task.answers": _answers,
    "task.filter": _filter,
}
