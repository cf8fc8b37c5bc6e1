"""Files and folders that appear under their name complete, or not at all.

    .model.tmp-0f1e2d3c4b5a6978/      where a writer of `model` works, beside it; locked as long as the writer lives

A writer that is killed leaves its folder behind. The next writer of the same name gets the lock of the folder, and
removes it (FMT-166).
"""

import importlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from formats.errors import DestinationExists

# without fcntl folders are not locked, and none that is left behind is removed
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None


@contextmanager
def new_folder(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside path, renamed to it if the block ends well, else removed (FMT-110).

    The block must sync every file that it puts there. Missing parents of path are made, and removed again if the block
    fails. First, the folders of killed writers to the same path are removed (FMT-166).

    Args:
        path: the folder to make.
        replaces: replace what is at path, which comes back if anything goes wrong.

    Raises:
        DestinationExists: FMT-110, before anything is written, if path exists and is not to be replaced.
    """
    if not replaces:
        refuse_existing(path)
    with _folders_to(path), _workshop(path) as temporary:
        yield temporary
        _sync_folder(temporary)
        if replaces and os.path.lexists(path):
            with _workshop(path) as aside:
                old = path.rename(aside / "old")
                try:
                    temporary.rename(path)
                except BaseException:
                    old.rename(path)
                    raise
        else:
            refuse_existing(path)
            temporary.rename(path)
        _sync_folder(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file for the block to write and sync; it then becomes path (FMT-111).

    It replaces an older file if the block ends well, and is removed otherwise, with the parents of path that were
    made. First, the folders of killed writers to the same path are removed (FMT-166).
    """
    with _folders_to(path), _workshop(path) as folder:
        yield folder / path.name
        (folder / path.name).replace(path)
        _sync_folder(path.parent)


def leftovers(path: Path) -> list[Path]:
    """Return the temporary entries beside a path, sorted; their writers were killed, or are still writing (FMT-166)."""
    name = re.compile(re.escape(f".{path.name}") + r"\.tmp-[0-9a-f]{16}(\.spool)?")
    with suppress(OSError):
        return sorted(entry for entry in path.absolute().parent.iterdir() if name.fullmatch(entry.name))
    return []


def remove_leftovers(path: Path) -> None:
    """Remove the folders of killed writers to a path, as the next writer to it would (FMT-166)."""
    for leftover in leftovers(path):
        _remove_if_dead(leftover)


def lock_file(path: Path) -> int:
    """Return an open file that holds the lock of a file, which is made if it is not there.

    The lock is free when the file is closed here and in every process that was forked meanwhile, or they end.

    Raises:
        BlockingIOError: if a living process holds it.
        OSError: where there are no locks.
    """
    if fcntl is None:
        raise OSError(f"{path} cannot be locked, because this system has no flock")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def is_file_of(path: Path, handle: int) -> bool:
    """Tell whether a path names the file that is open as handle."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def check_file(path: Path) -> None:
    """Verify that a file can be written, in place of an older one.

    Raises:
        OSError: if it is a folder, or lies where nothing can be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file, so that nothing is written to it; name another")
    check_place(path)


def check_place(path: Path) -> None:
    """Verify that the nearest existing parent of a path is a folder that can be written to; writing makes the others.

    Raises:
        OSError: if it is not.
    """
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder, so that {path} cannot be written; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written to; choose another place than {path}")


def write_file(path: Path, data: bytes) -> None:
    """Write a file under its name at once, in place of an older one (FMT-111)."""
    with new_file(path) as new:
        write_bytes(new, data)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def refuse_existing(path: str | Path) -> None:
    """Refuse a name that is taken; an existing folder is never written into.

    Raises:
        DestinationExists: FMT-110.
    """
    # FMT-110: a dangling link counts as being there
    if os.path.lexists(path):
        raise DestinationExists("FMT-110", f"{path} exists; choose another destination or remove it first")


@contextmanager
def _folders_to(path: Path) -> Iterator[None]:
    """Make the missing parents of path, and remove them again if the block fails."""
    new_folders: list[Path] = []
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        new_folders.append(folder)
        folder = folder.parent
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in new_folders:
            _sync_folder(folder.parent)
        yield
    except BaseException:
        for folder in new_folders:
            with suppress(OSError):  # another process may have put something there
                folder.rmdir()
        raise


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """Yield a new folder beside path, locked; it is removed when the block ends, unless it has been renamed."""
    remove_leftovers(path)
    folder, handle = _make_locked(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _make_locked(path: Path) -> tuple[Path, int | None]:
    """Return a new folder, and the open file that holds its lock; None where there are no locks."""
    while True:
        # in the same folder as path, so that renaming never has to copy
        folder = path.parent / f".{path.name}.tmp-{secrets.token_hex(8)}"
        folder.mkdir()
        # tried again if another writer removes the folder as dead before it is locked
        with suppress(BlockingIOError, FileNotFoundError):
            handle = _lock(folder)
            if handle is None or is_file_of(folder, handle):
                return folder, handle
            os.close(handle)


def _lock(path: Path) -> int | None:
    """Return an open file that holds the lock of a folder; None where there are no locks.

    Raises:
        BlockingIOError: if a living process holds it.
        FileNotFoundError: if the folder is not there.
    """
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def _remove_if_dead(leftover: Path) -> None:
    """Remove what a writer left if its lock is free, which shows that the writer is dead (FMT-166)."""
    # a file comes from a writer without locks; `_lock` fails on it, and it is left to the user
    with suppress(OSError):
        handle = _lock(leftover)
        if handle is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(handle)


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and renaming needs no sync of it
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
