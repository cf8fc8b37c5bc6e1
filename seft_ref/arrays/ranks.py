"""The processes that share the rows of a step, passed as an argument like a kernel set (TRN-013 to TRN-015).

    ranks = over_mpi()                        # in every process that mpirun started
    batches = step_batches(settings, tokens, step, weights, ranks)
    state, record = train_step(state, batches, settings, config, kernels, ranks=ranks)

A rank computes with its own rows and exchanges results by three operations: `sum`, `join` and `every`. All ranks must
call them in the same order. `ALONE` is a single process, where each operation returns its own argument.
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
    """The processes of a run, through which one of them exchanges results with the others."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def sum(self, x: Array) -> Array:
        """Return the sum of an array over all ranks, added in ascending order of rank; all ranks get the same bits.

        Shape and dtype of x are the same on all ranks; the sum has them too, and the device of x.
        """

    def join(self, x: Array) -> Array:
        """Return the rows of the matrices of all ranks, in ascending order of rank."""

    def every(self, value: Value) -> list[Value]:
        """Return the small Python values of all ranks, in ascending order of rank."""


@dataclass(frozen=True, slots=True)
class Alone:
    """A run of one process."""

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


class Communicator(Protocol):
    """The methods of an mpi4py communicator that `Mpi` calls.

    `sent` and `received` are lists: an array, and how many of its entries go to, or come from, each process.
    """

    def Get_rank(self) -> int:  # noqa: N802
        """Return the number of this process, from 0."""
        ...

    def Get_size(self) -> int:  # noqa: N802
        """Return how many processes there are."""
        ...

    def Alltoallv(self, sent: list[object], received: list[object]) -> object:  # noqa: N802
        """Send each process a part of an array, and receive a part of each."""
        ...

    def Allgatherv(self, sent: list[object], received: list[object]) -> object:  # noqa: N802
        """Send an array to all processes, and receive the arrays of all."""
        ...

    def allgather(self, value: Value) -> list[Value]:
        """Return the values of all processes, in the order of their ranks."""
        ...


class Mpi:
    """The processes that an MPI launcher started.

    MPI reads and writes arrays of NumPy where they are. It does so with arrays of CuPy if `direct` says that this MPI
    reaches the memory of a GPU. All other arrays are copied through the memory of the host. Numbers are added on the
    device of the arrays, so that the route they take changes no bit.
    """

    def __init__(self, communicator: Communicator, *, direct: bool = False) -> None:
        self._all = communicator
        self._direct = direct
        self.rank: int = communicator.Get_rank()
        self.size: int = communicator.Get_size()

    def sum(self, x: Array) -> Array:
        """Return the sum over all ranks: each adds up its part of the entries, and the parts are joined.

        MPI's own reductions are not used, because their order may depend on the number and place of the processes. A
        rank sends and receives about twice the size of x, and allocates as much.
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
        """Return the rows of the matrices of all ranks, in ascending order of rank."""
        xp = array_namespace(x)
        counts = [n_rows * x.shape[1] for n_rows in self.every(x.shape[0])]
        flat = xp.reshape(x, (-1,))
        joined = self._room(sum(counts), flat)
        self._all.Allgatherv([self._given(flat), flat.shape[0]], [joined, counts])
        return xp.reshape(self._taken(joined, flat), (-1, x.shape[1]))

    def _reaches(self, x: Array) -> bool:
        """Return whether MPI can read and write the memory of x."""
        return is_numpy_array(x) or (self._direct and of_cupy(x))

    def _given(self, x: Array) -> Any:
        """Return the numbers of x in memory that MPI can read."""
        return computed(x) if self._reaches(x) else to_numpy(x)

    def _room(self, n: int, like: Array) -> Any:
        """Return memory for n numbers of the dtype of `like` that MPI can write and no device still works in."""
        if not self._reaches(like):
            return host_room(n, like)
        return computed(array_namespace(like).empty((n,), dtype=like.dtype, device=device(like)))

    def _taken(self, room: Any, like: Array) -> Array:
        """Return what MPI wrote into `room`, as an array of the library and device of `like`."""
        return room if self._reaches(like) else from_numpy(room, like)

    def every(self, value: Value) -> list[Value]:
        """Return the Python values of all ranks, in ascending order of rank."""
        values: list[Value] = self._all.allgather(value)
        return values


def over_mpi() -> Mpi:
    """Return all processes of this MPI run; needs mpi4py, which starts MPI when it is imported.

    Raises:
        ImportError: mpi4py or an MPI library is not installed.
    """
    from mpi4py import MPI

    return Mpi(MPI.COMM_WORLD, direct=_reaches_gpus(MPI.__file__))


def _reaches_gpus(library: str) -> bool:
    """Return whether the MPI that a shared library is linked to says that it can access the memory of a GPU.

    Open MPI and MPICH both have a function that answers this. It is not part of the MPI standard, so mpi4py does not
    offer it. An MPI without it gets no GPU addresses, because it might take them for addresses of the host.
    """
    try:
        ask = ctypes.CDLL(library).MPIX_Query_cuda_support
    except (AttributeError, OSError):
        return False
    return bool(ask())


def rows_of(n_rows: int, ranks: Ranks) -> range:
    """Return the rows of a step that this rank computes: consecutive ranges, whose lengths differ by at most one.

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
    """Return a hexadecimal hash of the bytes, shapes and dtypes of arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for x in arrays:
        on_host = to_numpy(x)
        digest.update(f"{on_host.dtype} {on_host.shape}".encode())
        digest.update(on_host.tobytes())
    return digest.hexdigest()


def refuse_different(ranks: Ranks, when: str, values: Mapping[str, object]) -> None:
    """Refuse to go on if a rank holds other values than rank 0; every rank raises the same error (TRN-014).

    values  small values that must be the same on all ranks, by name
    Raises  UpdateError TRN-014
    """
    first, *others = ranks.every(dict(values))
    # TRN-014
    for rank, other in enumerate(others, start=1):
        wrong = [name for name in first if other.get(name) != first[name]]
        if wrong:
            raise UpdateError(
                "TRN-014",
                f"{when} process {rank} of {ranks.size} holds other {', '.join(wrong)} than process 0; start all with "
                "the same command, files, libraries and numbers of threads on processors of one kind, and resume",
            )
