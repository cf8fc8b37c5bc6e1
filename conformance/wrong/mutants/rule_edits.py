"""Runs and events with one condition of one rule forgotten, or a limit off by one (chapters 8 to 10)."""

from typing import Any

from conformance.engine.parts import (
    drop,
    event,
    evolve,
    grow,
    optimizers,
    rules,
    schedule,
    settings,
    start,
)
from conformance.wrong.mutants.base import Mutant, edited

__all__ = ["MUTANTS"]

Rows = tuple[tuple[str, Any, str, str, str], ...]
_LAST = 'counts="support", exempt="none"'
_CHECKS = settings.TrainSettings.__post_init__
_NUMBERS = settings.TrainSettings._check_numbers
_RULE = rules.Rule.__post_init__

_RUN: Rows = (
    ("EVT-004", evolve.final_adapt, _LAST, 'counts="support"', "the last pass exempts what events exempt"),
    ("EVT-004", evolve.final_adapt, _LAST, 'exempt="none"', "the last pass counts as events count"),
    ("EVT-004", evolve.final_adapt, 'rule.scope == "model" and parts', "False", "the last pass takes matrices apart"),
    ("EVT-004", event._is_over, 'settings.rule.scope != "row"', "True", "the last pass looks at whole matrices"),
    ("EVT-004", event._is_over, "size > target.budget", "True", "the last pass gathers evidence for nothing"),
    ("RNG-003", evolve.final_adapt, "USE_END", "USE_ADAPT", "the last pass draws like an event"),
    ("RNG-003", event.adapt_last, "settings.steps)", "settings.steps - 1)", "the last pass draws of the step before"),
    (
        "RNG-003 MDL-007",
        event.adapt_last,
        "names.index(name)",
        "names.index(name) % 7",
        "the last pass counts in blocks",
    ),
    ("RNG-003 MDL-007", event._evolve_pool, "{name: i for i", "{name: i % 7 for i", "a matrix index counted in blocks"),
    (
        "DLT-004 MDL-007",
        start.initial_positions,
        "STREAM_POSITIONS, index)",
        "STREAM_POSITIONS, index % 7)",
        "first positions counted in blocks",
    ),
    ("TRN-008", _CHECKS, '("length", 2)', '("length", 1)', "a length of 1"),
    ("TRN-008", _CHECKS, '("warmup_steps", 0)', '("warmup_steps", -9)', "a warm-up below 0"),
    ("SCH-001", _CHECKS, "0 <= self.drop_fraction <= 1", "0 <= self.drop_fraction", "a drop fraction above 1"),
    ("SCH-001", _CHECKS, "0 <= self.drop_fraction <= 1", "self.drop_fraction <= 1", "a drop fraction below 0"),
    ("SCH-001", _CHECKS, "0 <= self.drop_fraction <= 1", "0 <= self.drop_fraction < 1", "a drop fraction of 1 refused"),
    ("DLT-002", _CHECKS, "0 < self.density <= 1", "0 < self.density", "a density above 1"),
    ("DLT-002", _CHECKS, "0 < self.density <= 1", "0 < self.density < 1", "a density of 1 refused"),
    ("TRN-008", _NUMBERS, '("lr", "max_norm", "weight_decay")', '("lr", "max_norm")', "any decay"),
    ("TRN-008", _NUMBERS, '("lr", "max_norm", "weight_decay")', '("lr", "weight_decay")', "any norm"),
    ("TRN-008", _NUMBERS, "0 <= value < math.inf", "0 <= value", "an infinite learning rate"),
    ("TRN-008", _NUMBERS, "0 <= value < math.inf", "0 < value < math.inf", "a learning rate of 0 refused"),
    ("TRN-008", _NUMBERS, "0 <= value < 1", "0 <= value <= 1", "β of 1"),
    ("TRN-008", _NUMBERS, "0 <= value < 1", "value < 1", "β below 0"),
    ("TRN-008", _NUMBERS, "0 <= value < 1", "0 < value < 1", "μ of 0 refused"),
    ("TRN-005", settings.TrainSettings._check_window, "<= self.evolve_every", "< self.evolve_every", "A of R refused"),
)
_EVENT: Rows = (
    ("GROW-002", grow._growth, "min(max(want, 0), ", "min(want, ", "fewer than no position grow"),
    (
        "GROW-002",
        grow._growth,
        "n_drop + part.delta_budget - slots_per_row(part.delta.topology)",
        "n_drop",
        "no refill",
    ),
    ("GROW-002", grow._growth, "sum(int(p.delta_budget) for p in parts)", "int(parts[0].delta_budget)", "one budget"),
    ("GROW-006", drop.replaced, "fresh - (int(part.delta_budget) - slots.shape[0])", "fresh", "a refill that replaces"),
)
_OTHER: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "train.step",
        "RNG-003 MDL-007",
        event._evolve_pool,
        "{name: i for i",
        "{name: i % 7 for i",
        "a matrix index counted in blocks",
    ),
    (
        "optimizer.step",
        "OPT-008",
        optimizers._raised,
        "xp.maximum(held, xp.take(values, last))",
        "xp.take(values, last)",
        "accumulators that fall",
    ),
    (
        "schedule.all_events",
        "SCH-007",
        schedule.last_event_step,
        "count(evolve_until * total_steps)",
        "round(evolve_until * total_steps)",
        "E rounded",
    ),
    (
        "schedule.all_events",
        "SCH-003",
        schedule.is_event,
        "step < total_steps and ",
        "",
        "an event after the last step",
    ),
    (
        "schedule.all_events",
        "SCH-005",
        schedule.Timetable.event_after,
        "0 if event == window else 1",
        "1",
        "A + 1 steps",
    ),
    ("rule.check", "SCH-007", _RULE, "0 < self.evolve_until <= 1", "0 < self.evolve_until", "E beyond T"),
    ("rule.check", "SCH-007", _RULE, "0 < self.evolve_until <= 1", "self.evolve_until <= 1", "E of 0"),
    ("rule.check", "EVT-012", rules.Rule.asks, 'self.adapts == "always"', "True", "the last pass's evidence in events"),
    (
        "rule.check",
        "EVT-007",
        settings.TrainSettings._check_contradictions,
        'self.pattern is not None and self.initial_scope == "anywhere"',
        "False",
        "slots off a pattern",
    ),
    (
        "rule.check",
        "EVT-007",
        settings.TrainSettings._check_contradictions,
        "rule.evolves and ",
        "",
        "a pattern at rest",
    ),
)

MUTANTS: list[Mutant] = [
    *(edited(clauses, "train.run", f, old, new, flaw) for clauses, f, old, new, flaw in _RUN),
    *(edited(clauses, "update.event", f, old, new, f"edited, {flaw}") for clauses, f, old, new, flaw in _EVENT),
    *(edited(clauses, op, f, old, new, flaw) for op, clauses, f, old, new, flaw in _OTHER),
]
