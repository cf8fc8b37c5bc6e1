"""What all command lines share: thread settings, terminals for foreign text, errors in one line, progress.

`seft_cli.threads` stands before all that loads NumPy.
"""

import io
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import formats
from conformance.report.terminal import Terminal
from conformance.report.visible import visible
from seft_cli.output import Refused as Refused
from seft_cli.threads import NAMES
from seft_ref.arrays.library import overflow_allowed
from seft_ref.errors import SeftError

err = Terminal(stderr=True, soft_wrap=True)
"""Progress and remarks; results go to stdout."""
out = Terminal(soft_wrap=True)
wide = Terminal(width=None if sys.stdout.isatty() else 200)
"""For tables."""


EXPECTED = (SeftError, formats.FormatError, Refused, OSError, MemoryError)
"""Errors that are told in one line."""


def told(error: BaseException) -> str:
    """Return an error in one line, hidden characters of foreign names written out (FMT-167)."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = f"memory ran out ({text}); end other programs, or use a machine with more memory"
    return visible(text)


def say(text: str) -> None:
    """Print one line to stdout, hidden characters of foreign names written out (FMT-167)."""
    print(visible(text))


def run(command: Callable[..., None], name: str | None = None) -> None:
    """Run a command line of one command, as `run_app` does."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    run_app(app, name)


def run_app(app: typer.Typer, name: str | None = None) -> None:
    """Run a command line; a refused input, or too little memory, ends in one line on stderr and exit code 2.

    name  what a person typed to call it, for the help
    """
    for stream in (sys.stdout, sys.stderr):
        # a terminal that knows ASCII only shows an escape instead of ending the program
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # what overflows is refused under a clause: NumPy's warnings about it would be noise
        with overflow_allowed():
            app(prog_name=name)
    except BrokenPipeError:
        raise
    except EXPECTED as error:
        print(f"error: {told(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a bar with a remark behind it; yields advance(remark="", done=None, total=None).

    done  how many are done; None for one more
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}", markup=False),
    )
    bar = Progress(*columns, console=err)
    task = bar.add_task(visible(what), total=total, remark="")

    def advance(remark: str = "", done: int | None = None, total: int | None = None) -> None:
        bar.start()  # what is refused before the first step is told without a bar
        bar.update(task, advance=1 if done is None else None, completed=done, total=total, remark=visible(remark))

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def restart_with_threads(threads: int) -> None:
    """Replace this process by one whose libraries use this many threads: they read it when they are loaded."""
    wanted = dict.fromkeys(NAMES, str(threads))
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | wanted)  # noqa: S606


def refuse_unused(what: str, used: Collection[str], given: Mapping[str, Any]) -> None:
    """Refuse options that were given and that what was chosen does not use."""
    for option, value in given.items():
        if value is not None and option not in used:
            raise Refused(f"{what} does not use {option}; leave it out")


def peak_memory_bytes() -> int:
    """Return the largest resident size this process has had."""
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
