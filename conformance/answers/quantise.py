"""Quantised matrices: rounding, weights of codes, merging (chapter 19)."""

from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, answers, ids, reals, refuse
from conformance.oracle import quantise

__all__ = ["rounded"]


def rounded(a: Inputs) -> tuple[dict[str, Any], float]:
    """Return the outputs of `quantise.matrix`, and the smallest distance of a quotient of GPTQ from a tie, else 1."""
    at, gap = a["positions"].tolist(), 1.0
    if a["inputs"] is None:
        coded = quantise.nearest(a["weights"], at, a["grid"])
    else:
        refuse(QNT_005=a["block"] is not None and a["block"] < 1)
        damping = 0.01 if a["damping"] is None else a["damping"]
        coded, gap = quantise.gptq(a["weights"], at, a["grid"], a["inputs"], damping)
    rows = a["weights"].shape[0]
    outputs = {
        "codes": ids(coded.codes[p] for p in at),
        "scales": reals(coded.scales).reshape(rows, -1),
        "zeros": ids(coded.zeros).reshape(rows, -1),
    }
    return outputs, gap


@answers("quantise.matrix")
def _matrix(a: Inputs) -> dict[str, Any]:
    return rounded(a)[0]


def _coded(a: Inputs) -> quantise.Coded:
    codes = dict(zip(a["positions"].tolist(), a["codes"].tolist(), strict=True))
    return quantise.given(a["grid"], (a["out"], a["in"]), codes, a["scales"], a["zeros"])


@answers("quantise.weights")
def _weights(a: Inputs) -> dict[str, Any]:
    coded = _coded(a)
    return {"values": reals(float(coded.weight(p)) for p in coded.codes)}


@answers("quantise.merge")
def _merge(a: Inputs) -> dict[str, Any]:
    refuse(QNT_006=not np.isfinite(a["values"]).all())
    support = dict(zip(a["support"].tolist(), a["values"].tolist(), strict=True))
    made = quantise.merge(_coded(a), support, a["mode"], a.rounded)
    arrays = {name: ids(made[name]) for name in ("positions", "codes", "update")}
    return made | arrays | {"update_values": reals(made["update_values"])}
