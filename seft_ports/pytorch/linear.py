"""A linear layer whose weight is a sparse base plus a sparse update, both in one dense matrix in memory.

`mask` and `positions` say which weights are stored; a value never does (TOP-004). The matrix holds the effective
weight W: b + φ at the positions of the delta, b elsewhere on the support, 0 off it. `held` keeps b at the positions of
the delta.

FSDP splits the parameters `weight` and `values`; `split` does the same with `mask`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch.decide import Decision
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.patterns import check_pattern
from seft_ports.pytorch.product import number_of, product
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.split import is_split, put, split_as, whole
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["MASK", "SeftLinear", "check_mask", "plain"]

MASK = "seft_mask"
"""Name of the buffer in which a plain linear layer keeps its support; it is not part of a state_dict."""


def plain(weight: Tensor, bias: nn.Parameter | None, support: Tensor) -> nn.Linear:
    """Return a linear layer with this weight, (out, in), and its support, booleans, as a buffer."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = bias
    layer.register_buffer(MASK, support, persistent=False)
    return layer


def check_mask(mask: Tensor, weight: Tensor) -> None:
    """Raise SeftError (TOP-004) for a mask that is not boolean or not of the weight's shape."""
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise SeftError("TOP-004", f"a mask is {mask.dtype} {tuple(mask.shape)}, expected bool {tuple(weight.shape)}")


class SeftLinear(SparseUpdate):
    """y = x (θ′ + δ)ᵀ + bias; see `SparseUpdate` for the attributes of δ.

    Attributes:
        weight: (out, in), the effective weight; a parameter that nothing trains.
        mask: (out, in) bool, the support B of the base.
        bias: (out,) or None.
    """

    may_be_split = True
    weight: nn.Parameter
    mask: Tensor

    def __init__(
        self,
        weight: Tensor,
        mask: Tensor,
        delta_budget: int,
        bias: nn.Parameter | None = None,
        matrix: int = 0,
        settings: Settings | None = None,
    ) -> None:
        check_mask(mask, weight)
        shape = (weight.shape[0], weight.shape[1])
        super().__init__(shape, weight.dtype, weight.device, delta_budget, matrix, settings)
        if settings is not None and settings.pattern is not None:
            check_pattern(mask, settings.pattern)
        self.take_budgets(mask)
        self.weight = nn.Parameter(torch.where(mask, weight.detach(), 0).contiguous(), requires_grad=False)
        self.register_buffer("mask", mask.clone())
        self.register_buffer("held", torch.zeros(delta_budget, dtype=weight.dtype, device=weight.device))
        self.bias = bias
        self.number = number_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a copy gets a number of its own, because it is another matrix
        super().__setstate__(state)
        self.number = number_of(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, (..., out), for x, (..., in), computed in the dtype of autocast or else in that of the weight."""
        dtype, kind = self.weight.dtype, x.device.type
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        elif x.dtype != dtype:
            advice = "cast the model to one dtype, or compute under autocast"
            raise SeftError("KRN-010", f"x is {x.dtype}, the weight {dtype}; {advice}")
        if self.values.dtype not in (torch.float32, torch.float64):
            msg = f"FSDP casts the values of the delta to {self.values.dtype}; give it no mixed precision (bf16=False)"
            raise NotImplementedError(msg)
        y = product(x, self, dtype, (self.values,))
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def updates(self) -> tuple[SparseUpdate, ...]:
        """The updates that the effective weight contains: this one."""
        return (self,)

    @contextmanager
    def written(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the effective weight, (out, in); it stays in memory after the context ends."""
        yield self.refresh(values[0])

    @torch.no_grad()
    def refresh(self, values: Tensor | None = None) -> Tensor:
        """Write b + φ at the positions of the delta, and return the whole effective weight, (out, in)."""
        weight, phi = whole(self.weight), whole(self.values if values is None else values)[: self.slots]
        # DLT-003
        weight.view(-1)[self.positions[: self.slots]] = (self.held[: self.slots].to(phi.dtype) + phi).to(weight.dtype)
        put(self.weight, weight)
        return weight

    def effective(self) -> Tensor:
        """Return the whole effective weight, (out, in)."""
        return self.refresh()

    def base(self) -> Tensor:
        """Return B, the support of the base, as booleans, (out, in)."""
        return whole(self.mask)

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return these rows of the weight and of B, (last - first, in)."""
        return self.weight.detach()[first:last], self.mask[first:last]

    def like(self) -> Tensor:
        """Return the weight as this process holds it, (out, in)."""
        return self.weight

    @torch.no_grad()
    def apply_decision(
        self, decision: Decision, state: dict[str, Tensor], seeds: dict[str, Tensor] | None = None
    ) -> None:
        """Drop, grow and prune in place; values and the optimizer's `state` move with their slots.

        seeds  initial state of new slots, by the names of `state`, each aligned to `decision.grown`; None for 0
        """
        weight, base = whole(self.weight), whole(self.mask)
        flat, mask, n = weight.view(-1), base.view(-1), self.slots
        # DROP-002: held is 0 off the base, so a dropped weight there becomes exactly 0
        flat[self.positions[:n]] = self.held[:n]
        # ADPT-004, DROP-004
        mask[decision.left] = False
        flat[decision.left] = 0
        self.move(decision, state, seeds)
        self.held.zero_()[: self.slots] = flat[self.positions[: self.slots]]
        put(self.weight, weight)
        put(self.mask, base)
        self.refresh()

    def plain(self) -> nn.Linear:
        """Return a linear layer that shares the effective weight, and keeps the support as a buffer."""
        return plain(self.refresh(), self.bias, self.support()).train(self.training)

    def split(self) -> None:
        """Split the mask as FSDP splits the weight."""
        self.mask = split_as(self.weight, self.mask)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:  # noqa: FBT001, torch's own
        # the optimizer has stepped since the forward that wrote the weight
        if not is_split(self.weight):
            self.refresh()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # TRN-004: an open window is part of a checkpoint
        self.load_window(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.slots = int((self.positions < self.mask.numel()).sum())
