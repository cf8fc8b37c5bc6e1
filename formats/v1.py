"""Writer and strict reader of one file in version 1 of the format.

manifest -> layout: every section, pad and offset follows from the manifest; the header adds nothing of its own
"""

import os
import shutil
from collections.abc import Callable, Hashable, Iterable, Mapping
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
from formats.records import Array, Dense, Mask, Sparse, Supported, Tensor, TensorInfo, rows_of

MAX_TENSORS = 4096
"""Most tensors that the writer puts into one part (FMT-085), which keeps headers far below MAX_HEAD."""

_HEAD_BYTES, _ENTRY_BYTES = 500, 700
"""Estimated bytes of a header: a fixed part, and one a tensor; its name stands in the header about six times."""

BESIDE = 1 << 20
"""A tensor of fewer bytes is hashed and then read, because starting a thread takes longer than both."""
_QUEUED_BYTES = 1 << 18
"""A section of fewer bytes is hashed at once, because handing it to a thread that runs takes as long."""

_SYNC_BYTES = 1 << 24
"""Bytes that are written before a sync to disk is started."""


# writing -----------------------------------------------------------------------------------------


def file_head(manifest: Manifest) -> tuple[bytes, str]:
    """Return the bytes before the sections, length and header, and the root digest (FMT-092).

    Raises:
        FormatError: FMT-021 if the header is too long.
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
    """A tensor ready to be written, whose digests a thread may still be computing."""

    sections: list[memoryview]
    """The bytes of its sections, in order of roles."""
    entry: Callable[[], Entry]
    """Returns the manifest entry, after waiting for the digests."""

    @property
    def padded_size(self) -> int:
        """Bytes of the sections with their pads."""
        return sum(raw.nbytes + pad_length(raw.nbytes) for raw in self.sections)


class Packer:
    """Turns tensors into sections, and computes their digests in a second thread.

    Args:
        encoding: the option of the writer (FMT-084).
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
        digests = {role: self._digest(raw) for role, (raw, _) in packed.items()}

        def entry() -> Entry:
            stored = {role: Stored(raw.nbytes, digests[role](), size) for role, (raw, size) in packed.items()}
            content = _content(tensor, chosen, stored)
            return Entry(encoding.dtype_of(tensor), tensor.shape, chosen, tensor.nnz, content, stored, pattern)

        return Packed([raw for raw, _ in packed.values()], entry)

    def _digest(self, raw: memoryview) -> Callable[[], str]:
        """Return a function that returns the digest of raw, after waiting for it if a thread computes it."""
        if raw.nbytes < _QUEUED_BYTES:
            known = digest.of_bytes(raw)
            return lambda: known
        return self._beside.submit(digest.of_bytes, raw).result

    def __enter__(self) -> "Packer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._beside.shutdown(cancel_futures=True)


def _content(tensor: Tensor, chosen: str, stored: Mapping[str, Stored]) -> str:
    """Return the content digest of a tensor, from the digests of its stored sections where they apply (FMT-091)."""
    plain = {role: section.sha256 for role, section in stored.items() if section.raw_bytes is None}
    code = digest.support_code(tensor.shape, tensor.nnz)
    support: Mapping[str, str] | None
    if code is not None and code.name == chosen and set(plain) >= set(stored) - {"values"}:
        support = {role: sha256 for role, sha256 in plain.items() if role != "values"}
    else:
        support = digest.of_support(tensor)
    return digest.of_parts(tensor, support, plain["values"] if "values" in plain else digest.of_values(tensor))


def _section(values: Array, codec: str | None) -> tuple[memoryview, int | None]:
    """Return the bytes of a section in the file, and its size before compression, None if it is not compressed."""
    raw = raw_bytes(values)
    if codec is not None:
        itemsize = max(1, BITS[container.NAMES[values.dtype]] // 8)
        frame = compress.pack(np.frombuffer(raw, dtype=np.uint8), itemsize)
        if frame is not None:
            return memoryview(frame), raw.nbytes
    return raw, None


class PartWriter:
    """Writes the sections of one file, then its header into a gap before them: the header depends on all sections.

    The size of the gap is estimated from the names of the tensors. If the header turns out to need another power of
    two, the sections are copied once, behind a header of the right size.

    Args:
        spool: a new file for the sections, in the folder of the final file; `close` removes it.
        names: names of the tensors to expect, from which the gap is estimated.
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
        """Start a sync to disk while the next tensor is packed, so that `finish` has little to wait for."""
        if self.nbytes - self._synced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._synced = self.nbytes
            self._file.flush()
            self._syncing = self._beside.submit(os.fsync, self._file.fileno())

    def finish(self, path: Path, manifest: Manifest) -> str:
        """Write the header, sync the file to disk under its final path, and return the root digest (FMT-092)."""
        head, root = file_head(manifest)
        # `result` raises if the background sync failed
        if self._syncing is not None:
            self._syncing.result()
        if len(head) == self._gap:
            self._file.seek(0)
            self._file.write(head)
            # the file ends after its last section, or after its header if there are none
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
        """Close the spool, and remove it if it is still there."""
        self._beside.shutdown()
        try:
            self._file.close()
        finally:  # because closing can fail on a full disk, too
            self._spool.unlink(missing_ok=True)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


# reading -----------------------------------------------------------------------------------------


class PartReader:
    """An open file whose header and manifest have been checked; its sections are mapped, and read on request.

    Raises:
        FormatError: the first rule of the container or the manifest that the file breaks.
    """

    def __init__(self, path: Path) -> None:
        self._file = MappedFile(path, may_be_packed=True)
        what = f"the header of {path.name}"
        header = self._header(what)
        if isinstance(header, dict) and not isinstance(header.get("__metadata__", {}), dict):
            raise FormatError("FMT-029", f"{what} has a __metadata__ that is not an object")
        metadata, sections = container.parse_sections(header, what)
        self.manifest, self.root = _manifest(metadata, path.name)
        data_bytes = self._file.size - self._file.data_start
        self._sections = layout.compare(self.manifest.tensors, sections, data_bytes, path.name)
        if not self.manifest.tensors:
            self.expand()  # because no tensor is ever read, which would check the frame of a packed file

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
    def packed(self) -> bool:
        """Whether the file is packed (FMT-177)."""
        return self._file.packed

    def expand(self) -> None:
        """Expand the content of a packed file now, and not when a tensor is first read; FormatError FMT-177."""
        self._file.expand()

    @property
    def memory_bytes(self) -> int:
        """Bytes that it takes in memory: values, columns and row pointers of all tensors; a packed file its content."""
        total = self._file.size if self.packed else 0
        for entry in self.manifest.tensors.values():
            total += entry.nnz * DTYPES[entry.dtype].itemsize if entry.dtype in DTYPES else 0
            total += 0 if entry.encoding == encoding.DENSE else 4 * entry.nnz + 8 * (rows_of(entry.shape) + 1)
        return total

    def info(self, name: str) -> TensorInfo:
        """Return the description of a tensor in the manifest."""
        e = self.manifest.tensors[name]
        nbytes = sum(stored.nbytes for stored in e.sections.values())
        return TensorInfo(name, e.dtype, e.shape, e.encoding, e.nnz, nbytes, e.content_sha256, e.pattern)

    def origin(self, name: str) -> Hashable:
        """Return what the support of a tensor is decoded from: shape, encoding and digests. None for a dense tensor."""
        e = self.manifest.tensors[name]
        sections = tuple(sorted((role, stored) for role, stored in e.sections.items() if role != "values"))
        return (e.shape, e.encoding, e.nnz, e.pattern, sections) if sections else None

    def load(self, name: str, support: Supported | None = None) -> Tensor:
        """Return a tensor after checking its structure; values are views of the mapped file where possible.

        Args:
            name: the tensor's name.
            support: its support, if that has been decoded before.

        Raises:
            FormatError: FMT-036, FMT-142 or the rule of its encoding that is broken.
        """
        self.check_pads(name)
        return encoding.decode(self.manifest.tensors[name], name, self._arrays(name), support)

    def load_slice(self, name: str, first: int, last: int) -> Tensor:
        """Return tensor[first:last] along the first of two or more axes, without reading the values of the rest.

        Raises:
            FormatError: as `load`, of the sections that have to be read.
        """
        entry = self.manifest.tensors[name]
        each = prod(entry.shape[1:-1])
        part = encoding.decode_rows(entry, name, self._arrays(name), (first * each, last * each))
        shape = (last - first, *entry.shape[1:])
        return Dense(part.values.reshape(shape)) if isinstance(part, Dense) else replaced(part, shape=shape)

    def load_verified(self, name: str, support: Supported | None = None) -> Tensor:
        """Return a tensor after checking its structure, the digests of its sections and that of its content.

        Args:
            name: the tensor's name.
            support: a support of the same `origin` that was verified. All sections are hashed; it is not decoded again.

        Raises:
            FormatError: as `load`; FMT-090, FMT-091.
        """
        if self.info(name).nbytes < BESIDE:
            self.check_sections(name)
            return self._compared(name, self.load(name, support))
        with ThreadPoolExecutor(1) as beside:
            sections = beside.submit(self.check_sections, name)
            tensor = self.load(name, support)
            sections.result()
        return self._compared(name, tensor)

    def check_content(self, name: str) -> Tensor:
        """Return a tensor after comparing its content with its digest (FMT-091)."""
        return self._compared(name, self.load(name))

    def _compared(self, name: str, tensor: Tensor) -> Tensor:
        entry = self.manifest.tensors[name]
        actual, expected = _content(tensor, entry.encoding, entry.sections), entry.content_sha256
        if actual != expected:
            raise FormatError("FMT-091", f"the content of {name!r} has SHA-256 {actual}, its manifest says {expected}")
        return tensor

    def check_sections(self, name: str) -> None:
        """Verify the digests of a tensor's sections (FMT-090)."""
        for role, stored in self.manifest.tensors[name].sections.items():
            section = self._sections[section_name(name, role)]
            actual = digest.of_bytes(self._file.raw(section).data)
            if actual != stored.sha256:
                raise FormatError(
                    "FMT-090", f"section {section.name!r} has SHA-256 {actual}, its manifest says {stored.sha256}"
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
    actual = digest.of_bytes(text.encode("utf-8", "surrogatepass"))
    if actual != expected:
        raise FormatError("FMT-093", f"the manifest of {name} has SHA-256 {actual}, the header says {expected}")
    return parse_manifest(text, f"the manifest of {name}"), actual


def own(tensor: Tensor) -> Tensor:
    """Return a tensor whose arrays do not depend on the mapped file."""
    if isinstance(tensor, Dense | Sparse):
        return replaced(tensor, values=np.array(tensor.values))
    assert isinstance(tensor, Mask)
    return tensor
