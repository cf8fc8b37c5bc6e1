"""The folder through which the kit and a port pass large arrays to each other (PRT-014).

The kit makes the folder, names it in its hello, and is the only one to delete it. The kit does not trust the files of a
port: a name may be a link, a pipe or a device, and a file may be longer, or shorter, than the port says.
"""

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["MOST", "Folder", "Read", "Write", "read_any"]

MOST = 1 << 28
"""The most bytes that the arrays of one answer may have in files, all together."""
_CHUNK = 1 << 20

Read = Callable[[str, int, int], bytes]
"""Takes path, offset and number of bytes, returns the bytes; raises OSError or ValueError if it cannot."""

Write = Callable[[bytes], str]
"""Takes bytes, returns the path of a file that has them."""


class Folder:
    """A temporary folder that is accessed through its descriptor, so that a port cannot redirect the kit by a link.

    Attributes:
        path: path of the folder when it was made.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="seft-port-"))
        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write(self, raw: bytes) -> str:
        """Write a file and return its path."""
        name = f"{hashlib.sha256(raw).hexdigest()[:32]}.bin"
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)
        # O_EXCL, so that the kit never writes into a link or a pipe that a port has made under this name
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        with os.fdopen(fd, "wb") as file:
            file.write(raw)
        return str(self.path / name)

    def reader(self, deadline: float) -> Read:
        """Return a function that reads the files of one answer, until `time.monotonic()` passes the deadline.

        The function raises:
            ValueError: the path is not in this folder or is no regular file, the file is too short, or the files of the
                answer have more than `MOST` bytes.
            TimeoutError: the deadline has passed.
            OSError: the file cannot be opened.
        """
        room = MOST

        def read(path: str, offset: int, nbytes: int) -> bytes:
            nonlocal room
            room -= nbytes
            if room < 0:
                msg = f"its files have more than {MOST} bytes"
                raise ValueError(msg)
            return self._read(path, offset, nbytes, deadline)

        return read

    def _read(self, path: str, offset: int, nbytes: int, deadline: float) -> bytes:
        folder, _, name = path.rpartition("/")
        if folder != str(self.path) or name in ("", ".", "..") or "\0" in name:
            msg = f"the path is to be {self.path}/NAME, a file in the folder that the hello names (PRT-014)"
            raise ValueError(msg)
        # without O_NONBLOCK the open of a pipe would wait for a writer
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                msg = f"{name} is no regular file (PRT-014)"
                raise ValueError(msg)
            if offset + nbytes > status.st_size:
                msg = f"{name} has {status.st_size} bytes, not {offset} + {nbytes}"
                raise ValueError(msg)
            return _bytes_of(fd, name, offset, nbytes, deadline)
        finally:
            os.close(fd)

    def clear(self) -> None:
        """Delete everything in the folder; a link is deleted, and not its target."""
        with os.scandir(self._fd) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.name, ignore_errors=True, dir_fd=self._fd)
                else:
                    with suppress(OSError):
                        os.unlink(entry.name, dir_fd=self._fd)

    def remove(self) -> None:
        """Delete the folder with everything in it; later calls do nothing."""
        if self._fd < 0:
            return
        self.clear()
        os.close(self._fd)
        self._fd = -1
        # rmdir deletes only an empty folder, because a port may have put something else in its place
        with suppress(OSError):
            self.path.rmdir()


def _bytes_of(fd: int, name: str, offset: int, nbytes: int, deadline: float) -> bytes:
    whole = bytearray()
    while len(whole) < nbytes:
        if time.monotonic() > deadline:
            msg = f"{name} was not read in time"
            raise TimeoutError(msg)
        chunk = os.pread(fd, min(_CHUNK, nbytes - len(whole)), offset + len(whole))
        if not chunk:
            msg = f"{name} got shorter while it was read"
            raise ValueError(msg)
        whole += chunk
    return bytes(whole)


def read_any(path: str, offset: int, nbytes: int) -> bytes:
    """Return bytes of any file, because a port trusts the paths of the kit that started it."""
    with Path(path).open("rb") as file:
        file.seek(offset)
        return file.read(nbytes)
