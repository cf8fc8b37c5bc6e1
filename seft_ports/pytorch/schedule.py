"""Schedules over the steps: events and their windows, drop fraction, learning rate (chapters 8 and 9)."""

import math

from seft_ports.pytorch.errors import SeftError

__all__ = [
    "SLACK",
    "check_windows",
    "drop_count",
    "drop_fraction_at",
    "event_fraction",
    "event_steps",
    "event_windows",
    "last_event_step",
    "learning_rate",
]

SLACK = 2.0**-20
"""Added to a product before it is rounded down to a count (SEL-006)."""


def last_event_step(steps: int, evolve_until: float) -> int:
    """Return E, the last step that an event may follow (SCH-007)."""
    # SCH-007
    return math.floor(evolve_until * steps + SLACK)


def drop_fraction_at(step: int, steps: int, drop_fraction: float, kind: str = "cosine") -> float:
    """Return τ(t), the share of slots to drop at a step; `steps` is the last step that may have an event (SCH-001)."""
    if kind not in ("cosine", "linear", "constant"):
        raise SeftError("SCH-001", f"drop_schedule is {kind!r}; it is cosine, linear or constant")
    if not 0 <= drop_fraction <= 1:
        raise SeftError("SCH-001", f"drop fraction {drop_fraction} is outside [0, 1]")
    # SCH-006
    if kind != "cosine":
        return drop_fraction * (1 - step / steps) if kind == "linear" else drop_fraction
    # SCH-001
    return 0.5 * drop_fraction * (1 + math.cos(math.pi * step / steps))


def drop_count(fraction: float, slots: int) -> int:
    """Return n_drop, the number of slots to drop (SCH-002)."""
    return math.floor(fraction * slots + SLACK)


def event_fraction(
    step: int, steps: int, drop_fraction: float, schedule: str, first_event: str, evolve_until: float, *, first: bool
) -> float:
    """Return the share of slots that the event after a step drops (SCH-001, SCH-006, SCH-008).

    steps  T
    first  whether the event is the first of the run

    Raises:
        SeftError: SCH-001, SCH-007 or SCH-008 for a value that is out of range or unknown.
    """
    if not 0 < evolve_until <= 1:
        raise SeftError("SCH-007", f"evolve_until {evolve_until} is outside (0, 1]")
    if first_event not in ("fraction", "all"):
        raise SeftError("SCH-008", f"first_event is {first_event!r}; it is fraction or all")
    fraction = drop_fraction_at(step, last_event_step(steps, evolve_until), drop_fraction, schedule)
    # SCH-008
    return 1.0 if first and first_event == "all" else fraction


def event_steps(steps: int, evolve_every: int, evolve_until: float = 1.0) -> range:
    """Return the steps that an event follows (SCH-003)."""
    # SCH-003
    return range(evolve_every, min(steps, last_event_step(steps, evolve_until) + 1), evolve_every)


def event_windows(kind: str, steps: int, evolve_every: int, window: int, evolve_until: float = 1.0) -> dict[int, int]:
    """Return the steps that an event follows, ascending, each with the number of steps whose gradients it averages.

    kind  `period` or `phases`

    Raises:
        SeftError: SCH-003 for another kind, TRN-005 or SCH-005 for a window that does not fit, SCH-007.
    """
    check_windows(kind, evolve_every, window)
    # SCH-007
    if not 0 < evolve_until <= 1:
        raise SeftError("SCH-007", f"evolve_until {evolve_until} is outside (0, 1]")
    if kind == "period":
        return dict.fromkeys(event_steps(steps, evolve_every, evolve_until), window)
    # SCH-005: with a window of 0 the first phase is empty; an event may follow the last step
    last = min(steps, last_event_step(steps, evolve_until))
    return {t: window + (t != window) for t in range(window or evolve_every, last + 1, evolve_every)}


def check_windows(kind: str, evolve_every: int, window: int) -> None:
    """Raise SeftError for a gradient window that does not fit between events (TRN-005, SCH-005)."""
    # SCH-003
    if kind not in ("period", "phases"):
        raise SeftError("SCH-003", f"events is {kind!r}; it is period or phases")
    # TRN-005
    if kind == "period" and not 1 <= window <= evolve_every:
        raise SeftError("TRN-005", f"gradient_window {window} is outside 1 ... {evolve_every}")
    # SCH-005
    if kind == "phases" and not 0 <= window <= evolve_every - 2:
        raise SeftError("SCH-005", f"gradient_window {window} is outside 0 ... {evolve_every - 2}, evolve_every - 2")


def learning_rate(kind: str, lr: float, step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of a step, counted from 1."""
    # SCH-004
    if step <= warmup:
        return lr * step / warmup
    u = (step - warmup) / max(steps - warmup, 1)
    if kind == "constant":
        return lr
    if kind == "linear":
        return lr * (1 - u)
    if kind == "cosine":
        return 0.5 * lr * (1 + math.cos(math.pi * u))
    raise SeftError("SCH-004", f"there is no schedule {kind!r}; there are constant, linear and cosine")
