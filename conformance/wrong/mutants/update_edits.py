"""Mutants of rules and optimizers with one condition of a clause forgotten, or a limit off by one."""

from conformance.engine.parts import optimizers, rules, schedule, settings, slots
from conformance.wrong.mutants.base import Mutant, edited, edits, mutants

_BINARY32 = "float(__import__('numpy').float32({}))"
_DECAYED, _RISE = "1.0 - lr * self.weight_decay", "age / max(self.slot_warmup, 1)"
_ADAMW, _SPIEL = optimizers.AdamW.step, optimizers.SpielAdamW.step
_SGD, _SM3 = optimizers.Sgd.step, optimizers.Sm3.step

_RULE = rules.Rule.__post_init__


MUTANTS: list[Mutant] = [
    *edits("optimizer.step", "OPT-001", _ADAMW,
        (_DECAYED, "1.0 - self.weight_decay", "decay without lr"),
        (" / (1.0 - self.beta1**age)", "", "no c₁")),
    *edits("optimizer.step", "OPT-010", _ADAMW,
        (f"min(1.0, {_RISE})", "1.0", "no rise"),
        (f"min(1.0, {_RISE})", _RISE, "a rise without an end"),
        (_RISE, "(age - bool(self.slot_warmup)) / max(self.slot_warmup, 1)", "the age of before the step"),
        (_DECAYED, f"{_DECAYED} / max(self.slot_warmup, 1)", "a rise for the decay too")),
    *edits("optimizer.step", "OPT-006", _SPIEL,
        ("(lr * self.weight_decay) * values", "self.weight_decay * values", "no lr"),
        (" * c1) / c2", ") / c2", "no c₁ in spiel-adamw"),
        ("(xp.sqrt(v) + self.eps) * c1) / c2", "xp.sqrt(v) * c1) / c2", "no eps")),
    *edits("optimizer.step", "OPT-007", _SGD,
        ("+ gradient", "+ (1.0 - self.momentum) * gradient", "1 − μ times g"),
        ("values - lr * u", "values - lr * gradient", "no momentum")),
    *edits("optimizer.step", "OPT-008", _SM3,
        ("xp.sqrt(nu + self.eps)", "(xp.sqrt(nu) + self.eps)", "eps outside the root"),
        ("self.weight_decay) * values", "self.weight_decay) * delta.values", "old φ"),
        ('"columns": _raised(c, column, nu)', '"columns": c', "columns that stay")),
    *(edited("OPT-002", op, step, old, old.replace(scalar, _BINARY32.format(scalar)), f"{name} in binary32")
      for op, step, old, scalar, name in (
          ("adamw.step", _ADAMW, _DECAYED, "lr * self.weight_decay", "1 − lr · weight_decay"),
          ("adamw.step", _ADAMW, "+ self.eps", "self.eps", "eps"),
          ("optimizer.step", _SPIEL, "- lr * (m", "lr", "lr of spiel-adamw"),
          ("optimizer.step", _SPIEL, "- (lr * self.weight_decay)", "lr * self.weight_decay", "decay of spiel-adamw"),
          ("optimizer.step", _SGD, "- lr * u", "lr", "lr of sgd"),
          ("optimizer.step", _SGD, "self.momentum * delta", "self.momentum", "μ"),
          ("optimizer.step", _SM3, "- lr * (g", "lr", "lr of sm3"),
          ("optimizer.step", _SM3, "nu + self.eps", "self.eps", "eps of sm3"))),
    *mutants("count.budgets",
        ("DLT-002", slots.budget_by_rank, ", extent.nnz)", ", extent.numel)", "edited, ranks above K"),
        ("DLT-002", slots.budget_by_nnz, "count(density * extent.nnz)", "int(density * extent.nnz)",
         "edited, int()")),
    *edits("count.budgets", "DLT-002", slots.budget_by_count,
        ("slots * extent.numel // total", "int(slots * (extent.numel / total))",
         "edited, a share cut in floating point"),
        ("slots * extent.numel // total", "int(slots / total * extent.numel)",
         "edited, slots a position cut in floating point"),
        ("slots * extent.numel // total", "round(slots * extent.numel / total)", "edited, shares rounded"),
        (", extent.nnz)", ", extent.numel)", "edited, shares above K")),
    edited("OPT-008", "optimizer.step", optimizers._raised, "xp.maximum(accumulator, xp.take(values, last))",
     "xp.take(values, last)", "accumulators that fall"),
    *mutants("schedule.all_events",
        ("SCH-007", schedule.last_event_step, "count(evolve_until * total_steps)",
         "round(evolve_until * total_steps)", "E rounded"),
        ("SCH-003", schedule.is_event, "step < total_steps and ", "", "an event after the last step"),
        ("SCH-005", schedule.Timetable.event_after, "0 if event == window else 1", "1", "A + 1 steps")),
    *mutants("rule.check",
        ("SCH-007", _RULE, "0 < self.evolve_until <= 1", "0 < self.evolve_until", "E beyond T"),
        ("SCH-007", _RULE, "0 < self.evolve_until <= 1", "self.evolve_until <= 1", "E of 0"),
        ("EVT-012", rules.Rule.asks, 'self.adapts == "always"', "True", "the last pass's evidence in events"),
        ("EVT-007", settings.TrainSettings._check_contradictions,
         'self.pattern is not None and self.initial_scope == "anywhere"', "False", "slots off a pattern"),
        ("EVT-007", settings.TrainSettings._check_contradictions, "rule.evolves and ", "", "a pattern at rest")),
]  # fmt: skip
