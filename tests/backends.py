"""The array libraries, devices and dtypes on which the engine must give the same answers.

    BACKENDS["numpy-float32"].array(x)   # x as an array of the backend, with floats rounded to its dtype
    BACKENDS["numpy-float32"].numpy(y)   # y as a NumPy array

Nothing here imports the engine: shape checking must be able to hook its modules before they are loaded.
"""

import runpy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np

CUPY_READY = Path(__file__).resolve().parents[1] / "seft_ref" / "arrays" / "cupy_ready.py"


@dataclass(frozen=True)
class Backend:
    """An array library with a device and a float dtype."""

    name: str
    xp: Any
    dtype: str
    device: Any = None
    to_host: Callable[[Any], Any] = np.asarray

    @property
    def tight(self) -> float:
        """Relative error allowed against NumPy float64 (NUM-004 for float32; rounding order for float64)."""
        return 1e-12 if self.dtype == "float64" else 1e-4

    def array(self, x: np.ndarray) -> Any:
        """Return x as an array of this backend: floats in its dtype, other dtypes unchanged, read-only in NumPy."""
        x = np.asarray(x)
        if x.dtype.kind == "f":
            x = x.astype(self.dtype)
        if self.xp is np:
            x = x.copy()
            x.flags.writeable = False
            return x
        return self.xp.asarray(x.copy(), device=self.device)

    def arrays(self, named: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return name -> array of this backend."""
        return {name: self.array(x) for name, x in named.items()}

    def numpy(self, x: Any) -> np.ndarray:
        """Return x as a NumPy array of its own dtype."""
        return np.asarray(self.to_host(x))

    def owns(self, x: Any) -> bool:
        """Return whether x is an array of this library, on this device, of this float dtype."""
        if self.xp is np:
            return isinstance(x, np.ndarray | np.generic) and str(x.dtype) == self.dtype
        return x.device == self.device and x.dtype == getattr(self.xp, self.dtype)


def _strict(name: str, device: str, dtype: str) -> Backend:
    host = array_api_strict.Device("CPU_DEVICE")
    return Backend(name, array_api_strict, dtype, array_api_strict.Device(device), lambda x: x.to_device(host))


def _cupy() -> tuple[Backend | None, str]:
    """Return the CuPy backend, or None with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import array_api_compat.cupy as xp
            import cupy
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return None, "no GPU"
        # this must come before any test computes; the file is run by its path, so that the engine is not imported
        runpy.run_path(str(CUPY_READY))["keep_subnormals"](cupy)
    except Exception as error:  # noqa: BLE001  # a broken driver must not stop the other backends
        return None, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    # array_api_compat, because cupy.asarray has no parameter `device`
    return Backend("cupy-float64", xp, "float64", cupy.cuda.Device(0), lambda x: x.get()), "found"


CUPY, CUPY_STATE = _cupy()
REFERENCE = Backend("numpy-float64", np, "float64")
BACKENDS = {
    backend.name: backend
    for backend in (
        REFERENCE,
        Backend("numpy-float32", np, "float32"),
        # not the default device, so that an array that code makes on the default device raises an error
        _strict("strict-device1", "device1", "float64"),
        _strict("strict-no_float64", "no_float64", "float32"),
        CUPY,
    )
    if backend is not None
}
