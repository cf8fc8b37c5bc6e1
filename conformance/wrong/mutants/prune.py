"""Mutants of pruners (PRN); SparseGPT as its authors wrote it (inverse, then factor), with one flaw at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.flaws import behind_unpruned_blocks
from conformance.wrong.mutants.base import Mutant, Operation, Values, ids, mutant, mutants, right
from conformance.wrong.mutants.model import behind_silent_norms


def factor(h: Any, flaw: str) -> Any:
    """Return the upper Cholesky factor of the inverse of H, or the lower one if that is the flaw."""
    lower = np.linalg.cholesky(np.linalg.inv(h))
    return lower if flaw == "lower factor" else lower.T


def damped(x: Any, damping: float, flaw: str) -> tuple[Any, Any]:
    kind = x.dtype if flaw == "in the run's dtype" else np.float64
    h = x.astype(kind).T @ x.astype(kind)
    dead = np.diag(h) == 0
    if flaw == "dead inputs in the mean":
        h[dead, dead] = 1
    added = damping * (np.diag(h) if flaw == "damping by entry" else np.mean(np.diag(h)))
    h[dead, dead] = 1
    if flaw != "no damping":
        h[np.diag_indices(len(h))] += np.where(dead, 0, added).astype(kind)
    return h, dead


def removed_of(cost: Any, a: Values, flaw: str) -> Any:
    """Return the mask of removed weights of a block, or of one group in each row if there is a pattern."""
    if a["n"] is not None:
        order = np.argsort(-cost, axis=1, kind="stable")[:, a["n"] :]
        gone = np.zeros(cost.shape, dtype=bool)
        np.put_along_axis(gone, order, True, axis=1)
        return gone
    pools = cost if flaw == "row by row" else cost.reshape(1, -1)
    count = int(a["sparsity"] * pools.shape[1] + (flaw != "floor without the nudge") * 2.0**-20)
    if flaw == "by threshold":
        return cost <= np.sort(cost, axis=None)[count]
    place = np.arange(pools.shape[1])
    order = np.array([np.lexsort((-place if flaw == "higher position first" else place, row)) for row in pools])
    gone = np.zeros(pools.shape, dtype=bool)
    np.put_along_axis(gone, order[:, :count], True, axis=1)
    return gone.reshape(cost.shape)


def sparsegpt(flaw: str = "") -> Operation:
    def op(a: Values) -> Values:
        w, x = a["weights"], a["inputs"]
        if not w.size:
            return right("prune.sparsegpt")(a)
        h, dead = damped(x, 0.01 if a["damping"] is None else a["damping"], flaw)
        u = factor(h, flaw)
        now = w.astype(h.dtype)
        if flaw != "dead weights left":
            now[:, dead] = 0
        power = 1 if flaw == "U for U²" else 2
        span = (64 if flaw == "blocks of 64" else 128) if a["block"] is None else a["block"]
        span = a["m"] if a["n"] is not None else w.shape[1] if flaw == "the whole matrix" else span
        gone = np.zeros(w.shape, dtype=bool)
        first = now.copy()
        for i in range(w.shape[1]):
            if i % span == 0:
                scored_weights = first if flaw == "chosen before compensation" else now
                cost = scored_weights[:, i : i + span] ** 2 / np.diag(u)[i : i + span] ** power
                gone[:, i : i + span] = removed_of(cost, a, flaw)
            error = np.where(gone[:, i], now[:, i] / u[i, i], 0)
            end = (i // span + 1) * span if flaw == "inside the block only" else w.shape[1]
            if flaw != "no compensation":
                now[:, i + 1 : end] -= np.outer(error, u[i, i + 1 : end])
            now[gone[:, i], i] = 0
        kept = ~gone & (now != 0) if flaw == "zeros leave the mask" else ~gone
        if flaw == "kept weights as they were":
            now = np.where(gone, 0, w)
        return {"kept": ids(np.flatnonzero(kept)), "weights": now.astype(w.dtype)}

    return op


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


def one_mask_a_shape(a: Values) -> Values:
    """Draw the same random mask for every matrix."""
    return right("prune.random")(a | {"matrix": 0})


def owl(flaw: str) -> Operation:
    """Return OWL as its authors wrote it, with one flaw."""

    def op(a: Values) -> Values:
        right("prune.owl")(a)  # the engine comes first, because it refuses bad inputs
        shares = []
        for block in a["scores"]:
            flat = np.concatenate([np.asarray(m, dtype=np.float64).reshape(-1) for m in block])
            parts = [np.asarray(m, dtype=np.float64) for m in block] if flaw == "a mean of each matrix" else [flat]
            limits = [(1.0 if flaw == "above the mean" else a["outlier"]) * part.mean() for part in parts]
            over = sum(
                int(((part >= limit) if flaw == "≥ for >" else (part > limit)).sum())
                for part, limit in zip(parts, limits, strict=True)
            )
            shares.append(over / flat.size)
        low, high = min(shares), max(shares)
        spread = a["spread"] * (1.0 if flaw == "half of the spread" else 2.0)
        x = [spread * (s - low) / (high - low) if high > low else 0.0 for s in shares]
        mean = 0.0 if flaw == "not centred" else sum(x) / len(x)
        sign = -1.0 if flaw == "outliers pruned more" else 1.0
        return {"sparsities": [a["sparsity"] - sign * (one - mean) for one in x]}

    return op


MUTANTS: list[Mutant] = [
    *mutants("prune.scope",
        ("PRN-016", scope_as(lambda a: "matrix"), "every matrix on its own"),
        ("PRN-016", scope_as(lambda a: "row"), "every row on its own"),
        ("PRN-016", scope_as(lambda a: "model"), "all matrices together"),
        ("PRN-016", last_matrix_first, "ties to the later matrix"),
        unchecked="PRN-001 PRN-016 SEL-004"),
    *mutants("prune.random",
        ("PRN-017", one_mask_a_shape, "one mask for matrices of one shape"),
        ("PRN-017", {"seed": lambda a: a["seed"] % 2**32}, "a seed of 32 bits")),
    *mutants("prune.owl", unchecked="PRN-018"),
    *(
        mutant("PRN-018", "prune.owl", owl(flaw), flaw)
        for flaw in (
            "a mean of each matrix",
            "above the mean",
            "≥ for >",
            "half of the spread",
            "not centred",
            "outliers pruned more",
        )
    ),
    *mutants("prune.model",
        ("TRN-019 LYR-015", behind_silent_norms("prune.model"), "RMSNorm gives 0 where squares overflow"),
        ("PRN-005", kept_bits_lost, "one weight too few"),
        unchecked="TRN-017 LYR-001 LYR-015 PRN-006"),
    *mutants("prune.magnitude",
        ("PRN-001", no_nudge, "int(ρ n)"),
        ("PRN-002", {"weights": lambda a: a["weights"] + 100}, "W for |W|"),
        unchecked="PRN-001"),
    *mutants("prune.wanda",
        ("PRN-003", {"square_sums": lambda a: a["square_sums"] * 0 + 1}, "no norms"),
        ("PRN-014 PRN-015", wanda_in_the_runs_dtype, "scores in binary32"),
        unchecked="PRN-003 SEL-004"),
    *mutants("prune.pattern",
        ("PRN-004", {"scores": lambda a: -a["scores"]}, "the smallest kept"),
        unchecked="SEL-004 PRN-004"),
    *mutants("prune.sparsegpt",
        ("PRN-009", sparsegpt("dead inputs in the mean"), "dead inputs in the mean"),
        ("PRN-009", sparsegpt("dead weights left"), "weights of dead inputs kept as they are"),
        ("PRN-009", sparsegpt("no damping"), "no damping"),
        ("PRN-009", sparsegpt("damping by entry"), "damping by each entry's share"),
        ("PRN-010", sparsegpt("no compensation"), "no compensation"),
        ("PRN-010", sparsegpt("kept weights as they were"), "kept weights as they were"),
        ("PRN-010", sparsegpt("inside the block only"), "later blocks not compensated"),
        ("PRN-010", sparsegpt("lower factor"), "the lower factor"),
        ("PRN-011", sparsegpt("U for U²"), "U_ii not squared"),
        ("PRN-011", sparsegpt("row by row"), "a choice in each row"),
        ("PRN-011", sparsegpt("the whole matrix"), "one choice for the matrix"),
        ("PRN-011", sparsegpt("blocks of 64"), "blocks of 64"),
        ("PRN-011", sparsegpt("by threshold"), "the threshold with its ties"),
        ("PRN-011", sparsegpt("chosen before compensation"), "weights not yet compensated"),
        ("SEL-002", sparsegpt("higher position first"), "ties to the higher position"),
        ("PRN-001", sparsegpt("floor without the nudge"), "int(ρ n)"),
        ("PRN-012", sparsegpt("chosen before compensation"), "groups not yet compensated"),
        ("PRN-013", sparsegpt("in the run's dtype"), "the factor in binary32"),
        ("PRN-013", sparsegpt("zeros leave the mask"), "kept zeros leave the mask"),
        unchecked="SEL-004 PRN-001 PRN-004 PRN-009 PRN-011 PRN-013"),
    *mutants("prune.model_sparsegpt",
        ("PRN-010", model_as_it_was, "a model whose kept weights are as they were"),
        ("PRN-005", behind_unpruned_blocks, "statistics behind unpruned blocks")),
]  # fmt: skip
