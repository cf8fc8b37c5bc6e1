"""Looks at data without training on them: backwards that only the sums of the layers see (EVT-004, TRN-023)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from seft_ports.pytorch.split import is_split
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["look", "watching"]


@contextmanager
def watching(layers: Sequence[SparseUpdate], asked: Iterable[str]) -> Iterator[None]:
    """Make every layer sum, from zero, the evidence of the backwards in the context.

    asked  names of `update.SUMS`
    """
    for layer in layers:
        layer.unwatch()
        layer.watch(asked)
    yield
    for layer in layers:
        layer.unwatch(forget=False)


def look(layers: Sequence[SparseUpdate], losses: Iterable[Tensor]) -> int:
    """Add the evidence of one more step to the sums of the layers, and return how many losses there were.

    losses  of the step's micro-batches, each with its graph; `.grad` of the layers stays as it is
    """
    values, n = [layer.values for layer in layers], 0
    for layer in layers:
        layer.settle()
    for loss in losses:
        n += 1
        if not any(is_split(x) for x in values):
            # not backward(), because that would run the hooks of DDP
            torch.autograd.grad(loss, values)
            continue
        # autograd.grad cannot be used, because the leaves are gathered values that only FSDP holds
        before = [x.grad for x in values]
        for x in values:
            x.grad = None
        loss.backward()
        for x, gradient in zip(values, before, strict=True):
            x.grad = gradient
    return n
