"""The one place that knows about array libraries: everything else asks the arrays it is given.

    xp = array_namespace(x)             # numpy, cupy, array_api_strict ...
    y = xp.zeros((3,), dtype=x.dtype, device=device(x))
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, to_device

Array = Any
"""Any array of a library that follows the array API standard. Shapes stand in the signatures."""

__all__ = ["Array", "array_namespace", "device", "from_numpy", "int64_like", "is_float", "to_numpy"]


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Return x as a NumPy array of the same shape and dtype, copied from its device where it is not on the host."""
    if is_numpy_array(x):
        return x
    if hasattr(x, "get"):  # cupy
        return x.get()
    xp = array_namespace(x)
    if hasattr(xp, "Device") or hasattr(x, "_device"):  # array_api_strict: any device to its CPU device
        x = to_device(x, xp.Device("CPU_DEVICE"))
    return np.asarray(x)


def from_numpy(x: np.ndarray[Any, Any], like: Array) -> Array:
    """Return the NumPy array x in the library and on the device of `like`; shape and dtype stay."""
    if is_numpy_array(like):
        return x
    return array_namespace(like).asarray(x, device=device(like))


def is_float(x: Array) -> bool:
    """Tell whether x holds real floating-point numbers."""
    return bool(array_namespace(x).isdtype(x.dtype, "real floating"))


def int64_like(values: list[int] | range, like: Array) -> Array:
    """Return values as an int64 array in the library and on the device of `like`."""
    xp = array_namespace(like)
    return xp.asarray(list(values), dtype=xp.int64, device=device(like))
