"""One step of the slots of a matrix, for each optimizer, and the initial state of seeded slots (chapter 9, DLT-006).

    STEPS["adamw"](values, state, gradient, Hyper(lr=1e-3), place)

A step changes its arrays in place. `state` has the arrays of the optimizer by name; KEEPS names those with an entry for
each slot.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seft_ports.pytorch.split import whole

__all__ = ["KEEPS", "STEPS", "Hyper", "Place", "clip", "clip_factor", "fresh", "seeds"]

Kept = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Hyper:
    """The numbers of a step; the defaults are OPT-003's.

    slot_warmup  steps over which the rate of a slot rises, for `adamw` (OPT-010)
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.9
    slot_warmup: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """The row and the column of each slot, int64; only `sm3` uses them."""

    row: Tensor
    column: Tensor

    @classmethod
    def of(cls, positions: Tensor, width: int) -> "Place":
        """Return the places of flat positions in a matrix with rows of this width."""
        return cls(positions // max(width, 1), positions % max(width, 1))


def _moments(state: Kept, gradient: Tensor, h: Hyper) -> Tensor:
    """Update age, m and v by one gradient, in place, and return the ages in binary64."""
    # OPT-001
    state["age"].add_(1)
    state["first_moment"].mul_(h.beta1).add_(gradient, alpha=1 - h.beta1)
    state["second_moment"].mul_(h.beta2).addcmul_(gradient, gradient, value=1 - h.beta2)
    return state["age"].to(torch.float64)


def _adamw(values: Tensor, state: Kept, gradient: Tensor, h: Hyper, _: Place) -> None:
    values.mul_(1 - h.lr * h.weight_decay)
    # OPT-002, OPT-009
    ages = _moments(state, gradient, h)
    rise = (ages / max(h.slot_warmup, 1)).clamp(max=1.0)
    # OPT-010
    rate = (h.lr * rise / (1 - h.beta1**ages)).to(values.dtype)
    root = torch.sqrt(1 - h.beta2**ages).to(values.dtype)
    # OPT-001
    values.sub_(rate * (state["first_moment"] / (state["second_moment"].sqrt() / root + h.eps)))


def _spiel_adamw(values: Tensor, state: Kept, gradient: Tensor, h: Hyper, _: Place) -> None:
    # OPT-002, OPT-009
    ages = _moments(state, gradient, h)
    c1 = (1 - h.beta1**ages).to(values.dtype)
    c2 = torch.sqrt(1 - h.beta2**ages).to(values.dtype)
    # OPT-006: eps is divided by c₂, too, and the decay uses the new φ
    values.sub_(h.lr * (state["first_moment"] / ((state["second_moment"].sqrt() + h.eps) * c1 / c2)))
    values.sub_((h.lr * h.weight_decay) * values)


def _sgd(values: Tensor, state: Kept, gradient: Tensor, h: Hyper, _: Place) -> None:
    # OPT-007
    values.mul_(1 - h.lr * h.weight_decay)
    state["momentum"].mul_(h.momentum).add_(gradient)
    values.sub_(h.lr * state["momentum"])


def _sm3(values: Tensor, state: Kept, gradient: Tensor, h: Hyper, place: Place) -> None:
    rows, columns = state["rows"], state["columns"]
    # OPT-008
    nu = torch.minimum(rows[place.row], columns[place.column]) + gradient * gradient
    rows.scatter_reduce_(0, place.row, nu, "amax")
    columns.scatter_reduce_(0, place.column, nu, "amax")
    values.sub_(h.lr * (gradient / torch.sqrt(nu + h.eps)))
    values.sub_((h.lr * h.weight_decay) * values)


STEPS: dict[str, Callable[[Tensor, Kept, Tensor, Hyper, Place], None]] = {
    "adamw": _adamw,
    "spiel-adamw": _spiel_adamw,
    "sgd": _sgd,
    "sm3": _sm3,
}
"""The optimizers by name: each takes φ, its state, the gradient at the slots, the numbers, and the places."""

KEEPS: dict[str, tuple[str, ...]] = {
    "adamw": ("first_moment", "second_moment", "age"),
    "spiel-adamw": ("first_moment", "second_moment", "age"),
    "sgd": ("momentum",),
    "sm3": (),
}
"""Optimizer -> its arrays with an entry for each slot; `sm3` keeps `rows` and `columns` of the matrix instead."""


def fresh(kind: str, values: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Return the state of an optimizer before the first step (DLT-005).

    shape  (out, in) of the matrix
    """
    if kind == "sm3":
        return {name: values.new_zeros(n) for name, n in zip(("rows", "columns"), shape, strict=True)}
    kinds = {"age": torch.int64}
    return {name: torch.zeros_like(values, dtype=kinds.get(name, values.dtype)) for name in KEEPS[kind]}


def seeds(kind: str, gradient: Tensor, square: Tensor, steps: int, h: Hyper) -> dict[str, Tensor]:
    """Return the initial state of new slots, as if the optimizer had seen the window (DLT-006).

    gradient, square  the means of g and of g² over the window, at the new positions
    """

    def scaled(mean: Tensor, factor: float) -> Tensor:
        # DLT-006: factors are computed in binary64 and rounded once
        return mean * torch.tensor(factor, dtype=mean.dtype).to(mean.device)

    if kind == "sgd":
        return {"momentum": scaled(gradient, (1 - h.momentum**steps) / (1 - h.momentum))}
    age = steps - (kind == "spiel-adamw")
    return {
        "first_moment": scaled(gradient, 1 - h.beta1**steps),
        "second_moment": scaled(square, 1 - h.beta2**steps),
        "age": torch.full(gradient.shape, age, device=gradient.device),
    }


def clip_factor(norm: float, max_norm: float) -> float:
    """Return the factor that clips gradients at η to max_norm, 1 if that is 0 (OPT-004)."""
    # OPT-004
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm else 1.0


@torch.no_grad()
def clip(gradients: Iterable[Tensor | None], max_norm: float) -> None:
    """Scale gradients at η in place, by one factor for all, so that their common norm is at most max_norm (OPT-004).

    max_norm  0 for no clipping
    """
    present = [gradient for gradient in gradients if gradient is not None]
    if not (max_norm and present):
        return
    # OPT-004.2: the norm is computed in binary64
    squares = torch.stack([whole(gradient).double().square().sum() for gradient in present])
    factor = clip_factor(float(squares.sum().sqrt()), max_norm)
    for gradient in present:
        gradient *= factor
