"""Random runs: a small model with topologies and a text, settings, and the inputs of steps."""

from dataclasses import replace
from typing import Any

import numpy as np

from conformance.answers.answer import ids, reals
from conformance.answers.train import described, world_of
from conformance.oracle import prune, train
from conformance.oracle.event import Part
from conformance.oracle.model import Config, targets
from conformance.oracle.train_passage import Run
from conformance.properties.draws import Array, Draw, Many
from conformance.properties.models import TINY, drawn_tensors

__all__ = ["GAP", "LEAST", "SETTINGS", "SMALLEST", "asked", "drawn_world", "masked", "moving", "rounded", "started"]
__all__ += ["summed", "weakest"]

GAP = 2e-4
"""Smallest relative gap between chosen and other scores in a run; rounding in binary32 moves a score by some 1e-6."""

LEAST = 3e-4
"""The least first moment of a slot relative to the largest, because below it AdamW divides rounding by rounding."""

SMALLEST: Config = TINY | {"hidden_size": 2, "intermediate_size": 2, "num_attention_heads": 1}
"""The smallest config, for runs that are refused."""

SETTINGS: dict[str, Any] = {
    "preset": "seft",
    "start": "gradient",
    "steps": 12,
    "rows": 2,
    "micro_batches": 1,
    "length": 6,
    "density": 0.25,
    "evolve_every": 2,
    "drop_fraction": 0.6,
    "gradient_window": 1,
    "lr": 2.0**-6,
    "warmup": 0,
    "schedule": "constant",
    "max_norm": 1.0,
    "weight_decay": 0.0,
    "seed": 0,
}

World = dict[str, Any]
"""The inputs `config`, `tensors`, `stored` and `text` of a run."""


def masked(tensors: dict[str, Array], stored: dict[str, Any]) -> dict[str, Array]:
    """Return tensors whose targets are 0 but at the stored positions."""
    kept = {name: np.zeros(tensors[name].size) for name in stored}
    for name, at in stored.items():
        kept[name][at] = tensors[name].reshape(-1)[at]
    return tensors | {name: values.reshape(tensors[name].shape) for name, values in kept.items()}


def drawn_world(d: Draw, config: Config, *, pattern: bool = False) -> World:
    """Return a model of which half is stored, and a text in which a token narrows down the next one."""
    tensors, text = drawn_tensors(d, config), [1]
    weights = {name: tensors[name] for name in targets(config)}
    stored = {name: prune.pattern(abs(w), 2, 4) if pattern else prune.magnitude(w, 0.5) for name, w in weights.items()}
    for step in Many(d).integers(29, 0, 3).tolist():
        text.append((3 * text[-1] + 1 + step // 3) % 5)
    at = {name: ids(positions) for name, positions in stored.items()}
    return {"config": config, "tensors": masked(tensors, stored), "stored": at, "text": ids(text)}


def started(world: World, settings: dict[str, Any]) -> list[Part]:
    """Return the targets of a run before its first step."""
    return train.Trainer(**world_of(world | {"settings": settings})).parts


def moving(parts: list[Part]) -> list[Part]:
    """Return targets whose slots have moments, because a first step of AdamW shows only the sign of a gradient."""
    of_slot = {"m": 0.125, "v": 0.0625, "age": 1}
    return [replace(x, kept={name: dict.fromkeys(x.phi, value) for name, value in of_slot.items()}) for x in parts]


def rounded(part: Part) -> Part:
    """Return a state rounded to binary32, so that steps in every dtype start from the same numbers."""

    def narrow(values: dict[int, Any]) -> dict[int, Any]:
        return {p: x if isinstance(x, int) else float(np.float32(x)) for p, x in values.items()}

    kept = {name: narrow(values) for name, values in part.kept.items()}
    return replace(part, base=narrow(part.base), phi=narrow(part.phi), kept=kept)


def summed(earlier: train.Earlier | None, step: train.OneStep) -> train.Earlier:
    """Return the sums of a window with one more step, rounded to binary32."""

    def added(name: str, new: list[list[float]]) -> list[list[float]]:
        old = getattr(earlier, name) if earlier else [[0.0] * len(x) for x in new]
        return [np.float32(np.add(a, x)).astype(float).tolist() for a, x in zip(old, new, strict=True)]

    n = earlier.steps if earlier else 0
    return train.Earlier(added("sums", step.gradients), n + 1, added("tokens", step.tokens))


def asked(
    world: World, parts: list[Part], settings: dict[str, Any], step: int, earlier: train.Earlier | None = None
) -> dict[str, Any]:
    """Return the inputs of `train.step`."""
    entries = [described(part) for part in parts]
    if earlier is not None:
        for one, part, sums, tokens in zip(entries, parts, earlier.sums, earlier.tokens, strict=True):
            one |= {"window": reals(sums).reshape(part.shape), "window_steps": earlier.steps}
            if tokens:
                one["window_tokens"] = reals(tokens[p] for p in sorted(part.base.keys() | part.phi.keys()))
    return {name: world[name] for name in ("config", "tensors", "text")} | {
        "parts": entries,
        "settings": settings,
        "step": step,
    }


def weakest(run: Run) -> float:
    """Return the smallest first moment of a slot with an age, relative to the largest; 0 if all are 0."""
    sizes = [abs(x) for part in run.trainer.parts for p, x in part.kept["m"].items() if part.kept["age"][p]]
    return min(sizes) / max(sizes) if any(sizes) else 0.0
