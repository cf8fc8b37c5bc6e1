"""The index of a version folder, and the checksums that it names (FMT-168).

The module is apart from `weight_sync`, because readers of other folders ask whether a folder is one of a version.
"""

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from formats import strict_json
from formats.errors import FormatError
from formats.index import MAX_INDEX
from formats.regular import read_bounded

INDEX = "model.safetensors.index.json"
FOLDER = re.compile(r"weight_v(\d{6,})", re.ASCII)
_FILE = re.compile(r"[\w.-]{1,243}\.safetensors", re.ASCII)  # at most 255 bytes, because longer names are OSErrors
ENCODINGS = ("xor", "overwrite")
CHECKSUMS = ("xxh3-128", "blake3", "adler32")
Bytes: TypeAlias = NDArray[np.uint8]


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
            f"{folder} holds what a step changed, as slime and SGLang ship it, and no model; make one: "
            f"seft apply BASE {folder} OUT",
        )


def broken(message: str) -> FormatError:
    """Return the error of a version folder that breaks FMT-168."""
    return FormatError("FMT-168", message)


def digits_of(digits: str) -> str:
    """Return the digits of a version without zeros in front, because int refuses a text of thousands of digits."""
    return digits.lstrip("0")


def checksum_of(algorithm: str, clause: str = "FMT-168") -> Callable[[Bytes], str]:
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


def read_index(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return metadata and weight map of a version folder, after verifying them."""
    if not (folder / INDEX).is_file():
        raise broken(f"{folder} has no {INDEX}")
    data = read_bounded(folder / INDEX, MAX_INDEX)
    if data is None:
        raise broken(f"{INDEX} has more than {MAX_INDEX} bytes")
    try:
        index = strict_json.parse_any(data, INDEX)
    except FormatError as error:
        raise broken(f"{INDEX} cannot be read: {error}") from error
    metadata, weight_map = (index.get(key) if isinstance(index, dict) else None for key in ("metadata", "weight_map"))
    if not isinstance(metadata, dict) or not isinstance(weight_map, dict) or not weight_map:
        raise broken(f"{INDEX} lacks metadata or a weight_map with tensors")
    texts = {key: value for key, value in metadata.items() if isinstance(value, str)}
    digits = r"\d{6,}", "six digits or more"
    expected = {
        "version": digits,
        "base_version": digits,
        "delta_encoding": ("|".join(ENCODINGS), " or ".join(ENCODINGS)),
        "compression_format": ("zstd", "zstd"),
        "checksum_format": ("|".join(CHECKSUMS), ", ".join(CHECKSUMS)),
    }
    for key, (form, words) in expected.items():
        if not re.fullmatch(form, texts.get(key, ""), re.ASCII):
            raise broken(f"{INDEX} has {key} = {metadata.get(key)!r:.80}, expected {words}")
    if (named := FOLDER.fullmatch(folder.name)) and digits_of(named[1]) != digits_of(texts["version"]):
        raise broken(f"{folder.name} holds version {texts['version']}")
    files = {}
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or not _FILE.fullmatch(file_name):
            raise broken(f"{INDEX} puts {name!r:.80} into {file_name!r:.80}, expected a safetensors file of the folder")
        files[name] = file_name
    return texts, files
