"""A linear layer with adapters that are sparse updates; `update.py` has the update of one adapter for one layer.

The base layer keeps its own weight. For a product the effective weight is written into it: b + φ at the positions of
the update, and 0 where the update has pruned. Afterwards the base's own values are written back. So there is no second
matrix in memory, and training an adapter changes no bit of the base.
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
from seft_ports.peft.update import SeftUpdate
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.linear import plain
from seft_ports.pytorch.model import mask_of
from seft_ports.pytorch.product import number_of, product
from seft_ports.pytorch.update import SparseUpdate, check_finished

__all__ = ["SeftLayer", "SeftLinear"]


class SeftLayer(BaseTunerLayer, nn.Module):
    """The interface that PEFT requires of an adapted layer, for a base layer with a matrix (out, in).

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
        if hasattr(self.get_base_layer(), "weight_orig") or hasattr(self.get_base_layer(), "parametrizations"):
            raise SeftError(
                "TOP-004",
                "a layer makes its weight anew in every forward (torch.nn.utils.prune or parametrize), so that a merge "
                "would be lost; call prune.remove(layer, 'weight'), and record_support(model, masks) for its mask",
            )
        weight = self.get_base_weight()
        self.out_features, self.in_features = weight.shape
        self.seft_delta = nn.ModuleDict({})
        quantised = self.quantization_backend is not None
        zeros = _stored_zeros(self.get_base_layer(), weight, config, quantised=quantised)
        self.register_buffer("seft_zeros", zeros, persistent=False)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._replaced: list[tuple[Tensor, Tensor]] = []
        self.number = number_of(self)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a copy gets a number of its own, because it is another matrix
        super().__setstate__(state)
        self.number = number_of(self)

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

    def stored(self, first: int = 0, last: int | None = None) -> Tensor:
        """Return which weights the base layer stores in these rows, as new booleans, (last - first, in) (TOP-004)."""
        stored: Tensor = self.get_base_weight()[first:last] != 0
        zeros = self.seft_zeros - first * self.in_features
        stored.view(-1)[zeros[(zeros >= 0) & (zeros < stored.numel())]] = True
        return stored

    def support(self, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Return which weights are stored with these adapters, or the active ones, as booleans, (out, in)."""
        updates = self._active(self.active_adapters if adapter_names is None else adapter_names)
        support = self.stored()
        for update in updates:
            support.view(-1)[update.pruned] = False
        for update in updates:
            support.view(-1)[update.positions[: update.slots]] = True
        return support

    def update_layer(self, adapter_name: str, config: SeftConfig) -> None:
        """Add an adapter without positions; adapters that are merged are unmerged first, because it counts the base."""
        if self.merged:
            self.unmerge()
        self.seft_delta[adapter_name] = SeftUpdate(self, config)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @contextmanager
    def written(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the effective weight, (out, in), which stands in the base layer until the context ends.

        values  φ of each active update
        """
        weight = self.get_base_weight()
        flat, updates, replaced = weight.view(-1), self._active(self.active_adapters), []
        try:
            for i, (update, phi) in enumerate(zip(updates, values, strict=True)):
                # the first update replaces the base's own values, which it has in `held`
                replaced.append(update.write(flat, phi, alone=i == 0))
            yield weight
        finally:
            for update, before in zip(reversed(updates[: len(replaced)]), reversed(replaced), strict=True):
                update.restore(flat, before)

    def plain(self) -> nn.Linear:
        """Return a linear layer with the effective weight, in memory of its own, and the support as a buffer.

        It is the weight that `forward` multiplies by: with merged adapters it holds these, and with disabled ones none.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        weight = self.get_base_weight().detach().clone()
        names = [] if self.disable_adapters else self.merged_adapters or self.active_adapters
        if not self.merged:
            for update in self._active(names):
                update.write(weight.view(-1), update.values.detach())
        return plain(weight, self.get_base_layer().bias, self.support(names)).train(self.training)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Return the matrix that an adapter adds to the weight of the base layer, (out, in); −b where it prunes."""
        (update,) = self._active([adapter_name])
        return update.effective() - self.get_base_weight()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: FBT001, FBT002, PEFT's own
        """Write adapters into the weight of the base layer, in the order of `adapter_names`.

        safe_merge     refuse, before anything is written, an update with a NaN or infinite weight
        adapter_names  names of the adapters to merge, or None for the active ones

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
            if update.settings is None or update.settings.scope != "model":
                check_finished({"a matrix": update})
            if safe_merge and not bool(torch.isfinite(update.effective()).all()):
                # PEFT uses the same words
                msg = f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
                raise ValueError(msg)
        if len(names) > 1 and (stored := int(self.support(names).sum())) > int(self.stored().sum()):
            warnings.warn(
                f"together the adapters store {stored} weights, more than the base; merge one alone to stay as sparse",
                stacklevel=2,
            )
        flat = self.get_base_weight().view(-1)
        for name, update in zip(names, self._active(names), strict=True):
            self._replaced.append(update.write(flat, update.values.detach()))
            self.merged_adapters.append(name)

    def has_merged(self, update: SeftUpdate) -> bool:
        """Return whether an update is written into the weight of the base layer."""
        return any(self.seft_delta[name] is update for name in self.merged_adapters)

    def unmerge(self) -> None:
        """Restore the base layer's own weights, bit for bit."""
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
            advice = "cast the model to one dtype, or compute under autocast"
            raise SeftError("KRN-010", f"x is {x.dtype}, the weight {dtype}; {advice}")
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._check_positions(updates)
        y = product(x, self, dtype, [update.values for update in updates])
        bias = self.get_base_layer().bias
        return y if bias is None else y + bias.to(y.dtype)

    def _check_positions(self, updates: list[SeftUpdate]) -> None:
        """Refuse to train an update if nothing will choose its positions, or nothing will run its events."""
        if any(u.trained and u.delta_budget and not (u.slots or u.watched or u.has_events) for u in updates):
            raise SeftError(
                "DLT-004",
                "the adapter has no positions yet, and nothing is there to choose them by the first step's gradient: "
                "give the Trainer SeftCallback(), call Evolution(...).attach() in a loop of your own, or choose them "
                "at random with SeftConfig(initial_positions='random')",
            )
        if any(u.trained and not u.has_events and u.settings and u.settings.evolves for u in updates):
            raise SeftError(
                "EVT-011",
                "the rule moves positions, and nothing makes its events: give the Trainer SeftCallback(), call "
                "Evolution(...).attach() in a loop of your own, or choose SeftConfig(preset='static')",
            )

    def extra_repr(self) -> str:
        """Return the quantisation of the base, if it has one."""
        return str(quantization_extra_repr(self))

    def __repr__(self) -> str:
        return "seft." + super().__repr__()


def _stored_zeros(layer: nn.Module, weight: Tensor, config: SeftConfig, *, quantised: bool) -> Tensor:
    """Return the flat positions of the zeros that a layer stores (TOP-004).

    Raises:
        SeftError: TOP-004 if a mask is needed and there is none, or if one leaves out weights that are not 0.
    """
    mask = None if config.support == "nonzero" else mask_of(layer)
    if mask is None and config.support == "recorded":
        raise SeftError(
            "TOP-004",
            "a layer has no record of its support; load the base with seft_ports.pytorch.load_sparse, or take its "
            "zeros as pruned with SeftConfig(support='nonzero')",
        )
    if mask is None and quantised and config.support == "auto":
        raise SeftError(
            "TOP-004",
            "a quantised layer has no record of its support, and rounding makes zeros of weights that are kept: give "
            "it the masks of the model before, record_support(model, masks), or take all zeros as pruned with "
            "SeftConfig(support='nonzero')",
        )
    if mask is None:
        return torch.zeros(0, dtype=torch.int64, device=weight.device)
    mask = mask.to(weight.device)
    if bool((weight[~mask] != 0).any()):
        raise SeftError("TOP-004", "a mask leaves out weights that are not zero; multiply the weights by it first")
    return torch.nonzero((mask & (weight == 0)).view(-1)).flatten()
