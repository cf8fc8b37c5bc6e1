"""Run a command line as the processes that mpirun started (TRN-013 to TRN-015).

Only the first process prints, and all end together when one fails.
"""

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from seft_cli import console
from seft_ref.arrays.ranks import ALONE, Ranks, over_mpi

LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
"""Environment variables with the number of processes and the rank: Open MPI, MPICH and its kin, srun."""
PATIENCE = 3.0
"""Seconds that a failed process waits for the others to fail as well."""
LAST_WORDS = 1.0
"""Seconds that a failed process stays after its message.

When one process leaves, a launcher ends the others and drops output that it has not passed on yet.
"""


def launched() -> tuple[int, int]:
    """Return the number of processes that a launcher started and the rank of this one; (1, 0) without a launcher."""
    for size, rank in LAUNCHERS:
        if os.environ.get(size, "").isdigit() and int(os.environ[size]) > 1:
            return int(os.environ[size]), int(os.environ.get(rank, "0"))
    return 1, 0


def run(command: Callable[..., None], name: str | None = None) -> None:
    """Run a command line as one of several processes; only the first prints, because all would print the same."""
    if not launched()[1]:
        console.run(command, name)
        return
    # the file is not closed, because the process writes to it as long as it lives
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    try:
        console.run(command, name)
    except SystemExit as left:
        if left.code:
            time.sleep(LAST_WORDS)
        raise


def ranks_of_launcher() -> Ranks:
    """Return the processes that a launcher started together; a single process needs no MPI.

    Raises:
        Refused: TRN-013 if mpi4py is missing, or belongs to another MPI than the launcher. Otherwise each process
            would train alone and write the same output.
    """
    size, _ = launched()
    if size == 1:
        return ALONE
    try:
        ranks = over_mpi()
    except (ImportError, RuntimeError) as error:
        raise console.Refused(
            f"TRN-013: {size} processes were started together and cannot talk to each other ({error}); install mpi4py "
            'and an MPI library with pip install -e ".[mpi]", or start one process without mpirun'
        ) from None
    if ranks.size != size:
        raise console.Refused(
            f"TRN-013: {size} processes were started together and MPI counts {ranks.size}: the launcher and mpi4py "
            "belong to different MPI libraries; use the mpirun beside this Python"
        )
    return ranks


def turn_here(ranks: Ranks) -> int:
    """Return how many of the processes on this machine come before this one."""
    return ranks.every(platform.node())[: ranks.rank].count(platform.node())


def sharing(ranks: Ranks, device: str) -> int:
    """Return how many of the processes use the device of this name on this machine, and so share its memory."""
    mine = (platform.node(), device)
    return ranks.every(mine).count(mine)


@contextmanager
def ending_together() -> Iterator[None]:
    """End all processes when one fails (TRN-015).

    If all fail within PATIENCE seconds, as they do over the same bad input, each leaves with its own error and the
    first one prints it. Otherwise the others may wait for ever for the one that failed. Then it prints its error
    itself, and MPI ends them.
    """
    ranks = ranks_of_launcher()
    if ranks.size == 1:
        yield
        return
    from mpi4py import MPI

    apart = MPI.COMM_WORLD.Dup()
    try:
        yield
    except BaseException as error:
        if not _all_arrive(apart):
            _tell(ranks, error)
            time.sleep(LAST_WORDS)
            MPI.COMM_WORLD.Abort(2)
        raise


def _all_arrive(communicator: Any) -> bool:
    """Return whether all processes arrive here within PATIENCE seconds."""
    arrived, started = communicator.Ibarrier(), time.monotonic()
    while not arrived.Test():
        if time.monotonic() - started > PATIENCE:
            return False
        time.sleep(0.01)
    return True


def _tell(ranks: Ranks, error: BaseException) -> None:
    """Print the error that ended this process, even where its stderr is silenced."""
    why = console.told(error)
    trace = "" if isinstance(error, console.EXPECTED) else "".join(traceback.format_exception(error))
    print(f"{trace}error: process {ranks.rank} of {ranks.size}: {why}", file=sys.__stderr__, flush=True)
