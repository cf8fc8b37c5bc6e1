"""Selection under one total order: score, then position (chapter 7). Arrays are flat.

torch.topk is of no use here, because it does not say which of equal scores it takes.
"""

import math

import torch
from torch import Tensor

from seft_ports.pytorch.errors import SeftError

__all__ = ["at_most", "largest", "smallest", "smallest_of_pools"]

_SAMPLE = 4096
"""About as many scores form the sample from which the k-th smallest is estimated."""


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
    """Return the ascending indices of all scores up to a threshold, at least k of them, or None.

    The threshold is estimated from a sample, so the indices are few if k is small. They include the k smallest scores
    and all ties at the boundary. None means that the scores are too few or k is too large for a gain, or that the
    estimate was too low.
    """
    n = scores.numel()
    if n < 8 * _SAMPLE or 4 * k > n:
        return None
    sample = scores[:: n // _SAMPLE]
    # a quarter and three standard deviations above the expected rank, so that the estimate is seldom too low
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
    # SEL-004: adding +0.0 turns −0.0 into +0.0, because some sorts put −0.0 first
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
