"""The two kinds of runs behind one interface: a sparse update that may move, and adapters beside frozen weights.

loop = loop_of(settings, kernels)
state = loop.begin(model, data, ranks)
for state, record in loop.steps(state, config, data, recompute=None, ranks=ranks): ...
final = loop.finish(state, config, data, folder, ranks)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seft_ref.arrays.ranks import Ranks, digest_of
from seft_ref.errors import AdapterError
from seft_ref.files.model import Model, config_and_stored
from seft_ref.files.save import Final
from seft_ref.files.state import Origin, load_factors, load_state, save_factors, save_state
from seft_ref.kernels import KernelSet
from seft_ref.matrix.bases import AnyBase
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights
from seft_ref.runs.prune_again import check_again, prune_again
from seft_ref.text.examples import Data, stream_of
from seft_ref.topology.csr import flat
from seft_ref.train import factors, loop
from seft_ref.train.factors import FactorState
from seft_ref.train.loop import StepRecord, TrainState, first_batches
from seft_ref.train.settings import TrainSettings


class Matrix(Protocol):
    """The state of one trained matrix that all kinds of runs have."""

    @property
    def base(self) -> AnyBase:
        """The base; a sparse update may have removed positions from it."""

    @property
    def budget(self) -> int:
        """Stored weights at load."""

    @property
    def delta_budget(self) -> int:
        """Most trained parameters."""


class RunState(Protocol):
    """The state after a step that all kinds of runs have."""

    @property
    def step(self) -> int:
        """Number of steps taken."""

    @property
    def targets(self) -> Mapping[str, Matrix]:
        """The matrices that are trained, by name."""

    @property
    def weights(self) -> Weights:
        """The effective weights."""


class Loop(Protocol):
    """A kind of run."""

    def check(self, folder: Path | None, data: Data) -> None:
        """Refuse, before anything is loaded, a model or data that the run could not be finished with."""

    def begin(self, model: Model, data: Data, ranks: Ranks) -> RunState:
        """Return the state before the first step."""

    def load(self, path: Path, model: Model, origin: Origin) -> RunState:
        """Return the state in a file."""

    def save(self, path: Path, state: RunState, origin: Origin) -> None:
        """Write a state, atomically."""

    def steps(
        self, state: RunState, config: ModelConfig, data: Data, *, recompute: bool | None, ranks: Ranks
    ) -> Iterator[tuple[RunState, StepRecord]]:
        """Yield the state and the record after every remaining step."""

    def finish(self, state: RunState, config: ModelConfig, data: Data, folder: Path | None, ranks: Ranks) -> Final:
        """Return the final support and weights of each target after the last step."""

    def parts(self, state: RunState, ranks: Ranks) -> dict[str, str]:
        """Return digests of the arrays that the run changes, for ranks to compare (TRN-014)."""


@dataclass(frozen=True, slots=True)
class SparseLoop:
    """A sparse update (`train/loop.py`)."""

    settings: TrainSettings
    kernels: KernelSet

    def check(self, folder: Path | None, data: Data) -> None:
        """Refuse nothing, because a sparse update of every model can be finished."""

    def begin(self, model: Model, data: Data, ranks: Ranks) -> TrainState:
        """Return the state before the first step."""
        first = first_batches(self.settings, data, model.weights, ranks)
        return loop.initial_state(self.settings, model.config, model.weights, model.bases, self.kernels, first, ranks)

    def load(self, path: Path, model: Model, origin: Origin) -> TrainState:
        """Return the state in a file."""
        spent = model.bases if model.spent else None
        return load_state(path, model.weights, self.settings, origin, self.kernels, spent)

    def save(self, path: Path, state: RunState, origin: Origin) -> None:
        """Write a state, atomically."""
        save_state(path, _sparse(state), self.settings, origin)

    def steps(
        self, state: RunState, config: ModelConfig, data: Data, *, recompute: bool | None, ranks: Ranks
    ) -> Iterator[tuple[TrainState, StepRecord]]:
        """Yield the state and the record after every remaining step."""
        yield from loop.train(
            _sparse(state), self.settings, config, data, self.kernels, recompute=recompute, ranks=ranks
        )

    def finish(self, state: RunState, config: ModelConfig, data: Data, folder: Path | None, ranks: Ranks) -> Final:
        """Return the final support and weights, after a last adapt pass if a pool is over budget (EVT-004)."""
        return loop.finish(_sparse(state), self.settings, config, data, self.kernels, ranks)

    def parts(self, state: RunState, ranks: Ranks) -> dict[str, str]:
        """Return digests of the arrays that the run changes, sums of an open window included."""
        parts = loop.moving_parts(_sparse(state).targets, ranks)
        return parts | ({"windows": digest_of(loop.sums_of(_sparse(state).window))} if ranks.size > 1 else {})


@dataclass(frozen=True, slots=True)
class AdapterLoop:
    """Adapters beside frozen weights (`train/factors.py`)."""

    settings: TrainSettings
    kernels: KernelSet

    def check(self, folder: Path | None, data: Data) -> None:
        """Refuse a model that the adapter does not fit (ADP-009), or that could not be pruned again (ADP-012)."""
        adapter = factors.adapter_of(self.settings)
        if folder is None:
            if adapter.prunes:
                raise AdapterError("ADP-012", "a model without a folder has no record of pruning; use lora")
            return
        config, stored = config_and_stored(folder)
        adapter.check_shapes({matrix.name: matrix.shape for matrix in config.targets()})
        if adapter.prunes:
            check_again(folder, config, stored, stream_of(data))

    def begin(self, model: Model, data: Data, ranks: Ranks) -> FactorState:
        """Return the state before the first step."""
        return factors.initial_state(self.settings, model.config, model.weights, model.bases)

    def load(self, path: Path, model: Model, origin: Origin) -> FactorState:
        """Return the state in a file."""
        start = factors.initial_state(self.settings, model.config, model.weights, model.bases)
        return load_factors(path, start, self.settings, origin, self.kernels)

    def save(self, path: Path, state: RunState, origin: Origin) -> None:
        """Write a state, atomically."""
        save_factors(path, _of_factors(state), self.settings, origin)

    def steps(
        self, state: RunState, config: ModelConfig, data: Data, *, recompute: bool | None, ranks: Ranks
    ) -> Iterator[tuple[FactorState, StepRecord]]:
        """Yield the state and the record after every remaining step."""
        yield from factors.train(
            _of_factors(state), self.settings, config, data, self.kernels, recompute=recompute, ranks=ranks
        )

    def finish(self, state: RunState, config: ModelConfig, data: Data, folder: Path | None, ranks: Ranks) -> Final:
        """Return the merged weights; those of LoRA* are pruned as the base was (ADP-004, ADP-008, ADP-012)."""
        factor_state = _of_factors(state)
        merged = factors.finish(factor_state, self.settings, self.kernels)
        if not factors.adapter_of(self.settings).prunes:
            return merged
        assert folder is not None, "checked before the first step"
        return prune_again(
            folder, config, factor_state.targets, merged, stream_of(data), self.kernels, factor_state.weights.norm
        )

    def parts(self, state: RunState, ranks: Ranks) -> dict[str, str]:
        """Return digests of the arrays that the run changes."""
        return factors.moving_parts(_of_factors(state).targets, ranks)


def digest_of_start(state: RunState) -> str:
    """Return a digest of the frozen weights of a state: bases, embedding and last norm."""
    bases = (target.base.open() for target in state.targets.values())
    stored = (x for base in bases for x in (flat(base.topology), base.values))
    return digest_of([state.weights.norm, state.weights.embed_tokens, *stored])


def loop_of(settings: TrainSettings, kernels: KernelSet) -> Loop:
    """Return the kind of run that settings ask for."""
    return SparseLoop(settings, kernels) if settings.adapter is None else AdapterLoop(settings, kernels)


def _sparse(state: RunState) -> TrainState:
    assert isinstance(state, TrainState), "a sparse update has a TrainState"
    return state


def _of_factors(state: RunState) -> FactorState:
    assert isinstance(state, FactorState), "a run of adapters has a FactorState"
    return state
