"""A linear layer with adapters that are sparse updates, and the part of an adapter that belongs to it.

The base layer keeps its own weight. For the time of a product the effective weight is written into it, b + φ at the
positions of the update and 0 where the update has pruned, and afterwards the base's own values are written back. So no
second matrix is held, and a base that an adapter was trained on is the same in every bit.

An adapter file has three tensors a layer: `indices`, `values`, and `pruned`, the stored weights of the base that the
adapter removes.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn

from seft_ports.peft.config import SeftConfig
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.model import mask_of
from seft_ports.pytorch.product import Product
from seft_ports.pytorch.rules import Decision, budget
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["SeftLayer", "SeftLinear", "SeftUpdate"]

_INT32 = 2**31
_TENSORS = ("indices", "values", "pruned")


class SeftUpdate(SparseUpdate):
    """The update that one adapter has for one layer; its base is the layer's.

    Attributes:
        held: (d_φ,), the base at the positions; 0 off B and at free places.
        pruned: (n,) int64, ascending: the weights that are stored in the base layer and not in B.
        layer: the layer that the update belongs to.
    """

    pruned: Tensor
    layer: "SeftLayer"

    def __init__(self, layer: "SeftLayer", config: SeftConfig) -> None:
        settings = config.settings()
        weight = layer.get_base_weight()
        stored = int(layer.stored().sum())
        shape = (weight.shape[0], weight.shape[1])
        slots = budget(settings.density, shape, stored)
        super().__init__(shape, weight.dtype, weight.device, slots, 0, settings.prunes_by, first_step=settings.spiel)
        # DLT-001
        self.budget, self.settings, self.may_grow = stored, settings, settings.preset == "spiel-ag"
        self.register_buffer("pruned", self.positions[:0].clone())
        self.register_buffer("held", torch.zeros(slots, dtype=weight.dtype, device=weight.device), persistent=False)
        # kept from torch, which would make it a submodule: the layer has this one
        self.__dict__["layer"] = layer

    @property
    def trained(self) -> bool:
        """Whether a run trains this update: that of an active adapter."""
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

    def like(self) -> Tensor:
        """Return a weight of the shape of the base layer's, (out, in)."""
        weight: Tensor = self.layer.get_base_weight()
        return weight

    @torch.no_grad()
    def write(self, flat: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write this update into a flat weight, and return what it replaced, for `restore`."""
        at, phi = self.positions[: self.slots], values[: self.slots]
        removed = flat[self.pruned]
        # ADPT-004
        flat[self.pruned] = 0
        b = flat[at]
        # DLT-003
        flat[at] = (b.to(phi.dtype) + phi).to(flat.dtype)
        return b, removed

    @torch.no_grad()
    def restore(self, flat: Tensor, replaced: tuple[Tensor, Tensor]) -> None:
        """Undo `write`, bit for bit."""
        flat[self.positions[: self.slots]], flat[self.pruned] = replaced

    @torch.no_grad()
    def apply_decision(
        self, decision: Decision, kept: dict[str, Tensor], seeds: dict[str, Tensor] | None = None
    ) -> None:
        """Drop, grow and prune in place; values and the optimizer's state (`kept`) move with their slots.

        seeds  what new slots start with, by the names of `kept`, each aligned to `decision.grown`; 0 without
        """
        leaving = decision.pruned[self.base().view(-1)[decision.pruned]]
        self.pruned = torch.cat([self.pruned, leaving]).sort().values
        self.move(decision, kept, seeds)
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Take the base's values at the positions anew."""
        at = self.positions[: self.slots]
        self.held.zero_()[: self.slots] = self.layer.get_base_weight().reshape(-1)[at]
        # DLT-003: b is 0 off B
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
        with torch.no_grad():
            self.values.zero_()[: self.slots] = values.to(self.values.device, self.values.dtype)[order]
            self.positions.fill_(self.out_features * self.in_features)[: self.slots] = at.to(self.positions)[order]
            self.pruned = pruned.to(self.positions).sort().values
            self.hold()

    def _wrong(self, at: Tensor, values: Tensor, pruned: Tensor) -> str:
        """Return what is wrong with the tensors of a file, or an empty text."""
        size = self.out_features * self.in_features
        if at.ndim != 1 or at.shape != values.shape or pruned.ndim != 1:
            shapes = f"indices {tuple(at.shape)}, values {tuple(values.shape)} and pruned {tuple(pruned.shape)}"
            return f"{shapes} do not fit each other"
        if at.is_floating_point() or pruned.is_floating_point() or not values.is_floating_point():
            return f"indices are {at.dtype}, values {values.dtype}, pruned {pruned.dtype}; expected integers and floats"
        if len(at) > self.delta_budget:
            return (
                f"it has {len(at)} values, where the density leaves {self.delta_budget} of a base that stores "
                f"{self.budget} weights; is this the base it was made for?"
            )
        for name, positions in (("indices", at), ("pruned", pruned)):
            outside = bool(len(positions)) and not 0 <= int(positions.min()) <= int(positions.max()) < size
            if outside or len(positions.unique()) != len(positions):
                return f"{name} are not different positions of a matrix of {size}"
        stored = self.layer.stored().view(-1)
        if not bool(stored[pruned.to(self.positions)].all()):
            return "it prunes weights that the base does not store; is this the base it was made for?"
        return ""


class SeftLayer(BaseTunerLayer, nn.Module):
    """What PEFT asks of an adapted layer, for a base layer with a matrix (out, in).

    Attributes:
        seft_delta: the update of each adapter, by its name.
        seft_zeros: int64, the flat positions of weights that are stored and 0; every other 0 is pruned.
    """

    adapter_layer_names = ("seft_delta",)
    other_param_names = ()
    seft_zeros: Tensor

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: SeftConfig, **kwargs: Any) -> None:
        nn.Module.__init__(self)
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(), get_apply_tensor_subclass=kwargs.get("get_apply_tensor_subclass")
        )
        weight = self.get_base_weight()
        self.out_features, self.in_features = weight.shape
        self.seft_delta = nn.ModuleDict({})
        self.register_buffer("seft_zeros", _stored_zeros(self.get_base_layer(), weight, config), persistent=False)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._replaced: list[tuple[Tensor, Tensor]] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight: (out, in)."""
        return self.out_features, self.in_features

    @property
    def updates(self) -> tuple[SparseUpdate, ...]:
        """The updates of the active adapters."""
        return tuple(self._active(self.active_adapters))

    def _active(self, names: Sequence[str]) -> list[SeftUpdate]:
        return [self.seft_delta[name] for name in names if name in self.seft_delta]

    def stored(self) -> Tensor:
        """Return which weights the base layer stores, as new booleans, (out, in): all but the pruned (TOP-004)."""
        stored: Tensor = self.get_base_weight() != 0
        stored.view(-1)[self.seft_zeros] = True
        return stored

    def support(self, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Return what is stored with these adapters, or the active ones, as booleans, (out, in)."""
        updates = self._active(self.active_adapters if adapter_names is None else adapter_names)
        support = self.stored()
        for update in updates:
            support.view(-1)[update.pruned] = False
        for update in updates:
            support.view(-1)[update.positions[: update.slots]] = True
        return support

    def update_layer(self, adapter_name: str, config: SeftConfig) -> None:
        """Add an adapter without positions."""
        self.seft_delta[adapter_name] = SeftUpdate(self, config)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @contextmanager
    def written(self, values: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Return a context in which the effective weight stands in memory, (out, in).

        values  φ of each active update
        """
        weight = self.get_base_weight()
        flat, updates, replaced = weight.view(-1), self._active(self.active_adapters), []
        try:
            for update, phi in zip(updates, values, strict=True):
                replaced.append(update.write(flat, phi))
            yield weight
        finally:
            for update, before in zip(reversed(updates[: len(replaced)]), reversed(replaced), strict=True):
                update.restore(flat, before)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Return what an adapter adds to the weight of the base layer, (out, in); −b where it prunes."""
        (update,) = self._active([adapter_name])
        return update.effective() - self.get_base_weight()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: FBT001, FBT002, PEFT's own
        """Write adapters into the weight of the base layer, in the order of their names' list.

        safe_merge     refuse, before anything is written, an update with a NaN or infinite weight
        adapter_names  those to merge, or None for the active ones

        Raises:
            SeftError: EVT-004 for an adapter that stores more weights than the base did; its run is not finished.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.seft_delta]
        if names and self.quantization_backend is not None:
            msg = (
                "the base layer is quantised, and a merge would round the update to its grid; keep the adapter beside "
                "it, or load the base with dtype=float32 and merge there"
            )
            raise NotImplementedError(msg)
        for name, update in zip(names, self._active(names), strict=True):
            # EVT-008
            if (stored := int(update.support().sum())) > update.budget and not update.may_grow:
                raise SeftError(
                    "EVT-004", f"a matrix stores {stored} weights, {update.budget} at load; finish the run first"
                )
            if safe_merge and not bool(torch.isfinite(update.effective()).all()):
                # the words are PEFT's
                msg = f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
                raise ValueError(msg)
        if len(names) > 1 and (stored := int(self.support(names).sum())) > int(self.stored().sum()):
            warnings.warn(f"together the adapters store {stored} weights, more than the base", stacklevel=2)
        flat = self.get_base_weight().view(-1)
        for name, update in zip(names, self._active(names), strict=True):
            self._replaced.append(update.write(flat, update.values.detach()))
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Give the base layer its own weights back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        flat = self.get_base_weight().view(-1)
        while self.merged_adapters:
            (update,) = self._active([self.merged_adapters.pop()])
            update.restore(flat, self._replaced.pop())

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move an adapter to a device; it keeps its dtype, because φ is float32 beside a base in 16 bits."""
        if adapter_name in self.seft_delta:
            self.seft_delta[adapter_name].to(device or self.get_base_weight().device)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return False: an update at single positions has no low rank."""
        return False


class SeftLinear(SeftLayer):
    """y = x (θ′ + δ)ᵀ + bias, with the updates δ of the active adapters."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return y, (..., out), for x, (..., in), computed in the dtype of autocast or else in that of the weight."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        updates = self._active(self.active_adapters)
        if self.disable_adapters or self.merged or not updates:
            result: Tensor = self.base_layer(x, *args, **kwargs)
            return result
        dtype, kind = updates[0].held.dtype, x.device.type
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        elif x.dtype != dtype:
            raise SeftError("KRN-010", f"x is {x.dtype}, the weight {dtype}")
        if self.training and torch.is_grad_enabled():
            self._check_positions(updates)
        y: Tensor = Product.apply(x, self, dtype, *(update.values for update in updates))
        bias = self.get_base_layer().bias
        return y if bias is None else y + bias.to(y.dtype)

    def _check_positions(self, updates: list[SeftUpdate]) -> None:
        """Refuse to train an update that has no positions, and that nothing watches to choose them."""
        if any(u.trained and u.delta_budget and not u.slots and not u.watched for u in updates):
            raise SeftError(
                "DLT-004",
                "the adapter has no positions yet, and nothing is there to choose them by the first step's gradient: "
                "give the Trainer SeftCallback(), call Evolution(...).attach() in a loop of your own, or choose them "
                "at random with SeftConfig(start='random')",
            )

    def extra_repr(self) -> str:
        """Return the quantisation of the base, if it has one."""
        return str(quantization_extra_repr(self))

    def __repr__(self) -> str:
        return "seft." + super().__repr__()


def _stored_zeros(layer: nn.Module, weight: Tensor, config: SeftConfig) -> Tensor:
    """Return the flat positions of the zeros that a layer stores (TOP-004).

    Raises:
        SeftError: TOP-004 if a mask is asked for and there is none, or if one leaves out weights that are not 0.
    """
    mask = None if config.support == "nonzero" else mask_of(layer)
    if mask is None and config.support == "recorded":
        raise SeftError(
            "TOP-004",
            "a layer has no record of its support; load the base with seft_ports.pytorch.load_sparse, or take its "
            "zeros as pruned with SeftConfig(support='nonzero')",
        )
    if mask is None:
        return torch.zeros(0, dtype=torch.int64, device=weight.device)
    mask = mask.to(weight.device)
    if bool((weight[~mask] != 0).any()):
        raise SeftError("TOP-004", "a mask leaves out weights that are not zero; multiply the weights by it first")
    return torch.nonzero((mask & (weight == 0)).view(-1)).flatten()
