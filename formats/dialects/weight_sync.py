"""Version folders of slime, miles and SGLang: the changes of a step as compressed differences of bytes (FMT-168).

weight_v000007/model-00000-of-00001.safetensors    q_proj.weight U8 (n,)   one zstd frame
                                                   __metadata__            q_proj.weight: checksum of its new bytes
weight_v000007/model.safetensors.index.json        metadata: version, base_version, encoding, checksum; weight_map
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats import atomic, change, strict_json, validate
from formats.container import BITS, MappedFile, Section, dtype_name, raw_bytes
from formats.dialects.changes import Changes, base_tensor, check_in_base, check_vector, replacement
from formats.dialects.stock import MAX_HEADER, open_stock, outline, write_stock
from formats.errors import CannotHold, FormatError
from formats.index import MAX_INDEX
from formats.lazy import Lazy, like
from formats.records import LIMIT, Checkpoint, Dense, Mask, Sparse, Tensor, to_dense
from formats.regular import read_bounded
from formats.strict_json import JSON

INDEX = "model.safetensors.index.json"
FOLDER = re.compile(r"weight_v(\d{6,})", re.ASCII)
_FILE = re.compile(r"[\w.-]{1,243}\.safetensors", re.ASCII)  # at most 255 bytes, because longer names are OSErrors
ENCODINGS = ("xor", "overwrite")
CHECKSUMS = ("xxh3-128", "blake3", "adler32")
LEVEL = 1
"""The zstd level of slime."""
WRAPS = 1 << 32
"""Bytes of the smallest tensor that is too large for the four-byte offsets of `overwrite`."""
Bytes = NDArray[np.uint8]


def read_weight_sync(path: str | os.PathLike[str], base: Mapping[str, Tensor]) -> Changes:
    """Return the changes of a version folder: new bits, in the dtype of the base.

    A tensor is expanded, applied to the base and compared with its checksum on each access.

    Args:
        path: the folder.
        base: name -> tensor of the version before.

    Raises:
        FormatError: FMT-168 for what is missing, unknown or does not fit, and for a checksum that differs when a
            tensor is accessed; FMT-121 for a malformed file.
    """
    version = open_version(path)
    check_in_base(version.sections, base, "FMT-168")
    metadata: dict[str, JSON] = dict(sorted(version.metadata.items()))
    changes = Lazy(version.sections, lambda name: version.changes(name, base[name]))
    return Changes("replace", changes, {"adapter": "weight-sync", "metadata": metadata})


def apply_weight_sync(base: Checkpoint, paths: Iterable[str | os.PathLike[str]]) -> Checkpoint:
    """Return a base with the changes of version folders, applied one after the other.

    The chain and the headers are verified before this returns. A tensor is made and compared with its checksums on
    each access.

    Args:
        base: the model of the version that the first folder changes.
        paths: the folders in order.

    Raises:
        FormatError: FMT-168, also for a folder that does not start where the one before it ends; others and
            CannotHold as `read_weight_sync`.
    """
    versions: list[Version] = []
    for path in paths:
        version = open_version(path)
        # FMT-168.11
        if versions and _number(version.metadata["base_version"]) != _number(versions[-1].metadata["version"]):
            raise _error(
                f"{path} changes version {version.metadata['base_version']}, and the folder before it ends at version "
                f"{versions[-1].metadata['version']}; give every folder between the two, in order"
            )
        check_in_base(version.sections, base.tensors, "FMT-168")
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
        actual = _checksum(algorithm)(data)
        if actual != promised:
            raise _error(
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
    metadata, weight_map = _index(folder)
    sections: dict[str, tuple[MappedFile, Section, str]] = {}
    for file_name in sorted(set(weight_map.values())):
        if not (folder / file_name).is_file():
            raise _error(f"{folder} lacks {file_name}, which its index names")
        file, stored = open_stock(folder / file_name)
        sums = _checksums(file, file_name)
        mapped = {name for name, of in weight_map.items() if of == file_name}
        # other writers of safetensors add the entry `format`
        summed = set(sums) - ({"format"} - mapped)
        if set(stored) != mapped or summed != mapped:
            wrong = min((set(stored) ^ mapped) | (summed ^ mapped))
            raise _error(f"{wrong!r} is not in the index, the file {file_name} and its checksums alike")
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
) -> None:
    """Write the step from base to target as a version folder; its name states the version, and base is the one before.

    Args:
        path: a new folder named ``weight_v000007``, for instance.
        base: the model before.
        target: the model after; its companions and attributes are left out.
        encoding: ``"xor"``, or ``"overwrite"``, which may be applied twice and takes more bytes.
        checksum: of the new bytes of each tensor: ``"xxh3-128"``, ``"blake3"`` or ``"adler32"``.

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
    digest = _checksum(checksum, "FMT-084")
    # FMT-168.9
    if sorted(base.tensors) != sorted(target.tensors):
        other = min({*base.tensors} ^ {*target.tensors})
        raise CannotHold("FMT-154", f"{other!r} comes or goes, and a version folder changes tensors only")
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


def is_version(folder: Path) -> bool:
    """Return whether the index of a folder states an encoding of differences, which that of a whole model does not."""
    data = read_bounded(folder / INDEX, MAX_INDEX) if (folder / INDEX).is_file() else None
    if data is None:
        return False
    try:
        index = strict_json.parse_any(data, INDEX)
    except FormatError:
        # the reader of the folder as a model reports what is wrong with its index
        return False
    metadata = index.get("metadata") if isinstance(index, dict) else None
    return isinstance(metadata, dict) and "delta_encoding" in metadata


def refuse_version(folder: Path) -> None:
    """Refuse a version folder where a model or a delta of this format is wanted (FMT-168.10)."""
    if is_version(folder):
        raise FormatError(
            "FMT-168",
            f"{folder} holds what a step changed, as slime and SGLang ship it, and no model; make a delta of it: "
            f"seft convert {folder} DELTA --to delta --base MODEL",
        )


def _error(message: str) -> FormatError:
    return FormatError("FMT-168", message)


def _number(digits: str) -> str:
    """Return the digits of a version without zeros in front, because int refuses a text of thousands of digits."""
    return digits.lstrip("0")


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
        raise _error(f"{_unreached(old.size, name)}; ask for xor")
    raw = _expanded(frame, 4, 4 + 5 * old.size, name)
    count = int(raw[:4].view("<u4")[0])
    if raw.size != 4 + 5 * count:
        raise _error(f"{name!r} says that {count} bytes change and has {raw.size} bytes, expected {4 + 5 * count}")
    at = raw[4 : 4 + 4 * count].view("<u4").astype(np.int64)
    if count and (at[-1] >= old.size or not np.all(at[1:] > at[:-1])):
        raise _error(f"{name!r} has offsets that do not rise, or lie outside the {old.size} bytes of its base")
    new = old.copy()
    new[at] = raw[4 + 4 * count :]
    return new


def _expanded(frame: Bytes, least: int, most: int, name: str) -> Bytes:
    """Return the content of a zstd frame, after verifying the size that it states."""
    zstandard = _zstd()
    if frame[:4].tobytes() != zstandard.FRAME_HEADER:
        # because a skippable frame is empty, which would pass for the change of a tensor without elements
        raise _error(f"{name!r} is no zstd frame")
    try:
        size = zstandard.frame_content_size(frame.data)
    except zstandard.ZstdError as error:
        raise _error(f"{name!r} is no zstd frame: {error}") from error
    if not least <= size <= most:
        raise _error(f"{name!r} states {size} bytes behind zstd, expected {least} to {most} for its base")
    expander = zstandard.ZstdDecompressor().decompressobj()
    try:
        raw = expander.decompress(frame.data)
    except zstandard.ZstdError as error:
        raise _error(f"{name!r} cannot be expanded, fetch the folder again: {error}") from error
    if len(raw) != size or not expander.eof or expander.unused_data:
        raise _error(f"{name!r} is not one whole zstd frame of the {size} bytes that it states")
    return np.frombuffer(raw, np.uint8)


# checksums and the index -------------------------------------------------------------------------


def _checksum(algorithm: str, clause: str = "FMT-168") -> Callable[[Bytes], str]:
    """Return the function that makes a checksum, in lower-case hexadecimal."""
    if algorithm == "adler32":
        return lambda data: f"{zlib.adler32(data.data):08x}"
    if algorithm not in CHECKSUMS:
        raise FormatError(clause, f"checksum {algorithm!r:.80} is unknown, expected one of {', '.join(CHECKSUMS)}")
    try:
        if algorithm == "blake3":
            import blake3

            return lambda data: str(blake3.blake3(data.data).hexdigest())
        import xxhash
    except ImportError as missing:
        library = missing.name
        raise FormatError("FMT-084", f"{algorithm} needs {library}; pip install {library}") from missing
    return lambda data: str(xxhash.xxh3_128_hexdigest(data.data))


def _index(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return metadata and weight map of a version folder, after verifying them."""
    if not (folder / INDEX).is_file():
        raise _error(f"{folder} has no {INDEX}")
    data = read_bounded(folder / INDEX, MAX_INDEX)
    if data is None:
        raise _error(f"{INDEX} has more than {MAX_INDEX} bytes")
    try:
        index = strict_json.parse_any(data, INDEX)
    except FormatError as broken:
        raise _error(f"{INDEX} cannot be read: {broken}") from broken
    metadata, weight_map = (index.get(key) if isinstance(index, dict) else None for key in ("metadata", "weight_map"))
    if not isinstance(metadata, dict) or not isinstance(weight_map, dict) or not weight_map:
        raise _error(f"{INDEX} lacks metadata or a weight_map with tensors")
    texts = {key: value for key, value in metadata.items() if isinstance(value, str)}
    number = r"\d{6,}", "six digits or more"
    expected = {
        "version": number,
        "base_version": number,
        "delta_encoding": ("|".join(ENCODINGS), " or ".join(ENCODINGS)),
        "compression_format": ("zstd", "zstd"),
        "checksum_format": ("|".join(CHECKSUMS), ", ".join(CHECKSUMS)),
    }
    for key, (form, words) in expected.items():
        if not re.fullmatch(form, texts.get(key, ""), re.ASCII):
            raise _error(f"{INDEX} has {key} = {metadata.get(key)!r:.80}, expected {words}")
    if (named := FOLDER.fullmatch(folder.name)) and _number(named[1]) != _number(texts["version"]):
        raise _error(f"{folder.name} holds version {texts['version']}")
    files = {}
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or not _FILE.fullmatch(file_name):
            raise _error(f"{INDEX} puts {name!r:.80} into {file_name!r:.80}, expected a safetensors file of the folder")
        files[name] = file_name
    return texts, files


def _checksums(file: MappedFile, file_name: str) -> dict[str, str]:
    header = strict_json.parse_any(file.header(MAX_HEADER), "its header")
    sums = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(sums, dict):
        raise _error(f"{file_name} has no checksums in __metadata__")
    # only a str is a checksum, because a JSON number could be spelled like one
    return {name: value if type(value) is str else "" for name, value in sums.items()}
