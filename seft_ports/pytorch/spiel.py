"""The rules of SpIEL on torch tensors, which the presets `spiel-adapt` and `spiel-ag` use (chapters 6, 8 and 9).

Matrices are flat, and positions are flat and ascending, as in `rules.py`.
"""

import torch
from torch import Tensor

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.rules import check_evidence, drop_fraction_at, event_steps, largest, last_event_step

__all__ = ["check_windows", "event_fraction", "event_windows", "first_step", "seeds", "spiel_adamw"]


def event_windows(kind: str, steps: int, evolve_every: int, window: int, evolve_until: float = 1.0) -> dict[int, int]:
    """Return the steps that an event follows, ascending, each with the number of steps whose gradients it averages.

    kind  `period` or `phases`

    Raises:
        SeftError: SCH-003 for another kind, TRN-005 or SCH-005 for a window that does not fit, SCH-007.
    """
    check_windows(kind, evolve_every, window)
    # SCH-007
    if not 0 < evolve_until <= 1:
        raise SeftError("SCH-007", f"evolve_until {evolve_until} is outside (0, 1]")
    if kind == "period":
        return dict.fromkeys(event_steps(steps, evolve_every, evolve_until), window)
    # SCH-005: with a window of 0 the first phase is empty; an event may follow the last step
    last = min(steps, last_event_step(steps, evolve_until))
    return {t: window + (t != window) for t in range(window or evolve_every, last + 1, evolve_every)}


def check_windows(kind: str, evolve_every: int, window: int) -> None:
    """Raise SeftError for a gradient window that does not fit between events (TRN-005, SCH-005)."""
    # SCH-003
    if kind not in ("period", "phases"):
        raise SeftError("SCH-003", f"events is {kind!r}; it is period or phases")
    # TRN-005
    if kind == "period" and not 1 <= window <= evolve_every:
        raise SeftError("TRN-005", f"gradient_window {window} is outside 1 ... {evolve_every}")
    # SCH-005
    if kind == "phases" and not 0 <= window <= evolve_every - 2:
        raise SeftError("SCH-005", f"gradient_window {window} is outside 0 ... {evolve_every - 2}, evolve_every - 2")


def event_fraction(
    step: int, steps: int, drop_fraction: float, schedule: str, first_event: str, evolve_until: float, *, first: bool
) -> float:
    """Return the share of slots that the event after a step drops (SCH-001, SCH-006, SCH-008).

    steps  T
    first  whether the event is the first of the run

    Raises:
        SeftError: SCH-001, SCH-007 or SCH-008 for what is out of range or unknown.
    """
    if not 0 < evolve_until <= 1:
        raise SeftError("SCH-007", f"evolve_until {evolve_until} is outside (0, 1]")
    if first_event not in ("fraction", "all"):
        raise SeftError("SCH-008", f"first_event is {first_event!r}; it is fraction or all")
    fraction = drop_fraction_at(step, last_event_step(steps, evolve_until), drop_fraction, schedule)
    # SCH-008
    return 1.0 if first and first_event == "all" else fraction


def first_step(gradient: Tensor, n: int) -> Tensor:
    """Return the n positions with the largest |g| of the first step of a window, those of slots included (GRD-007).

    Raises:
        SeftError: EVT-005 for a NaN or infinite gradient, SEL-005 for an n above the size of the matrix.
    """
    check_evidence(gradient)
    # GRD-007
    return largest(gradient.abs(), n)


def seeds(gradient: Tensor, square: Tensor, steps: int, kind: str, betas: tuple[float, float]) -> dict[str, Tensor]:
    """Return the moments and age of new slots as if the optimizer had seen the window (DLT-006).

    gradient, square  the means of g and of g² over the window, at the new positions
    kind              `adamw` or `spiel-adamw`
    """
    # DLT-006: factors in binary64, rounded once
    first, second = (torch.tensor(1 - beta**steps, dtype=gradient.dtype) for beta in betas)
    age = steps - (kind == "spiel-adamw")
    return {
        "first_moment": gradient * first.to(gradient.device),
        "second_moment": square * second.to(square.device),
        "age": torch.full(gradient.shape, age, device=gradient.device),
    }


def spiel_adamw(
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
    """Take one step of SpIEL's AdamW in place (OPT-006): eps is divided by c₂ too, and decay takes the new φ."""
    beta1, beta2 = betas
    # OPT-001
    age += 1
    first.mul_(beta1).add_(gradient, alpha=1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # OPT-002, OPT-009
    ages = age.to(torch.float64)
    c1 = (1 - beta1**ages).to(values.dtype)
    c2 = torch.sqrt(1 - beta2**ages).to(values.dtype)
    # OPT-006
    values.sub_(lr * (first / ((second.sqrt() + eps) * c1 / c2)))
    values.sub_((lr * weight_decay) * values)
