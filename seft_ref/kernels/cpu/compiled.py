"""Functions that numba compiles, and keeps on disk until any file of this folder is another.

numba looks at the file of a function alone. A loop that calls one of another file, or an intrinsic, would go on
running as it was compiled before that one was edited.
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
"""A loop: it changes arrays that it is given, or returns one."""


class Task(Protocol):
    """A function of C."""

    @property
    def address(self) -> int:
        """Where its code is."""


def compiled(*, parallel: bool = False) -> Callable[[Function], Function]:
    """Return a decorator like `numba.njit`, with a cache; division follows NumPy."""
    return lambda function: njit(cache=True, error_model="numpy", parallel=parallel)(_of_these_files(function))


def compiled_task(signature: Signature) -> Callable[[Function], Task]:
    """Return a decorator like `numba.cfunc`, with a cache; division follows NumPy."""
    return lambda function: cfunc(signature, cache=True, error_model="numpy")(_of_these_files(function))


@cache
def _files() -> str:
    """Return a digest of every file of this folder."""
    texts = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return sha256(b"\0".join(texts)).hexdigest()


def _of_these_files(function: Any) -> Any:
    """Return a function that holds the digest as a variable of a closure, which is part of numba's key."""
    code = function.__code__.replace(co_freevars=(*function.__code__.co_freevars, "_files"))
    cells = (*(function.__closure__ or ()), CellType(_files()))
    held = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, cells)
    held.__qualname__, held.__doc__, held.__module__ = function.__qualname__, function.__doc__, function.__module__
    return held
