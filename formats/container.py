"""The bytes of a safetensors file: length, JSON header, sections.

    | n: u64 | header: n bytes of JSON | section | pad | section | pad | ... |

This module knows dtypes, sections and bounds, and nothing of sparse tensors.
"""

import mmap
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

import ml_dtypes
import numpy as np

from formats.errors import BadSectionEntry, FileTooShort, HeaderTooLong, UnknownDtype
from formats.records import Array, DType
from formats.strict_json import JSON, canonical

if sys.byteorder != "little":
    raise ImportError("formats maps little-endian files into memory and needs a little-endian machine")

ALIGN = 64
LENGTH = struct.Struct("<Q")

# FMT-006
DTYPES: dict[str, DType] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
NAMES: dict[DType, str] = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = frozenset(name for name in DTYPES if name.startswith(("F", "BF")))


def dtype_name(dtype: DType) -> str:
    """Return the name that files use for a NumPy dtype, for example ``"BF16"``.

    Raises:
        UnknownDtype: FMT-006.
    """
    name = NAMES.get(dtype)
    if name is None:
        raise UnknownDtype(f"dtype {dtype} has no place in a file, expected one of {', '.join(DTYPES)}")
    return name


@dataclass(frozen=True, slots=True)
class Section:
    """A run of bytes with a dtype and a shape; begin and end count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""
        return self.end - self.begin


def section_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Return the bytes that an array takes."""
    return DTYPES[dtype].itemsize * prod(shape)


def pad_length(nbytes: int, align: int = ALIGN) -> int:
    """Return how many bytes are missing to the next multiple of align."""
    return -nbytes % align


def raw_bytes(values: Array) -> memoryview:
    """Return the little-endian row-major bytes of an array, copied only if it is laid out otherwise."""
    flat = np.asarray(values, order="C").reshape(-1)
    return flat.view(np.uint8).data


def pack_header(metadata: Mapping[str, str], sections: Iterable[Section], align: int) -> bytes:
    """Return length and header (FMT-020): canonical JSON, then the fewest spaces to a multiple of align."""
    entries: dict[str, JSON] = {
        s.name: {"data_offsets": [s.begin, s.end], "dtype": s.dtype, "shape": list(s.shape)} for s in sections
    }
    text = canonical({"__metadata__": dict(metadata), **entries}).encode()
    text += b" " * pad_length(LENGTH.size + len(text), align)
    return LENGTH.pack(len(text)) + text


class MappedFile:
    """A file mapped into memory, read only; pages come in when they are looked at.

    Arrays made from it keep the mapping alive. A file that someone else cuts short while it is mapped takes
    the process down: replace files by renaming, never in place (FMT-111).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.size = file.seek(0, 2)
            # FMT-020
            if self.size < LENGTH.size:
                raise FileTooShort(f"{path.name} has {self.size} bytes, expected at least the 8 of the header length")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(mapped, dtype=np.uint8)
        self.data_start = LENGTH.size
        """Where the sections begin; known once `header` has been called."""

    def header(self, limit: int) -> bytes:
        """Return the header of at most limit bytes.

        Raises:
            HeaderTooLong: FMT-021, before a byte of it is read.
        """
        (n,) = LENGTH.unpack(self._bytes[: LENGTH.size].tobytes())
        # FMT-021: compared by subtraction, which cannot wrap
        if n > limit:
            raise HeaderTooLong(f"{self.path.name} announces a header of {n} bytes, at most {limit} are allowed")
        if n > self.size - LENGTH.size:
            raise HeaderTooLong(f"{self.path.name} announces a header of {n} bytes and holds {self.size - LENGTH.size}")
        self.data_start = LENGTH.size + int(n)
        return self._bytes[LENGTH.size : self.data_start].tobytes()

    def raw(self, section: Section) -> Array:
        """Return the bytes of a section, uint8 (nbytes,), as a view."""
        return self._bytes[self.data_start + section.begin : self.data_start + section.end]

    def array(self, section: Section) -> Array:
        """Return a section as a read-only array: a view if it is aligned for its dtype, otherwise a copy."""
        raw = self.raw(section)
        values = raw.view(DTYPES[section.dtype]).reshape(section.shape)
        return values if values.flags.aligned else values.copy()


def parse_sections(header: JSON, what: str) -> tuple[dict[str, JSON], dict[str, Section]]:
    """Return the metadata and the sections of a parsed header; offsets and sizes are not yet compared.

    Raises:
        FormatError: FMT-030 for an entry that safetensors does not have, FMT-006 for its dtype.
    """
    if not isinstance(header, dict):
        raise BadSectionEntry(f"{what} is not a JSON object")
    metadata = header.get("__metadata__")
    if metadata is not None and not isinstance(metadata, dict):
        raise BadSectionEntry(f"{what} has a __metadata__ that is not an object")
    sections = {name: _section(name, entry) for name, entry in header.items() if name != "__metadata__"}
    return metadata or {}, sections


def _section(name: str, entry: JSON) -> Section:
    # FMT-030
    if not isinstance(entry, dict) or set(entry) != {"data_offsets", "dtype", "shape"}:
        raise BadSectionEntry(f"section {name!r} must have exactly the keys data_offsets, dtype and shape")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise BadSectionEntry(f"section {name!r} must have a shape and two data_offsets of integers from 0")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnknownDtype(f"section {name!r} has dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    return Section(name, dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: JSON) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in value)
