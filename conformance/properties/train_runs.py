"""Properties of whole runs (chapter 10)."""

from typing import Any

from conformance.gen import tiny
from conformance.gen.numbers import Numbers, ids
from conformance.gen.train import GAP, run_answer
from conformance.gen.train_steps import SETTINGS
from conformance.oracle import train
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
