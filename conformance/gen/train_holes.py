"""Cases of runs that the other cases lack: events in place of steps, windows, budgets of groups."""

from dataclasses import replace
from typing import Any

from conformance.gen import tiny, train_presets
from conformance.gen.numbers import Area, Numbers
from conformance.gen.train import GAP, described, run_answer
from conformance.gen.train_steps import World
from conformance.oracle import select_pools, train, update_choices
from conformance.oracle.event import Outcome
from conformance.oracle.event_evidence import Evidence


def runs() -> Area:
    """Return cases of whole runs (EVT-010, DLT-001)."""
    area = Area("hole-run", "binary64 run")
    seft = dict(update_choices.RULE)
    short = {"micro_batches": 1, "rows": 2}
    replaced = {"rule": seft | {"event_replaces_step": 1}, "steps": 6, "evolve_every": 3, "gradient_window": 3} | short
    grouped = {"rule": seft | {"scope": "group"}, "pattern": [2, 4], "steps": 7, "evolve_every": 2} | short
    narrow = {
        "rule": seft | {"adapt": "activation", "grow": "absolute"},
        "steps": 9,
        "evolve_every": 4,
        "gradient_window": 2,
        "rows": 2,
        "micro_batches": 2,
    }
    for name, more, tells, clauses, purpose in (
        ("replaced", replaced, _window_told, "EVT-010 TRN-005 GRD-004", "no step in the whole window of the event"),
        ("narrow", narrow, _narrow_told, "TRN-005 GRD-005 GRD-006", "a window that opens a step early or late"),
        ("groups", grouped, _budgets_told, "DLT-001 EVT-009 GROW-007", "K of a group from what it stores now"),
    ):
        settings = train_presets.SETTINGS | more
        for seed in range(300):
            world = tiny.world(Numbers(128, seed), tiny.CONFIG, pattern="pattern" in settings)
            mine = settings | {"seed": seed}
            run = train.run(tiny.CONFIG, *world, mine)
            if run.gap >= GAP and run.moves["grown"] and tells(mine, world, run):
                break
        else:
            msg = f"no seed for {name}"
            raise AssertionError(msg)
        area.add(name, "train.run", clauses, purpose, described(mine, world, tiny.CONFIG), run_answer(run))
    return area


def _window_told(settings: dict[str, Any], world: World, run: train.Run) -> bool:
    """Return whether the steps move the last loss by more than rounding."""
    still = train.run(tiny.CONFIG, *world, settings | {"lr": 0.0})
    return abs(still.losses[-1] - run.losses[-1]) > 2e-3 * run.losses[-1]


def _narrow_told(settings: dict[str, Any], world: World, run: train.Run) -> bool:
    """Return whether windows of one and of three steps both give other events."""
    others = (train.run(tiny.CONFIG, *world, settings | {"gradient_window": size}) for size in (1, 3))
    return all(other.events != run.events for other in others)


def _budgets_told(settings: dict[str, Any], world: World, run: train.Run) -> bool:
    """Return whether the events differ if K is counted again before every event."""
    other = _Forgetful(tiny.CONFIG, *world, settings).events_of()
    return other != run.events


class _Forgetful(train.Trainer):
    """A wrong run, in which the budget of a pool is the number of base weights stored at the event."""

    def event(self, step: int, evidence: list[Evidence]) -> list[Outcome]:
        """Count K again, then evolve."""
        for i, part in enumerate(self.parts):
            width = part.shape[1] if self.pattern is None else self.pattern[1]
            budget = [sum(p // width == g for p in part.base) for g in range(len(part.budget))]
            self.parts[i] = replace(part, budget=budget)
        return super().event(step, evidence)

    def events_of(self) -> train.Events:
        """Return slots and base after every event, empty if an event is refused."""
        s, events = self.s, []
        for step in range(1, s["steps"] + 1):
            looked = self.look(step)
            self.optimize(step, looked.gradients)
            if train.window_of(s, step)[1]:
                try:
                    self.event(step, [self.evidence(i, [looked]) for i in range(len(self.parts))])
                except select_pools.RefusedError:
                    return []
                events.append([(list(part.phi), sorted(part.base)) for part in self.parts])
        return events


AREAS = (runs,)
