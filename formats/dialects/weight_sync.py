"""Version folders of slime, miles and SGLang: the changes of a step as compressed differences of bytes (FMT-168).

weight_v000007/model-00000-of-00001.safetensors    q_proj.weight U8 (n,)   one zstd frame
                                                   __metadata__            q_proj.weight: checksum of its new bytes
weight_v000007/model.safetensors.index.json        metadata: version, base_version, encoding, checksum; weight_map
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats import atomic, change, compress, strict_json, validate
from formats.container import BITS, MappedFile, Section, dtype_name, raw_bytes
from formats.dialects.changes import Changes, base_tensor, check_in_base, check_vector, replacement
from formats.dialects.stock import MAX_HEADER, open_stock, outline, write_stock
from formats.dialects.version_index import (
    ENCODINGS,
    FOLDER,
    INDEX,
    Bytes,
    broken,
    checksum_of,
    digits_of,
    read_index,
)
from formats.errors import CannotHold, FormatError
from formats.lazy import Lazy, like
from formats.records import LIMIT, Checkpoint, Dense, Mask, Sparse, Tensor, to_dense
from formats.strict_json import JSON

LEVEL = 1
"""The zstd level of slime."""
WRAPS = 1 << 32
"""Bytes of the smallest tensor that is too large for the four-byte offsets of `overwrite`."""


def read_weight_sync(path: str | os.PathLike[str], base: Mapping[str, Tensor], *, limit: int | None = None) -> Changes:
    """Return the changes of a version folder: new bits, in the dtype of the base.

    A tensor is expanded, applied to the base and compared with its checksum on each access.

    Args:
        path: the folder.
        base: name -> tensor of the version before.
        limit: bytes that the tensors of the base that change may take together once expanded (FMT-098); None bounds
            each of them.

    Raises:
        FormatError: FMT-168 for what is missing, unknown or does not fit, and for a checksum that differs when a
            tensor is accessed; FMT-121 for a malformed file.
        ExpansionTooLarge: FMT-098.
    """
    version = open_version(path)
    check_in_base(version.sections, base, "FMT-168")
    _check_expansion(base, version.sections, limit, path)
    metadata: dict[str, JSON] = dict(sorted(version.metadata.items()))
    changes = Lazy(version.sections, lambda name: version.changes(name, base[name]))
    return Changes("replace", changes, {"adapter": "weight-sync", "metadata": metadata})


def apply_weight_sync(
    base: Checkpoint, paths: Iterable[str | os.PathLike[str]], *, limit: int | None = None
) -> Checkpoint:
    """Return a base with the changes of version folders, applied one after the other.

    The chain and the headers are verified before this returns. A tensor is made and compared with its checksums on
    each access.

    Args:
        base: the model of the version that the first folder changes.
        paths: the folders in order.
        limit: as for `read_weight_sync`.

    Raises:
        FormatError: FMT-168, also for a folder that does not start where the one before it ends; others and
            CannotHold as `read_weight_sync`.
    """
    versions: list[Version] = []
    for path in paths:
        version = open_version(path)
        # FMT-168.11
        if versions and digits_of(version.metadata["base_version"]) != digits_of(versions[-1].metadata["version"]):
            raise broken(
                f"{path} changes version {version.metadata['base_version']}, and the folder before it ends at version "
                f"{versions[-1].metadata['version']}; give every folder between the two, in order"
            )
        check_in_base(version.sections, base.tensors, "FMT-168")
        _check_expansion(base.tensors, version.sections, limit, path)
        versions.append(version)

    def make(name: str) -> Tensor:
        tensor = base.tensors[name]
        for version in versions:
            if name in version.sections:
                new = version.changes(name, tensor)
                tensor = new if isinstance(new, Dense) else change.apply(tensor, {"replace": new}, name)
        return tensor

    return replace(base, tensors=Lazy(base.tensors, make, lambda name: like(base.tensors, name)))


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """An opened version folder: the content of its index and its headers; no frame is expanded."""

    metadata: dict[str, str]
    """Entries of the index: version, base_version, delta_encoding, compression_format, checksum_format."""
    sections: dict[str, tuple[MappedFile, Section, str]]
    """Name of a changed tensor -> its file, its zstd frame there, and the checksum of its new bytes."""

    def changes(self, name: str, old: Tensor) -> Sparse | Dense:
        """Return the changes of a tensor, positions and new bits, or a new scalar, after comparing its checksum.

        Raises:
            FormatError, CannotHold: as `read_weight_sync`.
        """
        before = base_tensor({name: old}, name, "FMT-168", scalars=True)
        if BITS[dtype_name(before.dtype)] < 8:
            raise CannotHold("FMT-154", f"{name!r} has values of less than a byte, which change by bytes here")
        file, section, promised = self.sections[name]
        values = to_dense(before, limit=LIMIT)
        data = _applied(_bytes_of(values), file.array(section), self.metadata["delta_encoding"], name)
        algorithm = self.metadata["checksum_format"]
        actual = checksum_of(algorithm)(data)
        if actual != promised:
            raise broken(
                f"{name!r} becomes bytes of {algorithm} {actual}, the folder promises {promised}; give the model of "
                f"version {self.metadata['base_version']} as the base, and if it is that, fetch the folder again"
            )
        new = data.view(before.dtype)
        validate.check_bool(new, name)
        return replacement(before, values.reshape(-1), new)


def open_version(path: str | os.PathLike[str]) -> Version:
    """Return an opened version folder, after verifying its index and its headers against each other.

    Raises:
        FormatError: FMT-168; FMT-121 for a malformed file.
    """
    folder = Path(path)
    metadata, weight_map = read_index(folder)
    sections: dict[str, tuple[MappedFile, Section, str]] = {}
    for file_name in sorted(set(weight_map.values())):
        if not (folder / file_name).is_file():
            raise broken(f"{folder} lacks {file_name}, which its index names")
        file, stored = open_stock(folder / file_name, any_metadata=True)  # FMT-168.5 refuses what is no checksum
        sums = _checksums(file, file_name)
        mapped = {name for name, of in weight_map.items() if of == file_name}
        # other writers of safetensors add the entry `format`
        summed = set(sums) - ({"format"} - mapped)
        if set(stored) != mapped or summed != mapped:
            wrong = min((set(stored) ^ mapped) | (summed ^ mapped))
            raise broken(f"{wrong!r} is not in the index, the file {file_name} and its checksums alike")
        for name, section in stored.items():
            check_vector(section, frozenset({"U8"}), "FMT-168")
            sections[name] = file, section, sums[name]
    return Version(metadata, sections)


def write_weight_sync(
    path: str | os.PathLike[str],
    base: Checkpoint,
    target: Checkpoint,
    *,
    encoding: str = "xor",
    checksum: str = "xxh3-128",
    limit: int | None = None,
) -> None:
    """Write the step from base to target as a version folder; its name states the version, and base is the one before.

    Args:
        path: a new folder named ``weight_v000007``, for instance.
        base: the model before.
        target: the model after; its companions and attributes are left out.
        encoding: ``"xor"``, or ``"overwrite"``, which may be applied twice and takes more bytes.
        checksum: of the new bytes of each tensor: ``"xxh3-128"``, ``"blake3"`` or ``"adler32"``.
        limit: bytes that the tensors of base, and those of target, may take together once expanded (FMT-098); None
            bounds each of them.

    Raises:
        CannotHold: FMT-154 if a tensor comes, goes, is a mask or changes its dtype or shape, and for a tensor of 4 GiB
            or more with `overwrite`.
        FormatError: FMT-084 for another name, encoding or checksum, and if nothing changes; FMT-110 if path exists.
    """
    named = FOLDER.fullmatch(Path(path).name)
    if named is None or int(named[1]) < 1:
        raise FormatError("FMT-084", f"{path} is not named weight_v and a version of six digits or more from 000001")
    if encoding not in ENCODINGS:
        raise FormatError("FMT-084", f"encoding {encoding!r} does not exist, expected {' or '.join(ENCODINGS)}")
    digest = checksum_of(checksum, "FMT-084")
    # FMT-168.9
    if sorted(base.tensors) != sorted(target.tensors):
        other = min({*base.tensors} ^ {*target.tensors})
        raise CannotHold("FMT-154", f"{other!r} comes or goes, and a version folder changes tensors only")
    for end in (base, target):
        _check_expansion(end.tensors, end.tensors, limit, path)
    frames: dict[str, Bytes] = {}
    sums: dict[str, str] = {}
    for name in sorted(target.tensors):
        old, new = (_whole(end.tensors[name], name) for end in (base, target))
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            raise CannotHold("FMT-154", f"{name!r} changes its dtype or shape, and a version folder changes bits only")
        difference = _difference(_bytes_of(old), _bytes_of(new), encoding, name)
        if difference is not None:
            frames[name] = np.frombuffer(_zstd().ZstdCompressor(level=LEVEL).compress(difference.data), np.uint8)
            sums[name] = digest(_bytes_of(new))
    if not frames:
        raise FormatError("FMT-084", "base and target are the same model; there is nothing to write")
    file_name = "model-00000-of-00001.safetensors"
    metadata = {
        "version": named[1],
        "base_version": f"{int(named[1]) - 1:06d}",
        "delta_encoding": encoding,
        "compression_format": "zstd",
        "checksum_format": checksum,
    }
    index = {"metadata": metadata, "weight_map": dict.fromkeys(frames, file_name)}
    with atomic.new_folder(Path(path)) as folder:
        outlines = [outline(name, "U8", frame.shape) for name, frame in frames.items()]
        write_stock(folder / file_name, outlines, frames.__getitem__, sums)
        atomic.write_bytes(folder / INDEX, json.dumps(index).encode())


def _check_expansion(
    base: Mapping[str, Tensor], names: Iterable[str], limit: int | None, path: str | os.PathLike[str]
) -> None:
    """Verify that tensors stay within the limit of a run (FMT-098), because their bytes are compared as dense ones."""
    outlines = (like(base, name) for name in names)
    nbytes = sum(prod(one.shape) * one.dtype.itemsize for one in outlines if not isinstance(one, Mask))
    validate.check_limit(nbytes, limit, f"the model that {path} changes")


def _zstd() -> Any:
    import zstandard

    return zstandard


def _whole(tensor: Tensor, name: str) -> NDArray[Any]:
    if isinstance(tensor, Mask):
        raise CannotHold("FMT-154", f"{name!r} is a mask, which a version folder cannot hold")
    if BITS[dtype_name(tensor.dtype)] < 8:
        raise CannotHold("FMT-154", f"{name!r} has values of less than a byte, which change by bytes here")
    return tensor.values if isinstance(tensor, Dense) else to_dense(tensor, limit=LIMIT)


def _bytes_of(values: NDArray[Any]) -> Bytes:
    return np.frombuffer(raw_bytes(values), np.uint8)


# differences -------------------------------------------------------------------------------------


def _difference(old: Bytes, new: Bytes, encoding: str, name: str) -> Bytes | None:
    """Return the bytes to compress, None if nothing changes."""
    difference = old ^ new
    at = np.flatnonzero(difference)
    if not at.size:
        return None
    if encoding == "xor":
        return difference
    # FMT-168.7
    if new.size >= WRAPS:
        raise CannotHold("FMT-154", f"{_unreached(new.size, name)}; use xor")
    return np.concatenate([_u4(np.array([at.size])), _u4(at), new[at]])


def _u4(numbers: NDArray[Any]) -> Bytes:
    return np.frombuffer(numbers.astype("<u4").tobytes(), np.uint8)


def _unreached(nbytes: int, name: str) -> str:
    return f"{name!r} has {nbytes} bytes, offsets of overwrite end below {WRAPS}"


def _applied(old: Bytes, frame: Bytes, encoding: str, name: str) -> Bytes:
    """Return the old bytes with the differences of a frame applied."""
    if encoding == "xor":
        return old ^ _expanded(frame, old.size, old.size, name)
    # FMT-168.7: refused, because a writer without this check has wrapped offsets
    if old.size >= WRAPS:
        raise broken(f"{_unreached(old.size, name)}; ask for xor")
    raw = _expanded(frame, 4, 4 + 5 * old.size, name)
    count = int(raw[:4].view("<u4")[0])
    if raw.size != 4 + 5 * count:
        raise broken(f"{name!r} says that {count} bytes change and has {raw.size} bytes, expected {4 + 5 * count}")
    at = raw[4 : 4 + 4 * count].view("<u4").astype(np.int64)
    if count and (at[-1] >= old.size or not np.all(at[1:] > at[:-1])):
        raise broken(f"{name!r} has offsets that do not rise, or lie outside the {old.size} bytes of its base")
    new = old.copy()
    new[at] = raw[4 + 4 * count :]
    return new


def _expanded(frame: Bytes, least: int, most: int, name: str) -> Bytes:
    """Return the content of a zstd frame, after verifying the size that it states."""
    zstandard = _zstd()
    if frame[:4].tobytes() != zstandard.FRAME_HEADER:
        # because a skippable frame is empty, which would pass for the change of a tensor without elements
        raise broken(f"{name!r} is no zstd frame")
    try:
        size = zstandard.frame_content_size(frame.data)
    except zstandard.ZstdError as error:
        raise broken(f"{name!r} is no zstd frame: {error}") from error
    if not least <= size <= most:
        raise broken(f"{name!r} states {size} bytes behind zstd, expected {least} to {most} for its base")
    try:
        return np.frombuffer(compress.expand(frame, size), np.uint8)
    except zstandard.ZstdError as error:
        raise broken(
            f"{name!r} is not one whole zstd frame of the {size} bytes that it states, fetch the folder again: {error}"
        ) from error


def _checksums(file: MappedFile, file_name: str) -> dict[str, str]:
    header = strict_json.parse_any(file.header(MAX_HEADER), "its header")
    sums = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(sums, dict):
        raise broken(f"{file_name} has no checksums in __metadata__")
    # only a str is a checksum, because a JSON number could be spelled like one
    return {name: value if type(value) is str else "" for name, value in sums.items()}
