"""The GPU kernel set without a GPU: gpu.cu compiled by g++, launched on NumPy arrays, one thread after another.

    kernels = on_cpu()            # the functions of seft_ref.kernels.gpu, as attributes
    kernels.matmul(x, packed)

This runs every line of the kernels, but never two threads at the same time, so it cannot find races.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from seft_ref.kernels import NAMES
from seft_ref.kernels.gpu.launch import EACH, KERNELS, LANES, NUMBERS, ROWS, RUN, SOURCE, THREADS
from seft_ref.kernels.gpu.on_device import OnDevice

__all__ = ["OnCpu", "compiled_by_gpp", "on_cpu", "without_gpp"]
HEADER = Path(__file__).with_name("cuda_on_cpu.h")
OPTIONS = ("-std=c++14", "-O1", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")


def without_gpp() -> str:
    """Return a text that says why kernels cannot be compiled for the CPU, and a remedy; empty if they can."""
    if sys.platform != "linux":
        return "gpu.cu runs on the processor under Linux only; choose another backend"
    if not _compiler():
        return "gpu.cu needs g++ to run on a CPU; install it, or choose another backend"
    return ""


def _compiler() -> str:
    return shutil.which("g++") or ""


@cache
def on_cpu() -> SimpleNamespace:
    """Return the GPU kernel set on NumPy arrays, compiled once on each machine for each text of the kernels.

    Raises:
        CalledProcessError: g++ refuses the kernels; its messages are on standard error.
        PermissionError: the folder for compiled libraries belongs to another user.
    """
    kernels = OnDevice(OnCpu(compiled_by_gpp()))
    functions = {name: getattr(kernels, name) for name in NAMES}
    return SimpleNamespace(__all__=["LAYERS", *NAMES], LAYERS=kernels.LAYERS, **functions)


def compiled_by_gpp(more: Sequence[str] = ()) -> Path:
    """Return the path of the compiled library of the kernels, which later calls reuse.

    more  further options of g++
    """
    text = program()
    key = hashlib.sha256("\0".join([text, HEADER.read_text(), SOURCE.read_text(), *OPTIONS, *more]).encode())
    folder = Path(tempfile.gettempdir()) / f"seft_ref-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; remove it, or set TMPDIR to a folder of yours")
    library = folder / f"{key.hexdigest()[:24]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source, built = Path(scratch) / "kernels.cpp", Path(scratch) / "kernels.so"
            source.write_text(text)
            subprocess.run([_compiler(), *OPTIONS, *more, "-o", str(built), str(source)], check=True)
            built.replace(library)
    return library


def program() -> str:
    """Return the C++ text: header, kernels, and a launcher of each kernel with the types in `KERNELS`."""
    lines = [f'#include "{HEADER}"', f'#include "{SOURCE}"']
    constants = {"LANES": LANES, "ROWS": ROWS, "EACH": EACH, "THREADS": THREADS, "RUN": RUN}
    lines += [f'static_assert({name} == {value}, "{name}");' for name, value in constants.items()]
    for name, kernel in KERNELS.items():
        lines.append(f"LAUNCHER({name}, {str(kernel.meets).lower()}, {', '.join(kernel.takes)})")
    return "\n".join(lines) + "\n"


class OnCpu:
    """A device that launches the kernels of a library on NumPy arrays, blocks and threads in order or backwards."""

    xp = np

    def __init__(self, library: Path, *, backwards: bool = False) -> None:
        self._library, self._backwards = ctypes.CDLL(str(library)), backwards

    def owns(self, a: Any) -> bool:
        """Return whether a is an array of NumPy."""
        return isinstance(a, np.ndarray)

    def to_host(self, a: Any) -> Any:
        """Return a itself, because NumPy arrays are on the host."""
        return a

    def run(self, name: str, grid: tuple[int, int], *arguments: Any) -> None:
        """Run every thread of every block of a grid."""
        kernel = KERNELS[name]
        memory = [_argument(kind, a) for kind, a in zip(kernel.takes, arguments, strict=True)]
        pointers = (ctypes.c_void_p * len(memory))(*(h.ctypes.data for h in memory))
        shape = (ctypes.c_uint * 5)(*grid, *kernel.block, self._backwards)
        assert all(0 < n < limit for n, limit in zip(grid, (1 << 31, 1 << 16), strict=True)), grid
        getattr(self._library, f"launch_{name}")(shape, pointers)


_KINDS = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "bfloat16": np.dtype(np.uint16),
    "float16": np.dtype(np.uint16),
    "i64": np.dtype(np.int64),
    "int": np.dtype(np.int32),
    "u32": np.dtype(np.uint32),
    "unsigned char": np.dtype(np.uint8),
}
"""Dtypes of arrays by the C type of their entries in `KERNELS`."""


def _argument(kind: str, a: Any) -> Any:
    """Return an array that holds one argument: a number, or the address of an array after a check of its dtype."""
    if kind in NUMBERS:
        return np.asarray(a, dtype=NUMBERS[kind])
    if a is None:
        return np.zeros(1, dtype=np.uintp)
    dtype = _KINDS[kind.removeprefix("const ").removesuffix("*")]
    assert a.dtype == dtype, f"{a.dtype} where the kernel reads {dtype}"
    assert a.flags.c_contiguous, "kernels walk contiguous arrays"
    return np.asarray(a.ctypes.data, dtype=np.uintp)
