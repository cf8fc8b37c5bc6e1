"""Around a run: compute dtypes, final weights, warnings and the rows of ranks (CKP-001, CKP-004, TRN-011, TRN-013)."""

from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, answers, ids
from conformance.oracle import train_around

__all__: list[str] = []


@answers("checkpoint.dtype")
def _dtype(a: Inputs) -> dict[str, Any]:
    return {"dtype": train_around.compute_dtype(a["stored"], a["asked"])}


@answers("checkpoint.final")
def _final(a: Inputs) -> dict[str, Any]:
    return {"bits": np.frombuffer(train_around.final(a["values"].tolist(), a["dtype"]), dtype=np.uint8)}


@answers("run.warnings")
def _warnings(a: Inputs) -> dict[str, Any]:
    losses, events, support = (a[name].tolist() for name in ("losses", "events", "support"))
    warnings = train_around.warnings(losses, events, support, a["budget"], a["stored"])
    return {"steps": ids(step for step, _ in warnings), "names": [name for _, name in warnings]}


@answers("ranks.rows")
def _rows(a: Inputs) -> dict[str, Any]:
    return {"first": ids(train_around.shares(a["rows"], a["ranks"]))}
