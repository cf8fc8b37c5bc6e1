"""Saves and loads the state of a run, after any step, as one file of data without code (CKP-006, CKP-007).

save_state("run.state", state, settings, origin)
state = load_state("run.state", model.weights, settings, origin, kernels)
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import formats
from formats.lazy import Lazy
from seft_ref.arrays.library import Array, array_namespace, to_numpy
from seft_ref.errors import CheckpointError
from seft_ref.files.model import identity
from seft_ref.files.state_parts import START_ANEW, Parts, attribute_of, damaged
from seft_ref.kernels import KernelSet, Packed
from seft_ref.kernels.held import Held
from seft_ref.matrix.bases import AnyBase, PackedBase, not_held
from seft_ref.matrix.target import Target, place
from seft_ref.matrix.window import AnyWindow, FirstStepWindow, opened
from seft_ref.model.config import ATTENTION, MLP
from seft_ref.model.weights import Weights, matrix_of, with_matrices
from seft_ref.quantise.merge import GRID_EXACT
from seft_ref.text.examples import Data, Examples
from seft_ref.topology.csr import Topology, as_numpy, flat, per_pool, slots_per_row
from seft_ref.topology.groups import in_groups
from seft_ref.train.factors import Adapted, FactorState, placed
from seft_ref.train.loop import TrainState
from seft_ref.train.settings import ABSENT_AT_DEFAULT, TrainSettings
from seft_ref.update.delta import Base, Delta, Stored
from seft_ref.update.optimizers import shares_of
from seft_ref.update.rules import Rule


@dataclass(frozen=True, slots=True)
class Origin:
    """Digests of the model that a run started from and of the tokens it reads, which its state must match."""

    model: str
    text: str


def state_beside(out: str | Path) -> Path:
    """Return where an unfinished run or pruning keeps its state: beside `out`, which may end with a slash."""
    return Path(f"{Path(out)}.state")


def origin_of(folder: str | Path, data: Data) -> Origin:
    """Return the digests of the model in a sparse checkpoint and of the data (CKP-007)."""
    return Origin(identity(folder), digest_of_data(data))


def digest_of_data(data: Data) -> str:
    """Return a digest of the tokens of a text, or of the tokens, labels and bounds of examples (CKP-007.3)."""
    digest = sha256()
    for numbers in data.numbers() if isinstance(data, Examples) else [data]:
        digest.update(np.asarray(numbers, dtype="<i8").tobytes())
    return digest.hexdigest()


def save_state(path: str | Path, state: TrainState, settings: TrainSettings, origin: Origin) -> None:
    """Write a training state to one file, atomically, one unpacked base at a time (CKP-006, CKP-007, CKP-009)."""
    tensors: dict[str, formats.Tensor] = {}
    attributes = _attributes(state, settings, origin)
    attributes["budgets"] = {name: target.budget for name, target in state.targets.items()}
    attributes["delta_budgets"] = {name: target.delta_budget for name, target in state.targets.items()}
    bases: dict[str, AnyBase] = {}
    for name, target in state.targets.items():
        delta, bases[f"{name}.base"] = target.delta, target.base
        tensors[f"{name}.delta"] = _sparse(delta.topology, delta.values)
        for part, array in (*delta.kept.items(), *delta.shared.items()):
            tensors[f"{name}.delta.{part}"] = _dense(array)
        if target.lost.shape[0]:
            tensors[f"{name}.lost"] = _mask(delta.topology.shape, target.lost)
        for part in ("row_budget", "row_delta_budget"):
            if (rows := getattr(target, part)) is not None:
                tensors[f"{name}.{part}"] = _dense(rows)
    windows: dict[str, formats.JSON] = {}
    for name, window in state.window.items():
        sums, counts = _window_parts(window)
        windows[name] = counts
        tensors |= {f"{name}.window.{part}": tensor for part, tensor in sums.items()}
    attributes["windows"] = windows

    def made(name: str) -> formats.Tensor:
        base = bases[name].open() if name in bases else None
        return tensors[name] if base is None else _sparse(base.topology, base.values)

    formats.write_file(path, formats.Checkpoint("training-state", Lazy([*tensors, *bases], made), attributes))


def load_state(
    path: str | Path,
    weights: Weights,
    settings: TrainSettings,
    origin: Origin,
    kernels: KernelSet,
    spent: Mapping[str, AnyBase] | None = None,
) -> TrainState:
    """Return the training state in a file, placed into the weights of its model (CKP-006, TRN-004).

    spent   the bases of the model, if nobody needs it any more: their memory is reused

    Raises:
        CheckpointError: CKP-006 if the state belongs to other settings, another model, text or compute dtype;
            CKP-007 if something in it is missing, not finite, or of another length or dtype than it must be.
    """
    with _opened(path, weights, settings, origin) as reader:
        attributes, dtype = reader.attributes, to_numpy(weights.norm).dtype
        targets: dict[str, Target] = {}
        packed: dict[str, Packed] = {}
        window: dict[str, AnyWindow] = {}
        step, windows = attribute_of(attributes, "step", int), attribute_of(attributes, "windows", dict)
        # take the order from the list, because it is that of matrix indices and JSON objects have no order
        names = attribute_of(attributes, "matrices", list)
        for name in names:
            parts = Parts(reader, name, _shape_of(weights, name), dtype, weights.norm)
            by_name = (attribute_of(attributes, key, dict) for key in ("budgets", "delta_budgets"))
            budgets = [attribute_of(one, name, int) for one in by_name]
            held_in = getattr(matrix_of(weights, name), "held_in", None)
            before = spent[name] if spent else None
            memory = {"spent": before.packed} if isinstance(before, PackedBase) else {}
            targets[name], packed[name] = _target_of(parts, settings, step, kernels, held_in, memory, *budgets)
            if name in windows:
                window[name] = _window_of(parts, attribute_of(windows, name, dict), targets[name], settings.rule)
        if len(targets) != len(ATTENTION + MLP) * len(weights.blocks) or len(names) != len(targets):
            raise damaged("matrices does not name every target once")
        if windows and windows.keys() != targets.keys():
            raise damaged("windows does not name all matrices or none")
        n_steps = _steps_of_window(settings, step)
        if bool(windows) != bool(n_steps) or any(one.steps != n_steps for one in window.values()):
            raise damaged(f"windows must hold the {n_steps} steps of the window that is open after step {step}")
        _check_delta_budgets(targets, settings)
    return TrainState(step, targets, with_matrices(weights, packed), window)


def save_factors(path: str | Path, state: FactorState, settings: TrainSettings, origin: Origin) -> None:
    """Write the state of a run that trains adapters, without the frozen weights, atomically (CKP-011)."""
    tensors: dict[str, formats.Tensor] = {}
    for name, target in state.targets.items():
        for factor, delta in target.factors.items():
            for part, array in {"values": delta.values, **delta.kept, **delta.shared}.items():
                tensors[f"{name}.{factor}.{part}"] = _dense(array)
    formats.write_file(path, formats.Checkpoint("training-state", tensors, _attributes(state, settings, origin)))


def load_factors(
    path: str | Path, start: FactorState, settings: TrainSettings, origin: Origin, kernels: KernelSet
) -> FactorState:
    """Return the state of a run that trains adapters, from its file (CKP-011).

    start   the state before the first step, which has the frozen weights
    Raises  CheckpointError CKP-006, CKP-007 as `load_state`
    """
    with _opened(path, start.weights, settings, origin) as reader:
        step, dtype = attribute_of(reader.attributes, "step", int), to_numpy(start.weights.norm).dtype
        targets: dict[str, Adapted] = {}
        for name, target in start.targets.items():
            factors = {}
            for factor, new in target.factors.items():
                parts = Parts(reader, f"{name}.{factor}", new.topology.shape, dtype, start.weights.norm)
                slots = (new.topology.nnz,)
                values, slot_state = parts.dense("values", slots), _kept_of(parts, slots, settings, step)
                shared = {part: parts.dense(part, tuple(array.shape)) for part, array in new.shared.items()}
                factors[factor] = Delta(new.topology, values, slot_state, shared)
            targets[name] = Adapted(target.base, factors)
    return FactorState(step, targets, placed(start.weights, targets, settings, kernels, reuse=False))


def _attributes(state: TrainState | FactorState, settings: TrainSettings, origin: Origin) -> dict[str, formats.JSON]:
    """Return the attributes that the states of all kinds of runs have (CKP-007)."""
    return {
        "step": state.step,
        "settings": settings_text(settings),
        "model": origin.model,
        "text": origin.text,
        "matrices": list(state.targets),
        "dtype": to_numpy(state.weights.norm).dtype.name,
    }


@contextmanager
def _opened(path: str | Path, weights: Weights, settings: TrainSettings, origin: Origin) -> Iterator[Any]:
    """Open a training state that belongs to these settings, model, text and compute dtype (CKP-006)."""
    if not Path(path).is_file():
        raise CheckpointError("CKP-006", f"there is no training state {path} to resume from; start without --resume")
    try:
        with formats.open(path) as reader:
            if reader.kind != "training-state":
                raise CheckpointError("CKP-006", f"{path} is a {reader.kind}, not a training state")
            reader.verify()
            _refuse_another_run(reader.attributes, to_numpy(weights.norm).dtype.name, settings, origin)
            yield reader
    except formats.FormatError as error:
        why = f"{error.message}; {path} is the training state: if it is damaged, {START_ANEW}"
        raise formats.FormatError(error.clause, why) from error


def _refuse_another_run(attributes: Mapping[str, object], dtype: str, settings: TrainSettings, origin: Origin) -> None:
    """Refuse the state of a run of other settings, or of another model, text or compute dtype (CKP-006)."""
    if difference := _difference(attribute_of(attributes, "settings", str), settings_text(settings)):
        why = f"was made with other settings: {difference}; resume with the options of its run"
        raise CheckpointError("CKP-006", f"the training state {why}")
    for key, value in (("model", origin.model), ("text", origin.text), ("dtype", dtype)):
        if (was := attribute_of(attributes, key, str)) != value:
            why = f"{key} was {was}, is {value}" if key == "dtype" else "digests differ"
            if key == "model" and GRID_EXACT in f"{was}{value}":
                why = "one of the two runs stays on the grid; resume with the same merge"
            why += ", of tokens, labels and rows: give the same files and options" if key == "text" else ""
            raise CheckpointError("CKP-006", f"the training state was made with another {key}: {why}")


def _target_of(
    parts: Parts,
    settings: TrainSettings,
    step: int,
    kernels: KernelSet,
    held_in: Held | None,
    memory: Mapping[str, Packed],
    budget: int,
    delta_budget: int,
) -> tuple[Target, Packed]:
    """Return a saved target, and its effective weight packed."""
    base = Base(*parts.sparse("base"))
    if settings.pattern is not None:
        base = Base(in_groups(base.topology, settings.pattern), base.values)
    topology, values = parts.sparse("delta")
    slot_state = _kept_of(parts, (topology.nnz,), settings, step, "delta.")
    shares = shares_of(settings.optimizer, topology.shape)
    shared = {part: parts.dense(f"delta.{part}", (n,)) for part, n in shares.items()}
    nothing = flat(topology)[:0]
    names = ("row_budget", "row_delta_budget")
    rows = [parts.dense(name, parts.shape[:1], np.int64) if settings.rule.by_row else None for name in names]
    lost = parts.positions("lost") if "lost" in parts else nothing
    _check_budgets(parts.name, base.topology, lost, budget, rows[0])
    delta = Delta(topology, values, slot_state, shared)
    beside = None if held_in is None else not_held(base, held_in)
    placed, packed, places, under = place(base, delta, kernels, held_in, beside, **memory)
    return Target(placed, delta, budget, delta_budget, places, under, lost, rows[0], rows[1]), packed


def _check_budgets(name: str, base: Topology, lost: Array, budget: int, row_budget: Array | None) -> None:
    """Refuse a budget that is not the number of weights stored at load: those of B and those that have left it."""
    # CKP-007.11
    xp = array_namespace(lost)
    if bool(xp.any(base.seek(lost)[1])):
        raise damaged(f"{name}.lost has a position that {name}.base stores")
    if budget != (at_load := base.nnz + lost.shape[0]):
        raise damaged(f"the budget of {name} is {budget}, base and lost have {at_load} positions")
    if row_budget is not None:
        n_out, n_in = base.shape
        if bool(xp.any(row_budget != slots_per_row(base) + per_pool(lost, n_in, n_out))):
            raise damaged(f"{name}.row_budget differs from the weights of base and lost in a row")


def _check_delta_budgets(targets: Mapping[str, Target], settings: TrainSettings) -> None:
    """Refuse a d_φ that the settings do not give to a matrix (CKP-007.11)."""
    sizes = settings.delta_budgets([Stored(target.delta.topology.shape, target.budget) for target in targets.values()])
    for (name, target), size in zip(targets.items(), sizes, strict=True):
        by_row = target.row_delta_budget
        rows = 0 if by_row is None else int(array_namespace(by_row).sum(by_row))
        if target.delta_budget != size or rows > size:
            raise damaged(f"delta_budgets give {name} {max(target.delta_budget, rows)} slots, the settings {size}")


def _kept_of(parts: Parts, slots: tuple[int], settings: TrainSettings, step: int, prefix: str = "") -> dict[str, Array]:
    """Return the saved optimizer state of every slot."""
    slot_state = {
        part: parts.dense(f"{prefix}{part}", slots, np.int32 if part == "age" else None) for part in settings.keeps()
    }
    # checked, because the optimizer makes a table up to the largest age, which a damaged file could make huge.
    # DLT-006, TRN-023.4: a seeded slot is as old as its window, further steps included
    oldest = step + (settings.event_batches - 1 if settings.rule.moments == "seeded" else 0)
    if "age" in slot_state and int(to_numpy(slot_state["age"]).max(initial=0)) > oldest:
        raise damaged(f"{parts.name}.{prefix}age exceeds step {step}")
    return slot_state


def _steps_of_window(settings: TrainSettings, step: int) -> int:
    """Return how many steps a gradient window holds that is open after a step; 0 if none is (TRN-005)."""
    event = settings.timetable().event_after(step + 1) if settings.rule.asks() else None
    return 0 if event is None else max(0, step - (event[0] - event[1]))


def _window_parts(window: AnyWindow) -> tuple[dict[str, formats.Tensor], dict[str, formats.JSON]]:
    """Return the tensors and the counts in which a state file stores a settled window (CKP-007)."""
    tensors: dict[str, formats.Tensor] = {}
    counts: dict[str, formats.JSON] = {"steps": window.steps}
    if isinstance(window, FirstStepWindow):
        assert window.candidates is not None
        tensors["candidates"] = _mask(window.window.shape, window.candidates)
        window = window.window
    else:
        counts["inputs"] = window.n_inputs
    for part in window.of_gradients:
        sums = getattr(window, part)
        tensors[part] = _dense(sums) if window.kept_at is None else _sparse(window.kept_at(), sums)
    if window.input_squares is not None:
        tensors["input_squares"] = _dense(window.input_squares)
    if window.tokens is not None:
        assert window.support is not None
        tensors["tokens"] = _sparse(window.support(), window.tokens)
    return tensors, counts


def _window_of(parts: Parts, counts: Mapping[str, Any], target: Target, rule: Rule) -> AnyWindow:
    """Return the saved window of a matrix."""
    shape, evidence_names = parts.shape, rule.asks()
    window = opened(target.base, target.delta.topology, evidence_names, on_support=rule.only_on_support)
    first_step = rule.candidates == "first-step"
    if first_step:
        first = FirstStepWindow.of(target.delta_budget, window, parts.positions("window.candidates"))
        window = first.window
    support, kept_at = window.support, window.kept_at
    assert support is not None
    sums: dict[str, Any] = {}
    for part in window.of_gradients:
        sums[part] = parts.dense(f"window.{part}", shape) if kept_at is None else _sums_at(parts, part, kept_at())
    if "tokens" in evidence_names:
        sums["tokens"] = _sums_at(parts, "tokens", support())
    if "inputs" in evidence_names:
        sums["input_squares"] = parts.dense("window.input_squares", shape[1:])
    if not first_step:
        sums["n_inputs"] = attribute_of(counts, "inputs", int)
    window = replace(window, settled_steps=attribute_of(counts, "steps", int), **sums)
    return replace(first, window=window) if first_step else window


def _sums_at(parts: Parts, part: str, positions: Topology) -> Array:
    """Return saved sums of a window; refuse them if they are not at the positions where the window keeps them."""
    topology, sums = parts.sparse(f"window.{part}")
    if not np.array_equal(to_numpy(flat(topology)), to_numpy(flat(positions))):
        raise damaged(f"{parts.name}.window.{part} is not at the positions where the window keeps it")
    return sums


def settings_text(settings: TrainSettings) -> str:
    """Return the settings as canonical JSON text, in which every number reads back as the same binary64."""
    return json.dumps(settings.described(), sort_keys=True)


def _difference(saved_text: str, current_text: str) -> str:
    """Return a text that names the settings that differ, empty if none does; the preset's name does not count."""
    try:
        old, new = json.loads(saved_text), json.loads(current_text)
        if old.get("adapter") != new.get("adapter"):  # name the presets, because nearly all settings differ then
            return f"it is a run of {old['preset']}, not of {new['preset']}"
        # CKP-007.10; the settings of another optimizer have other names
        lacking = [key for key in new if key not in old and key not in ABSENT_AT_DEFAULT]
        if lacking and old.get("optimizer") == new.get("optimizer"):
            raise damaged(f"its settings lack {', '.join(lacking)}")
        names = [key for key in {**old, **new} if key != "preset" and old.get(key) != new.get(key)]
    except (ValueError, TypeError, AttributeError, KeyError):
        return "they are not readable"
    return ", ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in names)


def _shape_of(weights: Weights, name: str) -> tuple[int, int]:
    """Return the shape of a target of the model; raise CKP-007 for an unknown name."""
    try:
        return matrix_of(weights, name).shape
    except (ValueError, IndexError, AttributeError):
        raise damaged(f"the model has no target {name!r}") from None


def _sparse(topology: Topology, values: Array) -> formats.Sparse:
    on_host = as_numpy(topology)
    return formats.Sparse(on_host.shape, on_host.indptr, on_host.indices, to_numpy(values))


def _dense(array: Array) -> formats.Dense:
    return formats.Dense(to_numpy(array))


def _mask(shape: tuple[int, int], positions: Array) -> formats.Mask:
    return formats.from_flat(shape, to_numpy(positions))
