"""Positions of a delta: their number, the first ones, and moving arrays with them (chapters 2, 7). Arrays are flat."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seft_ports.pytorch.counter import counter_key, draws, unsigned_order
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.schedule import SLACK
from seft_ports.pytorch.select import largest, smallest
from seft_ports.pytorch.settings import Settings

__all__ = ["among", "budget", "budgets", "initial", "initial_random", "realign", "source"]


def budget(density: float, shape: tuple[int, int], stored: int) -> int:
    """Return d_φ, the slots of a delta: a share of the matrix, at most the stored weights (DLT-002)."""
    # DLT-002, SEL-006
    if not 0 < density <= 1:
        raise SeftError("DLT-002", f"density {density} is outside (0, 1]")
    return min(math.floor(density * shape[0] * shape[1] + SLACK), stored)


def budgets(s: Settings, shapes: Sequence[tuple[int, int]], stored: Sequence[int]) -> list[int]:
    """Return d_φ of every matrix by `budget_by` (DLT-002).

    stored  K of each matrix
    """
    sizes = [out * width for out, width in shapes]
    if s.budget_by == "numel":
        return [budget(s.density, shape, k) for shape, k in zip(shapes, stored, strict=True)]
    # DLT-002
    if s.budget_by == "nnz":
        counts = [math.floor(s.density * k + SLACK) for k in stored]
    elif s.budget_by == "count":
        counts = [s.slots * n // max(sum(sizes), 1) for n in sizes]
    else:
        counts = [s.rank * (out + width) for out, width in shapes]
    return [min(n, k) for n, k in zip(counts, stored, strict=True)]


def source(old: Tensor, new: Tensor) -> Tensor:
    """Return for each new position its slot in old, -1 if old does not have it (CHG-001)."""
    # CHG-001
    if not old.numel():
        return torch.full_like(new, -1)
    slots = torch.searchsorted(old, new).clamp_(max=old.numel() - 1)
    return torch.where(old[slots] == new, slots, -1)


def among(old: Tensor, new: Tensor) -> Tensor:
    """Return whether each new position is among the old ones, which are ascending."""
    return source(old, new) >= 0


def realign(array: Tensor, sources: Tensor, fill: float = 0.0) -> Tensor:
    """Return the entries of the source slots, bit for bit, and `fill` where the source is -1 (CHG-002)."""
    # CHG-002
    aligned = torch.full(sources.shape, fill, dtype=array.dtype, device=array.device)
    has_source = sources >= 0
    aligned[has_source] = array[sources[has_source]]
    return aligned


def initial_random(base: Tensor, n: int, seed: int, matrix: int) -> Tensor:
    """Return the n positions of a base with the smallest random draws (DLT-004)."""
    # DLT-004
    return base[smallest(unsigned_order(draws(counter_key(seed, 1, matrix), base)), n)]


def initial(s: Settings, allowed: Tensor, scores: Tensor, n: int, matrix: int) -> Tensor:
    """Return the first n positions of a delta, ascending (DLT-004).

    allowed  the positions to choose from, ascending
    scores   weights or gradients there; unused if positions are random
    """
    if s.initial_positions == "random":
        return initial_random(allowed, n, s.seed, matrix)
    # DLT-004
    return allowed[largest(scores.abs(), n)]
