"""A linear layer whose weight is a sparse base plus a sparse update, both in one dense matrix in memory.

What is stored is told by `mask` and `positions`, never by a value. The matrix holds the effective weight W: b + φ at
the positions of the delta, b elsewhere on the support, 0 off it; `held` keeps b at the positions of the delta.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seft_ports.pytorch import kernels
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.rules import Decision, adapt, decide, realign, source

__all__ = ["SeftLinear"]


class _Product(torch.autograd.Function):
    """y = x Wᵀ; the gradient by the values is that at the delta's positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, layer: "SeftLinear", dtype: torch.dtype) -> Tensor:
        layer.refresh(values)
        rows = x.reshape(math.prod(x.shape[:-1]), layer.in_features).to(dtype)
        # of values only the version counts: torch refuses a backward after they were changed
        ctx.save_for_backward(rows, values)
        ctx.layer, ctx.shape, ctx.kind = layer, x.shape, x.dtype
        kernels.check(rows, None, layer.shape, dtype)
        return kernels.matmul(rows, layer.weight.to(dtype)).reshape(*x.shape[:-1], layer.out_features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, values = ctx.saved_tensors
        layer, dx, dvalues = ctx.layer, None, None
        # y = x Wᵀ
        dy = dy.reshape(len(x), layer.out_features).to(x.dtype)
        if ctx.needs_input_grad[0]:
            dx = kernels.matmul_transposed(dy, layer.weight.to(x.dtype)).reshape(ctx.shape).to(ctx.kind)
        if ctx.needs_input_grad[1]:
            dvalues = torch.zeros_like(values)
            dvalues[: layer.slots] = kernels.sample(dy, x, layer.positions[: layer.slots]).to(values.dtype)
        if layer.seen is not None and layer.watched:
            # GRD-001: of all micro-batches, before anything is clipped
            layer.seen += kernels.whole(dy, x)
        return dx, dvalues, None, None


class SeftLinear(nn.Module):
    """y = x (θ′ + δ)ᵀ + bias.

    Attributes:
        weight: (out, in), the effective weight.
        mask: (out, in), the support B of the base.
        positions: (d_φ,) int64, the flat positions of the delta, ascending; out · in where there is no slot.
        held: (d_φ,), the base at the positions of the delta, 0 off B and where there is no slot.
        values: (d_φ,), φ in float32, or float64 for such a weight; 0 where there is no slot.
        seen: (out, in), the sum of gradients of an open window, None outside one.
        budget: K.
        delta_budget: d_φ.
        matrix: the matrix index.
        slots: how many of the positions are slots.
        watched: whether a backward adds to `seen`.
    """

    weight: Tensor
    mask: Tensor
    positions: Tensor
    held: Tensor
    seen: Tensor | None

    def __init__(
        self, weight: Tensor, mask: Tensor, delta_budget: int, bias: nn.Parameter | None = None, matrix: int = 0
    ) -> None:
        super().__init__()
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            raise SeftError(
                "TOP-004", f"a mask is {mask.dtype} {tuple(mask.shape)}, expected bool {tuple(weight.shape)}"
            )
        self.out_features, self.in_features = weight.shape
        # DLT-001
        self.budget = int(mask.sum())
        self.delta_budget, self.matrix, self.slots, self.watched = delta_budget, matrix, 0, False
        kind = kernels.wide(weight.dtype)
        self.register_buffer("weight", torch.where(mask, weight.detach(), 0).contiguous())
        self.register_buffer("mask", mask.clone())
        self.register_buffer("positions", torch.full((delta_budget,), weight.numel(), device=weight.device))
        self.register_buffer("held", torch.zeros(delta_budget, dtype=weight.dtype, device=weight.device))
        self.register_buffer("seen", None)
        self.values = nn.Parameter(torch.zeros(delta_budget, dtype=kind, device=weight.device))
        self.bias = bias

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.out_features, self.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return y of (..., out) for x of (..., in), computed in the dtype of autocast or else of the weight."""
        dtype, kind = self.weight.dtype, x.device.type
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        elif x.dtype != dtype:
            raise SeftError("KRN-010", f"x is {x.dtype}, the weight {dtype}")
        y: Tensor = _Product.apply(x, self.values, self, dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def refresh(self, values: Tensor | None = None) -> None:
        """Write b + φ at the positions of the delta."""
        # DLT-003
        at, phi = self.positions[: self.slots], (self.values if values is None else values)[: self.slots]
        self.weight.view(-1)[at] = (self.held[: self.slots].to(phi.dtype) + phi).to(self.weight.dtype)

    def support(self) -> Tensor:
        """Return S as booleans, (out, in)."""
        # TOP-004
        stored = self.mask.clone()
        stored.view(-1)[self.positions[: self.slots]] = True
        return stored

    @torch.no_grad()
    def place(self, positions: Tensor) -> None:
        """Give an empty delta its first positions, all with φ = 0."""
        # DLT-005
        none = Decision(positions[:0], positions, positions[:0])
        self.apply_decision(none, {})

    def decide(self, gradient: Tensor, n_drop: int, *, active: bool = False, adapts: bool = True) -> Decision:
        """Return what an event with this gradient, (out, in), does; nothing is changed."""
        self.refresh()
        n = self.slots
        return decide(
            self.weight.view(-1),
            self.mask.view(-1),
            self.held[:n],
            self.positions[:n],
            self.values.detach()[:n],
            gradient.reshape(-1).to(self.values.dtype),
            n_drop=n_drop,
            budget=self.budget,
            delta_budget=self.delta_budget,
            active=active,
            adapts=adapts,
        )

    def decide_last(self, gradient: Tensor) -> Decision:
        """Return what the last adapt pass prunes with this gradient, (out, in): nothing is exempt."""
        self.refresh()
        none = self.positions[:0]
        # EVT-005
        if not bool(torch.isfinite(gradient).all()):
            raise SeftError("EVT-005", "the gradient of the last pass has a NaN or infinite entry")
        # EVT-004
        flat = gradient.reshape(-1).to(self.values.dtype)
        return Decision(none, none, adapt(flat, self.weight.view(-1), self.support().view(-1), self.budget))

    @torch.no_grad()
    def apply_decision(self, decision: Decision, kept: dict[str, Tensor]) -> None:
        """Drop, grow and prune; values, and what the optimizer keeps of each slot, move along, in place."""
        flat, mask, n = self.weight.view(-1), self.mask.view(-1), self.slots
        old = self.positions[:n].clone()
        # DROP-002: off the base nothing is held, so that the weight is exactly 0
        flat[old] = self.held[:n]
        taken = torch.zeros_like(mask)
        taken[old] = True
        taken[decision.dropped] = False
        taken[decision.grown] = True
        # ADPT-004
        taken[decision.pruned] = False
        mask[decision.pruned] = False
        flat[decision.pruned] = 0
        new = torch.nonzero(taken).flatten()
        moved = source(old, new)
        self.slots = len(new)
        # GROW-003, EVT-006: one change for everything that lives on a slot
        for array in (self.values.data, *kept.values()):
            array[: self.slots] = realign(array[:n], moved)
            array[self.slots :] = 0
        self.positions.fill_(mask.numel())[: self.slots] = new
        self.held.zero_()[: self.slots] = flat[new]
        self.refresh()

    def watch(self) -> None:
        """Open a window if none is open: backwards add their whole gradient to `seen`."""
        self.watched = True
        if self.seen is None:
            self.seen = torch.zeros(self.shape, dtype=self.values.dtype, device=self.weight.device)

    def unwatch(self, *, forget: bool = True) -> None:
        """Add no more gradients; forget what was seen."""
        self.watched = False
        if forget:
            self.seen = None

    def extra_repr(self) -> str:
        """Return shape, stored weights and slots."""
        return (
            f"{self.in_features}, {self.out_features}, stored={self.budget}, slots={self.slots} of {self.delta_budget}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # TRN-004: an open window is part of a checkpoint
        self.seen = torch.zeros_like(self.weight, dtype=self.values.dtype) if f"{prefix}seen" in state_dict else None
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.slots = int((self.positions < self.weight.numel()).sum())
