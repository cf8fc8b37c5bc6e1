"""Losses of examples, and the measurements of a run with validation data (EVL-004, TRN-022)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conformance.oracle import train_text, update
from conformance.oracle.model import Config, Decoder
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.tape import Array
from conformance.oracle.train import Step, Trainer
from conformance.oracle.train_passage import go_on

IGNORED = -100


def loss_of_examples(
    config: Config, tensors: dict[str, Array], examples: Sequence[tuple[Array, Array]]
) -> tuple[float, int]:
    """Return the mean loss of examples, tokens and labels of each, and the number of targets (EVL-004)."""
    nats: list[float] = []
    for tokens, labels in examples:
        if len(tokens) > config["max_position_embeddings"]:
            msg = f"TRN-017: {len(tokens)} tokens"
            raise RefusedError(msg)
        if not all(0 <= token < config["vocab_size"] for token in tokens.tolist()):
            msg = f"TRN-018: {tokens}"
            raise RefusedError(msg)
        with np.errstate(all="ignore"):
            every = Decoder(config, tensors).logits(tokens[None]).value[0].tolist()
        for logits, label in zip(every, labels[1:].tolist(), strict=False):
            if label != IGNORED:
                top = max(logits)
                nats.append(top + math.log(sum(math.exp(x - top) for x in logits)) - logits[label])
    mean = math.fsum(nats) / len(nats)
    if not math.isfinite(mean):
        msg = f"EVL-003: {mean}"
        raise RefusedError(msg)
    return mean, len(nats)


def measured(losses: Sequence[float], every: int, patience: int | None) -> tuple[list[int], int, int]:
    """Return the steps after which a run is measured, the step whose model it leaves, and its last step (TRN-022)."""
    at: list[int] = []
    best, worse = 0, 0
    for step, loss in enumerate(losses, start=1):
        if step % every and step < len(losses):
            continue
        at.append(step)
        if not best or loss < losses[best - 1]:
            best, worse = step, 0
        else:
            worse += 1
        if worse == patience:
            return at, best, step
    return at, best, len(losses)


WINDOWS = 40


@dataclass
class Measurements:
    """The measurements of a run.

    Attributes:
        losses: the loss after each step that is measured.
        best: the run after the step with the smallest loss.
        near: the smallest relative distance of a loss to the smallest one before it.
        last: the step after which the run ended, 0 before that.
    """

    losses: dict[int, float] = field(default_factory=dict)
    best: "tuple[int, _Measured] | None" = None
    near: float = math.inf
    last: int = 0


class _EndedError(Exception):
    """The patience of a run ended it."""


class _Measured(Trainer):
    """A run that measures itself on the text `valid` of its settings."""

    def __init__(self, *arguments: Any) -> None:
        self.ahead, self.measurements = True, Measurements()
        super().__init__(*arguments)
        self.ahead = False

    def look(self, step: int) -> Step:
        """Measure the step before this one, and return what the run sees at this one."""
        if not self.ahead:
            self.measure(step - 1)
        return super().look(step)

    def looks(self, step: int) -> list[Step]:
        """Return what an event sees, which looks at steps that are not taken yet."""
        if not self.ahead:
            self.measure(step - 1)
        self.ahead = True
        looks = super().looks(step)
        self.ahead = False
        return looks

    def measure(self, step: int) -> None:
        """Measure the effective weights after a step, if it is due (TRN-022)."""
        s, measurements = self.s, self.measurements
        if step < 1 or (step % s["valid_every"] and step < s["steps"]):
            return
        tensors = dict(self.tensors)
        for name, shape, part in zip(self.names, self.shapes, self.parts, strict=True):
            weights = update.effective(part.base, part.phi)
            tensors[name] = np.array([weights.get(p, 0.0) for p in range(shape[0] * shape[1])]).reshape(shape)
        valid, length = np.array(s["valid"]), s["length"]
        starts = train_text.evaluation_starts(len(valid), length, WINDOWS)
        rows = np.stack([valid[start : start + length] for start in starts])
        loss = float(Decoder(self.config, tensors).loss(rows, rows)[0].value)
        measurements.losses[step] = loss
        measurements.last = step
        best = min(measurements.losses, key=lambda at: (measurements.losses[at], at))
        if measurements.best is not None:
            smallest = measurements.losses[measurements.best[0]]
            measurements.near = min(measurements.near, abs(loss - smallest) / smallest)
        if best == step:
            measurements.best = None
            measurements.best = (step, copy.deepcopy(self))
        worse = sum(at > best for at in measurements.losses)
        if worse == s["patience"]:
            raise _EndedError


def run(
    config: Config,
    tensors: dict[str, Array],
    masks: dict[str, list[int]],
    text: list[int],
    settings: dict[str, Any],
) -> tuple[Measurements, list[dict[int, float]], float]:
    """Return the measurements of a run, its final weights, and the smallest gap of its selections.

    settings  those of a run, and `valid`, `valid_every` and `patience`
    """
    valid = settings["valid"]
    if len(valid) < settings["length"]:
        msg = f"EVL-002: {len(valid)} tokens"
        raise RefusedError(msg)
    if not all(0 <= token < config["vocab_size"] for token in valid):
        msg = "TRN-018: a token"
        raise RefusedError(msg)
    trainer = _Measured(config, tensors, masks, text, settings)
    try:
        go_on(trainer, 0, (), settings["steps"])
        trainer.measure(settings["steps"])
    except _EndedError:
        pass
    measurements = trainer.measurements
    assert measurements.best is not None
    step, best = measurements.best
    best.s = best.s | {"steps": step}
    best.ahead = True
    final = best.finish()
    return measurements, final, min(best.gap, trainer.gap)
