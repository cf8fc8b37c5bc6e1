"""Checks before a run begins: refuses models, optimizers and settings that do not fit each other."""

from typing import Any

from torch import nn

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.optimizer import SPLIT_SM3, SeftOptimizer
from seft_ports.pytorch.presets import CHOICES
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.split import is_split, processes
from seft_ports.pytorch.update import ROWS, SparseUpdate

__all__ = ["DATA_PARALLEL", "FSDP1", "SPLIT_ADAPTER", "ZERO", "check", "check_split", "refuse_closure"]

FSDP1 = "FSDP1 flattens parameters, in which no event can move slots; use FSDP2 (fully_shard, fsdp_version 2)"
"""The error message for a model that FullyShardedDataParallel wraps."""
ZERO = (
    "ZeRO flattens what the optimizer holds, in which no event can move slots; use stage 0 or DistributedDataParallel, "
    "and to split the weights wrap with FSDP2"
)
"""The error message for the optimizers of DeepSpeed that split states, gradients or weights."""
SPLIT_ADAPTER = "FSDP cannot split an adapter of PEFT; use DistributedDataParallel, or wrap of seft_ports.pytorch"
"""The error message for a model of PEFT that is split."""
DATA_PARALLEL = (
    "DataParallel copies the layers, and the evidence of copies is lost; start one process a GPU with torchrun "
    "(DistributedDataParallel), or show one GPU alone with CUDA_VISIBLE_DEVICES"
)
"""The error message for a model, or a Trainer, that runs on several GPUs of one process."""


def refuse_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a closure, which would make gradients after the events have looked at others.

    args, kwargs  what a hook of `optimizer.step` gets; the first of args is the optimizer
    """
    if any(value is not None for value in (*args[1:], kwargs.get("closure"))):
        msg = "step(closure) makes its gradients after the events have looked; call backward first, then step()"
        raise NotImplementedError(msg)


def check_split(settings: Settings) -> None:
    """Refuse settings under which a run cannot be split over processes (FSDP)."""
    if settings.candidates == "first-step":
        msg = (
            "candidates first-step (spiel-adapt, spiel-ag) are not chosen from a split gradient (FSDP); use "
            "DistributedDataParallel"
        )
        raise NotImplementedError(msg)
    if settings.optimizer == "sm3":
        raise NotImplementedError(SPLIT_SM3)


def check(model: nn.Module, layers: dict[str, SparseUpdate], optimizer: Any, settings: Settings) -> None:
    """Refuse a model that FSDP1 splits, and an optimizer or settings that do not fit the model."""
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise NotImplementedError(FSDP1)
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        raise NotImplementedError(DATA_PARALLEL)
    if frozen := [name for name, layer in layers.items() if not layer.values.requires_grad and layer.trained]:
        raise SeftError("MDL-007", f"{frozen[0]} is frozen, and events would move its slots; wrap the model without it")
    if not isinstance(optimizer, SeftOptimizer):
        kind = type(optimizer).__name__
        raise SeftError(
            "OPT-001", f"events move what SeftOptimizer keeps of slots; this is {kind}: SeftOptimizer(model)"
        )
    if optimizer.kind != settings.optimizer:
        raise SeftError(
            "OPT-001",
            f"the optimizer is {optimizer.kind}, the settings ask for {settings.optimizer}; make it with "
            f"SeftOptimizer(model, kind={settings.optimizer!r})",
        )
    _check_made(layers, settings)
    for layer_settings in [layer.settings for layer in layers.values() if layer.settings is not None]:
        names = [name for name in (*CHOICES, "pattern") if getattr(layer_settings, name) != getattr(settings, name)]
        if names:
            was, now = getattr(layer_settings, names[0]), getattr(settings, names[0])
            raise SeftError(
                "EVT-011",
                f"the model was wrapped or adapted for {names[0]} {was}, the settings have {now}; give both the same "
                "settings, those of an adapter are model.peft_config[name].settings()",
            )
    if settings.scope == "model" and processes() > 1:
        msg = "scope model moves slots between matrices, whose arrays several processes hold at one size; use matrix"
        raise NotImplementedError(msg)
    if any(is_split(layer.values) and not layer.may_be_split for layer in layers.values()):
        raise NotImplementedError(SPLIT_ADAPTER)
    if len({layer.matrix for layer in layers.values()}) < len(layers):
        raise SeftError("MDL-007", "two adapters are trained at once, and events move one adapter; make one active")
    stepped = {id(values) for group in optimizer.param_groups for values in group["params"]}
    if any(layer.values.numel() and id(layer.values) not in stepped for layer in layers.values()):
        raise SeftError(
            "OPT-001",
            "the optimizer steps other values than those of the model; make it after fully_shard and "
            "after set_adapter, or give accelerator.prepare both",
        )


def _check_made(layers: dict[str, SparseUpdate], settings: Settings) -> None:
    """Refuse updates that were made without the settings or the row counts that the rule needs."""
    needs = {"scope": ("row", "group"), "drop": ("change",)}
    if not any(getattr(settings, name) in values for name, values in needs.items()):
        return
    if any(layer.settings is None for layer in layers.values()):
        raise SeftError("EVT-009", "the layers were made without settings; wrap the model with those of the run")
    if settings.scope == "row" and any(one.slots and not one.slots_at_start.numel() for one in layers.values()):
        # EVT-009
        raise NotImplementedError(ROWS)
