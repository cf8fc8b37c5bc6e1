"""Keep an interrupt (Ctrl-C) from being lost, because compiled code may swallow the exception that Python raises."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function to call now and then; it raises KeyboardInterrupt if the user has interrupted.

    An interrupt still raises at once. But C code that calls Python and clears its errors may swallow the exception;
    then the next call raises it again. Outside the main thread Python delivers no interrupt.
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
