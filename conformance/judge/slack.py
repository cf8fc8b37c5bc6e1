"""The slack of a bound: the error that is allowed because SPEC.md demands no exact powers and no exact cosines.

The gauge of an output (NUM-002) bounds its roundings. The slack is added to it, because a scalar in front of the sum
may be inexact in binary64: a power of β (OPT-009) or a frequency of RoPE (LYR-017). It is computed from the inputs of a
case when the case is judged, so that frozen cases need not change.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases.case import Bound, Case
from conformance.oracle import layers, powers

__all__ = ["bound_of"]

_DEFAULTS = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
"""Defaults of inputs that a case leaves out (OPT-003)."""


def bound_of(case: Case, output: str) -> Bound | None:
    """Return the bound of an output, with the slack for inexact scalars; None if the case has no bound for it."""
    bound = case.bounds.get(output)
    if bound is None or case.refused:
        return bound
    if case.op in ("adamw.step", "optimizer.step") and output == "values" and case.inputs.get("age") is not None:
        return replace(bound, slack=_of_step(case))
    if case.op == "layer.rope":
        return replace(bound, slack=_of_rotation(case, bound.gauge))
    return bound


def _of_step(case: Case) -> NDArray[np.float64]:
    """Return |step| of each slot times the relative error that OPT-009 allows it."""
    inputs = case.inputs
    beta1, beta2, eps = (_number(inputs.get(name), other) for name, other in _DEFAULTS.items())
    ages = np.asarray(case.expected["age"])
    by_age = {age: _scalars(beta1, beta2, age) for age in {int(a) for a in ages}}
    c1, c2, error = (np.array([by_age[int(a)][i] for a in ages], dtype=np.float64) for i in range(3))
    root = np.sqrt(np.asarray(case.expected["v"], dtype=np.float64)) / c2
    step = inputs["lr"] / c1 * np.abs(case.expected["m"]) / (root + (eps / c2 if _is_spiel(inputs) else eps))
    return np.asarray(step * error)


def _scalars(beta1: float, beta2: float, age: int) -> tuple[float, float, float]:
    """Return c₁, c₂ and the relative error of a step at an age."""
    c1, c2 = 1 - powers.power(beta1, age), (1 - powers.power(beta2, age)) ** 0.5
    return c1, c2, powers.step_error(beta1, beta2, age)


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _is_spiel(inputs: dict[str, Any]) -> bool:
    return bool(inputs.get("kind") == "spiel-adamw")


def _of_rotation(case: Case, gauge: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the slack of a rotation: the error of an angle by LYR-017, which also bounds that of cosine and sine."""
    _, length, _, width = np.shape(case.inputs["x"])
    frequencies = layers.frequencies(width, case.inputs["rope"], length)
    angles = np.outer(np.arange(length), [*frequencies, *frequencies])[None, :, None, :]
    return np.asarray(gauge * (angles * powers.ANGLE))
