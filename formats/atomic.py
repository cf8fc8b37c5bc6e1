"""Files and folders that appear under their name complete, or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from formats.errors import DestinationExists


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside path, renamed to it if the block ends well, else removed (FMT-110).

    Every file put into it must have been synced. Folders that lead to path are made, and removed with it. A process
    that is killed leaves a ``.<name>.tmp-*`` folder behind, which may be deleted.

    Raises:
        DestinationExists: FMT-110, before anything is written.
    """
    _refuse_existing(path)
    with _folders_to(path):
        temporary = _beside(path)
        temporary.mkdir()
        try:
            yield temporary
            _sync_folder(temporary)
            _refuse_existing(path)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a name beside path for a file that the block writes and syncs.

    The file replaces path if the block ends well and is removed otherwise (FMT-111); so are folders that lead to it.
    """
    with _folders_to(path):
        temporary = _beside(path)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _refuse_existing(path: Path) -> None:
    # FMT-110: a dangling link counts as being there
    if os.path.lexists(path):
        raise DestinationExists(f"{path} exists; choose another destination or remove it first")


@contextmanager
def _folders_to(path: Path) -> Iterator[None]:
    """Make the folders that lead to path; those made here are removed again if the block fails."""
    made: list[Path] = []
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        made.append(folder)
        folder = folder.parent
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in made:
            _sync_folder(folder.parent)
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # another process may have put something there
                folder.rmdir()
        raise


def _beside(path: Path) -> Path:
    # the same folder, so that renaming never has to copy
    return path.parent / f".{path.name}.tmp-{secrets.token_hex(8)}"


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and renaming needs no sync of it
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
