"""Files and folders of the kit that appear under their name complete, or not at all."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

__all__ = ["check_file", "check_place", "write_file", "write_folder"]


def check_file(path: Path) -> None:
    """Verify that a file can be written, in place of an older one.

    Raises:
        OSError: it is a folder, or lies where nothing can be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    check_place(path)


def check_place(path: Path) -> None:
    """Verify that what leads to a path is a folder that can be written to; what is missing of it is made by writing.

    Raises:
        OSError: it is not.
    """
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder, so that {path} cannot be written; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written to; choose another place than {path}")


def write_file(path: Path, data: bytes) -> None:
    """Write a file, in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(path, "new")
    try:
        _write(new, data)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files, in place of a folder that is there; that one comes back if anything goes wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = _beside(path, "new"), None
    new.mkdir()
    try:
        for name, data in files.items():
            _write(new / name, data)
        if os.path.lexists(path):
            old = path.rename(_beside(path, "old"))
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old is not None:
            old.rename(path)
        raise
    if old is not None:
        shutil.rmtree(old)


def _beside(path: Path, kind: str) -> Path:
    """Return a name in the same folder that nothing has, so that renaming never has to copy."""
    return path.parent / f".{path.name}.{kind}-{secrets.token_hex(8)}"


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
