"""Training states: written after a step, and resumed to the end of the run (TRN-004, CKP-006, CKP-007)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.answers.answer import Answer, Inputs, Refusal, answers, ids, reals
from conformance.answers.train import of_steps, refuse_run, world_of
from conformance.oracle import files, second_reader, train, train_passage, train_saved, train_state
from conformance.oracle.model import targets
from conformance.oracle.select import binary64

__all__ = ["raw_of", "resumed_from", "saved_after"]


def saved_after(a: dict[str, Any]) -> tuple[float, train_passage.Saved]:
    """Return the smallest gap up to the step `stop` of the inputs of `state.write`, and the state there."""
    trainer = train.Trainer(**world_of(a))
    saved = train_passage.go_on(trainer, 0, [], a["stop"]).saved
    return trainer.gap, saved


@answers("state.write")
def _write(a: Inputs) -> Answer:
    refuse_run(a)
    saved, names, settings = saved_after(a)[1], targets(a["config"]), a["settings"]
    tensors = {
        name: {
            "dtype": "float" if one.dtype == "F64" else one.dtype,
            "shape": ids(one.shape),
            "positions": None if one.at is None else ids(one.at),
            "values": (reals if one.dtype == "F64" else ids)(one.values),
        }
        for name, one in train_state.contents(saved, names, settings, "float64").items()
    }
    attributes = files.text(train_state.attributes(saved, names, settings, a["origin"]))
    whole = {"attributes": attributes, "settings": train_state.settings_of(settings), "tensors": tensors}
    return Answer({"raw": whole}, written={"raw": raw_of(a, saved, _dtype(a))})


def _dtype(a: Inputs) -> str:
    return "float64" if a.rounded is binary64 else "float32"


def raw_of(a: dict[str, Any], saved: train_passage.Saved, dtype: str) -> NDArray[Any]:
    """Return the file of a state of the run of these inputs, as bytes."""
    pieces = train_state.pieces(saved, targets(a["config"]), a["settings"], a["origin"], dtype)
    return np.frombuffer(pieces.pack(), dtype=np.uint8)


def resumed_from(a: dict[str, Any], saved: train_passage.Saved) -> train_passage.Run:
    """Return the rest of the run of the inputs of `state.resume` after a state."""
    from_here = (saved.parts, (saved.rows, saved.columns))
    trainer = train.Trainer.resumed(a["config"], a["tensors"], a["text"].tolist(), a["settings"], *from_here)
    return train_passage.to_the_end(trainer, saved.step, saved.sums)


@answers("state.resume")
def _resume(a: Inputs) -> dict[str, Any]:
    names = targets(a["config"])
    try:
        saved = train_saved.read(a["raw"].tobytes(), names, a["settings"], a["origin"], _dtype(a))
    except second_reader.Refused as refused:
        # a byte of a section is one of its tensor, too
        raise Refusal(*{"FMT-090": ("FMT-090", "FMT-091")}.get(refused.clause, (refused.clause,))) from refused
    run = resumed_from(a, saved)
    return of_steps(run) | {"starts": [ids(start) for start in run.passage.starts]}
