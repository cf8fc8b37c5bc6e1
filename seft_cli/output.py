"""Outputs of command lines: paths are checked before any work starts, and files appear complete or not at all.

The parent folders of an output are created when it is written.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from formats.atomic import check_file, check_place
from formats.atomic import write_file as write_file


class Refused(Exception):
    """A command line refuses its input, and the message says why."""


def require_absent(path: Path) -> None:
    """Raise Refused for an output that exists, and an error for one that cannot be written."""
    if os.path.lexists(path):  # lexists, because a dangling link exists for the writers, too (FMT-110)
        raise Refused(f"{path} exists; remove it or choose another name")
    check_place(path)


def require_file(path: Path | None) -> Path | None:
    """Return the path of an output file, which may replace an older one; refuse a folder or an unwritable path."""
    if path is not None:
        check_file(path)
    return path


def require_beside(option: str, file: Path | None, folder: Path, why: str) -> None:
    """Raise Refused for an output file that lies inside the folder of a model."""
    if file is not None and file.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"{option} {file} lies in {folder}, {why}; name a file beside it")


def require_json(file: Path | None, inputs: Sequence[Path | None], log: Path | None) -> None:
    """Raise Refused for a file of --json that would replace an input, the log, or a file that is no JSON object."""
    if file is None or not file.exists():
        return
    for other in (*inputs, log):
        if other is not None and other.exists() and other.samefile(file):
            raise Refused(f"--json {file} would replace {other}, which the command needs; name another file")
    try:
        is_object = isinstance(json.loads(file.read_bytes()), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise Refused(f"--json {file} exists and is no JSON object; remove it or name another file")


def write_json(path: Path | None, content: Any) -> None:
    """Write content to a JSON file; refuse NaN and infinity, because JSON has neither."""
    if path is None:
        return
    try:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise Refused(f"{path} is not written: {error}") from None
    write_file(path, text.encode())
