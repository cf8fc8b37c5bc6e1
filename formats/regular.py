"""Opens files that others wrote: regular files only, read up to a limit (FMT-165)."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from formats.errors import FormatError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# O_NONBLOCK is set, because opening a pipe without a writer would wait for ever
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> BinaryIO:
    """Return a regular file opened for reading.

    Raises:
        FormatError: FMT-165, before a byte of it is read.
        OSError: if path is not there or cannot be read.
    """
    # the kind is checked before opening, because opening a device may make it act
    _check(path, path.stat().st_mode)
    handle = os.open(path, _FLAGS)
    try:
        # the kind is checked again, because the name may stand for another file by now
        _check(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bounded(path: Path, most: int) -> bytes | None:
    """Return the bytes of a regular file; None, without reading it, if it has more than most.

    Raises:
        FormatError: FMT-165.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # FMT-096: read(most) would reserve most bytes before it reads, however small the file is
        return file.read(size) if size <= most else None


def kind_of(mode: int) -> str:
    """Return the kind of file that a mode of `os.stat` describes, such as ``"a pipe"``; empty for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    return next((kind for holds, kind in _KINDS if holds(mode)), "no regular file")


def _check(path: Path, mode: int) -> None:
    if kind := kind_of(mode):
        raise FormatError("FMT-165", f"{path} is {kind}, expected a regular file; copy what it holds into one")
