"""Mutants of steps on labels and masks (TRN-001, TRN-002)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.parts import gradients, head
from conformance.wrong.mutants.base import Mutant, Operation, Values, edited, mutant, mutants, right

_GRADIENTS = gradients.loss_and_gradients


def of_batches(change: Callable[[Values], Values]) -> Operation:
    """Return a step on batches that are each changed."""
    return lambda a: right("train.batches")(a | {"batches": [change(batch) for batch in a["batches"]]})


def all_labels(batch: Values) -> Values:
    return batch | {"labels": batch["tokens"]}


def labels_of_tokens_before(batch: Values) -> Values:
    """Compare a position with the label of its own token, not of the next one."""
    labels = batch["labels"]
    behind = np.concatenate([np.full_like(labels[:, :1], -100), labels[:, :-1]], axis=1)
    return batch | {"labels": behind}


def no_mask(batch: Values) -> Values:
    return {name: x for name, x in batch.items() if name != "mask"}


def counted_padding(a: Values) -> Values:
    """Divide the loss by the number of all positions that have a next one."""
    out = right("train.batches")(a)
    counted = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in a["batches"])
    return out | {"loss": out["loss"] * counted / sum(batch["labels"][:, 1:].size for batch in a["batches"])}


def mean_of_means(a: Values) -> Values:
    """Return the mean of the mean losses of micro-batches."""
    losses = [
        float(right("train.batches")(a | {"batches": [batch]})["loss"])
        for batch in a["batches"]
        if (batch["labels"][:, 1:] != -100).any()
    ]
    return right("train.batches")(a) | {"loss": float(np.mean(losses))}


def last_alone(a: Values) -> Values:
    """Use the last micro-batch with counted labels in place of all."""
    counted = [batch for batch in a["batches"] if (batch["labels"][:, 1:] != -100).any()]
    return right("train.batches")(a | {"batches": counted[-1:]})


def _steps() -> list[tuple[str, str, Any]]:
    return [
        ("TRN-001 LYR-011", "every label counts", of_batches(all_labels)),
        ("TRN-001", "labels a position late", of_batches(labels_of_tokens_before)),
        ("LYR-008", "padding is attended to", of_batches(no_mask)),
        ("TRN-001", "a mean over padding", counted_padding),
        ("TRN-002", "a mean of means", mean_of_means),
        ("TRN-002 EVT-002", "the last micro-batch alone", last_alone),
    ]


_PART = """\
    for part, rows in _parts(x, targets, lm_head):
        logits, cache = linear_forward(part, lm_head, kernels)
        of_part, loss_cache = layers.cross_entropy_forward(logits, rows, count)
"""
_PART_BY_ITSELF = """\
    xp, n = array_namespace(x), targets.shape[0]
    flat, of_each = xp.reshape(x, (n, -1)), 512 if n > 512 else n
    for i in range(0, n, of_each):
        part, rows = flat[i : i + of_each, :], targets[i : i + of_each]
        logits, cache = linear_forward(part, lm_head, kernels)
        counted = max(1, int(xp.sum(rows != -100)))
        of_part, loss_cache = layers.cross_entropy_forward(logits, rows, count if n <= 512 else counted)
"""

MUTANTS: list[Mutant] = [
    *mutants("train.batches",
        ("TRN-021 GRD-006", _GRADIENTS, "rows = batch.rows()", "rows = None", "inputs of padding count"),
        ("GRD-006", _GRADIENTS, "of_rows(rows, tokens)", "of_rows(rows)",
         "inputs of padding count if it predicts a token")),
    *(mutant(clauses, "train.batches", call, flaw) for clauses, flaw, call in _steps()),
    edited("LYR-012", "train.batches", head.head_loss_and_gradient, _PART, _PART_BY_ITSELF,
     "the loss of 512 rows at a time divided by their own count", shown_by="train.batches-large"),
]  # fmt: skip
