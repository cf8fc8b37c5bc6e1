"""The table of commands. A command is imported only when it runs, so that it never waits for another's libraries."""

import difflib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from seft_cli import threads

COMMANDS = {
    "prune": ("commands.prune:main", "Prune a Hugging Face folder, or quantise a pruned model."),
    "convert": ("commands.convert:main", "Convert a checkpoint from and to other formats."),
    "diff": ("commands.convert:diff", "Write what changed between two checkpoints."),
    "apply": ("commands.convert:apply", "Apply deltas to a checkpoint."),
    "check": ("commands.check:main", "Say every rule that a file or folder breaks."),
    "show": ("commands.show:main", "Show what a checkpoint holds."),
    "eval": ("commands.eval:main", "Measure the perplexity of a model, or score it on tasks."),
    "finetune": ("commands.finetune:main", "Fine-tune a pruned model so that it stays pruned."),
    "generate": ("commands.generate:main", "Continue a text."),
    "plot": ("commands.plot:main", "Draw the log of a run."),
    "verify": ("conformance.command.app:main", "Judge a port, or this engine, by SPEC.md."),
    "demo": ("commands.demo:main", "Prune and repair a real model, and see that it stays pruned."),
}
"""Command -> its module (in this package or in conformance) and function, and its line in the help."""

STDOUT, STDERR = 1, 2
"""The numbers of the standard streams."""


@contextmanager
def _without_traceback() -> Iterator[None]:
    """End with exit status 1, as click does, if the reader of a pipe has gone, and with 130 at an interrupt."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        # a command that has begun says more; this one was still loading its libraries
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # stdout becomes /dev/null, because Python writes the rest of its buffer when the process ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


@_without_traceback()
def main() -> None:
    """Run the command that the first word names."""
    _open_closed_streams()
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h"):
        print(usage())
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        from formats import __version__

        print(f"seft {__version__}")
        return
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {near[0]}?" if near else "seft --help lists all"
        print(f"error: there is no command {name!r}; {advice}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv[:2] = [f"seft {name}"]
    run(name)


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller has closed, so that no file gets its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(STDOUT, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(STDERR, "w", encoding="utf-8")  # noqa: SIM115


def usage() -> str:
    """Return the text of `seft --help`."""
    width = max(map(len, COMMANDS))
    lines = ["Usage: seft COMMAND ...", "", "Fine-tune sparse language models so that they stay sparse.", ""]
    lines += [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([*lines, "", "seft COMMAND --help explains every option."])


@_without_traceback()
def run(name: str) -> None:
    """Run a command with the arguments sys.argv[1:]."""
    threads.obey(sys.argv[1:])
    module, _, function = COMMANDS[name][0].partition(":")
    if module.startswith("conformance"):
        raise SystemExit(import_module(module).main())
    command: Callable[..., Any] = getattr(import_module(f"seft_cli.{module}"), function)
    if name == "finetune":
        # mpirun may have started several processes, of which only the first must print
        from seft_cli import launcher

        launcher.run(command, f"seft {name}")
    else:
        from seft_cli import console

        console.run(command, f"seft {name}")
