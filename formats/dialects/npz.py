"""Folders of one NPZ file per tensor, with an index; and a reader of NPZ that checks each stated size before use.

    scipy/index.json                       {"lm_head.weight":"lm_head.weight.npz", ...}
    scipy/lm_head.weight.npz               a zip of .npy members

A tied name stands in the index beside the file of the tensor that it is tied to.
"""

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from formats import atomic, strict_json, validate
from formats.dialects.checks import require_plain
from formats.errors import CannotHold, FormatError
from formats.index import MAX_INDEX
from formats.records import Array, Checkpoint, Tensor
from formats.regular import open_regular, read_bounded

INDEX = "index.json"
SUFFIX = ".npz"
MAX_FILE_NAME = 255
MAX_HEADER = 10_000
"""Most bytes of the header of a .npy, which is one line with a shape and a dtype."""

MAX_DEFLATE = 1032
"""Most bytes that one compressed byte of DEFLATE can expand to: 258 for each two bits."""


def file_name(name: str) -> str:
    """Return the file of a tensor: its name with everything but letters, digits and ``_.-~`` percent-encoded.

    Raises:
        CannotHold: FMT-154 for a name whose file name is longer than file systems take.
    """
    file = quote(name, safe="") + SUFFIX
    if len(file) > MAX_FILE_NAME:
        raise CannotHold(
            "FMT-154", f"tensor name {name[:40]!r}... makes a file name of {len(file)} bytes, at most 255 are allowed"
        )
    return file


def write_folder(
    folder: Path, checkpoint: Checkpoint, target: str, arrays_of: Callable[[Tensor, str], Mapping[str, Any]]
) -> None:
    """Write a new folder of NPZ files, one tensor in memory at a time.

    Args:
        folder: the folder to make.
        checkpoint: a model without attributes and companions.
        target: the format's name in messages.
        arrays_of: (tensor, name) -> its arrays by member name, of dtypes that NumPy itself has.

    Raises:
        FormatError: FMT-110 if the folder is there, FMT-154 for what the format cannot hold; nothing is left behind.
    """
    require_plain(checkpoint, target)
    index: dict[str, strict_json.JSON] = {}
    owners: dict[str, str] = {}
    for name in sorted(checkpoint.tensors):
        index[name] = file_name(name)
        other = owners.setdefault(file_name(name).lower(), name)
        if other != name:
            raise CannotHold(
                "FMT-154", f"tensors {other!r} and {name!r} make one file where case does not count; rename one"
            )
    index.update({alias: index[target_name] for alias, target_name in checkpoint.tied.items()})
    with atomic.new_folder(folder) as temporary:
        for name in sorted(checkpoint.tensors):
            arrays = arrays_of(checkpoint.tensors[name], name)
            with (temporary / file_name(name)).open("xb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
        atomic.write_bytes(temporary / INDEX, strict_json.canonical(index).encode())


def read_folder(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files of the stored tensors by name, and the tied names.

    Raises:
        FormatError: FMT-153 if the index is missing or malformed, or names other files than are there.
    """
    if not (folder / INDEX).is_file():
        raise FormatError("FMT-153", f"{folder.name} has no {INDEX}, expected name to file")
    data = read_bounded(folder / INDEX, MAX_INDEX)
    if data is None:
        raise FormatError("FMT-153", f"{INDEX} of {folder.name} has more than {MAX_INDEX} bytes")
    try:
        entries = strict_json.parse_any(data, "the text")
        for name in entries if isinstance(entries, dict) else ():
            validate.check_name(name)
    except FormatError as error:
        raise FormatError("FMT-153", f"{INDEX} of {folder.name} cannot be read: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(file, str) for file in entries.values()):
        raise FormatError("FMT-153", f"{INDEX} of {folder.name} is no object of file names by tensor name")
    index = {name: str(file) for name, file in entries.items()}
    # only the file name that follows from a tensor name is accepted, because it never leads out of the folder
    owners = {file: name for name, file in index.items() if file == quote(name, safe="") + SUFFIX}
    lost = sorted(name for name, file in index.items() if file not in owners)
    if lost:
        raise FormatError(
            "FMT-153", f"{INDEX} of {folder.name} puts {lost[0]!r} into {index[lost[0]]!r:.80}, no tensor's file"
        )
    files = {path.name for path in folder.iterdir() if path.name.endswith(SUFFIX)}
    if wrong := sorted(files ^ set(owners)):
        says = "has a file that its index does not name" if wrong[0] in files else "lacks a file that its index names"
        raise FormatError("FMT-153", f"{folder.name} {says}: {wrong[0]!r}")
    tied = {name: owners[file] for name, file in index.items() if owners[file] != name}
    return {name: folder / file for file, name in owners.items()}, tied


def read_npz(path: Path, *, limit: int, used: int = 0) -> dict[str, Array]:
    """Return the arrays of an NPZ file by member name, read only.

    Args:
        path: a zip of .npy members, stored or deflated.
        limit: bytes that all members may take together.
        used: bytes of that limit that earlier files have used.

    Raises:
        FormatError: FMT-153 for a member that is no plain array, or whose size differs from its stated size.
        ExpansionTooLarge: FMT-098, before anything is inflated.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_members(members, path, limit, used)
                return {
                    info.filename.removesuffix(".npy"): _array(archive, info, f"{info.filename!r} of {path.name}")
                    for info in members
                }
        except (FormatError, MemoryError):
            raise
        # every error is caught: zipfile, zlib and NumPy raise a dozen kinds of errors over damaged bytes. The text of
        # NumPy is not shown, because it advises to switch its protection off
        except Exception as error:
            raise FormatError(
                "FMT-153", f"{path.name} is no NPZ file that can be read: it is damaged, or no zip"
            ) from error


def _check_members(members: list[zipfile.ZipInfo], path: Path, limit: int, used: int) -> None:
    size = path.stat().st_size
    names = [info.filename for info in members]
    if len(set(names)) != len(names):
        raise FormatError("FMT-153", f"{path.name} holds a member twice")
    # FMT-098
    validate.check_limit(used + sum(info.file_size for info in members), limit, f"what leads up to {path.name}")
    for info in members:
        most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: MAX_DEFLATE}.get(info.compress_type, 0)
        if not info.filename.endswith(".npy") or info.flag_bits & 1 or not most:
            raise FormatError(
                "FMT-153", f"member {info.filename!r} of {path.name} is no .npy, stored or deflated and unencrypted"
            )
        # FMT-096
        if info.compress_size > size or info.file_size > most * info.compress_size:
            raise FormatError(
                "FMT-153",
                f"member {info.filename!r} of {path.name} states {info.file_size} bytes from {info.compress_size}, "
                f"more than its {size} bytes can hold",
            )


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, what: str) -> Array:
    """Return the array of a member, a .npy file, whose header is a Python literal of shape and dtype."""
    with archive.open(info) as member:
        # FMT-096: read() would inflate the whole member, and only then compare it with the size that it states
        data = member.read(info.file_size + 1)
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    width = {(1, 0): 2, (2, 0): 4}.get(version, 0)
    length = int.from_bytes(data[stream.tell() : stream.tell() + width], "little")
    if length > MAX_HEADER:
        raise FormatError("FMT-153", f"{what} has a header of {length} bytes, at most {MAX_HEADER} are allowed")
    if version == (1, 0):
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, by_column, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise FormatError("FMT-153", f"{what} has version {version}, expected 1.0 or 2.0")
    # objects are refused, because reading them would run a pickle
    if dtype.hasobject or dtype.names or dtype.subdtype or not dtype.itemsize:
        raise FormatError("FMT-153", f"{what} holds {dtype}, expected numbers or text")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise FormatError(
            "FMT-153", f"{what} holds {len(data) - stream.tell()} bytes, its header says {dtype} of {list(shape)}"
        )
    return np.frombuffer(data, dtype=dtype, offset=stream.tell()).reshape(shape, order="F" if by_column else "C")
