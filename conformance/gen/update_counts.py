"""Cases of budgets, drops, schedules and learning rates (DLT, SCH)."""

import math

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import Area, ids, reals
from conformance.oracle import update_counts, update_schedule


def inside(n: int) -> float:
    """Return a number just near enough below n that 2⁻²⁰ lifts it to n, so that it counts as n (SEL-006)."""
    return n - 0.99 * 2.0**-20


def outside(n: int) -> float:
    """Return a number just too far below n for 2⁻²⁰ to lift it to n, so that it counts as n - 1 (SEL-006)."""
    return n - 1.01 * 2.0**-20


def counts() -> Area:
    """Return cases of counts, schedules and learning rates (SEL-006, DLT-002, SCH-001 to SCH-005)."""
    area = Area("schedule", "binary64 by the written formula")
    for name, density, shape, stored, purpose in (
        ("plain", 0.02, (64, 96), 1843, "the number of stored weights taken for the size"),
        ("last-bit", 0.29, (10, 10), 60, "0.29 · 100 is 28.999999999999996"),
        ("product", 0.07, (10, 10), 60, "0.07 · 100 is 7.000000000000001"),
        ("capped", 0.5, (8, 8), 11, "more slots than stored weights"),
        ("none", 0.001, (8, 8), 60, "rounding up to one slot"),
        ("half", 0.5, (3, 3), 9, "rounding to nearest"),
        ("large", 0.29, (100000, 100000), 2**40, "a nudge too small for large counts"),
        ("inside", inside(7) / 10_000, (100, 100), 6000, "a nudge below 2⁻²⁰"),
        ("outside", outside(7) / 10_000, (100, 100), 6000, "a nudge above 2⁻²⁰"),
    ):
        n = update_counts.delta_budget(density, *shape, stored)
        inputs = {"density": density, "out": shape[0], "in": shape[1], "stored": stored}
        area.add(f"budget-{name}", "count.budget", "DLT-002 SEL-006", purpose, inputs, {"n": n})
    for step, steps, fraction, slots in _critical():
        n = update_counts.count(update_schedule.drop_fraction(fraction, step, steps) * slots)
        inputs = {"drop_fraction": fraction, "step": step, "steps": steps, "slots": slots}
        text = "a count that hangs on the last bit of cos or on the order of a product"
        area.add(f"drop-{step}-{steps}-{slots}", "count.drop", "SCH-001 SCH-002 SEL-006", text, inputs, {"n": n})
    for name, fraction in (("inside", inside(7) / 100), ("outside", outside(7) / 100)):
        # the first event drops the whole fraction
        n = update_counts.count(update_schedule.drop_fraction(fraction, 0, 80) * 100)
        inputs = {"drop_fraction": fraction, "step": 0, "steps": 80, "slots": 100}
        area.add(f"drop-{name}", "count.drop", "SCH-002 SEL-006", "another nudge than 2⁻²⁰", inputs, {"n": n})
    for step, steps, fraction in (
        (0, 80, 0.2),
        (20, 80, 0.2),
        (40, 80, 0.2),
        (60, 80, 0.3),
        (80, 80, 0.2),
        (1, 3, 1.0),
    ):
        value = update_schedule.drop_fraction(fraction, step, steps)
        inputs = {"drop_fraction": fraction, "step": step, "steps": steps}
        bound = {"value": Bound(reals([fraction])[0:1].reshape(()), 2)}
        text = "linear or constant instead of cosine, or half the period"
        area.add(
            f"fraction-{step}-{steps}-{fraction}",
            "schedule.fraction",
            "SCH-001",
            text,
            inputs,
            {"value": value},
            bounds=bound,
        )
    for steps, every in ((80, 20), (81, 20), (79, 20), (5, 1), (5, 7), (6, 6)):
        at = ids(t for t in range(1, steps + 2) if update_schedule.is_event(t, steps, every))
        inputs = {"steps": steps, "evolve_every": every}
        area.add(
            f"events-{steps}-{every}",
            "schedule.events",
            "SCH-003",
            "an event at step T, or one step off",
            inputs,
            {"at": at},
        )
    _rates(area)
    for period, accumulate, steps in ((10, 3, 45), (10, 0, 30), (10, 8, 28), (2, 0, 5), (5, 1, 1), (5, 1, 0)):
        ends, sums = update_schedule.spiel_phases(period, accumulate, steps)
        inputs = {"period": period, "accumulate": accumulate, "steps": steps}
        answer = {"at": ids(ends), "sums": ids(sums)}
        name = f"spiel-{period}-{accumulate}-{steps}"
        area.add(name, "schedule.spiel", "SCH-005", "a phase that starts or ends a step off", inputs, answer)
    for accumulate in (-1, 9, 10):
        inputs = {"period": 10, "accumulate": accumulate, "steps": 30}
        text = "a phase without a step between selection and accumulation"
        area.add(f"spiel-refuse-{accumulate}", "schedule.spiel", "SCH-005", text, inputs, refused="SCH-005")
    return area


def _critical() -> list[tuple[int, int, float, int]]:
    """Return (t, T, α, |η|) for which the formula gives an integer, or misses one by its last bits."""
    points = [
        (20, 80, 0.2, 1000),
        (0, 80, 0.29, 100),
        (40, 80, 0.2, 1000),
        (80, 80, 0.2, 500),
        (1, 3, 0.2, 1000),
        (2, 3, 0.2, 1000),
    ]
    points += [
        (60, 120, 0.58, 100),
        (5, 10, 0.7, 20),
        (40, 120, 0.4, 10),
        (80, 120, 0.4, 10),
        (7, 11, 0.2, 0),
        (3, 7, 1.0, 1),
    ]
    points += [(30, 60, 0.3, 10**9), (20, 60, 0.4, 3 * 10**9)]
    for steps in range(6, 121, 6):
        for slots in (20, 40, 100, 1000):
            step = steps // 3
            x = update_schedule.drop_fraction(0.4, step, steps) * slots
            if math.floor(x) != update_counts.count(x):
                points.append((step, steps, 0.4, slots))
    return list(dict.fromkeys(points))[:26]


def _rates(area: Area) -> None:
    for kind in ("constant", "linear", "cosine"):
        for step, steps, warmup in (
            (1, 80, 0),
            (1, 80, 8),
            (8, 80, 8),
            (9, 80, 8),
            (44, 80, 8),
            (80, 80, 8),
            (5, 5, 5),
            (3, 5, 5),
        ):
            value = update_schedule.learning_rate(kind, 0.003, step, steps, warmup)
            inputs = {"kind": kind, "lr": 0.003, "step": step, "steps": steps, "warmup": warmup}
            bound = {"value": Bound(np.asarray(0.003), 4)}
            text = "warm-up a step off, or decay that starts at step 0"
            name = f"rate-{kind}-{step}-{steps}-{warmup}"
            area.add(name, "schedule.learning_rate", "SCH-004", text, inputs, {"value": value}, bounds=bound)
    inputs = {"kind": "polynomial", "lr": 0.003, "step": 9, "steps": 80, "warmup": 8}
    text = "a schedule that nobody knows taken for a constant rate"
    area.add("refuse-rate", "schedule.learning_rate", "SCH-004", text, inputs, refused="SCH-004")


AREAS = (counts,)
