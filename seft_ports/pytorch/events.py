"""When something happens to the support, and with which gradient: a run of a wrapped model, step by step.

evolution.before_step(t)          before the forward of step t, counted from 1
evolution.before_optimizer(t)     after the last backward of the step, before clipping
evolution.after_step(t)           after the optimizer step
evolution.finish(replay)          after the last one
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.linear import SeftLinear
from seft_ports.pytorch.model import layers_of
from seft_ports.pytorch.optimizer import SeftOptimizer
from seft_ports.pytorch.rules import Decision, clip_factor, drop_count, drop_fraction_at, event_steps, largest
from seft_ports.pytorch.settings import Settings

__all__ = ["Evolution"]


class Evolution:
    """The events of one run.

    Attributes:
        layers: the sparse layers by name, in the order of matrix indices.
        steps: T.
    """

    def __init__(self, model: nn.Module, optimizer: SeftOptimizer, settings: Settings, steps: int) -> None:
        if steps < 1:
            raise SeftError("TRN-008", f"steps {steps} is below 1")
        self.layers = layers_of(model)
        if not self.layers:
            raise SeftError("MDL-007", "the model has no sparse layers; wrap it first")
        if any(
            type(layer.values) is not nn.Parameter or len(layer.values) != layer.delta_budget
            for layer in self.layers.values()
        ):
            msg = "the values of a delta are split over processes (FSDP); this port knows data parallel only"
            raise NotImplementedError(msg)
        self._optimizer, self._settings, self.steps = optimizer, settings, steps
        evolves = settings.preset != "static"
        self._events = event_steps(steps, settings.evolve_every) if evolves else range(0)

    def _in_window(self, step: int) -> bool:
        # TRN-005
        ahead = -step % self._settings.evolve_every
        return ahead < self._settings.gradient_window and step + ahead in self._events

    def _starts(self, step: int) -> bool:
        return step == 1 and self._settings.start == "gradient"

    def before_step(self, step: int) -> None:
        """Let the layers see their whole gradients where step needs them."""
        for layer in self.layers.values():
            if self._in_window(step) or self._starts(step):
                layer.watch()
            else:
                layer.unwatch()

    @torch.no_grad()
    def before_optimizer(self, step: int, max_norm: float = 0.0) -> None:
        """With `start` gradient: choose the first slots by the gradient of the first step, and set theirs.

        max_norm  clip them to this norm, 0 to leave that to the caller
        """
        if not self._starts(step):
            return
        for layer in self.layers.values():
            gradient = self._mean(layer, 1).flatten()
            base = torch.nonzero(layer.mask.view(-1)).flatten()
            # DLT-004
            layer.place(base[largest(gradient[base].abs(), layer.delta_budget)])
            layer.values.grad = torch.zeros_like(layer.values)
            layer.values.grad[: layer.slots] = gradient[layer.positions[: layer.slots]]
        # OPT-004
        norm = torch.stack([layer.values.grad.double().square().sum() for layer in self.layers.values()]).sum().sqrt()
        for layer in self.layers.values():
            layer.values.grad *= clip_factor(float(norm), max_norm)

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, Decision]:
        """Make the event that follows a step, if one does; return what was decided for each matrix."""
        if step not in self._events:
            if not self._in_window(step):
                self._forget()
            return {}
        s = self._settings
        fraction = drop_fraction_at(step, self.steps, s.drop_fraction)
        made: dict[str, Decision] = {}
        for name, layer in self.layers.items():
            # EVT-002, GRD-004
            gradient = self._mean(layer, s.gradient_window)
            made[name] = layer.decide(
                gradient,
                # SCH-002
                drop_count(fraction, layer.slots),
                active=s.preset == "active-only",
                adapts=s.preset != "no-adapt",
            )
        # EVT-005: nothing is changed before everything is decided
        for name, layer in self.layers.items():
            layer.apply_decision(made[name], self._optimizer.kept(layer.values))
        self._forget()
        return made

    def finish(self, replay: Callable[[], Iterable[Tensor]]) -> None:
        """Run the last adapt pass (EVT-004).

        replay  yields the losses of the last step's micro-batches at the weights as they are now, each with its
                graph, so that their sum is that of the step; in data parallel those of this process
        """
        if all(int(layer.support().sum()) <= layer.budget for layer in self.layers.values()):
            self._forget()
            return
        with self.watching():
            # the gradients at η are asked for and thrown away: nothing is added to .grad, and no hook of DDP runs
            for loss in replay():
                torch.autograd.grad(loss, [layer.values for layer in self.layers.values()])
        made = {name: layer.decide_last(self._mean(layer, 1)) for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            layer.apply_decision(made[name], self._optimizer.kept(layer.values))
        self._forget()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let every layer see the gradients of what is run inside, from zero."""
        self._forget()
        for layer in self.layers.values():
            layer.watch()
        yield
        for layer in self.layers.values():
            layer.unwatch(forget=False)

    def _forget(self) -> None:
        for layer in self.layers.values():
            layer.unwatch()

    def _mean(self, layer: SeftLinear, steps: int) -> Tensor:
        """Return the mean gradient of a window; of all processes, so that every one chooses the same."""
        if layer.seen is None:
            raise SeftError("EVT-002", "an event without a gradient: before_step was not called, or no backward ran")
        seen = layer.seen.clone()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(seen)
            seen /= dist.get_world_size()
        return seen / steps
