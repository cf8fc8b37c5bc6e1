"""Looks at data without training on them: backward passes that only add to the layers' sums (EVT-004, TRN-023)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.split import is_split
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["Looks", "look", "watching"]


class Looks:
    """Counts how often the running step looks at further data, because an event wants a fixed number (TRN-023).

    Attributes:
        wanted: looks that the event of a step wants.
        step: the running step.
    """

    def __init__(self, event_batches: int) -> None:
        if event_batches < 1:
            raise SeftError("TRN-008", f"event_batches {event_batches} is below 1")
        self.wanted, self.step, self._count, self._has_event = event_batches - 1, 0, 0, False

    def begin(self, step: int, *, has_event: bool) -> None:
        """Begin a step, before its forward."""
        self.step, self._count, self._has_event = step, 0, has_event

    def add(self) -> bool:
        """Count one more look, and return whether it is the first of the step.

        Raises:
            SeftError: TRN-023 if the step has no event.
        """
        if not self._has_event:
            raise SeftError("TRN-023", f"step {self.step} has no event that could look at more data")
        self._count += 1
        return self._count == 1

    def check(self) -> None:
        """Raise SeftError (TRN-023) if the event of the running step has another number of looks than it wants."""
        if self._has_event and self._count != self.wanted:
            raise SeftError(
                "TRN-023", f"the event of step {self.step} is to look {self.wanted} times, not {self._count}"
            )


@contextmanager
def watching(layers: Sequence[SparseUpdate], evidence_names: Iterable[str], keeps: str = "all") -> Iterator[None]:
    """Make every layer sum, from zero, the evidence of the backward passes in the context.

    evidence_names  names of `window.SUMS`
    keeps           where the sums are kept, one of `window.KEEPS`
    """
    for layer in layers:
        layer.unwatch()
        layer.watch(evidence_names, keeps=keeps)
    yield
    for layer in layers:
        layer.unwatch(forget=False)


def look(
    layers: Sequence[SparseUpdate], losses: Iterable[Tensor], trained: Sequence[Tensor], clause: str = "EVT-002"
) -> None:
    """Add the evidence of one more step to the sums of the layers.

    losses   losses of the step's micro-batches, each with its graph
    trained  every parameter that an optimizer trains, whose `.grad` stays as it is

    Raises:
        SeftError: `clause` if there is no loss.
    """
    values, n_losses = [layer.values for layer in layers], 0
    for layer in layers:
        layer.settle()
    for loss in losses:
        n_losses += 1
        if not any(is_split(x) for x in values):
            # autograd.grad replaces backward() here, because backward() would run the hooks of DDP
            torch.autograd.grad(loss, values)
            continue
        # autograd.grad cannot be used, because the leaves are gathered values that only FSDP holds
        before = [x.grad for x in trained]
        for x in trained:
            x.grad = None
        loss.backward()
        for x, gradient in zip(trained, before, strict=True):
            x.grad = gradient
    if not n_losses:
        raise SeftError(clause, "weights go by the gradient of losses, of which there is none; give those of the step")
