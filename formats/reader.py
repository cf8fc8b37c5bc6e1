"""Reading checkpoints: open a folder or a file, look at names, fetch tensors one by one."""

import os
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from formats import digest, validate
from formats.delta_rules import check_delta
from formats.errors import FormatError
from formats.header import Companion, Manifest
from formats.index import INDEX, MAX_INDEX, advice_for, compare_index, expected_files, parse_index
from formats.lazy import Lazy
from formats.records import Checkpoint, DeltaOf, Supported, Tensor, TensorInfo
from formats.regular import read_bounded
from formats.strict_json import JSON
from formats.v1 import PartReader, own


def open_checkpoint(path: str | os.PathLike[str]) -> "Reader":
    """Return a reader of a checkpoint folder or of a single file; a context manager.

    Every header is checked before this returns; no section is read yet.

    Raises:
        FormatError: the first rule that a header, the index or the folder breaks.
        OSError: if path is not there or cannot be read.
    """
    return Reader(Path(path))


def read(path: str | os.PathLike[str], *, verify: bool = True) -> Checkpoint:
    """Return a whole checkpoint, held in memory and independent of its files.

    Args:
        path: a checkpoint folder or a single file.
        verify: compare every digest; without it only the structure is checked.

    Raises:
        FormatError: the first rule that is broken.
    """
    with open_checkpoint(path) as reader:
        load = reader.load_verified if verify else reader.__getitem__
        tensors = {name: own(load(name)) for name in reader.names()}
        return checkpoint_of(reader, tensors, dict(reader.files))


def checkpoint_of(
    reader: "Reader", tensors: Mapping[str, Tensor] | None = None, files: Mapping[str, bytes] | None = None
) -> Checkpoint:
    """Return a reader as a `Checkpoint`; its tensors and files stay lazy unless others are passed."""
    return Checkpoint(
        reader.kind,
        reader if tensors is None else tensors,
        reader.attributes,
        reader.tied,
        reader.files if files is None else files,
        reader.scales,
        reader.delta,
    )


_CHANGE = "put the file back as it was; to edit it, convert the checkpoint to hf, edit it there, and convert again"
"""What to do about a companion that is not as it was written (FMT-094)."""


class Reader(Mapping[str, Tensor]):
    """An open checkpoint: a mapping of names to tensors, each read on access.

    Values are read-only views of the mapped files where possible. All arrays stay valid after the reader is closed.

    Attributes:
        files: companion name -> bytes, read and compared with its digest on access (FMT-094).
        root_sha256: the root digest: of the manifest, or of the index if there are several parts (FMT-092).
    """

    def __init__(self, path: Path) -> None:
        index = None
        self.path = path
        if not path.is_dir():
            self._parts = [PartReader(path)]
        else:
            entries = [entry.name for entry in path.iterdir()]
            index = read_index(path) if INDEX in entries else None
            roots = None if index is None else parse_index(index)
            self._parts = [PartReader(path / name) for name in expected_files(entries, roots, advice_for(path))]
            if any(part.packed for part in self._parts):
                raise FormatError("FMT-177", f"{path.name} holds a packed file; only a file outside a folder is packed")
        manifests = [part.manifest for part in self._parts]
        if index is None:
            _check_whole(manifests[0], path.name)
        else:
            _check_parts(manifests, [part.root for part in self._parts], parse_index(index))
            compare_index(index, manifests[0].spec, [part.root for part in self._parts], [m.tensors for m in manifests])
        self._first = manifests[0]
        self._owner = {name: part for part in self._parts for name in sorted(part.manifest.tensors)}
        validate.check_tied(self._first.tied, self._owner)
        validate.check_scales(self._first.scales, self._owner)
        check_delta(self.kind, self._first.delta, self._owner, {**self._first.tied, **self._first.scales})
        self.files: Mapping[str, bytes] = companions(path if path.is_dir() else path.parent, self._first.files)
        self.root_sha256 = self._parts[0].root if index is None else digest.of_bytes(index)

    @property
    def kind(self) -> str:
        """The kind of the checkpoint, such as ``"model"`` (FMT-012)."""
        return self._first.kind

    @property
    def attributes(self) -> dict[str, JSON]:
        """Its free attributes (FMT-011)."""
        return self._first.attributes

    @property
    def tied(self) -> dict[str, str]:
        """Name that is not stored -> stored name that it equals (FMT-010)."""
        return dict(self._first.tied)

    @property
    def scales(self) -> dict[str, dict[str, str]]:
        """Name of a quantised tensor -> role -> name of the stored tensor that plays it (FMT-016)."""
        return {name: dict(roles) for name, roles in self._first.scales.items()}

    @property
    def delta(self) -> DeltaOf | None:
        """The base and the target of a delta; None for other kinds (FMT-130)."""
        return self._first.delta

    @property
    def state_sha256(self) -> str:
        """The state digest, which does not depend on encodings, parts and companions (FMT-099)."""
        contents = {name: self.info(name).content_sha256 for name in self.names()}
        return digest.of_state(contents, self.tied, self.scales)

    @property
    def memory_bytes(self) -> int:
        """Bytes that reading all tensors takes: values, columns and row pointers, and the content of a packed file."""
        return sum(part.memory_bytes for part in self._parts)

    @property
    def spec(self) -> str:
        """The version of the format that the checkpoint states (FMT-042)."""
        return self._first.spec

    def names(self) -> list[str]:
        """Return the names of the stored tensors in file order, which is sorted order."""
        return list(self._owner)

    def info(self, name: str) -> TensorInfo:
        """Return a tensor's description in the manifest, without reading the tensor. KeyError if it is not stored."""
        return self._owner[name].info(name)

    def section_digests(self, name: str) -> dict[str, str]:
        """Return role -> SHA-256 of the sections of a tensor, as the manifest states them. KeyError as `info`."""
        sections = self._owner[name].manifest.tensors[name].sections
        return {role: stored.sha256 for role, stored in sorted(sections.items())}

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)

    def __len__(self) -> int:
        return len(self._owner)

    def __contains__(self, name: object) -> bool:
        return name in self._owner

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor after checking its structure. KeyError if it is not stored."""
        return self._owner[name].load(name)

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Return tensor[first:last] along its first axis, without reading the values of the rest.

        Only the data that this has to read is checked. KeyError if the tensor is not stored.

        Raises:
            IndexError: if the tensor has fewer than two axes, or the first one has no such slice.
            FormatError: the rule that is broken.
        """
        shape = self.info(name).shape
        if len(shape) < 2 or not 0 <= first <= last <= shape[0]:
            raise IndexError(f"{name!r} of shape {list(shape)} has no rows {first} to {last}")
        return self._owner[name].load_slice(name, first, last)

    def load_verified(self, name: str, support: Supported | None = None) -> Tensor:
        """Return a tensor after checking its structure and its digests. KeyError if it is not stored.

        Args:
            name: the tensor's name.
            support: a verified tensor of the same `origin`, whose support is then not decoded again.
        """
        return self._owner[name].load_verified(name, support)

    def origin(self, name: str) -> Hashable:
        """Return what the support of a tensor is decoded from: equal origins mean equal supports.

        None for a dense tensor. KeyError if it is not stored.
        """
        return self._owner[name].origin(name)

    def verify(self) -> None:
        """Verify all tensors, all digests and all companions (FMT-095).

        Raises:
            FormatError: the first rule that is broken.
        """
        for name in self._owner:
            self.load_verified(name)
        for name in self.files:
            self.files[name]

    def close(self) -> None:
        """Release the files; arrays that were returned keep the mappings that they view."""
        self._owner = {}
        self._parts = []

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def companions(folder: Path, entries: Mapping[str, Companion]) -> Lazy[bytes]:
    """Return companion name -> bytes; each access reads the file and compares it with its digest.

    An access raises FormatError: FMT-102 if the file is not there, FMT-094 if its size or digest differs.
    """

    def content(name: str) -> bytes:
        path, entry = folder / name, entries[name]
        if not path.is_file():
            raise FormatError("FMT-102", f"companion {name!r} is not there; {_CHANGE}")
        data = read_bounded(path, entry.nbytes)
        if data is None or len(data) != entry.nbytes or digest.of_bytes(data) != entry.sha256:
            raise FormatError(
                "FMT-094", f"companion {name!r} is not the one that was written with the checkpoint; {_CHANGE}"
            )
        return data

    return Lazy(entries, content)


def read_index(folder: Path) -> bytes:
    """Return the bytes of the index of a folder (FMT-101)."""
    data = read_bounded(folder / INDEX, MAX_INDEX)
    if data is None:
        raise FormatError("FMT-101", f"the index has more than {MAX_INDEX} bytes")
    return data


def _check_whole(manifest: Manifest, name: str) -> None:
    if manifest.part:
        raise FormatError("FMT-048", f"{name} is part {manifest.part} of a checkpoint; open its folder")


def _check_parts(manifests: list[Manifest], digests: list[str], roots: list[str]) -> None:
    """Verify that the parts are those of the index, in order, and agree with part 1 (FMT-104)."""
    first = manifests[0]
    last = ""
    for i, manifest in enumerate(manifests, start=1):
        if digests[i - 1] != roots[i - 1]:
            raise FormatError("FMT-104", f"part {i} has the manifest {digests[i - 1]}, the index names {roots[i - 1]}")
        if manifest.part != i:
            raise FormatError("FMT-104", f"part {i} says that it is part {manifest.part}")
        if (manifest.kind, manifest.spec) != (first.kind, first.spec):
            raise FormatError("FMT-104", f"part {i} is a {manifest.kind} of version {manifest.spec}, part 1 another")
        if i > 1 and (manifest.attributes or manifest.tied or manifest.files or manifest.scales):
            raise FormatError(
                "FMT-104", f"part {i} has attributes, tied names, scales or files; only part 1 may have them"
            )
        if not manifest.tensors or min(manifest.tensors) <= last:
            raise FormatError(
                "FMT-104", f"part {i} must hold tensors, and all of them after {last!r} of the part before"
            )
        last = max(manifest.tensors)
