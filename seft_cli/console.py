"""The parts that all command lines share: terminals safe for foreign text, errors in one line, progress bars.

`seft_cli.threads` is imported before any module that loads NumPy.
"""

import errno
import io
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Annotated, Any

import typer
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import formats
from conformance.report import progress as lines
from conformance.report.terminal import Terminal
from conformance.report.visible import visible
from seft_cli.output import Refused as Refused
from seft_ref.arrays.library import overflow_allowed
from seft_ref.errors import SeftError

err = Terminal(stderr=True, soft_wrap=True)
"""Progress and remarks; results go to stdout."""
out = Terminal(soft_wrap=True)


Threads = Annotated[int | None, typer.Option(min=1, help="Threads of every library [all cores].")]
"""The option --threads. `seft_cli.threads` has obeyed it before a command begins, so a command need not read it."""

EXPECTED = (SeftError, formats.FormatError, Refused, OSError, MemoryError)
"""Errors that are reported in one line, without a traceback."""


def told(error: BaseException) -> str:
    """Return the message of an error as one line, with hidden characters of foreign names escaped (FMT-167)."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = f"memory ran out ({text}); end other programs, or use a machine with more memory"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text = f"{text}; make room, or write to another disk"
    return visible(text)


def say(text: str) -> None:
    """Print one line to stdout, with hidden characters of foreign names escaped (FMT-167)."""
    print(visible(text))


def show(table: Table) -> None:
    """Print a table to stdout. In a narrow terminal its lines wrap, because a number that is cut reads as another."""
    needed = Measurement.get(out, out.options.update(max_width=10_000), table).minimum
    Terminal(width=max(out.width if sys.stdout.isatty() else 200, needed)).print(table)


def run(command: Callable[..., None], name: str | None = None) -> None:
    """Run a function as a command line, as `run_app` does; an interrupt ends in one line and exit code 130."""

    @wraps(command)
    def interruptible(*arguments: Any, **options: Any) -> None:
        try:
            with _quiet_interrupts():
                command(*arguments, **options)
        except KeyboardInterrupt:
            # here, because typer would exit without a word; a command that knows more has said it and left before
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(interruptible)
    run_app(app, name)


@contextmanager
def _quiet_interrupts() -> Iterator[None]:
    """Make an interrupt end the process without the complaints of libraries.

    An interrupt can hit a library while it makes an object. Python then prints a traceback of the destructor, which
    misses what was not made yet.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        sys.unraisablehook = lambda _: None
        signal.default_int_handler(number, frame)

    # an interrupt that the caller ignores, or that another part handles, stays as it is
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_app(app: typer.Typer, name: str | None = None) -> None:
    """Run a command line; a refused input, or too little memory, ends in one line on stderr and exit code 2.

    name  the command as a person typed it, for the help
    """
    for stream in (sys.stdout, sys.stderr):
        # an ASCII-only terminal then shows an escape, where print would raise an error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # NumPy must not warn of an overflow, because the engine refuses it under a clause
        with overflow_allowed():
            app(prog_name=name)
    except BrokenPipeError:
        raise
    except EXPECTED as error:
        print(f"error: {told(error)}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def progress(what: str, total: int | None = None, *, gone: bool = False) -> Iterator[Callable[..., None]]:
    """Show a progress bar followed by a remark; yield advance(remark="", done=None, total=None).

    Without a terminal a plain line now and then takes the place of the bar.

    gone  whether the bar is removed at the end, and no line is the last
    done  how many steps are done; None for one more
    """
    if not err.is_terminal or err.is_dumb_terminal:
        with lines.tell_pace(what, err.print, total, last=not gone) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}", markup=False),
    )
    bar = Progress(*columns, console=err, transient=gone)
    task = bar.add_task(visible(what), total=total, remark="")

    def move(remark: str = "", done: int | None = None, total: int | None = None) -> None:
        bar.start()  # the bar starts here, so that an error before the first step is printed without a bar
        bar.update(task, advance=1 if done is None else None, completed=done, total=total, remark=visible(remark))

    try:
        yield move
    finally:
        if bar.live.is_started:
            bar.stop()


def refuse_unused(what: str, used: Collection[str], options: Mapping[str, Any]) -> None:
    """Raise Refused for a given option that is not among `used`; `what` is the subject of the message."""
    for option, value in options.items():
        if value is not None and option not in used:
            raise Refused(f"{what} does not use {option}; leave it out")


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
