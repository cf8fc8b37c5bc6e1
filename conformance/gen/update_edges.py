"""Cases at the limits of chapter 8, on both sides of each limit, with one condition each."""

from dataclasses import replace
from typing import Any

import numpy as np

from conformance.gen import event, tiny, train_presets, update_optimizers
from conformance.gen.numbers import Area, Numbers, ids
from conformance.gen.train import described, run_answer
from conformance.oracle import train, update_choices, update_schedule
from conformance.oracle.update_optimizers import Hyper


def counts() -> Area:
    """Return cases of one condition each (GROW-002, GROW-006, OPT-008, SCH-004 to SCH-007, EVT-007, EVT-012)."""
    area = Area("rule-edge", "dictionaries by flat position")
    chosen = event.rule()
    part, evidence = event.made(80, (3, 5), 8, 5, 1, chosen=chosen)
    full = replace(part, delta_budget=[3])
    text = "a delta above its budget: fewer than no position grow"
    event.add(area, "above-budget", "GROW-002", text, [(full, evidence)], chosen, 0.2)
    spiel = event.rule(candidates="first-step", moments="seeded", adapts="never")
    part, evidence = event.made(81, (3, 5), 9, 5, 2, chosen=spiel, optimizer="spiel-adamw", steps=4)
    part = replace(part, delta_budget=[6])
    eta = sorted(part.phi)
    off = [p for p in range(15) if p not in part.phi]
    evidence = replace(evidence, candidates=frozenset([*eta[:2], *off[:2]]))
    text = "a refill taken for a replacement: two come, one of them fills up, one leaves"
    event.add(area, "refilled-first-step", "GROW-006 GROW-002", text, [(part, evidence)], spiel, 1.0)
    for name, choice in (("row", {"scope": "row"}), ("model", {"scope": "model"})):
        chosen = event.rule(**choice)
        pairs = [event.made(82, (3, 4), 6, 4, 1, chosen=chosen, missing=1)]
        if name == "row":
            pairs = [(replace(p, delta_budget=[k + 1 for k in p.delta_budget]), s) for p, s in pairs]
        else:
            pairs.append(event.made(83, (2, 4), 5, 2, 0, chosen=chosen, matrix=1, missing=2))
        text = "what is missing from the budgets not grown"
        event.add(area, f"refilled-{name}", "GROW-002 EVT-009", text, pairs, chosen, 0.5)
    _accumulators(area)
    _schedules(area)
    _checks(area)
    return area


def _accumulators(area: Area) -> None:
    """Add steps of SM3 with an accumulator that stays, because it is larger than all sums of its slots (OPT-008)."""
    slots = update_optimizers.slots_of(Numbers(84, 1), [0, 3, 7, 8, 20, 23])
    for name, change in (("rows", {"rows": np.full(4, 8.0)}), ("columns", {"columns": np.full(6, 8.0)})):
        text = "an accumulator that falls"
        update_optimizers.add(area, f"sm3-{name}", "sm3", "OPT-008", text, slots | change, 0.0625, Hyper())


def _schedules(area: Area) -> None:
    for kind, steps, every, until, window in (
        ("period", 81, 20, 0.74, 1),  # 0.74 · 81 = 59.94
        ("period", 9, 3, 1.0, 3),
        ("phases", 12, 2, 1.0, 0),
        ("phases", 13, 5, 0.6, 3),
        ("phases", 13, 5, 1.0, 1),
    ):
        at, sums = update_schedule.all_events(kind, steps, every, until, window)
        inputs = {"events": kind, "steps": steps, "evolve_every": every, "evolve_until": until}
        clauses = f"SCH-007 {'SCH-003 TRN-005' if kind == 'period' else 'SCH-005'}"
        name = f"events-{kind}-{steps}-{every}-{until}-{window}"
        text = "E rounded up, an event at the last step, a first phase that is not empty"
        answer = {"at": ids(at), "sums": ids(sums)}
        area.add(name, "schedule.all_events", clauses, text, inputs | {"gradient_window": window}, answer)
    phases = update_choices.RULE | {"events": "phases", "adapts": "never"}
    mine = train_presets.SETTINGS | {"rule": phases, "steps": 5, "rows": 2, "micro_batches": 1, "evolve_every": 2}
    mine |= {"gradient_window": 0}
    for seed in range(100):
        world = tiny.world(Numbers(85, seed), tiny.CONFIG)
        run = train.run(tiny.CONFIG, *world, mine | {"seed": seed})
        if run.gap >= 2e-4 and run.moves["grown"]:
            break
    text = "phases without accumulation: events after R, 2R, …, with one step each"
    inputs = described(mine | {"seed": seed}, world, tiny.CONFIG)
    area.add("phases-alone", "train.run", "SCH-005 TRN-005", text, inputs, run_answer(run))


def _checks(area: Area) -> None:
    first = {"candidates": "first-step"}
    good: tuple[tuple[str, dict[str, Any]], ...] = (
        ("first-activation-end", first | {"adapt": "activation", "adapts": "end"}),
        ("first-curvature-never", first | {"adapt": "curvature", "adapts": "never"}),
        ("first-square", first | {"adapt": "fisher"}),
        ("first-tokens-end", first | {"adapt": "token-fisher", "adapts": "end"}),
        ("pattern-static", {"pattern": [2, 4], "evolves": 0, "grow_scope": "anywhere"}),
        ("until-1", {"evolve_until": 1.0}),
        ("row-new", {"scope": "row", "exempt": "new", "counts": "values"}),
    )
    for name, choices in good:
        area.add(f"good-{name}", "rule.check", "EVT-012 EVT-007", "refused too much", {"choices": choices}, {"ok": 1})
    bad: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("pattern-initial", {"pattern": [2, 4], "initial_scope": "anywhere", "adapts": "never"}, "EVT-007"),
        ("pattern-anywhere", {"pattern": [2, 4], "grow_scope": "anywhere"}, "EVT-007"),
        ("until-0", {"evolve_until": 0.0}, "SCH-007"),
        ("until-above", {"evolve_until": 1.5}, "SCH-007"),
    )
    for name, choices, clause in bad:
        text = "taken as it is"
        area.add(f"refuse-{name}", "rule.check", clause, text, {"choices": choices}, refused=clause)


AREAS = (counts,)
