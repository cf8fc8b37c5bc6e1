"""Properties of counts, budgets, schedules and choices (DLT, SCH, EVT-012)."""

from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import ids
from conformance.oracle import update_choices, update_counts, update_schedule
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


@property_of(
    "count.budget", "DLT-002 SEL-006", "core", "count.budget", sees=("an integer missed by the last bits", "the cap")
)
def _budget(d: Draw, t: Trial) -> None:
    """d_φ is floor(density · out · in + 2⁻²⁰), at most what is stored."""
    shape = d.integer(1, 200), d.integer(1, 200)
    density = d.integer(1, 100) / 100
    if d.flag():
        # the matrix has a multiple of 100 entries, because the product is then an integer but for rounding
        shape = 10 * d.integer(1, 9), 10 * d.integer(1, 9)
    stored = d.integer(0, shape[0] * shape[1])
    x = density * shape[0] * shape[1]
    t.saw("an integer missed by the last bits", x != round(x) and abs(x - round(x)) < 2.0**-20)
    t.saw("the cap", update_counts.count(x) > stored)
    inputs = {"density": density, "out": shape[0], "in": shape[1], "stored": stored}
    t.case("count.budget", inputs)


@property_of("count.drop", "SCH-001 SCH-002 SEL-006", "core", "count.drop", sees=("a rate that meets an integer",))
def _count_drop(d: Draw, t: Trial) -> None:
    """n_drop is floor(fraction · |η| + 2⁻²⁰) with the fraction of the cosine."""
    steps = 6 * d.integer(1, 40)
    step = d.choice((0, steps // 3, steps // 2, 2 * steps // 3, steps, d.integer(0, steps)))
    fraction, slots = d.integer(0, 100) / 100, d.choice((0, 1, 20, 100, 1000, d.integer(0, 5000)))
    x = update_schedule.drop_fraction(fraction, step, steps) * slots
    t.saw("a rate that meets an integer", x and abs(x - round(x)) < 2.0**-20)
    inputs = {"drop_fraction": fraction, "step": step, "steps": steps, "slots": slots}
    t.case("count.drop", inputs)


@property_of(
    "schedule.numbers",
    "SCH-001 SCH-004",
    "core",
    "schedule.fraction schedule.learning_rate",
    sees=("warm-up", "after warm-up", "the last step"),
)
def _schedule_numbers(d: Draw, t: Trial) -> None:
    """Drop fraction and learning rate are those of the written formulas."""
    steps = d.integer(1, 200)
    step = d.choice((0, steps, d.integer(0, steps)))
    fraction = d.integer(0, 64) / 64
    t.case("schedule.fraction", {"drop_fraction": fraction, "step": step, "steps": steps})
    step, warmup, lr = max(step, 1), d.integer(0, steps), d.integer(1, 100) / 1000
    kind = d.choice(("constant", "linear", "cosine"))
    t.saw("warm-up", step < warmup)
    t.saw("after warm-up", step > warmup)
    t.saw("the last step", step == steps)
    t.case("schedule.learning_rate", {"kind": kind, "lr": lr, "step": step, "steps": steps, "warmup": warmup})


@property_of(
    "schedule.events",
    "SCH-003 SCH-005",
    "core",
    "schedule.events",
    sees=("the last step would be one", "no event"),
)
def _events(d: Draw, t: Trial) -> None:
    """An event follows every step that is a multiple of the period, except the last step."""
    every = d.integer(1, 20)
    steps = every * d.integer(1, 6) + d.choice((0, 0, d.integer(0, every - 1)))
    t.saw("the last step would be one", steps % every == 0)
    t.saw("no event", steps <= every)
    t.case("schedule.events", {"steps": steps, "evolve_every": every})


@property_of(
    "schedule.phases", "SCH-005 SCH-007", "rules", "schedule.spiel schedule.all_events", sees=("no accumulation",)
)
def _phases(d: Draw, t: Trial) -> None:
    """Selections of SpIEL follow steps A, R + A, …; no event of either kind follows a step after E."""
    period = d.integer(2, 12)
    accumulate, steps = d.integer(0, period - 2), d.integer(0, 60)
    t.saw("no accumulation", accumulate == 0)
    t.case("schedule.spiel", {"period": period, "accumulate": accumulate, "steps": steps})
    kind, until, steps = d.choice(("period", "phases")), d.integer(1, 8) / 8, max(steps, 1)
    window = d.integer(1, period) if kind == "period" else accumulate
    inputs = {"events": kind, "steps": steps, "evolve_every": period, "evolve_until": until, "gradient_window": window}
    t.case("schedule.all_events", inputs)


@property_of("choice.contradictions", "EVT-012", "rules", "rule.check", sees=("a contradiction", "choices that agree"))
def _contradictions(d: Draw, t: Trial) -> None:
    """Choices are refused where they contradict each other, under the clause that says so, and nowhere else."""
    open_to = {k: v for k, (v, _) in update_choices.VALUES.items() if k not in ("events", "budget_by")}
    inputs: dict[str, Any] = {}
    for key in d.some(list(open_to), d.integer(0, 4)):
        inputs[key] = d.choice(open_to[key])
    if d.flag():
        inputs["optimizer"] = d.choice(("adamw", "sgd", "sm3", "spiel-adamw"))
    if d.flag(3):
        inputs["pattern"] = [2, 4]
    if made := answer("rule.check", {"choices": inputs}).refused:
        t.saw("a contradiction")
        # EVT-012 is right too, because several contradictions may hold at once and any may be named
        t.case("rule.check", {"choices": inputs}, refused=sorted({*made, "EVT-012"}))
        return
    t.saw("choices that agree", len(inputs) > 1)
    t.case("rule.check", {"choices": inputs})


@property_of("preset.rule", "EVT-011", "rules", "preset.rule", sees=("a preset", "an unknown name"))
def _preset(d: Draw, t: Trial) -> None:
    """A preset has the choices of its table, and a name without a table is refused.

    There are finitely many presets and a frozen case for each, so the new inputs are names that a port must refuse.
    """
    name = d.choice(list(update_choices.PRESETS))
    if d.flag():
        name = d.choice(("", name.upper(), f"{name} ", f"{name[:2]}{d.integer(0, 10**6)}", name[1:], name * 2))
        t.saw("an unknown name")
    else:
        t.saw("a preset")
    t.case("preset.rule", {"name": name})


@property_of("count.budgets", "DLT-002 SEL-006", "rules", "count.budgets", sees=("the cap", "count", "rank"))
def _budgets(d: Draw, t: Trial) -> None:
    """Every matrix has the slots of its formula, however they are counted, and at most what it stores."""
    n = d.integer(1, 4)
    shapes = [(d.integer(1, 40), d.integer(1, 40)) for _ in range(n)]
    stored = [d.integer(0, a * b) for a, b in shapes]
    by = d.choice(("numel", "nnz", "count", "rank"))
    amount = d.integer(1, 100) / 100 if by in ("numel", "nnz") else d.integer(1, 40)
    inputs = {"by": by, "amount": amount, "shapes": np.array(shapes, dtype=np.int64), "stored": ids(stored)}
    t.saw(by)
    t.saw("the cap", (answer("count.budgets", inputs).outputs["n"] == stored).any())
    t.case("count.budgets", inputs)
