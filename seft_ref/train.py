"""The loop: the only place that puts model, gradients and rules together.

    start = initial_state(settings, config, weights, bases, kernels, step_batches(settings, tokens, 1, weights))
    for state, record in train(start, settings, config, tokens, kernels): ...
    final = finish(state)

`train_step` is the whole method on one screen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace, int64_like
from seft_ref.compact import CompactBase, compacted
from seft_ref.config import ModelConfig
from seft_ref.errors import ConfigError
from seft_ref.evaluate import batch_of
from seft_ref.evidence import View, evidence
from seft_ref.finite import check_eps, gradient_norm, refuse_spoilt
from seft_ref.gradients import Batch, loss_and_gradients
from seft_ref.groups import in_groups
from seft_ref.kernels import Kernels, Packed
from seft_ref.settings import TrainSettings, settings_of
from seft_ref.start import initial_positions
from seft_ref.text import training_starts
from seft_ref.topology import Topology, find, flat, per_pool, slots_per_row, union
from seft_ref.update.criteria import Chance
from seft_ref.update.delta import Base, Delta, effective, new_delta, values_at
from seft_ref.update.evidence import Evidence
from seft_ref.update.evolve import Event, Part, evolve, final_adapt
from seft_ref.update.optimizers import Sm3, clip_factor, shares_of
from seft_ref.update.record import EventRecord, record_of
from seft_ref.update.rules import Rule
from seft_ref.update.schedule import learning_rate_at, n_drop
from seft_ref.weights import Weights, matrix_of, with_matrices
from seft_ref.window import AnyWindow, FirstStepWindow, Window

__all__ = [
    "StepRecord",
    "Target",
    "TrainSettings",
    "TrainState",
    "finish",
    "initial_state",
    "place",
    "refresh",
    "settings_of",
    "step_batches",
    "train",
    "train_step",
]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The sparse state of one matrix, and how its delta sits in the packed weight."""

    base: Base | CompactBase
    delta: Delta
    budget: int
    """K, the stored weights at load (DLT-001)"""
    delta_budget: int
    where: Int[Array, " d"]
    """places of the slots in the packed weight"""
    under: Float[Array, " d"]
    """base values under the slots, 0 where the base has none"""
    lost: Int[Array, " n"]
    """flat positions that were stored at load and have left the base, ascending"""
    row_budget: Int[Array, " out"] | None = None
    """K of each row, with scope row"""
    row_delta_budget: Int[Array, " out"] | None = None

    def support_size(self) -> int:
        """Return |S|, S = B ∪ η."""
        base = self.base.open()
        _, present = find(flat(base.topology), flat(self.delta.topology))
        xp = array_namespace(present)
        return base.nnz + self.delta.topology.nnz - int(xp.sum(xp.astype(present, xp.int64)))


@dataclass(frozen=True, slots=True, eq=False)
class TrainState:
    """A run after `step` steps. Its packed weights are donated to the next step: a state is used once."""

    step: int
    targets: dict[str, Target]
    weights: Weights
    window: dict[str, AnyWindow]
    """what the steps since the window opened have summed up to; empty outside one (TRN-005)"""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a step did: loss in nats per target, norms in loss per unit of weight; the sums of an event over all
    matrices, and the record of each (TRN-009).
    """

    step: int
    loss: float
    lr: float
    gradient_norm: float
    event: dict[str, int] | None = None
    matrices: dict[str, EventRecord] | None = None


def initial_state(
    settings: TrainSettings,
    config: ModelConfig,
    weights: Weights,
    bases: Mapping[str, Base | CompactBase],
    kernels: Kernels,
    batches: Sequence[Batch],
) -> TrainState:
    """Return the state before the first step (DLT-001, DLT-002, DLT-004).

    weights  the model with its bases packed
    bases    a base for every target of the config
    batches  those of the first step; initial_positions "gradient" looks at their gradient
    Raises   ConfigError DLT-002 if no matrix would get a slot, EVT-012 if scope group does not fit the model,
             TRN-008 if eps is 0 in the dtype of the weights
    """
    check_eps(getattr(settings.optimizer, "eps", 1.0), weights.norm)
    sizes = settings.delta_budgets(list(bases.values()))
    if settings.pattern is not None:
        bases = {name: _in_groups(base, settings.pattern) for name, base in bases.items()}
    chosen = initial_positions(settings, config, weights, bases, kernels, batches, sizes)
    targets: dict[str, Target] = {}
    packed: dict[str, Packed] = {}
    for matrix, size in zip(config.targets(), sizes, strict=True):
        base, positions = bases[matrix.name].open(), chosen[matrix.name]
        shares = shares_of(settings.optimizer, matrix.shape)
        delta = new_delta(matrix.shape, positions, base.values, settings.keeps(), shares)
        row_budget = slots_per_row(base.topology) if settings.rule.scope == "row" else None
        row_slots = slots_per_row(delta.topology) if settings.rule.scope == "row" else None
        new = Target(base, delta, base.nnz, size, positions[:0], base.values[:0], positions[:0], row_budget, row_slots)
        held = bases[matrix.name]
        if isinstance(held, CompactBase):
            targets[matrix.name], packed[matrix.name] = place(new, kernels, held.held_in, loaded=held.frozen)
        elif settings.initial_scope == "anywhere":
            targets[matrix.name], packed[matrix.name] = place(new, kernels)
        else:
            # η lies in B and φ = 0: the base as packed is the effective weight
            targets[matrix.name] = _placed(new, base.topology, matrix_of(weights, matrix.name), kernels)
    if not any(target.delta_budget for target in targets.values()):
        raise ConfigError("DLT-002", "the delta budget gives no matrix a single slot; raise density, slots or rank")
    return TrainState(0, targets, with_matrices(weights, packed), {})


def place(target: Target, kernels: Kernels, held_in: Any = None, **memory: Packed) -> tuple[Target, Packed]:
    """Return a target whose base or delta has moved with its effective weight, packed (DLT-003).

    held_in  the 16-bit dtype in which the base is held; None for the dtype of computation (CKP-008)
    memory   of a compact base: `loaded` or `spent` of `compacted`
    """
    if held_in is not None:
        base, packed, where, under = compacted(target.base.open(), target.delta, held_in, kernels, **memory)
        return replace(target, base=base, where=where, under=under), packed
    assert isinstance(target.base, Base)
    support, values = effective(target.base, target.delta)
    packed = kernels.pack(support, values)
    return _placed(target, support, packed, kernels), packed


def _placed(target: Target, support: Topology, packed: Packed, kernels: Kernels) -> Target:
    """Return a target whose effective weight is packed on the given support."""
    eta = flat(target.delta.topology)
    slots, _ = find(flat(support), eta)
    base = target.base.open()
    under = values_at(flat(base.topology), base.values, eta)
    return replace(target, where=kernels.locate(packed, support, slots), under=under)


def train_step(
    state: TrainState,
    batches: Sequence[Batch],
    settings: TrainSettings,
    config: ModelConfig,
    kernels: Kernels,
    *,
    recompute: bool | None = None,
) -> tuple[TrainState, StepRecord]:
    """Return the state after one more step, and what it did (chapters 8 to 10); recompute as `loss_and_gradients`.

    Raises:
        UpdateError: TRN-007 for a loss, gradient or new state that is not finite; EVT-005 for such evidence. The
        given state is spent then.
    """
    step = state.step + 1
    rule, timetable = settings.rule, settings.timetable()
    has_event = timetable.is_event(step)
    slots = {name: target.delta.topology for name, target in state.targets.items()}
    window = _window(state, step, settings)
    found = loss_and_gradients(state.weights, config, batches, kernels, slots, window, recompute=recompute)
    norm = gradient_norm(step, found.loss, found.at)

    lr = learning_rate_at(step, settings.steps, settings.lr, settings.warmup_steps, settings.lr_schedule)
    targets = dict(state.targets)
    # EVT-010
    if not (has_event and rule.event_replaces_step):
        factor = clip_factor(norm * norm, settings.max_norm)
        optimize = settings.optimizer.step
        targets = {
            name: replace(target, delta=optimize(target.delta, found.at[name] * factor, lr))
            for name, target in targets.items()
        }
        _check(targets, step)
    if not has_event:
        weights = refresh(state.weights, targets, kernels)
        # settled, so that a run resumed inside a window adds the same numbers in the same order (TRN-004)
        open_window = {name: seen.settled() for name, seen in found.kept.items()}
        return TrainState(step, targets, weights, open_window), StepRecord(step, found.loss, lr, norm)

    targets, packed, records = evolve_all(targets, found.kept, step, settings, kernels)
    _check(targets, step)
    total = {key: sum(getattr(record, key) for record in records.values()) for key in EventRecord.COUNTS}
    return (
        TrainState(step, targets, with_matrices(state.weights, packed), {}),
        StepRecord(step, found.loss, lr, norm, total, records),
    )


def evolve_all(
    targets: Mapping[str, Target],
    kept: Mapping[str, AnyWindow],
    step: int,
    settings: TrainSettings,
    kernels: Kernels,
) -> tuple[dict[str, Target], dict[str, Packed], dict[str, EventRecord]]:
    """Return the targets after the event of a step, their packed weights, and what happened to each (EVT-001).

    A matrix is looked at, changed and packed before the next, unless all are one pool.
    """
    names = list(targets)
    pools = [list(range(len(names)))] if settings.rule.scope == "model" else [[i] for i in range(len(names))]
    fraction = settings.timetable().fraction(step)
    after: dict[str, Target] = {}
    packed: dict[str, Packed] = {}
    records: dict[str, EventRecord] = {}
    for pool in pools:
        held = [replace(targets[names[i]], base=targets[names[i]].base.open()) for i in pool]
        budgets = [_budget(target, settings) for target in held]
        views = [
            View(kept.get(names[i]), t.base.open(), t.delta, i, k if settings.rule.scope == "group" else None)
            for i, t, k in zip(pool, held, budgets, strict=True)
        ]
        drops, grows = _counts(held, fraction, settings)
        chance = Chance(settings.seed, step)
        pattern = settings.pattern if settings.rule.scope == "group" else None
        seen = evidence(views, settings.rule, grows, chance=chance, pattern=pattern, kernels=kernels)
        parts = [_part(*of, settings) for of in zip(held, seen, budgets, pool, strict=True)]
        seeds = None if isinstance(settings.optimizer, Sm3) else settings.optimizer.seeds
        events = evolve(parts, n_drop=drops, rule=settings.rule, chance=chance, pattern=pattern, seeds=seeds)
        for i, before, part, event in zip(pool, held, parts, events, strict=True):
            name = names[i]
            base = targets[name].base
            moved = _after(before, event, None if isinstance(base, CompactBase) else settings.pattern)
            # a base only shrinks, and the state before the event is spent
            memory = {"spent": base.frozen} if isinstance(base, CompactBase) else {}
            after[name], packed[name] = place(moved, kernels, base.held_in, **memory)
            records[name] = record_of(part, event, before.budget, before.delta_budget, moved.lost)
    return after, packed, records


def _counts(held: Sequence[Target], fraction: float, settings: TrainSettings) -> tuple[Any, Any]:
    """Return how many slots a pool drops (SCH-002), and how many positions it grows at most (GROW-002)."""
    if settings.rule.scope != "row":
        slots = sum(target.delta.topology.nnz for target in held)
        drops = n_drop(fraction, slots)
        return drops, max(0, drops + sum(target.delta_budget for target in held) - slots)
    (target,) = held
    per_row = slots_per_row(target.delta.topology)
    xp = array_namespace(per_row)
    drops = int64_like([n_drop(fraction, int(n)) for n in per_row], per_row)
    grows = drops + target.row_delta_budget - per_row
    return drops, xp.where(grows > 0, grows, xp.zeros_like(grows))


def _part(target: Target, seen: Evidence, budget: Any, matrix: int, settings: TrainSettings) -> Part:
    """Return a target as an event sees it."""
    delta_budget = target.row_delta_budget if settings.rule.scope == "row" else target.delta_budget
    return Part(target.base.open(), target.delta, seen, budget, delta_budget, matrix)


def _budget(target: Target, settings: TrainSettings) -> Any:
    """Return K of a matrix, of its rows or of its groups: what each stored at load (DLT-001)."""
    if settings.rule.scope == "row":
        return target.row_budget
    if settings.rule.scope != "group":
        return target.budget
    assert settings.pattern is not None, "scope group needs a pattern"
    at_load = union(flat(target.base.topology), target.lost)
    width = settings.pattern[1]
    return per_pool(at_load, width, target.base.topology.numel // width)


def _after(target: Target, event: Event, pattern: tuple[int, int] | None) -> Target:
    """Return a target after an event, not yet placed; an N:M base stays in its groups (TOP-005)."""
    if not event.left.shape[0]:
        return replace(target, delta=event.delta)
    base = event.base if pattern is None else replace(event.base, topology=in_groups(event.base.topology, pattern))
    return replace(target, base=base, delta=event.delta, lost=union(target.lost, event.left))


def refresh(weights: Weights, targets: Mapping[str, Target], kernels: Kernels) -> Weights:
    """Return the weights with every slot's effective value, base plus delta rounded once, stored (DLT-003)."""
    packed = {}
    for name, target in targets.items():
        packed[name] = kernels.store(matrix_of(weights, name), target.where, target.under + target.delta.values)
    return with_matrices(weights, packed)


def train(
    state: TrainState,
    settings: TrainSettings,
    config: ModelConfig,
    tokens: Sequence[int],
    kernels: Kernels,
    *,
    recompute: bool | None = None,
) -> Iterator[tuple[TrainState, StepRecord]]:
    """Yield the state and the record after every remaining step; windows come from the token stream (TRN-003)."""
    while state.step < settings.steps:
        batches = step_batches(settings, tokens, state.step + 1, state.weights)
        state, record = train_step(state, batches, settings, config, kernels, recompute=recompute)
        yield state, record


def step_batches(settings: TrainSettings, tokens: Sequence[int], step: int, weights: Weights) -> list[Batch]:
    """Return the micro-batches of a step, counted from 1 (TRN-002, TRN-003)."""
    rows = settings.batch * settings.micro_batches
    starts = training_starts(len(tokens), settings.length, settings.seed, step, rows)
    return [
        batch_of(tokens, starts[i : i + settings.batch], settings.length, weights)
        for i in range(0, rows, settings.batch)
    ]


def finish(
    state: TrainState, settings: TrainSettings, config: ModelConfig, tokens: Sequence[int], kernels: Kernels
) -> Mapping[str, tuple[Topology, Array]]:
    """Return for each target the final support and the weight on it, after one last adapt pass where it is
    needed (EVT-004).

    The pass looks at the gradient of the last step's data at the final weights.
    """
    rule = settings.rule
    asked = rule.asks_at_end()
    names = list(state.targets)
    sizes = {name: target.support_size() for name, target in state.targets.items()}
    # EVT-008
    if rule.adapts == "never":
        over: list[str] = []
    elif rule.scope == "model":
        too_many = sum(sizes.values()) > sum(t.budget for t in state.targets.values())
        over = names if too_many else []
    else:
        over = [name for name in names if _over(state.targets[name], sizes[name], settings)]
    final: dict[str, tuple[Base | CompactBase, Delta]] = {n: (t.base, t.delta) for n, t in state.targets.items()}
    kept: dict[str, AnyWindow] = {}
    if over and asked:
        batches = step_batches(settings, tokens, settings.steps, state.weights)
        empty: dict[str, AnyWindow] = {name: Window(final[name][0].shape, asked) for name in over}
        kept = loss_and_gradients(state.weights, config, batches, kernels, {}, empty).kept
    parts = []
    chance = Chance(settings.seed, settings.steps)
    at_end = Rule(adapt=rule.adapt)
    for name in over:
        target, matrix = state.targets[name], names.index(name)
        target = replace(target, base=target.base.open())
        # growth does not happen any more: nothing is scored
        (seen,) = evidence([View(kept.get(name), target.base.open(), target.delta, matrix)], at_end, None)
        parts.append(_part(target, seen, _budget(target, settings), matrix, settings))
    for name, event in zip(over, final_adapt(parts, rule=rule, chance=chance, pattern=settings.pattern), strict=True):
        final[name] = (event.base, event.delta)
    return Final(final)


class Final(Mapping[str, tuple[Topology, Array]]):
    """The support and the weight on it of every target, each put together when it is asked for."""

    def __init__(self, held: Mapping[str, tuple[Base | CompactBase, Delta]]) -> None:
        self._held = held

    def __getitem__(self, name: str) -> tuple[Topology, Array]:
        base, delta = self._held[name]
        return effective(base.open(), delta)

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def _in_groups(base: Base | CompactBase, pattern: tuple[int, int]) -> Base | CompactBase:
    """Return a base whose topology is held in groups (TOP-005); a compact one is small as it is."""
    return replace(base, topology=in_groups(base.topology, pattern)) if isinstance(base, Base) else base


def _over(target: Target, size: int, settings: TrainSettings) -> bool:
    """Tell whether a matrix, or one of its rows, holds more than its budget."""
    if settings.rule.scope != "row":
        return size > target.budget
    xp = array_namespace(target.row_budget)
    return bool(xp.any(slots_per_row(effective(target.base.open(), target.delta)[0]) > target.row_budget))


def _window(state: TrainState, step: int, settings: TrainSettings) -> dict[str, AnyWindow]:
    """Return what this step's whole gradient is added to: nothing outside the window of the next event (TRN-005)."""
    rule = settings.rule
    asked = rule.asks()
    if not asked or not settings.timetable().in_window(step):
        return {}
    if state.window:
        return state.window
    windows: dict[str, AnyWindow] = {}
    for name, target in state.targets.items():
        first = Window(target.base.shape, asked if rule.candidates == "all" else frozenset({"gradient"}))
        if rule.candidates == "all":
            windows[name] = first
        else:
            support = union(flat(target.base.topology), flat(target.delta.topology))
            windows[name] = FirstStepWindow(target.delta_budget, support, first)
    return windows


def _check(targets: Mapping[str, Target], step: int) -> None:
    """Refuse targets that a step has left with NaN or infinity (TRN-007)."""
    for name, target in targets.items():
        delta = target.delta
        effective_values = target.under + delta.values
        refuse_spoilt(step, name, {"values": delta.values, "weights": effective_values, **delta.kept, **delta.shared})
