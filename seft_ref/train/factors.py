"""A run that trains the factors of adapters beside frozen weights (ADP-010): the same loop as `loop.py`, no events.

start = initial_state(settings, config, weights, bases)
for state, record in train(start, settings, config, data, kernels): ...
final = finish(state, settings, kernels)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from seft_ref.adapters.methods import Adapter
from seft_ref.arrays.finite import LOWER_RATE, check_eps, gradient_norm, overflow_ends, refuse_spoilt
from seft_ref.arrays.lazy import Lazy
from seft_ref.arrays.library import Array, array_namespace, overflow_allowed
from seft_ref.arrays.ranks import ALONE, Ranks, digest_of
from seft_ref.kernels import KernelSet, Packed
from seft_ref.layers.linear import LowRank, WeightGradient
from seft_ref.matrix.bases import AnyBase
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights, matrix_of, with_changes, with_matrices
from seft_ref.text.batch import Batch
from seft_ref.text.examples import Data, check_data
from seft_ref.text.tokens import check_length
from seft_ref.topology.csr import Topology, flat, full
from seft_ref.train.gradients import loss_and_gradients
from seft_ref.train.loop import StepRecord, step_batches
from seft_ref.train.settings import TrainSettings
from seft_ref.update.delta import Delta, new_delta
from seft_ref.update.optimizers import clip_factor, shares_of
from seft_ref.update.schedule import learning_rate_at

__all__ = ["Adapted", "FactorState", "finish", "initial_state", "moving_parts", "train", "train_step"]


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """The frozen base of one matrix, and the factors of its adapter.

    A factor is stored as a delta whose slots are all its entries, so that every optimizer can step it (ADP-011).
    """

    base: AnyBase
    factors: Mapping[str, Delta]

    @property
    def budget(self) -> int:
        """Stored weights at load (DLT-001)."""
        return self.base.nnz

    @property
    def delta_budget(self) -> int:
        """Number of trained parameters."""
        return sum(factor.topology.nnz for factor in self.factors.values())

    def arrays(self) -> dict[str, Array]:
        """Return the factors as matrices, by name, for the adapter."""
        return {
            name: array_namespace(factor.values).reshape(factor.values, factor.topology.shape)
            for name, factor in self.factors.items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class FactorState:
    """The state of a run after `step` steps. Pass it on only once: the next step reuses the memory of its weights."""

    step: int
    targets: dict[str, Adapted]
    weights: Weights


@dataclass(frozen=True, slots=True, eq=False)
class FactorSums:
    """The gradients of the factors of one matrix, added up over the micro-batches of a step (TRN-002)."""

    adapter: Adapter
    target: Adapted
    factors: Mapping[str, Array]
    gradients: Mapping[str, Array] = field(default_factory=dict)

    def fresh(self) -> "FactorSums":
        """Return sums without a micro-batch."""
        return replace(self, gradients={})

    def plus(self, gradient: WeightGradient, kernels: KernelSet) -> "FactorSums":
        """Return the sums with one more micro-batch."""
        of_parts = self.adapter.gradients(gradient, self.target.base, self.factors, kernels)
        return replace(self, gradients={n: self.gradients[n] + g if self.gradients else g for n, g in of_parts.items()})

    def joined(self, step: "FactorSums", ranks: Ranks, kernels: KernelSet) -> "FactorSums":
        """Return the sums of all ranks (TRN-013)."""
        return replace(self, gradients={name: ranks.sum(gradient) for name, gradient in step.gradients.items()})


@overflow_allowed()
def initial_state(
    settings: TrainSettings, config: ModelConfig, weights: Weights, bases: Mapping[str, AnyBase]
) -> FactorState:
    """Return the state before the first step: factors that change no weight yet (ADP-002).

    Raises:
        AdapterError: ADP-009 for a matrix that the adapter cannot change. TextError TRN-017, ConfigError TRN-008 as
        for a sparse update.
    """
    adapter = adapter_of(settings)
    check_length(settings.length, config)
    check_eps(getattr(settings.optimizer, "eps", 1.0), weights.norm)
    adapter.check_shapes({matrix.name: matrix.shape for matrix in config.targets()})
    targets = {}
    for number, matrix in enumerate(config.targets()):
        arrays = adapter.initial(matrix.shape, seed=settings.seed, matrix=number, like=weights.norm)
        factors = {name: factor_of(array, settings) for name, array in arrays.items()}
        targets[matrix.name] = Adapted(bases[matrix.name], factors)
    return FactorState(0, targets, weights)


@overflow_allowed()
def train_step(
    state: FactorState,
    batches: Sequence[Batch],
    settings: TrainSettings,
    config: ModelConfig,
    kernels: KernelSet,
    *,
    recompute: bool | None = None,
    ranks: Ranks = ALONE,
) -> tuple[FactorState, StepRecord]:
    """Return the state after one more step, and the record of the step (ADP-010, ADP-011).

    Arguments are those of `train_step` of `loop`.

    Raises:
        UpdateError: TRN-007 for a loss, gradient or new state that is not finite.
    """
    adapter, step = adapter_of(settings), state.step + 1
    sums = {name: FactorSums(adapter, target, target.arrays()) for name, target in state.targets.items()}
    with overflow_ends(f"step {step}", LOWER_RATE):
        grads = loss_and_gradients(state.weights, config, batches, kernels, {}, sums, recompute=recompute, ranks=ranks)
    gradients = {
        (name, part): array_namespace(gradient).reshape(gradient, (-1,))
        for name, of in grads.kept.items()
        for part, gradient in of.gradients.items()
    }
    norm = gradient_norm(step, grads.loss, {f"{name}.{part}": g for (name, part), g in gradients.items()})
    lr = learning_rate_at(step, settings.steps, settings.lr, settings.warmup_steps, settings.lr_schedule)
    factor, optimize = clip_factor(norm * norm, settings.max_norm), settings.optimizer.step
    targets = {}
    for name, target in state.targets.items():
        moved = {part: optimize(of, gradients[name, part] * factor, lr) for part, of in target.factors.items()}
        for part, of in moved.items():
            refuse_spoilt(step, f"{name}.{part}", {"values": of.values, **of.kept, **of.shared})
        targets[name] = replace(target, factors=moved)
    weights = placed(state.weights, targets, settings, kernels, reuse=state.step > 0)
    return FactorState(step, targets, weights), StepRecord(step, grads.loss, lr, norm)


def train(
    state: FactorState,
    settings: TrainSettings,
    config: ModelConfig,
    data: Data,
    kernels: KernelSet,
    *,
    recompute: bool | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[FactorState, StepRecord]]:
    """Yield the state and the record after every remaining step (TRN-003, TRN-021)."""
    check_data(data, settings.length, config)
    while state.step < settings.steps:
        batches = step_batches(settings, data, state.step + 1, state.weights, ranks)
        state, record = train_step(state, batches, settings, config, kernels, recompute=recompute, ranks=ranks)
        yield state, record


def finish(state: FactorState, settings: TrainSettings, kernels: KernelSet) -> Mapping[str, tuple[Topology, Array]]:
    """Return for each target the support and the weight on it after merging (ADP-004, ADP-008).

    For an adapter that is pruned afterwards this is the weight before (ADP-012).
    """
    targets, adapter = state.targets, adapter_of(settings)
    return Lazy(targets, lambda name: adapter.merged(targets[name].base, targets[name].arrays(), kernels))


def moving_parts(targets: Mapping[str, Adapted], ranks: Ranks) -> dict[str, str]:
    """Return a digest of the arrays that a run changes, for ranks to compare (TRN-014); empty for a single process."""
    if ranks.size == 1:
        return {}
    factors = [factor for target in targets.values() for factor in target.factors.values()]
    return {"values": digest_of([x for f in factors for x in (f.values, *f.kept.values(), *f.shared.values())])}


def placed(
    weights: Weights, targets: Mapping[str, Adapted], settings: TrainSettings, kernels: KernelSet, *, reuse: bool
) -> Weights:
    """Return the weights with the current change of every adapter, packed into a matrix or beside it.

    reuse  whether the memory of the packed matrices may be reused; at load it may not, because they hold the base
    """
    adapter = adapter_of(settings)
    packed: dict[str, Packed] = {}
    beside: dict[str, LowRank] = {}
    for name, target in targets.items():
        spent = matrix_of(weights, name) if reuse else None
        weight, change = adapter.placed(target.base, target.arrays(), kernels, spent)
        if weight is not None:
            packed[name] = weight
        if change is not None:
            beside[name] = change
    return with_changes(with_matrices(weights, packed), beside)


def factor_of(array: Array, settings: TrainSettings) -> Delta:
    """Return a factor as a delta whose slots are all its entries, with an empty optimizer state."""
    xp, shape = array_namespace(array), (array.shape[0], array.shape[1])
    factor = new_delta(
        shape, flat(full(shape, array)), array, settings.optimizer.keeps, shares_of(settings.optimizer, shape)
    )
    return replace(factor, values=xp.reshape(array, (-1,)))


def adapter_of(settings: TrainSettings) -> Adapter:
    """Return the adapter that a run trains."""
    assert settings.adapter is not None, "a run of factors has an adapter"
    return settings.adapter
