"""A peer in a process of its own, which works only while it is asked.

PyTorch and numba share one OpenMP library in a process. Once numba's threads are there, it holds more threads than the
machine has cores, and lets those of PyTorch sleep at every wait: on two threads of an Intel Xeon a training step of
PyTorch then took 3.8 s in place of 1.9.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Beside:
    """A function that runs in another process, on what `build(*arguments)` returned there.

    Raises:
        RuntimeError: what the other process raised.
    """

    def __init__(self, build: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        fresh = multiprocessing.get_context("spawn")
        self._here, there = fresh.Pipe()
        self._process = fresh.Process(target=_serve, args=(there, build, arguments), daemon=True)
        self._process.start()
        # so that the end of the other process is the end of the pipe
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
    """Build the function, then answer calls until nobody asks any more."""
    try:
        function = build(*arguments)
        there.send((False, None))
        while True:
            there.send((False, function(*there.recv())))
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - whoever asked raises it
        there.send((True, f"{type(error).__name__}: {error}"))
