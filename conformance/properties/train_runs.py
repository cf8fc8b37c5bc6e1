"""Properties of whole runs (chapter 10)."""

from typing import Any

from conformance.gen import tiny
from conformance.gen.numbers import Numbers, ids
from conformance.gen.train import GAP, run_answer
from conformance.gen.train_steps import SETTINGS
from conformance.oracle import train, update_choices
from conformance.properties.draws import Draw
from conformance.properties.models import OFF, ask_until_sure, surely
from conformance.properties.trial import Trial, property_of

LEAST = 3e-4
"""The least first moment of a slot relative to the largest, because below it AdamW divides rounding by rounding."""


def weakest(run: train.Run) -> float:
    """Return the smallest first moment of a slot with an age, relative to the largest; 0 if all are 0."""
    sizes = [abs(x) for part in run.states for p, x in part.kept["m"].items() if part.kept["age"][p]]
    return min(sizes) / max(sizes) if any(sizes) else 0.0


_RUNS = ("seft", "active-only", "no-adapt", "magnitude")


@property_of(
    "train.run",
    "TRN-001 TRN-003 DLT-001 DLT-002 DLT-004 EVT-001 EVT-004 EVT-011 SCH-003 NUM-004",
    "train",
    "train.run",
    sees=("a run", "events"),
    seeded=2,
)
def _run(d: Draw, t: Trial) -> None:
    """A short run has the losses and events of the kit's own run, and ends with its weights."""

    def draw() -> tuple[dict[str, Any], dict[str, Any] | None]:
        steps, rows = d.integer(3, 5), d.integer(1, 2)
        settings = SETTINGS | {
            "preset": d.choice(_RUNS),
            "start": d.choice(("random", "gradient", "magnitude")),
            "seed": d.integer(0, 2**40),
            "steps": steps,
            "rows": rows,
            "micro_batches": d.integer(1, rows),
            "length": d.integer(3, 6),
            "density": d.integer(1, 3) / 8,
            "evolve_every": 2,
            "gradient_window": d.integer(1, 2),
            "drop_fraction": d.integer(2, 6) / 8,
            "schedule": d.choice(("constant", "linear", "cosine")),
            "max_norm": d.choice((1.0, 0.0)),
            # lr is small, because AdamW divides a small gradient by itself and so shows its rounding as a part of lr
            "lr": 2.0**-12,
        }
        world = tiny.world(Numbers(202, d.integer(0, 2**40)), tiny.CONFIG)
        tensors, stored, text = world
        inputs = {"config": tiny.CONFIG, "tensors": tensors, "text": ids(text), "settings": settings}
        inputs["stored"] = {name: ids(at) for name, at in stored.items()}
        run = train.run(tiny.CONFIG, tensors, stored, text, settings)
        answer = None
        # neighbours alone do not suffice, because AdamW's steps have nearly one size and rounding may turn a choice
        if weakest(run) > LEAST and run.gap >= GAP:
            answer = surely(
                d, tensors, lambda params: run_answer(train.run(tiny.CONFIG, params, stored, text, settings)), 10 * OFF
            )
        t.saw("events", answer is not None and answer["slots"])
        return inputs, answer

    ask_until_sure(t, "train.run", draw, "a run")


_ENDS: dict[str, dict[str, Any]] = {
    "a start by gradient anywhere": {
        "rule": update_choices.RULE | {"adapts": "never"},
        "start": "gradient",
        "initial_scope": "anywhere",
        "steps": 3,
        "evolve_every": 2,
    },
    "an event after the last step, and a last pass": {
        "rule": update_choices.rule_of("spiel-adapt") | {"adapts": "end"},
        "optimizer": "spiel-adamw",
        "start": "random",
        "steps": 6,
        "evolve_every": 4,
        "gradient_window": 2,
        "drop_fraction": 1.0,
    },
}
"""What a run must have seen -> the settings that show it."""


@property_of(
    "train.ends",
    "DLT-004 EVT-004 EVT-008 SCH-005",
    "train",
    "train.run",
    sees=tuple(_ENDS),
    seeded=1,
)
def _ends(d: Draw, t: Trial) -> None:
    """A run starts at the largest gradients of all positions, and prunes last even where an event has just been."""
    for what, more in _ENDS.items():

        def draw(more: dict[str, Any] = more) -> tuple[dict[str, Any], dict[str, Any] | None]:
            settings = SETTINGS | {"seed": d.integer(0, 2**40), "length": 5, "density": 0.25, "max_norm": 0.0}
            settings |= {"lr": 2.0**-8, "gradient_window": 1, "drop_fraction": 0.5} | more
            world = tiny.world(Numbers(206, d.integer(0, 2**40)), tiny.CONFIG)
            tensors, stored, text = world
            inputs = {"config": tiny.CONFIG, "tensors": tensors, "text": ids(text), "settings": settings}
            inputs["stored"] = {name: ids(at) for name, at in stored.items()}
            run = train.run(tiny.CONFIG, *world, settings)
            if weakest(run) <= LEAST or run.gap < GAP or not (_outside(run, world) or _pruned(run)):
                return inputs, None
            return inputs, surely(
                d, tensors, lambda params: run_answer(train.run(tiny.CONFIG, params, stored, text, settings)), 10 * OFF
            )

        ask_until_sure(t, "train.run", draw, what)


def _outside(run: train.Run, world: tuple[Any, dict[str, list[int]], list[int]]) -> bool:
    """Return whether a slot lies where no weight was stored at load."""
    return any(p not in at for at, part in zip(world[1].values(), run.states, strict=True) for p in part.phi)


def _pruned(run: train.Run) -> bool:
    """Return whether the last pass of a run prunes."""
    return any(len(w) < len(s.base.keys() | s.phi.keys()) for w, s in zip(run.final, run.states, strict=True))
