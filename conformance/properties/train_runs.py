"""Properties of whole runs (chapter 10)."""

from typing import Any

from conformance.answers import answer
from conformance.answers.train import run_of
from conformance.oracle import update_choices
from conformance.oracle.train_passage import Run
from conformance.properties.draws import Draw
from conformance.properties.models import OFF, TINY, ask_until_sure, surely
from conformance.properties.train_drawn import GAP, LEAST, SETTINGS, drawn_world, weakest
from conformance.properties.trial import Trial, property_of


def _of_neighbours(d: Draw, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the outputs of a run, or None if those of a model that is nearly the same are others."""

    def ask(tensors: dict[str, Any]) -> dict[str, Any]:
        return dict(answer("train.run", inputs | {"tensors": tensors}).outputs)

    return surely(d, inputs["tensors"], ask, 10 * OFF)


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
        inputs = drawn_world(d, TINY) | {"settings": settings}
        run = run_of(inputs)
        # neighbours alone do not suffice, because AdamW's steps have nearly one size and rounding may turn a choice
        sure = _of_neighbours(d, inputs) if weakest(run) > LEAST and run.trainer.gap >= GAP else None
        t.saw("events", sure is not None and sure["slots"])
        return inputs, sure

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
            inputs = drawn_world(d, TINY) | {"settings": settings}
            run = run_of(inputs)
            if weakest(run) <= LEAST or run.trainer.gap < GAP or not (_outside(run, inputs["stored"]) or _pruned(run)):
                return inputs, None
            return inputs, _of_neighbours(d, inputs)

        ask_until_sure(t, "train.run", draw, what)


def _outside(run: Run, stored: dict[str, Any]) -> bool:
    """Return whether a slot lies where no weight was stored at load."""
    return any(p not in at for at, part in zip(stored.values(), run.trainer.parts, strict=True) for p in part.phi)


def _pruned(run: Run) -> bool:
    """Return whether the last pass of a run prunes."""
    return any(len(w) < len(s.base.keys() | s.phi.keys()) for w, s in zip(run.final, run.trainer.parts, strict=True))
