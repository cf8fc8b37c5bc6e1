"""Decides which model a run leaves: that of its last step, or the best one on held-out data (TRN-022)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from seft_ref.arrays.ranks import Ranks
from seft_ref.errors import CheckpointError
from seft_ref.files.best import Best, best_kept, give_out, keep, refuse_kept
from seft_ref.files.model import refuse_existing, targets_in
from seft_ref.files.save import Final, save_model
from seft_ref.files.state import digest_of_data, settings_text
from seft_ref.kernels import KernelSet
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights
from seft_ref.quantise.merge import Counts
from seft_ref.runs.loops import RunState
from seft_ref.runs.source import DataSource, ModelSource, data_of, folder_of, whole_numbers
from seft_ref.text.evaluate import evaluate_examples, evaluate_windows
from seft_ref.text.examples import Data, Examples, check_data
from seft_ref.text.tokens import evaluation_starts
from seft_ref.train.settings import TrainSettings


def _unheard(step: int, loss: float, best: Best) -> None:
    """Do nothing with a measurement."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The held-out data on which a run is measured, and how often.

    Attributes:
        data: a text, as a file or as tokens, or examples.
        every: steps between measurements.
        patience: measurements without a smaller loss after which the run ends; None to go on.
        on_loss: called with the step, its loss in nats a target, and the best so far, this one included.
    """

    data: DataSource
    every: int = 20
    patience: int | None = None
    on_loss: Callable[[int, float, Best], None] = _unheard


class Outcome(Protocol):
    """Decides which model a run leaves, and whether it ends early."""

    def check(self, config: ModelConfig) -> None:
        """Refuse data that cannot be measured, before the first step."""

    def resume(self, step: int) -> bool:
        """Load the best measurement that a run stopped after this step has kept; return whether the run had ended."""

    def is_due(self, step: int) -> bool:
        """Return whether a state is measured after this step."""

    def is_over(self, state: RunState, config: ModelConfig, finish: Callable[[], Final], ranks: Ranks) -> bool:
        """Measure the state after a step if it is due, and return whether the run ends.

        finish  returns the final targets that the run would have if it ended now
        """

    def write(self, finish: Callable[[], Final], ranks: Ranks) -> Final:
        """Write the model that the run leaves, and return its targets."""

    @property
    def compared(self) -> Mapping[str, object]:
        """What all ranks must have alike, by name (TRN-014)."""

    @property
    def best(self) -> Best | None:
        """The best measurement, None if there is none."""

    @property
    def merged(self) -> Counts | None:
        """Counts of the merged update of quantised matrices (QNT-007.4), None if they are not known."""


@dataclass(slots=True)
class LastModel:
    """A run leaves the model of its last step; without `out` it is not written."""

    model: ModelSource
    out: str | Path | None
    settings: TrainSettings
    merge: str = "beside"
    merged: Counts | None = None

    def check(self, config: ModelConfig) -> None:
        """Refuse nothing."""

    def resume(self, step: int) -> bool:
        """Return False, because nothing is kept between steps, and the run goes on to its last step."""
        return False

    def is_due(self, step: int) -> bool:
        """Return False, because nothing is measured."""
        return False

    def is_over(self, state: RunState, config: ModelConfig, finish: Callable[[], Final], ranks: Ranks) -> bool:
        """Return False, because the run goes on to its last step."""
        return False

    def write(self, finish: Callable[[], Final], ranks: Ranks) -> Final:
        """Write the model of the last step, and return its targets."""
        final = finish()
        if self.out is not None and ranks.rank == 0:  # TRN-015
            attributes = {"seft.settings": settings_text(self.settings)}
            self.merged = save_model(folder_of(self.model), self.out, final, attributes, merge=self.merge)
        return final

    @property
    def compared(self) -> Mapping[str, object]:
        """Nothing, because nothing is measured."""
        return {}

    @property
    def best(self) -> None:
        """None, because nothing is measured."""


@dataclass(slots=True)
class BestModel:
    """A run leaves its best model, which is kept in a folder beside `out` until the run ends."""

    validation: Validation
    data: Data
    model: Path
    out: Path
    settings: TrainSettings
    kernels: KernelSet
    measure: Mapping[str, object]
    """a digest of the data and the steps between measurements, which a resumed run must have too"""
    best: Best | None = None
    merged: None = None

    def check(self, config: ModelConfig) -> None:
        """Refuse data that cannot be measured, before the first step.

        Raises:
            TextError: as `check_data`, and EVL-002 as `evaluate_windows`.
        """
        if isinstance(self.data, Examples):
            # EVL-004: each example is measured as a row, packed or not
            alone = replace(self.data, packed=False)
            check_data(alone, max(len(example.tokens) for example in alone.items), config)
        else:
            check_data(self.data, self.settings.length, config)
            evaluation_starts(len(self.data), self.settings.length, 1)

    def resume(self, step: int) -> bool:
        """Load the best measurement that a run stopped after this step has kept; return whether it ended (TRN-022.4).

        A run that is killed after its last measurement, before its model is in place, has ended.

        Raises:
            CheckpointError: CKP-006 if the run has made all its steps and no model is kept.
        """
        self.best = best_kept(self.out, step, self.measure)
        if self.best is None and step >= self.settings.steps:
            raise CheckpointError(
                "CKP-006",
                f"the run has made all its steps, and no model {self.out}.best-STEP is kept; bring the folder back, or "
                "resume without validation",
            )
        return self._has_ended(step)

    @property
    def compared(self) -> Mapping[str, object]:
        """What all ranks must have alike, by name (TRN-014)."""
        return {"validation": {**self.measure, "patience": self.validation.patience}}

    def is_due(self, step: int) -> bool:
        """Return whether a state is measured after this step (TRN-022)."""
        return step % self.validation.every == 0 or step == self.settings.steps

    def is_over(self, state: RunState, config: ModelConfig, finish: Callable[[], Final], ranks: Ranks) -> bool:
        """Measure a state if it is due, keep its model if it is the best, and return whether the run ends.

        Every rank measures all data, so that all ranks decide alike.
        """
        step = state.step
        if not self.is_due(step):
            return False
        loss = self._loss(state.weights, config)
        if self.best is None or loss < self.best.loss:
            self.best, final = Best(step, loss), finish()
            if ranks.rank == 0:  # TRN-015
                attributes = {"seft.settings": settings_text(self.settings)}
                keep(self.model, self.out, self.best, self.measure, final, attributes)
        self.validation.on_loss(step, loss, self.best)
        return self._has_ended(step)

    def _has_ended(self, step: int) -> bool:
        """Return whether so many measurements up to this step were no better that the run ends (TRN-022.3)."""
        every, patience = self.validation.every, self.validation.patience
        if patience is None or self.best is None:
            return False
        return step // every - self.best.step // every >= patience

    def write(self, finish: Callable[[], Final], ranks: Ranks) -> Final:
        """Move the best model to `out`, and return its targets, each read from there on access."""
        assert self.best is not None, "a run measures after its last step"
        if ranks.rank == 0:  # TRN-015
            refuse_existing(self.out)
            give_out(self.out, self.best)
        ranks.every(None)  # a barrier, so that no process reads the folder before it is there
        return targets_in(self.out)

    def _loss(self, weights: Weights, config: ModelConfig) -> float:
        """Return the loss of effective weights in nats a target (TRN-022)."""
        if isinstance(self.data, Examples):
            return evaluate_examples(weights, config, self.data, self.kernels, rows=self.settings.batch)
        length = self.settings.length
        return evaluate_windows(weights, config, self.data, self.kernels, length=length).nats_per_token


def outcome_of(
    validation: Validation | None,
    model: ModelSource,
    out: str | Path | None,
    settings: TrainSettings,
    kernels: KernelSet,
    *,
    resume: bool,
    has_state: bool,
    merge: str = "beside",
) -> Outcome:
    """Return the outcome of a run: `LastModel`, or with validation `BestModel`.

    has_state  whether an unfinished run has left a state
    merge      as for `save_model`
    Raises:
        ValueError: for steps or measurements below 1, or validation without a folder to write; CheckpointError
            CKP-006 where an unfinished run has kept a model and this one does not resume it.
    """
    if validation is not None and not isinstance(validation, Validation):
        raise ValueError(f"valid is {validation!r}; give Validation(data)")
    if out is not None and (validation is None or not resume):
        refuse_kept(out, resume=resume, has_state=has_state)
    if validation is None:
        return LastModel(model, out, settings, merge)
    if merge != "beside":
        raise ValueError(
            f"validation keeps its best model beside the codes, and merge is {merge}; leave one of the two out"
        )
    (every,) = whole_numbers(every=validation.every)
    patience = None if validation.patience is None else whole_numbers(patience=validation.patience)[0]
    validation = replace(validation, every=every, patience=patience)
    if every < 1 or (patience is not None and patience < 1):
        raise ValueError(f"every is {every} and patience {patience}; each must be at least 1")
    if out is None:
        raise ValueError("a run with validation keeps its best model in a folder; name out")
    data = data_of(validation.data, model)
    measure = {"every": every, "data": digest_of_data(data)}
    return BestModel(validation, data, folder_of(model), Path(out), settings, kernels, measure)
