"""Helpers with which operations of several areas read their inputs."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.topology.csr import Topology, from_flat

Values = dict[str, Any]
GROWN_FROM = {"all": "anywhere", "active": "active"}


def read_topology(a: Values, name: str) -> Topology:
    """Return the topology of the flat positions `a[name]` in a matrix of `out` rows and `in` columns."""
    return from_flat((a["out"], a["in"]), a[name])


def ints(values: Any) -> np.ndarray[Any, Any]:
    """Return the integers as an int64 array of NumPy."""
    return np.array(list(values), dtype=np.int64)


def zeros_at(positions: Array, like: Array) -> Array:
    """Return a zero for each position, in the library and dtype of `like`."""
    return array_namespace(like).zeros(positions.shape, dtype=like.dtype, device=device(like))


@cache
def _of_this_process() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@contextmanager
def work_folder() -> Iterator[Path]:
    """Yield an empty folder that has the same name at every call.

    The name is the same because messages contain it, and the same call must get the same bytes (PRT-013).
    """
    path = Path(_of_this_process().name) / "call"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)
