"""What follows from settings alone, and the settings and texts that a run refuses (TRN-008, TRN-017, TRN-018)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from conformance.oracle import update_choices, update_counts, update_schedule
from conformance.oracle.model import Config
from conformance.oracle.select import Round
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.update_optimizers import KEEPS, Hyper

_LEAST = {"steps": 1, "rows": 1, "micro_batches": 1, "evolve_every": 1, "start_batches": 1, "event_batches": 1}
_LEAST |= {"warmup": 0, "slot_warmup": 0, "length": 2}
_CHOICES = ("initial_scope", "budget_by", "optimizer", "pattern", "slots", "rank")


def rule_of(settings: Any) -> update_choices.Rule:
    """Return the rule of a run: the setting `rule`, or else the rule of the preset."""
    rule = settings["rule"] if "rule" in settings else update_choices.rule_of(settings["preset"])
    return rule | {name: getattr(hyper_of(settings), name) for name in ("beta1", "beta2", "momentum")}


def hyper_of(settings: Any) -> Hyper:
    """Return the numbers of the optimizer of a run."""
    names = Hyper.__dataclass_fields__
    return Hyper(**{name: settings[name] for name in names if name in settings})


def kept_of(settings: Any) -> tuple[str, ...]:
    """Return the names of what optimizer and rule keep for a slot."""
    origin = ("origin",) if rule_of(settings)["drop"] == "change" else ()
    return (*KEEPS[settings.get("optimizer", "adamw")], *origin)


def delta_budgets(settings: Any, shapes: Sequence[tuple[int, int]], budgets: Sequence[int]) -> list[int]:
    """Return d_φ of each target (DLT-002)."""
    by = settings.get("budget_by", "numel")
    amount = settings[{"count": "slots", "rank": "rank"}.get(by, "density")]
    return update_counts.delta_budgets(by, amount, shapes, budgets)


def due(settings: Any) -> dict[int, int]:
    """Return the number of steps in the window of each event, by the step that the event follows."""
    rule, every = rule_of(settings), settings["evolve_every"]
    at, sums = update_schedule.all_events(
        rule["events"], settings["steps"], every, rule["evolve_until"], settings["gradient_window"]
    )
    return dict(zip(at, sums, strict=True)) if rule["evolves"] else {}


def per_pool(scope: str, shape: tuple[int, ...], pattern: Sequence[int] | None, at: Iterable[int]) -> list[int]:
    """Return how many of the positions lie in each row, in each group, or in the whole matrix (EVT-009)."""
    width = {"row": shape[1], "group": pattern[1] if pattern else 0}.get(scope, 0) or shape[0] * shape[1]
    return np.bincount([p // width for p in at], minlength=shape[0] * shape[1] // width).tolist()


def window_of(settings: Any, step: int) -> tuple[int, bool]:
    """Return the number of earlier steps in the window of a step, and whether the window ends with it (TRN-005).

    0 and False if the step is in no window.
    """
    inside = ((step - (end - n) - 1, step == end) for end, n in due(settings).items() if end - n < step <= end)
    return next(inside, (0, False))


def broken(s: dict[str, Any], rounded: Round) -> list[str]:
    """Return the clauses that settings break; `rounded` rounds to the compute dtype."""
    rule, hyper = rule_of(s), vars(hyper_of(s))
    at_most = s["evolve_every"] if rule["events"] == "period" else math.inf
    fits = {
        "TRN-008": all(s.get(name, 1) >= least for name, least in _LEAST.items() if name in s)
        and all(0 <= x < math.inf for x in (s["lr"], s["max_norm"], hyper["weight_decay"]))
        and all(0 <= hyper[name] < 1 for name in ("beta1", "beta2", "momentum"))
        and 0 < hyper["eps"] < math.inf
        and rounded(hyper["eps"]) > 0,
        "TRN-005" if rule["events"] == "period" else "SCH-005": (rule["events"] == "period") <= s["gradient_window"]
        and s["gradient_window"] <= at_most,
        "DLT-002": 0 < s.get("density", 1.0) <= 1,
        "SCH-001": 0 <= s["drop_fraction"] <= 1,
        "RNG-002": 0 <= s["seed"] < 2**64,
        "SCH-004": s["schedule"] in ("constant", "linear", "cosine"),
        "OPT-001": s.get("optimizer", "adamw") in KEEPS,
        "EVT-012": s.get("start_batches", 1) == 1 or s["start"] == "gradient",
    }
    clauses = [clause for clause, holds in fits.items() if not holds]
    choices = {name: s[name] for name in _CHOICES if s.get(name) is not None} | {"initial_positions": s["start"]}
    try:
        update_choices.check(rule | choices)
    except RefusedError as error:
        clauses.append(str(error).split(":")[0])
    return clauses


def unreadable(config: Config, text: Sequence[int], length: int, short: str) -> list[str]:
    """Return the clauses that a text or its windows break; `short` is the clause of a text shorter than a window."""
    if length > len(text):
        return [short]
    clauses = ["TRN-017"] if length > config.get("max_position_embeddings", math.inf) else []
    return clauses + (["TRN-018", "LYR-001"] if not all(0 <= t < config["vocab_size"] for t in text) else [])
