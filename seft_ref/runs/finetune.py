"""Fine-tunes a pruned model so that it stays pruned, and writes it to a folder; a stopped run can be resumed.

    done = finetune("pruned-sparse", "repaired-sparse", "train.txt", steps=80)

This is the one place where a run is loaded, started or resumed, stepped, finished and saved.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from seft_ref.arrays.library import Array
from seft_ref.arrays.ranks import ALONE, Ranks, refuse_different
from seft_ref.errors import CheckpointError, QuantiseError
from seft_ref.files.best import Best
from seft_ref.files.codes import is_quantised
from seft_ref.files.model import (
    Model,
    check_companions,
    identity,
    on_grid,
    refuse_delta,
    refuse_existing,
    require_sparse,
)
from seft_ref.files.only_run import only_run
from seft_ref.files.pruned import pattern_of_folder
from seft_ref.files.save import Final
from seft_ref.files.state import Origin, digest_of_data, origin_of, settings_text, state_beside
from seft_ref.kernels import KernelSet
from seft_ref.model.config import ModelConfig
from seft_ref.quantise.merge import GRID_EXACT, Counts, check_merge
from seft_ref.runs.loops import RunState, digest_of_start, loop_of
from seft_ref.runs.outcome import Validation, outcome_of
from seft_ref.runs.source import (
    LOGGER,
    DataSource,
    ModelSource,
    data_of,
    folder_of,
    has_folder,
    kernels_or_cpu,
    model_of,
    whole_numbers,
)
from seft_ref.text.examples import Data, check_data
from seft_ref.topology.csr import Topology
from seft_ref.train.loop import StepRecord
from seft_ref.train.settings import TrainSettings, settings_of
from seft_ref.update.presets import DEFAULT


@dataclass(frozen=True, slots=True)
class Started:
    """A run before its next step.

    Attributes:
        state: the initial state, or the one that was resumed.
        settings: the settings of the run.
        stored: number of stored weights of the targets at load.
        origin: digests of the model and of the data (CKP-007); None for a model without a folder.
    """

    state: RunState = field(repr=False)
    settings: TrainSettings
    stored: int
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class Finetuned:
    """A run that has ended or was stopped.

    Attributes:
        config: the config of the model.
        state: the state after the last step, before the last adapt pass (EVT-004).
        settings: the settings of the run.
        stored: number of stored weights of the targets at load.
        final: for each target its support and the weights on it; None if the run was stopped before its end.
        best: with validation, the measurement of the model that was written (TRN-022).
        merged: counts of the merged update of quantised matrices (QNT-007.4); None with validation.
    """

    config: ModelConfig
    state: RunState = field(repr=False)
    settings: TrainSettings
    stored: int
    final: Mapping[str, tuple[Topology, Array]] | None = field(repr=False)
    best: Best | None = None
    merged: Counts | None = None

    def model(self) -> Model:
        """Return the model after the last step, before the last adapt pass; `final` has the weights after that pass."""
        return Model(self.config, self.state.weights, {})

    def kept(self) -> int:
        """Return the number of stored weights of the targets at the end, 0 if the run was stopped before it."""
        return sum(topology.nnz for topology, _ in (self.final or {}).values())


def finetune(
    model: ModelSource,
    out: str | Path | None,
    text: DataSource,
    settings: TrainSettings | str = DEFAULT,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    save_every: int = 20,
    state_file: str | Path | None = None,
    origin: Origin | None = None,
    valid: Validation | None = None,
    merge: str = "beside",
    on_start: Callable[[Started], None] = lambda started: None,
    on_step: Callable[[RunState, StepRecord, float], None] = lambda state, record, seconds: None,
    kernels: KernelSet | None = None,
    dtype: str | None = None,
    compact: bool = False,
    like: Array | None = None,
    limit: int | None = None,
    recompute: bool | None = None,
    ranks: Ranks = ALONE,
    **changes: object,
) -> Finetuned:
    """Train a sparse update of a model and write the result, as sparse as before (chapters 8 to 10).

    model       a sparse checkpoint, or a loaded model, which the run spends
    out         the folder to write, which must not exist; None to write none. Until it is written the state is kept in
                the file `out`.state, which is then removed
    text        training data: a text as a file or as tokens, or examples that `read_examples` has returned
    settings    settings, or a preset with `changes` to it, as in `settings_of`; the N:M pattern is that of the folder
    resume      go on from the saved state
    stop_after  the step to stop after, with the state kept
    save_every  steps between saves of the state; it is saved after every measurement too
    state_file  where the state goes, if not beside `out`
    origin      digests of model and text that the state records; None to compute them from folder and data (CKP-007)
    valid       held-out data on which the run is measured; `out` is then the best model and not the last (TRN-022)
    merge       where the update of a quantised matrix goes: ``"beside"`` its codes, into their ``"grid"`` at the end
                (QNT-006, QNT-007), or with ``"grid-exact"`` in every step, for which the model stays in codes (QNT-011)
    on_start    called once, before the first step
    on_step     called after every step with the state, its record and its seconds; an exception in it ends the run
    kernels     a kernel set; None for `cpu`, which takes NumPy arrays
    dtype, compact, like, limit    as `load_model`
    recompute   as `loss_and_gradients`
    ranks       processes that share the rows of each step (TRN-013)
    Raises      before anything is computed: FormatError FMT-110 if `out` exists, CheckpointError CKP-002 for a folder
                that is not sparse, CKP-006 for a state that exists already, is missing or is of another run, CKP-012 if
                another run is at work there, ValueError for arguments that do not go together; what `settings_of`,
                `load_model`, `read_tokens`, `initial_state` and `train_step` raise
    """
    _check_counts(save_every=save_every, stop_after=stop_after)
    if out is not None:
        refuse_existing(out)
        if not has_folder(model):
            raise ValueError("the model was made in memory, and a folder is written beside its own; leave out `out`")
    check_merge(merge)
    _require_support(model, resume=resume)
    chosen, exact = _settings(settings, changes, model), merge == GRID_EXACT
    _require_codes(model, chosen, merge)
    kernels = kernels_or_cpu(kernels)
    loop, folder = loop_of(chosen, kernels), folder_of(model) if has_folder(model) else None
    data = data_of(text, model)
    loop.check(folder, data)
    origin = _in_mode(origin or _origin(model, data), merge)
    place = _place_of_state(out, state_file)
    with only_run(place, ranks):
        file = _state_file(place, origin, resume=resume)
        started_from = identity(folder_of(model)) if out is not None else None
        has_state = file is not None and file.path.exists()
        outcome = outcome_of(valid, model, out, chosen, kernels, resume=resume, has_state=has_state, merge=merge)

        def begun() -> tuple[ModelConfig, RunState, int]:
            # a separate function, so that afterwards only the state refers to the model.
            # `exactly` is false for a loaded model, because `exact` is an option of loading.
            exactly = exact and not isinstance(model, Model)
            options = {"compact": compact or exactly, "exact": exactly}
            loaded = model_of(model, kernels, dtype=dtype, like=like, limit=limit, **options)
            check_data(data, chosen.length, loaded.config)
            outcome.check(loaded.config)
            loaded.spent = not isinstance(model, Model)  # nobody else has a model that was loaded here
            if resume and file is not None:
                start = loop.load(file.path, loaded, file.origin)
            else:
                start = loop.begin(loaded, data, ranks)
            loaded.spent = True  # set only now, because a run that refuses to begin leaves the model usable
            return loaded.config, start, loaded.stored()

        config, state, stored = begun()
        settled = {"settings": settings_text(chosen), "step": state.step, **_told_apart(origin, state, data, ranks)}
        refuse_different(ranks, "at the start", {**settled, **outcome.compared, **loop.parts(state, ranks)})
        on_start(Started(state, chosen, stored, origin))

        over = resume and outcome.resume(state.step)
        # a barrier, too: rank 0 moves a kept model only after all ranks have read it
        refuse_different(ranks, "at the start", {"kept models": (over, outcome.best)})
        last, writes = chosen.steps if stop_after is None else min(stop_after, chosen.steps), ranks.rank == 0  # TRN-015
        began = time.perf_counter()
        steps = loop.steps(state, config, data, recompute=recompute, ranks=ranks)

        def finish() -> Final:
            return loop.finish(state, config, data, folder, ranks)

        for state, record in steps if state.step < last and not over else ():  # noqa: B020 - a state is used once
            LOGGER.info("fine-tuning: step %d of %d, loss %.4f", record.step, last, record.loss)
            on_step(state, record, time.perf_counter() - began)
            # measure before the state is saved, so that a run resumed from that state need not measure this step
            over = outcome.is_over(state, config, finish, ranks)
            due = state.step == last or state.step % save_every == 0 or outcome.is_due(state.step)
            if file is not None and writes and due:
                loop.save(file.path, state, file.origin)
            if over or state.step == last:
                break
            began = time.perf_counter()
        if not over and state.step < chosen.steps:
            return Finetuned(config, state, chosen, stored, None)
        if started_from is not None and identity(folder_of(model)) != started_from:
            raise CheckpointError(
                "CKP-006",
                f"{folder_of(model)} was replaced while the run trained it; bring it back, and resume the run",
            )
        final = outcome.write(finish, ranks)
        if file is not None and writes and out is not None:
            file.path.unlink(missing_ok=True)
        return Finetuned(config, state, chosen, stored, final, outcome.best, outcome.merged)


def _told_apart(origin: Origin | None, state: RunState, data: Data, ranks: Ranks) -> dict[str, str]:
    """Return digests of model and text, which ranks must have alike; nothing for a single process without them."""
    if origin is not None:
        return {"model": origin.model, "text": origin.text}
    return {} if ranks.size == 1 else {"model": digest_of_start(state), "text": digest_of_data(data)}


def _check_counts(**numbers: int | None) -> None:
    present = {name: number for name, number in numbers.items() if number is not None}
    for name, number in zip(present, whole_numbers(**present), strict=True):
        if number < 1:
            raise ValueError(f"{name} is {number}, must be at least 1")


@dataclass(frozen=True, slots=True)
class _StateFile:
    path: Path
    origin: Origin


def _place_of_state(out: str | Path | None, named: str | Path | None) -> Path | None:
    """Return where the state goes: to `named`, else beside `out`; None if there is neither."""
    if named is not None:
        return Path(named)
    return None if out is None else state_beside(out)


def _state_file(path: Path | None, origin: Origin | None, *, resume: bool) -> _StateFile | None:
    """Return the state file at a path, None if a run keeps no state."""
    if path is None:
        if resume:
            raise ValueError("there is no state to resume from; name state_file or out")
        return None
    if path.exists() and not resume:
        raise CheckpointError("CKP-006", f"{path} holds an unfinished run; resume it or remove it")
    if origin is None:
        raise ValueError("a state says what it started from, and the model has no folder; give origin")
    return _StateFile(path, origin)


def _require_support(model: ModelSource, *, resume: bool) -> None:
    """Refuse a model that has no support to keep (CKP-002); a resumed model in memory takes that of the saved state."""
    if has_folder(model):
        require_sparse(folder_of(model))
        refuse_delta(folder_of(model))
        check_companions(folder_of(model))
    elif isinstance(model, Model) and not model.bases and not resume:
        raise CheckpointError(
            "CKP-002", "the model has no support to keep; take one that `prune` returned, or a sparse checkpoint"
        )


def _require_codes(model: ModelSource, settings: TrainSettings, merge: str) -> None:
    """Refuse a merge mode that needs codes, or slots, if the model or the method has none (QNT-007, QNT-011)."""
    if merge != "beside" and not (has_folder(model) and is_quantised(folder_of(model))):
        raise QuantiseError("QNT-007", f"merge {merge} rounds into codes, and the model has none; leave it out")
    if isinstance(model, Model) and on_grid(model) != (merge == GRID_EXACT):
        raise QuantiseError(
            "QNT-011", f"merge grid-exact and load_model(exact=True) go together; merge is {merge}, load the model anew"
        )
    if merge == GRID_EXACT and settings.adapter is not None:
        raise QuantiseError("QNT-011", f"{settings.label} trains no slots that could stay on the grid; merge beside")


def _in_mode(origin: Origin | None, merge: str) -> Origin | None:
    """Return the origin with the mode added for grid-exact, so that states of other modes do not match (QNT-011.5)."""
    return replace(origin, model=f"{origin.model}:{merge}") if origin and merge == GRID_EXACT else origin


def _origin(model: ModelSource, data: Data) -> Origin | None:
    """Return the digests of model and data, None for a model that was made in memory."""
    return origin_of(folder_of(model), data) if has_folder(model) else None


def _settings(settings: TrainSettings | str, changes: Mapping[str, object], model: ModelSource) -> TrainSettings:
    if isinstance(settings, str):
        pattern = pattern_of_folder(folder_of(model)) if has_folder(model) else None
        return settings_of(settings, **{"pattern": pattern, **changes})
    if not isinstance(settings, TrainSettings):
        raise ValueError(f"settings are a {type(settings).__name__}; give the name of a preset, or settings_of(...)")
    if changes:
        raise ValueError(f"{', '.join(changes)}: changes belong to a preset, and settings are given; leave them out")
    # EVT-007: settings that were made without the folder do not know its pattern
    if settings.pattern is None and settings.adapter is None and has_folder(model):
        return replace(settings, pattern=pattern_of_folder(folder_of(model)))
    return settings
