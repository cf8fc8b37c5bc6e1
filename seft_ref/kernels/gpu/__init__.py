"""The kernel set for CuPy arrays: the functions of `on_cupy`, which are here where CuPy is installed.

    gpu.cu       the kernels; `launch` lists their names and arguments
    packed       how a matrix is held
    on_device    the functions of the set, on whatever launches the kernels
    on_cupy      CuPy as what launches them

The kit launches the same kernels on a processor (`conformance.engine.on_cpu`), without CuPy. What a set has to do is
said in `seft_ref.kernels`. Start with `on_device.py`.
"""

from typing import Any

try:
    from seft_ref.kernels.gpu.on_cupy import (
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
        """Say what is missing where a function of the set is asked for."""
        if name in __all__:
            raise ModuleNotFoundError(
                f"seft_ref.kernels.gpu.{name} needs CuPy; pip install seft_ref[cuda12] or [cuda13]", name="cupy"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
