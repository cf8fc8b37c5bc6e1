"""Mutants of pruners (PRN)."""

from collections.abc import Callable

import numpy as np

from conformance.engine.flaws import behind_unpruned_blocks
from conformance.engine.parts import keep, owl, prune_record, sparsegpt, wanda
from conformance.wrong.mutants.base import Mutant, Operation, Values, edits, ids, mutants, right
from conformance.wrong.mutants.model import behind_silent_norms


def wanda_in_the_runs_dtype(a: Values) -> Values:
    """Prune by scores in the dtype of the weights, which may overflow or tie."""
    with np.errstate(over="ignore", invalid="ignore"):
        scores = np.abs(a["weights"]) * np.sqrt(a["square_sums"])
    cols = scores.shape[1]
    order = np.argsort(scores, axis=1, kind="stable")[:, : int(a["sparsity"] * cols + 2.0**-20)]
    mask = np.ones(scores.shape, dtype=bool)
    np.put_along_axis(mask, order, values=False, axis=1)
    return {"kept": ids(np.flatnonzero(mask))}


def model_as_it_was(a: Values) -> Values:
    """Return a pruned model with the right masks on its old weights."""
    out = right("prune.model_sparsegpt")(a)
    weights = {}
    for name, value in out["weights"].items():
        weights[name] = np.where(value != 0, a["tensors"][name], 0).astype(value.dtype)
    return out | {"weights": weights}


def no_nudge(a: Values) -> Values:
    if not 0 <= a["sparsity"] < 1:
        return right("prune.magnitude")(a)
    size = np.abs(a["weights"]).reshape(-1)
    gone = np.argsort(size, kind="stable")[: int(a["sparsity"] * size.size)]
    return {"kept": np.setdiff1d(np.arange(size.size), gone)}


def kept_bits_lost(a: Values) -> Values:
    """Return a pruned model with one kept weight too few in every matrix."""
    out = right("prune.model")(a)
    return out | {"kept": {name: kept[1:] for name, kept in out["kept"].items()}}


def scope_as(other: Callable[[Values], str]) -> Operation:
    """Return the choice of weights by scope with another scope than the one that is asked."""

    def op(a: Values) -> Values:
        scope = a["scope"]
        return right("prune.scope")(a | {"scope": other(a) if scope in ("row", "matrix", "model") else scope})

    return op


def last_matrix_first(a: Values) -> Values:
    """Choose by scope with ties to the later matrix."""
    out = right("prune.scope")(a | {"scores": a["scores"][::-1]})
    return {"kept": out["kept"][::-1]}


_NARROW = "xp.astype(rest, weight.dtype)\n    factor = xp.astype(factor, weight.dtype)"
_FACTOR = "xp.flip(xp.linalg.inv(lower))"
_KEEP = "partial(keep_of_matrix, removed=removed)"
_KEEP_IN_ROWS = "lambda costs: xp.concat([keep_of_matrix(row[None, :], removed_count(sparsity, n)) for row in costs])"
_PANEL = "        u = factor[first : first + n, first:]\n"
_CHOSEN_FIRST = f"""\
{_PANEL}        chosen = keep(_costs(xp.astype(weight[:, first : first + n], xp.float64), xp.linalg.diagonal(u)))
        parts = iter(xp.split(chosen, 1 if pattern is None else n // pattern[1], axis=1))
        keep = lambda _: next(parts)
"""

MUTANTS: list[Mutant] = [
    *mutants("prune.scope",
        ("PRN-016", scope_as(lambda a: "matrix"), "every matrix on its own"),
        ("PRN-016", scope_as(lambda a: "row"), "every row on its own"),
        ("PRN-016", scope_as(lambda a: "model"), "all matrices together"),
        ("PRN-016", last_matrix_first, "ties to the later matrix"),
        unchecked="PRN-001 PRN-016 SEL-004"),
    *mutants("prune.random",
        ("PRN-017", {"matrix": lambda a: 0}, "one mask for matrices of one shape"),
        ("PRN-017", {"seed": lambda a: a["seed"] % 2**32}, "a seed of 32 bits")),
    *mutants("prune.owl", unchecked="PRN-018"),
    *edits("prune.owl", "PRN-018", owl.outlier_share,
        ("matrix > limit", "matrix > outlier * float(xp.mean(matrix))", "a mean of each matrix"),
        ("limit = outlier * sum", "limit = sum", "above the mean"),
        ("matrix > limit", "matrix >= limit", "≥ for >")),
    *edits("prune.owl", "PRN-018", owl.block_sparsities,
        ("2.0 * spread", "spread", "half of the spread"),
        ("sum(offsets) / len(offsets)", "0.0", "not centred"),
        ("sparsity - (offset", "sparsity + (offset", "outliers pruned more")),
    *mutants("prune.model",
        ("TRN-019 LYR-015", behind_silent_norms("prune.model"), "RMSNorm gives 0 where squares overflow"),
        ("PRN-005", kept_bits_lost, "one weight too few"),
        unchecked="TRN-017 LYR-001 LYR-015 PRN-006"),
    *mutants("prune.magnitude",
        ("PRN-001", no_nudge, "int(ρ n)"),
        ("PRN-002", {"weights": lambda a: a["weights"] + 100}, "W for |W|"),
        unchecked="PRN-001"),
    *edits("prune.magnitude", "PRN-001", keep.removed_count,
        ("0 <= sparsity < 1", "0 <= sparsity <= 1", "edited, a sparsity of 1"),
        ("0 <= sparsity < 1", "0 < sparsity < 1", "edited, sparsity 0 refused"),
        ("count(sparsity * n)", "round(sparsity * n)", "edited, counts rounded")),
    *mutants("prune.wanda",
        ("PRN-003", {"square_sums": lambda a: a["square_sums"] * 0 + 1}, "no norms"),
        ("PRN-014 PRN-015", wanda_in_the_runs_dtype, "scores in binary32"),
        ("PRN-003", wanda.wanda_scores, "sums = binary64(input_square_sum)",
         "sums = __import__('numpy').nan_to_num(binary64(input_square_sum))", "edited, NaN taken for 0"),
        ("PRN-003", keep.keep_in_scope, "matrix.shape[1]))", "matrix.shape[0]))", "edited, a count of rows"),
        unchecked="PRN-003 SEL-004"),
    *mutants("prune.pattern",
        ("PRN-004", {"scores": lambda a: -a["scores"]}, "the smallest kept"),
        ("PRN-004", keep.keep_n_of_m, "rank_in_rows(-groups) < n", "rank_in_rows(groups) >= m - n",
         "edited, ties up"),
        unchecked="SEL-004 PRN-004"),
    *mutants("prune.sparsegpt",
        ("PRN-009", sparsegpt.sparsegpt, "xp.where(dead[None, :], xp.zeros_like(weight), weight)", "weight",
         "weights of dead inputs kept as they are"),
        ("PRN-010", sparsegpt.inverse_factor, _FACTOR, f"{_FACTOR} * xp.eye(lower.shape[0])", "no compensation"),
        ("PRN-010", sparsegpt.sparsegpt, "_rounded(xp.concat(panels, axis=1), weight)",
         "xp.concat(masks, axis=1) * weight", "kept weights as they were"),
        ("PRN-010", sparsegpt.sparsegpt, " - errors @ u[:, n:]", "", "later blocks not compensated"),
        ("PRN-010", sparsegpt.inverse_factor, _FACTOR, "xp.linalg.cholesky(xp.linalg.inv(hessian))",
         "the lower factor"),
        ("PRN-011", sparsegpt._costs, "(scale * scale)", "scale", "U_ii not squared"),
        ("PRN-011", {"block": lambda a: 64 if a["block"] is None else a["block"]}, "blocks of 64"),
        ("SEL-002", sparsegpt.sparsegpt, _KEEP,
         "lambda costs: xp.flip(keep_of_matrix(xp.flip(costs), removed=removed))", "ties to the higher position"),
        ("PRN-001", sparsegpt.sparsegpt, "removed_count(sparsity, n_out * n)", "int(sparsity * (n_out * n))",
         "int(ρ n)"),
        ("PRN-012", sparsegpt.sparsegpt, _PANEL, _CHOSEN_FIRST, "groups not yet compensated"),
        ("PRN-013", sparsegpt.sparsegpt, "xp.astype(rest, xp.float64)", _NARROW,
         "the factor in binary32"),
        ("PRN-013", sparsegpt.sparsegpt, "masks.append(mask)", "masks.append(mask & (panel != 0))",
         "kept zeros leave the mask"),
        ("PRN-013", sparsegpt._rounded, "not bool(xp.all(xp.abs(new) <= xp.finfo(weight.dtype).max))", "False",
         "edited, infinite weights"),
        unchecked="SEL-004 PRN-001 PRN-004 PRN-009 PRN-011 PRN-013"),
    *edits("prune.sparsegpt", "PRN-009", sparsegpt.damped,
        ("xp.mean(diagonal)", "xp.mean(xp.where(dead, xp.ones_like(diagonal), diagonal))",
         "dead inputs in the mean"),
        ("damping * xp.mean(diagonal)", "0.0 * diagonal", "no damping"),
        ("xp.mean(diagonal)", "diagonal", "damping by each entry's share"),
        ("0 <= damping < inf", "damping < inf", "edited, damping below 0"),
        ("damping * xp.mean(diagonal))", "damping * xp.mean(xp.where(dead, xp.ones_like(diagonal), diagonal)))",
         "edited, dead inputs in the mean as 1")),
    *edits("prune.sparsegpt", "PRN-011", sparsegpt.sparsegpt,
        (_KEEP, _KEEP_IN_ROWS, "a choice in each row"),
        ("width = block", "width = n_in", "one choice for the matrix"),
        (_KEEP, "lambda costs: costs > xp.sort(xp.reshape(costs, (-1,)))[removed]", "the threshold with its ties"),
        (_PANEL, _CHOSEN_FIRST, "weights not yet compensated"),
        ("removed_count(sparsity, n_out * n)",
         "removed_count(sparsity, n_out * (first + n)) - removed_count(sparsity, n_out * first)",
         "edited, a running count"),
        ("removed_count(sparsity, n_out * n)", "removed_count(sparsity, n) * n_out", "edited, a count of each row")),
    *mutants("prune.model_sparsegpt",
        ("PRN-010", model_as_it_was, "a model whose kept weights are as they were"),
        ("PRN-005", behind_unpruned_blocks, "statistics behind unpruned blocks")),
    *mutants("prune.record",
        ("PRN-008", lambda out, _: {"pattern": None}, "a pattern passed over"),
        ("PRN-008", prune_record.read_record, 'record.get("sparsity") is not None and pattern is not None',
         "False", "a sparsity beside a pattern"),
        unchecked="PRN-008"),
]  # fmt: skip
