"""Comparisons that NaN never passes (NUM-005)."""

import numpy as np


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest absolute difference over the largest absolute value of `want` (NUM-004), 0 for zeros."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    if not want.size:
        return 0.0
    largest, difference = np.max(np.abs(want)), np.max(np.abs(got - want))
    if largest == 0:
        return 0.0 if difference == 0 else float("inf")
    return float(difference / largest)


def assert_close(got: np.ndarray, want: np.ndarray, bound: float, what: str = "") -> float:
    """Fail unless the relative error is at most bound; return it."""
    error = relative_error(got, want)
    assert error <= bound, f"{what}: relative error {error:.3g}, allowed {bound:.3g}"
    return error


def same_bits(got: np.ndarray, want: np.ndarray) -> bool:
    """Return whether two arrays have the same dtype, shape and bits, so that −0.0 and +0.0 differ."""
    got, want = np.asarray(got), np.asarray(want)
    return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()
