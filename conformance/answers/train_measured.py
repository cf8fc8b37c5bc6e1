"""Losses of examples, and the measurements of a run with validation data (EVL-004, TRN-022)."""

from typing import Any

from conformance.answers.answer import Inputs, answers, ids, reals
from conformance.oracle import train_measured

__all__: list[str] = []


@answers("evaluate.examples")
def _examples(a: Inputs) -> dict[str, Any]:
    examples = list(zip(a["tokens"], a["labels"], strict=True))
    loss, counted = train_measured.loss_of_examples(a["config"], a["tensors"], examples)
    return {"loss": loss, "counted": counted}


@answers("run.measured")
def _measured(a: Inputs) -> dict[str, Any]:
    at, best, last = train_measured.measured(a["losses"].tolist(), a["valid_every"], a["patience"])
    return {"measured": ids(at), "best": best, "last": last}


@answers("train.measured")
def _whole(a: Inputs) -> dict[str, Any]:
    settings = a["settings"] | {name: a[name] for name in ("valid_every", "patience")} | {"valid": a["valid"].tolist()}
    stored = {name: positions.tolist() for name, positions in a["stored"].items()}
    measurements, final, _ = train_measured.run(a["config"], a["tensors"], stored, a["text"].tolist(), settings)
    assert measurements.best is not None
    return {
        "measured": ids(measurements.losses),
        "losses": reals(measurements.losses.values()),
        "best": measurements.best[0],
        "last": measurements.last,
        "support": [ids(weights) for weights in final],
        "weights": [reals(weights.values()) for weights in final],
    }
