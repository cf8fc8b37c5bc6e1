"""The steps that events follow, the fraction that each drops, and the learning rate of a step (SCH)."""

import math

from conformance.oracle.update_counts import count


def drop_fraction(fraction: float, step: int, steps: int) -> float:
    """Return the drop fraction of a step; `steps` is the last step that an event may follow (SCH-001)."""
    return 0.5 * fraction * (1 + math.cos(math.pi * step / steps))


def last_event(steps: int, until: float) -> int:
    """Return E, the last step that an event may follow (SCH-007)."""
    return count(until * steps)


def scheduled(kind: str, fraction: float, step: int, last: int) -> float:
    """Return the drop fraction of a step by a schedule; `last` is E (SCH-001, SCH-006)."""
    if kind == "constant":
        return fraction
    return fraction * (1 - step / last) if kind == "linear" else drop_fraction(fraction, step, last)


def all_events(kind: str, steps: int, every: int, until: float, window: int) -> tuple[list[int], list[int]]:
    """Return the steps that events follow, and the number of steps in each window (SCH-003, SCH-005, SCH-007)."""
    last = last_event(steps, until)
    if kind == "phases":
        pairs = zip(*spiel_phases(every, window, steps), strict=True)
    else:
        pairs = zip(range(every, steps, every), [window] * steps, strict=False)
    kept = [(at, n) for at, n in pairs if at <= last]
    return [at for at, _ in kept], [n for _, n in kept]


def is_event(step: int, steps: int, every: int) -> bool:
    """Return whether an event follows the step (SCH-003)."""
    return step in range(every, steps, every)


def learning_rate(kind: str, lr: float, step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of a step (SCH-004)."""
    if step <= warmup:
        return lr * step / warmup
    u = (step - warmup) / max(steps - warmup, 1)
    return {"constant": lr, "linear": lr * (1 - u), "cosine": 0.5 * lr * (1 + math.cos(math.pi * u))}[kind]


def spiel_phases(period: int, accumulate: int, steps: int) -> tuple[list[int], list[int]]:
    """Return the steps that selections follow, and the number of gradients that each of them sums (SCH-005).

    With accumulate 0 the first phase is empty and left out, because it ends before step 1.
    """
    ends = range(accumulate, steps + 1, period)
    sums = [accumulate + (phase > 0) for phase in range(len(ends))]
    return [e for e in ends if e > 0], [n for e, n in zip(ends, sums, strict=True) if e > 0]
