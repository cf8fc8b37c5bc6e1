"""SEFT inside `transformers.Trainer`."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.events import Evolution
from seft_ports.pytorch.model import layers_of
from seft_ports.pytorch.optimizer import SeftOptimizer
from seft_ports.pytorch.refused import DATA_PARALLEL, FSDP1, SPLIT_ADAPTER, ZERO, check_split, refuse_closure
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.split import processes

__all__ = ["SeftCallback"]

REPLAYED = "after the last step this rule prunes by the loss of that step, which is asked anew: model(**batch).loss"
LOOKED = "events and first slots look at the data of batches_of by model(**batch).loss"
"""Beginnings of the error messages about the last pass, and about further data."""


class SeftCallback(TrainerCallback, ExportableState):
    """Runs the events and the last adapt pass of a model that a Trainer fine-tunes with `SeftOptimizer`.

    The model is wrapped, or has adapters of SEFT.
    The state of a run is in the buffers of the model and in the optimizer, both part of the Trainer's checkpoints.

    Attributes:
        settings: the settings that the model was wrapped with; by default, those in the model when training begins.
        events: for each event its step and how many weights were dropped, grown and pruned.

    event_batches  steps whose data an event uses, its own included (TRN-023)
    start_batches  steps whose data chooses the first slots (DLT-004.3)
    batches_of     step -> the micro-batches of its data in this process, each the arguments of the model by name. It
                   is needed because the Trainer cannot look ahead. Their losses are `model(**batch).loss`, and have
                   equal weight unless the batches have `num_items_in_batch`. It is called for steps 1 to
                   `start_batches`, for the `event_batches` - 1 steps after one with an event, and, if the last pass
                   needs them, after the last step. For a resumed run to be the same, it must return the same for a step
                   at every call

    Raises:
        SeftError: TRN-008 for a number below 1; TRN-023 for numbers above 1 without `batches_of`, and for
            `batches_of` without them. When training begins, EVT-012 for `start_batches` where the first slots are not
            chosen by the gradient.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        event_batches: int = 1,
        start_batches: int = 1,
        batches_of: Callable[[int], Iterable[dict[str, Any]]] | None = None,
    ) -> None:
        if min(event_batches, start_batches) < 1:
            raise SeftError("TRN-008", f"event_batches {event_batches} or start_batches {start_batches} is below 1")
        if max(event_batches, start_batches) > 1 and batches_of is None:
            raise SeftError("TRN-023", "event_batches and start_batches above 1 need batches_of: step -> its batches")
        if max(event_batches, start_batches) == 1 and batches_of is not None:
            raise SeftError("TRN-023", "batches_of is for event_batches or start_batches above 1; leave it out")
        self._looks = {"event_batches": event_batches, "start_batches": start_batches}
        self._batches_of = batches_of
        self._given = settings
        self._may_be_split = True
        self.events: list[dict[str, int]] = []
        self._evolution: Evolution | None = None
        self._batches: list[dict[str, Any]] | None = None
        self._has_losses = False
        """Whether a forward pass of the run was given labels, so that the model itself makes the loss."""
        self._step = 0
        self._device: torch.device | None = None
        self._hooks: list[Any] = []

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        if self._given is None:
            raise SeftError("MDL-007", "the model has no sparse layers; wrap it, or give it a SeftConfig, first")
        return self._given

    def _take(self, model: nn.Module) -> None:
        """Take the settings that the model names, if none were given."""
        updates = layers_of(model).values()
        self._may_be_split = all(update.may_be_split for update in updates)
        named = [update.settings for update in updates if update.settings is not None]
        self._given = self._given or (named[0] if named else None)

    def state(self) -> dict[str, Any]:
        """Return the settings, and how far events look, for the Trainer to write into its checkpoints."""
        # the settings may still be None, because the Trainer also calls this before it passes the model
        return {"args": {}, "attributes": {"settings": asdict(self._given) if self._given else None, **self._looks}}

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse FSDP options that this port cannot run under, before anything is split."""
        if getattr(args, "restore_callback_states_from_checkpoint", False):
            msg = "SeftCallback needs no restoring, its model has the state; leave restore_callback_states_... out"
            raise NotImplementedError(msg)
        self._take(kwargs["model"])
        _check_fsdp(args, self.settings, may_be_split=self._may_be_split)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the model and the number of steps; refuse a checkpoint of a run with other settings."""
        self._release()  # a run that was broken off has left its hooks
        # on_init_end did the same, but is not called for a callback that was added later
        self._take(kwargs["model"])
        _check_fsdp(args, self.settings, may_be_split=self._may_be_split)
        if args.n_gpu > 1:
            raise NotImplementedError(DATA_PARALLEL)
        if (args.gradient_checkpointing_kwargs or {}).get("use_reentrant") and self._asks_losses():
            msg = "reentrant checkpointing has no gradient for a loss that events look at; set use_reentrant to False"
            raise NotImplementedError(msg)
        if args.fp16:
            # the loss scale changes between steps, so the gradients of a window could not be summed
            msg = "fp16=True scales gradients; use bf16=True or float32"
            raise NotImplementedError(msg)
        saved = state.stateful_callbacks.get(type(self).__name__)
        saved = saved[0] if isinstance(saved, list) else saved
        if saved is not None and (was := _settings_of(saved["attributes"]["settings"])) != self.settings:
            # CKP-006
            pairs = [(f.name, getattr(was, f.name), getattr(self.settings, f.name)) for f in fields(Settings)]
            other = ", ".join(f"{name} {then!r} and not {now!r}" for name, then, now in pairs if then != now)
            raise SeftError("CKP-006", f"the checkpoint is of a run with {other}")
        for name, number in self._looks.items() if saved is not None else ():
            # a checkpoint of an earlier version has no such numbers
            if (then := saved["attributes"].get(name, 1)) != number:
                # CKP-006
                raise SeftError("CKP-006", f"the checkpoint is of a run with {name} {then} and not {number}")
        if self._looks["start_batches"] > 1 and self.settings.initial_positions != "gradient":
            raise SeftError("EVT-012", "start_batches is for initial_positions gradient")
        optimizer = kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)
        if args.label_smoothing_factor and (reason := self._asks_losses()):
            # EVT-004
            msg = f"{reason}; leave out label_smoothing_factor"
            raise NotImplementedError(msg)
        if type(optimizer).__module__.startswith("deepspeed"):
            raise NotImplementedError(ZERO)
        if not isinstance(optimizer, SeftOptimizer):
            raise SeftError(
                "OPT-001",
                "give the Trainer the wrapped or adapted model, and optimizers=(SeftOptimizer(model, lr=...), None), "
                "with DeepSpeed or FSDP optimizer_cls_and_kwargs=(SeftOptimizer, {'model': model, 'lr': ...}); "
                "SFTTrainer takes a model of get_peft_model, and no peft_config",
            )
        once = 1 if args.gradient_accumulation_steps == 1 else None
        self._evolution = Evolution(
            *(kwargs["model"], optimizer, self.settings, state.max_steps),
            micro_batches=once,
            event_batches=self._looks["event_batches"],
        )
        self._device = args.device
        # a model that was trained before keeps its slots
        fresh = state.global_step == 0 and not any(layer.slots for layer in self._evolution.layers.values())
        if self._looks["start_batches"] > 1 and fresh:
            # called here, because the Trainer calls it in its first step only, after these gradients
            kwargs["model"].train()
            self._evolution.start(self._losses_of(kwargs["model"], range(1, 1 + self._looks["start_batches"])))
        max_norm = args.max_grad_norm or 0.0
        self._hooks = [
            kwargs["model"].register_forward_pre_hook(self._remember, with_kwargs=True),
            # on_pre_optimizer_step is no substitute, because DeepSpeed has stepped by then
            optimizer.register_step_pre_hook(
                lambda _, args, named: self._before_optimizer(kwargs["model"], max_norm, args, named)
            ),
        ]

    def _remember(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            self._has_losses |= kwargs.get("labels") is not None
            if self._batches is not None:
                self._batches.append(kwargs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open a gradient window where the step needs one, and collect the batches of the last step for `finish`."""
        assert self._evolution is not None
        self._step = state.global_step + 1
        self._evolution.before_step(self._step)
        self._batches = [] if self._step == state.max_steps else None

    def _before_optimizer(
        self, model: nn.Module, max_norm: float, args: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        """Give an event the data of further steps, and choose the first slots if this step's gradient does that."""
        assert self._evolution is not None
        refuse_closure(args, named)
        if (reason := self._asks_losses()) and not self._has_losses:
            # EVT-004: raised now instead of after the last step
            raise SeftError("EVT-004", f"{reason}; the loss does not come from a call of the model here")
        for further in range(1, 1 + self._evolution.looks(self._step)):
            self._evolution.look(self._losses_of(model, [self._step + further]))
        self._evolution.before_optimizer(self._step, max_norm)

    def _losses_of(self, model: nn.Module, steps: Iterable[int]) -> Iterator[Tensor]:
        """Yield the losses of the batches of some steps, each as its share of the mean over all of them."""
        assert self._batches_of is not None
        batches = [send_to_device(batch, self._device) for step in steps for batch in self._batches_of(step)]
        # these forwards are not remembered, because the Trainer did not make them
        remembered, self._batches = self._batches, None
        try:
            yield from _losses(model, batches, LOOKED)
        finally:
            self._batches = remembered

    def _asks_losses(self) -> str:
        """Return the beginning of a message if the rule needs losses that the Trainer does not compute, else ""."""
        return REPLAYED if self.settings.ends_by_pruning else LOOKED if self._batches_of is not None else ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the event that follows the step, or the last adapt pass."""
        assert self._evolution is not None
        step = state.global_step
        if decisions := self._evolution.after_step(step):
            counts = {
                what: sum(getattr(decision, what).numel() for decision in decisions.values())
                for what in ("dropped", "grown", "pruned")
            }
            self.events.append({"step": step, **counts})
        if step == state.max_steps:
            batches, self._batches = self._batches or [], None
            model = kwargs["model"]
            # the Trainer divides by the targets of all processes, and multiplies by the number of processes
            factor = processes() if args.average_tokens_across_devices else 1
            further = [state.max_steps + i for i in range(1, self._looks["event_batches"])]
            self._evolution.finish(
                lambda: _losses(model, batches, REPLAYED, factor),
                *(lambda step=step: self._losses_of(model, [step]) for step in further),
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the hooks and drop the reference to the model.

        Warns of a run that ended early and must still be pruned (EVT-004).
        """
        if state.global_step < state.max_steps and self.settings.ends_by_pruning:
            message = (
                f"not-pruned: the run ended at step {state.global_step} of {state.max_steps}, and "
                f"{self.settings.preset} prunes after its last one; resume it, or train with fitting max_steps"
            )
            warnings.warn(message, stacklevel=2)
        self._release()

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._evolution is not None:
            self._evolution.forget()
        self._hooks, self._evolution = [], None


def _settings_of(saved: dict[str, Any]) -> Settings:
    """Return the settings that a checkpoint names; an older one calls `initial_positions` `start`."""
    named = dict(saved)
    if "start" in named:
        named["initial_positions"] = named.pop("start")
    # a checkpoint without `drop` is older: its `adapt` had no effect in presets that prune nothing
    if "drop" not in named and named["preset"] not in ("seft", "no-adapt", "spiel-adapt"):
        named.pop("adapt", None)
    return Settings(**named)


def _check_fsdp(args: Any, settings: Settings, *, may_be_split: bool) -> None:
    # accelerate's own state is read, because its config file can turn FSDP on without the Trainer's arguments
    plugin = AcceleratorState._shared_state.get("fsdp_plugin")
    if plugin is None:
        if args.fsdp:
            msg = "accelerate splits nothing on this device; leave fsdp off, or use fully_shard and Evolution"
            raise NotImplementedError(msg)
        return
    if plugin.fsdp_version != 2:
        raise NotImplementedError(FSDP1)
    if not may_be_split:
        raise NotImplementedError(SPLIT_ADAPTER)
    check_split(settings)
    if plugin.cpu_ram_efficient_loading:
        msg = "cpu_ram_efficient_loading sends parameters only, not masks; set it to False in fsdp_config"
        raise NotImplementedError(msg)
    policy = plugin.mixed_precision_policy
    if policy is not None and policy.param_dtype not in (None, torch.float32):
        msg = f"FSDP would cast the values of the delta to {policy.param_dtype}; set bf16=False and fp16=False"
        raise NotImplementedError(msg)
    if "SHARDED" in str(plugin.state_dict_type) and _longest_window(settings) > 1:
        # TRN-004
        msg = "SHARDED_STATE_DICT cannot hold an open gradient window; set state_dict_type to FULL_STATE_DICT"
        raise NotImplementedError(msg)


def _longest_window(settings: Settings) -> int:
    """Return the steps of the longest gradient window of a rule (TRN-005, SCH-005)."""
    return settings.gradient_window + (settings.events == "phases")


def _losses(model: Any, batches: list[dict[str, Any]], begins: str, factor: int = 1) -> Iterator[Tensor]:
    """Yield the losses of batches, so that their sum is the loss of the step.

    begins  the beginning of an error message
    factor  the loss of a batch with num_items_in_batch is multiplied by it
    """
    for batch in batches:
        loss = model(**batch).loss
        if loss is None:
            # EVT-004
            raise SeftError("EVT-004", f"{begins}; it gives none for these batches")
        # without num_items_in_batch the loss is a mean over the batch, so batches count alike
        yield loss * factor if batch.get("num_items_in_batch") is not None else loss / len(batches)
