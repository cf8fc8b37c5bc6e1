"""Runs with validation data, whole and with given losses, as calls into the engine (TRN-022)."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import formats
from conformance.engine.train import settings_of_case
from conformance.engine.values import Values, ints, work_folder
from seft_ref.arrays.library import to_numpy
from seft_ref.files.best import Best
from seft_ref.kernels import reference
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights
from seft_ref.runs.finetune import finetune
from seft_ref.runs.outcome import BestModel, Validation
from seft_ref.topology.csr import flat
from seft_ref.train.settings import settings_of


class _Known(BestModel):
    """The outcome of a run whose weights are the loss that they have."""

    def _loss(self, weights: Weights, config: ModelConfig) -> float:
        return weights  # type: ignore[return-value]


def _measured(a: Values) -> Values:
    losses, steps = [float(x) for x in a["losses"]], []
    validation = Validation([], a["valid_every"], a.get("patience"), lambda step, loss, best: steps.append(step))
    settings = settings_of("seft", steps=len(losses))
    outcome = _Known(validation, [], Path("model"), Path("out"), settings, reference, {})
    # the second rank of two, which keeps no files
    rank: Any = SimpleNamespace(rank=1)
    for step, loss in enumerate(losses, start=1):
        state: Any = SimpleNamespace(step=step, weights=loss)
        if outcome.is_over(state, None, dict, rank):  # type: ignore[arg-type]
            break
    assert outcome.best is not None
    return {"measured": ints(steps), "best": outcome.best.step, "last": step}


def _whole(a: Values) -> Values:
    tensors: dict[str, formats.Tensor] = {}
    for name, tensor in a["tensors"].items():
        whole, positions = to_numpy(tensor), a["stored"].get(name)
        tensors[name] = formats.Dense(whole)
        if positions is not None:
            at = to_numpy(positions)
            tensors[name] = formats.with_values(formats.from_flat(whole.shape, at), whole.reshape(-1)[at])
    files = {"config.json": json.dumps(a["config"]).encode()}
    steps: list[int] = []
    losses: list[float] = []

    def note(step: int, loss: float, _: Best) -> None:
        steps.append(step)
        losses.append(loss)

    valid = Validation([int(t) for t in a["valid"]], a["valid_every"], a.get("patience"), note)
    with work_folder() as folder:
        formats.write(folder / "model", formats.Checkpoint("model", tensors, {}, files=files))
        done = finetune(
            folder / "model",
            folder / "out",
            [int(t) for t in a["text"]],
            settings_of_case(a["settings"]),
            valid=valid,
            kernels=a["kernels"],
        )
        assert done.final is not None
        assert done.best is not None
        final = [done.final[matrix.name] for matrix in done.config.targets()]
    return {
        "measured": ints(steps),
        "losses": np.array(losses, dtype=final[0][1].dtype),
        "best": done.best.step,
        "last": done.state.step,
        "support": [flat(topology) for topology, _ in final],
        "weights": [weights for _, weights in final],
    }


OPERATIONS: dict[str, Any] = {"run.measured": _measured, "train.measured": _whole}
