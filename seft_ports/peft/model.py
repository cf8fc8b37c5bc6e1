"""The tuner: it chooses the layers of a model that are adapted, and merges or unloads adapters."""

import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import get_quantization_kwargs, resolve_quantization_backend
from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend
from torch import nn

from seft_ports.peft.config import SeftConfig
from seft_ports.peft.layer import SeftLayer, SeftLinear
from seft_ports.peft.update import SeftUpdate
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.linear import MASK
from seft_ports.pytorch.model import (
    NO_TARGETS,
    mask_of,
    mask_zeros,
    place_first,
    place_of,
    targets_of,
    watch_padding,
)
from seft_ports.pytorch.patterns import check_kept
from seft_ports.pytorch.update import check_finished

__all__ = ["SeftModel", "Stored", "stored_weights"]

_LOG = logging.getLogger(__name__)


class SeftModel(BaseTuner):
    """A model with SEFT adapters, as `get_peft_model` makes it.

    model   the model whose linear layers are adapted; pruned, and in float32 or 16 bits
    config  the configuration of the adapter, a `SeftConfig`
    """

    prefix: str = "seft_"
    tuner_layer_cls = SeftLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _prepare_adapter_config(self, peft_config: SeftConfig, model_config: dict[str, Any]) -> SeftConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = _endings(self.model)
        prepared: SeftConfig = super()._prepare_adapter_config(peft_config, model_config)
        return prepared

    def _create_and_replace(
        self,
        peft_config: SeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, SeftLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        quantization_kwargs = get_quantization_kwargs(self)
        backend = resolve_quantization_backend(layer, **quantization_kwargs)
        if isinstance(backend, ForwardOnlyQuantizationBackend):
            kind = type(layer).__name__
            msg = f"{current_key} is a {kind}, which hides its weights; load the model dequantised, or by bitsandbytes"
            raise TypeError(msg)
        if not isinstance(layer, nn.Linear) and (backend is None or backend.layer_type != "linear"):
            kind = type(layer).__name__
            msg = f"{current_key} is a {kind}; SEFT adapts torch.nn.Linear, name other layers in exclude_modules"
            raise TypeError(msg)
        adapted = SeftLinear(target, adapter_name, peft_config, **quantization_kwargs)
        if adapter_name not in self.active_adapters:
            # PEFT's rule: an adapter that is added is not trained before it is made active
            adapted.requires_grad_(requires_grad=False)
        self._replace_module(parent, target_name, adapted, target)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **named: Any) -> None:
        """Add an adapter, number its matrices, and choose their first positions if no gradient is needed for that."""
        config = self.peft_config[adapter_name]
        check_kept(model, config.settings())
        super().inject_adapter(model, adapter_name, *args, **named)
        updates = [
            (name, module.seft_delta[adapter_name])
            for name, module in model.named_modules()
            if isinstance(module, SeftLayer) and adapter_name in module.seft_delta
        ]
        stored = sum(update.budget for _, update in updates)
        base = config.base_model_name_or_path
        advice = f"load the base that it was made for{f' ({base})' if base else ''}"
        if config.from_file and config.stored != stored:
            raise SeftError(
                "DLT-001",
                f"the adapter was made for a base whose layers store {config.stored} weights, these store {stored}; "
                f"{advice}",
            )
        digest = _digest_of_masks(update.layer.stored() for _, update in sorted(updates))
        if config.from_file and config.stored_sha256 not in (None, digest):
            raise SeftError(
                "DLT-001",
                f"the adapter was made for a base that stores as many weights at other positions; {advice}",
            )
        config.stored, config.stored_sha256 = stored, digest
        if updates and stored == sum(update.out_features * update.in_features for _, update in updates):
            message = "dense-base: every weight of the adapted layers is stored, so there is nothing to keep sparse"
            warnings.warn(f"{message}; prune the model first (seft prune, or torch.nn.utils.prune)", stacklevel=2)
        watch_padding(model, [update for _, update in updates], config.settings())
        if not config.from_file:
            _say_what_is_left_out(model, adapter_name)
        updates.sort(key=lambda one: place_of(one[0]))
        for matrix, (_, update) in enumerate(updates):
            assert isinstance(update, SeftUpdate)
            update.matrix = matrix
            if update.values.is_meta:
                continue
            if config.init_weights:
                place_first(update, update.settings or config.settings())
            else:
                update.draw()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse adapter_names, because one product has the same adapters for all rows of a batch."""
        if kwargs.get("adapter_names") is not None:
            msg = "adapter_names would give rows of a batch different adapters; use set_adapter, a batch for each"
            raise NotImplementedError(msg)
        yield

    def add_weighted_adapter(self, *_: Any, **__: Any) -> None:
        """Refuse a weighted sum of adapters, because its positions would be more than the density of any of them."""
        msg = "SEFT has no weighted sums of adapters; merge one after the other: merge_and_unload(adapter_names=[...])"
        raise NotImplementedError(msg)

    def _check_finished(self, adapter_names: list[str] | None) -> None:
        """Refuse to merge an adapter whose run is not finished; with scope model only all layers together show that."""
        layers = {name: module for name, module in self.model.named_modules() if isinstance(module, SeftLayer)}
        for name in adapter_names or self.active_adapters:
            check_finished({path: layer.seft_delta[name] for path, layer in layers.items() if name in layer.seft_delta})

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:  # noqa: FBT001, FBT002, PEFT's own
        """Write adapters into the weights of the base; see `SeftLayer.merge`."""
        self._check_finished(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,  # noqa: FBT001, FBT002, PEFT's own
        progressbar: bool = False,  # noqa: FBT001, FBT002, PEFT's own
        safe_merge: bool = False,  # noqa: FBT001, FBT002, PEFT's own
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Return the model with plain layers, each with its support in a buffer, as `seft_ports.pytorch.merge` does."""
        layers = {name: module for name, module in self.model.named_modules() if isinstance(module, SeftLayer)}
        supports = {name: layer.support(adapter_names if merge else []) for name, layer in layers.items()}
        if merge:
            self._check_finished(adapter_names)
        at_load = sum(int(layer.stored().sum()) for layer in layers.values())
        plain: nn.Module = super()._unload_and_optionally_merge(
            merge=merge, progressbar=progressbar, safe_merge=safe_merge, adapter_names=adapter_names
        )
        for name, support in supports.items():
            plain.get_submodule(name).register_buffer(MASK, support, persistent=False)
        if merge:
            _LOG.info("%s, %d at load", stored_weights(plain), at_load)
        return plain


def _digest_of_masks(masks: Iterable[torch.Tensor]) -> str:
    """Return the SHA-256 of masks, booleans (out, in), with a bit for each position (FMT-171.10)."""
    digest = sha256()
    for mask in masks:
        digest.update(np.packbits(mask.cpu().numpy(), axis=1, bitorder="little").data)
    return digest.hexdigest()


def _endings(model: nn.Module) -> set[str]:
    """Return the names of the linear layers of the blocks, for PEFT's `target_modules`.

    A name is cut after the number of its block, unless another module has that ending too.
    """
    names = list(targets_of(model))
    if not names:
        raise SeftError("MDL-007", NO_TARGETS)
    # a number that ends a name counts a layer of a block and not the block
    endings = {name: re.sub(r"^(.*\.)?\d+\.(?=.)", "", name) for name in names}
    paths = [name.split(".") for name, _ in model.named_modules() if name not in endings]
    elsewhere = {".".join(path[i:]) for path in paths for i in range(len(path))}
    return {name if ending in elsewhere else ending for name, ending in endings.items()}


def _say_what_is_left_out(model: nn.Module, adapter_name: str) -> None:
    """Warn if a model has pruned weights that a new adapter leaves as they are.

    A matrix counts as pruned if a sixteenth of its weights or more are 0, and not all: with fewer zeros a mask takes
    more bits than it saves in 16-bit weights. Embeddings do not count, because a row of padding is 0 in them.
    """
    layers = [x for x in model.modules() if isinstance(x, SeftLayer) and adapter_name in x.seft_delta]
    adapted = {id(layer.get_base_layer()) for layer in layers}
    n = sum(layer.out_features * layer.in_features - int(layer.stored().sum()) for layer in layers)
    left_out: dict[str, int] = {}
    for path, module in model.named_modules():
        if id(module) in adapted or isinstance(module, (nn.Embedding, SeftUpdate)):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim < 2 or weight.is_meta or not weight.is_floating_point():
                continue
            mask = mask_of(module) if name == "weight" else None
            zeros = weight.numel() - int(torch.count_nonzero(weight if mask is None else mask))
            if weight.numel() <= 16 * zeros < 16 * weight.numel():
                # the same matrices of all blocks are one name
                place = re.sub(r"\.\d+(?=\.)", ".*", f"{path}.{name}".removesuffix(".weight"))
                left_out[place] = left_out.get(place, 0) + zeros
    if left_out:
        total = n + sum(left_out.values())
        # rounded down, so that 100 is never said of less
        share = math.floor(1000 * n / total) / 10
        message = f"partly-adapted: adapts {n:,} of {total:,} pruned weights ({share} %), not: {', '.join(left_out)}"
        warnings.warn(f"{message}; these stay as they are", stacklevel=2)


@dataclass(frozen=True, slots=True)
class Stored:
    """How many weights the adapted layers of a model store.

    Attributes:
        stored: positions of the support.
        positions: all positions of these matrices.
    """

    stored: int
    positions: int

    def __str__(self) -> str:
        return f"{self.stored:,} of {self.positions:,} weights are stored ({100 * self.stored / self.positions:.2f} %)"


def stored_weights(model: nn.Module) -> Stored:
    """Count the stored weights of the layers that are adapted, or that have a record of their support.

    In a model without either they are the weights of the projections that are not 0.

    Raises:
        ValueError: if there is no such layer, or if a model without a record holds codes.
    """
    supports = [module.support() for module in model.modules() if isinstance(module, SeftLayer)]
    if not supports:
        supports = [module.get_buffer(MASK) for module in model.modules() if MASK in module._buffers]
    if not supports:
        projections = targets_of(model)
        weights = [getattr(one, "weight", None) for one in projections.values()]
        if not weights or not all(weight is not None and weight.is_floating_point() for weight in weights):
            msg = (
                "the model has no SEFT adapter, no record of a support, and no projections of floats to count zeros in"
            )
            raise ValueError(msg)
        supports = list(mask_zeros(model).values())
    return Stored(sum(int(torch.count_nonzero(x)) for x in supports), sum(x.numel() for x in supports))
