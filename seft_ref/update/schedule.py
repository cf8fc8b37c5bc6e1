"""What happens at which step: drop fraction, events, learning rate."""

import math
from typing import Literal, get_args

from seft_ref.errors import UpdateError
from seft_ref.update.count import count

LrSchedule = Literal["constant", "linear", "cosine"]


def drop_fraction_at(step: int, total_steps: int, drop_fraction: float) -> float:
    """Return the fraction of slots to drop after a step, a binary64 number (SCH-001)."""
    return 0.5 * drop_fraction * (1.0 + math.cos(math.pi * step / total_steps))


def n_drop(step: int, total_steps: int, drop_fraction: float, slots: int) -> int:
    """Return how many of the slots to drop after a step (SCH-002)."""
    return count(drop_fraction_at(step, total_steps, drop_fraction) * slots)


def is_event(step: int, total_steps: int, evolve_every: int) -> bool:
    """Tell whether an event follows a step, counted from 1 (SCH-003). evolve_every 0 means never."""
    return evolve_every > 0 and step % evolve_every == 0 and step < total_steps


def learning_rate_at(
    step: int, total_steps: int, lr: float, warmup_steps: int = 0, schedule: LrSchedule = "constant"
) -> float:
    """Return the learning rate of a step, counted from 1 (SCH-004).

    Raises:
        UpdateError: SCH-004 for an unknown schedule.
    """
    # SCH-004
    if schedule not in get_args(LrSchedule):
        raise UpdateError("SCH-004", f"unknown learning-rate schedule {schedule!r}; use constant, linear or cosine")
    if step <= warmup_steps:
        return lr * step / warmup_steps
    u = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    if schedule == "linear":
        return lr * (1.0 - u)
    if schedule == "cosine":
        return 0.5 * lr * (1.0 + math.cos(math.pi * u))
    return lr


def spiel_phases(total_steps: int, reselection_steps: int, accumulation_steps: int) -> list[tuple[int, int]]:
    """Return SpIEL's selections as (step that a selection follows, number of steps whose gradients it sums) (SCH-005).

    Raises:
        UpdateError: SCH-005 if accumulation_steps is outside 0 to reselection_steps − 2.
    """
    if not 0 <= accumulation_steps <= reselection_steps - 2:
        raise UpdateError(
            "SCH-005",
            f"accumulation_steps is {accumulation_steps}, must lie in 0 to {reselection_steps - 2} "
            f"for a reselection every {reselection_steps} steps",
        )
    first = accumulation_steps or reselection_steps
    steps = range(first, total_steps + 1, reselection_steps)
    return [(step, accumulation_steps + (0 if step == accumulation_steps else 1)) for step in steps]
