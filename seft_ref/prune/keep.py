"""Masks of the weights that stay: exact counts, in the total order of chapter 7 (PRN-001 to PRN-004)."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from jaxtyping import Bool, Float

from seft_ref.arrays.count import count
from seft_ref.arrays.finite import START_ADVICE
from seft_ref.arrays.library import Array, array_namespace, device, mask_at
from seft_ref.errors import PruneError
from seft_ref.update.select import selection

Scope = Literal["row", "matrix", "model"]
SCOPES: Mapping[str, tuple[Scope, ...]] = {
    "magnitude": ("matrix", "row", "model"),
    "random": ("matrix", "row", "model"),
    "wanda": ("row", "matrix"),
    "sparsegpt": (),
}
"""The scopes of each method, the default first; SparseGPT counts by block (PRN-016)."""


def removed_count(sparsity: float, n: int) -> int:
    """Return how many of n weights to remove at a sparsity, the fraction of weights removed (PRN-001).

    Raises:
        PruneError: PRN-001 if the sparsity is not in 0 … 1, 1 excluded.
    """
    # PRN-001
    if not 0 <= sparsity < 1:
        raise PruneError(
            "PRN-001",
            f"sparsity is {sparsity}, must be at least 0 and below 1 (0.7 removes 70 % of the weights)",
        )
    return count(sparsity * n)


def parse_pattern(pattern: str) -> tuple[int, int]:
    """Return (N, M) of a pattern such as "2:4": N of every M are kept (PRN-004).

    Raises:
        PruneError: PRN-004 if the text is not N:M with 1 ≤ N < M.
    """
    matched = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", pattern) if isinstance(pattern, str) else None
    if not matched or not 1 <= int(matched[1]) < int(matched[2]):
        raise PruneError("PRN-004", f"pattern {pattern!r} is not N:M with 1 <= N < M; 2:4 keeps 2 of every 4")
    return int(matched[1]), int(matched[2])


def keep_of_matrix(scores: Float[Array, "out in_"], removed: int) -> Bool[Array, "out in_"]:
    """Return the mask without the `removed` smallest scores of the whole matrix, ties by flat position (PRN-002)."""
    xp = array_namespace(scores)
    flat = xp.reshape(scores, (1, -1))
    return xp.reshape(keep_of_rows(flat, removed), scores.shape)


def keep_of_rows(scores: Float[Array, "out in_"], removed: int) -> Bool[Array, "out in_"]:
    """Return the mask without the `removed` smallest scores of each row, ties by column (PRN-003)."""
    xp = array_namespace(scores)
    return rank_in_rows(scores) >= xp.asarray(removed, dtype=xp.int64, device=device(scores))


def across_matrices(scope: object) -> bool:
    """Return whether a scope compares the weights of different matrices with each other (PRN-016)."""
    return scope == "model"


def keep_of_one(
    scores: Float[Array, "out in_"], sparsity: float, pattern: tuple[int, int] | None, scope: Scope
) -> Bool[Array, "out in_"]:
    """Return the mask of one matrix: N of every M if there is a pattern, else by the scope (PRN-004, PRN-016)."""
    return keep_n_of_m(scores, *pattern) if pattern is not None else keep_in_scope([scores], sparsity, scope)[0]


def keep_in_scope(scores: Sequence[Array], sparsity: float, scope: Scope) -> list[Array]:
    """Return the mask of each matrix without the smallest scores of every scope (PRN-016).

    scores  for each matrix (out, in); with scope model the scores of all matrices are compared with each other

    Raises:
        PruneError: PRN-001 for the sparsity, PRN-016 for an unknown scope, SEL-004 for a score that is NaN or infinite.
    """
    # PRN-016
    if scope not in get_args(Scope):
        raise PruneError("PRN-016", f"scope is {scope!r}; choose one of {', '.join(get_args(Scope))}")
    if scope == "row":
        return [keep_of_rows(matrix, removed_count(sparsity, matrix.shape[1])) for matrix in scores]
    sizes = [matrix.shape[0] * matrix.shape[1] for matrix in scores]
    if scope == "matrix":
        return [keep_of_matrix(m, removed_count(sparsity, n)) for m, n in zip(scores, sizes, strict=True)]
    for matrix in scores:
        check_finite(matrix)
    xp = array_namespace(*scores)
    everything = xp.concat([xp.reshape(matrix, (-1,)) for matrix in scores])
    gone = selection(everything, removed_count(sparsity, everything.shape[0])).indices
    stays = ~mask_at(everything.shape[0], gone)
    masks, start = [], 0
    for matrix, n in zip(scores, sizes, strict=True):
        masks.append(xp.reshape(stays[start : start + n], matrix.shape))
        start += n
    return masks


def keep_n_of_m(scores: Float[Array, "out in_"], n: int, m: int) -> Bool[Array, "out in_"]:
    """Return the mask with the n largest scores of every m consecutive columns, ties kept at the lower column
    (PRN-004).

    Raises:
        PruneError: PRN-004 if m does not divide the row.
    """
    xp = array_namespace(scores)
    n_out, n_in = scores.shape
    check_groups(n_in, m)
    groups = xp.reshape(scores, (n_out * (n_in // m), m))
    # ranking the negated scores puts the largest first and, among equals, the lower column first
    return xp.reshape(rank_in_rows(-groups) < n, scores.shape)


def check_groups(n_in: int, m: int) -> None:
    """Refuse a row of n_in weights that does not divide into groups of m (PRN-004)."""
    # PRN-004
    if n_in % m:
        raise PruneError(
            "PRN-004", f"a row of {n_in} weights does not divide into groups of {m}; choose another pattern"
        )


def rank_in_rows(scores: Float[Array, "r c"]) -> Array:
    """Return each entry's place, from 0, when its row is sorted ascending with ties by column; int64.

    Raises:
        PruneError: SEL-004 for a score that is NaN or infinite, because all scores that overflow would tie.
    """
    check_finite(scores)
    xp = array_namespace(scores)
    order = xp.argsort(scores, axis=1, stable=True)
    return xp.astype(xp.argsort(order, axis=1, stable=True), xp.int64)


def check_finite(scores: Array) -> None:
    """Refuse a score that is NaN or infinite, because all scores that overflow would tie (PRN-015)."""
    xp = array_namespace(scores)
    # SEL-004
    if not bool(xp.all(xp.isfinite(scores))):
        raise PruneError("SEL-004", f"a score of pruning is NaN or infinite; {START_ADVICE}")
