"""One event of any rule once more, in dictionaries and loops written from SPEC.md; and real events held against it.

`hand_event` knows nothing of the engine: a matrix is two dictionaries, flat position to value and to φ.
"""

import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seft_ref.kernels import reference
from seft_ref.matrix.target import Target
from seft_ref.matrix.window import FirstStepWindow, opened
from seft_ref.topology.csr import flat
from seft_ref.train.gradients import loss_and_gradients
from seft_ref.train.loop import StepRecord, TrainState, step_batches
from seft_ref.train.settings import TrainSettings
from seft_ref.update.optimizers import AdamW
from tests.seft_ref.rule_runs import TOKENS, Run, end


@dataclass
class HandMatrix:
    """One matrix: flat position to base value, to φ, and by name what is kept of a slot."""

    shape: tuple[int, int]
    base: dict[int, Any]
    phi: dict[int, Any]
    kept: dict[str, dict[int, Any]] = field(default_factory=dict)
    shared: dict[str, list] = field(default_factory=dict)
    budget: int = 0
    delta_budget: int = 0
    row_budget: list[int] | None = None
    row_delta_budget: list[int] | None = None
    at_load: list[int] = field(default_factory=list)
    """flat positions stored at load"""

    def support(self) -> list[int]:
        return sorted(set(self.base) | set(self.phi))

    def group_room(self, p: int, width: int) -> int:
        """How many weights the group of a position stored at load (DLT-001)."""
        return sum(q // width == p // width for q in self.at_load)

    def weight(self, p: int) -> Any:
        """b + φ in the compute dtype (DLT-003)."""
        some = next(iter(self.base.values()), next(iter(self.phi.values()), np.float64(0)))
        b = self.base.get(p, type(some)(0))
        return b + self.phi[p] if p in self.phi else b


def hand_matrix(target: Target) -> HandMatrix:
    """A target as dictionaries of NumPy scalars."""
    base, delta = target.base, target.delta
    eta = flat(delta.topology).tolist()

    def listed(rows: Any) -> list[int] | None:
        return None if rows is None else rows.tolist()

    return HandMatrix(
        base.topology.shape,
        dict(zip(flat(base.topology).tolist(), base.values, strict=True)),
        dict(zip(eta, delta.values, strict=True)),
        {name: dict(zip(eta, array, strict=True)) for name, array in delta.kept.items()},
        {name: list(array) for name, array in delta.shared.items()},
        target.budget,
        target.delta_budget,
        listed(target.row_budget),
        listed(target.row_delta_budget),
        sorted([*flat(base.topology).tolist(), *target.lost.tolist()]),
    )


def same(target: Target, by_hand: HandMatrix) -> None:
    """Fail unless a target has exactly the positions and the bits of the dictionaries."""
    got = hand_matrix(target)
    for name, a, b in (
        ("base", got.base, by_hand.base),
        ("phi", got.phi, by_hand.phi),
        *((n, got.kept[n], by_hand.kept[n]) for n in got.kept),
    ):
        assert list(a) == sorted(b), name
        assert all(a[p].tobytes() == b[p].tobytes() for p in a), name


def mix(z: int) -> int:
    """RNG-001 once more."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def chance_by_hand(p: int, *words: int) -> float:
    """RNG-002 and RNG-003 once more: the random score of a position under the key of the words."""
    gamma, key = 0x9E3779B97F4A7C15, 0
    for word in words:
        key = mix(((key + gamma) % 2**64) ^ word)
    return (mix((key + (p + 1) * gamma) % 2**64) >> 11) * 2.0**-53


def first_of(scored: list[tuple[Any, int, int]], k: int, *, largest: bool = False) -> set[tuple[int, int]]:
    """The k best of (score, matrix, position) by score, then matrix, then position (SEL-001, SEL-002, SEL-007)."""
    order = sorted((-float(s) if largest else float(s), i, p) for s, i, p in scored)
    assert 0 <= k <= len(order)
    return {(i, p) for _, i, p in order[:k]}


def count(x: float) -> int:
    """SEL-006."""
    return math.floor(x + 2.0**-20)


@dataclass
class Seen:
    """What an event knows of the gradients of a matrix, as arrays of one entry a position."""

    mean: np.ndarray | None = None
    absolute: np.ndarray | None = None
    square: np.ndarray | None = None
    inputs: np.ndarray | None = None
    steps: int = 1
    tokens: dict[int, Any] = field(default_factory=dict)  # on the support


@dataclass
class HandEvent:
    """Positions that an event moved, for each matrix."""

    dropped: set[int] = field(default_factory=set)
    grown: set[int] = field(default_factory=set)
    cancelled: set[int] = field(default_factory=set)
    pruned: set[int] = field(default_factory=set)


Scored = tuple[Any, int, int]
"""A score, the number of its matrix, its flat position"""


def hand_event(
    matrices: list[HandMatrix], seen: list[Seen], settings: TrainSettings, step: int, fraction: float
) -> list[HandEvent]:
    """One event of all matrices (chapter 8), in place; candidates first-step is not written."""
    rule = settings.rule
    pools = _pools(matrices, rule)
    looked = [_Look(settings, i, step, seen[i]) for i in range(len(matrices))]
    slots = _by_pool(
        [(look.drop(m, p), look.i, p) for look, m in zip(looked, matrices, strict=True) for p in m.phi], matrices, rule
    )
    n_drop = {pool: count(fraction * len(slots.get(pool, []))) for pool in pools}
    dropped = [set() for _ in matrices]
    for pool in pools:
        for i, p in first_of(slots.get(pool, []), n_drop[pool]):
            dropped[i].add(p)
    open_to = [_open_to(look, m, gone) for look, m, gone in zip(looked, matrices, dropped, strict=True)]
    candidates = _by_pool([one for scored in open_to for one in scored], matrices, rule)
    grown = [set() for _ in matrices]
    for pool, wanted in pools.items():
        here = candidates.get(pool, [])
        n_grow = max(0, n_drop[pool] + wanted - len(slots.get(pool, [])))
        for i, p in first_of(here, min(n_grow, len(here)), largest=True):
            grown[i].add(p)
    done = [_move(m, gone, come, look) for m, gone, come, look in zip(matrices, dropped, grown, looked, strict=True)]
    if rule.adapts == "always":
        for did, gone in zip(
            done, prune_by_hand(matrices, seen, settings, step, 3, [d.grown for d in done]), strict=True
        ):
            did.pruned = gone
    return done


def _pool_of(i: int, p: int, matrices: list[HandMatrix], rule: Any) -> Any:
    """The pool in which slots are compared (EVT-009)."""
    if rule.scope == "model":
        return "all"
    return (i, p // matrices[i].shape[1]) if rule.scope == "row" else i


def _by_pool(scored: list[Scored], matrices: list[HandMatrix], rule: Any) -> dict[Any, list[Scored]]:
    found: dict[Any, list[Scored]] = {}
    for s, i, p in scored:
        found.setdefault(_pool_of(i, p, matrices, rule), []).append((s, i, p))
    return found


def _pools(matrices: list[HandMatrix], rule: Any) -> dict[Any, int]:
    """Every pool and its d_φ."""
    if rule.scope == "model":
        return {"all": sum(m.delta_budget for m in matrices)}
    if rule.scope == "row":
        return {(i, r): d for i, m in enumerate(matrices) for r, d in enumerate(m.row_delta_budget)}
    return {i: m.delta_budget for i, m in enumerate(matrices)}


def _open_to(look: "_Look", m: HandMatrix, dropped: set[int]) -> list[Scored]:
    """Candidates and their scores (GROW-001, GROW-005, GROW-007)."""
    rule, i = look.settings.rule, look.i
    taken = set(m.phi) - dropped if rule.regrow else set(m.phi)
    everywhere = sorted(m.base) if rule.grow_scope == "active" else range(m.shape[0] * m.shape[1])
    scored = [(look.grow(m, p), i, p) for p in everywhere if p not in taken]
    if rule.scope != "group":
        return scored
    width = look.settings.pattern[1]
    groups: dict[int, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one[2] // width, []).append(one)
    best = set().union(
        *(first_of(here, min(m.group_room(g * width, width), len(here)), largest=True) for g, here in groups.items())
    )
    return [one for one in scored if one[1:] in best]


def _move(m: HandMatrix, dropped: set[int], grown: set[int], look: "_Look") -> HandEvent:
    """Drop and grow in place (GROW-003, DROP-004, DLT-005, DLT-006)."""
    rule = look.settings.rule
    did = HandEvent(dropped, grown - dropped, grown & dropped)
    if "origin" in m.kept:
        m.kept["origin"] |= {p: m.phi[p] for p in did.cancelled}
    kind = type(next(iter({**m.phi, **m.base}.values()), np.float32(0)))
    for p in dropped - did.cancelled:
        for part in (m.phi, *m.kept.values()):
            del part[p]
        if rule.drops == "weight":
            m.base.pop(p, None)
    for p in did.grown:
        m.phi[p] = kind(0)
        for name, part in m.kept.items():
            part[p] = np.int32(0) if name == "age" else kind(0)
            if rule.moments == "seeded" and name != "origin":
                part[p] = look.seed(name, p, kind)
    return did


def prune_by_hand(
    matrices: list[HandMatrix], seen: list[Seen], settings: TrainSettings, step: int, use: int, fresh: list[set[int]]
) -> list[set[int]]:
    """Adapt in place; return what was pruned from each matrix. use 4: the last pass (EVT-004)."""
    rule = settings.rule
    counts, exempt = (rule.counts, rule.exempt) if use == 3 else ("support", "none")
    sizes: dict[Any, int] = {}
    budgets: dict[Any, int] = {}
    scored: dict[Any, list[Scored]] = {}
    for i, m in enumerate(matrices):
        look = _Look(settings, i, step, seen[i])
        passed_over = {"new": fresh[i], "slots": set(m.phi), "none": set()}[exempt]
        for p in m.support():
            if counts == "values" and m.weight(p) == 0:
                continue
            pool, budgets[pool] = _room(i, p, matrices, settings)
            sizes[pool] = sizes.get(pool, 0) + 1
            if p not in passed_over:
                scored.setdefault(pool, []).append((look.adapt(m, p, use), i, p))
    gone: list[set[int]] = [set() for _ in matrices]
    for pool, size in sizes.items():
        for i, p in first_of(scored.get(pool, []), max(0, size - budgets[pool])):
            gone[i].add(p)
            for part in (matrices[i].base, matrices[i].phi, *matrices[i].kept.values()):
                part.pop(p, None)
    return gone


def _room(i: int, p: int, matrices: list[HandMatrix], settings: TrainSettings) -> tuple[Any, int]:
    """The pool in which a weight is compared, and its budget (DLT-001)."""
    m = matrices[i]
    if settings.rule.scope == "row":
        return (i, p // m.shape[1]), m.row_budget[p // m.shape[1]]
    if settings.rule.scope == "group":
        width = settings.pattern[1]
        return (i, p // width), m.group_room(p, width)
    return ("all", sum(other.budget for other in matrices)) if settings.rule.scope == "model" else (i, m.budget)


@dataclass
class _Look:
    """The scores of positions of a matrix (DROP-003, GROW-004, ADPT-005)."""

    settings: TrainSettings
    i: int
    step: int
    seen: Seen

    def chance(self, p: int, use: int) -> float:
        return chance_by_hand(p, self.settings.seed, 3, self.i, self.step, use)

    def drop(self, m: HandMatrix, p: int) -> Any:
        kind, phi = self.settings.rule.drop, m.phi[p]
        if kind in ("magnitude", "change"):
            return abs(phi - m.kept["origin"][p]) if kind == "change" else abs(phi)
        if kind == "fisher":
            return self.seen.square[p] * (phi * phi)
        return abs(m.weight(p)) if kind == "weight" else self.chance(p, 1)

    def seed(self, name: str, p: int, kind: Any) -> Any:
        """What a new slot starts with under moments seeded (DLT-006)."""
        how, a = self.settings.optimizer, self.seen.steps
        if name == "age":
            return np.int32(a if type(how) is AdamW else a - 1)
        if name == "second_moment":
            return self.seen.square[p] * kind(1 - how.beta2**a)
        factor = 1 - how.beta1**a if name == "first_moment" else (1 - how.momentum**a) / (1 - how.momentum)
        return self.seen.mean[p] * kind(factor)

    def grow(self, m: HandMatrix, p: int) -> Any:
        kind = self.settings.rule.grow
        row, column = divmod(p, m.shape[1])
        if kind == "gradient":
            return abs(self.seen.mean[p])
        if kind in ("absolute", "fisher"):
            return self.seen.absolute[p] if kind == "absolute" else self.seen.square[p]
        if kind in ("moments", "random"):
            return m.shared["rows"][row] * m.shared["columns"][column] if kind == "moments" else self.chance(p, 2)
        h = self.seen.inputs[column]
        return (self.seen.mean[p] * self.seen.mean[p]) / h if h else 0.0

    def adapt(self, m: HandMatrix, p: int, use: int) -> Any:
        kind, w = self.settings.rule.adapt, m.weight(p)
        if kind == "sensitivity":
            return abs(self.seen.mean[p] * w)
        if kind in ("absolute", "magnitude"):
            return abs(w) * self.seen.absolute[p] if kind == "absolute" else abs(w)
        if kind in ("fisher", "token-fisher"):
            # what has just come back has no tokens, and a weight of 0
            return (w * w) * (self.seen.square[p] if kind == "fisher" else self.seen.tokens.get(p, 0.0))
        if kind == "random":
            return self.chance(p, use)
        h = self.seen.inputs[p % m.shape[1]]
        return abs(w) * np.sqrt(h) if kind == "activation" else type(w)(0.5) * ((w * w) * h)


def seen_by(window: Any) -> Seen:
    """Everything a window knows, position by position, and NaN where it keeps nothing."""
    if window is None:
        return Seen()
    whole = window.kept_at is None
    known = window.rows(0, window.shape[0]) if whole else window.at_positions()
    sums = []
    for kept in (known.gradient, known.absolute, known.square):
        sums.append(kept if kept is None else np.full(window.shape, np.nan, kept.dtype).reshape(-1))
        if kept is not None:
            sums[-1][slice(None) if whole else flat(window.kept_at())] = kept.reshape(-1)
    tokens = window.of_tokens()
    by_position = {} if tokens is None else dict(zip(flat(window.support()).tolist(), tokens, strict=True))
    return Seen(*sums, window.inputs(), window.steps, by_position)


@dataclass
class Watched:
    """An event as it was entered: the matrices after the optimizer's step, and what their windows held."""

    matrices: list[HandMatrix]
    seen: list[Seen]
    windows: list[Any]


def watch(monkeypatch: Any) -> list[Watched]:
    """Have every event leave here what it was given."""
    loop = importlib.import_module("seft_ref.train.loop")  # the package's name `train` is the function
    events: list[Watched] = []
    engine = loop.evolve_all

    def watched(targets: Any, kept: Any, step: int, settings: TrainSettings, kernels: Any) -> Any:
        windows = [kept.get(name) for name in targets]
        whole = [None if isinstance(w, FirstStepWindow) else w for w in windows]
        events.append(Watched([hand_matrix(t) for t in targets.values()], [seen_by(w) for w in whole], windows))
        return engine(targets, kept, step, settings, kernels)

    monkeypatch.setattr(loop, "evolve_all", watched)
    return events


def check_event(event: Watched, after: TrainState, record: StepRecord, settings: TrainSettings) -> list[HandEvent]:
    """Fail unless the state after an event is the one that dictionaries give, bit for bit, and the counts agree."""
    fraction = settings.timetable().fraction(after.step)
    moved = hand_event(event.matrices, event.seen, settings, after.step, fraction)
    for (name, target), by_hand, did in zip(after.targets.items(), event.matrices, moved, strict=True):
        same(target, by_hand)
        noted = record.matrices[name]
        for what in ("dropped", "grown", "cancelled", "pruned"):
            assert getattr(noted, what) == len(getattr(did, what)), (name, what)
    return moved


def check_end(run: Run) -> list[set[int]]:
    """Fail unless the final weights of a run are those of dictionaries (EVT-004, EVT-008); return what was pruned."""
    settings = run.settings
    targets, asked = run.state.targets, settings.rule.asks_at_end()
    matrices = [hand_matrix(target) for target in targets.values()]
    gone: list[set[int]] = [set() for _ in matrices]
    if settings.rule.adapts != "never":
        empty = {n: opened(t.base, t.delta.topology, asked, on_support=True) for n, t in targets.items()}
        batches = step_batches(settings, TOKENS, settings.steps, run.state.weights)
        kept = loss_and_gradients(run.state.weights, run.config, batches, reference, {}, empty).kept
        seen = [seen_by(window) for window in kept.values()]
        gone = prune_by_hand(matrices, seen, settings, settings.steps, 4, [set() for _ in matrices])
    for m, (topology, values) in zip(matrices, end(run).values(), strict=True):
        assert flat(topology).tolist() == m.support()
        assert [m.weight(p).tobytes() for p in m.support()] == [v.tobytes() for v in values]
    return gone
