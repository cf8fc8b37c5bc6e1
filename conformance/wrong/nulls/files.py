"""Null ports that answer with files that the protocol forbids (PRT-014); only the port `files` is right."""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["MODES", "OFFERED", "in_files"]

Place = Callable[[Path, bytes], dict[str, Any]]
"""Writes the bytes of an array somewhere below a folder, and returns the path, offset and size for the answer."""


def _told(path: Path | str, raw: bytes, offset: int = 0) -> dict[str, Any]:
    return {"path": str(path), "offset": offset, "nbytes": len(raw)}


def _right(folder: Path, raw: bytes) -> dict[str, Any]:
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    path.write_bytes(b"before" + raw)
    return _told(path, raw, 6)


def _fifo(folder: Path, raw: bytes) -> dict[str, Any]:
    path = folder / "fifo"
    if not path.exists():
        os.mkfifo(path)
    return _told(path, raw)


def _link(folder: Path, raw: bytes) -> dict[str, Any]:
    path = folder / "link"
    if not path.is_symlink():
        path.symlink_to(Path(__file__))
    return _told(path, raw)


def _outside(folder: Path, raw: bytes) -> dict[str, Any]:
    path = folder.with_name(f"{folder.name}.null")
    path.write_bytes(raw)
    return _told(path, raw)


def _device(_: Path, raw: bytes) -> dict[str, Any]:
    return _told("/dev/zero", raw)


def _sparse(folder: Path, _: bytes) -> dict[str, Any]:
    path = folder / "sparse"
    path.touch()
    os.truncate(path, 1 << 40)
    return {"path": str(path), "offset": 0, "nbytes": 1 << 40}


def _beyond(folder: Path, raw: bytes) -> dict[str, Any]:
    path = folder / "short"
    path.write_bytes(raw)
    return _told(path, raw, 1)


MODES: dict[str, Place] = {
    "files": _right,
    "files-not-offered": _right,
    "fifo-not-offered": _fifo,
    "fifo": _fifo,
    "link-out": _link,
    "file-outside": _outside,
    "device": _device,
    "sparse-file": _sparse,
    "beyond-the-file": _beyond,
}
"""Null port -> function that writes an array."""
OFFERED = frozenset(mode for mode in MODES if not mode.endswith("-not-offered"))
"""The ports that say in their hello that they use files."""


def in_files(value: Any, folder: Path, place: Place) -> Any:
    """Return an answer in which arrays are replaced by references to files written by `place`."""
    if isinstance(value, dict) and "b64" in value:
        rest = {key: one for key, one in value.items() if key != "b64"}
        reference = place(folder, base64.b64decode(value["b64"]))
        # the shape follows the size of the sparse file, so that only its size is at fault
        return rest | ({"shape": [reference["nbytes"]], "dtype": "u8"} if place is _sparse else {}) | reference
    if isinstance(value, dict):
        return {key: in_files(one, folder, place) for key, one in value.items()}
    return [in_files(one, folder, place) for one in value] if isinstance(value, list) else value
