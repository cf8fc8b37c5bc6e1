"""Selection, counts, schedules and topologies: sorted tuples and integers (TOP, CHG, SEL, SCH, DLT)."""

import math
import struct
from collections.abc import Callable, Sequence
from itertools import accumulate

from conformance.oracle import rng

Round = Callable[[float], float]


def binary64(x: float) -> float:
    """Return x: Python floats are binary64."""
    return x


def binary32(x: float) -> float:
    """Return x rounded once to binary32, to nearest, ties to even."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def largest(scores: Sequence[float], ids: Sequence[int], k: int) -> list[int]:
    """Return the ids of the k largest scores, ascending (SEL-001, SEL-003)."""
    order = sorted(zip(scores, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
    return sorted(i for _, i in order[:k])


def smallest(scores: Sequence[float], ids: Sequence[int], k: int) -> list[int]:
    """Return the ids of the k smallest scores, ascending (SEL-002, SEL-003)."""
    order = sorted(zip(scores, ids, strict=True), key=lambda pair: (pair[0], pair[1]))
    return sorted(i for _, i in order[:k])


def count(x: float) -> int:
    """Return the count of the rate expression x (SEL-006)."""
    return math.floor(x + 2.0**-20)


def delta_budget(density: float, rows: int, cols: int, stored: int) -> int:
    """Return d_φ (DLT-002)."""
    return min(count(density * rows * cols), stored)


def delta_budgets(by: str, amount: float, shapes: Sequence[tuple[int, int]], stored: Sequence[int]) -> list[int]:
    """Return d_φ of every matrix; amount is density, slots or rank (DLT-002)."""
    total = sum(rows * cols for rows, cols in shapes)
    out = []
    for (rows, cols), k in zip(shapes, stored, strict=True):
        d = {
            "numel": lambda: count(amount * rows * cols),  # noqa: B023  called at once
            "nnz": lambda: count(amount * k),  # noqa: B023
            "count": lambda: int(amount) * rows * cols // total,  # noqa: B023
            "rank": lambda: int(amount) * (rows + cols),  # noqa: B023
        }[by]()
        out.append(min(d, k))
    return out


def drop_fraction(fraction: float, step: int, steps: int) -> float:
    """Return the drop fraction of a step, `steps` being the last that may have an event (SCH-001)."""
    return 0.5 * fraction * (1 + math.cos(math.pi * step / steps))


def last_event(steps: int, until: float) -> int:
    """Return E (SCH-007)."""
    return count(until * steps)


def scheduled(kind: str, fraction: float, step: int, last: int) -> float:
    """Return the drop fraction of a step by its schedule, E being `last` (SCH-001, SCH-006)."""
    if kind == "constant":
        return fraction
    return fraction * (1 - step / last) if kind == "linear" else drop_fraction(fraction, step, last)


def all_events(kind: str, steps: int, every: int, until: float, window: int) -> tuple[list[int], list[int]]:
    """Return the steps that events follow and the steps in the window of each (SCH-003, SCH-005, SCH-007)."""
    last = last_event(steps, until)
    if kind == "phases":
        pairs = zip(*spiel_phases(every, window, steps), strict=True)
    else:
        pairs = zip(range(every, steps, every), [window] * steps, strict=False)
    kept = [(at, n) for at, n in pairs if at <= last]
    return [at for at, _ in kept], [n for _, n in kept]


def is_event(step: int, steps: int, every: int) -> bool:
    """Tell whether an event follows the step (SCH-003)."""
    return step in range(every, steps, every)


def learning_rate(kind: str, lr: float, step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of a step (SCH-004)."""
    if step <= warmup:
        return lr * step / warmup
    u = (step - warmup) / max(steps - warmup, 1)
    return {"constant": lr, "linear": lr * (1 - u), "cosine": 0.5 * lr * (1 + math.cos(math.pi * u))}[kind]


def spiel_phases(period: int, accumulate: int, steps: int) -> tuple[list[int], list[int]]:
    """Return the steps that selections follow and how many gradients each of them sums (SCH-005).

    With accumulate 0 the first phase is empty: it ends before step 1, sums nothing and selects nothing.
    """
    ends = range(accumulate, steps + 1, period)
    sums = [accumulate + (phase > 0) for phase in range(len(ends))]
    return [e for e in ends if e > 0], [n for e, n in zip(ends, sums, strict=True) if e > 0]


def rows_and_columns(shape: tuple[int, int], flat: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return row pointers and columns of flat positions (TOP-001, TOP-002)."""
    counts = [0] * (shape[0] + 1)
    for p in flat:
        counts[p // shape[1] + 1] += 1
    return list(accumulate(counts)), [p % shape[1] for p in flat]


def source(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Return for each new position the old slot that holds it, or −1 (CHG-001)."""
    slots = {p: s for s, p in enumerate(old)}
    return [slots.get(p, -1) for p in new]


def realign(values: Sequence[float], old: Sequence[int], new: Sequence[int], fill: float) -> list[float]:
    """Return values carried from old to new positions (CHG-002)."""
    held = dict(zip(old, values, strict=True))
    return [held.get(p, fill) for p in new]


def initial_random(base: Sequence[int], n: int, seed: int, matrix: int) -> list[int]:
    """Return the initial positions chosen by chance (DLT-004)."""
    key = rng.key(seed, 1, matrix)
    return sorted(sorted(base, key=lambda p: (rng.draw(key, p), p))[:n])


def initial_gradient(base: Sequence[int], n: int, gradient: Sequence[float]) -> list[int]:
    """Return the initial positions with the largest gradients, gradient flat over the matrix (DLT-004)."""
    return largest([abs(gradient[p]) for p in base], base, n)


def initial(
    by: str,
    open_to: Sequence[int],
    n: int,
    *,
    seed: int,
    matrix: int,
    gradient: Sequence[float],
    base: dict[int, float],
) -> list[int]:
    """Return the initial positions among those open to the choice (DLT-004)."""
    if by == "random":
        return initial_random(open_to, n, seed, matrix)
    if by == "magnitude":
        return largest([abs(base.get(p, 0.0)) for p in open_to], open_to, n)
    return initial_gradient(open_to, n, gradient)


def window_starts(seed: int, stream: int, first: int, n: int, tokens: int, length: int) -> list[int]:
    """Return the starts of n windows drawn from `first` on (TRN-003 with stream 2, PRN-007 with stream 4)."""
    key = rng.key(seed, stream)
    return [rng.draw(key, first + i) % (tokens - length + 1) for i in range(n)]


def evaluation_starts(tokens: int, length: int, windows: int) -> list[int]:
    """Return the starts of the evaluation windows (EVL-001)."""
    return [i * (tokens - length) // max(windows - 1, 1) for i in range(windows)]
