"""Properties of training states: a run that stops and goes on equals the whole run (TRN-004, CKP-006, CKP-007)."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.gen import tiny
from conformance.gen.train import GAP
from conformance.gen.train_states import (
    RUNS,
    Run,
    World,
    after,
    answered,
    asked,
    in_binary32,
    is_weak,
    settings_for,
    told,
    world_of,
    written,
)
from conformance.oracle import train_state
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import asked_by
from conformance.oracle.train import rule_of
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


def _drawn(d: Draw) -> tuple[Run, dict[str, Any], int, World]:
    """Return a run, its settings, the step after which it stops, and its model, topologies and text."""
    one, rows = d.choice(RUNS[1:]), d.choice((1, 2, 4))
    settings = settings_for(one) | {
        "seed": d.integer(0, 50),
        "rows": rows,
        "micro_batches": d.choice((1, rows)),
        "lr": 2.0 ** -d.integer(3, 6),
        "warmup": d.choice((0, 2)),
        "schedule": d.choice(("constant", "linear", "cosine")),
        "max_norm": d.choice((0.0, 1.0, 0.0625)),
        "weight_decay": d.choice((0.0, 0.5)),
    }
    return one, settings, d.integer(1, settings["steps"]), world_of(one, d.integer(0, 1000))


def _held_by_window(settings: dict[str, Any], step: int) -> int:
    """Return the number of steps that the open window has summed up after a step; 0 if none is open (TRN-005)."""
    if not asked_by(rule_of(settings)):
        return 0
    return next((step - (end - n) for end, n in train_state.due(settings).items() if end - n < step < end), 0)


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
    one, settings, stop, world = _drawn(d)
    first = train_state.begin(one.config, *world, settings)
    saved = train_state.go_on(first, 0, [], stop).saved
    inputs = written(world, one.config, settings, stop)
    sure = first.gap >= GAP and not is_weak(saved)
    t.saw("a state inside a window", _held_by_window(settings, stop))
    t.saw("weights that have left the base", any(part.lost for part in saved.parts))
    t.saw("a state whose numbers are known", sure)
    t.saw("states whose numbers are known", sure)
    if sure:
        answer = t.case("state.write", inputs, {"raw": told(saved, one.config, settings)})
    else:
        answers = t.related("same", ("state.write", inputs))
        answer = answers[0] if answers else None
    # PRT-013: a port that does not say it is deterministic is not asked for the same bits
    if answer is None or not (t.variant.deterministic or t.variant.offers is None):
        return
    run = {key: value for key, value in inputs.items() if key not in ("origin", "stop")}
    rest = asked(world, one.config, settings, saved) | {"raw": answer["raw"]}
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


def _sums(
    d: Draw, part: Part, steps: int, rows: int, chosen: frozenset[int] | None, kinds: set[str]
) -> train_state.Sums:
    """Return random sums of a window of `steps` steps; squares of tokens only if `kinds` has them."""
    numel, columns = math.prod(part.shape), part.shape[1]
    g = [float(np.float32(x / 8)) for x in d.real((numel,))]
    more = [float(np.float32(abs(x) / 8)) for x in d.real((numel,))]
    absolute = [float(np.float32(abs(a) + b)) for a, b in zip(g, more, strict=True)]
    square = [float(np.float32(a * a)) for a in absolute]
    x = [float(np.float32(abs(x) + 0.5)) for x in d.real((columns,))]
    return train_state.Sums(steps, rows, g, absolute, square, x, chosen, square[::-1] if "tokens" in kinds else [])


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
    one, settings, _, world = _drawn(d)
    step = max(1, settings["steps"] - d.integer(1, 4))
    start = train_state.begin(one.config, *world, settings)
    passed = any(end <= step for end in train_state.due(settings))
    parts = [replace(_invented(d, part, step), first=not passed) for part in start.parts]
    steps_summed = _held_by_window(settings, step)
    sums: list[train_state.Sums] = []
    for part, n in zip(parts, start.delta_budgets, strict=True) if steps_summed else ():
        by_first = rule_of(settings)["candidates"] == "first-step"
        chosen = frozenset(d.some(range(math.prod(part.shape)), n)) if by_first else None
        sums.append(
            _sums(
                d,
                part,
                steps_summed,
                steps_summed * settings["rows"] * settings["length"],
                chosen,
                asked_by(rule_of(settings)),
            )
        )
    sm3 = settings["optimizer"] == "sm3"

    def accumulators(n: int) -> list[float]:
        return [float(np.float32(abs(x) / 16 + 2.0**-8)) if sm3 else 0.0 for x in d.real((n,))]

    rows, columns = ([accumulators(part.shape[axis]) for part in parts] for axis in (0, 1))
    saved = train_state.Saved(step, parts, rows, columns, sums)
    gap, (rest, final) = after(one, world, settings, saved)
    t.saw("too close to decide", gap < GAP)
    if gap < GAP:
        return
    t.saw("a state inside a window", steps_summed)
    t.saw("an event", rest.events)
    t.saw("weights that have left the base", any(part.lost for part in parts))
    inputs = asked(world, one.config, settings, saved, t.dtype)
    t.case("state.resume", inputs, answered(rest, final), dtypes=(t.dtype,))


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
    one = Run("small", {"evolves": 0}, {"optimizer": "sgd", "steps": 3, "evolve_every": 3}, 2, "", "", tiny.SMALLEST)
    settings, world = settings_for(one) | {"seed": d.integer(0, 50)}, world_of(one, d.integer(0, 1000))
    saved = train_state.go_on(train_state.begin(one.config, *world, settings), 0, [], one.stop).saved
    narrowed = in_binary32(saved)
    inputs, (_, (rest, final)) = asked(world, one.config, settings, narrowed), after(one, world, settings, narrowed)
    # a state of binary32 belongs to no run in another dtype, whatever its settings
    t.case("state.resume", inputs, answered(rest, final), dtypes=("float32",))
    for what, change in _OTHER.items():
        t.saw(what)
        t.case("state.resume", inputs | {"settings": settings | change}, refused=("CKP-006",), dtypes=("float32",))
