"""The dtypes of files and of computation (CKP-001, CKP-003, CKP-004, CKP-010)."""

import ml_dtypes
import numpy as np

from formats.dialects.checks import rounded_once
from seft_ref.arrays.library import Dtype, NumpyArray
from seft_ref.errors import CheckpointError

SIXTEEN_BIT = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
"""The 16-bit dtypes of files: weights are computed with in float32, and may stay in 16 bits in memory."""


def compute_dtype(name: str, stored: Dtype, dtype: str | None) -> Dtype:
    """Return the dtype to compute with: the named one, or the stored one with 16-bit floats as float32 (CKP-001).

    Raises:
        CheckpointError: CKP-001 for values that are not floats of 16, 32 or 64 bits, or another dtype than
        float32 and float64.
    """
    if dtype not in (None, "float32", "float64"):
        raise CheckpointError("CKP-001", f"cannot compute in {dtype}; choose float32 or float64")
    if stored not in (*SIXTEEN_BIT, np.float32, np.float64):
        raise CheckpointError(
            "CKP-001", f"{name} is {stored}; weights of bfloat16, float16, float32 and float64 can be computed with"
        )
    return np.dtype(dtype or (np.float32 if stored in SIXTEEN_BIT else stored))


def in_compute_dtype(name: str, values: NumpyArray, dtype: str | None) -> NumpyArray:
    """Return values in the dtype to compute with.

    Raises:
        CheckpointError: as `compute_dtype`.
    """
    return np.ascontiguousarray(values.astype(compute_dtype(name, values.dtype, dtype), copy=False))


def in_file_dtype(name: str, values: NumpyArray, dtype: Dtype) -> NumpyArray:
    """Return values in the dtype of the file, rounded once (CKP-004).

    Raises:
        CheckpointError: CKP-004 if a value is NaN or infinite, or does not fit the dtype.
    """
    if not np.isfinite(values).all():
        raise CheckpointError("CKP-004", f"{name} has become NaN or infinite; lower the learning rate and train anew")
    rounded = rounded_once(values, dtype)
    if not np.isfinite(rounded).all():
        raise CheckpointError("CKP-004", f"a weight of {name} does not fit {dtype}; convert the model to float32 first")
    return rounded


def computable(name: str, values: NumpyArray, dtype: str | None) -> NumpyArray:
    """Return values in the dtype to compute with; raise CKP-003 with the name for NaN and infinity."""
    values = in_compute_dtype(name, values, dtype)
    if not np.isfinite(values).all():
        raise CheckpointError("CKP-003", f"{name} holds NaN or infinite weights; repair the model first")
    return values


def limit_of(name: str, stored: Dtype, dtype: str | None) -> float:
    """Return the smallest magnitude that rounds to infinity in the dtype of a weight's file, ∞ if none (CKP-010)."""
    computed = compute_dtype(name, stored, dtype)
    info = ml_dtypes.finfo(stored)
    if info.bits >= ml_dtypes.finfo(computed).bits:
        return np.inf
    # the limit is half a unit in the last place above the largest number, because that tie rounds to infinity
    return float(info.max) + 2.0 ** (int(info.maxexp) - 1 - int(info.nmant) - 1)
