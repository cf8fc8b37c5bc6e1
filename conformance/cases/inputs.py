"""The inputs of a case as a port gets them: its own copies, float arrays in the dtype of the call."""

from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.compare import float_type
from conformance.cases.ops import OPS

__all__ = ["prepared_inputs", "same_values"]


def prepared_inputs(case: Case, dtype: str) -> dict[str, Any]:
    """Return copies of all inputs of a case, absent ones as None, float arrays in dtype."""
    return {name: _prepared(case.inputs.get(name), dtype) for name in OPS[case.op].inputs}


def _prepared(value: Any, dtype: str) -> Any:
    """Return a copy of a value with float arrays in dtype."""
    if isinstance(value, np.ndarray):
        return value.astype(float_type(dtype)) if value.dtype.kind == "f" else value.copy()
    if isinstance(value, dict):
        return {k: _prepared(v, dtype) for k, v in value.items()}
    if isinstance(value, list):
        return [_prepared(v, dtype) for v in value]
    return value


def same_values(a: Any, b: Any) -> bool:
    """Return whether two values are equal: arrays by dtype, shape and bytes, numbers by value, NaN equal to NaN."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_values(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same_values, a, b))
    return bool(a == b) or (a != a and b != b)
