"""The state of a run as a file: whole, at any step, without anything that runs (CKP-006, CKP-007).

save_state("run.state", state, settings, origin)
state = load_state("run.state", model.weights, settings, origin, kernels)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import formats
from seft_ref.checkpoint import topology_and_values, with_values_in
from seft_ref.errors import CheckpointError
from seft_ref.kernels import Kernels, Packed
from seft_ref.nm import grouped
from seft_ref.settings import TrainSettings
from seft_ref.topology import Topology, flat, from_flat, union
from seft_ref.train import Target, TrainState, place
from seft_ref.update.delta import Base, Delta
from seft_ref.update.optimizers import shares_of
from seft_ref.update.rules import Rule
from seft_ref.weights import Weights, with_matrices
from seft_ref.window import AnyWindow, FirstStepWindow, Window

NumpyArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a training state belongs to: digests of the model it started from and of the tokens it reads."""

    model: str
    text: str


def save_state(path: str | Path, state: TrainState, settings: TrainSettings, origin: Origin) -> None:
    """Write a training state to one file, atomically (CKP-006, CKP-007)."""
    tensors: dict[str, formats.Tensor] = {}
    attributes: dict[str, formats.JSON] = {
        "step": state.step,
        "settings": settings_text(settings),
        "model": origin.model,
        "text": origin.text,
        "matrices": list(state.targets),
        "budgets": {name: target.budget for name, target in state.targets.items()},
        "delta_budgets": {name: target.delta_budget for name, target in state.targets.items()},
    }
    for name, target in state.targets.items():
        base, delta = target.base, target.delta
        tensors[f"{name}.base"] = _sparse(base.topology, base.values)
        tensors[f"{name}.delta"] = _sparse(delta.topology, delta.values)
        for part, array in (*delta.kept.items(), *delta.shared.items()):
            tensors[f"{name}.delta.{part}"] = formats.Dense(array)
        if target.lost.shape[0]:
            tensors[f"{name}.lost"] = _mask(base.topology.shape, target.lost)
        for part in ("row_budget", "row_delta_budget"):
            if (rows := getattr(target, part)) is not None:
                tensors[f"{name}.{part}"] = formats.Dense(rows)
    windows: dict[str, formats.JSON] = {}
    for name, window in state.window.items():
        held, counts = _window_parts(window)
        windows[name] = counts
        tensors |= {f"{name}.window.{part}": tensor for part, tensor in held.items()}
    attributes["windows"] = windows
    formats.write_file(path, formats.Checkpoint("training-state", tensors, attributes))


def load_state(
    path: str | Path, weights: Weights, settings: TrainSettings, origin: Origin, kernels: Kernels
) -> TrainState:
    """Return the training state in a file, placed into the weights of its model (CKP-006, TRN-004).

    Raises:
        CheckpointError: CKP-006 if the state belongs to other settings, another model or another text.
    """
    if not Path(path).is_file():
        raise CheckpointError("CKP-006", f"there is no training state {path} to resume from; start without --resume")
    with formats.open(path) as reader:
        if reader.kind != "training-state":
            raise CheckpointError("CKP-006", f"{path} is a {reader.kind}, not a training state")
        reader.verify()
        held: dict[str, Any] = reader.attributes
        expected = {"settings": settings_text(settings), "model": origin.model, "text": origin.text}
        for key, value in expected.items():
            if held.get(key) != value:
                raise CheckpointError(
                    "CKP-006",
                    f"the training state was made with other {key}: {_difference(held.get(key), value)}",
                )
        targets: dict[str, Target] = {}
        packed: dict[str, Packed] = {}
        window: dict[str, AnyWindow] = {}
        keeps, rule = settings.keeps(), settings.rule
        # the order of the list is the matrix index; objects of JSON have none
        for name in held["matrices"]:
            budget = held["budgets"][name]
            base = Base(*topology_and_values(name, reader[f"{name}.base"]))
            if settings.pattern is not None:
                base = Base(grouped(base.topology, settings.pattern), base.values)
            topology, values = topology_and_values(name, reader[f"{name}.delta"])

            def dense(part: str, of: str = name) -> NumpyArray:
                return with_values_in(of, reader[f"{of}.{part}"]).values

            kept = {part: dense(f"delta.{part}") for part in keeps}
            shared = {part: dense(f"delta.{part}") for part in shares_of(settings.optimizer, topology.shape)}
            nothing = flat(topology)[:0]
            by_row = rule.scope == "row"
            placed = Target(
                base,
                Delta(topology, values, kept, shared),
                budget,
                held["delta_budgets"][name],
                nothing,
                values[:0],
                _positions(reader, f"{name}.lost") if f"{name}.lost" in reader else nothing,
                dense("row_budget") if by_row else None,
                dense("row_delta_budget") if by_row else None,
            )
            targets[name], packed[name] = place(placed, kernels)
            if name in held["windows"]:
                window[name] = _window_of(name, reader, held["windows"][name], targets[name], rule)
    return TrainState(held["step"], targets, with_matrices(weights, packed), window)


def _window_parts(window: AnyWindow) -> tuple[dict[str, formats.Tensor], dict[str, formats.JSON]]:
    """Return the tensors and the counts of a settled window (CKP-007)."""
    tensors: dict[str, formats.Tensor] = {}
    if isinstance(window, FirstStepWindow):
        assert window.positions is not None
        assert window.candidates is not None
        assert window.gradient is not None
        assert window.square is not None
        where = from_flat(window.first.shape, window.positions)
        tensors["gradient"] = _sparse(where, window.gradient)
        tensors["square"] = _sparse(where, window.square)
        tensors["candidates"] = _mask(window.first.shape, window.candidates)
        return tensors, {"steps": window.settled_steps}
    for part in ("gradient", "absolute", "square", "input_squares"):
        if (sums := getattr(window, part)) is not None:
            tensors[part] = formats.Dense(sums)
    return tensors, {"steps": window.settled_steps, "inputs": window.n_inputs}


def _window_of(name: str, reader: Any, counts: Mapping[str, Any], target: Target, rule: Rule) -> AnyWindow:
    """Return the window of a matrix as it was saved."""
    shape = target.base.topology.shape
    if rule.candidates == "first-step":
        where, gradient = topology_and_values(name, reader[f"{name}.window.gradient"])
        _, square = topology_and_values(name, reader[f"{name}.window.square"])
        candidates = _positions(reader, f"{name}.window.candidates")
        support = union(flat(target.base.topology), flat(target.delta.topology))
        return FirstStepWindow(
            target.delta_budget,
            support,
            Window(shape),
            counts["steps"],
            candidates,
            flat(where),
            gradient=gradient,
            square=square,
        )
    sums: dict[str, Any] = {
        part: with_values_in(name, reader[f"{name}.window.{part}"]).values
        for part in ("gradient", "absolute", "square", "input_squares")
        if f"{name}.window.{part}" in reader
    }
    return Window(shape, rule.asks(), counts["steps"], n_inputs=counts["inputs"], **sums)


def settings_text(settings: TrainSettings) -> str:
    """Return the settings as canonical JSON text; numbers stand in it as Python writes them, exactly."""
    return json.dumps(settings.described(), sort_keys=True)


def _difference(held: object, given: str) -> str:
    """Name what two settings texts disagree on."""
    try:
        old, new = json.loads(str(held)), json.loads(given)
        return ", ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in new if old.get(key) != new.get(key))
    except (ValueError, AttributeError):
        return "digests differ"


def _sparse(topology: Topology, values: NumpyArray) -> formats.Sparse:
    return formats.Sparse(topology.shape, topology.indptr, topology.indices, values)


def _mask(shape: tuple[int, int], positions: NumpyArray) -> formats.Mask:
    return formats.from_flat(shape, positions)


def _positions(reader: Any, name: str) -> NumpyArray:
    """Return the flat positions of a mask."""
    tensor = reader[name]
    if not isinstance(tensor, formats.Mask):
        raise CheckpointError("CKP-007", f"{name} is not a mask; the training state is damaged")
    return formats.flat(tensor)
