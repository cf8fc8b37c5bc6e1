"""Cases of operations without entries, and of positions that no topology has (PRT-019, TOP-003)."""

from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import Area, ids, reals

_TEXT = "an array without entries that ends in an error, or reads beyond itself"


def nothing() -> Area:
    """Return cases whose arrays have no entries (PRT-019)."""
    area = Area("empty", "nothing to compute")
    for name, outs, ins, rows in (("rows", 0, 3, 2), ("columns", 3, 0, 2), ("tokens", 2, 3, 0)):
        dy, x = np.ones((rows, outs)), np.ones((rows, ins))
        inputs = {"out": outs, "in": ins, "dy": dy, "x": x, "positions": ids([])}
        answer, bounds = {"values": reals([])}, {"values": Bound(reals([]), rows)}
        area.add(f"at-no-{name}", "gradient.at", "PRT-019 GRD-002", _TEXT, inputs, answer, bounds=bounds)
        if rows:
            inputs = {"out": outs, "in": ins, "dy": [dy], "x": [x], "steps": 1}
            inputs |= {"base": ids([]), "delta": ids([]), "n": 0, "scope": "all"}
            answer = {"candidates": ids([]), "values": reals([])}
            area.add(f"candidates-no-{name}", "gradient.candidates", "PRT-019 GRD-003", _TEXT, inputs, answer)
    for name, rows, tokens in (("rows", 0, 3), ("tokens", 1, 0)):
        q, k = np.ones((rows, tokens, 2, 4)), np.ones((rows, tokens, 1, 4))
        inputs = {"q": q, "k": k, "v": k, "mask": None, "window": None, "dy": q}
        answer = {"y": q, "dq": q, "dk": k, "dv": k}
        area.add(f"attention-no-{name}", "layer.attention", "PRT-019 LYR-007", _TEXT, inputs, answer)
    inputs = {"weights": np.ones((3, 0)), "inputs": np.ones((2, 0)), "sparsity": 0.5}
    answer = {"kept": ids([]), "weights": np.ones((3, 0))}
    area.add("sparsegpt-no-columns", "prune.sparsegpt", "PRT-019 PRN-009", _TEXT, inputs, answer)
    return area


def positions() -> Area:
    """Return cases of flat positions that are those of no topology (TOP-003.2)."""
    area = Area("no-positions", "a table")
    sparse = {"out": 1, "in": 3, "values": reals([2.0, 3.0]), "x": np.ones((1, 3)), "dy": np.ones((1, 1))}
    matrix = {"out": 1, "in": 3, "base_values": reals([1.0, 2.0]), "delta_values": reals([1.0, 2.0])}
    for name, at in (("order", [2, 1]), ("far", [0, 3]), ("negative", [-1, 0])):
        calls: tuple[tuple[str, dict[str, Any]], ...] = (
            ("kernel.sparse", sparse | {"positions": ids(at)}),
            ("delta.effective", matrix | {"base": ids(at), "delta": ids([0, 1])}),
            ("change.source", {"out": 1, "in": 3, "old": ids(at), "new": ids([0, 1])}),
        )
        for op, inputs in calls:
            text = "positions that wrap around, or are counted twice"
            area.add(f"{op.partition('.')[0]}-{name}", op, "TOP-003", text, inputs, refused="TOP-003")
    return area


AREAS = (nothing, positions)
