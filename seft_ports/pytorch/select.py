"""Selection under one total order: score, then position (chapter 7). Arrays are flat.

torch.topk is of no use here, because it does not say which of equal scores it takes.
"""

import math

import torch
from torch import Tensor

from seft_ports.pytorch.errors import SeftError

__all__ = ["at_most", "largest", "smallest", "smallest_of_pools"]

_SAMPLE = 4096
"""Scores that are looked at to guess where the k-th one lies."""


def smallest(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k smallest scores, ties by index, ascending.

    All scores below the k-th smallest are chosen, then the first of those that equal it until there are k.

    Raises:
        SeftError: SEL-005 for a k outside 0 … n, SEL-004 for a NaN or infinite score.
    """
    _check_count(k, scores.numel())
    _check_finite(scores)
    if k == 0:
        return torch.zeros(0, dtype=torch.int64, device=scores.device)
    near = at_most(scores, k)
    if near is not None:
        return near[_smallest(scores[near], k)]
    return _smallest(scores, k)


def at_most(scores: Tensor, k: int) -> Tensor | None:
    """Return the indices, ascending, of all scores up to some value that at least k reach, or None.

    The value is guessed from a sample, so they are few where k is small; None where that would be no gain, or the guess
    was too low. The k smallest scores are among them, ties at the boundary included.
    """
    n = scores.numel()
    if n < 8 * _SAMPLE or 4 * k > n:
        return None
    sample = scores[:: n // _SAMPLE]
    # a quarter more than k are expected, and three deviations of the sample's count
    share = k / n * sample.numel()
    rank = min(sample.numel(), math.ceil(1.25 * share + 3 * math.sqrt(share)) + 1)
    near = torch.nonzero(scores <= torch.kthvalue(sample, rank).values).flatten()
    return near if near.numel() >= k else None


def _smallest(scores: Tensor, k: int) -> Tensor:
    # SEL-002, SEL-003
    boundary = torch.kthvalue(scores, k).values
    chosen = scores < boundary
    ties = torch.nonzero(scores == boundary).flatten()
    chosen[ties[: k - int(chosen.sum())]] = True
    return torch.nonzero(chosen).flatten()


def largest(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest scores, ties by index, ascending."""
    # SEL-001: negation is exact
    return smallest(-scores, k)


def smallest_of_pools(scores: Tensor, pools: Tensor, counts: Tensor) -> Tensor:
    """Return the indices of the counts[p] smallest scores of every pool p, ties by index, ascending (SEL-007).

    pools   (n,) int64, the pool of each score, from 0
    counts  (p,) int64

    Raises:
        SeftError: SEL-005 for a count outside 0 to the size of its pool, SEL-004 for a NaN or infinite score.
    """
    _check_finite(scores)
    sizes = torch.bincount(pools, minlength=counts.numel())
    for pool in torch.nonzero((counts < 0) | (counts > sizes)).flatten()[:1].tolist():
        _check_count(int(counts[pool]), int(sizes[pool]))
    # SEL-004: adding 0 makes 0 of −0, which some sorts tell apart
    order = (scores + 0.0).argsort(stable=True)
    order = order[pools[order].argsort(stable=True)]
    within = torch.arange(scores.numel(), device=scores.device) - (sizes.cumsum(0) - sizes)[pools[order]]
    return order[within < counts[pools[order]]].sort().values


def _check_count(k: int, n: int) -> None:
    # SEL-005
    if not 0 <= k <= n:
        raise SeftError("SEL-005", f"{k} of {n} scores cannot be chosen")


def _check_finite(scores: Tensor) -> None:
    # SEL-004
    if scores.is_floating_point() and not bool(torch.isfinite(scores).all()):
        raise SeftError("SEL-004", "a score is NaN or infinite")
