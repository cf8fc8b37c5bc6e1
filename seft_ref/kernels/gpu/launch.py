"""The kernels of gpu.cu by name: what they take, and the threads of a block. Whoever launches them is a Machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from seft_ref.arrays.library import Array, Dtype, Namespace, NumpyArray

SOURCE = Path(__file__).with_name("gpu.cu")
"""The text of the kernels, the same for every machine."""

LANES, ROWS, EACH = 32, 8, 4
"""Threads of a block along tokens and along rows, and tokens of a thread; as in gpu.cu."""
THREADS, RUN = 256, 4
"""Threads of a block in one line, and entries of a thread that looks for what exceeds; as in gpu.cu."""

NUMBERS: dict[str, Dtype] = {"i64": np.int64, "int": np.int32, "float": np.float32, "double": np.float64}
"""The dtype of every argument that is no pointer."""
Argument = Array | int | float | None
"""What a kernel is launched with; None is a null pointer."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of gpu.cu.

    Attributes:
        block: threads of a block, (x, y).
        takes: the type of each argument.
        meets: whether the threads of a block wait for each other.
    """

    block: tuple[int, int]
    takes: tuple[str, ...]
    meets: bool = False


class Machine(Protocol):
    """What launches kernels, and the array library whose arrays it launches them on."""

    @property
    def xp(self) -> Namespace:
        """The array library."""

    def owns(self, a: Array) -> bool:
        """Tell whether a is an array that kernels can be launched on."""

    def to_host(self, a: Array) -> NumpyArray:
        """Return such an array as one of NumPy."""

    def run(self, name: str, grid: tuple[int, int], *arguments: Argument) -> None:
        """Launch a kernel on a grid of blocks, in the order of calls."""


def _kernels() -> dict[str, Kernel]:
    tile, line = (LANES, ROWS), (THREADS, 1)
    found: dict[str, Kernel] = {}
    for name, v, t in (
        ("float32", "float", "float"),
        ("float64", "double", "double"),
        ("bfloat16", "bfloat16", "float"),
        ("float16", "float16", "float"),
    ):
        csr = (f"const {v}*", "const i64*", "const int*", "const u32*", f"const {t}*", f"{t}*", "i64", "i64")
        found[f"csr_product_{name}"] = Kernel(tile, csr)
        found[f"csr_few_{name}"] = Kernel(tile, csr, meets=True)
    for name in ("bfloat16", "float16"):
        rows = (f"const {name}*", "const i64*", "const int*", "i64", "i64", "float*")
        found[f"expand_{name}"] = Kernel(line, rows)
    for name, t in (("float32", "float"), ("float64", "double")):
        group = (f"const {t}*", "const unsigned char*", f"const {t}*", f"{t}*", "i64", "i64", "int", "int")
        found[f"group_product_{name}"] = Kernel(tile, (*group, "i64"))
        found[f"group_few_{name}"] = Kernel(tile, group, meets=True)
        found[f"group_transposed_{name}"] = Kernel(tile, (*group, "i64"))
        takes = ("const i64*", "const int*", f"const {t}*", f"const {t}*", f"{t}*", "i64", "i64", "i64", "i64")
        found[f"sample_{name}"] = Kernel(line, takes)
        found[f"exceeding_count_{name}"] = Kernel(line, (f"const {t}*", t, "i64", "i64*"), meets=True)
        found[f"exceeding_write_{name}"] = Kernel(line, (f"const {t}*", t, "i64", "const i64*", "i64*"), meets=True)
    return found


KERNELS = _kernels()
"""Every kernel of gpu.cu by name."""
