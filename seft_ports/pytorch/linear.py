"""A linear layer whose weight is a sparse base plus a sparse update, both in one dense matrix in memory.

`mask` and `positions` say which weights are stored; a value never does (TOP-004). The matrix holds the effective
weight W: b + φ at the positions of the delta, b elsewhere on the support, 0 off it. `held` keeps b at the positions of
the delta.

FSDP splits the parameters `weight` and `values`; `split` does the same with `mask`, and `watch` with `seen` and
`seen_more`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seft_ports.pytorch import kernels
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.rules import Decision, adapt, check_evidence, decide, realign, source
from seft_ports.pytorch.spiel import first_step
from seft_ports.pytorch.split import add, is_split, mean_of_all, processes, put, split_as, whole

__all__ = ["SeftLinear"]


class _Product(torch.autograd.Function):
    """y = x Wᵀ, whose gradient by the values is dyᵀ x at the positions of the delta."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, layer: "SeftLinear", dtype: torch.dtype) -> Tensor:
        weight = layer.refresh(values)
        rows = x.reshape(math.prod(x.shape[:-1]), layer.in_features).to(dtype)
        # values are saved too, because torch then refuses a backward after they were changed
        ctx.save_for_backward(rows, values)
        ctx.layer, ctx.shape, ctx.kind = layer, x.shape, x.dtype
        kernels.check(rows, None, layer.shape, dtype)
        return kernels.matmul(rows, weight.to(dtype)).reshape(*x.shape[:-1], layer.out_features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, values = ctx.saved_tensors
        layer, dx, dvalues = ctx.layer, None, None
        # y = x Wᵀ
        dy = dy.reshape(len(x), layer.out_features).to(x.dtype)
        if ctx.needs_input_grad[0]:
            # refresh again, because FSDP gathered the weight anew, without what the forward wrote into it
            dx = kernels.matmul_transposed(dy, layer.refresh(values).to(x.dtype)).reshape(ctx.shape).to(ctx.kind)
        if ctx.needs_input_grad[1]:
            dvalues = torch.zeros_like(values)
            dvalues[: layer.slots] = kernels.sample(dy, x, layer.positions[: layer.slots]).to(values.dtype)
        if layer.watched:
            # GRD-001: the sum is over all micro-batches, before clipping
            layer.see(dy, x)
        return dx, dvalues, None, None


class SeftLinear(nn.Module):
    """y = x (θ′ + δ)ᵀ + bias.

    Attributes:
        weight: (out, in), the effective weight; a parameter that nothing trains.
        mask: (out, in) bool, the support B of the base.
        positions: (d_φ,) int64, the flat positions of the delta, ascending; free places at the end hold out · in.
        held: (d_φ,), the base at the positions of the delta; 0 off B and at free places.
        values: (d_φ,), φ in float32, or in float64 for a float64 weight; 0 at free places.
        seen: (out, in), the sum of gradients of an open window; (0,) outside one.
        seen_more: the same for the other evidence of `by`: |g|, g² or the squared gradients of tokens.
        candidates: (d_φ,) int64 in an open window with `first_step`, the positions that may grow; (0,) else.
        by: the criterion of adapt (ADPT-005).
        first_step: whether a window keeps g and g², at the candidates of its first step and on the support (GRD-007).
        may_grow: whether the layer may end with more stored weights than `budget` (EVT-008).
        budget: K, the stored weights at load.
        delta_budget: d_φ, the places for slots.
        matrix: the matrix index (MDL-007).
        slots: the number of slots; the places after them are free.
        watched: whether a backward adds to `seen` and `seen_more`.
    """

    weight: nn.Parameter
    mask: Tensor
    positions: Tensor
    held: Tensor
    seen: Tensor
    seen_more: Tensor
    candidates: Tensor

    def __init__(
        self,
        weight: Tensor,
        mask: Tensor,
        delta_budget: int,
        bias: nn.Parameter | None = None,
        matrix: int = 0,
        by: str = "sensitivity",
        *,
        first_step: bool = False,
    ) -> None:
        super().__init__()
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            raise SeftError(
                "TOP-004", f"a mask is {mask.dtype} {tuple(mask.shape)}, expected bool {tuple(weight.shape)}"
            )
        self.out_features, self.in_features = weight.shape
        # DLT-001
        self.budget = int(mask.sum())
        self.delta_budget, self.matrix, self.slots, self.watched, self.by = delta_budget, matrix, 0, False, by
        self.first_step, self.may_grow = first_step, False
        # the gradient of the running step, because |g| and g² are taken of whole steps (GRD-005)
        self._step: Tensor | None = None
        kind = kernels.wide(weight.dtype)
        self.weight = nn.Parameter(torch.where(mask, weight.detach(), 0).contiguous(), requires_grad=False)
        self.register_buffer("mask", mask.clone())
        self.register_buffer("positions", torch.full((delta_budget,), weight.numel(), device=weight.device))
        self.register_buffer("held", torch.zeros(delta_budget, dtype=weight.dtype, device=weight.device))
        # empty, but always in the state_dict, because FSDP loads only names that it has
        self.register_buffer("seen", torch.zeros(0, dtype=kind, device=weight.device))
        self.register_buffer("seen_more", torch.zeros(0, dtype=kind, device=weight.device))
        self.register_buffer("candidates", torch.zeros(0, dtype=torch.int64, device=weight.device))
        self.values = nn.Parameter(torch.zeros(delta_budget, dtype=kind, device=weight.device))
        self.bias = bias

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight: (out, in)."""
        return self.out_features, self.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return y, (..., out), for x, (..., in), computed in the dtype of autocast or else in that of the weight."""
        dtype, kind = self.weight.dtype, x.device.type
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        elif x.dtype != dtype:
            raise SeftError("KRN-010", f"x is {x.dtype}, the weight {dtype}")
        if self.values.dtype not in (torch.float32, torch.float64):
            msg = f"FSDP casts the values of the delta to {self.values.dtype}; give it no mixed precision (bf16=False)"
            raise NotImplementedError(msg)
        y: Tensor = _Product.apply(x, self.values, self, dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def refresh(self, values: Tensor | None = None) -> Tensor:
        """Write b + φ at the positions of the delta, and return the whole effective weight, (out, in)."""
        weight, phi = whole(self.weight), whole(self.values if values is None else values)[: self.slots]
        # DLT-003
        weight.view(-1)[self.positions[: self.slots]] = (self.held[: self.slots].to(phi.dtype) + phi).to(weight.dtype)
        put(self.weight, weight)
        return weight

    def support(self) -> Tensor:
        """Return S, the stored positions of base and delta, as booleans, (out, in)."""
        # TOP-004
        stored = whole(self.mask).clone()
        stored.view(-1)[self.positions[: self.slots]] = True
        return stored

    @torch.no_grad()
    def place(self, positions: Tensor) -> None:
        """Give an empty delta its first positions, all with φ = 0."""
        # DLT-005
        decision = Decision(positions[:0], positions, positions[:0])
        self.apply_decision(decision, {})

    def decide(
        self, gradient: Tensor, n_drop: int, *, active: bool = False, adapts: bool = True, seen: Tensor | None = None
    ) -> Decision:
        """Return what an event drops, grows and prunes, without changing anything.

        gradient  ḡ, (out, in)
        seen      the evidence of adapt, (out, in), or None if that is ḡ
        """
        weight, n = self.refresh(), self.slots
        return decide(
            weight.view(-1),
            whole(self.mask).view(-1),
            self.held[:n],
            self.positions[:n],
            whole(self.values).detach()[:n],
            gradient.reshape(-1).to(self.values.dtype),
            n_drop=n_drop,
            budget=self.budget,
            delta_budget=self.delta_budget,
            active=active,
            adapts=adapts,
            by=self.by,
            seen=None if seen is None else seen.reshape(-1).to(self.values.dtype),
            candidates=self.candidates if self.first_step else None,
        )

    def decide_last(self, seen: Tensor) -> Decision:
        """Return what the last adapt pass prunes; it exempts nothing (EVT-004).

        seen  the evidence of adapt, (out, in): ḡ for `sensitivity`
        """
        weight, none = self.refresh(), self.positions[:0]
        check_evidence(seen)
        # EVT-004
        flat = seen.reshape(-1).to(self.values.dtype)
        return Decision(none, none, adapt(flat, weight.view(-1), self.support().view(-1), self.budget, by=self.by))

    @torch.no_grad()
    def apply_decision(
        self, decision: Decision, kept: dict[str, Tensor], seeds: dict[str, Tensor] | None = None
    ) -> None:
        """Drop, grow and prune in place; values and the optimizer's state (`kept`) move with their slots.

        seeds  what new slots start with, by the names of `kept`, each aligned to `decision.grown`; 0 without
        """
        weight, base = whole(self.weight), whole(self.mask)
        flat, mask, n = weight.view(-1), base.view(-1), self.slots
        old = self.positions[:n].clone()
        # DROP-002: held is 0 off the base, so a dropped weight there becomes exactly 0
        flat[old] = self.held[:n]
        occupied = torch.zeros_like(mask)
        occupied[old] = True
        occupied[decision.dropped] = False
        occupied[decision.grown] = True
        # ADPT-004
        occupied[decision.pruned] = False
        mask[decision.pruned] = False
        flat[decision.pruned] = 0
        new = torch.nonzero(occupied).flatten()
        moved = source(old, new)
        self.slots = len(new)
        # GROW-003, EVT-006: every array with an entry for each slot moves in the same way
        for name, array in {"values": self.values.data, **kept}.items():
            gathered = whole(array)
            gathered[: self.slots] = realign(gathered[:n], moved)
            gathered[self.slots :] = 0
            if seeds is not None and name in seeds:
                # DLT-006
                fresh = torch.nonzero(moved < 0).flatten()
                gathered[fresh] = seeds[name][source(decision.grown, new[fresh])]
            put(array, gathered)
        self.positions.fill_(mask.numel())[: self.slots] = new
        self.held.zero_()[: self.slots] = flat[new]
        put(self.weight, weight)
        put(self.mask, base)
        self.refresh()

    def watch(self, *, adapts: bool = True) -> None:
        """Open a window if none is open: backwards then add to `seen` and, as `by` needs it, to `seen_more`.

        adapts  whether the event prunes; if not, only `first_step` adds to `seen_more`
        """
        self.watched = True
        if not self.seen.numel():
            self.seen = torch.zeros_like(self.weight, dtype=self.values.dtype)
        if not self.seen_more.numel() and (self.first_step or (adapts and self.by != "sensitivity")):
            self.seen_more = torch.zeros_like(self.weight, dtype=self.values.dtype)
        # split here too, because a checkpoint loads them whole
        self.seen, self.seen_more = (split_as(self.weight, x) if x.numel() else x for x in (self.seen, self.seen_more))

    def see(self, dy: Tensor, x: Tensor) -> None:
        """Add the evidence of one backward: of this process's rows, or of all processes where the sums are split."""
        total, more = self.seen, bool(self.seen_more.numel())
        if more and (self.first_step or self.by in ("absolute", "fisher")):
            self._step = torch.zeros_like(self.seen) if self._step is None else self._step
            total = self._step
        add(total, kernels.whole(dy, x))
        if more and self.by == "token-fisher":
            # GRD-008: the loss is the mean over N processes, so the gradient of a token is dy x / N. The sum of its
            # squares over all processes is then the mean of dy² x² over them, divided by N once more
            add(self.seen_more, kernels.tokens(dy, x) / processes())

    def settle(self) -> None:
        """Add the gradient of the step that ends, and its |g| or g², to the sums of the window."""
        step, self._step = self._step, None
        if step is not None:
            step = step if is_split(step) else mean_of_all(step)
            if self.first_step:
                step = self._where_kept(step)
            self.seen += step
            # GRD-005
            self.seen_more += step.abs() if self.by == "absolute" else step * step

    def _where_kept(self, step: Tensor) -> Tensor:
        """Return a gradient with 0 where the window keeps nothing; the first one of a window chooses the candidates."""
        if not self.candidates.numel() and self.delta_budget:
            self.candidates = first_step(step.flatten(), self.delta_budget)
        # GRD-007
        kept = self.support()
        kept.view(-1)[self.candidates] = True
        return torch.where(kept, step, 0)

    def split(self) -> None:
        """Split the mask as FSDP splits the weight."""
        self.mask = split_as(self.weight, self.mask)

    def unwatch(self, *, forget: bool = True) -> None:
        """Stop adding gradients, and with `forget` clear the sums of the window."""
        self.watched = False
        if forget:
            self._step = None
            self.seen = torch.zeros(0, dtype=self.values.dtype, device=self.held.device)
            self.seen_more = self.seen.clone()
            self.candidates = self.positions[:0].clone()

    def extra_repr(self) -> str:
        """Return shape, stored weights and slots."""
        return (
            f"{self.in_features}, {self.out_features}, stored={self.budget}, slots={self.slots} of {self.delta_budget}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # TRN-004: an open window is part of a checkpoint
        self.unwatch()
        for name in ("seen", "seen_more", "candidates"):
            empty = getattr(self, name)
            saved = state_dict.setdefault(prefix + name, empty)
            setattr(self, name, empty.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.slots = int((self.positions < self.mask.numel()).sum())
