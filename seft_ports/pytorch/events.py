"""`Evolution` runs the events of a model with sparse updates. A training loop calls it around each step.

evolution.before_step(t)          before the forward of step t, counted from 1
evolution.before_optimizer(t)     after the last backward of the step, before clipping
evolution.after_step(t)           after the optimizer step
evolution.finish(replay)          after the last one

Or `evolution.attach()` once: then `optimizer.step()` calls the first three.
"""

import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.model import layers_of
from seft_ports.pytorch.optimizer import SeftOptimizer
from seft_ports.pytorch.rules import (
    BY_GRADIENT,
    Decision,
    check_evidence,
    clip_factor,
    drop_count,
    largest,
)
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.spiel import event_fraction, event_windows
from seft_ports.pytorch.split import all_true, is_split, local, mean_of_all, processes, put, reshard, whole
from seft_ports.pytorch.stream import FIRST_GRADIENT, Stream
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["FSDP1", "SPLIT_ADAPTER", "SPLIT_SPIEL", "Evolution"]

FSDP1 = "FSDP1 flattens parameters, in which no event can move slots; use FSDP2 (fully_shard, fsdp_version 2)"
"""The error message for a model that FullyShardedDataParallel wraps."""
SPLIT_ADAPTER = "FSDP cannot split an adapter of PEFT; use DistributedDataParallel, or wrap of seft_ports.pytorch"
"""The error message for a model of PEFT that is split."""
SPLIT_SPIEL = (
    "candidates first-step (spiel-adapt, spiel-ag) are not chosen from a split gradient (FSDP); use "
    "DistributedDataParallel"
)
"""The error message for a split model with a preset of SpIEL."""


class Evolution:
    """The events of one run.

    Attributes:
        layers: the sparse layers by name, in the order of matrix indices.
        steps: T, the steps of the run.

    micro_batches  backwards of a step. 1 lets an event look at its gradient as it is formed, without keeping it, where
                   the window is one step; None, unknown, and any other number add gradients up
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        settings: Settings,
        steps: int,
        *,
        micro_batches: int | None = None,
    ) -> None:
        if steps < 1:
            raise SeftError("TRN-008", f"steps {steps} is below 1")
        # accelerate wraps the optimizers that it prepares
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self.layers = layers_of(model)
        if not self.layers:
            raise SeftError("MDL-007", "the model has no sparse layers; wrap it first")
        reshard(model)
        _check(model, self.layers, optimizer, settings)
        self._split = any(is_split(layer.values) for layer in self.layers.values())
        if self._split and settings.spiel:
            raise NotImplementedError(SPLIT_SPIEL)
        for layer in self.layers.values():
            layer.split()
        for layer in self.layers.values():
            layer.has_events = True
        self._optimizer: SeftOptimizer = optimizer
        self._settings, self.steps = settings, steps
        # what `Stream` keeps of new slots is not what pruning them would need
        alone = not self._split and processes() == 1 and not settings.spiel and settings.exempt == "new"
        self._streams_may = alone and micro_batches == 1 and settings.gradient_window == 1
        self._streams: dict[str, Stream] = {}
        self._next = 1
        self._windows: dict[int, int] = {}
        if settings.preset != "static":
            every, window, until = settings.evolve_every, settings.gradient_window, settings.evolve_until
            self._windows = event_windows(settings.events, steps, every, window, until)
        self._events = list(self._windows)
        if settings.preset != "static" and not self._windows:
            message = f"no-events: a run of {steps} steps with evolve_every {settings.evolve_every} moves no slot"
            warnings.warn(message, stacklevel=2)

    def _in_window(self, step: int) -> bool:
        # TRN-005, SCH-005
        later = bisect_left(self._events, step)
        return later < len(self._events) and step > self._events[later] - self._windows[self._events[later]]

    def _fraction(self, step: int) -> float:
        s = self._settings
        schedule, first = ("linear", "all") if s.spiel else ("cosine", "fraction")
        at_first = step == self._events[0]
        return event_fraction(step, self.steps, s.drop_fraction, schedule, first, s.evolve_until, first=at_first)

    def _starts(self, step: int, layer: SparseUpdate) -> bool:
        """Whether the gradient of a step chooses the first slots of an update; one that has slots goes on with them."""
        return step == 1 and self._settings.start == "gradient" and not layer.slots

    def before_step(self, step: int) -> None:
        """Make the layers sum their whole gradients if an event, or the first slots, will need those of this step.

        Raises:
            SeftError: TRN-004 if the step lies in an open window whose earlier gradients are missing.
        """
        opened = self._in_window(step - 1) and step - 1 not in self._windows
        for name, layer in self.layers.items():
            # TRN-004
            if self._in_window(step) and opened and not layer.seen.numel():
                raise SeftError(
                    "TRN-004",
                    f"step {step} lies in an open gradient window, of which {name} has no gradients; resume from a "
                    "checkpoint outside windows",
                )
            if self._streams_may and self._in_window(step) != self._starts(step, layer):
                self._streams[name] = self._stream(layer, step)
                layer.observe(self._streams[name].see)
            elif self._in_window(step) or self._starts(step, layer):
                layer.watch(adapts=self._settings.preset in ("seft", "spiel-adapt"))
            else:
                layer.unwatch()

    def _stream(self, layer: SparseUpdate, step: int) -> Stream:
        """Return what is to look at the backward of a step for one update."""
        preset = self._settings.preset
        if self._starts(step, layer):
            # DLT-004
            active = self._settings.initial_scope == "active"
            return Stream(layer, layer.delta_budget, active=active, first=True)
        # GROW-002
        grow = drop_count(self._fraction(step), layer.slots) + layer.delta_budget - layer.slots
        return Stream(layer, grow, active=preset == "active-only", adapts=preset == "seft")

    def attach(self, max_norm: float = 0.0, step: int = 1) -> None:
        """Let the optimizer's own `step` make what this class does around a step, from the next one on.

        Call it once, before the first forward; only `finish` is left to call then.

        max_norm  as in `before_optimizer`
        step      the step that comes next
        """

        def before(*_: object) -> None:
            if self._next > self.steps:
                raise SeftError("TRN-008", f"step {self._next} of a run that was said to have {self.steps}")
            self.before_optimizer(self._next, max_norm)

        def after(*_: object) -> None:
            self.after_step(self._next)
            self._next += 1
            if self._next <= self.steps:
                self.before_step(self._next)

        self._next = step
        self._optimizer.register_step_pre_hook(before)
        self._optimizer.register_step_post_hook(after)
        self.before_step(step)

    @torch.no_grad()
    def before_optimizer(self, step: int, max_norm: float = 0.0) -> None:
        """With `start` `gradient`: place the first slots by the gradient of the first step, and set their gradients.

        max_norm  clip the gradients to this norm, 0 to leave that to the caller

        Raises:
            SeftError: TRN-007 for a gradient that is NaN or infinite.
        """
        started = {name: layer for name, layer in self.layers.items() if self._starts(step, layer)}
        if not started:
            return
        squares = []
        for name, layer in started.items():
            positions, gradient = self._streams[name].place() if name in self._streams else self._first(layer)
            layer.place(positions)
            placed = gradient.new_zeros(layer.delta_budget)
            placed[: layer.slots] = gradient
            layer.values.grad = torch.zeros_like(layer.values)
            put(layer.values.grad, placed)
            squares.append(placed.double().square().sum())
        # OPT-004
        factor = clip_factor(float(torch.stack(squares).sum().sqrt()), max_norm)
        for layer in started.values():
            layer.values.grad *= factor

    def _first(self, layer: SparseUpdate) -> tuple[Tensor, Tensor]:
        """Return the first positions of an update, ascending, and the gradient of the step there."""
        gradient = self._mean(layer, 1).flatten()
        base = torch.nonzero(layer.base().view(-1)).flatten()
        if self._settings.initial_scope == "anywhere":
            base = torch.arange(gradient.numel(), device=base.device)
        # TRN-007
        if not bool(torch.isfinite(gradient[base]).all()):
            raise SeftError("TRN-007", FIRST_GRADIENT)
        # DLT-004
        positions = base[largest(gradient[base].abs(), layer.delta_budget)]
        return positions, gradient[positions]

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, Decision]:
        """Run the event that follows a step, if one does, and return its decision for each matrix by name."""
        if step not in self._windows:
            if not self._in_window(step):
                self._forget()
            else:
                # TRN-004: take the mean over all processes now, because any of them may save the open window
                for layer in self.layers.values():
                    layer.settle()
                    for total in (layer.seen, layer.seen_more):
                        if not is_split(total):
                            mean_of_all(total)
                self._check_sums(step)
            return {}
        s, window, fraction = self._settings, self._windows[step], self._fraction(step)
        decisions: dict[str, Decision] = {}
        seeded: dict[str, dict[str, Tensor]] = {}
        for name, layer in self.layers.items():
            if name in self._streams:
                # SCH-002
                decisions[name] = self._streams[name].decide(drop_count(fraction, layer.slots))
                continue
            # EVT-002, GRD-004
            gradient, more = self._mean(layer, window), self._more(layer, window)
            decisions[name] = layer.decide(
                gradient,
                # SCH-002
                drop_count(fraction, layer.slots),
                active=s.preset == "active-only",
                adapts=s.preset not in ("no-adapt", "spiel-ag"),
                seen=None if layer.by in BY_GRADIENT else more,
            )
            if s.spiel:
                assert more is not None, "a window of first-step candidates keeps the squares"
                check_evidence(more)
                at = decisions[name].grown
                seeded[name] = self._optimizer.seeds(gradient.flatten()[at], more.flatten()[at], window)
        # EVT-005: nothing is changed before everything is decided
        for name, layer in self.layers.items():
            layer.apply_decision(decisions[name], self._optimizer.kept(layer.values), seeded.get(name))
        self._forget()
        return decisions

    def _check_sums(self, step: int) -> None:
        sums = [local(x) for layer in self.layers.values() for x in (layer.seen, layer.seen_more)]
        # TRN-007
        if not all_true([torch.isfinite(x).all() for x in sums], everywhere=self._split):
            raise SeftError(
                "TRN-007",
                f"step {step} made a sum of the gradient window NaN or infinite; the last saved state is valid: resume "
                "it with a lower learning rate or a wider dtype",
            )

    def finish(self, replay: Callable[[], Iterable[Tensor]]) -> None:
        """Run the last adapt pass (EVT-004).

        replay  yields the losses of the last step's micro-batches at the current weights, each with its graph.
                Their sum is the loss of the step. In data parallel they are those of this process.

        Warns of more stored weights than were loaded, which `spiel-ag` leaves (TRN-011).
        """
        never = self._settings.preset == "spiel-ag"
        if never:
            # EVT-008
            stored = sum(int(layer.support().sum()) for layer in self.layers.values())
            loaded = sum(layer.budget for layer in self.layers.values())
            if stored > loaded:
                message = f"denser-at-end: {stored} weights are stored, {loaded} at load; spiel-ag never prunes"
                warnings.warn(message, stacklevel=2)
        if never or all(int(layer.support().sum()) <= layer.budget for layer in self.layers.values()):
            self._forget()
            for layer in self.layers.values():
                layer.effective()
            return
        with self.watching():
            for loss in replay():
                self._backward(loss)
        decisions = {}
        for name, layer in self.layers.items():
            gradient, more = self._mean(layer, 1), self._more(layer, 1)
            decisions[name] = layer.decide_last(gradient if more is None or layer.by in BY_GRADIENT else more)
        for name, layer in self.layers.items():
            layer.apply_decision(decisions[name], self._optimizer.kept(layer.values))
        self._forget()

    def _backward(self, loss: Tensor) -> None:
        """Run a backward only for the sums of the layers; `.grad` stays as it is."""
        values = [layer.values for layer in self.layers.values()]
        if self._split:
            # autograd.grad cannot be used, because the leaves are gathered values that only FSDP holds
            before = [x.grad for x in values]
            for x in values:
                x.grad = None
            loss.backward()
            for x, gradient in zip(values, before, strict=True):
                x.grad = gradient
        else:
            # not backward(), because that would run the hooks of DDP
            torch.autograd.grad(loss, values)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Make every layer sum, from zero, the gradients of the backwards in the context."""
        self._forget()
        for layer in self.layers.values():
            layer.watch()
        yield
        for layer in self.layers.values():
            layer.unwatch(forget=False)

    def _forget(self) -> None:
        self._streams.clear()
        for layer in self.layers.values():
            layer.unwatch()

    def _mean(self, layer: SparseUpdate, steps: int) -> Tensor:
        """Return the mean gradient of a window over all processes, so that every one makes the same choice."""
        if not layer.seen.numel():
            raise SeftError("EVT-002", "an event without a gradient: before_step was not called, or no backward ran")
        layer.settle()
        return _of_all(layer.seen) / steps

    def _more(self, layer: SparseUpdate, steps: int) -> Tensor | None:
        """Return the mean over a window of the other evidence of adapt, or None if it needs only the gradient."""
        layer.settle()
        return _of_all(layer.seen_more) / steps if layer.seen_more.numel() else None


def _of_all(seen: Tensor) -> Tensor:
    return whole(seen) if is_split(seen) else mean_of_all(seen.clone())


def _check(model: nn.Module, layers: dict[str, SparseUpdate], optimizer: Any, settings: Settings) -> None:
    """Refuse a model that FSDP1 splits, and an optimizer of another kind or that steps other values."""
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise NotImplementedError(FSDP1)
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
    if any(layer.first_step != settings.spiel for layer in layers.values()):
        raise SeftError("GRD-007", "the model was wrapped with another preset; wrap it with these settings")
    made = {layer.settings.preset for layer in layers.values() if layer.settings is not None}
    if made - {settings.preset}:
        raise SeftError(
            "EVT-011",
            f"the settings are of {settings.preset}, the update was made for {min(made - {settings.preset})}; of an "
            "adapter take model.peft_config[name].settings(), with the name of the active one",
        )
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
