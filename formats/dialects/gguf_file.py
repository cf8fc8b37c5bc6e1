"""Reads GGUF files strictly: every number that a header states is compared with the file before it is used.

    "GGUF" | version | counts | key-value pairs | tensor infos | pad | data, each tensor padded

Only names, shapes and values are kept. The pairs, which describe tokenizer and architecture, are dropped.
"""

import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import ml_dtypes
import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from formats import validate
from formats.errors import FormatError
from formats.records import Array, Checkpoint, Dense, DType
from formats.regular import open_regular
from formats.strict_json import JSON

DEFAULT_ALIGNMENT = 32
MAX_RANK = 4
MAX_STRING = 1 << 26
MAX_NESTING = 8

_PLAIN: Mapping[str, DType] = MappingProxyType(
    {
        "F32": np.dtype(np.float32),
        "F16": np.dtype(np.float16),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F64": np.dtype(np.float64),
        "I8": np.dtype(np.int8),
        "I16": np.dtype(np.int16),
        "I32": np.dtype(np.int32),
        "I64": np.dtype(np.int64),
    }
)
_SIZES = (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)
"""Bytes of a value by its type number; 0 for strings (8) and arrays (9)."""
_STRING, _ARRAY, _U16, _U32 = 8, 9, 2, 4
# a key-value pair has at least an empty key, a type and a value; a tensor info an empty name, rank, type and offset
_LEAST_PAIR = 8 + 4 + 1
_LEAST_INFO = 8 + 4 + 4 + 8


def open_gguf(path: str | os.PathLike[str], *, expand_quantised: bool = False, limit: int | None = None) -> Checkpoint:
    """Return the tensors of a GGUF file of version 2 or 3, each read on access.

    Names are those of the file; shapes are row-major, the file's dimensions in reverse. Plain types are read-only
    views of the file, bit for bit. If quantised tensors were expanded, the attributes say ``source`` and their names.

    Args:
        path: the file; it must not be changed while it is open.
        expand_quantised: make F32 of quantised tensors, with the values that the gguf package gives them.
        limit: bytes that expanded tensors may take together; None sets no limit.

    Raises:
        FormatError: FMT-155 for a malformed file, one of several parts, or quantised tensors without the flag.
        ExpansionTooLarge: FMT-098.
    """
    tensors = Tensors(Path(path))
    quantised = tensors.quantised()
    if quantised and not expand_quantised:
        raise FormatError(
            "FMT-155",
            f"{tensors.file_name} holds {len(quantised)} quantised tensors, the first is {quantised[0]!r}; "
            f"pass expand_quantised=True, or --expand-quantised, to make F32 of them",
        )
    validate.check_limit(tensors.expanded_bytes(), limit, tensors.file_name)
    names: list[JSON] = [*quantised]
    return Checkpoint("model", tensors, {"source": "gguf", "expanded": names} if names else {})


@dataclass(frozen=True, slots=True)
class _Info:
    """A tensor as the header describes it: row-major shape, type, offset from the start of the data, size."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    begin: int
    nbytes: int


class _Cursor:
    """A read position in a file; reading advances it, but never past the end of the file."""

    def __init__(self, data: Array, name: str) -> None:
        self.data = data
        self.name = name
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes from here to the end."""
        return len(self.data) - self.at

    def take(self, n: int, what: str) -> bytes:
        """Return the next n bytes, and move past them."""
        self.skip(n, what)
        return self.data[self.at - n : self.at].tobytes()

    def skip(self, n: int, what: str) -> None:
        """Move on by n bytes; n may have any size, because it is compared with the bytes that are left."""
        if n > self.left:
            raise FormatError(
                "FMT-155", f"{self.name} ends within {what}: {n} bytes are announced, {self.left} are left"
            )
        self.at += n

    def u32(self, what: str) -> int:
        """Return an unsigned 32-bit integer."""
        return int(struct.unpack("<I", self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """Return an unsigned 64-bit integer."""
        return int(struct.unpack("<Q", self.take(8, what))[0])

    def text(self, what: str) -> str:
        """Return a string, which begins with its length."""
        n = self.u64(what)
        if n > MAX_STRING:
            raise FormatError("FMT-155", f"{what} of {self.name} announces {n} bytes, at most {MAX_STRING} are allowed")
        try:
            return self.take(n, what).decode()
        except UnicodeDecodeError as error:
            raise FormatError("FMT-155", f"{what} of {self.name} is not UTF-8: {error}") from error

    def value(self, kind: int, what: str, depth: int = 0) -> int | None:
        """Move past a value; return it if it is a u16 or u32, else None."""
        if kind >= len(_SIZES) or depth > MAX_NESTING:
            raise FormatError(
                "FMT-155", f"{what} of {self.name} has type {kind} at depth {depth}, expected a type of GGUF"
            )
        if kind == _STRING:
            self.skip(self.u64(what), what)
        elif kind == _ARRAY:
            self._array(what, depth)
        else:
            raw = self.take(_SIZES[kind], what)
            return int.from_bytes(raw, "little") if kind in (_U16, _U32) else None
        return None

    def _array(self, what: str, depth: int) -> None:
        kind, count = self.u32(what), self.u64(what)
        # an element without a fixed size takes at least the 8 bytes of its length
        size = _SIZES[kind] if kind < len(_SIZES) else 0
        if count > self.left // (size or 8):
            raise FormatError(
                "FMT-155", f"{what} of {self.name} announces {count} elements, {self.left} bytes are left"
            )
        if size:
            self.skip(count * size, what)
            return
        for _ in range(count):
            self.value(kind, what, depth + 1)


class Tensors(Mapping[str, Dense]):
    """The tensors of a GGUF file, name -> Dense, in file order; each is made on access."""

    def __init__(self, path: Path) -> None:
        self.file_name = path.name
        with open_regular(path) as file:
            if not file.seek(0, 2):
                raise FormatError("FMT-155", f"{path.name} is empty")
            self._data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        self._infos, self._start = _parse(_Cursor(self._data, path.name))

    def __getitem__(self, name: str) -> Dense:
        info = self._infos[name]
        begin = self._start + info.begin
        raw = self._data[begin : begin + info.nbytes]
        dtype = _PLAIN.get(info.type.name)
        if dtype is not None:
            values = raw.view(dtype).reshape(info.shape)
            return Dense(values if values.flags.aligned else values.copy())
        rows = quants.quant_shape_to_byte_shape(info.shape, info.type)
        # warnings are off, because scales of a file may be infinite or NaN
        with np.errstate(all="ignore"):
            return Dense(quants.dequantize(raw.reshape(rows), info.type).reshape(info.shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def quantised(self) -> list[str]:
        """Return the names of the tensors that reading expands, sorted."""
        return sorted(name for name, info in self._infos.items() if info.type.name not in _PLAIN)

    def expanded_bytes(self, names: Iterable[str] | None = None) -> int:
        """Return how many bytes these tensors take together as F32, by default all that reading expands."""
        return sum(4 * math.prod(self._infos[name].shape) for name in (self.quantised() if names is None else names))

    def type_of(self, name: str) -> str:
        """Return the name of a tensor's type."""
        return self._infos[name].type.name

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._infos[name].shape

    def blocks(self, name: str) -> Array:
        """Return the blocks of a quantised matrix, uint8 (rows, blocks, bytes)."""
        info = self._infos[name]
        begin = self._start + info.begin
        _, block_bytes = GGML_QUANT_SIZES[info.type]
        return self._data[begin : begin + info.nbytes].reshape(info.shape[0], -1, block_bytes)


def _parse(cursor: _Cursor) -> tuple[dict[str, _Info], int]:
    """Return the tensors of a file by name, and the position at which its data begin.

    Raises:
        FormatError: FMT-155.
    """
    file = cursor.name
    if (magic := cursor.take(4, "its magic")) != b"GGUF":
        raise FormatError("FMT-155", f"{file} begins with {magic!r}, expected b'GGUF'")
    version = cursor.u32("its version")
    if version not in (2, 3):
        raise FormatError(
            "FMT-155", f"{file} has version {version}, expected 2 or 3 in little-endian order; convert it with gguf"
        )
    n_tensors, n_pairs = cursor.u64("its counts"), cursor.u64("its counts")
    if n_pairs > cursor.left // _LEAST_PAIR or n_tensors > cursor.left // _LEAST_INFO:
        raise FormatError(
            "FMT-155", f"{file} announces {n_tensors} tensors and {n_pairs} pairs, {cursor.left} bytes are left"
        )
    alignment = _alignment(cursor, n_pairs)
    infos: dict[str, _Info] = {}
    for _ in range(n_tensors):
        name, info = _info(cursor)
        if name in infos:
            raise FormatError("FMT-155", f"{file} has the tensor {name!r} twice")
        infos[name] = info
    pad = -cursor.at % alignment
    # a file without tensors may lack the pad
    cursor.skip(pad if n_tensors else min(pad, cursor.left), "the pad before its data")
    _check_places(infos, alignment, cursor.left, file)
    return infos, cursor.at


def _alignment(cursor: _Cursor, n_pairs: int) -> int:
    """Move past the key-value pairs, and return the alignment, because the places of the tensors depend on it."""
    alignment: int | None = DEFAULT_ALIGNMENT
    keys: set[str] = set()
    for _ in range(n_pairs):
        key = cursor.text("a key")
        if key in keys:
            raise FormatError("FMT-155", f"{cursor.name} has the key {key!r:.80} twice")
        keys.add(key)
        kind = cursor.u32(f"the type of {key!r:.80}")
        value = cursor.value(kind, f"{key!r:.80}")
        if key == "general.alignment":
            alignment = value if kind == _U32 else None
        if key == "split.count" and value not in (0, 1):
            raise FormatError(
                "FMT-155", f"{cursor.name} is one of {value} parts; merge them with llama-gguf-split --merge first"
            )
    if not alignment or alignment & (alignment - 1):
        raise FormatError(
            "FMT-155", f"{cursor.name} has alignment {alignment}, expected a power of two as an unsigned 32-bit"
        )
    return alignment


def _info(cursor: _Cursor) -> tuple[str, _Info]:
    """Move past the info of a tensor, and return its name and the info."""
    name = cursor.text("a tensor name")
    rank = cursor.u32(f"the rank of {name!r:.80}")
    if rank > MAX_RANK:
        raise FormatError(
            "FMT-155", f"{name!r:.80} in {cursor.name} has {rank} dimensions, at most {MAX_RANK} are allowed"
        )
    shape = tuple(reversed([cursor.u64(f"the shape of {name!r:.80}") for _ in range(rank)]))
    try:
        validate.check_name(name)
        validate.check_shape(shape, name)
    except FormatError as error:
        raise FormatError("FMT-155", f"{cursor.name} holds a tensor that no checkpoint can: {error}") from error
    number = cursor.u32(f"the type of {name!r}")
    try:
        kind = GGMLQuantizationType(number)
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        if kind.name not in _PLAIN:
            # one block is expanded as a test, because gguf lists types that it cannot expand
            quants.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise FormatError(
            "FMT-155", f"{name!r} in {cursor.name} has type {number}, which gguf cannot expand: {error}"
        ) from error
    if per_block > 1 and (not shape or shape[-1] % per_block):
        raise FormatError(
            "FMT-155",
            f"rows of {name!r} in {cursor.name} do not fill blocks of {per_block} values: its shape is {list(shape)}",
        )
    nbytes = math.prod(shape) // per_block * block_bytes
    return name, _Info(shape, kind, cursor.u64(f"the offset of {name!r}"), nbytes)


def _check_places(infos: Mapping[str, _Info], alignment: int, size: int, file: str) -> None:
    """Verify that the tensors follow each other in the data, each padded, and that the data end with the last."""
    at = 0
    for name, info in sorted(infos.items(), key=lambda item: (item[1].begin, item[1].nbytes)):
        if info.begin != at:
            raise FormatError(
                "FMT-155", f"{name!r} in {file} begins at {info.begin}, expected {at} behind the tensor before it"
            )
        if info.nbytes > size - at:
            raise FormatError("FMT-155", f"{name!r} in {file} takes {info.nbytes} bytes, {size - at} are left")
        at += info.nbytes
        # the last pad may be cut off
        at += min(-at % alignment, size - at)
    if at != size:
        raise FormatError("FMT-155", f"{file} holds {size} bytes of data, its header describes {at}")
