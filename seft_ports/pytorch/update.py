"""The sparse update of one matrix: its positions and values, the evidence of an open window, and its change by events.

`SparseUpdate` has the state of the update alone. A subclass has the weights:
`linear.SeftLinear` owns its matrix; the tuner of `seft_ports.peft` borrows that of the layer it adapts.

FSDP splits the parameter `values`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch import kernels
from seft_ports.pytorch.decide import Decision, Part
from seft_ports.pytorch.delta import among, realign, source
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.pools import of_slots, of_weights
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.split import put, whole
from seft_ports.pytorch.window import SUMS, Windowed

__all__ = ["ROWS", "SparseUpdate", "check_finished", "is_over"]

ROWS = (
    "scope row holds each row to the slots that it had at the start, which an adapter file does not say; train such an "
    "adapter in one run"
)
"""The error message for an update whose slots at the start are not known."""


_ANY = Settings(preset="sensitivity")
"""Stands for the settings of an update that was given none."""


class SparseUpdate(Windowed):
    """The update δ of one matrix, and the data that the events of a run need.

    Attributes:
        positions: (d_φ,) int64, the flat positions of the delta, ascending; free places at the end hold out · in.
        held: (d_φ,), the base's values at the positions of the delta; 0 outside B and at free places.
        values: (d_φ,), φ in float32, or in float64 for a float64 weight; 0 at free places.
        slots_at_start: (out,) int64 with `scope` row, the slots of each row at the start (EVT-009); (0,) else.
        budget: K, the stored weights at load.
        delta_budget: d_φ, the places for slots.
        matrix: the matrix index (MDL-007).
        has_events: whether an `Evolution` was made for it.
        settings: the settings of the run that the update was made for, or None if none were given.
        slots: the number of slots; the places after them are free.
        The attributes of an open window are those of `Windowed`.
    """

    may_be_split = False
    """Whether FSDP may split the update and its weight."""
    positions: Tensor
    held: Tensor
    slots_at_start: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        delta_budget: int,
        matrix: int,
        settings: Settings | None,
    ) -> None:
        kind = kernels.wide(dtype)
        super().__init__(kind, device)
        self.out_features, self.in_features = shape
        self.budget, self.budgets = 0, torch.zeros(1, dtype=torch.int64)
        self.delta_budget, self.matrix, self.slots = delta_budget, matrix, 0
        self.settings, self.has_events = settings, False
        self.register_buffer("positions", torch.full((delta_budget,), shape[0] * shape[1], device=device))
        # an empty buffer is in the state_dict, too, because FSDP loads only names that it has
        self.register_buffer("slots_at_start", torch.zeros(0, dtype=torch.int64, device=device))
        self.values = nn.Parameter(torch.zeros(delta_budget, dtype=kind, device=device))

    @property
    def rule(self) -> Settings:
        """The settings that the update was made for, or those of `sensitivity` if nothing gave them."""
        return self.settings or _ANY

    def take_budgets(self, base: Tensor) -> None:
        """Take the stored weights at load as the budgets: of the matrix, its rows or its groups (DLT-001, EVT-009).

        base  B as booleans, (out, in)
        """
        # DLT-001
        self.budget = int(base.sum())
        self.budgets = of_weights(self.rule, self.shape).sizes([torch.nonzero(base.reshape(-1)).flatten()])

    @property
    def may_grow(self) -> bool:
        """Whether the matrix may end with more stored weights than `budget` (EVT-008)."""
        return self.rule.may_grow

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight: (out, in)."""
        return self.out_features, self.in_features

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SparseUpdate":  # noqa: FBT001, FBT002, torch's own
        """Move to another device or dtype; φ and sums keep theirs, because a cast changes the base only (DLT-003.4)."""
        values, sums = self.values.detach(), {f"sum_{name}": getattr(self, f"sum_{name}") for name in SUMS}
        super()._apply(fn, recurse)
        if self.values.dtype in (torch.bfloat16, torch.float16):
            self.values.data = values.to(self.values.device)
            for name, total in sums.items():
                setattr(self, name, total.to(self.values.device))
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

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return these rows of the weight and of B, (last - first, in); at slots the weight may have any value."""
        raise NotImplementedError

    def apply_decision(
        self, decision: Decision, state: dict[str, Tensor], seeds: dict[str, Tensor] | None = None
    ) -> None:
        """Drop, grow and prune in place; values and the optimizer's `state` move with their slots.

        seeds  initial state of new slots, by the names of `state`, each aligned to `decision.grown`; None for 0
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
        none = positions[:0]
        self.apply_decision(Decision(none, positions, none, none), {})
        if self.rule.scope == "row":
            self.slots_at_start = of_slots(self.rule, self.shape).sizes([positions])

    def part(self, evidence: Mapping[str, Tensor]) -> Part:
        """Return the matrix as input of an event; `evidence` comes from `evidence()` and from the optimizer."""
        n, kind = self.slots, self.values.dtype
        if self.rule.scope == "row" and not self.slots_at_start.numel():
            # EVT-009
            raise NotImplementedError(ROWS)
        most = self.slots_at_start if self.slots_at_start.numel() else self.positions.new_tensor([self.delta_budget])
        return Part(
            shape=self.shape,
            weight=self.effective().view(-1).to(kind),
            base=self.base().view(-1),
            held=self.held[:n],
            positions=self.positions[:n],
            values=whole(self.values).detach()[:n],
            evidence={name: one.reshape(-1).to(kind) for name, one in evidence.items()},
            budgets=self.budgets.to(self.positions.device),
            most=most,
            candidates=self.candidates if self.keeps == "first-step" else None,
            matrix=self.matrix,
        )

    def move(self, decision: Decision, state: dict[str, Tensor], seeds: dict[str, Tensor] | None) -> None:
        """Give slots the positions that a decision leaves, in place, and move values and `state` with them."""
        n = self.slots
        old = self.positions[:n].clone()
        # GROW-003: a position that is dropped and grown in one event stays
        again = among(decision.grown, old)
        stays = ~among(decision.dropped, old) | again
        new = torch.cat([old[stays], decision.grown[~among(old, decision.grown)]]).sort().values
        # ADPT-004
        new = new[~among(decision.pruned, new)]
        if "origin" in state:
            # DROP-003: a slot that was dropped and grown again counts as entering anew, with its present value
            origin = whole(state["origin"])
            origin[:n][again] = whole(self.values.data)[:n][again]
            put(state["origin"], origin)
        moved = source(old, new)
        self.make_room(len(new), state)
        self.slots = len(new)
        # GROW-003, EVT-006: every array with an entry for each slot moves in the same way
        for name, array in {"values": self.values.data, **state}.items():
            gathered = whole(array)
            gathered[: self.slots] = realign(gathered[:n], moved)
            gathered[self.slots :] = 0
            if seeds is not None and name in seeds:
                # DLT-006
                fresh = torch.nonzero(moved < 0).flatten()
                gathered[fresh] = seeds[name][source(decision.grown, new[fresh])]
            put(array, gathered)
        self.positions.fill_(self.out_features * self.in_features)[: self.slots] = new

    def make_room(self, n: int, state: Mapping[str, Tensor]) -> None:
        """Give the arrays of slots n places if they have fewer; with `scope` model a matrix may get slots of others."""
        if n > self.values.numel():
            # room grows by half, so that compiled graphs see few sizes
            self._set_room(max(n, self.values.numel() * 3 // 2), state)

    def _set_room(self, n: int, state: Mapping[str, Tensor]) -> None:
        """Give the arrays of slots n places, by adding or cutting places at their end."""
        more = n - self.values.numel()
        # a new parameter, because autograd keeps the size of the old one; `SeftOptimizer.follow` adopts it
        self.values = nn.Parameter(nn.functional.pad(self.values.detach(), (0, more)), self.values.requires_grad)
        self.positions = nn.functional.pad(self.positions, (0, more), value=self.out_features * self.in_features)
        self.held = nn.functional.pad(self.held, (0, more))
        for array in state.values():
            array.data = nn.functional.pad(array, (0, more))

    def split(self) -> None:
        """Split the tensors that FSDP does not split, in the way it splits the weight."""

    def extra_repr(self) -> str:
        """Return shape, stored weights and slots."""
        return (
            f"{self.in_features}, {self.out_features}, stored={self.budget}, slots={self.slots} of {self.delta_budget}"
        )

    def load_window(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Make room for the slots and the open window that a state_dict has, or for none (TRN-004)."""
        self.unwatch()
        if prefix + "positions" in state_dict and self.rule.scope == "model":
            self._set_room(len(state_dict[prefix + "positions"]), {})
        for name in (*(f"sum_{name}" for name in SUMS), "candidates", "slots_at_start"):
            empty = getattr(self, name)
            saved = state_dict.setdefault(prefix + name, empty)
            setattr(self, name, empty.new_zeros(saved.shape))


def check_finished(updates: Mapping[str, SparseUpdate]) -> None:
    """Refuse an unfinished run: one whose matrices store more weights than at load although its rule forbids that.

    updates  all updates that the rule compares with each other, by name

    Raises:
        SeftError: EVT-004, because the last adapt pass has not run.
    """
    stored = {name: int(update.support().sum()) for name, update in updates.items() if not update.may_grow}
    budgets = {name: updates[name].budget for name in stored}
    if any(update.settings is not None and update.settings.scope == "model" for update in updates.values()):
        # EVT-009
        stored, budgets = {"the model": sum(stored.values())}, {"the model": sum(budgets.values())}
    for name, n in stored.items():
        if n > budgets[name]:
            raise SeftError("EVT-004", f"{name} stores {n} weights, {budgets[name]} at load; finish the run first")


def is_over(layers: Sequence[SparseUpdate], settings: Settings) -> bool:
    """Return whether a pool of weights of these matrices stores more weights than at load (EVT-004)."""
    pools = of_weights(settings, layers[0].shape)
    # one support at a time, because the supports of all matrices would take a byte per weight
    sizes = sum(pools.sizes([torch.nonzero(layer.support().reshape(-1)).flatten()]).cpu() for layer in layers)
    return bool((sizes > sum(layer.budgets.cpu() for layer in layers)).any())
