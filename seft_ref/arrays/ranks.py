"""Processes that share the rows of a step, passed as an argument like a kernel set (TRN-013 to TRN-015).

    ranks = over_mpi()                        # in every process that mpirun started
    batches = step_batches(settings, tokens, step, weights, ranks)
    state, record = train_step(state, batches, settings, config, kernels, ranks=ranks)

A rank computes with its rows and asks the others three things: `sum`, `join` and `every`. All ranks ask the same, in
the same order. `ALONE` is one process, whose answers are what it was given.
"""

import ctypes
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar, runtime_checkable

from seft_ref.arrays.library import (
    Array,
    array_namespace,
    computed,
    device,
    from_numpy,
    host_room,
    is_numpy_array,
    of_cupy,
    to_numpy,
)
from seft_ref.errors import ConfigError, UpdateError

__all__ = ["ALONE", "Alone", "Mpi", "Ranks", "digest_of", "over_mpi", "refuse_different", "rows_of"]

Value = TypeVar("Value")


@runtime_checkable
class Ranks(Protocol):
    """The processes of a run, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def sum(self, x: Array) -> Array:
        """Return the sum of an array over all ranks, added up in ascending order of rank: the same bits on each of
        them. Shape, dtype and device are those of x, the same on all.
        """

    def join(self, x: Array) -> Array:
        """Return the rows of a matrix from all ranks, one rank's behind the other's in ascending order."""

    def every(self, value: Value) -> list[Value]:
        """Return a small Python value of every rank, in ascending order."""


@dataclass(frozen=True, slots=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def sum(self, x: Array) -> Array:
        """Return x."""
        return x

    def join(self, x: Array) -> Array:
        """Return x."""
        return x

    def every(self, value: Value) -> list[Value]:
        """Return [value]."""
        return [value]


ALONE = Alone()


class Mpi:
    """The processes that an MPI launcher started.

    Arrays of NumPy go to MPI as they are. Those of CuPy do where `direct` says that this MPI reads and writes memory of
    a GPU; otherwise they, like those of any other library, go through the memory of the host. Numbers are added where
    the arrays are, so that the way they go changes no bit.
    """

    def __init__(self, communicator: Any, *, direct: bool = False) -> None:
        self._all = communicator
        self._direct = direct
        self.rank: int = communicator.Get_rank()
        self.size: int = communicator.Get_size()

    def sum(self, x: Array) -> Array:
        """Return the sum over all ranks: each adds up its part of the entries, and the parts are joined.

        MPI's own reductions may choose an order by the number and place of processes. A rank sends and receives two
        arrays of the size of x at most, and holds one more.
        """
        xp = array_namespace(x)
        flat = xp.reshape(x, (-1,))
        edges = [flat.shape[0] * r // self.size for r in range(self.size + 1)]
        counts = [high - low for low, high in pairwise(edges)]
        mine = counts[self.rank]
        received = self._room(self.size * mine, flat)
        self._all.Alltoallv([self._given(flat), counts], [received, [mine] * self.size])
        parts = self._taken(received, flat)
        total = parts[:mine]
        for r in range(1, self.size):
            total = total + parts[r * mine : (r + 1) * mine]
        whole = self._room(flat.shape[0], flat)
        self._all.Allgatherv([self._given(total), mine], [whole, counts])
        return xp.reshape(self._taken(whole, flat), x.shape)

    def join(self, x: Array) -> Array:
        """Return the rows of all ranks."""
        xp = array_namespace(x)
        counts = [n_rows * x.shape[1] for n_rows in self.every(x.shape[0])]
        flat = xp.reshape(x, (-1,))
        joined = self._room(sum(counts), flat)
        self._all.Allgatherv([self._given(flat), flat.shape[0]], [joined, counts])
        return xp.reshape(self._taken(joined, flat), (-1, x.shape[1]))

    def _reaches(self, x: Array) -> bool:
        """Tell whether MPI finds the numbers of x where they are."""
        return is_numpy_array(x) or (self._direct and of_cupy(x))

    def _given(self, x: Array) -> Any:
        """Return the numbers of x for MPI to read."""
        return computed(x) if self._reaches(x) else to_numpy(x)

    def _room(self, n: int, like: Array) -> Any:
        """Return room for n numbers of the dtype of `like` that MPI writes: nothing may still be at work in it."""
        if not self._reaches(like):
            return host_room(n, like)
        return computed(array_namespace(like).empty((n,), dtype=like.dtype, device=device(like)))

    def _taken(self, room: Any, like: Array) -> Array:
        """Return what MPI wrote as an array of the library and device of `like`."""
        return room if self._reaches(like) else from_numpy(room, like)

    def every(self, value: Value) -> list[Value]:
        """Return a Python value of every rank."""
        found: list[Value] = self._all.allgather(value)
        return found


def over_mpi() -> Mpi:
    """Return all processes that MPI knows of; needs mpi4py, which starts MPI.

    Raises:
        ImportError: mpi4py or an MPI library is not installed.
    """
    from mpi4py import MPI

    return Mpi(MPI.COMM_WORLD, direct=_reaches_gpus(MPI.__file__))


def _reaches_gpus(library: str) -> bool:
    """Tell whether the MPI that a shared library is linked to says that it takes addresses in the memory of a GPU.

    Open MPI and MPICH answer under one name, which is not part of MPI, so that mpi4py does not pass it on. An MPI that
    does not know the question is taken not to, for it would read addresses of a GPU as its own.
    """
    try:
        ask = ctypes.CDLL(library).MPIX_Query_cuda_support
    except (AttributeError, OSError):
        return False
    return bool(ask())


def rows_of(n_rows: int, ranks: Ranks) -> range:
    """Return which rows of a step are this rank's: parts that follow each other and differ by at most one row.

    Raises:
        ConfigError: TRN-013 if there are fewer rows than ranks.
    """
    # TRN-013
    if n_rows < ranks.size:
        raise ConfigError(
            "TRN-013",
            f"a step of {n_rows} rows cannot be shared by {ranks.size} processes; raise batch or micro_batches to "
            f"{ranks.size} rows or more, or start fewer processes",
        )
    edges = [n_rows * r // ranks.size for r in range(ranks.size + 1)]
    return range(edges[ranks.rank], edges[ranks.rank + 1])


def digest_of(arrays: Iterable[Array]) -> str:
    """Return a hash of the bytes, shapes and dtypes of arrays."""
    seen = hashlib.blake2b(digest_size=16)
    for x in arrays:
        held = to_numpy(x)
        seen.update(f"{held.dtype} {held.shape}".encode())
        seen.update(held.tobytes())
    return seen.hexdigest()


def refuse_different(ranks: Ranks, when: str, held: Mapping[str, object]) -> None:
    """Refuse to go on where a rank holds something else than rank 0; every rank is told the same (TRN-014).

    held    a small value for each thing that must be the same, by its name
    Raises  UpdateError TRN-014
    """
    first, *others = ranks.every(dict(held))
    # TRN-014
    for rank, other in enumerate(others, start=1):
        wrong = [name for name in first if other.get(name) != first[name]]
        if wrong:
            raise UpdateError(
                "TRN-014",
                f"{when} process {rank} of {ranks.size} holds other {', '.join(wrong)} than process 0; start all with "
                "the same command, files, libraries and numbers of threads on processors of one kind, and resume",
            )
