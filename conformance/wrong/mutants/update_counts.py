"""Mutants of counts, schedules, budgets, rules and optimizers (DLT, SCH, OPT)."""

import math
from collections.abc import Callable

import numpy as np

from conformance.engine.parts import optimizers, rules, schedule, settings, slots
from conformance.oracle import update_counts, update_schedule
from conformance.wrong.mutants.base import Mutant, Values, edited, edits, ids, mutant, mutants, right


def rate(a: Values) -> float:
    return update_schedule.drop_fraction(a["drop_fraction"], a["step"], a["steps"]) * a["slots"]


def with_nudge(nudge: float, x: Callable[[Values], float]) -> Callable[[Values], Values]:
    def counted(a: Values) -> Values:
        return {"n": min(math.floor(x(a) + nudge), a["stored"] if "stored" in a else a["slots"])}

    return counted


def budget_before_the_cap(a: Values) -> float:
    return float(a["density"] * a["out"] * a["in"])


def draws_by_slot(a: Values) -> Values:
    slots = right("delta.initial_random")(a | {"base": ids(range(len(a["base"])))})["positions"]
    return {"positions": a["base"][slots]}


def without_zeros(out: Values, _: Values) -> Values:
    return {name: values[out["weights"] != 0] for name, values in out.items()}


def base_plus_zero(out: Values, _: Values) -> Values:
    return {"weights": out["weights"] + 0.0}


def rounded_twice(out: Values, a: Values) -> Values:
    delta = a["delta_values"].astype(np.float16).astype(a["delta_values"].dtype)
    return {"weights": right("delta.effective")(a | {"delta_values": delta})["weights"]}


def shared_equally(a: Values) -> Values:
    if a["by"] != "count":
        return right("count.budgets")(a)
    n = int(a["amount"]) // max(len(a["shapes"]), 1)
    return {"n": ids(min(n, int(k)) for k in a["stored"])}


_BINARY32 = "float(__import__('numpy').float32({}))"
_DECAYED, _RISE = "1.0 - lr * self.weight_decay", "age / max(self.slot_warmup, 1)"
_ADAMW, _SPIEL = optimizers.AdamW.step, optimizers.SpielAdamW.step
_SGD, _SM3 = optimizers.Sgd.step, optimizers.Sm3.step

_RULE = rules.Rule.__post_init__


MUTANTS: list[Mutant] = [
    *mutants("count.drop",
        ("SEL-006 SCH-002", lambda a: {"n": round(rate(a))}, "round"),
        ("SEL-006 SCH-002", lambda a: {"n": int(rate(a))}, "floor without the nudge"),
        ("SEL-006 SCH-002", lambda a: {"n": math.ceil(rate(a))}, "ceil")),
    *(
        mutant("SEL-006", op, with_nudge(nudge, x), f"floor(x + {nudge:.0e})")
        for nudge in (1e-3, 1e-5, 9e-7)
        for op, x in (("count.budget", budget_before_the_cap), ("count.drop", rate))
    ),
    *mutants("count.budget",
        ("DLT-002", lambda a: {"n": update_counts.count(budget_before_the_cap(a))}, "no cap at K"),
        ("SEL-006", lambda a: {"n": min(int(budget_before_the_cap(a)), a["stored"])}, "int()")),
    *mutants("count.budgets",
        ("DLT-002", shared_equally, "slots shared equally"),
        ("DLT-002", {"by": lambda a: "numel" if a["by"] == "nnz" else a["by"]}, "always of out · in"),
        ("DLT-002", slots.budget_by_rank, ", extent.nnz)", ", extent.numel)", "edited, ranks above K"),
        ("DLT-002", slots.budget_by_nnz, "count(density * extent.nnz)", "int(density * extent.nnz)",
         "edited, int()"),
        unchecked="DLT-002"),
    *edits("count.budgets", "DLT-002", slots.budget_by_count,
        ("slots * extent.numel // total", "int(slots * (extent.numel / total))",
         "edited, a share cut in floating point"),
        ("slots * extent.numel // total", "int(slots / total * extent.numel)",
         "edited, slots a position cut in floating point"),
        ("slots * extent.numel // total", "round(slots * extent.numel / total)", "edited, shares rounded"),
        (", extent.nnz)", ", extent.numel)", "edited, shares above K")),
    *mutants("schedule.fraction",
        ("SCH-001", {"steps": lambda a: a["steps"] + 1}, "period T + 1"),
        ("SCH-001", lambda o, _: {"value": float(np.float32(o["value"]))}, "in binary32")),
    *mutants("schedule.drops",
        ("SCH-006 SCH-007", {"drop_schedule": lambda a: "cosine"}, "always cosine"),
        ("SCH-007", {"evolve_until": lambda a: 1.0}, "until the last step"),
        ("SCH-008", {"first_event": lambda a: "fraction"}, "the first event like the others"),
        unchecked="SCH-001 SCH-007 SCH-008"),
    mutant("SCH-003", "schedule.events",
     lambda a: {"at": ids(range(a["evolve_every"], a["steps"] + 1, a["evolve_every"]))}, "an event at step T"),
    *mutants("schedule.all_events",
        ("SCH-007", {"evolve_until": lambda a: 1.0}, "until the last step"),
        ("SCH-007", schedule.last_event_step, "count(evolve_until * total_steps)",
         "round(evolve_until * total_steps)", "E rounded"),
        ("SCH-003", schedule.is_event, "step < total_steps and ", "", "an event after the last step"),
        ("SCH-005", schedule.Timetable.event_after, "0 if event == window else 1", "1", "A + 1 steps"),
        unchecked="SCH-003 SCH-005 SCH-007 TRN-005"),
    *mutants("schedule.learning_rate",
        ("SCH-004", {"step": lambda a: a["step"] - 1}, "steps from 0"),
        ("SCH-004", {"warmup": lambda a: 0}, "no warm-up"),
        unchecked="SCH-004"),
    *mutants("delta.initial_random",
        ("DLT-004", draws_by_slot, "draws numbered by slot"),
        unchecked="SEL-005 RNG-002"),
    *mutants("schedule.spiel",
        ("SCH-005", {"steps": lambda a: a["steps"] - 1}, "the last phase lost"),
        ("SCH-005", lambda o, a: {"sums": o["sums"] * 0 + a["accumulate"]}, "A steps in every phase")),
    *mutants("delta.effective",
        ("TOP-004 DLT-003", without_zeros, "zeros leave the support"),
        ("DLT-003", base_plus_zero, "−0 of the base becomes +0"),
        ("DLT-003", rounded_twice, "φ in sixteen bits")),
    *mutants("delta.initial",
        ("DLT-004", {"scope": lambda a: "active"}, "always among the stored"),
        ("DLT-004",
         {"seed": lambda a: a["seed"] + 1,
          "gradient": lambda a: None if a["gradient"] is None else np.maximum(a["gradient"], 0)},
         "another seed, g for |g|"),
        unchecked="DLT-004"),
    *mutants("optimizer.step",
        ("OPT-001", _ADAMW, _DECAYED, "1.0 - self.weight_decay", "decay without lr"),
        ("OPT-001", _ADAMW, " / (1.0 - self.beta1**age)", "", "no c₁"),
        ("OPT-007", _SGD, "+ gradient", "+ (1.0 - self.momentum) * gradient", "1 − μ times g"),
        ("OPT-007", _SGD, "values - lr * u", "values - lr * gradient", "no momentum"),
        ("OPT-008", optimizers._raised, "xp.maximum(accumulator, xp.take(values, last))", "xp.take(values, last)",
         "accumulators that fall")),
    *edits("optimizer.step", "OPT-010", _ADAMW,
        (f"min(1.0, {_RISE})", "1.0", "no rise"),
        (f"min(1.0, {_RISE})", _RISE, "a rise without an end"),
        (_RISE, "(age - bool(self.slot_warmup)) / max(self.slot_warmup, 1)", "the age of before the step"),
        (_DECAYED, f"{_DECAYED} / max(self.slot_warmup, 1)", "a rise for the decay too")),
    *edits("optimizer.step", "OPT-006", _SPIEL,
        ("(lr * self.weight_decay) * values", "self.weight_decay * values", "no lr"),
        (" * c1) / c2", ") / c2", "no c₁ in spiel-adamw"),
        ("(xp.sqrt(v) + self.eps) * c1) / c2", "xp.sqrt(v) * c1) / c2", "no eps")),
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
    *mutants("rule.check",
        ("SCH-007", _RULE, "0 < self.evolve_until <= 1", "0 < self.evolve_until", "E beyond T"),
        ("SCH-007", _RULE, "0 < self.evolve_until <= 1", "self.evolve_until <= 1", "E of 0"),
        ("EVT-012", rules.Rule.asks, 'self.adapts == "always"', "True", "the last pass's evidence in events"),
        ("EVT-007", settings.TrainSettings._check_contradictions,
         'self.pattern is not None and self.initial_scope == "anywhere"', "False", "slots off a pattern"),
        ("EVT-007", settings.TrainSettings._check_contradictions, "rule.evolves and ", "", "a pattern at rest")),
]  # fmt: skip
