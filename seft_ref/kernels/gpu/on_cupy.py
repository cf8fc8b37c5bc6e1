"""The kernel set for CuPy arrays: the kernels of gpu.cu, and cuBLAS where a matrix is dense enough.

CuPy compiles the kernels when it launches the first of them, and keeps them in its cache. Nothing here has run on
hardware. Constants decide which code multiplies which matrix; `python -m benchmarks gpu` measures them.

TF32 (CUPY_TF32=1) is refused before the first kernel is compiled, because cuBLAS would round float32 factors and break
KRN-006. After this module is imported, everything that CuPy compiles in the process keeps subnormal numbers
(`cupy_ready` says why).
"""

from functools import cache
from typing import Any

import cupy
import numpy as np

from seft_ref.arrays.cupy_ready import keep_subnormals, try_out
from seft_ref.arrays.library import Array, NumpyArray
from seft_ref.kernels.gpu.launch import KERNELS, NUMBERS, SOURCE, Argument
from seft_ref.kernels.gpu.on_device import OnDevice

__all__ = [
    "clear",
    "compact",
    "exceeding",
    "locate",
    "matmul",
    "matmul_transposed",
    "pack",
    "pack_dense",
    "sample",
    "split",
    "store",
    "unpack",
]

keep_subnormals(cupy)


@cache
def _module() -> Any:
    try_out(cupy)
    return cupy.RawModule(code=SOURCE.read_text(), options=("--std=c++14",))


@cache
def _kernel(name: str) -> Any:
    """Return a kernel for all devices; cached, because CuPy would look it up and wrap it anew for every launch."""
    return _module().get_function(name)


class _Cupy:
    """The machine that launches kernels by CuPy on its current device and stream."""

    xp = cupy

    def owns(self, a: Array) -> bool:
        """Return whether a is an array of CuPy on the current device, where results are allocated and kernels run."""
        return isinstance(a, cupy.ndarray) and a.device == cupy.cuda.Device()

    def to_host(self, a: Array) -> NumpyArray:
        """Return an array of CuPy as a NumPy array."""
        return cupy.asnumpy(a)

    def run(self, name: str, grid: tuple[int, int], *arguments: Argument) -> None:
        """Launch a kernel on a grid of (x, y) blocks."""
        kernel = KERNELS[name]
        converted = [_argument(kind, a) for kind, a in zip(kernel.takes, arguments, strict=True)]
        _kernel(name)(grid, kernel.block, tuple(converted))


def _argument(kind: str, a: Argument) -> Argument:
    """Return an argument as the driver takes it: arrays unchanged, numbers in the width of their C type."""
    if kind in NUMBERS:
        return NUMBERS[kind](a)
    return np.uint64(0) if a is None else a


_set = OnDevice(_Cupy())
pack, pack_dense, locate, store = _set.pack, _set.pack_dense, _set.locate, _set.store
matmul, matmul_transposed, sample, exceeding = _set.matmul, _set.matmul_transposed, _set.sample, _set.exceeding
compact, unpack, clear, split = _set.compact, _set.unpack, _set.clear, _set.split
LAYERS = _set.LAYERS
