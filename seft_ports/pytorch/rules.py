"""The rules of chapters 7 to 9 on torch tensors; a matrix is flat, an id is a flat position, ids ascend."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seft_ports.pytorch.counter import counter_key, draws, unsigned_order
from seft_ports.pytorch.errors import SeftError

__all__ = [
    "ADAPT",
    "Decision",
    "adamw",
    "adapt",
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


def smallest(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k smallest scores, ties by index, ascending.

    The k-th smallest score divides: everything below it is chosen, and of what equals it the first, as many as are
    missing. torch.topk leaves open which of equals it takes.
    """
    # SEL-005
    if not 0 <= k <= scores.numel():
        raise SeftError("SEL-005", f"{k} of {scores.numel()} scores cannot be chosen")
    # SEL-004
    if scores.is_floating_point() and not bool(torch.isfinite(scores).all()):
        raise SeftError("SEL-004", "a score is NaN or infinite")
    if k == 0:
        return torch.zeros(0, dtype=torch.int64, device=scores.device)
    # SEL-002, SEL-003
    last = torch.kthvalue(scores, k).values
    chosen = scores < last
    ties = torch.nonzero(scores == last).flatten()
    chosen[ties[: k - int(chosen.sum())]] = True
    return torch.nonzero(chosen).flatten()


def largest(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest scores, ties by index, ascending."""
    # SEL-001: negation is exact
    return smallest(-scores, k)


def budget(density: float, shape: tuple[int, int], stored: int) -> int:
    """Return d_φ by `numel`."""
    # DLT-002, SEL-006
    if not 0 < density <= 1:
        raise SeftError("DLT-002", f"density {density} is outside (0, 1]")
    return min(math.floor(density * shape[0] * shape[1] + _SLACK), stored)


def last_event_step(steps: int, evolve_until: float) -> int:
    """Return E, the last step that an event may follow."""
    # SCH-007
    return math.floor(evolve_until * steps + _SLACK)


def drop_fraction_at(step: int, steps: int, drop_fraction: float) -> float:
    """Return τ(t) of a run whose events end with step `steps`."""
    if not 0 <= drop_fraction <= 1:
        raise SeftError("SCH-001", f"drop fraction {drop_fraction} is outside [0, 1]")
    # SCH-001
    return 0.5 * drop_fraction * (1 + math.cos(math.pi * step / steps))


def drop_count(fraction: float, slots: int) -> int:
    """Return n_drop."""
    # SCH-002
    return math.floor(fraction * slots + _SLACK)


def event_steps(steps: int, evolve_every: int, evolve_until: float = 1.0) -> range:
    """Return the steps that an event follows."""
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
    """Return for each new position the slot of old that holds it, -1 where none does."""
    # CHG-001
    if not old.numel():
        return torch.full_like(new, -1)
    at = torch.searchsorted(old, new).clamp_(max=old.numel() - 1)
    return torch.where(old[at] == new, at, -1)


def realign(array: Tensor, where: Tensor, fill: float = 0.0) -> Tensor:
    """Return the entries of the source slots, bit for bit, and fill in new ones."""
    # CHG-002
    moved = torch.full(where.shape, fill, dtype=array.dtype, device=array.device)
    kept = where >= 0
    moved[kept] = array[where[kept]]
    return moved


def initial_random(base: Tensor, n: int, seed: int, matrix: int) -> Tensor:
    """Return the n positions of a base with the smallest draws."""
    # DLT-004
    return base[smallest(unsigned_order(draws(counter_key(seed, 1, matrix), base)), n)]


def drop(values: Tensor, n: int) -> Tensor:
    """Return the slots to drop."""
    # DROP-001
    return smallest(values.abs(), n)


def grow(gradient: Tensor, taken: Tensor, n: int, base: Tensor | None = None) -> Tensor:
    """Return the grown positions, n of them or all candidates if they are fewer.

    gradient  ḡ, (out · in,)
    taken     positions of η \\ D, booleans of the same shape
    base      B, where growth stays inside it
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
}
"""The score of a weight, by its evidence: ḡ, the mean of |g|, the mean of g², or the tokens of GRD-008 (ADPT-005)."""


def adapt(
    seen: Tensor, weight: Tensor, support: Tensor, k: int, exempt: Tensor | None = None, by: str = "sensitivity"
) -> Tensor:
    """Return the positions to prune so that at most k stay.

    seen             what the criterion `by` looks at, (out · in,)
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
    """What an event does to a matrix: positions, ascending."""

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
) -> Decision:
    """Return what drop, grow and adapt choose; nothing is changed.

    weight, base, gradient  effective W, B as booleans and ḡ, (out · in,)
    held                    b at the slots, 0 off B
    by, seen                the criterion of adapt, and what it looks at, (out · in,); None for ḡ
    """
    check_evidence(gradient, seen)
    # EVT-001
    leaving = drop(values, n_drop)
    dropped = positions[leaving]
    taken = torch.zeros_like(base)
    taken[positions] = True
    taken[dropped] = False
    # GROW-002
    wanted = max(0, n_drop + delta_budget - positions.numel())
    grown = grow(gradient, taken, wanted, base if active else None)
    if not adapts:
        return Decision(dropped, grown, grown[:0])
    after = weight.clone()
    # DROP-002
    after[dropped] = held[leaving]
    # GROW-003: what is grown and has a slot was dropped just now
    cancelled = source(positions, grown) >= 0
    after[grown[cancelled]] = weight[grown[cancelled]]
    new = torch.zeros_like(base)
    new[grown[~cancelled]] = True
    taken[grown] = True
    return Decision(dropped, grown, adapt(gradient if seen is None else seen, after, base | taken, budget, new, by))


def check_evidence(*seen: Tensor | None) -> None:
    """Refuse evidence of an event that is not finite."""
    # EVT-005
    if not all(bool(torch.isfinite(one).all()) for one in seen if one is not None):
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
) -> None:
    """Take one step, in place: φ, m and v of a float dtype, the age of each slot in int64."""
    beta1, beta2 = betas
    # OPT-001
    age += 1
    values.mul_(1 - lr * weight_decay)
    first.mul_(beta1).add_(gradient, alpha=1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # OPT-002, OPT-009
    ages = age.to(torch.float64)
    rate = (lr / (1 - beta1**ages)).to(values.dtype)
    root = torch.sqrt(1 - beta2**ages).to(values.dtype)
    values.sub_(rate * (first / (second.sqrt() / root + eps)))


def clip_factor(norm: float, max_norm: float) -> float:
    """Return what gradients at η are multiplied by."""
    # OPT-004
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm else 1.0
