"""Cases of runs that use the data of several steps for an event, the last pass or the first positions.

The clauses are TRN-023 and DLT-004.3.
"""

from typing import Any

from conformance.gen import tiny, train_presets
from conformance.gen.numbers import Area, Numbers
from conformance.gen.train import GAP, described, run_answer
from conformance.gen.train_steps import World
from conformance.oracle import train, update_choices
from conformance.oracle.event import Outcome
from conformance.oracle.event_evidence import Evidence

_RULE = dict(update_choices.RULE)
_SHORT: dict[str, Any] = {"steps": 7, "evolve_every": 3, "rows": 2, "micro_batches": 1, "density": 0.5}


class _Late(train.Trainer):
    """A wrong run: an event skips the step after its own and looks at later ones instead."""

    def looks(self, step: int) -> list[train.Step]:
        """Return looks at `step` and at further steps, of which the first is left out."""
        return [self.look(step), *(self.look(step + 1 + i) for i in range(1, self.s.get("event_batches", 1)))]


class _Wrapped(train.Trainer):
    """A wrong run: if an event needs steps after the last one, it looks at the first ones again."""

    def looks(self, step: int) -> list[train.Step]:
        """Return looks at `step` and at further steps; the first step follows the last one."""
        return [self.look((step + i - 1) % self.s["steps"] + 1) for i in range(self.s.get("event_batches", 1))]


class _After(train.Trainer):
    """A wrong run: events look at further steps after the optimizer has changed the weights."""

    own: train.Step

    def looks(self, step: int) -> list[train.Step]:
        """Return the look at `step` alone, because `event` looks at the further steps."""
        self.own = self.look(step)
        return [self.own]

    def event(self, step: int, evidence: list[Evidence]) -> list[Outcome]:
        """Look at the further steps, and evolve with all looks."""
        later = [self.look(step + i) for i in range(1, self.s["event_batches"])]
        return super().event(step, [self.evidence(i, [self.own, *later]) for i in range(len(evidence))])


def runs() -> Area:
    """Return cases of whole runs that depend on the number of steps that are looked at, and on their choice."""
    area = Area("looks", "binary64 run")
    drawn = {"start": "random"}
    for name, more, wrong, clauses, purpose in (
        (
            "event",
            drawn | {"rule": _RULE, "event_batches": 3},
            ({"event_batches": 2}, {"event_batches": 4}, _Late, _After),
            "TRN-023 GRD-004 EVT-002",
            "an event that looks at its own step alone, at others, or at weights after the step",
        ),
        (
            "event-at-step-1",
            {"rule": _RULE | {"drop": "fisher"}, "start": "gradient", "density": 0.25, "steps": 3}
            | {"event_batches": 2, "evolve_every": 1},
            ({"event_batches": 1}, {"start_batches": 2}, _After),
            "TRN-023 DLT-004 EVT-002",
            "first positions chosen from both steps that the event looks at, or an event that looks at step 1 alone",
        ),
        (
            "event-and-window",
            drawn | {"rule": _RULE | {"grow": "absolute", "adapt": "fisher"}, "event_batches": 2, "gradient_window": 2},
            ({"event_batches": 1}, {"gradient_window": 1}, {"gradient_window": 3}),
            "TRN-023 TRN-005 GRD-005",
            "further steps in place of the window, or |g| and g² of their sum",
        ),
        (
            "event-tokens",
            drawn | {"rule": _RULE | {"adapt": "token-fisher"}, "event_batches": 2, "micro_batches": 2},
            ({"event_batches": 1}, {"event_batches": 3}),
            "TRN-023 GRD-008",
            "tokens of the event's own step alone",
        ),
        (
            "event-first-step",
            drawn | {"rule": _RULE | {"candidates": "first-step", "moments": "seeded"}, "event_batches": 3},
            ({"event_batches": 2}, {"event_batches": 4}),
            "TRN-023 GRD-007 DLT-006",
            "candidates of a further step, or moments of a window of one step",
        ),
        (
            "event-active",
            drawn
            | {"rule": _RULE | {"grow_scope": "active", "drop": "fisher"}, "density": 0.25}
            | {"event_batches": 2, "gradient_window": 2},
            ({"event_batches": 1}, {"gradient_window": 1}, _After),
            "TRN-023 GRD-009 GRD-004",
            "sums on the support of other steps, or of one gradient",
        ),
        (
            "event-first-mean",
            drawn
            | {"rule": _RULE | {"candidates": "first-step", "grow": "absolute", "adapt": "absolute"}}
            | {"event_batches": 2, "gradient_window": 2},
            ({"event_batches": 1}, {"gradient_window": 1}),
            "TRN-023 GRD-007 GRD-005",
            "|g| summed over other steps, or of the sum",
        ),
        (
            "last-pass",
            drawn | {"rule": _RULE | {"adapts": "end"}, "event_batches": 2},
            ({"event_batches": 1}, _Wrapped),
            "TRN-023 EVT-004",
            "a last pass that looks at the last step alone, or begins the text anew after it",
        ),
        (
            "start",
            {"rule": _RULE, "start": "gradient", "start_batches": 3, "density": 0.25},
            ({"start_batches": 1}, {"start_batches": 2}, {"start_batches": 4}),
            "DLT-004 TRN-002",
            "first positions by the gradient of one step, or of others",
        ),
    ):
        settings = train_presets.SETTINGS | _SHORT | more
        for seed in range(500):
            world = tiny.world(Numbers(131, seed), tiny.CONFIG)
            mine = settings | {"seed": seed}
            run = train.run(tiny.CONFIG, *world, mine)
            if run.gap >= GAP and run.moves["grown"] and all(differs(mine, world, run, one) for one in wrong):
                break
        else:
            msg = f"no seed for {name}"
            raise AssertionError(msg)
        area.add(name, "train.run", clauses, purpose, described(mine, world, tiny.CONFIG), run_answer(run))
    good = train_presets.SETTINGS | {
        "steps": 4,
        "rows": 1,
        "micro_batches": 1,
        "length": 4,
        "seed": 0,
        "preset": "seft",
    }
    for name, change, clause in (
        ("event-0", {"event_batches": 0}, "TRN-008"),
        ("start-0", {"start": "gradient", "start_batches": 0}, "TRN-008"),
        ("start-unused", {"start": "random", "start_batches": 2}, "EVT-012"),
    ):
        inputs = described(good | change, tiny.world(Numbers(131, 0), tiny.SMALLEST), tiny.SMALLEST)
        purpose = "a number of steps that is out of range, or not used, is taken"
        area.add(f"refuse-{name}", "train.run", clause, purpose, inputs, refused=clause)
    return area


def differs(settings: dict[str, Any], world: World, run: train.Run, wrong: Any) -> bool:
    """Return whether a run with other settings, or of a wrong kind, moves other slots or ends with another support."""
    if isinstance(wrong, dict):
        other = train.run(tiny.CONFIG, *world, settings | wrong)
    else:
        other = train.run(tiny.CONFIG, *world, settings, wrong)
    return (other.events, [sorted(w) for w in other.final]) != (run.events, [sorted(w) for w in run.final])


AREAS = (runs,)
