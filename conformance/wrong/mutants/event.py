"""Mutants of events by the choices of chapter 8, of their records and their ratios."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.parts import adapt, drop, event_record, evolve, optimizers, pools, strongest, window
from conformance.wrong.mutants.base import Change, Mutant, Operation, Values, after, edited, edits, mutants, right


def choosing(**new: Any) -> Operation:
    """Return an event under a rule with other choices."""
    return lambda a: right("update.event")(a | {"rule": a["rule"] | new})


def of_parts(**new: Callable[[Values], Any]) -> Operation:
    """Return an event on parts with some entries replaced."""
    return lambda a: right("update.event")(
        a | {"parts": [part | {name: f(part) for name, f in new.items()} for part in a["parts"]]}
    )


def told(name: str, change: Callable[[Any], Any]) -> Operation:
    """Return an event with one entry of each record changed."""
    return after("update.event", lambda out, _: {"records": [r | {name: change(r[name])} for r in out["records"]]})


def scope_taken_for_matrix(a: Values) -> Values:
    # the one budget is the sum of the budgets of rows or groups
    names = ("budget", "delta_budget")
    parts = [part | {name: np.array([np.sum(part[name])]) for name in names} for part in a["parts"]]
    return right("update.event")(a | {"rule": a["rule"] | {"scope": "matrix"}, "parts": parts})


def matrices_apart(a: Values) -> Values:
    answers = [right("update.event")(a | {"parts": [part]}) for part in a["parts"]]
    return {name: [one for each in answers for one in each[name]] for name in answers[0]}


def base_moves_in(out: Values, a: Values) -> Values:
    """Add the grown positions to the base, with weights of 0."""
    both = [np.union1d(base, new) for base, new in zip(out["base"], out["grown"], strict=True)]
    more = []
    for old, values, new in zip(out["base"], out["base_values"], both, strict=True):
        wide = np.zeros(len(new), dtype=values.dtype)
        wide[np.searchsorted(new, old)] = values
        more.append(wide)
    return {"base": both, "base_values": more}


def scored(criterion: str, score: Callable[[Values], Any]) -> Change:
    """Return a change of scores that computes one criterion by another formula."""
    return lambda _, a: {"scores": np.asarray(score(a))} if a["criterion"] == criterion else {}


def at(a: Values, name: str) -> Any:
    return a[name].reshape(-1)[a["positions"]]


def n_for_the_budget_of_a_group(a: Values) -> Values:
    if a["pattern"] is None:
        return right("update.event")(a)
    parts = [part | {"budget": np.full_like(part["budget"], a["pattern"][0])} for part in a["parts"]]
    return right("update.event")(a | {"parts": parts})


def looked_at_where_it_is_scored(a: Values) -> Values:
    parts = [part | {"gradient": np.nan_to_num(part["gradient"])} for part in a["parts"]]
    return right("update.event")(a | {"parts": parts})


def looked_at_among_candidates(a: Values) -> Values:
    parts = [
        part | {"gradient": part["gradient"] if part["candidates"] is None else np.nan_to_num(part["gradient"])}
        for part in a["parts"]
    ]
    return right("update.event")(a | {"parts": parts})


_COUNTED = "    excess = pools.excess(counted)\n"
_ALL_COUNT = """\
    if rule.scope == "model":
        counted = [array_namespace(b).maximum(n, b) for n, b in zip(counted, pools.budgets)]
    excess = pools.excess(counted)
"""
_SELECTED = "    selected, boundary = pools.weights.select("
_AT_MOST = "    excess = xp.minimum(excess, pools.weights.sizes(scores)) if pools.weights.is_one else excess\n"
_REFILL = "sum(self.delta_budgets) - self.slots.sizes(at)"
_ROOM = "int(pools.delta_budgets[0][0]) - slots.shape[0]"


def norm_for_none(out: Values, a: Values) -> Values:
    return {"gradient_norm": [0.0 if norm is None else norm for norm in out["gradient_norm"]]}


"""Text in the source of the record, its replacement, and the flaw."""


MUTANTS: list[Mutant] = [
    *mutants("update.event",
        ("GRD-007 EVT-005", looked_at_among_candidates, "NaN on the support goes unseen, first-step"),
        ("DLT-001 EVT-009", n_for_the_budget_of_a_group, "N for what a group stored at load"),
        ("EVT-005", looked_at_where_it_is_scored, "NaN off what is scored goes unseen"),
        ("GRD-009", window.opened, "support if on_support else None", "None",
         "evidence kept everywhere with growth on the base"),
        ("DROP-003", choosing(drop="magnitude"), "always drops by |φ|"),
        ("DROP-004", choosing(drops="slot"), "the base of a dropped weight stays"),
        ("DROP-004", evolve._move, "base_without(base, gone)", "base_without(base, dropped)",
         "a position that grows again leaves the base"),
        ("GROW-004", choosing(grow="gradient"), "always grows by |ḡ|"),
        ("GROW-005", choosing(regrow=1), "just-dropped positions always candidates"),
        ("GROW-006", choosing(candidates="all"), "all positions candidates"),
        ("GRD-007", of_parts(candidates=lambda p: None if p["candidates"] is None else p["candidates"][:1]),
         "one candidate alone"),
        ("GROW-007 EVT-009 TOP-005", scope_taken_for_matrix, "scope taken for matrix"),
        ("ADPT-005", choosing(adapt="sensitivity"), "always adapts by |ḡ · W|"),
        ("ADPT-005 GRD-005", of_parts(absolute=lambda p: np.abs(p["gradient"])), "|ḡ| for mean |g|"),
        ("ADPT-005 GRD-008", of_parts(tokens=lambda p: p["square"]), "mean g² for the squares of tokens"),
        ("ADPT-006", choosing(counts="support"), "always counts the support"),
        ("ADPT-007", choosing(exempt="new"), "only new slots exempt"),
        ("DLT-006", choosing(moments="zero"), "new slots start without moments"),
        ("DLT-006", of_parts(steps=lambda p: 1), "A taken for 1"),
        ("EVT-008", choosing(adapts="always"), "always adapts"),
        ("SCH-008", choosing(first_event="fraction"), "the first event like the others"),
        ("RNG-003", {"seed": lambda a: a["seed"] + 1}, "another seed"),
        ("RNG-003", {"step": lambda a: a["step"] - 1}, "steps from 0"),
        ("SEL-007 DLT-001", matrices_apart, "matrices always apart"),
        ("DLT-001", of_parts(budget=lambda p: p["budget"] + 1), "a budget of K + 1"),
        ("EVT-006", base_moves_in, "grown positions join the base"),
        ("OPT-008",
         of_parts(row_moments=lambda p: None if p["row_moments"] is None else p["row_moments"] * 0 + 1),
         "rows forgotten at events"),
        ("TRN-009", told("dropped", lambda n: 0), "no count of dropped slots"),
        ("TRN-009", told("reactivated", lambda n: n + 1), "one reactivated too many"),
        ("SEL-008 TRN-009", told("drop", lambda b: b[:0]), "no boundary of the drop"),
        ("DLT-006", optimizers.AdamW.seeds, "steps, steps)", "steps, steps - 1)", "age A − 1 for adamw"),
        ("DLT-006", optimizers.SpielAdamW.seeds, "steps - 1)", "steps)", "age A for spiel-adamw"),
        ("DLT-006", optimizers.SpielAdamW.seeds, "steps - 1)", "max(steps - 1, 1))", "an age of at least 1"),
        ("DLT-006", optimizers.Sgd.seeds, " / (1.0 - self.momentum)", "", "u without 1 / (1 − μ)"),
        ("DLT-006", optimizers.Sgd.seeds, "mean * ((1.0 - self.momentum**steps) / (1.0 - self.momentum))",
         "mean * (1.0 - self.momentum**steps) / (1.0 - self.momentum)", "u by a product and a quotient"),
        ("GRD-003 GROW-007", strongest.Strongest._look_at, "budgets[block.low // groups.width :]", "budgets",
         "edited, the budgets of the first groups"),
        ("GRD-003 EVT-009", strongest.PerRow.offer, "self.n[first : first + n_rows]", "self.n[:n_rows]",
         "edited, the counts of the first rows"),
        ("ADPT-001 SEL-005", adapt.adapt, _SELECTED, _AT_MOST + _SELECTED,
         "edited, as much as may be pruned, and no refusal"),
        ("EVT-009", adapt.adapt, _COUNTED, _ALL_COUNT, "edited, no matrix makes up for another"),
        ("GROW-006", drop.replaced, f"fresh - ({_ROOM})", "fresh", "edited, a refill that replaces"),
        ("GROW-006", drop.replaced, "_scores(part, rule, chance)", "abs(part.delta.values)",
         "edited, the smallest |φ| leave"),
        ("GROW-006 SEL-002", drop.replaced, "selection(scores, n_leave).indices",
         "scores.shape[0] - 1 - selection(scores[::-1], n_leave).indices[::-1]",
         "edited, of equal scores those at higher positions leave"),
        ("GRD-006 EVT-005", evolve._check_finite, ", evidence.inputs", "", "edited, inputs that are not looked at"),
        ("EVT-005 SEL-004", drop._scores, "return DROP[rule.drop](operands)",
         "return array_namespace(part.delta.values).nan_to_num(DROP[rule.drop](operands))",
         "edited, a slot's infinite score ranked"),
        unchecked="EVT-005"),
    *edits("update.event", "TRN-009", event_record.record_of,
        ("grown=int(event.grown.shape[0])", "grown=int(event.grown.shape[0] + event.cancelled.shape[0])",
         "grown again"),
        ("pruned=int(event.pruned.shape[0])", "pruned=int(event.left.shape[0])", "pruned slots not counted"),
        ("part.base.topology.seek(event.grown)", "event.base.topology.seek(event.grown)", "reactivated after it"),
        ("max(0, delta_budget - slots_before)", "delta_budget - slots_before", "refilled below 0"),
        ("max(0, delta_budget - slots_before)", "max(0, delta_budget - eta.nnz)", "refilled after it"),
        ("slots=eta.nnz", "slots=slots_before", "slots before it"),
        ("count(~event.base.topology.seek_slots(eta)[1])", "eta.nnz",
         "a support that counts slots of the base twice"),
        ("n_stored + eta.nnz - count(outside(flat(eta), lost))", "n_stored", "those that grew back not at start")),
    *edits("update.event", "DLT-006", optimizers._adamw_seeds,
        ("mean * (1.0 - settings.beta1**steps)", "mean", "m of a mean"),
        ("square * (1.0 - settings.beta2**steps)", "square", "v of a mean"),
        ("square * (", "mean * mean * (", "ḡ² for square"),
        ("mean * (1.0 - settings.beta1**steps)", "mean - mean * settings.beta1**steps",
         "m by a product and a difference"),
        ("square * (1.0 - settings.beta2**steps)", "square - square * settings.beta2**steps",
         "v by a product and a difference")),
    *edits("update.event", "GROW-002", pools.Pools.growth,
        ("_at_least_zero(", "(", "edited, fewer than no position grow"),
        (_REFILL, f"(0 if self.slots.width else {_REFILL})", "edited, no refill"),
        ("sum(self.delta_budgets)", "self.delta_budgets[0]", "edited, one budget")),
    *mutants("event.ratios",
        ("GRD-009", window.opened, "support if on_support else None", "None",
         "a norm of the whole ḡ with growth on the base"),
        ("TRN-009", norm_for_none, "a norm of 0 where none was asked for")),
    *edits("event.ratios", "TRN-009", event_record.record_of,
        ("max(slots_before, 1)", "max(eta.nnz, 1)", "churn by the slots after it"),
        ("churn=int(event.grown.shape[0])", "churn=int(event.dropped.shape[0])", "churn of what is dropped"),
        ("max(slots_before, 1)", "(slots_before or float('nan'))", "churn of no slots is no number"),
        ("start / max(budget, 1)", "n_stored / max(budget, 1)", "overlap without those that grew back"),
        ("start / max(budget, 1)", "start / max(n_stored, 1)", "overlap by what is stored after it")),
    edited("GRD-009", "state.write", window.opened, "support if on_support else None", "None",
     "sums of every position with growth on the base"),
]  # fmt: skip
