"""The bytes of a safetensors file: length, JSON header, sections.

    | n: u64 | header: n bytes of JSON | section | pad | section | pad | ... |

This module knows dtypes, sections and bounds. It knows nothing of sparse tensors.
"""

import mmap
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TypeGuard

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from formats import compress
from formats.errors import FormatError
from formats.records import Array, DType
from formats.regular import open_regular
from formats.strict_json import JSON, canonical

if sys.byteorder != "little":
    raise ImportError("formats maps little-endian files into memory and needs a little-endian machine")

ALIGN = 64
LENGTH = struct.Struct("<Q")
_RUN = 1 << 20
"""Values that are packed or unpacked at once; a multiple of 8, so that each run begins at a whole byte."""

# FMT-006
DTYPES: dict[str, DType] = {
    "BOOL": np.dtype(np.bool_),
    "F4": np.dtype(ml_dtypes.float4_e2m1fn),
    "F6_E2M3": np.dtype(ml_dtypes.float6_e2m3fn),
    "F6_E3M2": np.dtype(ml_dtypes.float6_e3m2fn),
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
    "C64": np.dtype(np.complex64),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
NAMES: dict[DType, str] = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = frozenset(name for name in DTYPES if name.startswith(("F", "BF")))
NONE = "NONE"
"""The dtype name of a mask, which has no values (FMT-017)."""
BITS: dict[str, int] = {name: 8 * dtype.itemsize for name, dtype in DTYPES.items()}
BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, NONE: 0}
"""Dtype name -> bits of a value in a file. In memory a value of 4 or 6 bits takes a byte."""


def dtype_name(dtype: DType) -> str:
    """Return the name that files use for a NumPy dtype, for example ``"BF16"``.

    Raises:
        FormatError: FMT-006.
    """
    name = NAMES.get(dtype)
    if name is None:
        raise FormatError("FMT-006", f"dtype {dtype} has no place in a file, expected one of {', '.join(DTYPES)}")
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
    """Return how many bytes an array takes in a file, rounded up to a whole byte."""
    return -(-BITS[dtype] * prod(shape) // 8)


def pad_length(nbytes: int, align: int = ALIGN) -> int:
    """Return how many bytes are missing to the next multiple of align."""
    return -nbytes % align


def raw_bytes(values: Array) -> memoryview:
    """Return the bytes of an array as a file stores them: little-endian, row-major, 4 and 6 bits packed (FMT-071).

    An array that has this layout already is not copied.
    """
    flat = np.asarray(values, order="C").reshape(-1)
    name = NAMES.get(flat.dtype)
    if name is not None and BITS[name] < 8:
        flat = pack_bits(flat.view(np.uint8), BITS[name])
    return flat.view(np.uint8).data


def pack_bits(values: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return values packed to width bits each, without gaps, least significant bit first (FMT-071).

    Shapes  values (n,); result (ceil(n * width / 8),), its spare bits 0
    """
    packed = np.zeros(-(-values.size * width // 8), dtype=np.uint8)
    for first in range(0, values.size, _RUN):
        block = np.unpackbits(values[first : first + _RUN, None], axis=1, count=width, bitorder="little")
        part = np.packbits(block.reshape(-1), bitorder="little")
        packed[first * width // 8 : first * width // 8 + part.size] = part
    return packed


def unpack_bits(packed: NDArray[np.uint8], width: int, first: int, count: int) -> NDArray[np.uint8]:
    """Return values first to first + count - 1 of a packed array, (count,); the inverse of `pack_bits`."""
    values = np.empty(count, dtype=np.uint8)
    for done in range(0, count, _RUN):
        n = min(_RUN, count - done)
        begin = (first + done) * width
        run = np.unpackbits(packed[begin // 8 : -(-(begin + n * width) // 8)], bitorder="little")
        block = run[begin % 8 : begin % 8 + n * width].reshape(n, width)
        values[done : done + n] = np.packbits(block, axis=1, bitorder="little")[:, 0]
    return values


def spare_bits(packed: NDArray[np.uint8], width: int, count: int) -> int:
    """Return the unused high bits of the last byte behind count values, as a number; 0 in a legal file (FMT-072)."""
    used = width * count % 8
    return int(packed[-1]) >> used if used else 0


def values_of(raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Array:
    """Return the bytes of a section as an array: a view if its values are aligned whole bytes, otherwise a copy."""
    if BITS[dtype] < 8:
        return unpack_bits(raw, BITS[dtype], 0, prod(shape)).view(DTYPES[dtype]).reshape(shape)
    values = raw.view(DTYPES[dtype]).reshape(shape)
    return values if values.flags.aligned else values.copy()


def pack_header(metadata: Mapping[str, str], sections: Iterable[Section], size_for: Callable[[int], int]) -> bytes:
    """Return the length field and the header (FMT-020): canonical JSON, padded with spaces as size_for requires.

    Args:
        metadata: the entries of ``__metadata__``.
        sections: the sections that the header lists.
        size_for: bytes of the length field and the text -> the same with padding.
    """
    entries: dict[str, JSON] = {
        s.name: {"data_offsets": [s.begin, s.end], "dtype": s.dtype, "shape": list(s.shape)} for s in sections
    }
    text = canonical({"__metadata__": dict(metadata), **entries}).encode()
    text = text.ljust(size_for(LENGTH.size + len(text)) - LENGTH.size)
    return LENGTH.pack(len(text)) + text


def power_of_two(nbytes: int) -> int:
    """Return the padded size of length and header: the smallest power of two from 1,024 that holds nbytes (FMT-022)."""
    return max(1 << 10, 1 << (nbytes - 1).bit_length())


def multiple_of_8(nbytes: int) -> int:
    """Return the padded size of length and header in plain safetensors files: the next multiple of 8."""
    return nbytes + pad_length(nbytes, 8)


class MappedFile:
    """A file mapped into memory, read only; the system loads a page when it is read.

    Arrays made from it keep the mapping alive. If another process truncates a mapped file, this process crashes.
    So replace files by renaming, never in place (FMT-111).

    Attributes:
        packed: whether the file is packed (FMT-177); its content is then expanded in memory instead of mapped, when the
            first section is read.
        size: its bytes; of a packed file those of its content, as its frame states them.

    Raises:
        FormatError: FMT-020 for a file of fewer than 8 bytes, FMT-165 if it is no regular file, FMT-177 for a packed
            file whose frame states no size, or too large a one.
    """

    def __init__(self, path: Path, *, may_be_packed: bool = False) -> None:
        self.path = path
        with open_regular(path) as file:
            self.size = file.seek(0, 2)
            if self.size < LENGTH.size:
                raise FormatError(
                    "FMT-020",
                    f"{path.name} has {self.size} bytes, expected at least the 8 of the header length; copy it again",
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._mapped = np.frombuffer(mapped, dtype=np.uint8)
        self.packed = may_be_packed and self._mapped[: len(compress.MAGIC)].tobytes() == compress.MAGIC
        if self.packed:
            self._frame = compress.PackedFile(self._mapped, path.name)
            self.size = self._frame.size
            if self.size < LENGTH.size:
                raise FormatError(
                    "FMT-020",
                    f"{path.name} holds {self.size} bytes, expected at least the 8 of the header length; copy it again",
                )
        self.data_start = LENGTH.size
        """Where the sections begin; known once `header` has been called."""

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        return self._frame.content() if self.packed else self._mapped

    def expand(self) -> None:
        """Expand a packed file now, and not when its first section is read.

        Raises:
            FormatError: FMT-177 for a frame that is damaged or does not hold the bytes that it states.
        """
        _ = self._bytes

    def _start(self, nbytes: int) -> bytes:
        """Return the first bytes of the file; of a packed file only these are expanded (FMT-177.7)."""
        return self._frame.start(nbytes) if self.packed else self._mapped[:nbytes].tobytes()

    def header(self, limit: int) -> bytes:
        """Return the bytes of the header, at most limit, without the length field.

        Raises:
            FormatError: FMT-021 if it is longer than limit or than the file, before a byte of it is read; FMT-177 if a
                packed file is damaged there.
        """
        (n,) = LENGTH.unpack(self._start(LENGTH.size))
        # FMT-021: tested before reading, because a forged length could ask for 2^64 bytes
        if n > limit:
            raise FormatError(
                "FMT-021", f"{self.path.name} announces a header of {n} bytes, at most {limit} are allowed"
            )
        if n > self.size - LENGTH.size:
            raise FormatError(
                "FMT-021",
                f"{self.path.name} announces a header of {n} bytes and holds {self.size - LENGTH.size}; it was cut off "
                "or is no checkpoint",
            )
        self.data_start = LENGTH.size + int(n)
        return self._start(self.data_start)[LENGTH.size :]

    def raw(self, section: Section) -> Array:
        """Return the bytes of a section, uint8 (nbytes,), as a view."""
        return self._bytes[self.data_start + section.begin : self.data_start + section.end]

    def array(self, section: Section) -> Array:
        """Return a section as an array: a read-only view if it is aligned for its dtype, otherwise a copy."""
        return values_of(self.raw(section), section.dtype, section.shape)


def parse_sections(header: JSON, what: str) -> tuple[dict[str, JSON], dict[str, Section]]:
    """Return the metadata and the sections of a parsed header; offsets are not compared with sizes here.

    Raises:
        FormatError: FMT-030 for a malformed entry, FMT-006 for an unknown dtype.
    """
    if not isinstance(header, dict):
        raise FormatError("FMT-030", f"{what} is not a JSON object")
    metadata = header.get("__metadata__")
    if metadata is not None and not isinstance(metadata, dict):
        raise FormatError("FMT-030", f"{what} has a __metadata__ that is not an object")
    sections = {name: _section(name, entry) for name, entry in header.items() if name != "__metadata__"}
    return metadata or {}, sections


def _section(name: str, entry: JSON) -> Section:
    if not isinstance(entry, dict) or set(entry) != {"data_offsets", "dtype", "shape"}:
        raise FormatError("FMT-030", f"section {name!r} must have exactly the keys data_offsets, dtype and shape")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise FormatError("FMT-030", f"section {name!r} must have a shape and two data_offsets of integers from 0")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError("FMT-006", f"section {name!r} has dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    return Section(name, dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: JSON) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in value)
