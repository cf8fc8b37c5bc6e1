"""Functions for arrays of any library. Other code takes the library from its arrays and never names one.

xp = array_namespace(x)             # numpy, cupy, array_api_strict ...
y = xp.zeros((3,), dtype=x.dtype, device=device(x))
"""

import warnings
from typing import Any

import array_api_compat
import numpy as np
from array_api_compat import device, is_numpy_array, to_device

from seft_ref.arrays.cupy_ready import INSTALL, UnfitCupy, keep_subnormals, try_out

Array = Any
"""Any array of a library that follows the array API standard. Signatures add the shapes."""
Dtype = Any
"""A dtype of any such library."""
Namespace = Any
"""The module of any such library, as `array_namespace` returns it."""
NumpyArray = np.ndarray[Any, Any]
"""An array of NumPy, on the host."""

__all__ = [
    "Array",
    "Dtype",
    "Namespace",
    "NumpyArray",
    "array_namespace",
    "binary64",
    "computed",
    "cupy_like",
    "device",
    "from_halves",
    "from_numpy",
    "host_room",
    "int64_like",
    "is_numpy_array",
    "mask_at",
    "of_cupy",
    "overflow_allowed",
    "repeat_each",
    "scatters",
    "spread",
    "to_halves",
    "to_numpy",
    "with_values",
    "without_cupy",
]


_libraries: dict[tuple[type, ...], Namespace] = {}
"""Types of arrays -> their library: a cache, because every function asks and array_api_compat is slow to answer."""


def array_namespace(*arrays: Array) -> Namespace:
    """Return the library that all these arrays are of.

    Raises:
        TypeError: if they are of several libraries, or one is no array.
    """
    types = tuple(map(type, arrays))
    if types not in _libraries:
        _libraries[types] = array_api_compat.array_namespace(*arrays)
    return _libraries[types]


def of_cupy(x: Array) -> bool:
    """Return whether x is an array of CuPy: it lies in the memory of a GPU, which may still be computing it."""
    return hasattr(x, "get")


def to_numpy(x: Array) -> NumpyArray:
    """Return x as a NumPy array of the same shape and dtype, copied from its device where it is not on the host."""
    if is_numpy_array(x):
        return x
    if of_cupy(x):
        return x.get()
    xp = array_namespace(x)
    if hasattr(xp, "Device") or hasattr(x, "_device"):  # array_api_strict: NumPy reads only its CPU device
        x = to_device(x, xp.Device("CPU_DEVICE"))
    return np.asarray(x)


def host_room(n: int, like: Array) -> NumpyArray:
    """Return an uninitialised NumPy array (n,) of the dtype of `like`."""
    return np.empty(n, dtype=to_numpy(like[:0]).dtype)


def binary64(x: Array) -> NumpyArray:
    """Return numbers widened to binary64 as a NumPy array, because not every device has that type."""
    return to_numpy(x).astype(np.float64)


def overflow_allowed() -> np.errstate:
    """Return a context, or decorator, in which an overflow becomes infinity without a warning of NumPy.

    NumPy warns on some processors and not on others, so the caller checks the result and raises an error (TRN-019).
    Do not put a `yield` into the context, because the setting would then hold in the caller of the generator too.
    """
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def computed(x: Array) -> Array:
    """Return x once its device has computed it, so that another library may read or write its memory."""
    if of_cupy(x):
        x.device.synchronize()
    return x


def from_halves(x: NumpyArray, like: Array) -> Array:
    """Return 16-bit floats, a NumPy array, as float32 in the library and on the device of `like`; exact."""
    return from_numpy(x.astype(np.float32), like)


def to_halves(x: Array, dtype: Dtype) -> NumpyArray:
    """Return numbers rounded to a 16-bit type, as a NumPy array: only NumPy has both types (with ml_dtypes)."""
    return to_numpy(x).astype(dtype)


def from_numpy(x: NumpyArray, like: Array) -> Array:
    """Return the NumPy array x in the library and on the device of `like`; shape and dtype stay."""
    if is_numpy_array(like):
        return x
    return array_namespace(like).asarray(x, device=device(like))


def int64_like(values: list[int], like: Array) -> Array:
    """Return values as an int64 array in the library and on the device of `like`."""
    xp = array_namespace(like)
    return xp.asarray(values, dtype=xp.int64, device=device(like))


def repeat_each(x: Array, counts: Array) -> Array:
    """Return x with entry i repeated counts[i] times; x and counts are (n,)."""
    if of_cupy(x):  # CuPy's own repeat launches a kernel for every entry
        return repeat_by_search(x, counts)
    return array_namespace(x).repeat(x, counts)


def repeat_by_search(x: Array, counts: Array) -> Array:
    """Return the result of `repeat_each`, by looking up the entry that belongs to each place of the result."""
    xp = array_namespace(x, counts)
    ends = xp.cumulative_sum(counts)
    n = int(ends[-1]) if counts.shape[0] else 0
    places = xp.arange(n, dtype=ends.dtype, device=device(counts))
    return xp.take(x, xp.searchsorted(ends, places, side="right"))


def mask_at(n: int, slots: Array) -> Array:
    """Return n booleans that are True at the given strictly increasing slots.

    Where a library has no scatter, the mask is runs of False between single Trues, made by `repeat_each`.
    """
    xp = array_namespace(slots)
    m = slots.shape[0]
    on_device = device(slots)
    if scatters(slots):
        mask = xp.zeros((n,), dtype=xp.bool, device=on_device)
        mask[slots] = True
        return mask
    if m == 0:
        return xp.zeros((n,), dtype=xp.bool, device=on_device)
    one = xp.ones((m,), dtype=xp.int64, device=on_device)
    gaps = xp.concat([slots[:1], slots[1:] - slots[:-1] - 1])
    lengths = xp.concat([xp.reshape(xp.stack([gaps, one], axis=1), (-1,)), n - 1 - slots[-1:]])
    value = xp.arange(2 * m + 1, dtype=xp.int64, device=on_device) % 2 == 1
    return repeat_each(value, lengths)


def spread(values: Array, slots: Array, n: int) -> Array:
    """Return n numbers: values[i] at the strictly increasing slots[i], and 0 elsewhere; dtype of values."""
    xp = array_namespace(values, slots)
    zeros = xp.zeros((n,), dtype=values.dtype, device=device(values))
    if scatters(slots):
        zeros[slots] = values
        return zeros
    if slots.shape[0] == 0:
        return zeros
    mask = mask_at(n, slots)
    order = xp.cumulative_sum(xp.astype(mask, xp.int64)) - 1
    return xp.where(mask, xp.take(values, xp.where(mask, order, xp.zeros_like(order))), zeros)


def with_values(x: Array, slots: Array, values: Array) -> Array:
    """Return x (n,) with values[i] at the strictly increasing slots[i]; do not use x again, it may be overwritten."""
    if scatters(slots):
        x[slots] = values
        return x
    if not slots.shape[0]:
        return x
    xp = array_namespace(x, slots)
    return xp.where(mask_at(x.shape[0], slots), spread(values, slots, x.shape[0]), x)


def scatters(slots: Array) -> bool:
    """Return whether the library of slots can assign at an array of indices, which the standard does not require."""
    return is_numpy_array(slots) or of_cupy(slots)


def without_cupy(turn: int | None = None) -> str:
    """Return why CuPy cannot be used and what to do about it, or an empty string; `turn` is that of `cupy_like`."""
    try:
        cupy_like(turn)
    except UnfitCupy as error:
        return str(error)
    except ImportError:
        return f"this needs CuPy; {INSTALL}"
    except Exception as error:  # noqa: BLE001  missing drivers and libraries raise errors of many classes
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return f"CuPy finds no device ({first}); install the driver of an NVIDIA GPU, or choose another backend"
    return ""


def cupy_like(turn: int | None = None) -> Array:
    """Return an empty array of CuPy on the current device, after CuPy has been tried out there.

    turn  makes device number `turn`, modulo the number of devices, the current one of this thread

    Raises:
        ImportError: CuPy is not installed.
        UnfitCupy: CuPy is installed, but computes wrong results or none.
        Exception: CuPy finds no device; the class of the error is CuPy's.
    """
    with warnings.catch_warnings():
        # CuPy may warn when it looks for CUDA
        warnings.simplefilter("ignore")
        import cupy
    keep_subnormals(cupy)
    if turn is not None:
        cupy.cuda.Device(turn % cupy.cuda.runtime.getDeviceCount()).use()
    like: Array = cupy.zeros(0)
    try_out(cupy)
    return like
