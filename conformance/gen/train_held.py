"""Cases of runs whose targets stay in 16 bits or codes (CKP-008, QNT-008, QNT-011)."""

from dataclasses import replace
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from conformance.gen import tiny, train_presets
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.gen.train import GAP, described, run_answer
from conformance.gen.train_looks import differs
from conformance.oracle import quantise, train, update_choices
from conformance.oracle.event import Outcome
from conformance.oracle.event_evidence import Evidence

TIE = 2e-3
"""Least distance of a weight from a tie of its grid, in steps of the grid: other roundings must give the same code."""
_SHORT: dict[str, Any] = {"steps": 7, "evolve_every": 3, "rows": 2, "micro_batches": 1, "start": "random"}

World = tuple[dict[str, Array], dict[str, list[int]], list[int]]


class _OnGrid(train.Trainer):
    """A run whose layers multiply by the weights of codes at the slots (QNT-011).

    Attributes:
        coded: the codes of each target.
        tie: the least distance of a rounded weight from a tie so far, in steps of the grid.
    """

    coded: list[quantise.Coded]
    tie = 1.0

    def snap(self) -> None:
        """Replace φ so that every weight at a slot is that of a code."""
        for i, part in enumerate(self.parts):
            b = part.base
            phi = {p: self.rounded(i, p, b.get(p, 0.0) + x) - b.get(p, 0.0) for p, x in part.phi.items()}
            self.parts[i] = replace(part, phi=phi)

    def multiplied(self, i: int, weights: dict[int, float]) -> dict[int, float]:
        """Return the weights with those at slots rounded to codes."""
        return {p: self.rounded(i, p, w) if p in self.parts[i].phi else w for p, w in weights.items()}

    def rounded(self, i: int, p: int, w: float) -> float:
        """Return the weight of the nearest code (QNT-004)."""
        matrix = self.coded[i]
        scale, zero = matrix.parts(p)
        self.tie = min(self.tie, abs(abs(w / scale) % 1.0 - 0.5))
        return (matrix.clamped(matrix.free(p, w)) - zero) * scale


class _BesideGrid(_OnGrid):
    """A wrong run: weights at slots become whole numbers of steps, however many."""

    def rounded(self, i: int, p: int, w: float) -> float:
        """Return the nearest whole number of steps."""
        scale, _ = self.coded[i].parts(p)
        return round(w / scale) * scale


class _SnappedUpdate(_OnGrid):
    """A wrong run: φ itself is rounded after every step."""

    def optimize(self, step: int, gradients: list[list[float]]) -> None:
        """Take a step and round."""
        super().optimize(step, gradients)
        self.snap()


class _RoundedEvents(_OnGrid):
    """A wrong run: events drop and prune by rounded weights; φ stays as it is."""

    def event(self, step: int, evidence: list[Evidence]) -> list[Outcome]:
        """Run an event on rounded weights."""
        before = [part.phi for part in self.parts]
        self.snap()
        outcomes = super().event(step, evidence)
        for i, part in enumerate(self.parts):
            phi = {p: before[i].get(p, x) for p, x in part.phi.items()}
            self.parts[i] = replace(part, phi=phi)
        return outcomes


def quantised(world: World, grid: str) -> tuple[World, list[quantise.Coded]]:
    """Return a world whose targets have the weights of codes, and the codes."""
    tensors, stored, text = world
    coded = [quantise.nearest(tensors[name], stored[name], grid) for name in stored]
    changed = dict(tensors)
    for name, matrix in zip(stored, coded, strict=True):
        whole = np.zeros(tensors[name].size)
        for p in stored[name]:
            whole[p] = float(np.float32(float(matrix.weight(p))))
        changed[name] = whole.reshape(tensors[name].shape)
    return (changed, stored, text), coded


HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(bfloat16)}
"""The 16-bit forms in which targets may be held."""


def in_halves(world: World, form: str) -> World:
    """Return a world whose targets have weights of a 16-bit form."""
    tensors, stored, text = world
    return tensors | {name: tensors[name].astype(HALVES[form]).astype(float) for name in stored}, stored, text


def codes_of(coded: list[quantise.Coded], stored: dict[str, list[int]]) -> dict[str, Any]:
    """Return codes, scales and zero points of all targets as inputs."""
    matrices = dict(zip(stored, coded, strict=True))
    return {
        "codes": {name: ids(m.codes[p] for p in stored[name]) for name, m in matrices.items()},
        "scales": {name: reals(np.array(m.scales)) for name, m in matrices.items()},
        "zeros": {name: np.array(m.zeros, dtype=np.int64) for name, m in matrices.items()},
    }


def held() -> Area:
    """Return cases of runs on targets that are held as they are stored."""
    area = Area("held-run", "binary64 run")
    rule = dict(update_choices.RULE)
    for name, form, exact, more, clauses, purpose in (
        ("float16", "float16", 0, {}, "CKP-008 KRN-016", "a base that is rounded again, or slots that stay in 16 bits"),
        ("bfloat16", "bfloat16", 0, {}, "CKP-008 KRN-016", "a base of another 16-bit type"),
        ("codes", "int8", 0, {}, "CKP-008 QNT-008 KRN-018", "sensitivity of codes, or weights of other groups"),
        ("codes-4", "int4:asym", 0, {"rule": rule | {"adapt": "magnitude"}}, "CKP-008 QNT-008 KRN-018",
         "pruning by the size of codes"),
        ("exact", "int8", 1, {}, "QNT-011 QNT-004", "layers that multiply by b + φ, or φ that is rounded"),
        ("exact-4", "int4", 1, {"rule": rule | {"adapt": "magnitude"}, "lr": 0.25}, "QNT-011 QNT-004",
         "a weight beyond the codes that is not clamped, or events by rounded weights"),
    ):  # fmt: skip
        settings = train_presets.SETTINGS | _SHORT | {"rule": rule} | more
        inputs, answer = _case(settings, form, exact)
        area.add(name, "train.held", clauses, purpose, inputs, answer, dtypes=("float32",))
        if name == "codes":
            area.add("refuse-float64", "train.held", "CKP-008 QNT-008", "codes held in float64", inputs,
                     refused="CKP-008", dtypes=("float64",))  # fmt: skip
        if name == "bfloat16":
            area.add("refuse-exact", "train.held", "QNT-011", "a run on a grid that the model does not have",
                     inputs | {"exact": 1}, refused="QNT-011", dtypes=("float32",))  # fmt: skip
    return area


def run_held(
    settings: dict[str, Any], world: World, form: str, *, exact: int
) -> tuple[train.Run, dict[str, Any], float]:
    """Return a run on targets held as `form`, its inputs, and the least distance of a rounded weight from a tie."""
    world, coded = (in_halves(world, form), []) if form in HALVES else quantised(world, form)
    kind: type[train.Trainer] = type("OnGrid", (_OnGrid,), {"coded": coded}) if exact else train.Trainer
    trainer, losses, events, moves = train.before_finish(tiny.CONFIG, *world, settings, kind)
    inputs = described(settings, world, tiny.CONFIG) | {"held": form}
    inputs |= (codes_of(coded, world[1]) if coded else {}) | ({"exact": 1} if exact else {})
    return train.finished(trainer, losses, events, moves), inputs, getattr(trainer, "tie", 1.0)


def _case(settings: dict[str, Any], form: str, exact: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and outputs of the first seed whose run hangs on no rounding and shows what it is for."""
    for seed in range(2000):
        mine, drawn = settings | {"seed": seed}, tiny.world(Numbers(191, seed), tiny.CONFIG)
        run, inputs, tie = run_held(mine, drawn, form, exact=exact)
        if run.gap < GAP or not run.moves["grown"] or tie < TIE:
            continue
        if exact:
            world, coded = quantised(drawn, form)
            kinds = (_BesideGrid, _SnappedUpdate, _RoundedEvents) if form == "int4" else (_SnappedUpdate,)
            wrong = [type(kind.__name__, (kind,), {"coded": coded}) for kind in kinds]
            if not all(differs(mine, world, run, other) for other in (train.Trainer, *wrong)):
                continue
        return inputs, run_answer(run)
    msg = f"no seed for {form}"
    raise AssertionError(msg)


AREAS = (held,)
