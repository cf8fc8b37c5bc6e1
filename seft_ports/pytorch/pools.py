"""Pools: which scores an event compares with each other (EVT-009, SEL-007)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seft_ports.pytorch.select import smallest, smallest_of_pools
from seft_ports.pytorch.settings import Settings

__all__ = ["Pools", "of_slots", "of_weights"]


@dataclass(frozen=True, slots=True)
class Pools:
    """Pools of `width` consecutive flat positions of one matrix, or one pool of all positions of all matrices.

    width   0 for one pool of everything
    number  how many pools there are
    """

    width: int = 0
    number: int = 1

    def of(self, positions: Tensor) -> Tensor:
        """Return the pool of each position."""
        return positions // self.width if self.width else torch.zeros_like(positions)

    def sizes(self, at: Sequence[Tensor]) -> Tensor:
        """Return how many positions lie in each pool, (pools,) int64; `at` has the positions of each matrix."""
        if not self.width:
            return torch.tensor([sum(len(positions) for positions in at)], device=at[0].device)
        return torch.bincount(self.of(at[0]), minlength=self.number)

    def smallest(self, scores: Sequence[Tensor], at: Sequence[Tensor], counts: Tensor) -> list[Tensor]:
        """Return the chosen indices of each matrix, ascending: the counts[p] smallest scores of every pool p.

        scores  the scores of each matrix, one per position
        at      the positions of each matrix, ascending; matrices are ordered by index

        Raises:
            SeftError: SEL-004 for a NaN or infinite score, SEL-005 for a count that a pool does not have.
        """
        if self.width:
            return [smallest_of_pools(scores[0], self.of(at[0]), counts)]
        if len(scores) == 1:
            return [smallest(scores[0], int(counts))]
        chosen = smallest(torch.cat(list(scores)), int(counts))
        split, start = [], 0
        for one in scores:
            begin, end = torch.searchsorted(chosen, chosen.new_tensor([start, start + len(one)])).tolist()
            split.append(chosen[begin:end] - start)
            start += len(one)
        return split


def of_slots(rule: Settings, shape: tuple[int, int]) -> Pools:
    """Return the pools in which slots drop and positions grow."""
    # EVT-009
    return Pools(max(shape[1], 1), shape[0]) if rule.scope == "row" else Pools()


def of_weights(rule: Settings, shape: tuple[int, int]) -> Pools:
    """Return the pools in which weights are pruned."""
    if rule.scope == "group":
        assert rule.pattern is not None, "scope group needs a pattern (EVT-012)"
        width = rule.pattern[1]
        return Pools(width, shape[0] * (shape[1] // width))
    return of_slots(rule, shape)
