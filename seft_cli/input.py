"""Inputs of command lines: a path is checked before it is opened, and one size limit holds for a whole run."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from formats import atomic
from formats.regular import kind_of
from seft_cli import console

RATIO = 1024
"""By default a run may expand its inputs to this many times their bytes (FMT-098)."""
LEAST = 1 << 30
"""The bytes to which a run may always expand its inputs, however small they are."""

MaxBytes = Annotated[
    str | None,
    typer.Option(
        "--max-bytes",
        help="Bytes that tensors may take once expanded, all of an input or output together, such as 8GB "
        "[1024 times the bytes of the inputs, at least 1GiB].",
    ),
]
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SIZE = re.compile(r"([1-9][0-9]{0,17})(B|([KMGT])(i?)B)?")


MODEL = "file or folder"
"""What `require_input` calls a path that names a model."""


def require_input(path: Path, what: str = MODEL) -> Path:
    """Return the path if it is a regular file or a folder; refuse anything else before it is opened (FMT-165)."""
    try:
        kind = kind_of(path.stat().st_mode)
    except FileNotFoundError:
        advice = _download(path) if what == MODEL else ""
        raise console.Refused(f"there is no {what} {path}{advice}") from None
    if kind not in ("", "a folder"):
        raise console.Refused(f"FMT-165: {path} is {kind}, expected a file or a folder; copy what it holds into a file")
    return path


def _download(path: Path) -> str:
    """Return how to get a model of the Hugging Face hub, if a path has the form of its id, else an empty text."""
    # a name in a folder that exists is a slip of the pen
    if not _HUB_ID.fullmatch(str(path)) or path.parent.exists():
        return ""
    return (
        "; if it is a model of the Hugging Face hub, download it and name the folder: "
        f"hf download {path} --local-dir {path.name}"
    )


def require_text(file: Path, advice: str) -> None:
    """Refuse what is no file, and a file of examples in place of a text: its name or its first line tells."""
    require_input(file, "text file")
    line = None
    if file.is_file():  # because a folder is refused when it is read
        with file.open("rb") as stream, suppress(ValueError, RecursionError):
            line = json.loads(stream.readline(1 << 20))
    if file.suffix == ".jsonl" or (isinstance(line, dict) and {"prompt", "completion", "messages"} & line.keys()):
        raise console.Refused(f"{file} holds examples; {advice}")


def tell_leftovers(path: Path) -> None:
    """Print on stderr the files that interrupted writers left beside a path (FMT-166)."""
    for leftover in atomic.leftovers(path):
        console.err.print(
            f"{leftover} is no checkpoint: a writer left it that was killed, or that still writes. Writing to {path} "
            f"again removes what is dead; by hand, rm -r does"
        )


def size_of(option: str, text: str) -> int:
    """Return the bytes that a text such as 500MB (powers of 1000) or 8GiB (powers of 1024) means."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise console.Refused(f"{option} {text} is no size; write for example 500MB, 5GB or 8GiB")
    unit = 1024 if match[4] else 1000
    return int(match[1]) * unit ** " KMGT".index(match[3] or " ")


def limit_of(max_bytes: str | None, *inputs: Path) -> int:
    """Return the bytes that the tensors of a run may take once expanded (FMT-098).

    max_bytes  the value of --max-bytes; None for the default, which refuses small inputs that expand to a lot
    """
    if max_bytes is not None:
        return size_of("--max-bytes", max_bytes)
    return max(LEAST, RATIO * sum(_bytes_of(path) for path in inputs))


def _bytes_of(path: Path) -> int:
    files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    # a dangling link has no bytes
    return sum(file.stat().st_size for file in files if file.is_file())
