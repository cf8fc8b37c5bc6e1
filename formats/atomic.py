"""Files and folders that appear under their name complete, or not at all.

    .model.tmp-0f1e2d3c4b5a6978/      in which a writer of `model` works; the writer locks it as long as it lives
    .model.lock                       locked by a program as long as nobody else may work at `model`

A writer that is killed leaves its folder behind. The next writer of the same name gets the lock of the folder, and
removes it (FMT-166).
"""

import errno
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

# without fcntl there are no locks, so nothing shows that a writer was killed, and its folder stays
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
_LONGEST_NAME = 200
"""The most bytes of a name. File systems allow 255, and files beside it have its name and up to 40 bytes more."""


@contextmanager
def new_folder(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside path; it is renamed to path if the block succeeds, otherwise removed (FMT-110).

    The block must sync every file that it puts there. Missing parents of path are made, and removed again if the block
    fails. First, the folders of killed writers to the same path are removed (FMT-166).

    Args:
        path: the folder to make.
        replaces: replace an existing folder at path, which is put back if the renaming fails.

    Raises:
        DestinationExists: FMT-110 if path exists and `replaces` is false; tested before the block and after it.
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
    """Yield the path of a temporary file, which the block writes and syncs; it is then renamed to path (FMT-111).

    It replaces an older file. If the block fails, it is removed, and so are the parents of path that were made.
    First, the folders of killed writers to the same path are removed (FMT-166).
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
    """Lock a file, and return its handle; the file is created if it does not exist.

    The lock ends when this process, and every process that it forked meanwhile, has closed the handle or ended.

    Raises:
        BlockingIOError: if the file is locked already.
        OSError: if the system or the file system has no locks.
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file `.NAME.lock` beside path while the block runs, and then remove the file.

    Missing parents of path are made, and removed again if the block fails. The file of a killed program stays, and the
    next one locks and removes it. Where nothing can be locked, nothing is.

    Raises:
        BlockingIOError: if another holder has the lock, in this process or another.
    """
    file = path.with_name(f".{path.name}.lock")
    with _folders_to(path):
        handle = _lock_lasting(file)
        try:
            yield
        finally:
            if handle is not None:
                file.unlink(missing_ok=True)  # while it is locked, so that it is the file of nobody else
                os.close(handle)


def _lock_lasting(file: Path) -> int | None:
    """Lock a file that its holder removes, and return its handle; None if it cannot be locked."""
    while True:
        try:
            handle = lock_file(file)
        except BlockingIOError:
            raise
        except OSError:
            return None
        if is_file_of(file, handle):
            return handle
        os.close(handle)  # its holder has removed it meanwhile


def unlock(handle: int) -> None:
    """Release the lock of a handle that `lock_file` returned, also for forked processes that have it open."""
    fcntl.flock(handle, fcntl.LOCK_UN)


def is_file_of(path: Path, handle: int) -> bool:
    """Return whether a path names the file that is open as handle."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def check_file(path: Path) -> None:
    """Verify that a file can be written at path; an older file there may be replaced.

    Raises:
        OSError: if path is no regular file, or lies where nothing can be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file, so that nothing is written to it; name another")
    check_place(path)


def check_place(path: Path) -> None:
    """Verify that the nearest existing parent of a path is a folder in which files can be made.

    Missing parents are no error, because writing makes them.

    Raises:
        OSError: if that parent is no folder or is read-only, or if the name leaves no room for those of new files.
    """
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise OSError(errno.ENAMETOOLONG, f"a name of more than {_LONGEST_NAME} bytes; choose a shorter one", str(path))
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder, so that {path} cannot be written; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written to; choose another place than {path}")


def write_file(path: Path, data: bytes) -> None:
    """Write a file, which appears complete or not at all; an older one is replaced (FMT-111)."""
    with new_file(path) as new:
        write_bytes(new, data)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def refuse_existing(path: str | Path) -> None:
    """Refuse a path that exists, because nothing is ever written into an existing folder.

    Raises:
        DestinationExists: FMT-110.
    """
    # FMT-110: lexists, because a dangling link occupies the name as well
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
    """Yield a new locked folder beside path; it is removed when the block ends, unless it has been renamed."""
    remove_leftovers(path)
    made: list[Path] = []
    handle = None
    try:
        folder, handle = _make_locked(path, made)
        yield folder
    finally:
        for one in made:
            shutil.rmtree(one, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _make_locked(path: Path, made: list[Path]) -> tuple[Path, int | None]:
    """Return a new folder beside path, and the handle of its lock; the handle is None if there are no locks.

    Each folder is added to `made` before it is there, so that the caller removes it whenever an interrupt comes.
    """
    while True:
        # the folder lies beside path, so that renaming it never has to copy
        folder = path.parent / f".{path.name}.tmp-{secrets.token_hex(8)}"
        made.append(folder)
        folder.mkdir()
        # the loop tries again if another writer removes this folder as dead before it is locked
        with suppress(BlockingIOError, FileNotFoundError):
            handle = _lock(folder)
            if handle is None or is_file_of(folder, handle):
                return folder, handle
            os.close(handle)


def _lock(path: Path) -> int | None:
    """Lock a folder, and return its handle; None if the system or the file system has no locks.

    Raises:
        BlockingIOError: if the folder is locked already.
        FileNotFoundError: if the folder does not exist.
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
    """Remove the folder of a writer if its lock is free, which shows that the writer is dead (FMT-166)."""
    # `_lock` raises OSError on a file. Older versions left such files without a lock, so the user has to remove them
    with suppress(OSError):
        handle = _lock(leftover)
        if handle is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(handle)


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder, and need no sync after renaming
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
