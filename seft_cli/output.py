"""What command lines write: places are looked at before any work is done, files appear whole or not at all.

Folders that lead to an output are made when it is written. Nothing here loads a library: children of benchmarks, whose
memory is measured, come by.
"""

import json
import os
from pathlib import Path
from typing import Any


class Refused(Exception):
    """Input that a command line refuses for a reason of its own."""


def require_absent(path: Path) -> None:
    """Refuse an output that exists, or that cannot be written."""
    if os.path.lexists(path):  # a dangling link counts as being there, as it does to writers (FMT-110)
        raise Refused(f"{path} exists; remove it or choose another name")
    _require_place(path)


def require_file(path: Path | None) -> Path | None:
    """Return a file to be written, which may replace an older one; refuse a folder, or what cannot be written."""
    if path is None:
        return None
    if path.is_dir():
        raise Refused(f"{path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise Refused(f"{path} is no regular file, so that nothing is written to it; name another")
    _require_place(path)
    return path


def _require_place(path: Path) -> None:
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise Refused(f"{folder} is no folder, so that {path} cannot be written; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refused(f"{folder} cannot be written to; choose another place than {path}")


def write_json(path: Path | None, content: Any) -> None:
    """Write content to a JSON file; NaN and infinity, which JSON lacks, are refused."""
    if path is None:
        return
    try:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise Refused(f"{path} is not written: {error}") from None
    write_file(path, text.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file by way of a temporary one, in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
