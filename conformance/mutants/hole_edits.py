"""Mistakes that no case saw until somebody who knew neither cases nor mutants made them, one of each kind."""

from importlib import import_module
from typing import Any

from conformance.mutants.base import Mutant, edited, reset
from formats import change, delta_rules
from formats.encodings import gaps, nm
from seft_ref import event, evidence, groups, model
from seft_ref.kernels import reference
from seft_ref.layers import attention, attention_blocks
from seft_ref.prune import sparsegpt
from seft_ref.update import adapt, schedule, select
from seft_ref.update import delta as slots
from seft_ref.update import evidence as norms

__all__ = ["MUTANTS"]

_training: Any = import_module("seft_ref.train")  # the package has a function of this name
_COMPACT = "from_halves(values, topology.indptr), values.dtype"
_WIDE = "from_halves(values, topology.indptr)"
_UNSEEN = "    scores = xp.where(visible, scores, minus_infinity)\n"
_LARGEST = "    largest = xp.max(scores, axis=-1, keepdims=True)\n"
_COUNTED = "        n_counted += support.shape[0]\n"

_ROWS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "kernel.sparse",
        "KRN-015",
        reference.compact,
        _COMPACT,
        f"{_WIDE} * (abs({_WIDE}) >= 2.0**-14), values.dtype",
        "subnormal numbers of float16 flushed",
    ),
    (
        "kernel.sparse",
        "KRN-015",
        reference.compact,
        _COMPACT,
        "from_halves(values.astype('float16'), topology.indptr), values.dtype",
        "bfloat16 taken for float16",
    ),
    (
        "kernel.sparse",
        "KRN-015",
        reference.unpack,
        "to_halves(packed.values, packed.held_in)",
        "to_halves(packed.values, packed.held_in)[::-1]",
        "values unpacked in another order",
    ),
    (
        "kernel.sparse",
        "KRN-016",
        reference.clear,
        "return store(packed, where, xp.zeros(",
        "return packed if where.shape[0] else store(packed, where, xp.zeros(",
        "frozen values beside the live ones",
    ),
    (
        "kernel.sparse",
        "KRN-016",
        reference.matmul_transposed,
        "matmul_transposed(dy, packed.frozen) + matmul_transposed(dy, packed.live)",
        "matmul_transposed(dy, packed.frozen)",
        "live values left out",
    ),
    (
        "layer.attention",
        "LYR-007",
        attention._softmax,
        _UNSEEN + _LARGEST,
        _LARGEST + _UNSEEN,
        "the largest score of all keys",
    ),
    ("layer.attention", "LYR-007 LYR-008", attention._softmax, "-math.inf", "-1e30", "−1e30 for what is not seen"),
    (
        "model.step",
        "LYR-013 LYR-008",
        attention_blocks.Sight.keys,
        "start - self.window + 1",
        "start - self.window + 2",
        "a block of queries a key short",
    ),
    (
        "generate.read",
        "LYR-013 LYR-008 GEN-001",
        attention_blocks.Sight.keys,
        "self.first + start - self.window + 1",
        "self.first + start - self.window + 1 + (self.first > 0)",
        "behind a context a block a key short",
    ),
    (
        "model.step",
        "LYR-013",
        attention_blocks.Sight.rows,
        "self.mask[:, low:high]",
        "self.mask[:, : high - low]",
        "the mask of the first keys",
    ),
    (
        "model.step",
        "LYR-013",
        attention_blocks.blockwise_backward,
        "dk[:, :, low:high, :] + dk_block",
        "dk_block",
        "keys that two blocks see overwritten",
    ),
    ("model.step", "MDL-008", model.BlockInput.cache, "self.layer", "0", "the window of layer 0 computed again"),
    (
        "update.event",
        "GRD-003 GROW-007",
        evidence._Strongest._look_at,
        "block.budget[block.low // width :]",
        "block.budget",
        "the budgets of the first groups",
    ),
    (
        "update.event",
        "GRD-003 EVT-009",
        evidence._PerRow.offer,
        "self.n[first : first + n_rows]",
        "self.n[:n_rows]",
        "the counts of the first rows",
    ),
    (
        "select.pools",
        "SEL-008",
        select.selection_in_pools,
        "xp.abs(inside - outside) / xp.where(size > 0, size, xp.ones_like(size))",
        "xp.abs(inside - outside)",
        "the smallest difference",
    ),
    (
        "train.run",
        "DLT-001",
        event._budget,
        "union(flat(target.base.topology), target.lost)",
        "flat(target.base.topology)",
        "K of a group as it is now",
    ),
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
    (
        "update.event",
        "ADPT-001 SEL-005",
        adapt.adapt,
        "    if excess <= 0:\n",
        "    excess = min(excess, sum(p.shape[0] for p in positions))\n    if excess <= 0:\n",
        "as much as may be pruned, and no refusal",
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
        "update.event",
        "EVT-009",
        adapt.adapt,
        _COUNTED,
        '        n_counted += max(support.shape[0], int(m.part.budget) if rule.scope == "model" else 0)\n',
        "no matrix makes up for another",
    ),
    (
        "train.run",
        "EVT-010",
        _training.train_step,
        "not (has_event and",
        "not (timetable.in_window(step) and",
        "no step in a window",
    ),
    (
        "train.run",
        "TRN-005",
        schedule.Timetable.in_window,
        "step > found[0] - found[1]",
        "step >= found[0] - found[1]",
        "a window a step too long",
    ),
    (
        "gradient.candidates",
        "GRD-003 SEL-001",
        evidence._Strongest.offer,
        "low=block.low + start",
        "low=block.low",
        "every part of a block counted from its begin",
    ),
    (
        "gradient.candidates",
        "GRD-003",
        evidence._Strongest._compact,
        "self.least = float(xp.min(xp.take(scores, chosen)))",
        "self.least = float(xp.max(xp.take(scores, chosen)))",
        "a threshold at the best instead of the last",
    ),
    (
        "kernel.store",
        "KRN-016 KRN-012",
        reference.store,
        "Split(packed.frozen, store(packed.live, where, values))",
        "Split(store(packed.frozen, where, values), packed.live)",
        "stored into the frozen part",
    ),
    (
        "file.read",
        "FMT-072",
        nm._unpack,
        "    _check_spare(packed, per_row * bits, name)\n",
        "",
        "no look along an axis",
    ),
    (
        "file.read",
        "FMT-057",
        gaps.plan_gap8,
        "prod(entry.shape) // SKIP",
        "(prod(entry.shape) >> 8)",
        "gaps of n + numel / 256 bytes at most",
    ),
    ("delta.apply", "FMT-135", change._values_at, "np.zeros(at.size", "np.full(at.size, -0.0", "−0 + −0"),
    (
        "delta.apply",
        "FMT-132",
        delta_rules.operation_of,
        'partition(":")',
        'rpartition(":")',
        "names parted at their last colon",
    ),
    (
        "prune.sparsegpt",
        "PRN-011",
        sparsegpt.sparsegpt,
        "removed_count(sparsity, n_out * n)",
        "removed_count(sparsity, n_out * (first + n)) - removed_count(sparsity, n_out * first)",
        "a running count",
    ),
)

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _ROWS),
    reset("TOP-005", "topology.of", groups, "masks of 64 bits for any pattern", _WIDEST_MASK=64),
]
