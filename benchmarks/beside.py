"""Run a peer in a process of its own, which sleeps between calls.

PyTorch and numba share one OpenMP library in a process. Once numba has started its threads, that library has more
threads than the machine has cores, and puts the threads of PyTorch to sleep at every wait. On two threads of an Intel
Xeon, a training step of PyTorch then took 3.8 s instead of 1.9 s.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Beside:
    """A function that runs in another process, where `build(*arguments)` makes it.

    Raises:
        RuntimeError: the other process raised an error, or has ended.
    """

    def __init__(self, build: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        fresh = multiprocessing.get_context("spawn")
        self._here, there = fresh.Pipe()
        self._process = fresh.Process(target=_serve, args=(there, build, arguments), daemon=True)
        self._process.start()
        # close our copy of the other end, so that `recv` raises EOFError once the other process has ended
        there.close()
        self._answer()

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns for these arguments."""
        self._here.send(arguments)
        return self._answer()

    def _answer(self) -> Any:
        try:
            failed, answer = self._here.recv()
        except EOFError:
            raise RuntimeError("the process of a peer has ended") from None
        if failed:
            raise RuntimeError(answer)
        return answer


def _serve(there: Connection, build: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    """Build the function, then answer calls until the caller closes the pipe."""
    try:
        function = build(*arguments)
        there.send((False, None))
        while True:
            there.send((False, function(*there.recv())))
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - `_answer` raises it in the calling process
        there.send((True, f"{type(error).__name__}: {error}"))
