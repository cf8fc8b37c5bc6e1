"""Our engine as a port: one function for each operation, each a few calls into seft_ref."""

import copy
import platform
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np

from conformance.cases.compare import float_type
from conformance.cases.ops import AREAS, OPS
from conformance.protocol.port import Refused, Unsupported
from formats import FormatError, __version__
from seft_ref.arrays.library import Array, array_namespace, cupy_like, device, to_numpy, without_cupy
from seft_ref.errors import SeftError
from seft_ref.kernels import reference

__all__ = [
    "EnginePort",
    "Reduced",
    "compiled",
    "compiled_in_bfloat16",
    "compiled_kernels",
    "cupy",
    "gpu_on_cpu",
    "reference_numpy",
    "strict",
    "strict_like",
    "without_cupy",
]

Operation = Callable[[dict[str, Any]], dict[str, Any]]
_MODULES = [
    import_module(f"conformance.engine.{module.name}")
    for module in iter_modules([str(Path(__file__).parent)])
    if module.name.split("_")[0] in AREAS
]
"""The modules of this folder that are named after an area; each has a table OPERATIONS."""


class EnginePort:
    """seft_ref, on the arrays of one library and with one kernel set.

    Attributes:
        ops: the operations by name; a test replaces one to see whether the kit notices. An operation gets its inputs
            by name, and the kernel set as ``kernels``.
    """

    def __init__(
        self,
        name: str = "engine",
        like: Array | None = None,
        kernels: Any = reference,
        classes: tuple[str, ...] = ("exact64", "fp32"),
        kinds: tuple[str, ...] = ("scalar", "rule", "layer", "whole"),
    ) -> None:
        self.name = name
        self._classes = classes
        self._kernels = kernels
        self._like = np.zeros(0) if like is None else like
        every: dict[str, Operation] = {op: f for module in _MODULES for op, f in module.OPERATIONS.items()}
        self.ops = {op: f for op, f in every.items() if OPS[op].kind in kinds}

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Return the outputs of an operation; see `conformance.protocol.port.Port`."""
        if op not in self.ops:
            raise Unsupported(op)
        try:
            arrays = {name: self._there(value) for name, value in inputs.items()}
            out = self.ops[op](arrays | {"kernels": self._kernels})
        except (SeftError, FormatError) as error:
            raise Refused(error.clause, str(error)) from error
        return {name: _back(value) for name, value in out.items()}

    def describe(self) -> dict[str, Any]:
        """Return the hello of the engine: name, operations with their classes, and flags (PRT-004)."""
        port = {"name": self.name, "version": __version__, "language": f"Python {platform.python_version()}"}
        return {
            "port": port,
            "ops": {op: list(self._classes) for op in self.ops},
            "flags": {"deterministic": True, "files": True},
        }

    def with_ops(self, name: str, **ops: Operation) -> "EnginePort":
        """Return the same port with operations replaced; ``__`` in a keyword stands for the dot."""
        other = copy.copy(self)
        other.name = name
        other.ops = self.ops | {key.replace("__", "."): f for key, f in ops.items()}
        return other

    def _there(self, value: Any) -> Any:
        """Return a value with its arrays copied into the library of the port; u64 and u8 arrays stay as they are."""
        if isinstance(value, np.ndarray):
            if value.dtype in (np.uint64, np.uint8):
                return value
            xp = array_namespace(self._like)
            return xp.asarray(value, device=device(self._like), copy=True)
        if isinstance(value, dict):
            return {k: self._there(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._there(v) for v in value]
        return value


class Reduced(EnginePort):
    """The engine on arrays of a 16-bit type: they are widened, and each result is rounded once (PRT-011)."""

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Return the outputs of an operation; see `conformance.protocol.port.Port`."""
        kind = float_type(dtype)
        wide = {k: v.astype(np.float32) if _has(v, kind) else v for k, v in inputs.items()}
        out = super().call(op, wide, "float32")
        return {k: v.astype(kind) if _has(v, np.dtype(np.float32)) else v for k, v in out.items()}


def _has(value: Any, kind: np.dtype[Any]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == kind


def _back(value: Any) -> Any:
    """Return a value with its arrays in NumPy."""
    if isinstance(value, dict):
        return {k: _back(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_back(v) for v in value]
    # `get` recognises arrays of CuPy, because only its late versions have __array_namespace__
    return to_numpy(value) if hasattr(value, "__array_namespace__") or hasattr(value, "get") else value


def reference_numpy() -> EnginePort:
    """Return the engine on NumPy with the reference kernels."""
    return EnginePort("engine")


def compiled() -> EnginePort:
    """Return the engine with the CPU kernels, which numba compiles.

    Raises:
        SystemExit: numba is not installed.
    """
    kernels = compiled_kernels()
    if kernels is None:
        raise SystemExit("the engine's compiled kernels need numba; pip install numba")
    return EnginePort("engine with kernels.cpu", kernels=kernels, kinds=("layer", "whole"))


def compiled_transposed() -> EnginePort:
    """Return the engine with the CPU kernels that also store a transposed copy of every matrix.

    Raises:
        SystemExit: numba is not installed.
    """
    if compiled_kernels() is None:
        raise SystemExit("the engine's compiled kernels need numba; pip install numba")
    from seft_ref.kernels.cpu import transposed

    return EnginePort("engine with kernels.cpu.transposed", kernels=transposed, kinds=("layer", "whole"))


def compiled_in_bfloat16() -> EnginePort:
    """Return the engine with the CPU kernels that multiply in bfloat16 (KRN-019).

    Raises:
        SystemExit: numba is not installed, or the processor has no AMX.
    """
    if compiled_kernels() is None:
        raise SystemExit("the engine's compiled kernels need numba; pip install numba")
    from seft_ref.kernels.cpu import tiles

    reason = tiles.without_tiles()
    if reason:
        raise SystemExit(reason)
    return Reduced("engine with kernels.cpu.tiles", kernels=tiles, classes=("bf16",), kinds=("layer",))


def strict() -> EnginePort:
    """Return the engine on array-api-strict, on a device that is not the host.

    Raises:
        SystemExit: array-api-strict is not installed.
    """
    like = strict_like()
    if like is None:
        raise SystemExit("this needs array-api-strict; pip install array-api-strict")
    return EnginePort("engine on array-api-strict", like, classes=("fp32",), kinds=("rule", "layer"))


def cupy() -> EnginePort:
    """Return the engine on arrays of CuPy, on the current device.

    Raises:
        SystemExit: CuPy is not installed, or finds no device.
    """
    reason = without_cupy()
    if reason:
        raise SystemExit(reason)
    from seft_ref.kernels import gpu

    return EnginePort("engine on CuPy with kernels.gpu", cupy_like(), kernels=gpu, kinds=("rule", "layer"))


def gpu_on_cpu() -> EnginePort:
    """Return the engine with the GPU kernels, compiled for this CPU and launched on NumPy arrays.

    Raises:
        SystemExit: there is no g++.
    """
    from conformance.engine.on_cpu import on_cpu, without_gpp

    reason = without_gpp()
    if reason:
        raise SystemExit(reason)
    return EnginePort("engine with kernels.gpu on a CPU", kernels=on_cpu(), kinds=("layer", "whole"))


def compiled_kernels() -> Any:
    """Return the compiled kernel set, None if numba is not installed."""
    try:
        from seft_ref.kernels import cpu
    except ImportError:
        return None
    return cpu


def strict_like() -> Array | None:
    """Return an array of array_api_strict on a device that is not the host, None if it is not installed."""
    try:
        import array_api_strict as xp
    except ImportError:
        return None
    return xp.zeros(0, device=xp.Device("device1"))
