"""Lets lm-eval drive a model of this engine; needs the extra `lm-eval` (TSK-013).

    import lm_eval
    import seft_ref.runs.lm_eval  # registers the model "seft"

    lm_eval.simple_evaluate(model="seft", model_args={"folder": "pruned"}, tasks=["arc_easy"])

The requests of one item are scored together, and the items of a task in the same blocks as by `evaluate_tasks`, so that
both compute the same numbers.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from seft_ref.errors import TaskError
from seft_ref.files.model import load_model, stop_tokens
from seft_ref.kernels import KernelSet
from seft_ref.runs.source import kernels_or_cpu
from seft_ref.runs.tasks import BATCH, MAX_TOKENS
from seft_ref.text.score import (
    Pair,
    blocks_of,
    blocks_of_prompts,
    check_pair,
    check_prompt,
    generate_until,
    pair_of,
    score_items,
)
from seft_ref.text.tokens import encoded, read_tokenizer


@register_model("seft")
class SeftLM(LM):
    """A model of this engine, from a sparse checkpoint or a Hugging Face folder, with lm-eval's interface."""

    def __init__(
        self,
        folder: str,
        *,
        dtype: str | None = None,
        compact: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_gen_toks: int = MAX_TOKENS,
        device: str | None = None,
        kernels: KernelSet | None = None,
    ) -> None:
        """Load the model in `folder`.

        dtype, compact   as `load_model`
        batch_size       items that the model reads at once
        max_batch_size   ignored, because no batch size is searched for
        max_gen_toks     most tokens of an answer, unless its task gives another number
        device           None or cpu; other devices are refused
        Raises           TaskError TSK-013 for another device or a batch_size that is no number; what `load_model`
                         raises
        """
        super().__init__()
        # TSK-013
        if device not in (None, "cpu"):
            raise TaskError("TSK-013", f"device {device} is not offered here; leave it out, or say cpu")
        if batch_size is not None and not str(batch_size).isdecimal():
            raise TaskError("TSK-013", f"batch_size {batch_size} is no number; leave it out for {BATCH}")
        self._kernels = kernels_or_cpu(kernels)
        self._tokenizer = read_tokenizer(Path(folder))
        self._stops = stop_tokens(folder)
        self._first = _first_token(Path(folder), self._stops)
        self._batch = BATCH if batch_size is None else int(batch_size)
        self._max_gen_toks = max_gen_toks
        self._model = load_model(folder, self._kernels, dtype, compact=compact)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, greedy) of each request's continuation behind its context."""
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for items in _by_task(requests).values():
            self._score([[self._pair(*requests[i].args) for i in item] for item in items], items, answers)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-probability of each request's whole text, in windows of as many tokens as positions."""
        sums = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                encoded(text, self._tokenizer, add_special_tokens=False),
                prefix_token=self._prefix(),
                max_seq_len=self._model.config.max_position_embeddings,
                context_len=1,
            )
            pairs = [Pair(tuple(a), tuple(b)) for a, b in map(make_disjoint_window, windows)]
            answers = [(0.0, False)] * len(pairs)
            self._score([[pair] for pair in pairs], [[i] for i in range(len(pairs))], answers)
            sums.append(sum(nats for nats, _ in answers))
        return sums

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the text that greedy generation gives behind each request's context, up to its first stop word."""
        answers = [""] * len(requests)
        groups: dict[tuple[str | None, int, tuple[str, ...]], list[int]] = {}
        prompts: list[list[int]] = []
        for number, request in enumerate(requests):
            context, gen_kwargs = request.args
            settings = normalize_gen_kwargs(gen_kwargs, self._max_gen_toks)
            # TSK-013
            if settings.get("do_sample") or settings.get("temperature"):
                raise TaskError("TSK-013", "answers are generated greedily here; take do_sample out of the task")
            prompts.append(encoded(context, self._tokenizer))
            most = settings["max_gen_toks"]
            check_prompt(prompts[number], most, self._model.config, "a prompt of lm-eval")
            until = tuple(word for word in handle_stop_sequences(settings["until"], eos=None) if word)
            groups.setdefault((request.task_name, most, until), []).append(number)
        for (_, most, until), mine in groups.items():
            for block in blocks_of_prompts([prompts[number] for number in mine], self._batch):
                numbers = [mine[i] for i in block]
                texts = generate_until(
                    [prompts[number] for number in numbers],
                    self._model.weights,
                    self._model.config,
                    self._kernels,
                    self._tokenizer,
                    until=until,
                    max_tokens=most,
                    stops=self._stops,
                )
                for number, text in zip(numbers, texts, strict=True):
                    answers[number] = text
        return answers

    def _score(
        self, pairs: Sequence[Sequence[Pair]], items: Sequence[Sequence[int]], answers: list[tuple[float, bool]]
    ) -> None:
        """Write the scores of the pairs of each item into `answers`, at the indices that `items` has."""
        model = self._model
        for of_item in pairs:
            for pair in of_item:
                check_pair(pair, model.config, "a request of lm-eval")
        for block in blocks_of(pairs, self._batch):
            of_block = score_items([pairs[i] for i in block], model.weights, model.config, self._kernels)
            for item, scores in zip(block, of_block, strict=True):
                for place, score in zip(items[item], scores, strict=True):
                    answers[place] = (score.nats, score.greedy)

    def _pair(self, context: str, continuation: str) -> Pair:
        """Return a pair; an empty context becomes the token that begins a text, as in lm-eval."""
        if context:
            return pair_of(context, continuation, self._tokenizer)
        first = self._prefix()
        tokens = tuple(encoded(continuation, self._tokenizer, add_special_tokens=False))
        return Pair(tokens[:1], tokens[1:]) if tokens[:1] == (first,) else Pair((first,), tokens)

    def _prefix(self) -> int:
        # TSK-013
        if self._first is None:
            raise TaskError(
                "TSK-013",
                "config.json names neither bos_token_id nor eos_token_id to stand in an empty context; add one",
            )
        return self._first


def _by_task(requests: Sequence[Instance]) -> dict[object, list[list[int]]]:
    """Return the numbers of the requests of each item of each task, items in the order in which they come."""
    tasks: dict[object, dict[object, list[int]]] = {}
    for number, request in enumerate(requests):
        tasks.setdefault(request.task_name, {}).setdefault(request.doc_id, []).append(number)
    return {task: list(items.values()) for task, items in tasks.items()}


def _first_token(folder: Path, stops: Sequence[int]) -> int | None:
    """Return the token that begins a text: bos_token_id of config.json, else the first one that ends a text."""
    named = json.loads((folder / "config.json").read_bytes()).get("bos_token_id")
    if isinstance(named, int) and not isinstance(named, bool):
        return named
    return stops[0] if stops else None
