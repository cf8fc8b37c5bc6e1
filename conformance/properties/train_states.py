"""Properties of training states: a run that stops and goes on equals the whole run (TRN-004, CKP-006, CKP-007)."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.answers.train_state import raw_of, resumed_from, saved_after
from conformance.oracle import update_choices
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import asked_by
from conformance.oracle.model import targets
from conformance.oracle.train_passage import Saved, Sums
from conformance.oracle.train_saved import steps_of_window
from conformance.oracle.train_settings import due, rule_of
from conformance.properties.draws import Draw
from conformance.properties.models import TINY
from conformance.properties.train_drawn import GAP, SETTINGS, SMALLEST, World, drawn_world, rounded, started
from conformance.properties.trial import Trial, property_of

ORIGIN = {"model": "0" * 64, "text": "1" * 64}
"""The digests of model and text that a run is given."""

_SPIEL = {"initial_scope": "anywhere", "max_norm": 0.0, "evolve_every": 4, "gradient_window": 2}
_RUNS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {"gradient_window": 3}),
    ({"adapts": "end"}, {"steps": 4, "evolve_every": 2}),
    ({"drop": "change", "scope": "row"}, {"optimizer": "sgd"}),
    (update_choices.rule_of("spiel-ma"), _SPIEL | {"optimizer": "sm3"}),
    (update_choices.rule_of("spiel-ag"), _SPIEL | {"optimizer": "spiel-adamw"}),
    ({"drop": "fisher", "grow": "absolute", "adapt": "curvature"}, {"gradient_window": 3, "start": "magnitude"}),
    ({"adapt": "token-fisher"}, {"gradient_window": 3}),
    (
        {"grow_scope": "active", "grow": "absolute", "drop": "fisher"},
        {"gradient_window": 3, "density": 0.25},
    ),
    ({"scope": "group"}, {"pattern": [2, 4], "budget_by": "count", "slots": 40}),
)
"""Choices and settings of runs whose states hold different things."""

_LEAST = 1e-3
"""Least moment of a slot relative to the largest. Below it, rounding dominates a quotient of moments."""


def settings_of_run(choices: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by the rule `seft` with other choices."""
    usual = {"start": "random", "initial_scope": "active", "budget_by": "numel", "optimizer": "adamw", "momentum": 0.9}
    usual |= {"steps": 10, "rows": 3, "length": 5, "density": 0.5, "drop_fraction": 1.0, "lr": 2.0**-4}
    return SETTINGS | usual | {"evolve_every": 3, "rule": update_choices.RULE | choices} | more


def written(world: World, settings: dict[str, Any], stop: int) -> dict[str, Any]:
    """Return the inputs of `state.write`."""
    return world | {"settings": settings, "origin": ORIGIN, "stop": stop}


def resuming(world: World, settings: dict[str, Any], saved: Saved, dtype: str = "float32") -> dict[str, Any]:
    """Return the inputs of `state.resume`, with zeros for the targets, which a run reads from the state."""
    zeros = {name: np.zeros_like(world["tensors"][name]) for name in targets(world["config"])}
    inputs = {name: world[name] for name in ("config", "text")} | {"tensors": world["tensors"] | zeros}
    inputs |= {"settings": settings, "origin": ORIGIN}
    return inputs | {"raw": raw_of(inputs, saved, dtype)}


def in_binary32(saved: Saved) -> Saved:
    """Return a state rounded to binary32, so that runs in every dtype resume from the same numbers."""

    def narrow(values: list[float]) -> list[float]:
        return [float(np.float32(x)) for x in values]

    names = ("gradient", "absolute", "square", "inputs", "tokens")
    narrowed = [{name: narrow(getattr(one, name)) for name in names} for one in saved.sums]
    sums = [Sums(**(vars(one) | values)) for one, values in zip(saved.sums, narrowed, strict=True)]
    rows, columns = [narrow(x) for x in saved.rows], [narrow(x) for x in saved.columns]
    return Saved(saved.step, [rounded(part) for part in saved.parts], rows, columns, sums)


def is_weak(saved: Saved) -> bool:
    """Return whether a moment is noise beside those of its matrix, or a matrix's moments beside those of the others."""
    for name in ("m", "u"):
        matrices = [sizes for part in saved.parts if (sizes := [abs(x) for x in part.kept.get(name, {}).values() if x])]
        if any(min(sizes) < _LEAST * max(sizes) for sizes in matrices):
            return True
        # where a row repeats one token, the whole gradient of q_proj is 0 but for rounding
        largest = [max(sizes) for sizes in matrices]
        if largest and min(largest) < _LEAST**2 * max(largest):
            return True
    return False


def _drawn(d: Draw) -> tuple[dict[str, Any], int, World]:
    """Return the settings of a run, the step after which it stops, and its model, topologies and text."""
    choices, more = d.choice(_RUNS)
    rows = d.choice((1, 2, 4))
    settings = settings_of_run(choices, more) | {
        "seed": d.integer(0, 50),
        "rows": rows,
        "micro_batches": d.choice((1, rows)),
        "lr": 2.0 ** -d.integer(3, 6),
        "warmup": d.choice((0, 2)),
        "schedule": d.choice(("constant", "linear", "cosine")),
        "max_norm": d.choice((0.0, 1.0, 0.0625)),
        "weight_decay": d.choice((0.0, 0.5)),
    }
    return settings, d.integer(1, settings["steps"]), drawn_world(d, TINY, pattern="pattern" in settings)


@property_of(
    "state.resumed",
    "TRN-004 CKP-006 CKP-007",
    "state",
    "state.write state.resume train.run",
    sees=("a state inside a window", "weights that have left the base", "a state whose numbers are known"),
    tells=("states whose numbers are known",),
    cost=10,
)
def _resumed(d: Draw, t: Trial) -> None:
    """A run that stops after any step and goes on from its state gives the bits of one that does not stop."""
    settings, stop, world = _drawn(d)
    inputs = written(world, settings, stop)
    gap, saved = saved_after(inputs)
    sure = gap >= GAP and not is_weak(saved)
    t.saw("a state inside a window", steps_of_window(settings, stop))
    t.saw("weights that have left the base", any(part.lost for part in saved.parts))
    t.saw("a state whose numbers are known", sure)
    t.saw("states whose numbers are known", sure)
    if sure:
        answer = t.case("state.write", inputs)
    else:
        answers = t.related("same", ("state.write", inputs))
        answer = answers[0] if answers else None
    # PRT-013: a port that does not say it is deterministic is not asked for the same bits
    if answer is None or not (t.variant.deterministic or t.variant.offers is None):
        return
    run = {key: value for key, value in inputs.items() if key not in ("origin", "stop")}
    rest = resuming(world, settings, saved) | {"raw": answer["raw"]}
    t.related("a run that goes on", ("train.run", run), ("state.resume", rest))


def _invented(d: Draw, part: Part, step: int) -> Part:
    """Return a target with random moments, ages and values and a smaller base, which no run need have reached."""

    def real(scale: float) -> dict[int, float]:
        return {p: float(np.float32(x * scale)) for p, x in zip(part.phi, d.real((len(part.phi),)), strict=True)}

    gone = set(d.some(sorted(part.base), d.integer(0, 2))) if len(part.base) > 2 else set[int]()
    kept: dict[str, dict[int, Any]] = {}
    for name in part.kept:
        kept[name] = {p: abs(x) + 2.0**-10 for p, x in real(2.0**-8).items()} if name == "v" else real(2.0**-4)
        if name == "age":
            kept[name] = {p: d.integer(0, step) for p in part.phi}
    base = {p: b for p, b in part.base.items() if p not in gone}
    return replace(part, base=base, phi=real(0.125), kept=kept, lost=frozenset(gone))


def _sums(d: Draw, part: Part, steps: int, rows: int, chosen: frozenset[int] | None, kinds: set[str]) -> Sums:
    """Return random sums of a window of `steps` steps; squares of tokens only if `kinds` has them."""
    numel, columns = math.prod(part.shape), part.shape[1]
    g = [float(np.float32(x / 8)) for x in d.real((numel,))]
    more = [float(np.float32(abs(x) / 8)) for x in d.real((numel,))]
    absolute = [float(np.float32(abs(a) + b)) for a, b in zip(g, more, strict=True)]
    square = [float(np.float32(a * a)) for a in absolute]
    x = [float(np.float32(abs(x) + 0.5)) for x in d.real((columns,))]
    return Sums(steps, rows, g, absolute, square, x, chosen, square[::-1] if "tokens" in kinds else [])


@property_of(
    "state.invented",
    "CKP-006 CKP-007 TRN-004",
    "state",
    "state.resume",
    sees=("a state inside a window", "an event", "weights that have left the base"),
    tells=("too close to decide",),
    cost=10,
)
def _any_state(d: Draw, t: Trial) -> None:
    """From any state a run goes on as the kit's own run does."""
    settings, _, world = _drawn(d)
    rule, step = rule_of(settings), max(1, settings["steps"] - d.integer(1, 4))
    passed = any(end <= step for end in due(settings))
    start = started(world, settings)
    parts = [replace(_invented(d, part, step), first=not passed) for part in start]
    n, sums = steps_of_window(settings, step), list[Sums]()
    for part, slots in zip(parts, start, strict=True) if n else ():
        by_first, d_phi = rule["candidates"] == "first-step", sum(slots.delta_budget)
        chosen = frozenset(d.some(range(math.prod(part.shape)), d_phi)) if by_first else None
        sums.append(_sums(d, part, n, n * settings["rows"] * settings["length"], chosen, asked_by(rule)))
    sm3 = settings["optimizer"] == "sm3"

    def accumulators(n: int) -> list[float]:
        return [float(np.float32(abs(x) / 16 + 2.0**-8)) if sm3 else 0.0 for x in d.real((n,))]

    rows, columns = ([accumulators(part.shape[axis]) for part in parts] for axis in (0, 1))
    saved = Saved(step, parts, rows, columns, sums)
    inputs = resuming(world, settings, saved, t.dtype)
    rest = resumed_from(inputs, saved)
    t.saw("too close to decide", rest.trainer.gap < GAP)
    if rest.trainer.gap < GAP:
        return
    t.saw("a state inside a window", n)
    t.saw("an event", rest.passage.events)
    t.saw("weights that have left the base", any(part.lost for part in parts))
    t.case("state.resume", inputs, dtypes=(t.dtype,))


_OTHER: dict[str, dict[str, Any]] = {
    "steps": {"steps": 4},
    "rows": {"rows": 4},
    "micro-batches": {"micro_batches": 3},
    "length": {"length": 6},
    "events": {"evolve_every": 2},
    "rate": {"lr": 2.0**-6},
    "warm-up": {"warmup": 1},
    "schedule": {"schedule": "linear"},
    "norm": {"max_norm": 0.5},
    "decay": {"weight_decay": 0.25},
    "momentum": {"momentum": 0.5},
    "drop fraction": {"drop_fraction": 0.5},
    "seed": {"seed": 101},
    "start": {"start": "magnitude"},
}
"""What differs -> a setting that is another one than that of the state."""


@property_of("state.refuses", "CKP-006", "state", "state.resume", sees=tuple(_OTHER), seeded=1)
def _other_settings(d: Draw, t: Trial) -> None:
    """A run goes on from a state of its own settings, and refuses one made with another value of any one setting."""
    small = {"optimizer": "sgd", "steps": 3, "seed": d.integer(0, 50)}
    settings, world = settings_of_run({"evolves": 0}, small), drawn_world(d, SMALLEST)
    _, saved = saved_after(written(world, settings, 2))
    inputs = resuming(world, settings, in_binary32(saved))
    # a state of binary32 belongs to no run in another dtype, whatever its settings
    t.case("state.resume", inputs, dtypes=("float32",))
    for what, change in _OTHER.items():
        t.saw(what)
        t.case("state.resume", inputs | {"settings": settings | change}, dtypes=("float32",))
