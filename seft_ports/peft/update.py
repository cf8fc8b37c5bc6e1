"""The update that an adapter has for one layer, and its tensors in a file.

An adapter file has three tensors a layer: `indices`, `values`, and `pruned`, the stored weights of the base that the
adapter removes. The first two are aligned, the indices are flat, and all three are ascending by position.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seft_ports.peft.config import SeftConfig
from seft_ports.pytorch.decide import Decision
from seft_ports.pytorch.delta import budgets
from seft_ports.pytorch.patterns import check_pattern
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["Base", "SeftUpdate"]

_INT32 = 2**31
_TENSORS = ("indices", "values", "pruned")


class Base(Protocol):
    """The methods that an update calls on the layer that it belongs to."""

    def get_base_weight(self) -> Tensor:
        """Return the weight of the base layer, (out, in)."""
        ...

    def stored(self, first: int = 0, last: int | None = None) -> Tensor:
        """Return which weights of these rows are stored, as new booleans, (last - first, in)."""
        ...

    def has_merged(self, update: "SeftUpdate") -> bool:
        """Return whether an update is written into the weight."""
        ...


class SeftUpdate(SparseUpdate):
    """The update that one adapter has for one layer; its base is the layer's.

    Attributes:
        held: (d_φ,), the base's values at the positions; 0 outside B and at free places.
        pruned: (n,) int64, ascending: the weights that are stored in the base layer and not in B.
        layer: the layer that the update belongs to.
    """

    pruned: Tensor
    layer: Base

    def __init__(self, layer: Base, config: SeftConfig) -> None:
        settings = config.settings()
        weight, stored = layer.get_base_weight(), layer.stored()
        shape = (weight.shape[0], weight.shape[1])
        if settings.pattern is not None:
            check_pattern(stored, settings.pattern)
        (slots,) = budgets(settings, [shape], [int(stored.sum())])
        super().__init__(shape, weight.dtype, weight.device, slots, 0, settings)
        self.take_budgets(stored)
        self.register_buffer("pruned", self.positions[:0].clone())
        self.register_buffer("held", torch.zeros(slots, dtype=weight.dtype, device=weight.device), persistent=False)
        # written into __dict__, because nn.Module would register the layer as a submodule of its own submodule
        self.__dict__["layer"] = layer

    @property
    def trained(self) -> bool:
        """Whether a run trains this update, which is so if its adapter is active."""
        return self.values.requires_grad

    def base(self) -> Tensor:
        """Return B, the stored weights of the layer without those that this update has pruned, (out, in)."""
        stored: Tensor = self.layer.stored()
        stored.view(-1)[self.pruned] = False
        return stored

    def effective(self) -> Tensor:
        """Return a new matrix with the effective weight, (out, in)."""
        weight: Tensor = self.layer.get_base_weight().detach().clone()
        self.write(weight.view(-1), self.values.detach())
        return weight

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return these rows of the base layer's weight and of B, (last - first, in)."""
        base = self.layer.stored(first, last)
        begin, end = torch.searchsorted(
            self.pruned, self.pruned.new_tensor([first * self.in_features, last * self.in_features])
        ).tolist()
        base.view(-1)[self.pruned[begin:end] - first * self.in_features] = False
        return self.layer.get_base_weight()[first:last], base

    def like(self) -> Tensor:
        """Return the weight of the base layer, (out, in)."""
        weight: Tensor = self.layer.get_base_weight()
        return weight

    @torch.no_grad()
    def write(self, flat: Tensor, values: Tensor, *, alone: bool = False) -> tuple[Tensor, Tensor]:
        """Write this update into a flat weight, and return the values that it replaced, for `restore`.

        alone  whether no other update is written into the weight; `held` then has its values at the positions
        """
        at, phi = self.positions[: self.slots], values[: self.slots]
        removed = flat[self.pruned]
        # ADPT-004
        flat[self.pruned] = 0
        b = self.held[: self.slots] if alone else flat[at]
        # DLT-003
        flat[at] = (b.to(phi.dtype) + phi).to(flat.dtype)
        return b, removed

    @torch.no_grad()
    def restore(self, flat: Tensor, replaced: tuple[Tensor, Tensor]) -> None:
        """Undo `write`, bit for bit; values from before a cast of the weight are cast too."""
        at_slots, at_pruned = (values.to(flat) for values in replaced)
        flat[self.positions[: self.slots]], flat[self.pruned] = at_slots, at_pruned

    @torch.no_grad()
    def apply_decision(
        self, decision: Decision, state: dict[str, Tensor], seeds: dict[str, Tensor] | None = None
    ) -> None:
        """Drop, grow and prune in place; values and the optimizer's `state` move with their slots.

        seeds  initial state of new slots, by the names of `state`, each aligned to `decision.grown`; None for 0
        """
        self.pruned = torch.cat([self.pruned, decision.left]).sort().values
        self.move(decision, state, seeds)
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Read the base's values at the positions into `held` again."""
        at = self.positions[: self.slots]
        self.held.zero_()[: self.slots] = self.layer.get_base_weight().reshape(-1)[at]
        # DLT-003: b is 0 outside B
        self.held[: self.slots][torch.isin(at, self.pruned)] = 0

    def draw(self) -> None:
        """Choose positions and values at random, for tests that want an adapter that changes something."""
        stored = torch.nonzero(self.base().view(-1)).flatten()
        self.place(stored[torch.randperm(len(stored), device=stored.device)[: self.delta_budget]].sort().values)
        self.values.data[: self.slots] = torch.randn_like(self.values[: self.slots])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:  # noqa: FBT001, torch's own
        kind = torch.int32 if self.out_features * self.in_features <= _INT32 else torch.int64
        values = self.values if keep_vars else self.values.detach()
        tensors = (self.positions[: self.slots].to(kind), values[: self.slots], self.pruned.to(kind))
        destination.update({prefix + name: tensor for name, tensor in zip(_TENSORS, tensors, strict=True)})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,  # noqa: FBT001, torch's own
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if self.layer.has_merged(self):
            error_msgs.append(f"{prefix.removesuffix('.')} is merged into the base; call unmerge_adapter() first")
            return
        missing = [prefix + name for name in _TENSORS if prefix + name not in state_dict]
        if missing:
            missing_keys.extend(missing)
            return
        at, values, pruned = (state_dict[prefix + name] for name in _TENSORS)
        if wrong := self._wrong(at, values, pruned):
            error_msgs.append(f"{prefix.removesuffix('.')}: {wrong}")
            return
        # an open window is no part of an adapter (TRN-004)
        self.unwatch()
        self.slots = len(at)
        order = at.to(self.positions.device, torch.int64).argsort()
        if self.values.is_meta:
            self.values = nn.Parameter(
                torch.zeros(self.delta_budget, dtype=self.values.dtype, device=self.positions.device),
                requires_grad=self.values.requires_grad,
            )
        self.make_room(self.slots, {})
        with torch.no_grad():
            self.values.zero_()[: self.slots] = values.to(self.values.device, self.values.dtype)[order]
            self.positions.fill_(self.out_features * self.in_features)[: self.slots] = at.to(self.positions)[order]
            self.pruned = pruned.to(self.positions).sort().values
            self.hold()

    def _wrong(self, at: Tensor, values: Tensor, pruned: Tensor) -> str:
        """Return an error message about the tensors of a file, or an empty text."""
        size = self.out_features * self.in_features
        if at.ndim != 1 or at.shape != values.shape or pruned.ndim != 1:
            shapes = f"indices {tuple(at.shape)}, values {tuple(values.shape)} and pruned {tuple(pruned.shape)}"
            return f"{shapes} do not fit each other; the file is damaged"
        if at.is_floating_point() or pruned.is_floating_point() or not values.is_floating_point():
            kinds = f"indices are {at.dtype}, values {values.dtype}, pruned {pruned.dtype}"
            return f"{kinds}; expected integers and floats, so the file is damaged"
        if len(at) > self.delta_budget and (self.settings is None or self.settings.scope != "model"):
            return (
                f"it has {len(at)} values, where the density leaves {self.delta_budget} of a base that stores "
                f"{self.budget} weights; is this the base it was made for?"
            )
        for name, positions in (("indices", at), ("pruned", pruned)):
            outside = bool(len(positions)) and not 0 <= int(positions.min()) <= int(positions.max()) < size
            if outside or len(positions.unique()) != len(positions):
                return f"{name} are not different positions of a matrix of {size}; is this the base it was made for?"
        stored = self.layer.stored().view(-1)
        if not bool(stored[pruned.to(self.positions)].all()):
            return "it prunes weights that the base does not store; is this the base it was made for?"
        return ""
