"""Compare our scores with those of lm-eval, item by item, on its task files and prompts and our data files.

    python -m benchmarks.lm_eval_peer DIR --data DATA --limit 200 --json FILE
    python -m benchmarks.lm_eval_peer DIR --data DATA --limit 20 --model hf

`--model seft` (the default) lets lm-eval drive our engine through its own plug-in point. `--model hf` lets it drive
transformers, so that tokens and log-probabilities come from an independent program too. Needs the extra `lm-eval`.

The task files are lm-eval's own, with their prompts, choices and metrics. Only the data set is replaced, and the few
settings that `PEERS` lists. This module cuts the raw fields out of our data files with code that shares nothing with
`seft_ref.tasks`.
"""

import ast
import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.rounds import machine
from seft_cli import console
from seft_cli.output import write_json
from seft_ref import evaluate_tasks
from seft_ref.runs.tasks import TaskResult
from seft_ref.runs.tasks_log import ItemResult

COMMON = "commonsense/{}/test.json"
ANSWER = "The answer is (\\-?[0-9\\.\\,]+)."
FLEXIBLE = "(-?[$0-9.,]{2,})|(-?[0-9]+)"
Row = dict[str, Any]


def _cut(record: Row, word: str) -> tuple[str, list[str], int]:
    """Return the question, the choices and the index of the right choice of an item in instruction form."""
    text = record["instruction"].split(": ", 1)[1]
    text = text[: text.rindex("Answer format:")]
    n = 1
    pieces = []
    while f"{word}{n}: " in text:
        before, text = text.split(f"{word}{n}: ", 1)
        pieces.append(before.strip())
        n += 1
    question, *choices = [*pieces, text.strip()]
    return question, choices, int(record["answer"][len(word) :]) - 1


def _letters(record: Row, question_key: str) -> Row:
    question, choices, gold = _cut(record, "Answer")
    labels = list("ABCDE"[: len(choices)])
    return {question_key: question, "choices": {"text": choices, "label": labels}, "answerKey": labels[gold]}


def _social(record: Row) -> Row:
    question, choices, gold = _cut(record, "Answer")
    first, rest = question.split(" ", 1)
    return {
        "context": first,
        "question": rest,
        **dict(zip(("answerA", "answerB", "answerC"), choices, strict=True)),
        "label": str(gold + 1),
    }


def _piqa(record: Row) -> Row:
    question, choices, gold = _cut(record, "Solution")
    return {"goal": question, "sol1": choices[0], "sol2": choices[1], "label": gold}


def _winogrande(record: Row) -> Row:
    question, choices, gold = _cut(record, "Option")
    return {"sentence": question, "option1": choices[0], "option2": choices[1], "answer": str(gold + 1)}


def _boolq(record: Row) -> Row:
    question = record["instruction"].split("question: ", 1)[1].split("\n")[0].strip()
    return {"question": question, "label": int(record["answer"] == "true")}


def _problem(record: Row) -> Row:
    return {"question": record["instruction"].strip(), "answer": record["answer"].removesuffix(".0")}


def _mmlu(file: Path) -> list[Row]:
    content = file.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    separator = ";" if text.split("\n")[0].count(";") >= 3 else ","
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    # the column holds the choices as the source of a Python list
    return [
        {"question": row["question"], "choices": ast.literal_eval(row["choices"]), "answer": int(row["answer"])}
        for row in rows
        if row["error_type"].strip().lower() == "ok"
    ]


def _generated(name: str, strict: str, flexible: str) -> tuple[str, Callable[[Row], Row], str, Row]:
    """Return the peer of a set of word problems: lm-eval's gsm8k, with other expressions that find the answer."""
    filters = {
        "strict-match": {"function": "regex", "regex_pattern": strict},
        "flexible-extract": {"function": "regex", "group_select": -1, "regex_pattern": flexible},
    }
    first = {"function": "take_first"}
    changes = {"num_fewshot": 0, "filter_list": [{"name": n, "filter": [f, first]} for n, f in filters.items()]}
    return f"arithmetic/{name}/test.json", _problem, "gsm8k/gsm8k.yaml", changes


# task -> (data file, a function that converts a record to lm-eval's schema, lm-eval's task file, replaced settings)
PEERS: dict[str, tuple[str, Callable[[Row], Row], str, Row]] = {
    "arc_easy": (COMMON.format("ARC-Easy"), lambda r: _letters(r, "question"), "arc/arc_easy.yaml", {}),
    "arc_challenge": (COMMON.format("ARC-Challenge"), lambda r: _letters(r, "question"), "arc/arc_easy.yaml", {}),
    "boolq": (
        COMMON.format("boolq"),
        _boolq,
        "super_glue/boolq/default.yaml",
        {"doc_to_text": "Question: {{question}}\nAnswer:", "should_decontaminate": False},  # our files have no passage
    ),
    "openbookqa": (
        COMMON.format("openbookqa"),
        lambda r: _letters(r, "question_stem"),
        "openbookqa/openbookqa.yaml",
        {},
    ),
    "piqa": (COMMON.format("piqa"), _piqa, "piqa/piqa.yaml", {}),
    "social_iqa": (COMMON.format("social_i_qa"), _social, "siqa/siqa.yaml", {}),
    "winogrande": (COMMON.format("winogrande"), _winogrande, "winogrande/default.yaml", {}),
    "mmlu_redux": ("mmlu-redux", lambda r: r, "mmlu/default/mmlu_{}.yaml", {}),
    "gsm8k": ("gsm8k/test.jsonl", lambda r: r, "gsm8k/gsm8k.yaml", {"num_fewshot": 0}),
    "addsub": _generated("AddSub", ANSWER, FLEXIBLE),
    "multiarith": _generated("MultiArith", ANSWER, FLEXIBLE),
    "singleeq": _generated("SingleEq", ANSWER, FLEXIBLE),
    "svamp": _generated("SVAMP", ANSWER, FLEXIBLE),
    "aqua": _generated("AQuA", r"The answer is \(?([A-E])\b", r"\b([A-E])\b"),
}
METRICS = {
    "acc,none": "acc",
    "acc_norm,none": "acc_norm",
    "exact_match,strict-match": "strict_match",
    "exact_match,flexible-extract": "flexible_extract",
}


def rows_of(task: str, data: Path) -> dict[str, list[Row]]:
    """Return the rows of a task in the schema of lm-eval, by part of the task."""
    name, as_row, _, _ = PEERS[task]
    if task == "mmlu_redux":
        return {file.stem.removeprefix("mmlu_"): _mmlu(file) for file in sorted((data / name).glob("mmlu_*.csv"))}
    text = (data / name).read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
    return {"": [as_row(record) for record in records]}


def write_task(folder: Path, task: str, part: str, rows: list[Row], max_tokens: int) -> str:
    """Write a task file that includes lm-eval's own but reads our data, and return the name of the task."""
    import lm_eval

    _, _, own, changes = PEERS[task]
    name = f"peer_{task}{part and f'_{part}'}"
    data_file = folder / f"{name}.jsonl"
    data_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    split = {"test_split": "test", "training_split": None, "validation_split": None, "fewshot_split": None}
    arguments = {"data_files": {"test": str(data_file)}, "cache_dir": str(folder / "cache")}
    source = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": arguments}
    if own.startswith("gsm8k"):
        stop = {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "temperature": 0.0}
        changes = changes | {"generation_kwargs": stop | {"max_gen_toks": max_tokens}}
    # the file is written as JSON, because JSON is valid YAML
    include = str(Path(lm_eval.__file__).parent / "tasks" / own.format(part))
    content = {"include": include, "task": name, "tag": None, **source, **split, **changes}
    (folder / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")
    return name


def peer_items(
    folder: Path, out: Path, data: Path, ours: list[ItemResult], model: str, batch: int, max_tokens: int
) -> tuple[dict[tuple[str, int], Row], dict[str, Row]]:
    """Score the items of `ours` with lm-eval; return (task, item) -> its logged sample, and task -> its totals."""
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    import lm_eval
    from lm_eval.tasks import TaskManager

    import_module("seft_ref.runs.lm_eval")  # registers the model
    numbers: dict[str, list[tuple[str, int]]] = {}
    for task in dict.fromkeys(item.task for item in ours):
        wanted = [item.item for item in ours if item.task == task]
        first = 0
        for part, rows in rows_of(task, data).items():
            mine = [number for number in wanted if first <= number < first + len(rows)]
            if mine:
                name = write_task(out, task, part, [rows[number - first] for number in mine], max_tokens)
                numbers[name] = [(task, number) for number in mine]
            first += len(rows)
    arguments: Row = {"folder": str(folder)} if model == "seft" else {"pretrained": str(folder), "dtype": "float32"}
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(numbers),
        batch_size=batch if model == "seft" else 1,
        device="cpu",
        task_manager=TaskManager(include_path=str(out), include_defaults=False),
        log_samples=True,
        bootstrap_iters=1,  # 0 would leave out the standard errors, which need no bootstrap for means
        verbosity="ERROR",
    )
    samples: dict[tuple[str, int], Row] = {}
    for name, places in numbers.items():
        for sample in found["samples"][name]:
            key = places[sample["doc_id"]]
            of_item = samples.setdefault(key, {"filters": {}})
            of_item["resps"] = sample["resps"]
            of_item["filters"][sample["filter"]] = sample
    return samples, found["results"]


def differences(ours: list[ItemResult], theirs: dict[tuple[str, int], Row]) -> dict[str, Row]:
    """Return, for each task, how many items differ in a metric, and how far log-probabilities lie apart."""
    rows: dict[str, Row] = {}
    for item in ours:
        sample = theirs[item.task, item.item]
        row = rows.setdefault(item.task, {"items": 0, "same_bits": 0, "differ": 0, "most_nats_apart": 0.0})
        row["items"] += 1
        scores = {
            METRICS[f"{metric},{name}"]: float(of_filter[metric])
            for name, of_filter in sample["filters"].items()
            for metric in ("acc", "acc_norm", "exact_match")
            if metric in of_filter
        }
        row["differ"] += any(item.scores[metric] != value for metric, value in scores.items())
        for metric, value in scores.items():
            row.setdefault("ours", {}).setdefault(metric, []).append(item.scores[metric])
            row.setdefault("theirs", {}).setdefault(metric, []).append(value)
        if item.nats is None:
            row["same_bits"] += sample["resps"] == [[item.text]]
            continue
        nats = [float(resps[0][0]) for resps in sample["resps"]]
        greedy = [bool(resps[0][1]) for resps in sample["resps"]]
        row["same_bits"] += nats == list(item.nats) and greedy == list(item.greedy or ())
        apart = max(abs(a - b) for a, b in zip(nats, item.nats, strict=True))
        row["most_nats_apart"] = max(row["most_nats_apart"], apart)
    for row in rows.values():
        for whose in ("ours", "theirs"):
            row[whose] = {metric: sum(values) / len(values) for metric, values in row[whose].items()}
    return rows


def same_totals(ours: TaskResult, theirs: Row) -> bool:
    """Return whether the means and standard errors of a task are those that lm-eval reports."""
    named = {ours_name: lm_name.split(",") for lm_name, ours_name in METRICS.items() if lm_name in theirs}
    return bool(named) and all(
        ours.scores[name] == theirs[f"{metric},{part}"]
        and (ours.errors[name] is None or ours.errors[name] == theirs[f"{metric}_stderr,{part}"])
        for name, (metric, part) in named.items()
    )


def main(
    folder: Annotated[Path, typer.Argument(help="Model that our engine loads; of Hugging Face for --model hf.")],
    data: Annotated[Path, typer.Option(help="Folder of the data files.")],
    tasks: Annotated[str, typer.Option(help="Tasks to compare.")] = ",".join(PEERS),
    limit: Annotated[int, typer.Option(min=1, help="Items of each task.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Items at once.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 32,
    model: Annotated[str, typer.Option(help="What lm-eval drives: seft, or hf.")] = "seft",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the comparison there.")] = None,
) -> None:
    """Score a model by our evaluator and by lm-eval, and print where they differ."""
    start = time.perf_counter()
    done = evaluate_tasks(
        folder, tasks.split(","), data, limit=limit, batch=batch, max_tokens=max_tokens, skip_trained=True
    )
    middle = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        theirs, totals = peer_items(folder, Path(out), data, list(done.items), model, batch, max_tokens)
    end = time.perf_counter()
    rows = differences(list(done.items), theirs)
    for of_task in done.tasks:
        if total := totals.get(f"peer_{of_task.task}"):
            rows[of_task.task]["same_totals"] = same_totals(of_task, total)
    for task, row in rows.items():
        console.say(f"{task}: {json.dumps(row)}")
    content = {
        "machine": machine(int(os.environ.get("OMP_NUM_THREADS", "1"))),
        "model": folder.name,
        "lm_eval_drives": model,
        "limit": limit,
        "batch": batch,
    }
    seconds = {"ours": middle - start, "theirs": end - middle}
    write_json(json_file, content | {"max_tokens": max_tokens, "seconds": seconds, "tasks": rows})


if __name__ == "__main__":
    console.run(main, "python -m benchmarks.lm_eval_peer")
