"""Runs compiled loops on numba's threads: over the rows of arrays, ROWS rows a task, or over tasks of any kind."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numba
import numpy as np

from seft_ref.arrays.library import Array, NumpyArray
from seft_ref.kernels.cpu.panels import run

ROWS = 16
"""Rows of a task."""

Kind: TypeAlias = "type[np.float32] | type[np.float64]"
Made: TypeAlias = Callable[..., None]


def over_rows(make: Callable[[Any], Made], n_rows: int, *arguments: NumpyArray | int) -> None:
    """Run the loop that `make` returns for the dtype of the first argument, on all rows.

    The loop takes the arguments, arrays as pointers to their first element, then the number of rows, a task and a
    worker. A task has ROWS rows, whatever the number of threads, so that no result depends on it (KRN-008).
    """
    # results are contiguous, so that only an input can be copied here
    flat = tuple(contiguous(a).reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments)
    over_tasks(make, -(-n_rows // ROWS), *flat, n_rows)


def over_tasks(make: Callable[[Any], Made], n_tasks: int, *arguments: NumpyArray | int) -> None:
    """Run n_tasks tasks of the loop that `make` returns for the dtype of the first argument.

    The loop takes the arguments, flat arrays as pointers to their first element, then a task and a worker.
    """
    first = arguments[0]
    assert isinstance(first, np.ndarray)
    run(_made(make, first.dtype.type), arguments, n_tasks, workers_of(n_tasks))


def workers_of(n_tasks: int) -> int:
    """Return the number of workers that share n_tasks tasks."""
    return min(numba.get_num_threads(), max(n_tasks, 1))


@cache
def _made(make: Callable[[Any], Made], kind: Kind) -> Made:
    return make(kind)


def contiguous(x: Array) -> NumpyArray:
    """Return an array in row-major order, copied if it is not."""
    return np.ascontiguousarray(x)
