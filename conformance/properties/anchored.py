"""Compare a step of training with the kit's own step from the same state (TRN, EVT, NUM).

The kit takes the step in binary64 and bounds how far rounding may move each number of a right program. If such rounding
cannot change a selection, a program must make the same one. If rounding can change it, the selection is in doubt: then
another one is right too, provided that each of its positions is as good as the kit's within the error.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from conformance.answers.answer import ids, reals
from conformance.answers.train import step_of
from conformance.cases.case import Bound
from conformance.cases.compare import RELATIVE, UNIT, compare
from conformance.oracle import train_settings, update, update_adamw, update_optimizers, update_schedule, update_scores
from conformance.oracle.event import Part

__all__ = ["Own", "broken_step", "own_step"]
NOISE = 256.0
"""Bound on the error of a gradient's entry, in roundings of the largest entry of all targets.

Programs that take sums in other orders stayed below 50.
"""
_USES = {"drop": (update_scores.DROP, 1.0), "grow": (update_scores.GROW, -1.0), "adapt": (update_scores.ADAPT, 1.0)}
"""Choice -> use of the draw (RNG-003), and the sign that makes the chosen scores the smallest."""


@dataclass(frozen=True)
class Choice:
    """A selection of an event: scores with their errors, and the positions that the kit chose.

    Attributes:
        scores: (score, error) of each position that may be chosen; the smallest are chosen.
        chosen: positions.
    """

    scores: dict[int, tuple[float, float]]
    chosen: frozenset[int]

    @cached_property
    def decided(self) -> bool:
        """Whether no error can change the selection; equal scores without error are decided by position."""
        inside = [self.scores[p] for p in self.chosen]
        outside = [x for p, x in self.scores.items() if p not in self.chosen]
        return all(s + e < t - f or e == f == 0 for s, e in inside for t, f in outside)

    def may(self, p: int) -> bool:
        """Return whether position p could have been chosen within the errors."""
        if p not in self.scores or not self.chosen:
            return False
        s, e = self.scores[p]
        return s - e <= max(t + f for t, f in (self.scores[q] for q in self.chosen))


class Own:
    """The kit's own step of training, and bounds on the errors of a right program.

    Attributes:
        parts: each target before the step.
        step: the step in binary64.
        rule: the choices of the run.
        off: bound on the error of any entry of a gradient.
        off_tokens: bound on the error of any Σ dy² x².
    """

    def __init__(self, inputs: dict[str, Any], dtype: str) -> None:
        self.unit, self.settings = UNIT[dtype], inputs["settings"]
        self.parts, self.step = step_of(inputs, dtype)
        self.rule = train_settings.rule_of(self.settings)
        gradients = [*self.step.gradients, *(one.gradient for one in self.step.evidence)]
        self.off = NOISE * self.unit * max((abs(x) for g in gradients for x in g), default=0.0)
        tokens = [*self.step.tokens, *(one.tokens for one in self.step.evidence)]
        # NOISE suffices although a square doubles a relative error: programs stayed below 128 over 1,260 matrices
        self.off_tokens = NOISE * self.unit * max((x for t in tokens for x in t), default=0.0)
        self._number = int(inputs["step"])

    @cached_property
    def errors(self) -> list[dict[str, dict[int, float]]]:
        """Bounds on the errors of φ, m and v after the optimizer; for each target, name -> position -> bound."""
        s, number = self.settings, self._number
        lr = update_schedule.learning_rate(s["schedule"], s["lr"], number, s["steps"], s["warmup"])
        slots = [{p: g[p] for p in part.phi} for g, part in zip(self.step.gradients, self.parts, strict=True)]
        every = [x for at in slots for x in at.values()]
        factor, norm = update_adamw.clip_factor(every, s["max_norm"]), math.sqrt(math.fsum(x * x for x in every))
        scale = self.off * math.sqrt(len(every)) / norm if s["max_norm"] and norm else 0.0
        return [
            self._around(i, {p: factor * x for p, x in at.items()}, factor * self.off, scale, lr)
            for i, at in enumerate(slots)
        ]

    def _around(self, i: int, at: dict[int, float], off: float, scale: float, lr: float) -> dict[str, dict[int, float]]:
        """Return how far φ, m and v of a target may move if each gradient g moves by at most off + scale · |g|."""
        old, new = self.parts[i], self.step.moved[i]
        hyper = update_optimizers.Hyper(weight_decay=self.settings["weight_decay"], momentum=self.rule["momentum"])
        errors = {name: dict.fromkeys(at, 0.0) for name in ("phi", "m", "v")}
        for part in (-1.0, -0.5, 0.5, 1.0):
            moved = {p: g + part * (off + scale * abs(g)) for p, g in at.items()}
            other = update_optimizers.step(
                "adamw", old.shape[1], update_optimizers.Slots(old.phi, old.kept), moved, lr, hyper
            )
            for name, after, want in _columns(other, new):
                errors[name] = {p: max(x, 2 * abs(after[p] - want[p])) for p, x in errors[name].items()}
        for p, g in at.items():
            # the step's own operations round too, which adds to the errors
            errors["phi"][p] += 16 * self.unit * (abs(new.phi[p]) + abs(new.phi[p] - old.phi[p]))
            errors["m"][p] += 16 * self.unit * (abs(new.kept["m"][p]) + abs(old.kept["m"][p]) + abs(g))
            errors["v"][p] += 16 * self.unit * new.kept["v"][p]
        return errors

    def choices(self, i: int) -> dict[str, Choice]:
        """Return the selections of the event at target i by name: drop, grow, adapt; empty without an event."""
        if not self.step.outcomes:
            return {}
        moved, evidence, one = self.step.moved[i], self.step.evidence[i], self.step.outcomes[i]
        mean, tokens = evidence.gradient, evidence.tokens
        e = self.errors[i]["phi"]
        into, kept = {*one.grown, *one.cancelled}, moved.phi.keys() - set(one.dropped)
        inside = self.rule["grow_scope"] == "active"
        open_to = [p for p in range(len(mean)) if p not in kept and (p in moved.base or not inside)]
        choices = {
            "drop": Choice(
                self._drawn("drop", i, moved.phi) or {p: (abs(x), e[p]) for p, x in moved.phi.items()},
                frozenset(one.dropped),
            ),
            "grow": Choice(
                self._drawn("grow", i, open_to) or {p: (-abs(mean[p]), self.off) for p in open_to},
                frozenset(into),
            ),
        }
        if self.rule["adapts"] != "always":
            return choices
        w = update.effective(moved.base, {p: moved.phi.get(p, 0.0) for p in sorted(kept | into)})
        pool = [p for p in w if p not in one.grown or self.rule["exempt"] == "none"]
        scored = self._drawn("adapt", i, pool)
        for p in pool if not scored else ():
            off = e[p] + self.unit * abs(w[p]) if p in moved.phi and p in kept | into else 0.0
            scored[p] = (abs(w[p]), off)
            if self.rule["adapt"] == "sensitivity":
                s = abs(mean[p] * w[p])
                scored[p] = (s, self.off * (abs(w[p]) + off) + abs(mean[p]) * off + 4 * self.unit * s)
            if self.rule["adapt"] == "token-fisher":
                # 8 units are twice the roundings of W, its square, the mean and the product
                square, apart = w[p] * w[p], (2 * abs(w[p]) + off) * off
                s = square * tokens[p]
                scored[p] = (s, self.off_tokens * (square + apart) + tokens[p] * apart + 8 * self.unit * s)
        return choices | {"adapt": Choice(scored, frozenset(one.pruned))}

    def _drawn(self, choice: str, i: int, positions: Iterable[int]) -> dict[int, tuple[float, float]]:
        """Return draws as scores of a `Choice`, without error (RNG-003); return none if the choice is not random."""
        if self.rule[choice] != "random":
            return {}
        use, sign = _USES[choice]
        key = (self.settings["seed"], self.parts[i].matrix, self._number, use)
        return {p: (sign * update_scores.chance(*key, p), 0.0) for p in positions}

    def in_doubt(self, i: int) -> bool:
        """Return whether rounding can change a selection of the event at target i."""
        return not all(choice.decided for choice in self.choices(i).values())


def _columns(after: update_optimizers.Slots, new: Part) -> Iterator[tuple[str, dict[int, float], dict[int, float]]]:
    yield "phi", after.phi, new.phi
    for name in ("m", "v"):
        yield name, after.kept[name], new.kept[name]


_LAST: list[tuple[dict[str, Any], str, Own]] = []
"""Cache of the last step, because checking an answer and going on from it need the same step."""


def own_step(inputs: dict[str, Any], dtype: str) -> Own:
    """Return the kit's own step from the inputs of `train.step`."""
    if not _LAST or _LAST[0][0] is not inputs or _LAST[0][1] != dtype:
        _LAST[:] = [(inputs, dtype, Own(inputs, dtype))]
    return _LAST[0][2]


def broken_step(inputs: dict[str, Any], answer: dict[str, Any], dtype: str) -> str:
    """Return the first fault of an answer of `train.step`, or an empty text."""
    own = own_step(inputs, dtype)
    verdict = compare(answer["loss"], own.step.loss, "relative", dtype)
    if not verdict.passed:
        return f"loss: {verdict.detail}"
    for i in range(len(own.parts)):
        target = {name: answer[name][i] for name in ("base", "base_values", "delta", "delta_values", "m", "v", "age")}
        wrong = _sets(own, i, target) or _values(own, i, target, dtype)
        if wrong:
            return f"target {i}: {wrong}"
    return ""


def _sets(own: Own, i: int, target: dict[str, Any]) -> str:
    """Return the first fault of the positions of target i, or an empty text."""
    after = own.step.parts[i]
    if not own.in_doubt(i):
        for name, want in (("base", after.base), ("delta", after.phi)):
            verdict = compare(target[name], ids(sorted(want)), "exact")
            if not verdict.passed:
                return f"{name}: {verdict.detail}"
        return ""
    base, eta = (target[name].tolist() for name in ("base", "delta"))
    if any(a >= b for positions in (base, eta) for a, b in pairwise(positions)):
        return "TOP-003: positions are not strictly increasing"
    return _another(own, i, set(base), set(eta))


def _another(own: Own, i: int, base: set[int], eta: set[int]) -> str:
    """Return the first fault of the positions of target i if rounding can change the event, or an empty text."""
    moved, choices = own.step.moved[i], own.choices(i)
    old, new = moved.phi.keys() - eta, eta - moved.phi.keys()
    drop, grow, adapt = choices["drop"], choices["grow"], choices.get("adapt")
    # a selection after one in doubt is not checked, because the program may have started from another outcome
    grows, adapts = drop.decided, adapt is not None and drop.decided and grow.decided
    limit = max(moved.budget[0], len(new))
    pruned = (moved.base.keys() - base) | {p for p in old if not drop.may(p)}
    broken = {
        "EVT-006: the base gained a position": not base <= moved.base.keys(),
        "TOP-003: a position outside the matrix": any(not 0 <= p < math.prod(moved.shape) for p in eta),
        "EVT-003: more slots than d_φ": len(eta) > max(moved.delta_budget[0], len(moved.phi)),
        "EVT-003: more than K weights": adapt is not None and len(base | eta) > limit,
        "EVT-008: a weight was pruned": adapt is None and pruned,
        "GROW-002: a position grew that is worse by more than rounding": grows and not all(map(grow.may, new)),
        "ADPT-002: a position left that is worse by more than rounding": adapts
        and not all(adapt.may(p) for p in pruned if adapt is not None),
        "GROW-001: growth left the base": own.rule["grow_scope"] == "active" and not new <= moved.base.keys(),
    }
    return next((text for text, holds in broken.items() if holds), "")


def _values(own: Own, i: int, target: dict[str, Any], dtype: str) -> str:
    """Return the first fault of the values of target i at the positions of the answer, or an empty text."""
    moved, eta = own.step.moved[i], target["delta"].tolist()
    want = reals(own.parts[i].base[p] for p in target["base"].tolist())
    verdict = compare(target["base_values"], want, "exact", dtype)
    if not verdict.passed:
        return f"base_values: {verdict.detail}"
    verdict = compare(target["age"], ids(moved.kept["age"].get(p, 0) for p in eta), "exact")
    if not verdict.passed:
        return f"age: {verdict.detail}"
    for name, key, expected in (("delta_values", "phi", moved.phi), *((n, n, moved.kept[n]) for n in ("m", "v"))):
        top = max(map(abs, expected.values()), default=0.0)
        # a new slot gets no error, because it is exactly zero (DLT-005)
        gauge = reals(top + own.errors[i][key][p] / RELATIVE[dtype] if p in expected else 0.0 for p in eta)
        want = reals(expected.get(p, 0.0) for p in eta)
        verdict = compare(target[name], want, "relative", dtype, Bound(gauge, 1))
        if not verdict.passed:
            return f"{name}: {verdict.detail}"
    return ""
