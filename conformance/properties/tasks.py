"""Properties of tasks: items of files, scores, metrics and filters (chapter 18)."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import ids
from conformance.oracle import tasks
from conformance.oracle.model import Decoder
from conformance.properties.draws import Draw
from conformance.properties.large import beyond
from conformance.properties.model_large import LONG, WIDE, wide_config, wide_tensors
from conformance.properties.models import KINDS, ask_until_sure, drawn_config, drawn_tensors, surely
from conformance.properties.trial import Trial, property_of

Record = dict[str, Any]
_WORDS = ("bees", "wax", "Éa", "fox's", "Answer", "Answer1", "to: go", '"a;', "b,", "#### 4", "A_b")
_WHITE = (" ", "  ", "\n", " \t")
_MARKS = {"piqa": "Solution", "winogrande": "Option"}


def _phrase(d: Draw) -> str:
    """Return a few words; no word is a mark of a choice."""
    white = d.choice(_WHITE)
    return white.join(d.choice(_WORDS) for _ in range(d.integer(1, 3)))


def _record(d: Draw, task: str) -> Record:
    """Return an item of a task as a JSON file has it."""
    question = _phrase(d)
    if task == "gsm8k":
        answer_text = f"{_phrase(d)}\n#### {d.choice(('7', '-1,000', '2.5'))}{d.choice(('', ' ', chr(10)))}"
        return {"question": d.choice(("", " ")) + question, "answer": answer_text}
    if task in ("addsub", "multiarith", "singleeq", "svamp", "aqua"):
        right = d.choice(("B", "E ") if task == "aqua" else ("7", " -3.0", "0.25"))
        return {"instruction": question, "answer": right} | ({"output": f"\n{_phrase(d)} "} if d.flag() else {})
    if task == "boolq":
        text = f"Please answer the following question with true or false, question: {question}"
        return {"instruction": f"{text}\n\nAnswer format: true/false", "answer": d.choice(("false", "true"))}
    question += f" _{d.choice(_WHITE)}{_phrase(d)}" if task == "winogrande" else ""
    return _instruction(d, _MARKS.get(task, "Answer"), question, [_phrase(d) for _ in range(d.integer(2, 4))])


def _instruction(d: Draw, word: str, question: str, choices: list[str]) -> Record:
    named = " ".join(f"{word}{i}:{d.choice(_WHITE)}{choice}" for i, choice in enumerate(choices, start=1))
    labels = [f"{word.lower()}{i}" for i in range(1, len(choices) + 1)]
    text = f"Please choose the correct answer to the question: {question}\n\n{named}"
    return {"instruction": f"{text}\n\nAnswer format: {'/'.join(labels)}", "answer": d.choice(labels)}


_BREAKS: tuple[Callable[[str], str], ...] = (
    lambda text: text[:-1],
    lambda text: " ",
    lambda text: text.replace("1: ", "2: ").replace("1:\n", "2:\n"),
    lambda text: text.replace(": ", ":"),
    lambda text: text.replace("_", ""),
    lambda text: text.replace("/", " / "),
    lambda text: f"{text}9",
    lambda text: f"{text}\ud800",
)
"""Changes of a text, of which most leave no item of any task."""


def _broken(d: Draw, record: Record) -> Record:
    """Return an item with one text changed or left out."""
    name = d.choice([name for name in record if name != "output"])
    if d.flag(4):
        return {key: value for key, value in record.items() if key != name}
    return record | {name: d.choice(_BREAKS)(record[name])}


def _again(d: Draw, record: Record) -> Record:
    """Return the same item with other white space, and perhaps another answer."""
    texts = {"output": f"{_phrase(d)}."} if "output" in record else {}
    name = "question" if "question" in record else "instruction"
    return record | texts | {name: record[name].replace("\n", " \n ").replace("  ", " ")}


def _raw(d: Draw, records: list[Record], *, by_line: bool) -> Any:
    text = "\n".join(map(json.dumps, records)) if by_line else json.dumps(records, ensure_ascii=d.flag())
    mark = d.choice((b"", b"\xef\xbb\xbf"))
    return np.frombuffer(mark + text.encode("utf-8", "surrogatepass") + d.choice((b"", b" \n\n")), dtype=np.uint8)


_ROW = ("question", "choices", "answer", "error_type")


def _table(d: Draw) -> Any:
    """Return a file of MMLU-Redux."""
    separator, white = d.choice((",", ";")), d.choice((b"", b"\r\n \n"))
    columns = [d.choice((*_ROW, "note")) if d.flag(30) else name for name in (_ROW[i] for i in d.order(4))] + ["note"]
    lines = [separator.join(columns)]
    for _ in range(d.integer(1, 4)):
        texts = [_phrase(d) for _ in range(3 if d.flag(30) else 4)]
        row = {"question": _phrase(d), "choices": repr(texts), "answer": str(d.integer(0, 4 if d.flag(20) else 3))}
        row |= {"error_type": d.choice(("ok", " OK\n", "Ok", "expert", "ok?")), "note": d.choice(("", "caf\xe9"))}
        values = [row[name] for name in columns][: 4 if d.flag(30) else 5]
        lines.append(separator.join('"' + value.replace('"', '""') + '"' for value in values))
    text = d.choice(("\n", "\r\n")).join(lines) + "\n"
    return np.frombuffer(
        d.choice((b"", b"\xef\xbb\xbf")) + text.encode(d.choice(("utf-8", "latin-1"))) + white, np.uint8
    )


def _files(d: Draw, task: str) -> dict[str, Any]:
    """Return the files of a task, of which some items are broken or stand in the training file too."""
    folder = tasks.FOLDERS.get(task, task)
    if task == "mmlu_redux":
        return {f"{folder}/mmlu_{name}.csv": _table(d) for name in d.some(("a", "a_b", "B", "c_d_e"), d.integer(1, 3))}
    end = ".jsonl" if task == "gsm8k" else ".json"
    # numbers in front, because two items are often equal without them
    test = [_record(d, task) for _ in range(d.integer(1, 5))]
    train = [_record(d, task) for _ in range(d.integer(0, 3))]
    if d.flag(3):
        train.append(_again(d, d.choice(test)))
    if d.flag(4):
        one = d.choice((test, train) if train else (test,))
        one[-1] = _broken(d, one[-1])
    files = {f"{folder}/test{end}": _raw(d, test, by_line=task == "gsm8k")}
    return files | ({f"{folder}/train{end}": _raw(d, train, by_line=task == "gsm8k")} if train else {})


_ITEMS = ("an item of another form", "a training item", "items left out", "shots", "too many shots", "a sample of some",
          "no sample", "another encoding", "rows that are not ok", "an unknown task")  # fmt: skip
_REFUSED = {
    "TSK-005": _ITEMS[9],
    "TSK-006": _ITEMS[0],
    "TSK-007": _ITEMS[1],
    "TSK-012": _ITEMS[4],
    "TSK-014": _ITEMS[6],
}


@property_of("tasks.items", "TSK-005 TSK-006 TSK-007 TSK-008 TSK-012 TSK-014", "tasks", "task.items", sees=_ITEMS)
def _items(d: Draw, t: Trial) -> None:
    """The items of a task are those that plain Python cuts from its files, with their prompts, shots and numbers."""
    for _ in range(3):
        task = "piqa2" if d.flag(40) else d.choice(tuple(tasks.FOLDERS))
        inputs: dict[str, Any] = {"task": task, "files": _files(d, task)}
        inputs |= {"skip_trained": d.integer(0, 1)} if d.flag() else {}
        inputs |= {"shots": d.integer(0, 3)} if d.flag(3) else {}
        inputs |= {"sample": d.integer(0, 5), "seed": d.integer(0, 2**40)} if d.flag(3) else {}
        inputs |= {"limit": d.integer(1, 5)} if d.flag(5) else {}
        made = answer("task.items", inputs)
        t.saw(_REFUSED[made.refused[0]] if made.refused else "items")
        if not made.refused:
            t.saw(_ITEMS[2], made.outputs["left_out"])
            t.saw(_ITEMS[3], inputs.get("shots"))
            t.saw(_ITEMS[5], inputs.get("sample", 9) <= len(made.outputs["numbers"]) > 1)
            t.saw(_ITEMS[7], made.outputs["other_encoding"])
            t.saw(_ITEMS[8], made.outputs["marked_ok"])
        t.case("task.items", inputs)


@property_of(
    "tasks.metrics", "TSK-004", "tasks", "task.metrics", sees=("a tie", "one item", "another choice by character")
)
def _metrics(d: Draw, t: Trial) -> None:
    """Both accuracies are those of a loop over choices, mean and error those of the written formulas."""
    sizes = [d.integer(2, 5) for _ in range(d.integer(1, 6))]
    scores = [d.levels(n, 12, 0.75) for n in sizes]
    choices = [["é" * d.integer(1, 3) + "x" * d.integer(0, 3) for _ in range(n)] for n in sizes]
    t.saw("a tie", any(one.count(max(one)) > 1 for one in scores))
    t.saw("one item", len(sizes) == 1)
    inputs = {"scores": scores, "choices": choices, "right": [d.integer(0, n - 1) for n in sizes]}
    metrics = answer("task.metrics", inputs).outputs["metrics"]
    t.saw("another choice by character", any(metrics["acc"] != metrics["acc_norm"]))
    t.case("task.metrics", inputs)


_PIECES = (
    "The answer is ",
    "#### ",
    "12",
    "-3.5",
    ".",
    " ",
    "$",
    "1,000",
    "B",
    "(A)",
    "\n",
    "Éa",
    "0.667",
    "7.0",
    "x E",
)
_RIGHT = ("12", "7", "-3.5", "1000", "0.666", "0.6666666666666666", "0")
_FILTERS = ("an answer that is right", "no match", "filters that differ")


@property_of("tasks.filter", "TSK-010", "tasks", "task.filter", sees=_FILTERS)
def _filter(d: Draw, t: Trial) -> None:
    """Filters take the written matches, and compare them with the right answer as texts or as numbers."""
    for task in ("gsm8k", "aqua", d.choice(("addsub", "multiarith", "singleeq", "svamp"))):
        texts = ["".join(d.choice(_PIECES) for _ in range(d.integer(0, 6))) for _ in range(4)]
        right = [d.choice(tuple("ABE") if task == "aqua" else _RIGHT) for _ in texts]
        inputs = {"task": task, "answers": texts, "right": right}
        made = answer("task.filter", inputs).outputs
        t.saw(_FILTERS[0], any(map(any, made["metrics"].values())))
        t.saw(_FILTERS[1], any(tasks.INVALID in taken for taken in made["taken"].values()))
        t.saw(_FILTERS[2], made["taken"]["strict_match"] != made["taken"]["flexible_extract"])
        t.case("task.filter", inputs)


def _pairs(d: Draw, config: Any, tensors: Any, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Return contexts and continuations, of which the first two are greedy, the second but for its last token."""
    contexts, continuations = [], []
    for number, (n, m) in enumerate(sizes):
        context = d.integers(n, 0, config["vocab_size"] - 1)
        continuation = d.integers(m, 0, config["vocab_size"] - 1)
        for i in range(m if number == 0 else m - 1 if number == 1 else 0):
            logits = Decoder(config, tensors).logits(np.array([context + continuation[:i]])).value[0, -1]
            continuation[i] = int(np.argmax(logits))
        contexts.append(ids(context))
        continuations.append(ids(continuation))
    return {"config": config, "tensors": tensors, "contexts": contexts, "continuations": continuations}


_SCORES = (*KINDS, "too many tokens", "a token that is not in the vocabulary")


@property_of("tasks.score", "TSK-001 TSK-003", "tasks", "task.score", sees=_SCORES, seeded=1)
def _score(d: Draw, t: Trial) -> None:
    """A score is that of a forward over one pair alone, whatever pairs are read with it."""
    for kind in KINDS:

        def draw(kind: str = kind) -> tuple[dict[str, Any], dict[str, Any] | None]:
            config = drawn_config(d, kind) | {"max_position_embeddings": 16}
            tensors = drawn_tensors(d, config)
            inputs = _pairs(d, config, tensors, [(d.integer(1, 6), d.integer(1, 4)) for _ in range(4)])
            made = surely(d, tensors, lambda other: dict(answer("task.score", inputs | {"tensors": other}).outputs))
            return inputs, made

        ask_until_sure(t, "task.score", draw, kind)
    config = drawn_config(d, KINDS[0]) | {"max_position_embeddings": 8}
    inputs = _pairs(d, config, drawn_tensors(d, config), [(d.integer(1, 3), 2), (d.integer(4, 9), 6)])
    t.saw(_SCORES[-2])
    t.case("task.score", inputs)
    strange = ids([1, config["vocab_size"] + d.integer(0, 9)])
    t.saw(_SCORES[-1])
    t.case("task.score", inputs | {"contexts": [ids([2]), ids([0])], "continuations": [inputs["contexts"][0], strange]})


_TRIED = 20
"""The most pairs that are drawn to get some whose greediness rounding cannot change."""
_LONG = "a pair above 256 tokens beside a short one"


@property_of("tasks.score-large", "TSK-001", "tasks", "task.score", sees=(WIDE, _LONG), seeded=1)
def _large(d: Draw, t: Trial) -> None:
    """Scores of long pairs, and of wide matrices, are those of forwards over one pair each."""
    wide = wide_config(d)
    for config, sizes, saw in (
        (wide, [(beyond(d, 64), 2), (3, 2), (beyond(d, 32), 2)], WIDE),
        (LONG, [(3, 1), (2, 2), (beyond(d, 256), beyond(d, 64))], _LONG),
    ):
        for _ in range(_TRIED):
            tensors = wide_tensors(d, wide) if config is wide else drawn_tensors(d, config)
            inputs = _pairs(d, config, tensors, sizes)
            pairs = zip(inputs["contexts"], inputs["continuations"], strict=True)
            if min(tasks.score(config, tensors, *map(np.ndarray.tolist, pair))[2] for pair in pairs) > 1e-3:
                t.saw(saw)
                t.case("task.score", inputs)
                break
