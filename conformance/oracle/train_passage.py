"""Consecutive steps of a run, from its beginning or from a state, and the sums of its windows (TRN-004, GRD-004)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from conformance.oracle import train_window
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import Evidence, asked_by
from conformance.oracle.train import Step, Trainer
from conformance.oracle.train_settings import due
from conformance.oracle.train_window import added

__all__ = ["Passage", "Run", "Saved", "Sums", "go_on", "to_the_end"]


@dataclass(frozen=True)
class Sums:
    """Sums over the steps of a window at one matrix (GRD-004 to GRD-007).

    Attributes:
        steps: number of steps.
        rows: number of rows that entered the matrix.
        gradient: Σ g, flat.
        absolute: Σ |g|, flat.
        square: Σ g², flat.
        inputs: Σ x², one per column.
        candidates: positions with the largest |g| of the first step; None if all positions are candidates.
        tokens: Σ dy² x², flat; empty if the rule does not ask for it (GRD-008).
    """

    steps: int
    rows: int
    gradient: list[float]
    absolute: list[float]
    square: list[float]
    inputs: list[float]
    candidates: frozenset[int] | None = None
    tokens: list[float] = field(default_factory=list)

    def plus(self, g: list[float], x: list[list[float]], tokens: list[float]) -> "Sums":
        """Return the sums after one more step with gradient g, input rows x, and `tokens` = Σ dy² x²."""
        return Sums(
            self.steps + 1,
            self.rows + len(x),
            [a + b for a, b in zip(self.gradient, g, strict=True)],
            [a + abs(b) for a, b in zip(self.absolute, g, strict=True)],
            [a + b * b for a, b in zip(self.square, g, strict=True)],
            [a + added(row[j] * row[j] for row in x) for j, a in enumerate(self.inputs)],
            self.candidates,
            [a + b for a, b in zip(self.tokens or [0.0] * len(tokens), tokens, strict=True)],
        )


@dataclass(frozen=True)
class Saved:
    """The state of a run after a step.

    Attributes:
        step: number of the step.
        parts: each target; `lost` has the positions that were stored at load and have left the base.
        rows: r of SM3, for each target.
        columns: c of SM3, for each target.
        sums: sums of the open window, for each target; empty if no window is open.
    """

    step: int
    parts: list[Part]
    rows: list[list[float]]
    columns: list[list[float]]
    sums: list[Sums]


@dataclass(frozen=True)
class Passage:
    """The results of some consecutive steps of a run.

    Attributes:
        losses: loss of each step.
        events: for each event and each target, the positions of η and of B after it.
        starts: for each event the count `start` of each target (TRN-009).
        moves: numbers of positions that were dropped, grown, cancelled and pruned.
        saved: the state after the last of the steps.
    """

    losses: list[float]
    events: list[list[tuple[list[int], list[int]]]]
    starts: list[list[int]]
    moves: dict[str, int]
    saved: Saved


@dataclass(frozen=True)
class Run:
    """A run at its end: its trainer, what happened, and the effective weights of each target on its final support."""

    trainer: Trainer
    passage: Passage
    final: list[dict[int, float]]


def to_the_end(t: Trainer, before: int = 0, sums: Sequence[Sums] = ()) -> Run:
    """Take the steps after `before`, and the last pass; `sums` are those of the window that is open then."""
    passage = go_on(t, before, sums, t.s["steps"])
    return Run(t, passage, t.finish())


def go_on(t: Trainer, before: int, sums: Sequence[Sums], until: int) -> Passage:
    """Take the steps before + 1 to `until`, and return their losses, events and final state."""
    events_at, rule, window = due(t.s), t.rule, list(sums)
    losses: list[float] = []
    events: list[list[tuple[list[int], list[int]]]] = []
    starts: list[list[int]] = []
    moves = dict.fromkeys(("dropped", "grown", "cancelled", "pruned"), 0)
    for step in range(before + 1, until + 1):
        looked, *further = t.looks(step) if step in events_at else [t.look(step)]
        losses.append(looked.loss)
        if asked_by(rule) and any(end - n < step <= end for end, n in events_at.items()):
            for one in (looked, *further):
                window = _with_step(t, window, one)
        if not (step in events_at and rule["event_replaces_step"]):
            t.optimize(step, looked.gradients)
        if step in events_at:
            outcomes = t.event(step, _evidence(t, window))
            window = []
            for name in moves:
                moves[name] += sum(one.record[name] for one in outcomes)
            events.append([(sorted(part.phi), sorted(part.base)) for part in t.parts])
            starts.append([one.record["start"] for one in outcomes])
    parts = [
        replace(part, lost=frozenset(loaded.keys() - part.base.keys()))
        for part, loaded in zip(t.parts, t.loaded, strict=True)
    ]
    return Passage(losses, events, starts, moves, Saved(until, parts, list(t.rows), list(t.columns), window))


def _with_step(t: Trainer, sums: list[Sums], step: Step) -> list[Sums]:
    """Return the sums of a window after one more step; the first step opens it (GRD-007)."""
    if not sums:
        for i, shape in enumerate(t.shapes):
            zeros, chosen, g = [0.0] * (shape[0] * shape[1]), None, step.gradients[i]
            if t.rule["candidates"] == "first-step":
                chosen = frozenset(train_window.candidates(g, t.delta_budgets[i]))
                order = sorted((abs(x) for x in g), reverse=True)
                if 0 < len(chosen) < len(order):
                    t.meet([(order[len(chosen) - 1], order[len(chosen)])], drawn=False)
            sums.append(Sums(0, 0, zeros, zeros, zeros, [0.0] * shape[1], chosen))
    columns = zip(sums, step.gradients, step.inputs, strict=True)
    return [one.plus(g, x, t.tokens(i, step)) for i, (one, g, x) in enumerate(columns)]


def _evidence(t: Trainer, sums: list[Sums]) -> list[Evidence]:
    """Return for each target the means over its window (GRD-004 to GRD-006); zeros if there are no sums."""
    means = []
    for i, shape in enumerate(t.shapes):
        zeros = [0.0] * (shape[0] * shape[1])
        one = sums[i] if sums else Sums(1, 1, zeros, zeros, zeros, [0.0] * shape[1])
        means.append(
            Evidence(
                gradient=[x / one.steps for x in one.gradient],
                absolute=[x / one.steps for x in one.absolute],
                square=[x / one.steps for x in one.square],
                inputs=[x / one.rows for x in one.inputs],
                row_moments=t.rows[i],
                column_moments=t.columns[i],
                candidates=one.candidates,
                steps=one.steps,
                tokens=[x / one.steps for x in one.tokens],
            )
        )
    return means
