"""Plain lines that say how far a long command is, for output that is no terminal. The command lines share them.

with tell_pace("judging", console.print) as advance:
    advance("select.largest", total=2000)
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

__all__ = ["EVERY", "FIRST", "tell_pace"]

FIRST, EVERY = 10.0, 30.0
"""Seconds until the first line, and from one line to the next."""


class Pace:
    """How far a command is: steps done, of how many, and since when.

    Attributes:
        moved: whether a step was reported.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total, self._remark = what, total, ""
        self._done, self.moved = 0, False
        self._began = time.monotonic()
        self._first = (self._began, 0)

    def advance(self, remark: str = "", done: int | None = None, total: int | None = None) -> None:
        """Take note of a remark and of the number of steps that are done, one more for None."""
        self._done = self._done + 1 if done is None else done
        self._remark = remark
        self._total = self._total if total is None else total
        if not self.moved:
            # a resumed command begins with steps that another process has done, and loading takes time
            self._first, self.moved = (time.monotonic(), self._done), True

    def line(self) -> str:
        """Return the line for now; it has the time that remains once two steps were reported."""
        now = time.monotonic()
        steps = f"{self._done:,}" if self._total is None else f"{self._done:,} of {self._total:,}"
        parts = [steps, self._remark, f"{_clock(now - self._began)} elapsed"]
        since, first = self._first
        if self._total is not None and first < self._done < self._total:
            parts.append(f"{_clock((now - since) / (self._done - first) * (self._total - self._done))} remaining")
        return f"{self._what}: {', '.join(filter(None, parts))}"


@contextmanager
def tell_pace(
    what: str, say: Callable[[str], object], total: int | None = None, *, last: bool = False
) -> Iterator[Callable[..., None]]:
    """Say every EVERY seconds how far a command is, FIRST seconds after its start first; yield `Pace.advance`.

    say   prints a line; another thread calls it, so that a long step is no silence
    last  whether a line is printed at the end, too, if a step was reported
    """
    pace, ended = Pace(what, total), threading.Event()

    def watch() -> None:
        wait = FIRST
        with suppress(OSError):  # nobody reads the lines any more
            while not ended.wait(wait):
                say(pace.line())
                wait = EVERY

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield pace.advance
    finally:
        ended.set()
        thread.join()
        if last and pace.moved:
            say(pace.line())


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
