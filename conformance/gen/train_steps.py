"""Cases of single steps from states that a run has reached, so that errors of earlier steps do not add up."""

from dataclasses import replace
from typing import Any

import numpy as np

from conformance.gen import tiny
from conformance.gen import train as train_cases
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import train
from conformance.oracle.event import Part
from conformance.oracle.model import Config

SETTINGS = train_cases.SETTINGS | {
    "start": "gradient",
    "rows": 2,
    "length": 6,
    "density": 0.25,
    "evolve_every": 2,
    "seed": 0,
}
_SIGNED = {"preset": "sensitivity"}

_LEAST = 1e-6
"""Least gradient relative to the largest. Below it, rounding dominates a quotient m / sqrt(v)."""

World = tuple[dict[str, Array], dict[str, list[int]], list[int]]


def rounded(part: Part) -> Part:
    """Return a state rounded to binary32, so that steps in every dtype start from the same numbers."""
    kept = {
        name: {p: x if name == "age" else float(np.float32(x)) for p, x in values.items()}
        for name, values in part.kept.items()
    }
    base = {p: float(np.float32(b)) for p, b in part.base.items()}
    return replace(part, base=base, phi={p: float(np.float32(x)) for p, x in part.phi.items()}, kept=kept)


def summed(earlier: train.Earlier | None, step: train.OneStep) -> train.Earlier:
    """Return the sums of a window with one more step, rounded to binary32."""
    if earlier is None:
        nothing = [[[0.0] * len(x) for x in values] for values in (step.gradients, step.tokens)]
        earlier = train.Earlier(nothing[0], 0, nothing[1])
    sums, tokens = _added(earlier.sums, step.gradients), _added(earlier.tokens, step.tokens)
    return train.Earlier(sums, earlier.steps + 1, tokens)


def _added(before: list[list[float]], values: list[list[float]]) -> list[list[float]]:
    return [
        [float(np.float32(a + x)) for a, x in zip(old, new, strict=True)]
        for old, new in zip(before, values, strict=True)
    ]


def described(part: Part) -> dict[str, Any]:
    """Return the state of a target in the form of inputs and outputs of operations."""
    base, slots = sorted(part.base), sorted(part.phi)
    return {
        "base": ids(base),
        "base_values": reals([part.base[p] for p in base]),
        "delta": ids(slots),
        "delta_values": reals([part.phi[p] for p in slots]),
        **{name: reals([part.kept[name][p] for p in slots]) for name in ("m", "v")},
        "age": ids([part.kept["age"][p] for p in slots]),
        "budget": part.budget[0],
        "delta_budget": part.delta_budget[0],
    }


def asked(
    config: Config,
    world: World,
    parts: list[Part],
    settings: dict[str, Any],
    step: int,
    earlier: train.Earlier | None = None,
) -> dict[str, Any]:
    """Return the inputs of `train.step`."""
    tensors, _, text = world
    entries = [described(part) for part in parts]
    if earlier is not None:
        for one, part, sums, tokens in zip(entries, parts, earlier.sums, earlier.tokens, strict=True):
            one |= {"window": reals(sums).reshape(part.shape), "window_steps": earlier.steps}
            if tokens:
                one["window_tokens"] = reals(tokens[p] for p in sorted(part.base.keys() | part.phi.keys()))
    return {
        "config": config,
        "tensors": tensors,
        "parts": entries,
        "text": ids(text),
        "settings": settings,
        "step": step,
    }


def answered(loss: float, parts: list[Part]) -> dict[str, Any]:
    """Return the outputs of `train.step`."""
    entries = [described(part) for part in parts]
    names = ("base", "base_values", "delta", "delta_values", "m", "v", "age")
    return {"loss": loss, **{name: [one[name] for one in entries] for name in names}}


def steps() -> Area:
    """Return cases of steps with and without an event, from states that only a run reaches (TRN, EVT, OPT)."""
    area = Area("step", "binary64 step")
    clauses = "TRN-001 TRN-003 EVT-001 EVT-002 EVT-006 OPT-001 OPT-004 DLT-003"
    event = f"{clauses} SCH-001 SCH-002 GROW-002 GROW-003 ADPT-002 ADPT-004 DLT-005"
    table: tuple[tuple[str, dict[str, Any], tuple[int, ...]], ...] = (
        ("plain", {}, (1, 3)),
        ("event", {}, (2, 4, 6)),
        ("active-only", {"preset": "active-only"}, (4,)),
        ("no-adapt", {"preset": "no-adapt"}, (4,)),
        ("decay", {"weight_decay": 0.5, "max_norm": 0.0625, "micro_batches": 2}, (4,)),
        ("window", _SIGNED | {"gradient_window": 2, "evolve_every": 3}, (3,)),
        ("long-window", _SIGNED | {"gradient_window": 4, "evolve_every": 4, "micro_batches": 2}, (4,)),
        ("tokens-window", {"gradient_window": 3, "evolve_every": 4}, (4,)),
    )
    for name, change, at in table:
        settings = SETTINGS | change
        for seed, step, inputs, answer in reached(settings, at):
            purpose = "an age, a moment or a slot that the run before it has left and a fresh start does not have"
            linked = event if step % settings["evolve_every"] == 0 else clauses
            linked += " GRD-004 TRN-005" if "window" in inputs["parts"][0] else ""
            linked += " GRD-008" if "window_tokens" in inputs["parts"][0] else ""
            inputs["settings"] = settings | {"seed": seed}
            area.add(f"{name}-{step}", "train.step", linked, purpose, inputs, answer)
    return area


def reached(
    settings: dict[str, Any], at: tuple[int, ...], config: Config = tiny.CONFIG
) -> list[tuple[int, int, dict[str, Any], dict[str, Any]]]:
    """Return (seed, step, inputs, outputs) of the steps `at`, for the first seed that fits.

    A seed fits if no step depends on a small gap, and if the tokens of a window's last step alone would prune other
    weights than those of all its steps.
    """
    for seed in range(200):
        seeded = settings | {"seed": seed}
        world = tiny.world(Numbers(61, seed), config)
        trainer = train.Trainer(config, *world, seeded)
        parts = [rounded(part) for part in trainer.parts]
        cases = []
        earlier = None
        for step in range(1, max(at) + 1):
            before, ends = train.window_of(seeded, step)
            earlier = earlier if before else None
            own = train.one_step(config, world[0], parts, world[2], seeded, step, earlier)
            if own.gap < train_cases.GAP or min(trainer.gap, _weakest(own.parts)) < _LEAST:
                break
            if step in at:
                if ends and earlier is not None and any(earlier.tokens):
                    lost = replace(earlier, tokens=[[0.0] * len(x) for x in earlier.tokens])
                    alone = train.one_step(config, world[0], parts, world[2], seeded, step, lost)
                    if all(a.base == b.base for a, b in zip(alone.parts, own.parts, strict=True)):
                        break
                inputs = asked(config, world, parts, seeded, step, earlier if ends else None)
                cases.append((seed, step, inputs, answered(own.loss, own.parts)))
            parts, earlier = [rounded(part) for part in own.parts], summed(earlier, own)
        else:
            return cases
    msg = "no seed with gaps large enough"
    raise AssertionError(msg)


def _weakest(parts: list[Part]) -> float:
    """Return the smallest first moment of a slot with an age, relative to the largest of its matrix."""
    shares = []
    for part in parts:
        sizes = [abs(x) for p, x in part.kept["m"].items() if part.kept["age"][p]]
        shares += [size / max(sizes) for size in sizes if size]
    return min(shares, default=1.0)


AREAS = (steps,)
