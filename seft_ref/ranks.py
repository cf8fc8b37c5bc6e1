"""Processes that share the rows of a step, passed as an argument like a kernel set (TRN-013 to TRN-015).

    ranks = over_mpi()                        # in every process that mpirun started
    batches = step_batches(settings, tokens, step, weights, ranks)
    state, record = train_step(state, batches, settings, config, kernels, ranks=ranks)

A rank computes with its rows and asks the others three things: `sum`, `join` and `every`. All ranks ask the same, in
the same order. `ALONE` is one process, whose answers are what it was given.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from seft_ref.arrays import Array, array_namespace, computed, device, to_numpy
from seft_ref.errors import ConfigError, UpdateError

__all__ = ["ALONE", "Alone", "Mpi", "Ranks", "digest_of", "over_mpi", "refuse_different", "rows_of"]


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

    def every(self, value: Any) -> list[Any]:
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

    def every(self, value: Any) -> list[Any]:
        """Return [value]."""
        return [value]


ALONE = Alone()


class Mpi:
    """The processes that an MPI launcher started.

    Arrays go to MPI as they are: those of NumPy, and those of CuPy where the MPI library is CUDA-aware. The latter has
    not been run.
    """

    def __init__(self, communicator: Any) -> None:
        self._all = communicator
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
        received = xp.empty((self.size * mine,), dtype=x.dtype, device=device(x))
        self._all.Alltoallv([computed(flat), counts], [computed(received), [mine] * self.size])
        total = received[:mine]
        for r in range(1, self.size):
            total = total + received[r * mine : (r + 1) * mine]
        whole = xp.empty(flat.shape, dtype=x.dtype, device=device(x))
        self._all.Allgatherv([computed(total), mine], [computed(whole), counts])
        return xp.reshape(whole, x.shape)

    def join(self, x: Array) -> Array:
        """Return the rows of all ranks."""
        xp = array_namespace(x)
        counts = [n_rows * x.shape[1] for n_rows in self.every(x.shape[0])]
        joined = xp.empty((sum(counts),), dtype=x.dtype, device=device(x))
        flat = xp.reshape(x, (-1,))
        self._all.Allgatherv([computed(flat), flat.shape[0]], [computed(joined), counts])
        return xp.reshape(joined, (-1, x.shape[1]))

    def every(self, value: Any) -> list[Any]:
        """Return a Python value of every rank."""
        found: list[Any] = self._all.allgather(value)
        return found


def over_mpi() -> Mpi:
    """Return all processes that MPI knows of; needs mpi4py, which starts MPI.

    Raises:
        ImportError: mpi4py or an MPI library is not installed.
    """
    from mpi4py import MPI

    return Mpi(MPI.COMM_WORLD)


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


def refuse_different(ranks: Ranks, when: str, held: Mapping[str, Any]) -> None:
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
