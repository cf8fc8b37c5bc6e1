"""The sparse update of one matrix: its positions and values, the evidence of an open window, and what an event changes.

`SparseUpdate` holds what belongs to the update alone. A subclass holds the weights, and says what they are:
`linear.SeftLinear` owns its matrix; the tuner of `seft_ports.peft` borrows that of the layer it adapts.

FSDP splits the parameter `values`, and `watch` splits `seen` and `seen_more` as it splits the weight.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch import kernels
from seft_ports.pytorch.rules import BY_GRADIENT, Decision, adapt, check_evidence, decide, realign, source
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.spiel import first_step
from seft_ports.pytorch.split import add, is_split, mean_of_all, processes, put, split_as, whole

__all__ = ["SparseUpdate"]


class SparseUpdate(nn.Module):
    """δ of one matrix, and what the events of a run need of it.

    Attributes:
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
        has_events: whether an `Evolution` was made for it.
        settings: those of the run that the update was made for, or None if nothing gave them.
        slots: the number of slots; the places after them are free.
        watched: whether a backward adds to `seen` and `seen_more`.
    """

    may_be_split = False
    """Whether FSDP may split the update and its weight."""
    positions: Tensor
    held: Tensor
    seen: Tensor
    seen_more: Tensor
    candidates: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        delta_budget: int,
        matrix: int,
        by: str,
        *,
        first_step: bool,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.budget = 0
        self.delta_budget, self.matrix, self.slots, self.watched, self.by = delta_budget, matrix, 0, False, by
        self.first_step, self.may_grow = first_step, False
        self.settings: Settings | None = None
        self.has_events = False
        self._observer: Callable[[Tensor, Tensor], None] | None = None
        # the gradient of the running step, because |g| and g² are taken of whole steps (GRD-005)
        self._step: Tensor | None = None
        kind = kernels.wide(dtype)
        self.register_buffer("positions", torch.full((delta_budget,), shape[0] * shape[1], device=device))
        # empty, but always in the state_dict, because FSDP loads only names that it has
        self.register_buffer("seen", torch.zeros(0, dtype=kind, device=device))
        self.register_buffer("seen_more", torch.zeros(0, dtype=kind, device=device))
        self.register_buffer("candidates", torch.zeros(0, dtype=torch.int64, device=device))
        self.values = nn.Parameter(torch.zeros(delta_budget, dtype=kind, device=device))

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight: (out, in)."""
        return self.out_features, self.in_features

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SparseUpdate":  # noqa: FBT001, FBT002, torch's own
        """Move to another device or dtype; φ keeps its own, because a cast is of the base (DLT-003.4)."""
        kept = self.values.detach()
        super()._apply(fn, recurse)
        if self.values.dtype in (torch.bfloat16, torch.float16):
            self.values.data = kept.to(self.values.device)
        return self

    @property
    def trained(self) -> bool:
        """Whether a run trains this update."""
        return True

    def effective(self) -> Tensor:
        """Return the whole effective weight W, (out, in): b + φ on η, b elsewhere on the support, 0 off it."""
        raise NotImplementedError

    def base(self) -> Tensor:
        """Return B, the support of the base, as booleans, (out, in)."""
        raise NotImplementedError

    def like(self) -> Tensor:
        """Return the weight as the model holds it, (out, in), which FSDP may split."""
        raise NotImplementedError

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return these rows of the weight and of B, (last - first, in); b, or anything, where the delta has slots."""
        raise NotImplementedError

    def apply_decision(
        self, decision: Decision, kept: dict[str, Tensor], seeds: dict[str, Tensor] | None = None
    ) -> None:
        """Drop, grow and prune in place; values and the optimizer's state (`kept`) move with their slots.

        seeds  what new slots start with, by the names of `kept`, each aligned to `decision.grown`; 0 without
        """
        raise NotImplementedError

    def support(self) -> Tensor:
        """Return S, the stored positions of base and delta, as booleans, (out, in)."""
        # TOP-004
        stored = self.base().clone()
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
        n = self.slots
        return decide(
            self.effective().view(-1),
            self.base().view(-1),
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
            exempt=self.settings.exempt if self.settings else "new",
        )

    def decide_last(self, seen: Tensor) -> Decision:
        """Return what the last adapt pass prunes; it exempts nothing (EVT-004).

        seen  the evidence of adapt, (out, in): ḡ for `sensitivity`
        """
        none = self.positions[:0]
        check_evidence(seen)
        # EVT-004
        flat = seen.reshape(-1).to(self.values.dtype)
        pruned = adapt(flat, self.effective().view(-1), self.support().view(-1), self.budget, by=self.by)
        return Decision(none, none, pruned)

    def move(self, decision: Decision, kept: dict[str, Tensor], seeds: dict[str, Tensor] | None) -> None:
        """Give slots the positions that a decision leaves, in place, and move values and `kept` with them."""
        n = self.slots
        old = self.positions[:n].clone()
        # GROW-003: a position that is dropped and grown in one event stays
        stays = (source(decision.dropped, old) < 0) | (source(decision.grown, old) >= 0)
        new = torch.cat([old[stays], decision.grown[source(old, decision.grown) < 0]]).sort().values
        # ADPT-004
        new = new[source(decision.pruned, new) < 0]
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
        self.positions.fill_(self.out_features * self.in_features)[: self.slots] = new

    def watch(self, *, adapts: bool = True) -> None:
        """Open a window if none is open: backwards then add to `seen` and, as `by` needs it, to `seen_more`.

        adapts  whether the event prunes; if not, only `first_step` adds to `seen_more`
        """
        self.watched = True
        weight = self.like()
        if not self.seen.numel():
            self.seen = torch.zeros_like(weight, dtype=self.values.dtype)
        if not self.seen_more.numel() and (self.first_step or (adapts and self.by not in BY_GRADIENT)):
            self.seen_more = torch.zeros_like(weight, dtype=self.values.dtype)
        # split here too, because a checkpoint loads them whole
        self.seen, self.seen_more = (split_as(weight, x) if x.numel() else x for x in (self.seen, self.seen_more))

    def observe(self, observer: Callable[[Tensor, Tensor], None]) -> None:
        """Let each backward give dy and x to `observer`, and add nothing to `seen`, until `unwatch`."""
        self.watched, self._observer = True, observer

    def see(self, dy: Tensor, x: Tensor) -> None:
        """Take the evidence of one backward.

        What is added to sums is that of this process's rows, or of all processes where the sums are split.
        """
        if self._observer is not None:
            self._observer(dy, x)
            return
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
        """Split what FSDP does not, as it splits the weight."""

    def unwatch(self, *, forget: bool = True) -> None:
        """Stop adding gradients, and with `forget` clear the sums of the window."""
        self.watched, self._observer = False, None
        if forget:
            self._step = None
            self.seen = torch.zeros(0, dtype=self.values.dtype, device=self.positions.device)
            self.seen_more = self.seen.clone()
            self.candidates = self.positions[:0].clone()

    def extra_repr(self) -> str:
        """Return shape, stored weights and slots."""
        return (
            f"{self.in_features}, {self.out_features}, stored={self.budget}, slots={self.slots} of {self.delta_budget}"
        )

    def load_window(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Make room for the open window that a state_dict has, or for none (TRN-004)."""
        self.unwatch()
        for name in ("seen", "seen_more", "candidates"):
            empty = getattr(self, name)
            saved = state_dict.setdefault(prefix + name, empty)
            setattr(self, name, empty.new_zeros(saved.shape))
