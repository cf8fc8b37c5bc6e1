"""The loop: the only place that puts model, gradients and rules together.

    start = initial_state(settings, config, weights, bases, kernels, step_batches(settings, tokens, 1, weights))
    for state, record in train(start, settings, config, tokens, kernels): ...
    final = finish(state)

`train_step` is the whole method on one screen.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace, from_numpy, to_numpy
from seft_ref.config import ModelConfig
from seft_ref.counter import STREAM_POSITIONS, choose, counter_key
from seft_ref.errors import ConfigError, UpdateError
from seft_ref.evaluate import batch_of
from seft_ref.gradients import Accumulated, Batch, StepGradients, loss_and_gradients, snapshot
from seft_ref.kernels import Kernels, Packed
from seft_ref.text import training_starts
from seft_ref.topology import Topology, find, flat
from seft_ref.update.adamw import AdamW, adamw_step, clip_factor
from seft_ref.update.delta import Base, Delta, delta_budget, effective, new_delta, values_at
from seft_ref.update.evolve import Event, evolve, final_adapt
from seft_ref.update.grow import GrowScope
from seft_ref.update.presets import preset_named
from seft_ref.update.schedule import LrSchedule, is_event, learning_rate_at, n_drop
from seft_ref.update.select import largest
from seft_ref.weights import Weights, matrix_of, with_matrices


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that decides a run besides model and text. Defaults are chapter 8's and 10's; units are
    steps, tokens and ratios.
    """

    preset: str = "seft"
    grow_scope: GrowScope | None = None
    """where growth may look; None for the preset's choice. A base with an N:M pattern needs "active" (EVT-007)"""
    steps: int = 80
    batch: int = 4
    """rows of one micro-batch"""
    micro_batches: int = 1
    length: int = 128
    density: float = 0.02
    evolve_every: int = 20
    drop_fraction: float = 0.2
    gradient_window: int = 1
    initial_positions: Literal["random", "gradient"] = "gradient"
    lr: float = 1e-3
    warmup_steps: int = 0
    lr_schedule: LrSchedule = "constant"
    optimizer: AdamW = field(default_factory=AdamW)
    max_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that contradict the clauses."""
        preset_named(self.preset)
        counter_key(self.seed)
        for name, lowest in (
            ("steps", 1),
            ("batch", 1),
            ("micro_batches", 1),
            ("length", 2),
            ("evolve_every", 1),
            ("warmup_steps", 0),
        ):
            if getattr(self, name) < lowest:
                raise ConfigError("TRN-008", f"{name} is {getattr(self, name)}, must be at least {lowest}")
        if not 0 < self.density <= 1:
            raise ConfigError(
                "DLT-002",
                f"density is {self.density}, must be above 0 and at most 1 (0.02 trains 2 % of the positions)",
            )
        if not 0 <= self.drop_fraction <= 1:
            raise ConfigError("SCH-001", f"drop_fraction is {self.drop_fraction}, must lie in 0 to 1")
        if not 1 <= self.gradient_window <= self.evolve_every:
            raise ConfigError(
                "TRN-005",
                f"gradient_window is {self.gradient_window}, must lie in 1 to evolve_every {self.evolve_every}",
            )
        if self.grow_scope not in (None, "anywhere", "active"):
            raise ConfigError("GROW-001", f"grow_scope is {self.grow_scope!r}; choose anywhere or active")
        if self.initial_positions not in ("random", "gradient"):
            raise ConfigError("DLT-004", f"initial_positions is {self.initial_positions!r}; choose random or gradient")
        # TRN-008
        for name, value in (
            ("lr", self.lr),
            ("max_norm", self.max_norm),
            ("weight_decay", self.optimizer.weight_decay),
        ):
            if not 0 <= value < math.inf:
                raise ConfigError("TRN-008", f"{name} is {value}, must be finite and not negative")
        if not (0 <= self.optimizer.beta1 < 1 and 0 <= self.optimizer.beta2 < 1 and 0 < self.optimizer.eps < math.inf):
            raise ConfigError("TRN-008", f"{self.optimizer} needs betas in 0 to below 1 and eps above 0")
        learning_rate_at(1, self.steps, self.lr, self.warmup_steps, self.lr_schedule)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The sparse state of one matrix, and how its delta sits in the packed weight."""

    base: Base
    delta: Delta
    budget: int
    """K, the stored weights at load (DLT-001)"""
    delta_budget: int
    where: Int[Array, " d"]
    """places of the slots in the packed weight"""
    under: Float[Array, " d"]
    """base values under the slots, 0 where the base has none"""

    def support_size(self) -> int:
        """Return |S|, S = B ∪ η."""
        _, present = find(flat(self.base.topology), flat(self.delta.topology))
        xp = array_namespace(present)
        return self.base.topology.nnz + self.delta.topology.nnz - int(xp.sum(xp.astype(present, xp.int64)))


@dataclass(frozen=True, slots=True, eq=False)
class TrainState:
    """A run after `step` steps. Its packed weights are donated to the next step: a state is used once."""

    step: int
    targets: dict[str, Target]
    weights: Weights
    window: dict[str, Accumulated]
    """gradients summed since the window opened; empty outside one (TRN-005)"""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a step did: loss in nats per target, norms in loss per unit of weight, events as counts over all
    matrices.
    """

    step: int
    loss: float
    lr: float
    gradient_norm: float
    event: dict[str, int] | None = None


def initial_state(
    settings: TrainSettings,
    config: ModelConfig,
    weights: Weights,
    bases: Mapping[str, Base],
    kernels: Kernels,
    batches: Sequence[Batch],
) -> TrainState:
    """Return the state before the first step (DLT-001, DLT-002, DLT-004).

    weights  the model with its bases packed
    bases    a base for every target of the config
    batches  those of the first step; initial_positions "gradient" looks at their gradient
    Raises   ConfigError DLT-002 if no matrix would get a slot
    """
    by_gradient: dict[str, Array] = {}
    if settings.initial_positions == "gradient":
        at = {name: base.topology for name, base in bases.items()}
        by_gradient = loss_and_gradients(weights, config, batches, kernels, at).at
    targets: dict[str, Target] = {}
    for index, matrix in enumerate(config.targets()):
        base = bases[matrix.name]
        size = delta_budget(settings.density, base.topology)
        positions = flat(base.topology)
        if by_gradient:
            xp = array_namespace(positions)
            chosen = xp.take(positions, largest(xp.abs(by_gradient[matrix.name]), size))
        else:
            key = counter_key(settings.seed, STREAM_POSITIONS, index)
            chosen = from_numpy(choose(key, to_numpy(positions), size), positions)
        delta = new_delta(matrix.shape, chosen, base.values)
        # η lies in B and φ = 0: the base as packed is the effective weight
        packed = matrix_of(weights, matrix.name)
        targets[matrix.name] = _placed(base, delta, base.topology.nnz, size, base.topology, packed, kernels)
    if not any(target.delta_budget for target in targets.values()):
        raise ConfigError("DLT-002", f"density {settings.density} gives no matrix a single slot; raise it")
    return TrainState(0, targets, weights, {})


def place(base: Base, delta: Delta, budget: int, size: int, kernels: Kernels) -> tuple[Target, Packed]:
    """Return a target and its effective weight, packed (DLT-003)."""
    support, values = effective(base, delta)
    packed = kernels.pack(support, values)
    return _placed(base, delta, budget, size, support, packed, kernels), packed


def _placed(
    base: Base, delta: Delta, budget: int, size: int, support: Topology, packed: Packed, kernels: Kernels
) -> Target:
    """Return a target whose effective weight is packed on the given support."""
    slots, _ = find(flat(support), flat(delta.topology))
    under = values_at(base.topology, base.values, flat(delta.topology))
    return Target(base, delta, budget, size, kernels.locate(packed, support, slots), under)


def train_step(
    state: TrainState,
    batches: Sequence[Batch],
    settings: TrainSettings,
    config: ModelConfig,
    kernels: Kernels,
) -> tuple[TrainState, StepRecord]:
    """Return the state after one more step, and what it did (chapters 8 to 10).

    Raises:
        UpdateError: TRN-007 for a loss or gradient that is not finite; EVT-005 for such a snapshot. The given
        state is spent then.
    """
    step = state.step + 1
    preset = preset_named(settings.preset)
    has_event = preset.evolves and is_event(step, settings.steps, settings.evolve_every)
    slots = {name: target.delta.topology for name, target in state.targets.items()}
    window = _window(state, step, settings) if preset.evolves else {}
    found = loss_and_gradients(state.weights, config, batches, kernels, slots, window)
    norm = _norm(found, step)

    lr = learning_rate_at(step, settings.steps, settings.lr, settings.warmup_steps, settings.lr_schedule)
    factor = clip_factor(norm * norm, settings.max_norm)
    targets = {
        name: replace(target, delta=adamw_step(target.delta, found.at[name] * factor, lr, settings.optimizer, step))
        for name, target in state.targets.items()
    }
    if not has_event:
        weights = refresh(state.weights, targets, kernels)
        # settled, so that a run resumed inside a window adds the same numbers in the same order (TRN-004)
        open_window = {name: gradient.settled() for name, gradient in found.kept.items()}
        return TrainState(step, targets, weights, open_window), StepRecord(step, found.loss, lr, norm)

    packed, counts = (
        {},
        dict.fromkeys(("dropped", "grown", "reactivated", "cancelled", "pruned", "slots", "support"), 0),
    )
    for name, target in targets.items():
        event = _evolve(target, found.kept[name], step, settings)
        targets[name], packed[name] = place(event.base, event.delta, target.budget, target.delta_budget, kernels)
        _count(counts, target, targets[name], event)
    return (
        TrainState(step, targets, with_matrices(state.weights, packed), {}),
        StepRecord(step, found.loss, lr, norm, counts),
    )


def refresh(weights: Weights, targets: Mapping[str, Target], kernels: Kernels) -> Weights:
    """Return the weights with every slot's effective value, base plus delta rounded once, stored (DLT-003)."""
    packed = {}
    for name, target in targets.items():
        packed[name] = kernels.store(matrix_of(weights, name), target.where, target.under + target.delta.values)
    return with_matrices(weights, packed)


def train(
    state: TrainState, settings: TrainSettings, config: ModelConfig, tokens: Sequence[int], kernels: Kernels
) -> Iterator[tuple[TrainState, StepRecord]]:
    """Yield the state and the record after every remaining step; windows come from the token stream (TRN-003)."""
    while state.step < settings.steps:
        batches = step_batches(settings, tokens, state.step + 1, state.weights)
        state, record = train_step(state, batches, settings, config, kernels)
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
) -> dict[str, tuple[Topology, Array]]:
    """Return for each target the final support and the weight on it, after one last adapt pass where it is
    needed (EVT-004).

    The pass looks at the gradient of the last step's data at the final weights.
    """
    over = {name for name, target in state.targets.items() if target.support_size() > target.budget}
    final: dict[str, tuple[Topology, Array]] = {}
    kept: dict[str, Accumulated] = {}
    if over:
        batches = step_batches(settings, tokens, settings.steps, state.weights)
        empty = {name: Accumulated(state.targets[name].base.topology.shape) for name in over}
        kept = loss_and_gradients(state.weights, config, batches, kernels, {}, empty).kept
    for name, target in state.targets.items():
        base, delta = target.base, target.delta
        if name in over:
            seen = snapshot(kept[name], 1, flat(base.topology), flat(delta.topology), 0)
            event = final_adapt(base, delta, seen, budget=target.budget)
            base, delta = event.base, event.delta
        final[name] = effective(base, delta)
    return final


def _window(state: TrainState, step: int, settings: TrainSettings) -> dict[str, Accumulated]:
    """Return what this step's whole gradient is added to: nothing outside the window of the next event (TRN-005)."""
    event = math.ceil(step / settings.evolve_every) * settings.evolve_every
    if event >= settings.steps or step <= event - settings.gradient_window:
        return {}
    return state.window or {name: Accumulated(target.base.topology.shape) for name, target in state.targets.items()}


def _evolve(target: Target, gradient: Accumulated, step: int, settings: TrainSettings) -> Event:
    """Return the event of one matrix (EVT-001)."""
    preset = preset_named(settings.preset)
    slots = target.delta.topology.nnz
    drops = n_drop(step, settings.steps, settings.drop_fraction, slots)
    grows = drops + (target.delta_budget - slots)
    scope = settings.grow_scope or preset.grow_scope
    seen = snapshot(
        gradient,
        settings.gradient_window,
        flat(target.base.topology),
        flat(target.delta.topology),
        grows,
        scope,
    )
    return evolve(
        target.base,
        target.delta,
        seen,
        n_drop=drops,
        delta_budget=target.delta_budget,
        budget=target.budget,
        grow_scope=scope,
        adapts=preset.adapts,
    )


def _count(counts: dict[str, int], before: Target, after: Target, event: Event) -> None:
    """Add the event of one matrix to the counts of the step."""
    counts["dropped"] += int(event.dropped.shape[0])
    counts["grown"] += int(event.grown.shape[0])
    _, in_base = find(flat(before.base.topology), event.grown)
    xp = array_namespace(in_base)
    counts["reactivated"] += int(xp.sum(xp.astype(~in_base, xp.int64)))
    counts["cancelled"] += int(event.cancelled.shape[0])
    counts["pruned"] += int(event.pruned.shape[0])
    counts["slots"] += after.delta.topology.nnz
    counts["support"] += after.support_size()


def _norm(found: StepGradients, step: int) -> float:
    """Return the norm of all delta gradients (OPT-004), refusing what is not finite (TRN-007)."""
    square = 0.0
    for gradient in found.at.values():
        square += float(array_namespace(gradient).sum(gradient * gradient))
    # TRN-007
    if not (math.isfinite(found.loss) and math.isfinite(square)):
        raise UpdateError(
            "TRN-007",
            f"step {step} has loss {found.loss} and gradient norm² {square}; lower the learning rate and resume",
        )
    return math.sqrt(square)
