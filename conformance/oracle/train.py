"""A whole run by SPEC.md in binary64, one step after another (TRN, EVT, DLT)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from conformance.oracle import event as events
from conformance.oracle import (
    select_pools,
    train_text,
    train_window,
    update,
    update_adamw,
    update_counts,
    update_optimizers,
    update_schedule,
)
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import Evidence
from conformance.oracle.model import Config, Decoder, targets
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.tape import Array, largest
from conformance.oracle.train_settings import delta_budgets, hyper_of, kept_of, per_pool, rule_of, window_of


@dataclass
class Step:
    """Loss of one pass over a step's data, and for each target gradient, inputs, and dy if the rule asks for it."""

    loss: float
    gradients: list[list[float]]
    inputs: list[list[list[float]]]
    upstream: list[list[list[float]]]


@dataclass(frozen=True)
class Earlier:
    """Sums over the earlier steps of a window.

    Attributes:
        sums: Σ g of each target, flat.
        steps: number of these steps.
        tokens: Σ dy² x² of each target, flat; empty if the rule does not ask for it.
    """

    sums: list[list[float]]
    steps: int
    tokens: list[list[float]]


@dataclass(frozen=True)
class OneStep:
    """A single step from a given state, with the values that decided it.

    Attributes:
        loss: loss of the step.
        gradients: gradient of each target, flat.
        tokens: Σ dy² x² of each target, flat; each empty if the rule does not ask for it.
        moved: each target after the optimizer.
        evidence: evidence of the event for each target; empty without an event.
        outcomes: outcome of the event for each target; empty without an event.
        parts: each target after the step.
        gap: the smallest relative gap of the event.
    """

    loss: float
    gradients: list[list[float]]
    tokens: list[list[float]]
    moved: list[Part]
    evidence: list[Evidence]
    outcomes: list[events.Outcome]
    parts: list[Part]
    gap: float


class Trainer:
    """A run and its current state; `settings` has the names of chapter 1 and TRN, its `rule` those of chapter 8.

    Attributes:
        limit: the largest number of the compute dtype.
    """

    limit = float(np.finfo(np.float64).max)

    def __init__(
        self,
        config: Config,
        tensors: dict[str, Array],
        masks: dict[str, list[int]],
        text: list[int],
        settings: Any,
    ) -> None:
        self.config, self.tensors, self.text, self.s = config, dict(tensors), text, settings
        self.rule, self.optimizer = rule_of(settings), settings.get("optimizer", "adamw")
        self.pattern = tuple(settings["pattern"]) if settings.get("pattern") else None
        self.names = targets(config)
        self.shapes = [tensors[n].shape for n in self.names]
        bases = [{p: float(tensors[name].reshape(-1)[p]) for p in masks[name]} for name in self.names]
        self.budgets = [len(base) for base in bases]
        self.delta_budgets = delta_budgets(settings, self.shapes, self.budgets)
        self.rows = [[0.0] * shape[0] for shape in self.shapes]
        self.columns = [[0.0] * shape[1] for shape in self.shapes]
        self.loaded = bases
        self.parts = [self.part(i, []) for i in range(len(bases))]
        self.gap = float("inf")
        self.place()

    @classmethod
    def resumed(
        cls,
        config: Config,
        tensors: dict[str, Array],
        text: list[int],
        settings: Any,
        parts: Sequence[Part],
        accumulators: tuple[list[list[float]], list[list[float]]],
    ) -> Self:
        """Return a trainer that continues a run from its targets and the accumulators r and c of SM3 alone."""
        t = cls.__new__(cls)
        t.config, t.tensors, t.text, t.s = config, dict(tensors), text, settings
        t.rule, t.optimizer = rule_of(settings), settings.get("optimizer", "adamw")
        t.pattern = tuple(settings["pattern"]) if settings.get("pattern") else None
        t.names, t.shapes = targets(config), [part.shape for part in parts]
        t.loaded = [part.base | dict.fromkeys(part.lost, 0.0) for part in parts]
        t.parts, t.gap, (t.rows, t.columns) = list(parts), float("inf"), map(list, accumulators)
        t.budgets = [len(loaded) for loaded in t.loaded]
        t.delta_budgets = delta_budgets(settings, t.shapes, t.budgets)
        return t

    def part(self, i: int, eta: list[int]) -> Part:
        """Return target i at load with these slots (DLT-001, DLT-005, EVT-009)."""
        shape, base = self.shapes[i], self.loaded[i]
        scope, slots = self.rule["scope"], [self.delta_budgets[i]]
        budget = per_pool(scope, shape, self.pattern, base)
        slots = per_pool(scope, shape, None, eta) if scope == "row" else slots
        kept: dict[str, dict[int, Any]] = {n: dict.fromkeys(eta, 0 if n == "age" else 0.0) for n in kept_of(self.s)}
        return Part(shape, i, base, dict.fromkeys(eta, 0.0), kept, budget, slots, self.optimizer, first=True)

    def place(self) -> None:
        """Choose the initial positions of all targets (DLT-004)."""
        by, seed = self.s["start"], self.s["seed"]
        gradients: list[list[float]] = [[] for _ in self.names]
        if by == "gradient":
            # DLT-004.3: the first steps count as micro-batches of one step, so their mean is taken
            looks = [self.look(step).gradients for step in range(1, self.s.get("start_batches", 1) + 1)]
            gradients = [train_window.mean([look[i] for look in looks]) for i in range(len(self.names))]
        for i, (shape, base, g) in enumerate(zip(self.shapes, self.loaded, gradients, strict=True)):
            anywhere = self.s.get("initial_scope") == "anywhere"
            open_to = list(range(shape[0] * shape[1])) if anywhere else sorted(base)
            d = self.delta_budgets[i]
            eta = update_counts.initial(by, open_to, d, seed=seed, matrix=i, gradient=g, base=base)
            if by != "random":
                score = {p: abs(g[p]) if by == "gradient" else abs(base.get(p, 0.0)) for p in open_to}
                inside, outside = [score[p] for p in eta], [score[p] for p in open_to if p not in eta]
                if inside and outside:
                    self.meet([(min(inside), max(outside))], drawn=False)
            self.parts[i] = self.part(i, eta)

    def meet(self, boundaries: list[select_pools.Boundary], *, drawn: bool) -> None:
        """Update the smallest gap. Two zeros and drawn scores are skipped, because all machines agree on them."""
        gaps = [select_pools.gap(b) for b in boundaries if not drawn and b != (0.0, 0.0)]
        self.gap = min([self.gap, *gaps])

    def look(self, step: int) -> Step:
        """Return loss, target gradients and inputs of a step's data at the present weights (TRN-001, TRN-003)."""
        for name, shape, part in zip(self.names, self.shapes, self.parts, strict=True):
            dense = np.zeros(shape[0] * shape[1])
            w = self.multiplied(part.matrix, update.effective(part.base, part.phi))
            dense[list(w)] = list(w.values())
            self.tensors[name] = dense.reshape(shape)
        decoder = Decoder(self.config, self.tensors)
        loss, _, grads = decoder.loss_and_gradients(*self.data(step))
        self.refuse_overflow([loss], [largest(decoder.passed)])
        read = self.read(step)
        entered = [decoder.inputs[name].reshape(-1, self.tensors[name].shape[1])[read] for name in self.names]
        flat = [[float(x) for x in grads[name].reshape(-1)] for name in self.names]
        upstream = []
        if self.rule["adapt"] == "token-fisher":
            dy = decoder.upstream(*self.data(step))
            upstream = [train_window.floats(dy[n].reshape(-1, self.tensors[n].shape[0])[read]) for n in self.names]
        return Step(loss, flat, [train_window.floats(x) for x in entered], upstream)

    def refuse_overflow(self, shown: Iterable[float], hidden: Iterable[float]) -> None:
        """Refuse numbers beyond the compute dtype (TRN-007).

        hidden  those that finite results may follow from, which may be refused by other clauses too (TRN-019)
        """
        for clauses, numbers in (("TRN-007", shown), ("TRN-007 LYR-015 LYR-016", hidden)):
            if not all(abs(x) <= self.limit for x in numbers):
                msg = f"{clauses}: a number beyond the compute dtype"
                raise RefusedError(msg)

    def multiplied(self, i: int, weights: dict[int, float]) -> dict[int, float]:
        """Return the weights by which layers multiply, given the effective weights of target i."""
        return weights

    def looks(self, step: int) -> list[Step]:
        """Return the passes over this step's data and later data that an event after it looks at (TRN-023)."""
        return [self.look(step + i) for i in range(self.s.get("event_batches", 1))]

    def tokens(self, i: int, step: Step) -> list[float]:
        """Return Σ dy² x² of a step for target i, at every position; empty if the rule does not ask (GRD-008)."""
        n_out, n_in = self.shapes[i]
        if not step.upstream:
            return []
        return train_window.of_tokens(n_in, [(step.upstream[i], step.inputs[i])], range(n_out * n_in))

    def data(self, step: int) -> tuple[Array, Array, Array | None]:
        """Return the tokens of a step, their labels, and the mask of tokens that are no padding (TRN-003)."""
        n, length, rows = len(self.text), self.s["length"], self.s["rows"]
        starts = train_text.window_starts(self.s["seed"], 2, (step - 1) * rows, rows, n, length)
        tokens = np.array([self.text[a : a + length] for a in starts])
        return tokens, tokens, None

    def read(self, step: int) -> Array:
        """Return which rows of a step, tokens laid end to end, enter evidence: all but padding (TRN-021.4, GRD-006)."""
        tokens, _, mask = self.data(step)
        return np.ones(tokens.size, dtype=np.bool_) if mask is None else mask.reshape(-1)

    def optimize(self, step: int, gradients: list[list[float]]) -> None:
        """Take one optimizer step (OPT, SCH-004)."""
        s = self.s
        lr = update_schedule.learning_rate(s["schedule"], s["lr"], step, s["steps"], s["warmup"])
        at_eta = [{p: g[p] for p in part.phi} for g, part in zip(gradients, self.parts, strict=True)]
        factor = update_adamw.clip_factor([x for g in at_eta for x in g.values()], s["max_norm"])
        for i, (g, part) in enumerate(zip(at_eta, self.parts, strict=True)):
            slots = update_optimizers.Slots(part.phi, part.kept, self.rows[i], self.columns[i])
            scaled = {p: factor * x for p, x in g.items()}
            new = update_optimizers.step(self.optimizer, part.shape[1], slots, scaled, lr, hyper_of(s))
            self.refuse_overflow(new.phi.values(), (x for values in new.kept.values() for x in values.values()))
            self.parts[i] = replace(part, phi=new.phi, kept=new.kept)
            self.rows[i], self.columns[i] = new.rows, new.columns

    def evidence(self, i: int, recent: list[Step]) -> Evidence:
        """Return the evidence of a window's steps for target i (GRD, OPT-008)."""
        means = train_window.evidence([step.gradients[i] for step in recent])
        h = train_window.inputs(self.shapes[i][1], [step.inputs[i] for step in recent])
        first = None
        if self.rule["candidates"] == "first-step":
            of_first = recent[0].gradients[i]
            first = frozenset(train_window.candidates(of_first, self.delta_budgets[i]))
            order = sorted((abs(x) for x in of_first), reverse=True)
            if 0 < len(first) < len(order):
                self.meet([(order[len(first) - 1], order[len(first)])], drawn=False)
        return Evidence(**means, inputs=h, row_moments=self.rows[i], column_moments=self.columns[i],
                        candidates=first, steps=len(recent),
                        tokens=train_window.mean([self.tokens(i, step) for step in recent]))  # fmt: skip

    def event(self, step: int, evidence: list[Evidence]) -> list[events.Outcome]:
        """Run the event after a step on all targets and return the outcome of each (EVT-001)."""
        s, rule = self.s, self.rule
        last = update_schedule.last_event(s["steps"], rule["evolve_until"])
        fraction = update_schedule.scheduled(rule["drop_schedule"], s["drop_fraction"], step, last)
        outcomes = events.event(self.parts, evidence, rule, fraction, seed=s["seed"], step=step, pattern=self.pattern)
        for i, one in enumerate(outcomes):
            for name, boundary in one.boundaries.items():
                self.meet([boundary] if boundary else [], drawn=rule[name] == "random")
            lost = self.loaded[i].keys() - one.part.base.keys()
            self.parts[i] = replace(one.part, first=False, lost=frozenset(lost))
        return outcomes

    def finish(self) -> list[dict[int, float]]:
        """Run the last adapt pass, with no exempt positions, and return the final weights (EVT-004, EVT-008)."""
        if self.rule["adapts"] != "never" and events.exceeds(self.parts, self.rule, self.pattern):
            last = self.looks(self.s["steps"])
            evidence = [self.evidence(i, last) for i in range(len(self.parts))]
            chance = {"seed": self.s["seed"], "step": self.s["steps"]}
            self.parts, met = events.last_pass(self.parts, evidence, self.rule, **chance, pattern=self.pattern)
            self.meet(met, drawn=self.rule["adapt"] == "random")
        return [update.effective(part.base, part.phi) for part in self.parts]


def one_step(
    config: Config,
    tensors: dict[str, Array],
    parts: list[Part],
    text: list[int],
    settings: dict[str, Any],
    step: int,
    earlier: Earlier | None = None,
) -> OneStep:
    """Return the results of one step from a given state, on which alone it depends (TRN-004).

    earlier  sums over the earlier steps of the window, if an event follows this step; of the evidence of the event only
             ḡ and tokens include them
    """
    nothing: list[list[float]] = [[] for _ in parts]
    trainer = Trainer.resumed(config, tensors, text, settings, parts, (nothing, nothing))
    looked = trainer.look(step)
    trainer.optimize(step, looked.gradients)
    moved, evidence, outcomes = list(trainer.parts), list[Evidence](), list[events.Outcome]()
    if window_of(settings, step)[1]:
        evidence = [trainer.evidence(i, [looked]) for i in range(len(parts))]
        if earlier is not None:
            evidence = [_with_earlier(one, earlier, i) for i, one in enumerate(evidence)]
        outcomes = trainer.event(step, evidence)
    tokens = [trainer.tokens(i, looked) for i in range(len(parts))]
    return OneStep(looked.loss, looked.gradients, tokens, moved, evidence, outcomes, trainer.parts, trainer.gap)


def _with_earlier(evidence: Evidence, earlier: Earlier, i: int) -> Evidence:
    """Return evidence at target i whose ḡ and tokens are means over the earlier steps too (GRD-004, GRD-008)."""
    steps = earlier.steps + 1
    gradient = [(a + g) / steps for a, g in zip(earlier.sums[i], evidence.gradient, strict=True)]
    tokens = (
        [(a + t) / steps for a, t in zip(earlier.tokens[i], evidence.tokens, strict=True)] if evidence.tokens else []
    )
    return replace(evidence, gradient=gradient, tokens=tokens, steps=steps)
