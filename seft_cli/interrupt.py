"""An interrupt that is not lost: compiled code may swallow the exception that Python raises for one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if the user has asked to stop, to be called now and then.

    An interrupt raises at once as ever; where that is swallowed, as by code in C that asks Python something and clears
    errors of the answer, the next call raises it again. Outside the main thread Python tells of none.
    """
    asked = threading.Event()

    def remember(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
