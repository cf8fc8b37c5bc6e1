"""The kernels of gpu.cu by name, with their arguments and threads of a block, and `Machine`, which launches them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from seft_ref.arrays.library import Array, Dtype, Namespace, NumpyArray

SOURCE = Path(__file__).with_name("gpu.cu")
"""Path of the source of the kernels, the same for every machine."""

LANES, ROWS, EACH = 32, 8, 4
"""Threads of a block along tokens and along rows, and tokens of a thread; gpu.cu has the same numbers."""
THREADS, RUN = 256, 4
"""Threads of a one-dimensional block, and entries of a thread in `exceeding`; gpu.cu has the same numbers."""

NUMBERS: dict[str, Dtype] = {"i64": np.int64, "int": np.int32, "float": np.float32, "double": np.float64}
"""The dtype of each C type of an argument that is no pointer."""
Argument = Array | int | float | None
"""An argument of a launch; None is a null pointer."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of gpu.cu.

    Attributes:
        block: threads of a block, (x, y).
        takes: the C type of each argument.
        meets: whether the threads of a block wait for each other (__syncthreads).
    """

    block: tuple[int, int]
    takes: tuple[str, ...]
    meets: bool = False


class Machine(Protocol):
    """Something that launches kernels on arrays of one array library."""

    @property
    def xp(self) -> Namespace:
        """The array library."""

    def owns(self, a: Array) -> bool:
        """Return whether a is an array on which this machine can launch kernels."""

    def to_host(self, a: Array) -> NumpyArray:
        """Return an array of this machine as a NumPy array."""

    def run(self, name: str, grid: tuple[int, int], *arguments: Argument) -> None:
        """Launch a kernel on a grid of (x, y) blocks; launches run in the order of calls."""


def _kernels() -> dict[str, Kernel]:
    tile, line = (LANES, ROWS), (THREADS, 1)
    kernels: dict[str, Kernel] = {}
    for name, v, t in (
        ("float32", "float", "float"),
        ("float64", "double", "double"),
        ("bfloat16", "bfloat16", "float"),
        ("float16", "float16", "float"),
    ):
        csr = (f"const {v}*", "const i64*", "const int*", "const u32*", f"const {t}*", f"{t}*", "i64", "i64")
        kernels[f"csr_product_{name}"] = Kernel(tile, csr)
        kernels[f"csr_few_{name}"] = Kernel(tile, csr, meets=True)
    for name in ("bfloat16", "float16"):
        rows = (f"const {name}*", "const i64*", "const int*", "i64", "i64", "float*")
        kernels[f"expand_{name}"] = Kernel(line, rows)
    for name, t in (("float32", "float"), ("float64", "double")):
        group = (f"const {t}*", "const unsigned char*", f"const {t}*", f"{t}*", "i64", "i64", "int", "int")
        kernels[f"group_product_{name}"] = Kernel(tile, (*group, "i64"))
        kernels[f"group_few_{name}"] = Kernel(tile, group, meets=True)
        kernels[f"group_transposed_{name}"] = Kernel(tile, (*group, "i64"))
        takes = ("const i64*", "const int*", f"const {t}*", f"const {t}*", f"{t}*", "i64", "i64", "i64", "i64")
        kernels[f"sample_{name}"] = Kernel(line, takes)
        kernels[f"exceeding_count_{name}"] = Kernel(line, (f"const {t}*", t, "i64", "i64*"), meets=True)
        kernels[f"exceeding_write_{name}"] = Kernel(line, (f"const {t}*", t, "i64", "const i64*", "i64*"), meets=True)
    return kernels


KERNELS = _kernels()
"""Every kernel of gpu.cu by name."""
