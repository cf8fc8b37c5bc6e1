"""Training states by the engine: a run that stops, and one that goes on (chapter 13)."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from conformance.engine.models import settings_of_case, weights_of_case
from seft_ref.arrays.library import array_namespace
from seft_ref.files.state import Origin, load_state, save_state
from seft_ref.model.config import ModelConfig
from seft_ref.topology.csr import flat, from_flat
from seft_ref.train.loop import finish, initial_state, step_batches, train
from seft_ref.update.delta import Base

Values = dict[str, Any]


def _origin(a: Values) -> Origin:
    return Origin(a["origin"]["model"], a["origin"]["text"])


def write(a: Values) -> Values:
    """Return the state of a run after a step, as the bytes of a file."""
    settings = settings_of_case(a["settings"])
    config = ModelConfig.from_json(a["config"])
    text = [int(t) for t in a["text"]]
    bases = {}
    for matrix in config.targets():
        where = a["stored"][matrix.name]
        values = array_namespace(where).take(a["tensors"][matrix.name].reshape(-1), where)
        bases[matrix.name] = Base(from_flat(matrix.shape, where), values)
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    state = initial_state(settings, config, weights, bases, a["kernels"], step_batches(settings, text, 1, weights))
    for state, _ in train(state, settings, config, text, a["kernels"]):  # noqa: B020  a state is used once
        if state.step == a["stop"]:
            break
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        save_state(path, state, settings, _origin(a))
        return {"raw": np.frombuffer(path.read_bytes(), dtype=np.uint8)}


def resume(a: Values) -> Values:
    """Return what follows a state, to the end of its run."""
    settings = settings_of_case(a["settings"])
    config = ModelConfig.from_json(a["config"])
    text = [int(t) for t in a["text"]]
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        path.write_bytes(a["raw"].tobytes())
        state = load_state(path, weights, settings, _origin(a), a["kernels"])
    names = list(state.targets)
    losses, slots, stored, starts = [], [], [], []
    for state, record in train(state, settings, config, text, a["kernels"]):  # noqa: B020  a state is used once
        losses.append(record.loss)
        if record.matrices is not None:
            slots.append([flat(state.targets[name].delta.topology) for name in names])
            stored.append([flat(state.targets[name].base.topology) for name in names])
            starts.append(np.array([record.matrices[name].start for name in names]))
    final = finish(state, settings, config, text, a["kernels"])
    return {
        "losses": np.array(losses, dtype=a["tensors"]["model.norm.weight"].dtype),
        "slots": slots,
        "bases": stored,
        "starts": starts,
        "support": [flat(final[name][0]) for name in names],
        "weights": [final[name][1] for name in names],
    }


OPERATIONS: dict[str, Any] = {"state.write": write, "state.resume": resume}
