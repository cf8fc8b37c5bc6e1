"""The rules of chapters 7 to 9 on torch tensors: matrices are flat, and positions are flat and ascending."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seft_ports.pytorch.counter import counter_key, draws, unsigned_order
from seft_ports.pytorch.errors import SeftError

__all__ = [
    "ADAPT",
    "BY_GRADIENT",
    "Decision",
    "adamw",
    "adapt",
    "at_most",
    "budget",
    "check_evidence",
    "clip_factor",
    "decide",
    "drop",
    "drop_count",
    "drop_fraction_at",
    "event_steps",
    "grow",
    "initial_random",
    "largest",
    "last_event_step",
    "learning_rate",
    "realign",
    "smallest",
    "source",
]

_SLACK = 2.0**-20
_SAMPLE = 4096
"""Scores that are looked at to guess where the k-th one lies."""


def smallest(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k smallest scores, ties by index, ascending.

    All scores below the k-th smallest are chosen, then the first of those that equal it until there are k. torch.topk
    is of no use here, because it does not say which of equal scores it takes.

    Raises:
        SeftError: SEL-005 for a k outside 0 … n, SEL-004 for a NaN or infinite score.
    """
    # SEL-005
    if not 0 <= k <= scores.numel():
        raise SeftError("SEL-005", f"{k} of {scores.numel()} scores cannot be chosen")
    # SEL-004
    if scores.is_floating_point() and not bool(torch.isfinite(scores).all()):
        raise SeftError("SEL-004", "a score is NaN or infinite")
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


def budget(density: float, shape: tuple[int, int], stored: int) -> int:
    """Return d_φ, the slots of a delta: a share of the matrix, at most the stored weights (DLT-002)."""
    # DLT-002, SEL-006
    if not 0 < density <= 1:
        raise SeftError("DLT-002", f"density {density} is outside (0, 1]")
    return min(math.floor(density * shape[0] * shape[1] + _SLACK), stored)


def last_event_step(steps: int, evolve_until: float) -> int:
    """Return E, the last step that an event may follow (SCH-007)."""
    # SCH-007
    return math.floor(evolve_until * steps + _SLACK)


def drop_fraction_at(step: int, steps: int, drop_fraction: float, kind: str = "cosine") -> float:
    """Return τ(t), the share of slots to drop at a step; `steps` is the last step that may have an event (SCH-001)."""
    if kind not in ("cosine", "linear", "constant"):
        raise SeftError("SCH-001", f"drop_schedule is {kind!r}; it is cosine, linear or constant")
    if not 0 <= drop_fraction <= 1:
        raise SeftError("SCH-001", f"drop fraction {drop_fraction} is outside [0, 1]")
    # SCH-006
    if kind != "cosine":
        return drop_fraction * (1 - step / steps) if kind == "linear" else drop_fraction
    # SCH-001
    return 0.5 * drop_fraction * (1 + math.cos(math.pi * step / steps))


def drop_count(fraction: float, slots: int) -> int:
    """Return n_drop, the number of slots to drop (SCH-002)."""
    # SCH-002
    return math.floor(fraction * slots + _SLACK)


def event_steps(steps: int, evolve_every: int, evolve_until: float = 1.0) -> range:
    """Return the steps that an event follows (SCH-003)."""
    # SCH-003
    return range(evolve_every, min(steps, last_event_step(steps, evolve_until) + 1), evolve_every)


def learning_rate(kind: str, lr: float, step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of a step, counted from 1."""
    # SCH-004
    if step <= warmup:
        return lr * step / warmup
    u = (step - warmup) / max(steps - warmup, 1)
    if kind == "constant":
        return lr
    if kind == "linear":
        return lr * (1 - u)
    if kind == "cosine":
        return 0.5 * lr * (1 + math.cos(math.pi * u))
    raise SeftError("SCH-004", f"there is no schedule {kind!r}; there are constant, linear and cosine")


def source(old: Tensor, new: Tensor) -> Tensor:
    """Return for each new position its slot in old, -1 if old does not have it (CHG-001)."""
    # CHG-001
    if not old.numel():
        return torch.full_like(new, -1)
    slots = torch.searchsorted(old, new).clamp_(max=old.numel() - 1)
    return torch.where(old[slots] == new, slots, -1)


def realign(array: Tensor, where: Tensor, fill: float = 0.0) -> Tensor:
    """Return the entries of the source slots, bit for bit, and `fill` where the source is -1 (CHG-002)."""
    # CHG-002
    aligned = torch.full(where.shape, fill, dtype=array.dtype, device=array.device)
    kept = where >= 0
    aligned[kept] = array[where[kept]]
    return aligned


def initial_random(base: Tensor, n: int, seed: int, matrix: int) -> Tensor:
    """Return the n positions of a base with the smallest random draws (DLT-004)."""
    # DLT-004
    return base[smallest(unsigned_order(draws(counter_key(seed, 1, matrix), base)), n)]


def drop(values: Tensor, n: int) -> Tensor:
    """Return the n slots with the smallest |φ| (DROP-001)."""
    # DROP-001
    return smallest(values.abs(), n)


def grow(gradient: Tensor, taken: Tensor, n: int, base: Tensor | None = None) -> Tensor:
    """Return the n grown positions, or all candidates if they are fewer (GROW-002).

    gradient  ḡ, (out · in,)
    taken     positions of η \\ D, booleans of the same shape
    base      B as booleans, if growth must stay inside it
    """
    # GROW-001
    candidates = torch.nonzero(~taken if base is None else base & ~taken).flatten()
    # GROW-002
    return candidates[largest(gradient[candidates].abs(), min(n, candidates.numel()))]


ADAPT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sensitivity": lambda seen, weight: (seen * weight).abs(),
    "absolute": lambda seen, weight: weight.abs() * seen,
    "fisher": lambda seen, weight: (weight * weight) * seen,
    "token-fisher": lambda seen, weight: (weight * weight) * seen,
    "magnitude": lambda _, weight: weight.abs(),
}
"""The scores of ADPT-005; their evidence is, in this order, ḡ, mean |g|, mean g², the tokens of GRD-008, and none."""
BY_GRADIENT = ("sensitivity", "magnitude")
"""Criteria that need no evidence besides the gradient that growth needs."""


def adapt(
    seen: Tensor, weight: Tensor, support: Tensor, k: int, exempt: Tensor | None = None, by: str = "sensitivity"
) -> Tensor:
    """Return the positions to prune so that at most k stay (ADPT-001 to ADPT-003).

    seen             the evidence of the criterion `by`, (out · in,)
    support, exempt  booleans of the shape of seen and weight
    """
    # ADPT-001
    excess = max(0, int(support.sum()) - k)
    # ADPT-003
    candidates = torch.nonzero(support if exempt is None else support & ~exempt).flatten()
    # ADPT-002, ADPT-005, NUM-006
    return candidates[smallest(ADAPT[by](seen[candidates], weight[candidates]), excess)]


@dataclass(frozen=True, slots=True)
class Decision:
    """The flat positions, ascending, that an event drops, grows and prunes in a matrix."""

    dropped: Tensor
    grown: Tensor
    pruned: Tensor


def decide(
    weight: Tensor,
    base: Tensor,
    held: Tensor,
    positions: Tensor,
    values: Tensor,
    gradient: Tensor,
    *,
    n_drop: int,
    budget: int,
    delta_budget: int,
    active: bool = False,
    adapts: bool = True,
    by: str = "sensitivity",
    seen: Tensor | None = None,
    candidates: Tensor | None = None,
    exempt: str = "new",
) -> Decision:
    """Return what drop, grow and adapt choose, without changing anything (EVT-001).

    weight, base, gradient  effective W, B as booleans and ḡ, (out · in,)
    held                    b at the slots, 0 off B
    by, seen                the criterion of adapt and its evidence, (out · in,), or None if that is ḡ
    candidates              the d_φ positions that may grow (GROW-006), or None for all
    exempt                  what adapt spares: `new` slots, all `slots`, or `none` (ADPT-007)
    """
    check_evidence(gradient, seen)
    # EVT-001
    leaving = drop(values, n_drop)
    dropped = positions[leaving]
    occupied = torch.zeros_like(base)
    occupied[positions] = True
    occupied[dropped] = False
    # GROW-002
    wanted = max(0, n_drop + delta_budget - positions.numel())
    inside = base if active else None
    if candidates is not None:
        inside = torch.zeros_like(base)
        inside[candidates] = True
    # GROW-006: d_φ candidates less |η| - n_drop kept slots are at least `wanted`, so no dropped slot has to stay
    grown = grow(gradient, occupied, wanted, inside)
    if not adapts:
        return Decision(dropped, grown, grown[:0])
    after = weight.clone()
    # DROP-002
    after[dropped] = held[leaving]
    # GROW-003: a grown position that has a slot was dropped in this event
    cancelled = source(positions, grown) >= 0
    after[grown[cancelled]] = weight[grown[cancelled]]
    new = torch.zeros_like(base)
    new[grown[~cancelled]] = True
    occupied[grown] = True
    # ADPT-007
    spared = {"new": new, "slots": occupied, "none": None}[exempt]
    pruned = adapt(gradient if seen is None else seen, after, base | occupied, budget, spared, by)
    return Decision(dropped, grown, pruned)


def check_evidence(*seen: Tensor | None) -> None:
    """Raise SeftError (EVT-005) for evidence with a NaN or infinite entry."""
    # EVT-005
    if not all(bool(torch.isfinite(tensor).all()) for tensor in seen if tensor is not None):
        raise SeftError("EVT-005", "the gradient of an event, or what is summed of it, has a NaN or infinite entry")


def adamw(
    values: Tensor,
    first: Tensor,
    second: Tensor,
    age: Tensor,
    gradient: Tensor,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    slot_warmup: int = 0,
) -> None:
    """Take one step of AdamW in place (OPT-001): φ, m and v in a float dtype, the age of each slot in int64.

    slot_warmup  steps over which the rate of a slot rises (OPT-010)
    """
    beta1, beta2 = betas
    # OPT-001
    age += 1
    values.mul_(1 - lr * weight_decay)
    first.mul_(beta1).add_(gradient, alpha=1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # OPT-002, OPT-009
    ages = age.to(torch.float64)
    rise = (ages / max(slot_warmup, 1)).clamp(max=1.0)
    rate = (lr * rise / (1 - beta1**ages)).to(values.dtype)
    root = torch.sqrt(1 - beta2**ages).to(values.dtype)
    values.sub_(rate * (first / (second.sqrt() / root + eps)))


def clip_factor(norm: float, max_norm: float) -> float:
    """Return the factor that clips gradients at η to max_norm, 1 if that is 0 (OPT-004)."""
    # OPT-004
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm else 1.0
