"""One training step on explicit batches with labels and masks (TRN-001, TRN-002)."""

from typing import Any

import numpy as np

from conformance.oracle import train_passage
from conformance.oracle.event import Part
from conformance.oracle.model import Config
from conformance.oracle.tape import Array
from conformance.oracle.train import Trainer

Batch = dict[str, Array]


class Given(Trainer):
    """A trainer on explicit batches instead of a text; a step concatenates all its micro-batches."""

    batches: list[Batch]

    def data(self, step: int) -> tuple[Array, Array, Array | None]:
        """Return the tokens and labels of all micro-batches, and which tokens are no padding."""
        tokens, labels = (np.concatenate([batch[name] for batch in self.batches]) for name in ("tokens", "labels"))
        masks = [batch.get("mask", np.ones(batch["tokens"].shape, dtype=np.bool_)) for batch in self.batches]
        return tokens, labels, np.concatenate(masks)


def one_step(
    config: Config,
    tensors: dict[str, Array],
    parts: list[Part],
    batches: list[Batch],
    settings: dict[str, Any],
    step: int,
) -> tuple[float, list[Part], float]:
    """Return the loss of a step, each target after the step, and the smallest gap of its event."""
    nothing: list[list[float]] = [[] for _ in parts]
    t = Given.resumed(config, tensors, [], settings, parts, (nothing, nothing))
    t.batches = batches
    passage = train_passage.go_on(t, step - 1, [], step)
    return passage.losses[0], passage.saved.parts, t.gap
