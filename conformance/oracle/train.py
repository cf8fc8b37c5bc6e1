"""A whole run by SPEC.md in binary64, one step after another (TRN, EVT, DLT)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conformance.oracle import adamw, rules, update
from conformance.oracle.model import Config, Decoder, targets
from conformance.oracle.tape import Array


@dataclass
class Run:
    """What a run leaves behind.

    Attributes:
        losses: of every step.
        events: one entry an event: for each target the positions of η and B after it.
        states: the final state of each target.
        budgets: K of each target.
        delta_budgets: d_φ of each target.
        final: the effective weights on the final support of each target.
        gap: the smallest relative distance between a chosen score and one left behind, over all selections.
    """

    losses: list[float]
    events: list[list[tuple[list[int], list[int]]]]
    states: list[update.State]
    budgets: list[int]
    delta_budgets: list[int]
    final: list[dict[int, float]]
    gap: float


def _gap(scores: list[float], k: int, *, largest: bool) -> float:
    order = sorted(scores, reverse=largest)
    if not 0 < k < len(order):
        return float("inf")
    inside, outside = order[k - 1], order[k]
    return abs(inside - outside) / max(abs(inside), abs(outside), 1e-300)


def _event_gap(state: update.State, g: list[float], n_drop: int, d: int, scope: str, budget: int | None) -> float:
    """Return the smallest gap of the three selections of an event; budget None where adapt is left out."""
    gaps = [_gap([abs(x) for x in state.phi.values()], n_drop, largest=False)]
    held = state.phi.keys() - set(update.dropped(state.phi, n_drop))
    open_to = [p for p in range(state.size) if p not in held and (scope == "all" or p in state.base)]
    gaps.append(_gap([abs(g[p]) for p in open_to], n_drop + d - len(state.phi), largest=True))
    if budget is not None:
        after, moves = update.evolve(state, g, n_drop=n_drop, delta_budget=d, budget=budget, scope=scope, adapts=False)
        fresh = set(moves["grown"]) - state.phi.keys()
        w = update.effective(after.base, after.phi)
        gaps.append(_gap([abs(g[p] * x) for p, x in w.items() if p not in fresh], len(w) - budget, largest=False))
    return min(gaps)


class Trainer:
    """The state of a run; `settings` has the names of chapter 1 and TRN."""

    def __init__(
        self,
        config: Config,
        tensors: dict[str, Array],
        masks: dict[str, list[int]],
        text: list[int],
        settings: Any,
    ) -> None:
        self.config, self.tensors, self.text, self.s = config, dict(tensors), text, settings
        self.names = targets(config)
        self.shapes = [tensors[n].shape for n in self.names]
        self.states, self.budgets, self.delta_budgets = [], [], []
        for i, name in enumerate(self.names):
            base = {p: float(tensors[name].reshape(-1)[p]) for p in masks[name]}
            rows, cols = tensors[name].shape
            d = rules.delta_budget(settings["density"], rows, cols, len(base))
            eta = rules.initial_random(list(base), d, settings["seed"], i)
            zeros = dict.fromkeys(eta, 0.0)
            self.states.append(update.State(rows * cols, base, zeros, zeros, zeros, dict.fromkeys(eta, 0)))
            self.budgets.append(len(base))
            self.delta_budgets.append(d)
        self.gap = float("inf")
        if settings["start"] == "gradient":
            self.start_by_gradient()

    def start_by_gradient(self) -> None:
        """Move the slots to the base positions with the largest gradients of the first step (DLT-004)."""
        _, grads = self.gradients(1)
        for i, g in enumerate(grads):
            st, d = self.states[i], self.delta_budgets[i]
            self.gap = min(self.gap, _gap([abs(float(g[p])) for p in sorted(st.base)], d, largest=True))
            eta = rules.initial_gradient(sorted(st.base), d, [float(x) for x in g])
            zeros = dict.fromkeys(eta, 0.0)
            self.states[i] = replace(st, phi=zeros, m=zeros, v=zeros, age=dict.fromkeys(eta, 0))

    def gradients(self, step: int) -> tuple[float, list[Array]]:
        """Return loss and target gradients of a step's data at the present weights (TRN-001, TRN-003)."""
        for name, shape, state in zip(self.names, self.shapes, self.states, strict=True):
            dense = np.zeros(shape[0] * shape[1])
            w = update.effective(state.base, state.phi)
            dense[list(w)] = list(w.values())
            self.tensors[name] = dense.reshape(shape)
        n, length, rows = len(self.text), self.s["length"], self.s["rows"]
        starts = rules.window_starts(self.s["seed"], 2, (step - 1) * rows, rows, n, length)
        tokens = np.array([self.text[a : a + length] for a in starts])
        loss, _, grads = Decoder(self.config, self.tensors).loss_and_gradients(tokens, tokens)
        return loss, [grads[name].reshape(-1) for name in self.names]

    def optimize(self, step: int, grads: list[Array]) -> None:
        """Take one optimizer step (OPT, SCH-004)."""
        s = self.s
        lr = rules.learning_rate(s["schedule"], s["lr"], step, s["steps"], s["warmup"])
        at_eta = [float(g[p]) for g, state in zip(grads, self.states, strict=True) for p in state.phi]
        factor = adamw.clip_factor(at_eta, s["max_norm"])
        hyper = adamw.Settings(weight_decay=s["weight_decay"])
        for i, (g, st) in enumerate(zip(grads, self.states, strict=True)):
            new = {
                p: adamw.step(st.phi[p], st.m[p], st.v[p], st.age[p], factor * float(g[p]), lr, hyper) for p in st.phi
            }
            cut: list[dict[int, Any]] = [{p: x[j] for p, x in new.items()} for j in range(4)]
            self.states[i] = replace(st, phi=cut[0], m=cut[1], v=cut[2], age=cut[3])

    def event(self, step: int, mean: list[Array]) -> None:
        """Let every target evolve after a step (EVT-001)."""
        s = self.s
        fraction = rules.drop_fraction(s["drop_fraction"], step, s["steps"])
        for i, g in enumerate(mean):
            state, values = self.states[i], [float(x) for x in g]
            n_drop, adapts = rules.count(fraction * len(state.phi)), s["preset"] != "no-adapt"
            scope = "active" if s["preset"] == "active-only" else "all"
            room = self.budgets[i] if adapts else None
            self.gap = min(self.gap, _event_gap(state, values, n_drop, self.delta_budgets[i], scope, room))
            self.states[i], _ = update.evolve(
                state,
                values,
                n_drop=n_drop,
                delta_budget=self.delta_budgets[i],
                budget=self.budgets[i],
                scope=scope,
                adapts=adapts,
            )

    def finish(self) -> list[dict[int, float]]:
        """Adapt once more with nothing exempt and return the final weights (EVT-004)."""
        _, grads = self.gradients(self.s["steps"])
        final = []
        for i, g in enumerate(grads):
            w, values = update.effective(self.states[i].base, self.states[i].phi), [float(x) for x in g]
            excess = len(w) - self.budgets[i]
            self.gap = min(self.gap, _gap([abs(values[p] * x) for p, x in w.items()], excess, largest=False))
            gone = update.pruned(w, set(), values, self.budgets[i])
            self.states[i] = update.without(self.states[i], gone)
            final.append(update.effective(self.states[i].base, self.states[i].phi))
        return final


def run(
    config: Config,
    tensors: dict[str, Array],
    masks: dict[str, list[int]],
    text: list[int],
    settings: dict[str, Any],
) -> Run:
    """Train by the settings and return what happened."""
    trainer = Trainer(config, tensors, masks, text, settings)
    losses: list[float] = []
    events: list[list[tuple[list[int], list[int]]]] = []
    recent: list[list[Array]] = []
    for step in range(1, settings["steps"] + 1):
        loss, grads = trainer.gradients(step)
        losses.append(loss)
        recent = [*recent, grads][-settings["gradient_window"] :]
        trainer.optimize(step, grads)
        if settings["preset"] != "static" and rules.is_event(step, settings["steps"], settings["evolve_every"]):
            trainer.event(step, [np.mean(np.stack(gs), axis=0) for gs in zip(*recent, strict=True)])
            events.append([(list(st.phi), sorted(st.base)) for st in trainer.states])
    final = trainer.finish()
    return Run(losses, events, trainer.states, trainer.budgets, trainer.delta_budgets, final, trainer.gap)
