"""`Evolution` runs the events of a model with sparse updates. A training loop calls it around each step.

evolution.before_step(t)          before the forward of step t, counted from 1
evolution.before_optimizer(t)     after the last backward of the step, before clipping
evolution.after_step(t)           after the optimizer step
evolution.finish(replay)          after the last one

Or `evolution.attach()` once: then `optimizer.step()` calls the first three.
An event, and the choice of the first slots, may use more data than one step has: `look` and `start`.
"""

import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch.decide import Decision, check_evidence, check_sums, decide, decide_last, drop_counts
from seft_ports.pytorch.delta import initial
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.looks import Looks, look, watching
from seft_ports.pytorch.model import layers_of
from seft_ports.pytorch.optimizer import SeftOptimizer
from seft_ports.pytorch.refused import check, check_split, refuse_closure
from seft_ports.pytorch.schedule import drop_count, event_fraction, event_windows
from seft_ports.pytorch.settings import Settings
from seft_ports.pytorch.slot_step import clip
from seft_ports.pytorch.split import all_true, is_split, mean_of_all, processes, put, reshard, whole
from seft_ports.pytorch.stream import FIRST_GRADIENT, Stream, no_gradient
from seft_ports.pytorch.update import SparseUpdate, is_over

__all__ = ["Evolution"]


class Evolution:
    """The events of one run.

    Attributes:
        layers: the sparse layers by name, in the order of matrix indices.
        steps: T, the steps of the run.

    micro_batches  backward passes of a step. With 1, one process handles the gradient of an event of one step while the
                   backward runs, and keeps none. Otherwise an event keeps the factors of gradients, and sums gradients
                   once the factors are larger
    event_batches  steps whose data an event uses, its own included; `look` gives it the others (TRN-023)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        settings: Settings,
        steps: int,
        *,
        micro_batches: int | None = None,
        event_batches: int = 1,
    ) -> None:
        if steps < 1:
            raise SeftError("TRN-008", f"steps {steps} is below 1")
        # accelerate wraps the optimizers that it prepares
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self.layers = layers_of(model)
        if not self.layers:
            raise SeftError("MDL-007", "the model has no sparse layers; wrap it first")
        reshard(model)
        if isinstance(optimizer, SeftOptimizer):
            optimizer.follow()
        check(model, self.layers, optimizer, settings)
        self._split = any(is_split(layer.values) for layer in self.layers.values())
        if self._split:
            check_split(settings)
        for layer in self.layers.values():
            layer.split()
            layer.has_events = True
        self._optimizer: SeftOptimizer = optimizer
        self._settings, self.steps = settings, steps
        self._streams_may = not self._split and settings.streams
        self._one_backward = micro_batches == 1
        # several processes must stream in the same order, which their backward passes need not have
        self._observes = self._one_backward and processes() == 1
        self._streams: dict[str, Stream] = {}
        self._streaming: set[str] = set()
        self._next, self._looks = 1, Looks(event_batches)
        self._first_slots: dict[str, tuple[Tensor, Tensor]] = {}
        self._windows: dict[int, int] = {}
        if settings.evolves:
            every, window, until = settings.evolve_every, settings.gradient_window, settings.evolve_until
            self._windows = event_windows(settings.events, steps, every, window, until)
        self._events = list(self._windows)
        if settings.evolves and not self._windows:
            message = f"no-events: a run of {steps} steps with evolve_every {every}, evolve_until {until} moves no slot"
            warnings.warn(message, stacklevel=2)

    def _in_window(self, step: int) -> bool:
        # TRN-005, SCH-005
        later = bisect_left(self._events, step)
        return later < len(self._events) and step > self._events[later] - self._windows[self._events[later]]

    def _fraction(self, step: int) -> float:
        s, first = self._settings, step == self._events[0]
        return event_fraction(
            step, self.steps, s.drop_fraction, s.drop_schedule, s.first_event, s.evolve_until, first=first
        )

    def _starts(self, step: int, layer: SparseUpdate) -> bool:
        """Return whether the gradient of a step chooses the first slots of an update; existing slots are kept."""
        return step == 1 and self._settings.initial_positions == "gradient" and not layer.slots

    def before_step(self, step: int) -> None:
        """Make the layers sum gradients if an event, or the choice of first slots, needs those of this step.

        Raises:
            SeftError: TRN-004 if the step lies in an open window whose earlier gradients are missing.
        """
        inside, opened = self._in_window(step), self._in_window(step - 1) and step - 1 not in self._windows
        evidence_names = self._settings.asks()
        self._looks.begin(step, has_event=bool(evidence_names) and step in self._windows)
        streams = self._streams_may and not (self._looks.wanted and step in self._windows)
        for name, layer in self.layers.items():
            if inside and opened and evidence_names and not layer.has_window and bool(layer.support().any()):
                raise SeftError(
                    "TRN-004",
                    f"step {step} lies in an open window, and {name} has no gradients of it; resume outside windows",
                )
            starts = self._starts(step, layer)
            needed_names = (evidence_names if inside else set()) | ({"gradient"} if starts else set())
            keeps = self._settings.keeps(starts=starts)
            one_step = streams and inside != starts
            if one_step and self._observes:
                self._streams[name] = self._stream(layer, step)
                layer.observe(self._streams[name].see)
            elif inside or starts:
                if one_step or (inside and not opened):
                    # the window begins; a step or a run that was broken off has left its backward passes
                    layer.unwatch()
                if one_step:
                    self._streaming.add(name)
                layer.watch(needed_names, keeps=keeps, one_backward=self._one_backward, one_step=one_step)
            else:
                layer.unwatch()

    def _stream(self, layer: SparseUpdate, step: int) -> Stream:
        """Return the stream that is to process the backward passes of a step for one update."""
        s = self._settings
        if self._starts(step, layer):
            return Stream(layer, layer.delta_budget, active=s.initial_scope == "active", first=True)
        # GROW-002
        grow = drop_count(self._fraction(step), layer.slots) + layer.delta_budget - layer.slots
        return Stream(layer, grow, active=s.grow_scope == "active", adapt=s.adapt if s.prunes else None)

    def _streamed(self, name: str, step: int) -> Stream | None:
        """Return the stream that has processed a step for one update, or None if the update has sums."""
        # if one process has no gradient, all of them end
        has_gradient = self.layers[name].candidates.new_tensor(self.layers[name].has_evidence)
        if name in self._streaming and not all_true([has_gradient], everywhere=processes() > 1):
            raise no_gradient(self.layers[name])
        if name in self._streaming and (factors := self.layers[name].factors()):
            self._streams[name] = self._stream(self.layers[name], step)
            self._streams[name].take(factors)
        return self._streams.get(name)

    def start(self, losses: Iterable[Tensor]) -> None:
        """Choose the first slots by the gradient of these losses and not by that of the first step (DLT-004.3).

        Call it before the first step, and before `attach`.

        losses  losses of micro-batches, each with its graph, such as those of the data of the first n steps; each is
                the sum over its targets, divided by the number of targets of all of them (TRN-002)
        """
        layers = list(self.layers.values())
        if not all(self._starts(1, layer) for layer in layers):
            raise SeftError("EVT-012", "start is for initial_positions gradient, and for updates without slots")
        with watching(layers, ["gradient"]):
            look(layers, losses, self._trained())
        with torch.no_grad():
            for layer in layers:
                layer.place(self._first(layer)[0])
        self.forget()

    def look(self, losses: Iterable[Tensor]) -> None:
        """Let the event of the running step use the data of one more step, too (TRN-023).

        Call it `event_batches` - 1 times after the last backward of a step with an event.

        losses  losses of the micro-batches of that step, each with its graph; their sum is the loss of the step
        """
        if self._looks.add():
            # DLT-004: the step's own data chooses the first slots
            starts = {name: one for name, one in self.layers.items() if self._starts(self._looks.step, one)}
            self._first_slots = {name: self._first(layer) for name, layer in starts.items()}
        look(list(self.layers.values()), losses, self._trained())

    def has_event(self, step: int) -> bool:
        """Return whether an event follows a step."""
        return step in self._windows

    def looks(self, step: int) -> int:
        """Return how often the event of a step wants `look` to be called; 0 without an event or without evidence."""
        return self._looks.wanted if step in self._windows and self._settings.asks() else 0

    def attach(self, max_norm: float = 0.0, step: int = 1) -> None:
        """Let the optimizer's own `step` call what this class does around a step, from the next step on.

        Call it once, before the first forward; only `finish` is left to call then. A second call is refused (EVT-001).

        max_norm  clip the gradients at the slots in every step to this common norm (OPT-004); do not clip them as well
        step      the step that comes next
        """

        def before(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            refuse_closure(args, kwargs)
            if self._next > self.steps:
                raise SeftError("TRN-008", f"step {self._next} of a run that was said to have {self.steps}")
            self.before_optimizer(self._next)
            clip([layer.values.grad for layer in self.layers.values()], max_norm)

        def after(*_: object) -> None:
            self.after_step(self._next)
            self._next += 1
            if self._next <= self.steps:
                self.before_step(self._next)

        if self._optimizer.has_events:
            raise SeftError("EVT-001", "this optimizer makes events already; make a new SeftOptimizer for another run")
        self._next, self._optimizer.has_events = step, True
        self._optimizer.register_step_pre_hook(before)
        self._optimizer.register_step_post_hook(after)
        self.before_step(step)

    @torch.no_grad()
    def before_optimizer(self, step: int, max_norm: float = 0.0) -> None:
        """Place the first slots, if the gradient of the first step chooses them, and set their gradients.

        At a step whose event replaces the optimizer's step it removes all gradients (EVT-010).

        max_norm  clip the gradients of slots that are placed here, which no earlier clipping of the caller's has seen

        Raises:
            SeftError: TRN-007 for a gradient that is NaN or infinite.
        """
        self._looks.check()
        self._place(step, max_norm)
        if self._settings.event_replaces_step and step in self._windows:
            for values in self._trained():
                values.grad = None

    def _place(self, step: int, max_norm: float) -> None:
        started = {name: layer for name, layer in self.layers.items() if self._starts(step, layer)}
        for name, layer in started.items():
            stream = self._streamed(name, step)
            if name in self._first_slots:
                positions, gradient = self._first_slots.pop(name)
            else:
                positions, gradient = self._first(layer) if stream is None else stream.place()
            layer.place(positions)
            placed = gradient.new_zeros(layer.delta_budget)
            placed[: layer.slots] = gradient
            layer.values.grad = torch.zeros_like(layer.values)
            put(layer.values.grad, placed)
        clip([layer.values.grad for layer in started.values()], max_norm)

    def _first(self, layer: SparseUpdate) -> tuple[Tensor, Tensor]:
        """Return the first positions of an update, ascending, and the gradient of the step there."""
        gradient = self._evidence(layer, 1, ["gradient"])["gradient"].flatten()
        allowed = torch.nonzero(layer.base().view(-1)).flatten()
        if self._settings.initial_scope == "anywhere":
            allowed = torch.arange(gradient.numel(), device=allowed.device)
        if not bool(torch.isfinite(gradient[allowed]).all()):
            raise SeftError("TRN-007", FIRST_GRADIENT)
        positions = initial(self._settings, allowed, gradient[allowed], layer.delta_budget, layer.matrix)
        return positions, gradient[positions]

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, Decision]:
        """Run the event that follows a step, if one does, and return its decision for each matrix by name."""
        if step not in self._windows:
            if not self._in_window(step):
                self.forget()
            else:
                # TRN-004: take the mean over all processes now, because any of them may save the open window
                for layer in self.layers.values():
                    layer.settle()
                    for total in layer.sums():
                        if not is_split(total):
                            mean_of_all(total)
                sums = [total for layer in self.layers.values() for total in layer.sums()]
                check_sums(sums, step, everywhere=self._split)
            return {}
        self._looks.check()
        window, fraction = self._windows[step] + self._looks.wanted, self._fraction(step)
        decisions: dict[str, Decision] = {}
        seeded: dict[str, dict[str, Tensor]] = {}
        for names in self._together(self.layers):
            if (stream := self._streamed(names[0], step)) is not None:
                # SCH-002
                decisions[names[0]] = stream.decide(drop_count(fraction, self.layers[names[0]].slots))
                continue
            # EVT-002, GRD-004
            evidence = {name: self._evidence(self.layers[name], window, self._settings.asks()) for name in names}
            parts = [self.layers[name].part(evidence[name] | self._of_optimizer(self.layers[name])) for name in names]
            new_decisions = decide(parts, self._settings, drop_counts(parts, self._settings, fraction), step)
            decisions |= zip(names, new_decisions, strict=True)
            if self._settings.moments == "seeded":
                seeded |= {name: self._seeds(evidence[name], decisions[name].grown, window) for name in names}
        # EVT-005: nothing is changed before everything is decided
        for name, layer in self.layers.items():
            layer.apply_decision(decisions[name], self._optimizer.kept(layer), seeded.get(name))
        self._optimizer.follow()
        self.forget()
        return decisions

    def _together(self, names: Iterable[str]) -> list[list[str]]:
        """Return the names of layers in lists; an event compares the matrices of a list with each other (EVT-009)."""
        return [list(names)] if self._settings.scope == "model" else [[name] for name in names]

    def _of_optimizer(self, layer: SparseUpdate) -> dict[str, Tensor]:
        """Return the evidence that the rule takes from the optimizer, by the names of `criteria`."""
        accumulators = self._optimizer.accumulators(layer) if self._settings.grow == "moments" else {}
        state = self._optimizer.kept(layer)
        return accumulators | ({"origin": whole(state["origin"])[: layer.slots]} if "origin" in state else {})

    def _seeds(self, evidence: dict[str, Tensor], grown: Tensor, window: int) -> dict[str, Tensor]:
        # DLT-006
        check_evidence(evidence.values())
        return self._optimizer.seeds(evidence["gradient"].flatten()[grown], evidence["square"].flatten()[grown], window)

    def finish(self, replay: Callable[[], Iterable[Tensor]], *further: Callable[[], Iterable[Tensor]]) -> None:
        """Run the last adapt pass (EVT-004).

        replay   yields the losses of the last step's micro-batches at the current weights, each with its graph.
                 Their sum is the loss of the step. In data parallel they are those of this process.
        further  the same for each of the `event_batches` - 1 steps after it (TRN-023.2)

        Raises:
            SeftError: EVT-004 if a gradient must decide what is pruned, and a step yields no loss; TRN-023 for another
                number of further steps than events use.

        Warns of more stored weights than were loaded, which `spiel-ag` leaves (TRN-011).
        """
        s = self._settings
        if s.adapts == "never":
            # EVT-008
            n_stored = sum(int(layer.support().sum()) for layer in self.layers.values())
            loaded = sum(layer.budget for layer in self.layers.values())
            if n_stored > loaded:
                message = f"denser-at-end: {n_stored} weights are stored, {loaded} at load; adapts is never"
                warnings.warn(message, stacklevel=2)
        lists = self._together(self.layers) if s.adapts != "never" else []
        over = [names for names in lists if is_over([self.layers[name] for name in names], s)]
        if not over:
            self.forget()
            for layer in self.layers.values():
                layer.effective()
            return
        if s.asks_at_end() and len(further) != self._looks.wanted:
            raise SeftError(
                "TRN-023", f"finish takes the losses of {self._looks.wanted} further steps, not {len(further)}"
            )
        self.forget()
        with watching(list(self.layers.values()), s.asks_at_end(), keeps="support"):
            # random and magnitude use no gradient
            for losses in (replay, *further) if s.asks_at_end() else ():
                look(list(self.layers.values()), losses(), self._trained(), "EVT-004")
        decisions: dict[str, Decision] = {}
        for names in over:
            layers = [self.layers[name] for name in names]
            parts = [layer.part(self._evidence(layer, 1 + len(further), s.asks_at_end())) for layer in layers]
            decisions |= zip(names, decide_last(parts, s, self.steps), strict=True)
        for name, decision in decisions.items():
            self.layers[name].apply_decision(decision, self._optimizer.kept(self.layers[name]))
        self.forget()

    def _trained(self) -> list[Tensor]:
        return [x for group in self._optimizer.param_groups for x in group["params"]]

    def forget(self) -> None:
        """Drop the evidence of an open window."""
        self._streams.clear()
        self._streaming.clear()
        for layer in self.layers.values():
            layer.unwatch()

    def _evidence(self, layer: SparseUpdate, steps: int, evidence_names: Iterable[str]) -> dict[str, Tensor]:
        """Return the means of a window by name, the same in every process."""
        asked, means = set(evidence_names), layer.evidence(steps)
        # a window makes its sums at once, so that they show no backward pass; if one process has none, all of them end
        has_backward = layer.candidates.new_tensor(layer.has_evidence)
        if asked and not (means.keys() >= asked and all_true([has_backward], everywhere=processes() > 1)):
            raise no_gradient(layer)
        return means
