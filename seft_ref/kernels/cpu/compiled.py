"""Decorators that compile functions by numba, and cache them on disk until a file of their folder or this one changes.

numba's own cache checks only the file of the function. A loop that calls a function or an intrinsic of another file
would then still run the old code after that file was edited. It also numbers the files of a function's code, so that
two processes that save at once take the same number, and every later process runs code made for other dtypes.
"""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import CellType, FunctionType
from typing import Any, Protocol

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
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

    def decorate(function: Function) -> Function:
        loop: Any = njit(error_model="numpy", parallel=parallel)(_of_these_files(function))
        loop._cache = _CodeCache(loop.py_func)
        return loop

    return decorate


def compiled_task(signature: Signature) -> Callable[[Function], Task]:
    """Return a decorator like `numba.cfunc`, with a cache on disk; division by zero gives ±∞ or NaN, as in NumPy."""

    def decorate(function: Function) -> Task:
        keyed = _of_these_files(function)
        task: Any = CFunc(keyed, normalize_signature(signature), locals={}, options={"error_model": "numpy"})
        task._cache = _CodeCache(keyed)
        task.compile()
        return task

    return decorate


class _CodeCache(FunctionCache):  # type: ignore[misc]
    """A cache on disk that several processes may fill at once."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _CodeFiles(self.cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp())


class _CodeFiles(IndexDataCacheFile):  # type: ignore[misc]
    """An index of the compiled signatures of a function, and one file of code for each, named by its signature."""

    def save(self, key: Any, data: Any) -> None:
        """Save code. If another process saves at the same time, one entry may be lost and is then compiled again."""
        number = int.from_bytes(sha256(repr(key).encode()).digest()[:7])
        name = self._data_name(number)
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})


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
