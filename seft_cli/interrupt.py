"""Interrupts (Ctrl-C): a command ends with a line on how to go on, even if compiled code swallows the exception."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from seft_cli import console


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function to call now and then; it raises KeyboardInterrupt if the user has interrupted.

    An interrupt still raises at once. But C code that calls Python and clears its errors may swallow the exception;
    then the next call raises it again. Outside the main thread Python delivers no interrupt.
    """
    interrupted = threading.Event()

    def remember(_number: int, _frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def writing(destination: Path) -> Iterator[None]:
    """If the block, which writes a new file or folder, is interrupted, print what became of it; exit with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        # it appears under its name when it is whole, and the block may have had little left to do
        became = "is written and whole" if os.path.lexists(destination) else "was not written"
        console.err.print(f"interrupted; {destination} {became}")
        raise typer.Exit(130) from None


@contextmanager
def interruptible(state: Path) -> Iterator[None]:
    """If the block is interrupted, print how to continue the run from its state, and exit with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        advice = f"{state} is kept; continue with --resume" if state.exists() else "no state was saved yet"
        console.err.print(f"interrupted; {advice}")
        raise typer.Exit(130) from None
