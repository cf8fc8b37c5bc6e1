"""Scores a model on tasks, in one call.

evaluation = evaluate_tasks("pruned", ["arc_easy", "gsm8k"], "data", limit=100)
evaluation.tasks[0].scores["acc_norm"], evaluation.tasks[0].errors["acc_norm"]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from seft_ref.arrays.library import Array, to_numpy
from seft_ref.arrays.rng import STREAM_ITEMS, choose, counter_key
from seft_ref.errors import TaskError
from seft_ref.files.model import Model, refuse_delta, stop_tokens
from seft_ref.kernels import KernelSet
from seft_ref.runs.source import LOGGER, ModelSource, folder_of, kernels_or_cpu, model_of
from seft_ref.runs.tasks_log import Block, ItemResult, Log, digest_of_folder, digest_of_items
from seft_ref.tasks.item import Choices, Item, Question
from seft_ref.tasks.scores import answer_scores, choice_scores, mean, standard_error
from seft_ref.tasks.table import Loaded, Task, load_items, metrics_of, task_named
from seft_ref.text.score import (
    Pair,
    Score,
    blocks_of,
    blocks_of_prompts,
    check_pair,
    check_prompt,
    generate_until,
    pair_of,
    score_items,
)
from seft_ref.text.tokens import Tokenizer, encoded, read_tokenizer

UNTIL = ("Question:", "</s>", "<|im_end|>")
"""Stop words of an answer, the same as in lm-eval's gsm8k."""
BATCH = 8
"""Default number of items that the model reads at once."""
MAX_TOKENS = 256
"""Default of the most tokens of an answer, the same as in lm-eval."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The results of one task.

    Attributes:
        task: the name of the task.
        items: how many items were scored.
        main: the metric to report if only one can be.
        scores: metric to mean over the items.
        errors: metric to standard error of that mean; None for a single item.
        remarks: texts about items that were left out or files that were read in another way.
    """

    task: str
    items: int
    main: str
    scores: Mapping[str, float]
    errors: Mapping[str, float | None]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TasksEvaluation:
    """The results of all tasks, and of every item in the order of its data file."""

    tasks: tuple[TaskResult, ...]
    items: tuple[ItemResult, ...]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A task with the tokens of its items: pairs for choices, or prompts."""

    task: Task
    items: dict[int, Item]
    remarks: tuple[str, ...]
    pairs: dict[int, list[Pair]]
    prompts: dict[int, list[int]]

    def blocks(self, batch: int) -> list[Block]:
        """Return the items that are computed together: prompts of one length, or choices of one part of the task."""
        name = self.task.name
        prompt_numbers = list(self.prompts)
        divided = blocks_of_prompts(list(self.prompts.values()), batch)
        blocks: list[Block] = [(name, tuple(prompt_numbers[i] for i in block)) for block in divided]
        for part in dict.fromkeys(self.items[number].part for number in self.pairs):
            mine = [number for number in self.pairs if self.items[number].part == part]
            divided = blocks_of([self.pairs[number] for number in mine], batch)
            blocks += [(name, tuple(mine[i] for i in block)) for block in divided]
        return blocks


def evaluate_tasks(
    model: ModelSource,
    tasks: Sequence[str],
    data: str | Path,
    *,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    shots: int = 0,
    batch: int = BATCH,
    max_tokens: int = MAX_TOKENS,
    skip_trained: bool = False,
    log: str | Path | None = None,
    on_remark: Callable[[str], None] = lambda remark: None,
    on_item: Callable[[int, int, ItemResult | None], None] = lambda done, total, result: None,
    kernels: KernelSet | None = None,
    dtype: str | None = None,
    compact: bool = False,
    like: Array | None = None,
    max_bytes: int | None = None,
) -> TasksEvaluation:
    """Return the scores of a model on tasks (chapter 18).

    model         a folder, sparse or of Hugging Face, or a loaded model that has one, whose tokenizer is used
    tasks         names of `tasks.table.TASKS`
    data          the folder that holds the folders of that table
    limit         score only the first `limit` items of each task; None for all
    sample        score only that many items of each task, which the seed picks (TSK-014); None for all
    seed          the seed of that choice
    shots         number of training items in front of each question, the first of the training file (TSK-012)
    batch         items that the model reads at once, prompts only if they have the same length; the last bits of the
                  scores depend on it
    max_tokens    most tokens of an answer
    skip_trained  leave out items that are in the training file too; they are refused otherwise (TSK-007)
    log           a file of results, one line an item; the evaluation resumes from an existing one (TSK-011)
    on_remark     called with a text about items that were left out or files that were read in another way
    on_item       called with (items done, items in all, result), first with (items of the log, items in all, None)
    kernels       a kernel set; None for `cpu`, which takes NumPy arrays
    dtype, compact, like    as `load_model`; max_bytes is its `limit`
    Units         nats a choice
    Raises        TaskError TSK-001 to TSK-014, all but TSK-001 before anything is computed or written; ConfigError
                  RNG-002 for a seed; what `read_tokenizer`, `load_model` and `generate_tokens` raise
    """
    kernels = kernels_or_cpu(kernels)
    # TSK-005
    if not tasks:
        raise TaskError("TSK-005", "there is no task to score; name one")
    for name, value in (("limit", limit), ("batch", batch), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise TaskError("TSK-005", f"{name} is {value}; it must be at least 1")
    chosen = [task_named(name) for name in dict.fromkeys(tasks)]
    loaded = [load_items(task, Path(data), skip_trained=skip_trained) for task in chosen]
    to_score = [numbers_to_score(of_task, limit, sample, seed) for of_task in loaded]
    folder = folder_of(model)
    refuse_delta(folder)
    tokenizer = read_tokenizer(folder)
    stops = stop_tokens(folder)
    ready = model_of(model, kernels, dtype=dtype, compact=compact, like=like, limit=max_bytes)
    prepared = [
        _prepared(task, of_task, scored, tokenizer, ready, shots, max_tokens)
        for task, of_task, scored in zip(chosen, loaded, to_score, strict=True)
    ]
    blocks = [block for one in prepared for block in one.blocks(batch)]
    total = sum(len(numbers) for _, numbers in blocks)
    opened_log = None
    if log is not None:
        settings = {"sample": sample, "seed": None if sample is None else seed}
        settings |= {"batch": batch, "max_tokens": max_tokens, "compact": compact}
        header = _header(folder, prepared, settings | {"dtype": to_numpy(ready.weights.norm).dtype.name})
        opened_log = Log(Path(log), header, blocks, {task.name: metrics_of(task) for task in chosen})
    # remarks come only now, so that an error before this is printed alone
    for one in prepared:
        for remark in one.remarks:
            on_remark(f"{one.task.name}: {remark}")
    results = list(opened_log.results) if opened_log else []
    on_item(len(results), total, None)
    by_name = {one.task.name: one for one in prepared}
    for name, numbers in blocks[opened_log.n_blocks if opened_log else 0 :]:
        block = _computed(by_name[name], numbers, ready, kernels, tokenizer, max_tokens, stops)
        if opened_log is not None:
            opened_log.append(block)
        for result in block:
            results.append(result)
            LOGGER.info("scoring: item %d of %d, %s", len(results), total, result.task)
            on_item(len(results), total, result)
    return _totals(prepared, results)


def numbers_to_score(loaded: Loaded, limit: int | None, sample: int | None, seed: int) -> list[int]:
    """Return the numbers of the items to score, ascending: all, the first `limit`, or a sample (TSK-014).

    Raises:
        TaskError: TSK-014 for a sample below 1, or for both a limit and a sample; ConfigError: RNG-002 for a seed.
    """
    if sample is None:
        return list(loaded.items)[:limit]
    # TSK-014
    if sample < 1:
        raise TaskError("TSK-014", f"sample is {sample}; it must be at least 1")
    if limit is not None:
        raise TaskError("TSK-014", "limit takes the first items and sample picks items of all; give one of the two")
    numbers = np.array([*loaded.items], dtype=np.int64)
    return choose(counter_key(seed, STREAM_ITEMS), numbers, min(sample, numbers.size)).tolist()


def _prepared(
    task: Task,
    loaded: Loaded,
    numbers: Sequence[int],
    tokenizer: Tokenizer,
    model: Model,
    shots: int,
    max_tokens: int,
) -> _Prepared:
    """Return the items of a task with these numbers as tokens, after checking that the model can read each of them."""
    front = text_of_shots(task, loaded.training, shots)
    items = {number: loaded.items[number] for number in numbers}
    pairs: dict[int, list[Pair]] = {}
    prompts: dict[int, list[int]] = {}
    for number, item in items.items():
        what = f"item {number + 1} of {task.name}"
        if isinstance(item, Choices):
            pairs[number] = _pairs(item, front, tokenizer, what)
            for pair in pairs[number]:
                check_pair(pair, model.config, what)
        else:
            prompts[number] = encoded(front + item.prompt, tokenizer)
            check_prompt(prompts[number], max_tokens, model.config, what)
    return _Prepared(task, items, loaded.remarks, pairs, prompts)


def _pairs(item: Choices, front: str, tokenizer: Tokenizer, what: str) -> list[Pair]:
    """Return the pairs of an item; an error of TSK-002 names the item."""
    try:
        return [
            pair_of(front + context, continuation, tokenizer)
            for context, continuation in zip(item.contexts, item.continuations, strict=True)
        ]
    except TaskError as error:
        raise TaskError(error.clause, f"{what}: {error.message}") from error


def text_of_shots(task: Task, training: Sequence[Item], shots: int) -> str:
    """Return the examples in front of every question (TSK-012).

    Raises:
        TaskError: TSK-012 for fewer shots than 0, or more than there are training items.
    """
    # TSK-012
    if not 0 <= shots <= len(training):
        raise TaskError(
            "TSK-012",
            f"{shots} shots are asked for, and the training file of {task.name} has {len(training)} items; ask for "
            f"0 to {len(training)}",
        )
    return "".join(f"{item.shot()}\n\n" for item in training[:shots])


def _header(folder: Path, prepared: Sequence[_Prepared], settings: Mapping[str, object]) -> dict[str, object]:
    """Return the header of a log: digests and settings that its results belong to (TSK-011)."""
    items = [
        (one.task.name, number, asdict(item), [(p.context, p.continuation) for p in one.pairs.get(number, [])])
        for one in prepared
        for number, item in one.items.items()
    ]
    prompts = [list(one.prompts.items()) for one in prepared]
    # items come last, because items of another sample differ too, and the sample is the better reason
    return {"model": digest_of_folder(folder), **settings, "items": digest_of_items([items, prompts])}


def _computed(
    one: _Prepared,
    numbers: Sequence[int],
    model: Model,
    kernels: KernelSet,
    tokenizer: Tokenizer,
    max_tokens: int,
    stops: Sequence[int],
) -> list[ItemResult]:
    """Return the results of one block of a task."""
    if not one.prompts:
        pairs = [one.pairs[number] for number in numbers]
        scores = score_items(pairs, model.weights, model.config, kernels)
        return [
            _choice_result(one.task, number, one.items[number], of_item)
            for number, of_item in zip(numbers, scores, strict=True)
        ]
    texts = generate_until(
        [one.prompts[number] for number in numbers],
        model.weights,
        model.config,
        kernels,
        tokenizer,
        until=UNTIL,
        max_tokens=max_tokens,
        stops=stops,
    )
    return [
        _answer_result(one.task, number, one.items[number], text) for number, text in zip(numbers, texts, strict=True)
    ]


def _choice_result(task: Task, number: int, item: Item, scores: Sequence[Score]) -> ItemResult:
    assert isinstance(item, Choices)
    nats = tuple(score.nats for score in scores)
    greedy = tuple(score.greedy for score in scores)
    return ItemResult(task.name, number, item.part, item.gold, choice_scores(nats, item), nats, greedy)


def _answer_result(task: Task, number: int, item: Item, text: str) -> ItemResult:
    assert isinstance(item, Question)
    assert task.filters is not None
    scores = answer_scores(text, item.answer, task.filters, numbers=task.numbers)
    return ItemResult(task.name, number, item.part, item.answer, scores, text=text)


def _totals(prepared: Sequence[_Prepared], results: Sequence[ItemResult]) -> TasksEvaluation:
    """Return the means and standard errors of every task."""
    of_tasks, in_order = [], []
    for one in prepared:
        mine = sorted((r for r in results if r.task == one.task.name), key=lambda result: result.item)
        metrics = {name: [result.scores[name] for result in mine] for name in mine[0].scores}
        of_tasks.append(
            TaskResult(
                one.task.name,
                len(mine),
                one.task.main,
                {name: mean(values) for name, values in metrics.items()},
                {name: standard_error(values) for name, values in metrics.items()},
                one.remarks,
            )
        )
        in_order += mine
    return TasksEvaluation(tuple(of_tasks), tuple(in_order))
