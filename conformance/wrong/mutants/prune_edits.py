"""Mutants of pruners with one condition of a clause forgotten, or a limit off by one."""

from typing import Any

from conformance.engine.parts import (
    keep,
    sparsegpt,
    wanda,
)
from conformance.wrong.mutants.base import Mutant, edited

_ROWS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "prune.sparsegpt",
        "PRN-011",
        sparsegpt.sparsegpt,
        "removed_count(sparsity, n_out * n)",
        "removed_count(sparsity, n_out * (first + n)) - removed_count(sparsity, n_out * first)",
        "a running count",
    ),
)

_EDITS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    ("prune.magnitude", "PRN-001", keep.removed_count, "0 <= sparsity < 1", "0 <= sparsity <= 1", "a sparsity of 1"),
    ("prune.magnitude", "PRN-001", keep.removed_count, "0 <= sparsity < 1", "0 < sparsity < 1", "sparsity 0 refused"),
    ("prune.magnitude", "PRN-001", keep.removed_count, "count(sparsity * n)", "round(sparsity * n)", "counts rounded"),
    (
        "prune.wanda",
        "PRN-003",
        wanda.wanda_scores,
        "sums = binary64(input_square_sum)",
        "sums = __import__('numpy').nan_to_num(binary64(input_square_sum))",
        "NaN taken for 0",
    ),
    ("prune.wanda", "PRN-003", keep.keep_in_scope, "matrix.shape[1]))", "matrix.shape[0]))", "a count of rows"),
    (
        "prune.pattern",
        "PRN-004",
        keep.keep_n_of_m,
        "rank_in_rows(-groups) < n",
        "rank_in_rows(groups) >= m - n",
        "ties up",
    ),
    ("prune.sparsegpt", "PRN-009", sparsegpt.damped, "0 <= damping < inf", "damping < inf", "damping below 0"),
    (
        "prune.sparsegpt",
        "PRN-009",
        sparsegpt.damped,
        "damping * xp.mean(diagonal))",
        "damping * xp.mean(xp.where(dead, xp.ones_like(diagonal), diagonal)))",
        "dead inputs in the mean as 1",
    ),
    (
        "prune.sparsegpt",
        "PRN-011",
        sparsegpt.sparsegpt,
        "removed_count(sparsity, n_out * n)",
        "removed_count(sparsity, n) * n_out",
        "a count of each row",
    ),
    (
        "prune.sparsegpt",
        "PRN-013",
        sparsegpt._rounded,
        "not bool(xp.all(xp.abs(new) <= xp.finfo(weight.dtype).max))",
        "False",
        "infinite weights",
    ),
)

MUTANTS: list[Mutant] = [
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _ROWS),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _EDITS),
]
