"""Mutants of pruners with one condition of a clause forgotten, or a limit off by one."""

from conformance.engine.parts import keep, sparsegpt, wanda
from conformance.wrong.mutants.base import Mutant, edited, edits, mutants

MUTANTS: list[Mutant] = [
    *mutants("prune.sparsegpt",
        ("PRN-011", sparsegpt.sparsegpt, "removed_count(sparsity, n_out * n)",
         "removed_count(sparsity, n_out * (first + n)) - removed_count(sparsity, n_out * first)",
         "edited, a running count"),
        ("PRN-009", sparsegpt.damped, "0 <= damping < inf", "damping < inf", "edited, damping below 0"),
        ("PRN-009", sparsegpt.damped, "damping * xp.mean(diagonal))",
         "damping * xp.mean(xp.where(dead, xp.ones_like(diagonal), diagonal)))",
         "edited, dead inputs in the mean as 1"),
        ("PRN-011", sparsegpt.sparsegpt, "removed_count(sparsity, n_out * n)",
         "removed_count(sparsity, n) * n_out", "edited, a count of each row"),
        ("PRN-013", sparsegpt._rounded, "not bool(xp.all(xp.abs(new) <= xp.finfo(weight.dtype).max))", "False",
         "edited, infinite weights")),
    *edits("prune.magnitude", "PRN-001", keep.removed_count,
        ("0 <= sparsity < 1", "0 <= sparsity <= 1", "edited, a sparsity of 1"),
        ("0 <= sparsity < 1", "0 < sparsity < 1", "edited, sparsity 0 refused"),
        ("count(sparsity * n)", "round(sparsity * n)", "edited, counts rounded")),
    *mutants("prune.wanda",
        ("PRN-003", wanda.wanda_scores, "sums = binary64(input_square_sum)",
         "sums = __import__('numpy').nan_to_num(binary64(input_square_sum))", "edited, NaN taken for 0"),
        ("PRN-003", keep.keep_in_scope, "matrix.shape[1]))", "matrix.shape[0]))", "edited, a count of rows")),
    edited("PRN-004", "prune.pattern", keep.keep_n_of_m, "rank_in_rows(-groups) < n", "rank_in_rows(groups) >= m - n",
     "edited, ties up"),
]  # fmt: skip
