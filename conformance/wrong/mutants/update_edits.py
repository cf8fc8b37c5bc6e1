"""Mutants of rules and optimizers with one condition of a clause forgotten, or a limit off by one."""

from typing import Any

from conformance.engine.parts import (
    optimizers,
    rules,
    schedule,
    settings,
    slots,
)
from conformance.wrong.mutants.base import (
    Mutant,
    Rows,
    edited,
    edits,
)

_BINARY32 = "float(__import__('numpy').float32({}))"
_ADAMW, _SPIEL = optimizers.AdamW.step, optimizers.SpielAdamW.step
_SGD, _SM3 = optimizers.Sgd.step, optimizers.Sm3.step

_OPTIMIZERS: Rows = (
    (
        "optimizer.step",
        "OPT-001",
        _ADAMW,
        "1.0 - lr * self.weight_decay",
        "1.0 - self.weight_decay",
        "decay without lr",
    ),
    ("optimizer.step", "OPT-001", _ADAMW, " / (1.0 - self.beta1**age)", "", "no c₁"),
    ("optimizer.step", "OPT-010", _ADAMW, "min(1.0, age / max(self.slot_warmup, 1))", "1.0", "no rise"),
    (
        "optimizer.step",
        "OPT-010",
        _ADAMW,
        "min(1.0, age / max(self.slot_warmup, 1))",
        "age / max(self.slot_warmup, 1)",
        "a rise without an end",
    ),
    (
        "optimizer.step",
        "OPT-010",
        _ADAMW,
        "age / max(self.slot_warmup, 1)",
        "(age - bool(self.slot_warmup)) / max(self.slot_warmup, 1)",
        "the age of before the step",
    ),
    (
        "optimizer.step",
        "OPT-010",
        _ADAMW,
        "1.0 - lr * self.weight_decay",
        "1.0 - lr * self.weight_decay / max(self.slot_warmup, 1)",
        "a rise for the decay too",
    ),
    ("optimizer.step", "OPT-006", _SPIEL, "(lr * self.weight_decay) * values", "self.weight_decay * values", "no lr"),
    ("optimizer.step", "OPT-006", _SPIEL, " * c1) / c2", ") / c2", "no c₁ in spiel-adamw"),
    ("optimizer.step", "OPT-006", _SPIEL, "(xp.sqrt(v) + self.eps) * c1) / c2", "xp.sqrt(v) * c1) / c2", "no eps"),
    ("optimizer.step", "OPT-007", _SGD, "+ gradient", "+ (1.0 - self.momentum) * gradient", "1 − μ times g"),
    ("optimizer.step", "OPT-007", _SGD, "values - lr * u", "values - lr * gradient", "no momentum"),
    ("optimizer.step", "OPT-008", _SM3, "xp.sqrt(nu + self.eps)", "(xp.sqrt(nu) + self.eps)", "eps outside the root"),
    ("optimizer.step", "OPT-008", _SM3, "self.weight_decay) * values", "self.weight_decay) * delta.values", "old φ"),
    ("optimizer.step", "OPT-008", _SM3, '"columns": _raised(c, column, nu)', '"columns": c', "columns that stay"),
    *(
        (op, "OPT-002", step, old, old.replace(scalar, _BINARY32.format(scalar)), f"{name} in binary32")
        for op, step, old, scalar, name in (
            ("adamw.step", _ADAMW, "1.0 - lr * self.weight_decay", "lr * self.weight_decay", "1 − lr · weight_decay"),
            ("adamw.step", _ADAMW, "+ self.eps", "self.eps", "eps"),
            ("optimizer.step", _SPIEL, "- lr * (m", "lr", "lr of spiel-adamw"),
            ("optimizer.step", _SPIEL, "- (lr * self.weight_decay)", "lr * self.weight_decay", "decay of spiel-adamw"),
            ("optimizer.step", _SGD, "- lr * u", "lr", "lr of sgd"),
            ("optimizer.step", _SGD, "self.momentum * delta", "self.momentum", "μ"),
            ("optimizer.step", _SM3, "- lr * (g", "lr", "lr of sm3"),
            ("optimizer.step", _SM3, "nu + self.eps", "self.eps", "eps of sm3"),
        )
    ),
)

_RULE = rules.Rule.__post_init__

_ROWS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "count.budgets",
        "DLT-002",
        slots.budget_by_count,
        "slots * extent.numel // total",
        "int(slots * (extent.numel / total))",
        "a share cut in floating point",
    ),
    (
        "count.budgets",
        "DLT-002",
        slots.budget_by_count,
        "slots * extent.numel // total",
        "int(slots / total * extent.numel)",
        "slots a position cut in floating point",
    ),
)

_EDITS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "count.budgets",
        "DLT-002",
        slots.budget_by_count,
        "slots * extent.numel // total",
        "round(slots * extent.numel / total)",
        "shares rounded",
    ),
    ("count.budgets", "DLT-002", slots.budget_by_count, ", extent.nnz)", ", extent.numel)", "shares above K"),
    ("count.budgets", "DLT-002", slots.budget_by_rank, ", extent.nnz)", ", extent.numel)", "ranks above K"),
    (
        "count.budgets",
        "DLT-002",
        slots.budget_by_nnz,
        "count(density * extent.nnz)",
        "int(density * extent.nnz)",
        "int()",
    ),
)

_RULES: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "optimizer.step",
        "OPT-008",
        optimizers._raised,
        "xp.maximum(accumulator, xp.take(values, last))",
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
    *edits(_OPTIMIZERS),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _ROWS),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _EDITS),
    *(edited(clauses, op, f, old, new, flaw) for op, clauses, f, old, new, flaw in _RULES),
]
