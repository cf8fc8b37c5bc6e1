"""Mutants of drop, grow and adapt, and of events of one matrix (DROP, GROW, ADPT, EVT, DLT)."""

from typing import Any

import numpy as np

from conformance.engine.parts import adapt, evolve, grow
from conformance.wrong.mutants.base import REFUSALS, Mutant, Values, edits, ids, mutants, right


def largest_dropped(a: Values) -> Values:
    return {"dropped": np.sort(a["delta"][np.argsort(-np.abs(a["delta_values"]), kind="stable")[: a["n"]]])}


def went_on(a: Values, **inputs: Any) -> Values:
    """Return an event after another one on the same inputs, some of which are replaced in the other."""
    out = right("update.evolve")(a | inputs)
    return a | {name: out[name] for name in ("base", "base_values", "delta", "delta_values", "m", "v", "age")}


def of_another_step(a: Values) -> Values:
    """Prune by another gradient than the one that growth uses."""
    if not a["adapts"]:
        return right("update.evolve")(a)
    next_gradient = np.ascontiguousarray(a["gradient"][::-1, ::-1])
    return right("update.evolve")(went_on(a, adapts=0) | {"n_drop": 0, "gradient": next_gradient})


def adapt_first(a: Values) -> Values:
    return right("update.evolve")(went_on(a, adapts=1, n_drop=0, delta_budget=len(a["delta"])))


def age_of_seven(out: Values, a: Values) -> Values:
    return {"age": np.where(np.isin(out["delta"], a["delta"]), out["age"], 7).astype(out["age"].dtype)}


def ranked_anyway(a: Values) -> Values:
    """Refuse a score that overflows, although no weight has to leave (EVT-005.3)."""
    w = right("delta.effective")(a)
    if not np.isfinite(a["gradient"].reshape(-1)[w["support"]] * w["weights"]).all():
        raise REFUSALS[0]("SEL-004", "a score is infinite")
    return right("update.adapt")(a)


_EVOLVE, _MOVE, _BASE = evolve.evolve, evolve._move, "base, removed = part.base, gone[:0]\n"
_ADAPT = "adapt(moved, pools, rule,"
_START = "    start = None\n"
_CANCELLED_START = """\
    kept = {name: x * outside(slots, cancelled) for name, x in delta.kept.items()}
    delta = replace(delta, kept=kept)
    start = None
"""
_CANCELLED_FORGET = _CANCELLED_START.replace("items()}", "items()} | {'age': delta.kept['age']}")
_STEPPED = f"""\
new = ~outside(flat(delta.topology), fresh)
    delta = replace(delta, values=xp.where(new, delta.values - 0.125, delta.values))
    {_BASE}"""
_FOLDED = f"""\
{_BASE}    folded = values_at(slots, part.delta.values * ~outside(slots, dropped), flat(base.topology))
    base = replace(base, values=base.values + folded)
"""

MUTANTS: list[Mutant] = [
    *mutants("update.drop",
        ("DROP-001", {"delta_values": lambda a: a["delta_values"] - 100}, "φ for |φ|"),
        ("DROP-001", largest_dropped, "the largest dropped"),
        unchecked="SEL-004 SEL-005"),
    *mutants("update.grow",
        ("GROW-001", {"dropped": lambda a: a["dropped"][:0]}, "no just-dropped"),
        ("GROW-001", {"scope": lambda a: "active"}, "never off the base"),
        ("GROW-002", {"gradient": lambda a: np.maximum(a["gradient"], 0)}, "ḡ for |ḡ|"),
        unchecked="EVT-005 TOP-003"),
    *mutants("delta.effective", unchecked="TOP-003"),
    *mutants("update.adapt",
        ("EVT-004 ADPT-001", lambda a: {"pruned": ids([])}, "no last pass"),
        ("ADPT-002", {"gradient": lambda a: np.ones_like(a["gradient"])}, "|W| for |ḡ · W|")),
    Mutant("update.adapt", "scores refused that nobody ranks", ("EVT-005",), ranked_anyway, refuses_good=True),
    *edits("update.evolve", "GROW-003", _MOVE,
        (_START, _CANCELLED_FORGET, "moments of cancelled pairs lost"),
        (_START, _CANCELLED_START, "cancelled pairs start anew")),
    *edits("update.evolve", "ADPT-003", _EVOLVE,
        (_ADAPT, "adapt(moved, pools, replace(rule, exempt='none'),", "new slots not exempt"),
        (_ADAPT, "adapt([replace(m, fresh=union(m.fresh, m.cancelled)) for m in moved], pools, rule,",
         "cancelled pairs exempt"),
        (_ADAPT, "adapt(moved, pools, replace(rule, exempt='slots'),", "the whole delta exempt")),
    *edits("update.evolve", "ADPT-004 EVT-003", evolve._event,
        ("if pruned.shape[0] else", "if False else", "the slot stays"),
        ("base_without(m.base, pruned)", "base_without(m.base, pruned[:0])", "the base stays")),
    *mutants("update.evolve",
        ("GROW-001", grow._candidates, "if not rule.regrow:", "if True:", "no just-dropped"),
        ("GROW-001 EVT-007", {"scope": lambda a: "all"}, "scope ignored"),
        ("GROW-002", {"delta_budget": lambda a: len(a["delta"])}, "no refill"),
        ("GROW-002", {"gradient": lambda a: np.maximum(a["gradient"], 0)}, "ḡ for |ḡ|"),
        ("DLT-005", age_of_seven, "ages not reset"),
        ("DLT-005", _MOVE, _BASE, _STEPPED, "a new slot is not 0"),
        ("DROP-002 EVT-006", _MOVE, _BASE, _FOLDED, "dropped values folded into the base"),
        ("EVT-001", adapt_first, "adapt before drop"),
        ("ADPT-001", {"budget": lambda a: a["budget"] - 1}, "one too many pruned"),
        ("ADPT-001 TOP-004", _EVOLVE, _ADAPT, "adapt(moved, pools, replace(rule, counts='values'),",
         "values counted instead of support"),
        ("ADPT-002", adapt._Prunable.weights, "without(self.over.weight, self.spared)",
         "abs(without(self.over.weight, self.spared)) * 0 + 1", "|g| for |g·W|"),
        ("ADPT-002", _EVOLVE, _ADAPT, "adapt(moved, pools, replace(rule, adapt='magnitude'),", "|W| for |g·W|"),
        ("ADPT-002", _EVOLVE, _ADAPT,
         "adapt([replace(m, delta=replace(m.delta, values=0 * m.delta.values)) for m in moved], pools, rule,",
         "the base weight alone"),
        ("EVT-001", {"adapts": lambda a: 1}, "adapt where it is left out"),
        ("EVT-003 NUM-001", {"adapts": lambda a: 0}, "never adapts"),
        ("EVT-002", of_another_step, "adapt with another step's gradient"),
        unchecked="SEL-005 EVT-005"),
]  # fmt: skip
