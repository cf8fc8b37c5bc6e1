"""What command lines write: places are looked at before any work is done, files appear whole or not at all.

Folders that lead to an output are made when it is written.
"""

import json
import os
from pathlib import Path
from typing import Any

from formats.atomic import check_file, check_place
from formats.atomic import write_file as write_file


class Refused(Exception):
    """Input that a command line refuses for a reason of its own."""


def require_absent(path: Path) -> None:
    """Refuse an output that exists, or that cannot be written."""
    if os.path.lexists(path):  # a dangling link counts as being there, as it does to writers (FMT-110)
        raise Refused(f"{path} exists; remove it or choose another name")
    check_place(path)


def require_file(path: Path | None) -> Path | None:
    """Return a file to be written, which may replace an older one; refuse a folder, or what cannot be written."""
    if path is not None:
        check_file(path)
    return path


def write_json(path: Path | None, content: Any) -> None:
    """Write content to a JSON file; NaN and infinity, which JSON lacks, are refused."""
    if path is None:
        return
    try:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise Refused(f"{path} is not written: {error}") from None
    write_file(path, text.encode())
