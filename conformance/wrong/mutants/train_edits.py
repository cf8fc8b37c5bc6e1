"""Mutants of runs, settings and warnings with one condition of a clause forgotten, or a limit off by one."""

from typing import Any

from conformance.engine.parts import (
    diagnose,
    event,
    evolve,
    norms,
    rng,
    schedule,
    settings,
    start,
    strongest,
    text,
    training,
)
from conformance.wrong.mutants.base import (
    Mutant,
    Rows,
    edited,
    edits,
    reset,
    unchecked,
)

_APART = "[[name] for name in over]"
_OVER = "bool(array_namespace(*sizes).any(pools.excess(sizes) > 0))"
_OVER_IN_ALL = "sum(int(size.sum()) for size in sizes) > sum(target.budget for target in targets)"
_STEP = training.train_step
_CLIPPED = "optimize(target.delta, grads.at[name] * factor, lr)"
_NORM = "clip_factor(norm * norm, settings.max_norm)"

_RUNS: Rows = (
    ("train.step", "OPT-004", _STEP, _NORM, "1.0", "never clips"),
    (
        "train.step",
        "OPT-004",
        _STEP,
        _CLIPPED,
        _CLIPPED.replace("factor", "clip_factor(float((grads.at[name] ** 2).sum()), settings.max_norm)"),
        "the norm of each matrix",
    ),
    *(
        (
            "train.run",
            "EVT-004",
            training.finish,
            "state.step, state.weights, ranks)",
            other,
            f"the last pass sees {name}",
        )
        for other, name in (
            ("1, state.weights, ranks)", "the data of the first step"),
            ("state.step - 1, state.weights, ranks)", "the data of the step before"),
            ("state.step + 1, state.weights, ranks)", "the data of a step that is not taken"),
            ("state.step, state.weights, ranks)[:1]", "the first micro-batch"),
        )
    ),
)

_WARNED: Rows = tuple(
    ("run.warnings", "TRN-011", function, old, new, flaw)
    for function, old, new, flaw in (
        (diagnose._jump, "len(before) < BEFORE_EVENT", "not before", "early events judged"),
        (diagnose._jump, "len(before) < BEFORE_EVENT", "len(before) <= BEFORE_EVENT", "the fifth step too early"),
        (diagnose._jump, "rise > spread and ", "", "a jump within the spread"),
        (diagnose._jump, "rise > spread", "rise >= spread", "a jump as large as the spread"),
        (diagnose._jump, " and rise > JUMP * largest", "", "a jump of less than 5 %"),
        (diagnose._jump, "rise > JUMP", "rise >= JUMP", "a jump of 5 %"),
        (diagnose._jump, "JUMP * largest", "JUMP * before[-1]", "5 % of the last loss"),
        (diagnose._jump, "rise = loss - largest", "rise = loss - before[-1]", "a jump from the last loss"),
        (diagnose.Watch._divergence, "mean - self._lowest_mean > RISE", "mean - self._lowest_mean >= RISE", "20 %"),
        (diagnose.Watch._divergence, "RISE * self._lowest_mean", "RISE * mean", "20 % of the mean itself"),
        (diagnose.Watch._divergence, "mean < self._lowest_mean", "mean <= self._lowest_mean", "as low, and new"),
        (diagnose.Watch._divergence, "self._told_of_lowest or ", "", "divergence at every step"),
        (diagnose.Watch.add_step, "len(self._recent) == MEAN_OF", "len(self._recent) > 8", "means of nine"),
        (diagnose.Watch.add_event, "support <= self.budget", "support < self.budget", "a budget that is met"),
        (diagnose.Watch.end, "stored <= self.budget", "stored < self.budget", "as dense at the end"),
    )
)

_LIMITS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("4 steps up to an event", {"BEFORE_EVENT": 4}),
    ("6 steps up to an event", {"BEFORE_EVENT": 6}),
    ("4 %", {"JUMP": 0.04}),
    ("6 %", {"JUMP": 0.06}),
    ("19 %", {"RISE": 0.19}),
    ("21 %", {"RISE": 0.21}),
    ("means of 11 steps", {"MEAN_OF": 11}),
)

_LAST = 'counts="support", exempt="none"'
_CHECKS = settings.TrainSettings.__post_init__
_NUMBERS = settings.TrainSettings._check_numbers

_RUN: tuple[tuple[str, Any, str, str, str], ...] = (
    ("EVT-004", evolve.final_adapt, _LAST, 'counts="support"', "the last pass exempts what events exempt"),
    ("EVT-004", evolve.final_adapt, _LAST, 'exempt="none"', "the last pass counts as events count"),
    ("EVT-004", event.adapt_last, "together(settings.rule, over)", _APART, "the last pass takes matrices apart"),
    ("EVT-004", event._is_over, _OVER, _OVER_IN_ALL, "the last pass looks at whole matrices"),
    ("EVT-004", event._is_over, _OVER, "True", "the last pass gathers evidence for nothing"),
    ("RNG-003", evolve.final_adapt, "USE_END", "USE_ADAPT", "the last pass draws like an event"),
    (
        "RNG-003",
        event.adapt_last,
        "settings.seed, step)",
        "settings.seed, step - 1)",
        "the last pass draws of the step before",
    ),
    (
        "RNG-003 MDL-007",
        event.adapt_last,
        "numbers[n]",
        "numbers[n] % 7",
        "the last pass counts in blocks",
    ),
    ("RNG-003 MDL-007", event.evolve_all, "{name: i for i", "{name: i % 7 for i", "a matrix index counted in blocks"),
    (
        "DLT-004 MDL-007",
        start.initial_positions,
        "STREAM_POSITIONS, index)",
        "STREAM_POSITIONS, index % 7)",
        "first positions counted in blocks",
    ),
    ("DLT-004", training.first_batches, "settings.start_batches + 1", "2", "first positions by one step"),
    ("DLT-004", training.first_batches, "range(1, ", "range(0, ", "first positions by a step before the first"),
    (
        "TRN-023",
        training._batches_of_later_steps,
        "first + i",
        "first + i + 1",
        "an event passes over the step that follows",
    ),
    ("TRN-023", training._batches_of_later_steps, "first + i", "first - 1", "an event looks at its own step again"),
    ("TRN-023", training.finish, "state.step + 1", "1", "the last pass begins the text anew"),
    ("TRN-023", training.finish, "[batches, *more]", "[batches]", "the last pass looks at the last step alone"),
    ("TRN-008", _CHECKS, '("event_batches", 1)', '("event_batches", 0)', "an event that looks at no step"),
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

_ROWS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "train.run",
        "DLT-001",
        event._budget,
        "union(flat(target.base.topology), target.lost)",
        "flat(target.base.topology)",
        "K of a group as it is now",
    ),
    (
        "gradient.norm",
        "EVT-005 TRN-009",
        norms.finite_norm,
        "        # no square has",
        "        if math.isinf(total):\n            raise _refusal()\n        # no square has",
        "a norm in binary32",
    ),
    (
        "train.run",
        "EVT-010",
        training.train_step,
        "not (has_event and",
        "not (timetable.in_window(step) and",
        "no step in a window",
    ),
    (
        "train.run",
        "TRN-005",
        schedule.Timetable.in_window,
        "step > event[0] - event[1]",
        "step >= event[0] - event[1]",
        "a window a step too long",
    ),
    (
        "gradient.candidates",
        "GRD-003 SEL-001",
        strongest.Strongest.offer,
        "low=block.low + start",
        "low=block.low",
        "every part of a block counted from its begin",
    ),
    (
        "gradient.candidates",
        "GRD-003",
        strongest.Strongest._compact,
        "self.least = float(xp.min(xp.take(scores, chosen)))",
        "self.least = float(xp.max(xp.take(scores, chosen)))",
        "a threshold at the best instead of the last",
    ),
)

_EDITS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    ("text.training", "TRN-003", text._room, "tokens - length + 1", "tokens - length", "the last window left out"),
    ("text.training", "TRN-003", text._room, "tokens < length", "tokens <= length", "a text of one window refused"),
    ("text.evaluation", "EVL-001", text._room, "tokens < length", "tokens <= length", "a text of one window refused"),
    (
        "text.evaluation",
        "EVL-001",
        text.evaluation_starts,
        "i * (room - 1) // max(windows - 1, 1)",
        "round(i * (room - 1) / max(windows - 1, 1))",
        "starts rounded",
    ),
    (
        "text.evaluation",
        "EVL-001",
        text.evaluation_starts,
        "range(0, room, length)",
        "range(0, tokens, length)",
        "a window that begins in the rest",
    ),
    ("train.run", "RNG-002", rng.counter_key, "0 <= word <= _MASK", "word <= _MASK", "words below 0"),
    ("train.run", "RNG-002", rng.counter_key, "0 <= word <= _MASK", "0 <= word", "words of 65 bits"),
)

_RULES: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "train.step",
        "RNG-003 MDL-007",
        event.evolve_all,
        "{name: i for i",
        "{name: i % 7 for i",
        "a matrix index counted in blocks",
    ),
)

_OVER_AT_END = "over_budget(state.targets, settings), settings"

_PLACES: Rows = (
    (
        "train.run",
        "DLT-004",
        start.initial_positions,
        "ranks, anywhere=anywhere)",
        "ranks, anywhere=False)",
        "a start by gradient among stored weights only",
    ),
    (
        "train.run",
        "EVT-004",
        training.finish,
        _OVER_AT_END,
        "[] if settings.timetable().is_event(state.step) else " + _OVER_AT_END,
        "no last pass where an event follows the last step",
    ),
)

MUTANTS: list[Mutant] = [
    *edits(_RUNS),
    *edits(_WARNED),
    *(reset("TRN-011", "run.warnings", diagnose, flaw, **values) for flaw, values in _LIMITS),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _ROWS),
    *unchecked("text.calibration", "PRN-007"),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _EDITS),
    *(edited(clauses, "train.run", f, old, new, flaw) for clauses, f, old, new, flaw in _RUN),
    *(edited(clauses, op, f, old, new, flaw) for op, clauses, f, old, new, flaw in _RULES),
    *edits(_PLACES, shown_by="train.ends"),
]
