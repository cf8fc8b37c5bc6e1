"""Mutants of events and their records with one condition of a clause forgotten."""

from conformance.engine.parts import adapt, drop, event_record, evolve, optimizers, pools, strongest
from conformance.wrong.mutants.base import Mutant, edits, mutants

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


MUTANTS: list[Mutant] = [
    *mutants("update.event",
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
         "edited, a slot's infinite score ranked")),
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
]  # fmt: skip
