"""Version 1 of one file: layout, writer and strict reader.

manifest -> layout: every section, pad and offset follows from it; the header adds nothing of its own
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from formats import container, digest, encoding, strict_json, validate
from formats.container import ALIGN, DTYPES, LENGTH, MappedFile, Section, pad_length, raw_bytes, section_bytes
from formats.errors import (
    BadMetadata,
    ContentDigestMismatch,
    HeaderMisaligned,
    HeaderPadding,
    HeaderTooLong,
    ManifestDigestMismatch,
    MissingSection,
    SectionDigestMismatch,
    UnownedSection,
    WrongFileSize,
    WrongOffsets,
    WrongSection,
)
from formats.header import Entry, Manifest, manifest_text, parse_manifest
from formats.records import Tensor, TensorInfo

MAX_HEADER = 25_000_000
MAX_TENSORS = 4096
"""Tensors that the writer puts into one part: keeps headers far below MAX_HEADER (FMT-085)."""

MANIFEST_KEY = "seft.manifest"
DIGEST_KEY = "seft.manifest.sha256"


def section_name(tensor: str, role: str) -> str:
    """Return the name of a section in the header (FMT-031)."""
    return f"{tensor}#{role}"


def layout(tensors: Mapping[str, Entry]) -> Iterator[Section]:
    """Yield sections and pads in file order (FMT-034).

    Raises:
        FormatError: FMT-045, FMT-046, FMT-008 or FMT-064 for an entry that implies no sections.
    """
    begin = 0
    for name in sorted(tensors):
        for role, (dtype, shape) in sorted(encoding.plan(tensors[name], name).items()):
            end = begin + section_bytes(dtype, shape)
            yield Section(section_name(name, role), dtype, shape, begin, end)
            begin = end + pad_length(end)
            if begin != end:
                yield Section(section_name(name, role) + "#pad", "U8", (begin - end,), end, begin)


def file_head(manifest: Manifest) -> tuple[bytes, str]:
    """Return everything that stands before the sections, and the root digest (FMT-092).

    Raises:
        HeaderTooLong: FMT-021.
    """
    text = manifest_text(manifest)
    root = digest.of_bytes(text.encode())
    metadata = {"format": "pt", MANIFEST_KEY: text, DIGEST_KEY: root}
    head = container.pack_header(metadata, layout(manifest.tensors), ALIGN)
    if len(head) - LENGTH.size > MAX_HEADER:
        raise HeaderTooLong(
            f"the header would take {len(head)} bytes, at most {MAX_HEADER} are allowed; "
            f"write a folder, whose parts share the load, or shorten the attributes"
        )
    return head, root


class PartWriter:
    """Gathers the sections of one file in a spool: the header depends on all of them and comes first."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._file: BinaryIO = spool.open("xb")
        self.tensors: dict[str, Entry] = {}
        self.nbytes = 0

    def add(self, name: str, tensor: Tensor, chosen: encoding.Encoding) -> None:
        """Append the sections of a tensor; names must come in order."""
        digests = {}
        for role, values in sorted(chosen.encode(tensor).items()):
            raw = raw_bytes(values)
            digests[role] = digest.of_section(values)
            self._file.write(raw)
            self._file.write(bytes(pad_length(raw.nbytes)))
            self.nbytes += raw.nbytes + pad_length(raw.nbytes)
        dtype = container.dtype_name(tensor.dtype)
        self.tensors[name] = Entry(dtype, tensor.shape, chosen.name, tensor.nnz, digest.of_content(tensor), digests)

    def finish(self, path: Path, manifest: Manifest) -> str:
        """Write header and sections to path, synced to disk, remove the spool and return the root digest."""
        self._file.close()
        head, root = file_head(manifest)
        with path.open("xb") as out, self._spool.open("rb") as sections:
            out.write(head)
            shutil.copyfileobj(sections, out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
        self.close()
        return root

    def close(self) -> None:
        """Let go of the spool and remove it."""
        self._file.close()
        self._spool.unlink(missing_ok=True)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


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
        self._sections = _compare(self.manifest.tensors, found, self._file.size - self._file.data_start, path.name)

    def _header(self, what: str) -> strict_json.JSON:
        raw = self._file.header(MAX_HEADER)
        # FMT-022
        if self._file.data_start % ALIGN:
            raise HeaderMisaligned(f"{what} ends at byte {self._file.data_start}, expected a multiple of {ALIGN}")
        # FMT-023
        text = raw.rstrip(b" ")
        if text[:1] != b"{" or len(raw) - len(text) >= ALIGN:
            raise HeaderPadding(
                f"{what} must begin with a brace and end in fewer than {ALIGN} spaces, "
                f"found {raw[:1]!r} and {len(raw) - len(text)} spaces"
            )
        return strict_json.parse(text, what)

    def info(self, name: str) -> TensorInfo:
        """Return what the manifest says of a tensor."""
        entry = self.manifest.tensors[name]
        nbytes = encoding.ENCODINGS[entry.encoding].size(entry)
        return TensorInfo(
            name, DTYPES[entry.dtype], entry.shape, entry.encoding, entry.nnz, nbytes, entry.content_sha256
        )

    def load(self, name: str) -> Tensor:
        """Return a tensor, every rule about its structure checked; values are views of the mapped file.

        Raises:
            FormatError: FMT-036 or the rule of its encoding that is broken.
        """
        entry = self.manifest.tensors[name]
        sections = {}
        for role in entry.sections:
            section = self._sections[section_name(name, role)]
            sections[role] = self._file.array(section)
            pad = self._sections.get(section.name + "#pad")
            if pad:
                validate.check_pad(self._file.raw(pad), pad.name)
        return encoding.ENCODINGS[entry.encoding].decode(entry, name, sections)

    def load_verified(self, name: str) -> Tensor:
        """Return a tensor, its structure and both kinds of digests checked.

        Raises:
            FormatError: as `load`; SectionDigestMismatch FMT-090, ContentDigestMismatch FMT-091.
        """
        entry = self.manifest.tensors[name]
        for role, expected in entry.sections.items():
            section = self._sections[section_name(name, role)]
            found = digest.of_section(self._file.raw(section))
            # FMT-090
            if found != expected:
                raise SectionDigestMismatch(
                    f"section {section.name!r} has SHA-256 {found}, its manifest says {expected}"
                )
        tensor = self.load(name)
        found = digest.of_content(tensor)
        # FMT-091
        if found != entry.content_sha256:
            raise ContentDigestMismatch(
                f"the content of {name!r} has SHA-256 {found}, its manifest says {entry.content_sha256}"
            )
        return tensor


def _manifest(metadata: dict[str, strict_json.JSON], name: str) -> tuple[Manifest, str]:
    # FMT-029
    if set(metadata) != {"format", MANIFEST_KEY, DIGEST_KEY} or metadata["format"] != "pt":
        raise BadMetadata(
            f"{name} must have a __metadata__ of format 'pt', {MANIFEST_KEY} and {DIGEST_KEY}, found {sorted(metadata)}"
        )
    text, expected = metadata[MANIFEST_KEY], metadata[DIGEST_KEY]
    if not isinstance(text, str) or not isinstance(expected, str):
        raise BadMetadata(f"{name} must have strings in its __metadata__")
    found = digest.of_bytes(text.encode("utf-8", "surrogatepass"))
    # FMT-093
    if found != expected:
        raise ManifestDigestMismatch(f"the manifest of {name} has SHA-256 {found}, the header says {expected}")
    return parse_manifest(text, f"the manifest of {name}"), found


def _compare(
    tensors: Mapping[str, Entry], found: Mapping[str, Section], data_bytes: int, name: str
) -> dict[str, Section]:
    """Return the sections by name after comparing the header with the one layout that the manifest allows."""
    expected = {section.name: section for section in layout(tensors)}
    for tensor, entry in tensors.items():
        implied = set(encoding.plan(entry, tensor))
        # FMT-031
        if set(entry.sections) != implied:
            raise MissingSection(
                f"tensor {tensor!r} lists the sections {sorted(entry.sections)}, "
                f"encoding {entry.encoding} has {sorted(implied)}"
            )
    for section in expected.values():
        other = found.get(section.name)
        # FMT-031
        if other is None:
            raise MissingSection(f"{name} has no section {section.name!r}")
        # FMT-033
        if (other.dtype, other.shape) != (section.dtype, section.shape):
            raise WrongSection(
                f"section {section.name!r} is {other.dtype} {list(other.shape)}, "
                f"expected {section.dtype} {list(section.shape)}"
            )
        # FMT-034
        if (other.begin, other.end) != (section.begin, section.end):
            raise WrongOffsets(
                f"section {section.name!r} stands at {other.begin} to {other.end}, "
                f"expected {section.begin} to {section.end}"
            )
    # FMT-032
    unowned = sorted(set(found) - set(expected))
    if unowned:
        raise UnownedSection(f"{name} has the section {unowned[0]!r}, which belongs to no tensor")
    # FMT-035
    end = max((section.end for section in expected.values()), default=0)
    if end != data_bytes:
        raise WrongFileSize(f"{name} has {data_bytes} bytes of sections, expected {end}")
    return expected


def own(tensor: Tensor) -> Tensor:
    """Return a tensor whose values no longer depend on the file."""
    return replace(tensor, values=np.array(tensor.values))
