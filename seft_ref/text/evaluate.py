"""Perplexity of a model on windows of a text (chapter 11)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seft_ref.arrays.library import overflow_allowed
from seft_ref.errors import EvaluationError, TextError
from seft_ref.kernels import KernelSet
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import decoder_output
from seft_ref.model.head import head_loss
from seft_ref.model.weights import Weights
from seft_ref.text.batch import Batch, batch_of, batch_of_examples
from seft_ref.text.examples import Examples
from seft_ref.text.tokens import check_windows, evaluation_starts


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The perplexity of a model, and the windows on which it was measured."""

    perplexity: float
    """exp(nats_per_token)"""
    nats_per_token: float
    """mean cross-entropy of the predicted tokens"""
    targets: int
    """number of predicted tokens"""
    windows: int
    """number of windows"""
    length: int
    """tokens of a window"""


def evaluate_windows(
    weights: Weights,
    config: ModelConfig,
    tokens: Sequence[int],
    kernels: KernelSet,
    *,
    length: int = 128,
    windows: int | None = 40,
    rows: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Return the perplexity over windows of a token stream (EVL-001).

    windows   how many are spread evenly over the text; None for windows side by side over all of it
    rows      windows that go through the model at once
    progress  called with (windows done, windows in all)
    Units     nats a target
    Raises    TextError EVL-002 if the text is shorter than one window, TRN-017 and TRN-018 for windows or a text that
              the model cannot read; EvaluationError EVL-003 if binary64 has no such perplexity; LayerError LYR-015,
              LYR-016 for an overflow inside a layer
    """
    if (windows is not None and windows < 1) or rows < 1:
        raise TextError("EVL-001", f"windows is {windows} and rows {rows}; both must be at least 1")
    starts = evaluation_starts(len(tokens), length, windows)
    windows = len(starts)
    check_windows(tokens, length, config)
    total, targets = 0.0, 0
    for first in range(0, windows, rows):
        batch = batch_of(tokens, starts[first : first + rows], length, weights)
        total += _nats(weights, config, batch, kernels)
        targets += batch.count()
        progress(min(first + rows, windows), windows)
    mean = total / targets
    return Evaluation(_perplexity(mean), mean, targets, windows, length)


def evaluate_examples(
    weights: Weights, config: ModelConfig, examples: Examples, kernels: KernelSet, *, rows: int = 1
) -> float:
    """Return the mean loss in nats over all tokens of examples that are learned, each example a row (EVL-004).

    rows    examples that go through the model at once
    Raises  EvaluationError EVL-003 for a mean that is not finite; LayerError LYR-015, LYR-016 for an overflow inside a
            layer
    """
    total = 0.0
    for first in range(0, len(examples.items), rows):
        batch = batch_of_examples(examples.items[first : first + rows], weights)
        total += _nats(weights, config, batch, kernels)
    mean = total / sum(example.targets() for example in examples.items)
    # EVL-003
    if not math.isfinite(mean):
        raise EvaluationError("EVL-003", f"the mean loss is {mean} nats a target; is the model damaged?")
    return mean


def _perplexity(mean: float) -> float:
    """Return exp of a mean loss; raise EVL-003 if it is not finite."""
    try:
        perplexity = math.exp(mean)
    except OverflowError:
        perplexity = math.inf
    # EVL-003
    if not math.isfinite(perplexity):
        raise EvaluationError(
            "EVL-003", f"the mean loss is {mean} nats a target, which has no finite perplexity; is the model damaged?"
        )
    return perplexity


@overflow_allowed()
def _nats(weights: Weights, config: ModelConfig, batch: Batch, kernels: KernelSet) -> float:
    x = decoder_output(batch.tokens, weights, config, kernels, batch.mask)
    return head_loss(x, weights.lm_head, batch.targets(), 1, kernels)
