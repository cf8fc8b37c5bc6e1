"""Writing checkpoints: a folder of one or more parts, or a single file."""

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from formats import atomic, digest, strict_json, validate
from formats.compress import pack_file
from formats.delta_rules import check_delta
from formats.encoding import check_option
from formats.errors import FormatError
from formats.header import ZSTD, Companion, Entry, Manifest
from formats.index import INDEX, STOCK, WHOLE, index_text, part_name
from formats.lazy import promised
from formats.records import Checkpoint
from formats.v1 import MAX_TENSORS, Packed, Packer, PartWriter

SHARD_BYTES = 5_000_000_000
"""Bytes of sections that a part may hold by default; common tools use the same limit (FMT-085)."""
FILE = "file"
"""The value of `compress` that makes a packed file (FMT-177)."""


def write(
    path: str | os.PathLike[str],
    checkpoint: Checkpoint,
    *,
    encoding: str = "auto",
    compress: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint as a new folder, or as a new packed file; the same options give the same bytes (FMT-080).

    Args:
        path: the folder to make, or the file; missing parents are made.
        checkpoint: the checkpoint to write. Each tensor is fetched once, in name order, and released before the next.
        encoding: how to store sparse tensors (FMT-084): ``"auto"`` takes the fewest bytes for each tensor. A dense
            tensor is stored dense in any case, because the writer never invents a support.
        compress: ``"zstd"`` compresses the sections that become smaller. Readers then need that feature, and expand
            such a section in memory instead of mapping it. ``"file"`` makes one packed file, as `write_file` does,
            which is the smallest form of a delta of few changes.
        shard_bytes: bytes of sections that a part may hold before the next tensor opens another part.

    Raises:
        DestinationExists: FMT-110 if path is there.
        FormatError: the rule that is broken. Nothing is left on disk.
    """
    if shard_bytes < 1:
        raise FormatError("FMT-084", f"shard_bytes is {shard_bytes}, expected at least 1")
    if compress == FILE:
        if shard_bytes != SHARD_BYTES:
            raise FormatError("FMT-084", "a packed file has one part; leave shard_bytes out")
        atomic.refuse_existing(Path(path))
        write_file(path, checkpoint, encoding=encoding, compress=compress)
        return
    names = _check(checkpoint, encoding, compress)
    with atomic.new_folder(Path(path)) as folder:
        files = _write_companions(folder, checkpoint)
        with Packer(encoding, compress) as packer, _Parts(folder, checkpoint, files, names, shard_bytes) as parts:
            for name in names:
                parts.add(name, _packed(packer, checkpoint, name))
            parts.finish()


def write_file(
    path: str | os.PathLike[str], checkpoint: Checkpoint, *, encoding: str = "auto", compress: str | None = None
) -> None:
    """Write a checkpoint without companions as one file, in place of an older one if there is one.

    Args:
        path: the file; missing parents are made. Names that loaders of dense models look for are refused. The name of
            a packed file must not end in ``.safetensors``, that of any other file must not end in ``.zst``.
        checkpoint: as for `write`, with no files.
        encoding: as for `write`.
        compress: as for `write`. ``"file"`` makes a packed file, which readers expand in memory as a whole.

    Raises:
        FormatError: FMT-112 or FMT-177 for the name, FMT-013 if there are companions, otherwise as `write`. An older
            file at path is then left as it was.
    """
    path = Path(path)
    check_file_name(path, compress)
    if checkpoint.files:
        raise FormatError(
            "FMT-013",
            f"a single file carries no companions, found {sorted(checkpoint.files)}; write a folder, for example with "
            "compress zstd",
        )
    names = _check(checkpoint, encoding, compress)
    with (
        atomic.new_file(path) as temporary,
        PartWriter(temporary.with_name(temporary.name + ".spool"), names) as part,
        Packer(encoding, None if compress == FILE else compress) as packer,
    ):
        for name in names:
            part.add(name, _packed(packer, checkpoint, name))
        manifest = _manifest(checkpoint, part.tensors, {}, 0)
        if compress != FILE:
            part.finish(temporary, manifest)
            return
        plain = temporary.with_name("plain")
        part.finish(plain, manifest)
        with plain.open("rb") as source, temporary.open("xb") as target:
            pack_file(source, target, plain.stat().st_size)
            target.flush()
            os.fsync(target.fileno())


def check_file_name(path: Path, compress: str | None) -> None:
    """Refuse a name that others would read differently than a single file of this format, packed or not.

    Raises:
        FormatError: FMT-112 for a name of dense models, FMT-177 for one of the other kind.
    """
    # a case that differs counts, because some file systems ignore it, and so do loaders
    if path.name.lower().endswith(".safetensors" if compress == FILE else ".zst"):
        expected = "a packed file" if compress == FILE else "a file that is not packed"
        raise FormatError(
            "FMT-177",
            f"{path.name} is no name of {expected}: others would read it differently; "
            "a packed file (compress 'file') ends in .zst, or in what is no known format",
        )
    if STOCK.fullmatch(path.name):
        raise FormatError(
            "FMT-112", f"{path.name} is a name of dense models: a loader would open it and find no weights it knows"
        )


def _check(checkpoint: Checkpoint, encoding: str, compress: str | None) -> list[str]:
    """Verify everything that needs no tensor, and return the names of the tensors in file order."""
    check_option(encoding)
    if compress not in (None, ZSTD, FILE):
        raise FormatError("FMT-084", f"compress is {compress!r}, expected {ZSTD!r}, {FILE!r} or None")
    validate.check_kind(checkpoint.kind)
    names = list(checkpoint.tensors)
    for name in names:
        validate.check_name(name)
    validate.check_tied(checkpoint.tied, set(names))
    validate.check_scales(checkpoint.scales, set(names))
    check_delta(checkpoint.kind, checkpoint.delta, set(names), {**checkpoint.tied, **checkpoint.scales})
    if not isinstance(checkpoint.attributes, dict):
        raise FormatError("FMT-011", f"attributes are a {type(checkpoint.attributes).__name__}, expected a dict")
    # FMT-011, FMT-027: attributes are at level 2, because the object of the manifest encloses them
    strict_json.check_plain(checkpoint.attributes, "attributes", level=2)
    validate.check_file_names(list(checkpoint.files))
    return sorted(names)


def _packed(packer: Packer, checkpoint: Checkpoint, name: str) -> Packed:
    """Return a tensor ready to be written; its content is compared with the digest that its source states.

    A thread computes the digests, so they are compared when the entry is requested. If they differ, the tensor is
    fetched again with all checks, so that its source raises the clause that is broken.

    Raises:
        FormatError: as `Packer.pack`.
    """
    tensor, promise = promised(checkpoint.tensors, name)
    packed = packer.pack(name, tensor)

    def entry() -> Entry:
        manifest_entry = packed.entry()
        if promise not in (None, manifest_entry.content_sha256):
            checkpoint.tensors[name]
            raise FormatError(
                "FMT-091",
                f"{name!r} is read with content {manifest_entry.content_sha256}, and then with {promise}; try again",
            )
        return manifest_entry

    return replace(packed, entry=entry)


def _write_companions(folder: Path, checkpoint: Checkpoint) -> dict[str, Companion]:
    files = {}
    for name in checkpoint.files:
        data = checkpoint.files[name]
        if not isinstance(data, bytes):
            raise FormatError("FMT-015", f"companion {name!r} is a {type(data).__name__}, expected bytes")
        validate.check_file_size(name, len(data))
        atomic.write_bytes(folder / name, data)
        files[name] = Companion(len(data), digest.of_bytes(data))
    return files


def _manifest(checkpoint: Checkpoint, tensors: dict[str, Entry], files: dict[str, Companion], part: int) -> Manifest:
    # FMT-104: only the first part holds the data that concerns the whole checkpoint
    if part > 1:
        return Manifest(checkpoint.kind, tensors, part=part)
    return Manifest(
        checkpoint.kind,
        tensors,
        checkpoint.attributes,
        checkpoint.tied,
        files,
        part,
        checkpoint.scales,
        checkpoint.delta,
    )


class _Parts:
    """Writes the parts of a folder in turn, and names them at the end, because a name states the number of parts."""

    def __init__(
        self, folder: Path, checkpoint: Checkpoint, files: dict[str, Companion], names: list[str], shard_bytes: int
    ) -> None:
        self._folder = folder
        self._checkpoint = checkpoint
        self._files = files
        self._shard_bytes = shard_bytes
        self._roots: list[str] = []
        self._tensors: list[list[str]] = []
        self._open = PartWriter(folder / "spool", names[:MAX_TENSORS])
        self._names = names

    def add(self, name: str, packed: Packed) -> None:
        """Add a tensor to the open part, or to a new one if that is full (FMT-085)."""
        part = self._open
        full = part.nbytes + packed.padded_size > self._shard_bytes or len(part.tensors) == MAX_TENSORS
        if part.tensors and full:
            self._close(len(self._roots) + 1)
            # the gap for the next header is sized as if that part will hold as many tensors as this one
            first = self._names.index(name)
            self._open = PartWriter(self._folder / "spool", self._names[first : first + len(part.tensors)])
        self._open.add(name, packed)

    def _close(self, number: int) -> None:
        manifest = _manifest(self._checkpoint, self._open.tensors, self._files, number)
        self._roots.append(self._open.finish(self._folder / f"part-{number}", manifest))
        self._tensors.append(list(self._open.tensors))

    def finish(self) -> None:
        """Close the last part, name the parts and write the index if there are several (FMT-100)."""
        if not self._roots:
            self._close(0)
            (self._folder / "part-0").rename(self._folder / WHOLE)
            return
        self._close(len(self._roots) + 1)
        count = len(self._roots)
        for i in range(1, count + 1):
            (self._folder / f"part-{i}").rename(self._folder / part_name(i, count))
        spec = _manifest(self._checkpoint, {}, {}, 1).spec
        atomic.write_bytes(self._folder / INDEX, index_text(spec, self._roots, self._tensors).encode())

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()
