"""Decorators that compile functions by numba, and cache them on disk until a file of their folder or this one changes.

numba's own cache checks only the file of the function. A loop that calls a function or an intrinsic of another file
would then still run the old code after that file was edited.
"""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import CellType, FunctionType
from typing import Any, Protocol

from numba import cfunc, njit
from numba.core.typing import Signature

from seft_ref.arrays.library import Array

__all__ = ["Task", "compiled", "compiled_task"]

Function = Callable[..., Array]
"""A loop: it writes into its array arguments, or returns an array."""


class Task(Protocol):
    """A compiled function with the calling convention of C."""

    @property
    def address(self) -> int:
        """Address of its code."""


def compiled(*, parallel: bool = False) -> Callable[[Function], Function]:
    """Return a decorator like `numba.njit`, with a cache on disk; division by zero gives ±∞ or NaN, as in NumPy."""
    return lambda function: njit(cache=True, error_model="numpy", parallel=parallel)(_of_these_files(function))


def compiled_task(signature: Signature) -> Callable[[Function], Task]:
    """Return a decorator like `numba.cfunc`, with a cache on disk; division by zero gives ±∞ or NaN, as in NumPy."""
    return lambda function: cfunc(signature, cache=True, error_model="numpy")(_of_these_files(function))


@cache
def _files(folder: Path) -> str:
    """Return one digest of all Python files of a folder and of the folder of this file."""
    folders = dict.fromkeys((Path(__file__).parent, folder))
    texts = (path.read_bytes() for each in folders for path in sorted(each.glob("*.py")))
    return sha256(b"\0".join(texts)).hexdigest()


def _of_these_files(function: Any) -> Any:
    """Return the function with the digest as a closure variable, because numba's cache key contains those variables."""
    code = function.__code__.replace(co_freevars=(*function.__code__.co_freevars, "_files"))
    cells = (*(function.__closure__ or ()), CellType(_files(Path(function.__code__.co_filename).parent)))
    keyed = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, cells)
    keyed.__qualname__, keyed.__doc__, keyed.__module__ = function.__qualname__, function.__doc__, function.__module__
    return keyed
