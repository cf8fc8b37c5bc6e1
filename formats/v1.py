"""Version 1 of one file: writer and strict reader.

manifest -> layout: every section, pad and offset follows from it; the header adds nothing of its own
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import replace as replaced
from math import prod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from formats import compress, container, digest, encoding, layout, strict_json, validate
from formats.container import BITS, DTYPES, LENGTH, MappedFile, pad_length, power_of_two, raw_bytes
from formats.errors import FormatError
from formats.header import DIGEST_KEY, MANIFEST_KEY, MAX_HEAD, Entry, Manifest, Stored, manifest_text, parse_manifest
from formats.layout import section_name
from formats.records import Array, Dense, Mask, Sparse, Tensor, TensorInfo, rows_of

MAX_TENSORS = 4096
"""Tensors that the writer puts into one part: keeps headers far below MAX_HEAD (FMT-085)."""

_HEAD_BYTES, _ENTRY_BYTES = 500, 700
"""What a header takes about, besides its names, which stand in it some six times."""

_BESIDE_BYTES = 1 << 20
"""A tensor of fewer bytes is hashed and read one after the other: starting a thread takes longer than both."""

_SYNC_BYTES = 1 << 24
"""Bytes that are written before the disk is asked to take them."""


# writing -----------------------------------------------------------------------------------------


def file_head(manifest: Manifest) -> tuple[bytes, str]:
    """Return everything that stands before the sections, and the root digest (FMT-092).

    Raises:
        FormatError: FMT-021.
    """
    text = manifest_text(manifest)
    root = digest.of_bytes(text.encode())
    metadata = {"format": "pt", MANIFEST_KEY: text, DIGEST_KEY: root}
    head = container.pack_header(metadata, layout.layout(manifest.tensors), power_of_two)
    if len(head) > MAX_HEAD:
        raise FormatError(
            "FMT-021",
            f"the header would take {len(head)} bytes, at most {MAX_HEAD} are allowed; "
            f"write a folder, whose parts share the load, or shorten the attributes",
        )
    return head, root


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor on its way into a file: what is written, while what is said of it is still being hashed."""

    sections: list[memoryview]
    """The bytes of its sections, in order of roles."""
    entry: Callable[[], Entry]
    """Waits for the digests."""

    @property
    def padded_size(self) -> int:
        """Bytes of the sections with their pads."""
        return sum(raw.nbytes + pad_length(raw.nbytes) for raw in self.sections)


class Packer:
    """Turns tensors into sections, their digests made by a thread beside.

    Args:
        encoding: what a writer was asked for (FMT-084).
        codec: ``"zstd"`` compresses the sections that become smaller (FMT-141), None keeps them as they are.
    """

    def __init__(self, encoding: str = "auto", codec: str | None = None) -> None:
        self._encoding, self._codec = encoding, codec
        self._beside = ThreadPoolExecutor(1)

    def pack(self, name: str, tensor: Tensor) -> Packed:
        """Return a tensor ready to be written.

        Raises:
            FormatError: FMT-006 to FMT-009, FMT-015, FMT-066 to FMT-069, or what `encoding.choose` raises.
        """
        validate.check_record(tensor, name)
        chosen, pattern = encoding.choose(tensor, self._encoding, name)
        arrays = sorted(encoding.encode(tensor, chosen, pattern).items())
        packed = {role: _section(values, self._codec) for role, values in arrays}
        digests = {role: self._beside.submit(digest.of_bytes, raw) for role, (raw, _) in packed.items()}

        def entry() -> Entry:
            stored = {role: Stored(raw.nbytes, digests[role].result(), size) for role, (raw, size) in packed.items()}
            content = _content(tensor, chosen, stored)
            return Entry(encoding.dtype_of(tensor), tensor.shape, chosen, tensor.nnz, content, stored, pattern)

        return Packed([raw for raw, _ in packed.values()], entry)

    def __enter__(self) -> "Packer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._beside.shutdown(cancel_futures=True)


def _content(tensor: Tensor, chosen: str, stored: Mapping[str, Stored]) -> str:
    """Return the content digest of a tensor whose sections have their digests; those are not made again (FMT-091)."""
    plain = {role: section.sha256 for role, section in stored.items() if section.raw_bytes is None}
    code = digest.support_code(tensor.shape, tensor.nnz)
    support: Mapping[str, str] | None
    if code is not None and code.name == chosen and set(plain) >= set(stored) - {"values"}:
        support = {role: sha256 for role, sha256 in plain.items() if role != "values"}
    else:
        support = digest.of_support(tensor)
    return digest.of_parts(tensor, support, plain["values"] if "values" in plain else digest.of_values(tensor))


def _section(values: Array, codec: str | None) -> tuple[memoryview, int | None]:
    """Return the bytes of a section in the file, and those before compression if it is compressed."""
    raw = raw_bytes(values)
    if codec is not None:
        itemsize = max(1, BITS[container.NAMES[values.dtype]] // 8)
        frame = compress.pack(np.frombuffer(raw, dtype=np.uint8), itemsize)
        if frame is not None:
            return memoryview(frame), raw.nbytes
    return raw, None


class PartWriter:
    """Writes the sections of one file behind a gap for its header, which depends on all of them.

    The gap is as large as the names let expect. If the header turns out to need another power of two, the sections
    are copied once, to where they belong.
    """

    def __init__(self, spool: Path, names: Iterable[str] = ()) -> None:
        self._spool = spool
        self._file: BinaryIO = spool.open("xb")
        self._gap = power_of_two(_HEAD_BYTES + sum(_ENTRY_BYTES + 6 * len(name.encode()) for name in names))
        self._file.seek(self._gap)
        self._beside = ThreadPoolExecutor(1)
        self._syncing: Future[None] | None = None
        self._synced = 0
        self.tensors: dict[str, Entry] = {}
        self.nbytes = 0

    def add(self, name: str, packed: Packed) -> None:
        """Append the sections of a tensor; names must come in order."""
        for raw in packed.sections:
            self._file.write(raw)
            self._file.write(bytes(pad_length(raw.nbytes)))
        self.nbytes += packed.padded_size
        self._sync_beside()
        self.tensors[name] = packed.entry()

    def _sync_beside(self) -> None:
        """Let the disk work while the next tensor is packed, so that little is left to wait for at the end."""
        if self.nbytes - self._synced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._synced = self.nbytes
            self._file.flush()
            self._syncing = self._beside.submit(os.fsync, self._file.fileno())

    def finish(self, path: Path, manifest: Manifest) -> str:
        """Bring the file to path, header and sections synced to disk, and return the root digest."""
        head, root = file_head(manifest)
        # a disk that failed meanwhile is told now
        if self._syncing is not None:
            self._syncing.result()
        if len(head) == self._gap:
            self._file.seek(0)
            self._file.write(head)
            # a file without sections ends where its header ends
            self._file.truncate(self._gap + self.nbytes)
            self._sync(self._file)
            self._spool.rename(path)
        else:
            self._file.close()
            with path.open("xb") as out, self._spool.open("rb") as sections:
                out.write(head)
                out.flush()
                sections.seek(self._gap)
                shutil.copyfileobj(sections, out, 1 << 20)
                self._sync(out)
        self.close()
        return root

    def _sync(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())

    def close(self) -> None:
        """Let go of the spool and remove it if it is still there."""
        self._beside.shutdown()
        try:
            self._file.close()
        finally:  # a full disk makes closing fail, too
            self._spool.unlink(missing_ok=True)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


# reading -----------------------------------------------------------------------------------------


class PartReader:
    """One file, every rule about its header checked, its sections mapped and unread.

    Raises:
        FormatError: the first rule of the container or the manifest that the file breaks.
    """

    def __init__(self, path: Path) -> None:
        self._file = MappedFile(path)
        what = f"the header of {path.name}"
        header = self._header(what)
        metadata, found = container.parse_sections(header, what)
        self.manifest, self.root = _manifest(metadata, path.name)
        data_bytes = self._file.size - self._file.data_start
        self._sections = layout.compare(self.manifest.tensors, found, data_bytes, path.name)

    def _header(self, what: str) -> strict_json.JSON:
        raw = self._file.header(MAX_HEAD - LENGTH.size)
        size = self._file.data_start
        if size != power_of_two(size):
            raise FormatError("FMT-022", f"{what} ends at byte {size}, expected a power of two from 1,024")
        text = raw.rstrip(b" ")
        if text[:1] != b"{" or size != power_of_two(LENGTH.size + len(text)):
            raise FormatError(
                "FMT-023",
                f"{what} must begin with a brace and end in no more spaces than lead to a power of two, "
                f"found {raw[:1]!r} and {len(raw) - len(text)} spaces",
            )
        return strict_json.parse(text, what)

    @property
    def memory_bytes(self) -> int:
        """Bytes that its tensors take together once they are read: values, columns and row pointers."""
        total = 0
        for entry in self.manifest.tensors.values():
            total += entry.nnz * DTYPES[entry.dtype].itemsize if entry.dtype in DTYPES else 0
            total += 0 if entry.encoding == encoding.DENSE else 4 * entry.nnz + 8 * (rows_of(entry.shape) + 1)
        return total

    def info(self, name: str) -> TensorInfo:
        """Return what the manifest says of a tensor."""
        e = self.manifest.tensors[name]
        nbytes = sum(stored.nbytes for stored in e.sections.values())
        return TensorInfo(name, e.dtype, e.shape, e.encoding, e.nnz, nbytes, e.content_sha256, e.pattern)

    def load(self, name: str) -> Tensor:
        """Return a tensor, every rule about its structure checked; values are views of the mapped file.

        Raises:
            FormatError: FMT-036, FMT-142 or the rule of its encoding that is broken.
        """
        self.check_pads(name)
        return encoding.decode(self.manifest.tensors[name], name, self._arrays(name))

    def load_slice(self, name: str, first: int, last: int) -> Tensor:
        """Return the slice first to last of a tensor of two axes or more along the first; others stay unread.

        Raises:
            FormatError: as `load`, of the sections that have to be read.
        """
        entry = self.manifest.tensors[name]
        each = prod(entry.shape[1:-1])
        part = encoding.decode_rows(entry, name, self._arrays(name), (first * each, last * each))
        shape = (last - first, *entry.shape[1:])
        return Dense(part.values.reshape(shape)) if isinstance(part, Dense) else replaced(part, shape=shape)

    def load_verified(self, name: str) -> Tensor:
        """Return a tensor, its structure and both kinds of digests checked.

        Raises:
            FormatError: as `load`; FMT-090, FMT-091.
        """
        if self.info(name).nbytes < _BESIDE_BYTES:
            self.check_sections(name)
            return self._compared(name, self.load(name))
        with ThreadPoolExecutor(1) as beside:
            sections = beside.submit(self.check_sections, name)
            tensor = self.load(name)
            sections.result()
        return self._compared(name, tensor)

    def check_content(self, name: str) -> Tensor:
        """Return a tensor, its content compared with its digest (FMT-091)."""
        return self._compared(name, self.load(name))

    def _compared(self, name: str, tensor: Tensor) -> Tensor:
        entry = self.manifest.tensors[name]
        found, expected = _content(tensor, entry.encoding, entry.sections), entry.content_sha256
        if found != expected:
            raise FormatError("FMT-091", f"the content of {name!r} has SHA-256 {found}, its manifest says {expected}")
        return tensor

    def check_sections(self, name: str) -> None:
        """Verify the digests of a tensor's sections (FMT-090)."""
        for role, stored in self.manifest.tensors[name].sections.items():
            section = self._sections[section_name(name, role)]
            found = digest.of_bytes(self._file.raw(section).data)
            if found != stored.sha256:
                raise FormatError(
                    "FMT-090", f"section {section.name!r} has SHA-256 {found}, its manifest says {stored.sha256}"
                )

    def check_pads(self, name: str) -> None:
        """Verify that the pads of a tensor are zero (FMT-036)."""
        for role in self.manifest.tensors[name].sections:
            pad = self._sections.get(section_name(name, role) + "#pad")
            if pad:
                validate.check_pad(self._file.raw(pad), pad.name)

    def _arrays(self, name: str) -> dict[str, Array]:
        """Return the sections of a tensor as arrays of the dtypes and shapes that its encoding plans."""
        entry = self.manifest.tensors[name]
        arrays = {}
        for role, (dtype, shape) in encoding.plan(entry, name).items():
            section, stored = self._sections[section_name(name, role)], entry.sections[role]
            raw = self._file.raw(section)
            if stored.raw_bytes is not None:
                raw = compress.unpack(raw, stored.raw_bytes, BITS[dtype] // 8, section.name)
            arrays[role] = container.values_of(raw, dtype, shape)
        return arrays


def _manifest(metadata: dict[str, strict_json.JSON], name: str) -> tuple[Manifest, str]:
    if set(metadata) != {"format", MANIFEST_KEY, DIGEST_KEY} or metadata["format"] != "pt":
        raise FormatError(
            "FMT-029",
            f"{name} must have a __metadata__ of format 'pt', {MANIFEST_KEY} and {DIGEST_KEY}, "
            f"found {sorted(metadata)}",
        )
    text, expected = metadata[MANIFEST_KEY], metadata[DIGEST_KEY]
    if not isinstance(text, str) or not isinstance(expected, str):
        raise FormatError("FMT-029", f"{name} must have strings in its __metadata__")
    found = digest.of_bytes(text.encode("utf-8", "surrogatepass"))
    if found != expected:
        raise FormatError("FMT-093", f"the manifest of {name} has SHA-256 {found}, the header says {expected}")
    return parse_manifest(text, f"the manifest of {name}"), found


def own(tensor: Tensor) -> Tensor:
    """Return a tensor that no longer depends on the file."""
    if isinstance(tensor, Dense | Sparse):
        return replaced(tensor, values=np.array(tensor.values))
    assert isinstance(tensor, Mask)
    return tensor
