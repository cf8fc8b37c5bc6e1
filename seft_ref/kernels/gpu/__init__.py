"""The kernel set for CuPy arrays: the functions of `on_cupy`, or an error that names CuPy if it is not installed.

    gpu.cu       the kernels
    launch       their names and arguments, and the interface of a machine that launches them
    packed       the layouts of a matrix
    on_device    the functions of the set, for any machine
    on_cupy      the machine that launches kernels by CuPy

The kit launches the same kernels on a CPU, without CuPy (`conformance.engine.on_cpu`). `seft_ref.kernels` says what a
set has to do. Start with `on_device.py`.
"""

from typing import Any

try:
    from seft_ref.kernels.gpu.on_cupy import (
        LAYERS,
        clear,
        compact,
        exceeding,
        locate,
        matmul,
        matmul_transposed,
        pack,
        pack_dense,
        sample,
        split,
        store,
        unpack,
    )
except ModuleNotFoundError as error:
    if error.name != "cupy":
        raise

    def __getattr__(name: str) -> Any:
        """Raise an error that names CuPy when a function of the set is asked for."""
        if name in __all__:
            raise ModuleNotFoundError(
                f"seft_ref.kernels.gpu.{name} needs CuPy; pip install '.[cuda12]' or '.[cuda13]' in the clone",
                name="cupy",
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "LAYERS",
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
