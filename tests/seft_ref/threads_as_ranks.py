"""Threads of one process as the ranks of a run.

results = on_ranks(2, lambda ranks: ...)         # what each rank returned, in order of rank
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

SECONDS = 60


class Meeting:
    """Where n threads leave a value each and take all of them."""

    def __init__(self, size: int) -> None:
        self.left: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=SECONDS)


class ThreadRank:
    """One thread as a rank; it counts what it was asked and how many numbers it sent."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size = rank, len(meeting.left)
        self._meeting = meeting
        self.asked: list[str] = []
        self.sent = 0

    def sum(self, x: Any) -> Any:
        """The arrays of all ranks, added one by one."""
        self.asked.append("sum")
        self.sent += x.size
        found = self._all(x)
        assert len({(one.shape, one.dtype) for one in found}) == 1, "ranks brought different arrays"
        total = found[0]
        for one in found[1:]:
            total = total + one
        return total

    def join(self, x: Any) -> Any:
        """The rows of all ranks."""
        self.asked.append("join")
        self.sent += x.size
        return np.concatenate(self._all(x))

    def every(self, value: Any) -> list[Any]:
        """The values of all ranks."""
        self.asked.append("every")
        return self._all(value)

    def _all(self, value: Any) -> list[Any]:
        meeting = self._meeting
        meeting.left[self.rank] = value
        meeting.barrier.wait()
        found = list(meeting.left)
        meeting.barrier.wait()
        return found


def on_ranks(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What work returned on every rank; the first error of a rank is raised here."""
    meeting = Meeting(size)
    results: list[Any] = [None] * size
    errors: list[tuple[int, BaseException]] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRank(rank, meeting))
        except BaseException as error:  # noqa: BLE001  raised again below
            errors.append((rank, error))
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [error for _, error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (real or [error for _, error in errors])[0]
    return results
