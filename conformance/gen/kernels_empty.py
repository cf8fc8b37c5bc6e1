"""Cases of operations without entries (PRT-019)."""

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


AREAS = (nothing,)
