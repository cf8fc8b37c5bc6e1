"""Schedules: which steps have events, what fraction of the slots an event drops, and the learning rate of a step."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from seft_ref.arrays.count import count
from seft_ref.errors import UpdateError
from seft_ref.update.rules import DropSchedule, Rule

LrSchedule = Literal["constant", "linear", "cosine"]


def drop_fraction_at(step: int, last: int, drop_fraction: float, schedule: DropSchedule = "cosine") -> float:
    """Return the fraction of slots that the event after a step drops, in binary64; last is E (SCH-001, SCH-006)."""
    if schedule == "linear":
        return drop_fraction * (1.0 - step / last)
    if schedule == "constant":
        return drop_fraction
    return 0.5 * drop_fraction * (1.0 + math.cos(math.pi * step / last))


def n_drop(fraction: float, slots: int) -> int:
    """Return how many of the slots of a pool to drop (SCH-002)."""
    return count(fraction * slots)


def last_event_step(total_steps: int, evolve_until: float) -> int:
    """Return E, the last step that an event may follow (SCH-007)."""
    return count(evolve_until * total_steps)


def is_event(step: int, total_steps: int, evolve_every: int, last: int | None = None) -> bool:
    """Return whether an event follows a step, counted from 1 (SCH-003); evolve_every 0 means never, last is E."""
    last = total_steps if last is None else last
    return evolve_every > 0 and step % evolve_every == 0 and step < total_steps and step <= last


@dataclass(frozen=True, slots=True)
class Timetable:
    """The steps that have an event, and the fraction of the slots that each drops."""

    rule: Rule
    steps: int
    evolve_every: int
    gradient_window: int
    drop_fraction: float

    def event_after(self, step: int) -> tuple[int, int] | None:
        """Return the first event at or after a step and the number of steps whose gradients it sums, None if there
        is none (SCH-003, SCH-005).
        """
        if not self.rule.evolves:
            return None
        last = last_event_step(self.steps, self.rule.evolve_until)
        every, window = self.evolve_every, self.gradient_window
        if self.rule.events == "period":
            event = math.ceil(step / every) * every
            return (event, window) if is_event(event, self.steps, every, last) else None
        first = window or every
        phase = max(0, math.ceil((step - first) / every))
        event = first + phase * every
        # SCH-005: the first phase sums A steps, every later one A + 1; with A = 0 the first phase is empty
        sums = window + (0 if event == window else 1)
        return (event, sums) if event <= min(self.steps, last) else None

    def is_event(self, step: int) -> bool:
        """Return whether an event follows a step."""
        event = self.event_after(step)
        return event is not None and event[0] == step

    def is_first_event(self, step: int) -> bool:
        """Return whether the event after a step is the first of the run."""
        first = self.event_after(1)
        return first is not None and first[0] == step

    def fraction(self, step: int) -> float:
        """Return the fraction of the slots that the event after a step drops (SCH-001, SCH-006, SCH-008)."""
        if self.rule.first_event == "all" and self.is_first_event(step):
            return 1.0
        last = last_event_step(self.steps, self.rule.evolve_until)
        return drop_fraction_at(step, last, self.drop_fraction, self.rule.drop_schedule)

    def in_window(self, step: int) -> bool:
        """Return whether the gradient of a step belongs to the window of an event (TRN-005)."""
        event = self.event_after(step)
        return event is not None and step > event[0] - event[1]


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
