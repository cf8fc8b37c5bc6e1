"""The training loop: the only place that puts model, gradients and rules together.

    start = initial_state(settings, config, weights, bases, kernels, first_batches(settings, data, weights))
    for state, record in train(start, settings, config, data, kernels): ...
    final = finish(state, settings, config, data, kernels)

`train_step` is the whole method on one screen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from seft_ref.arrays.finite import LOWER_RATE, check_eps, gradient_norm, overflow_ends
from seft_ref.arrays.lazy import Lazy
from seft_ref.arrays.library import Array, overflow_allowed
from seft_ref.arrays.ranks import ALONE, Ranks, digest_of, refuse_different, rows_of
from seft_ref.errors import ConfigError
from seft_ref.kernels import KernelSet, Packed
from seft_ref.matrix.bases import AnyBase, beside_of
from seft_ref.matrix.target import Target, check_targets, place, refresh
from seft_ref.matrix.window import AnyWindow, FirstStepWindow, Window, opened
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights, matrix_of, with_matrices
from seft_ref.text.batch import Batch, batch_of, batch_of_examples
from seft_ref.text.examples import Data, Examples, check_data
from seft_ref.text.tokens import check_length, training_starts
from seft_ref.topology.csr import Topology, flat, slots_per_row
from seft_ref.topology.groups import in_groups
from seft_ref.train.event import adapt_last, evolve_all, over_budget
from seft_ref.train.gradients import loss_and_gradients
from seft_ref.train.settings import TrainSettings
from seft_ref.train.start import initial_positions
from seft_ref.update.delta import Base, Delta, effective, new_delta
from seft_ref.update.optimizers import clip_factor, shares_of
from seft_ref.update.record import EventRecord
from seft_ref.update.schedule import learning_rate_at

__all__ = [
    "StepRecord",
    "TrainState",
    "finish",
    "first_batches",
    "further_batches",
    "initial_state",
    "moving_parts",
    "step_batches",
    "train",
    "train_step",
]


@dataclass(frozen=True, slots=True, eq=False)
class TrainState:
    """The state of a run after `step` steps. Pass it on only once: the next step reuses the memory of its weights."""

    step: int
    targets: dict[str, Target]
    weights: Weights
    window: dict[str, AnyWindow]
    """matrix -> sums over the steps of the open gradient window; empty if no window is open (TRN-005)"""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The numbers of a step: loss in nats per target, norm of the delta gradients in loss per unit of weight."""

    step: int
    loss: float
    lr: float
    """learning rate of the step"""
    gradient_norm: float
    event: dict[str, int] | None = None
    """counts of TRN-009, summed over all matrices; None without an event"""
    matrices: dict[str, EventRecord] | None = None
    """matrix -> what its event did; None without an event"""


@overflow_allowed()
def initial_state(
    settings: TrainSettings,
    config: ModelConfig,
    weights: Weights,
    bases: Mapping[str, AnyBase],
    kernels: KernelSet,
    batches: Sequence[Batch],
    ranks: Ranks = ALONE,
) -> TrainState:
    """Return the state before the first step (DLT-001, DLT-002, DLT-004).

    weights  the model with its bases packed
    bases    a base for every target of the config
    batches  `first_batches` of this rank, for initial_positions gradient
    Raises   ConfigError DLT-002 if no matrix would get a slot, EVT-012 if scope group does not fit the model,
             TRN-008 if eps is 0 in the dtype of the weights; TopologyError TOP-005 if a base breaks the pattern;
             TextError TRN-017 for windows longer than the model has positions
    """
    check_length(settings.length, config)
    check_eps(getattr(settings.optimizer, "eps", 1.0), weights.norm)
    sizes = settings.delta_budgets(list(bases.values()))
    if settings.pattern is not None:
        bases = {name: _in_groups(base, settings.pattern) for name, base in bases.items()}
    chosen = initial_positions(settings, config, weights, bases, kernels, batches, sizes, ranks)
    targets: dict[str, Target] = {}
    packed: dict[str, Packed] = {}
    for matrix, size in zip(config.targets(), sizes, strict=True):
        base, positions = bases[matrix.name].open(), chosen[matrix.name]
        shares = shares_of(settings.optimizer, matrix.shape)
        delta = new_delta(matrix.shape, positions, base.values, settings.keeps(), shares)
        row_budget = slots_per_row(base.topology) if settings.rule.by_row else None
        row_slots = slots_per_row(delta.topology) if settings.rule.by_row else None
        held_in, loaded = bases[matrix.name].held_in, matrix_of(weights, matrix.name)
        # where η lies in B, the packed base is the effective weight already, because φ = 0
        memory = {"loaded": loaded} if held_in is not None or settings.initial_scope != "anywhere" else {}
        beside = beside_of(bases[matrix.name])
        placed, packed[matrix.name], places, under = place(base, delta, kernels, held_in, beside, **memory)
        targets[matrix.name] = Target(
            placed, delta, base.nnz, size, places, under, positions[:0], row_budget, row_slots
        )
    if not any(target.delta_budget for target in targets.values()):
        raise ConfigError("DLT-002", "the delta budget gives no matrix a single slot; raise density, slots or rank")
    return TrainState(0, targets, with_matrices(weights, packed), {})


@overflow_allowed()
def train_step(
    state: TrainState,
    batches: Sequence[Batch],
    settings: TrainSettings,
    config: ModelConfig,
    kernels: KernelSet,
    *,
    more: Sequence[Sequence[Batch]] = (),
    recompute: bool | None = None,
    ranks: Ranks = ALONE,
) -> tuple[TrainState, StepRecord]:
    """Return the state after one more step, and the record of the step (chapters 8 to 10).

    batches    micro-batches of this rank; state and record are the same on every rank (TRN-013)
    more       `further_batches` of this rank, whose gradients an event of this step reads too
    recompute  as for `loss_and_gradients`

    Raises:
        ConfigError: TRN-023 if `more` has another number of steps than the event reads.
        UpdateError: TRN-007 for a loss, gradient or new state that is not finite; EVT-005 for evidence that is not;
        TRN-014 for ranks that differ after an event. CheckpointError: CKP-010 for a weight that overflows the dtype of
        its file. The state that was passed in cannot be used after an error either.
    """
    step = state.step + 1
    rule, timetable = settings.rule, settings.timetable()
    has_event = timetable.is_event(step)
    slots = {name: target.delta.topology for name, target in state.targets.items()}
    window = _window(state, step, settings)
    with overflow_ends(f"step {step}", LOWER_RATE):
        grads = loss_and_gradients(
            state.weights, config, batches, kernels, slots, window, recompute=recompute, ranks=ranks
        )
    norm = gradient_norm(step, grads.loss, grads.at)
    windows = grads.kept
    n_further = settings.event_batches - 1 if has_event and windows else 0
    if len(more) != n_further:
        raise ConfigError(
            "TRN-023",
            f"step {step} looks at the data of {n_further} further steps, not {len(more)}; pass further_batches",
        )
    if more:
        with overflow_ends(f"step {step}", LOWER_RATE):
            windows = _with_steps_added(windows, state.weights, more, config, kernels, recompute=recompute, ranks=ranks)

    lr = learning_rate_at(step, settings.steps, settings.lr, settings.warmup_steps, settings.lr_schedule)
    targets = dict(state.targets)
    # EVT-010
    if not (has_event and rule.event_replaces_step):
        factor = clip_factor(norm * norm, settings.max_norm)
        optimize = settings.optimizer.step
        targets = {
            name: replace(target, delta=optimize(target.delta, grads.at[name] * factor, lr))
            for name, target in targets.items()
        }
        check_targets(targets, step, state.weights.limits)
    if not has_event:
        weights = refresh(state.weights, targets, kernels)
        # settle now, so that a run resumed inside a window adds the same numbers in the same order (TRN-004)
        open_window = {name: sums.settled(kernels) for name, sums in windows.items()}
        return TrainState(step, targets, weights, open_window), StepRecord(step, grads.loss, lr, norm)

    targets, packed, records = evolve_all(targets, windows, step, settings, kernels)
    check_targets(targets, step, state.weights.limits)
    refuse_different(ranks, f"after the event of step {step}", moving_parts(targets, ranks))
    total = {key: sum(getattr(record, key) for record in records.values()) for key in EventRecord.COUNTS}
    return (
        TrainState(step, targets, with_matrices(state.weights, packed), {}),
        StepRecord(step, grads.loss, lr, norm, total, records),
    )


def train(
    state: TrainState,
    settings: TrainSettings,
    config: ModelConfig,
    data: Data,
    kernels: KernelSet,
    *,
    recompute: bool | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[TrainState, StepRecord]]:
    """Yield the state and the record after every remaining step (TRN-003, TRN-021).

    data    a text as tokens, or examples
    Raises  TextError TRN-017, TRN-018 for data that the model cannot read; as `train_step`
    """
    check_data(data, settings.length, config)
    while state.step < settings.steps:
        batches = step_batches(settings, data, state.step + 1, state.weights, ranks)
        more = further_batches(settings, data, state.step + 1, state.weights, ranks)
        state, record = train_step(
            state, batches, settings, config, kernels, more=more, recompute=recompute, ranks=ranks
        )
        yield state, record


def step_batches(settings: TrainSettings, data: Data, step: int, weights: Weights, ranks: Ranks = ALONE) -> list[Batch]:
    """Return the micro-batches of a step, counted from 1, with the rows of this rank (TRN-002, TRN-013).

    The rows are windows of a text (TRN-003) or examples (TRN-021).

    Raises:
        ConfigError: TRN-013 if the step has fewer rows than there are ranks.
    """
    rows = settings.batch * settings.micro_batches
    mine = rows_of(rows, ranks)
    parts = range(0, len(mine), settings.batch)
    if isinstance(data, Examples):
        first = (step - 1) * rows
        own = data.rows(range(first + mine.start, first + mine.stop), settings.length, settings.seed)
        return [batch_of_examples(own[i : i + settings.batch], weights) for i in parts]
    starts = training_starts(len(data), settings.length, settings.seed, step, rows)[mine.start : mine.stop]
    return [batch_of(data, starts[i : i + settings.batch], settings.length, weights) for i in parts]


def first_batches(settings: TrainSettings, data: Data, weights: Weights, ranks: Ranks = ALONE) -> list[Batch]:
    """Return the micro-batches whose gradient chooses the initial positions (DLT-004.3)."""
    steps = range(1, settings.start_batches + 1)
    return [batch for step in steps for batch in step_batches(settings, data, step, weights, ranks)]


def further_batches(
    settings: TrainSettings, data: Data, step: int, weights: Weights, ranks: Ranks = ALONE
) -> list[list[Batch]]:
    """Return the micro-batches of the later steps whose data the event of a step reads too (TRN-023).

    There are none if the step has no event, or if the event reads no gradient.
    """
    if not settings.timetable().is_event(step) or not settings.rule.asks():
        return []
    return _batches_of_later_steps(settings, data, step + 1, weights, ranks)


@overflow_allowed()
def finish(
    state: TrainState,
    settings: TrainSettings,
    config: ModelConfig,
    data: Data,
    kernels: KernelSet,
    ranks: Ranks = ALONE,
) -> Mapping[str, tuple[Topology, Array]]:
    """Return for each target the final support and the weight on it, after a last adapt pass if it is over budget
    (EVT-004).

    The pass reads the gradient of the last step's data, and of the later data of TRN-023.2, at the final weights. The
    last step is that of the state, which for the best model of a run is not that of the settings (TRN-022.2).
    """
    over, evidence_names = over_budget(state.targets, settings), settings.rule.asks_at_end()
    windows: dict[str, AnyWindow] = {}
    if over and evidence_names:
        batches = step_batches(settings, data, state.step, state.weights, ranks)
        # nothing grows any more, so only the support is looked at (GRD-009)
        empty: dict[str, AnyWindow] = {n: _opened(state.targets[n], evidence_names, on_support=True) for n in over}
        more = _batches_of_later_steps(settings, data, state.step + 1, state.weights, ranks)
        with overflow_ends("the last adapt pass", LOWER_RATE):
            windows = _with_steps_added(empty, state.weights, [batches, *more], config, kernels, ranks=ranks)
    final: dict[str, tuple[AnyBase, Delta]] = {n: (t.base, t.delta) for n, t in state.targets.items()}
    adapted = final | adapt_last(state.targets, over, windows, settings, state.step, kernels)

    def weight_of(name: str) -> tuple[Topology, Array]:
        base, delta = adapted[name]
        return effective(base.open(), delta)

    return Lazy(adapted, weight_of)


def _batches_of_later_steps(
    settings: TrainSettings, data: Data, first: int, weights: Weights, ranks: Ranks
) -> list[list[Batch]]:
    """Return the micro-batches of the event_batches - 1 steps from `first` on."""
    return [step_batches(settings, data, first + i, weights, ranks) for i in range(settings.event_batches - 1)]


def _with_steps_added(
    windows: dict[str, AnyWindow],
    weights: Weights,
    steps: Sequence[Sequence[Batch]],
    config: ModelConfig,
    kernels: KernelSet,
    *,
    recompute: bool | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, AnyWindow]:
    """Return the windows after adding the gradients of further steps' data, all at the same weights (TRN-023).

    windows  is emptied
    """
    for batches in steps:
        # pop, so that the gradients of a step are freed before those of the next are summed
        windows = {name: windows.pop(name).settled(kernels) for name in list(windows)}
        windows = loss_and_gradients(
            weights, config, batches, kernels, {}, windows, recompute=recompute, ranks=ranks
        ).kept
    return windows


def sums_of(windows: Mapping[str, AnyWindow]) -> list[Array]:
    """Return the arrays of open windows, in the order of the matrices."""
    arrays: list[Array | None] = []
    for window in windows.values():
        if isinstance(window, FirstStepWindow):
            arrays.append(window.candidates)
            window = window.window
        arrays += [getattr(window, part) for part in (*window.of_gradients, "tokens", "input_squares")]
    return [array for array in arrays if array is not None]


def moving_parts(targets: Mapping[str, Target], ranks: Ranks) -> dict[str, str]:
    """Return digests of the positions and the values that a run changes, for ranks to compare (TRN-014).

    A base needs no digest, because it is the base at load without `lost`. A single process computes no digest.
    """
    if ranks.size == 1:
        return {}
    deltas = [target.delta for target in targets.values()]
    places = [x for target in targets.values() for x in (flat(target.delta.topology), target.lost)]
    values = [x for delta in deltas for x in (delta.values, *delta.kept.values(), *delta.shared.values())]
    return {"positions": digest_of(places), "values": digest_of(values)}


def _in_groups(base: AnyBase, pattern: tuple[int, int]) -> AnyBase:
    """Return the base with its topology stored in groups; raise TOP-005 if it does not fit the pattern.

    A packed base is returned unchanged, because it has no topology beside the packed matrix.
    """
    topology = in_groups(base.topology, pattern)
    return replace(base, topology=topology) if isinstance(base, Base) else base


def _window(state: TrainState, step: int, settings: TrainSettings) -> dict[str, AnyWindow]:
    """Return the windows to which the gradients of this step are added; none outside a gradient window (TRN-005)."""
    rule = settings.rule
    evidence_names = rule.asks()
    if not evidence_names or not settings.timetable().in_window(step):
        return {}
    if state.window:
        return state.window
    windows: dict[str, AnyWindow] = {}
    for name, target in state.targets.items():
        window = _opened(target, evidence_names, on_support=rule.only_on_support)
        windows[name] = window if rule.candidates == "all" else FirstStepWindow(target.delta_budget, window)
    return windows


def _opened(target: Target, evidence_names: frozenset[str], *, on_support: bool) -> Window:
    return opened(target.base, target.delta.topology, evidence_names, on_support=on_support)
