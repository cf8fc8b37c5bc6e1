"""The settings, texts and windows that a run refuses before anything is computed (TRN-008, TRN-017, TRN-018)."""

import math
from collections.abc import Sequence
from typing import Any

from conformance.oracle import update_choices
from conformance.oracle.model import Config
from conformance.oracle.select import Round
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.update_optimizers import KEEPS, Hyper

_LEAST = {"steps": 1, "rows": 1, "micro_batches": 1, "evolve_every": 1, "start_batches": 1, "event_batches": 1}
_LEAST |= {"warmup": 0, "slot_warmup": 0, "length": 2}
_CHOICES = ("initial_scope", "budget_by", "optimizer", "pattern", "slots", "rank")


def broken(s: dict[str, Any], rounded: Round) -> list[str]:
    """Return the clauses that settings break; `rounded` rounds to the compute dtype."""
    rule = s["rule"] if "rule" in s else update_choices.rule_of(s["preset"])
    hyper = {name: s.get(name, default) for name, default in vars(Hyper()).items()}
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
