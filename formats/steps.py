"""The weights of every step of a training run, published into a folder and followed by other processes (FMT-176).

    steps/000000.model     a whole checkpoint: version 0, and another one after every `every` versions
    steps/000001.delta     from version 0 to version 1
    steps/lock             locked as long as the publisher lives

with Publisher("steps", "run-7") as publisher:          with Follower("steps", "current.sparse") as follower:
    publisher.publish(checkpoint)                           follower.poll()

Every file appears complete under its name, and the highest number is the newest version. Nothing else says which one
is newest, so a process that is killed leaves nothing to repair. `current.sparse` is one file and always exactly one
version. Start with `Publisher.publish`.
"""

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np

from formats import atomic, delta, digest, validate
from formats.errors import FormatError
from formats.header import ZSTD
from formats.lazy import Lazy
from formats.reader import open_checkpoint
from formats.records import Array, Checkpoint, Dense, Mask, Sparse, Tensor
from formats.step_files import (
    ATTRIBUTE,
    DELTA,
    MODEL,
    Lock,
    advanced,
    file_name,
    numbers_in,
    published_as,
    remove_leftovers,
)
from formats.strict_json import JSON
from formats.writer import FILE, check_file_name, write_file


class Publisher:
    """Publishes the versions of one run into a folder, which it keeps locked until it is closed.

    It continues after the newest version of the folder, which it reads and verifies first (FMT-176.5).

    Attributes:
        run: the name of the run.
        version: the number of the newest version; None before the first one.
        model: the newest version, in memory and read-only; None before the first one. A restarted trainer may go on
            from a copy of it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: str,
        *,
        every: int = 100,
        keep: int = 200,
        compress: str | None = None,
    ) -> None:
        """Lock the folder, which is made if it does not exist, and load its newest version.

        Args:
            folder: where the versions are; its parent must exist.
            run: a name that no other run has, not even one whose folder was deleted, because followers tell runs
                apart by it.
            every: versions from one whole checkpoint to the next, at least 1.
            keep: deltas that stay, at least 0, for followers that are behind. Deltas after the newest whole checkpoint
                stay in any case, and so do the two newest whole checkpoints.
            compress: as for `formats.write_file`; ``"file"`` packs the deltas, and compresses the sections of whole
                checkpoints, which a reader then expands one by one.

        Raises:
            FormatError: FMT-176 if another publisher has the folder, it belongs to another run or an option is out of
                range; the clause that a file of it breaks.
            OSError: if the folder cannot be made or written to.
        """
        if not isinstance(run, str) or not isinstance(every, int) or not isinstance(keep, int):
            raise FormatError(
                "FMT-176", f"run is {run!r}, every {every!r}, keep {keep!r}; run is a text, the others whole numbers"
            )
        if every < 1 or keep < 0 or not run:
            raise FormatError(
                "FMT-176", f"run is {run!r}, every {every}, keep {keep}; name the run, every from 1 and keep from 0"
            )
        if compress not in (None, ZSTD, FILE):
            raise FormatError("FMT-176", f"compress is {compress!r}; choose {ZSTD!r}, {FILE!r} or None")
        self.folder, self.run = Path(folder).absolute(), run
        self._every, self._keep, self._compress = every, keep, compress
        if not self.folder.parent.is_dir():
            raise FormatError("FMT-176", f"{self.folder.parent} does not exist; make it first")
        if self.folder.exists() and not self.folder.is_dir():
            raise FormatError("FMT-176", f"{self.folder} is a file; name a folder")
        self.folder.mkdir(exist_ok=True)
        atomic.check_file(self.folder / "lock")
        self._lock = Lock(
            self.folder / "lock",
            f"another Publisher, of this or another process, publishes into {folder}; close it first",
        )
        self.version: int | None = None
        self.model: Checkpoint | None = None
        try:
            remove_leftovers(self.folder)
            while (after := advanced(self.folder, lambda: self.model, self.version, run)) is not None:
                self.model, self.version = _in_memory(after), published_as(after, self.folder)[1]
        except BaseException:
            self.close()
            raise

    def publish(self, model: Checkpoint, *, base: str | None = None) -> int:
        """Publish a model as the next version, and return the number of the newest version.

        A model whose tensors equal those of the newest version is not published again, so the number stays, whatever
        its attributes. A call that failed can be repeated: a version that is out is not published twice, and a whole
        checkpoint that is due is written.

        Args:
            model: of kind ``"model"``, without companions; it may change as soon as this returns. Its attributes are
                published with it.
            base: state digest (FMT-099) of the version that the step began with, if it must be the newest one.

        Raises:
            FormatError: FMT-176 for another kind, another base or a folder that was removed; the clause that the model
                breaks. Nothing is published.
            OSError: if the disk is full or fails. `version` shows whether the version was published before that.
        """
        if not isinstance(model, Checkpoint):
            raise TypeError(
                f"a {type(model).__name__} was given; publish a Checkpoint, for example that of "
                "formats.dialects.torch_module.from_module"
            )
        if model.kind != "model" or model.delta is not None:
            kind = f"{model.kind!r}" + (" with `delta` set" if model.kind == "model" else "")
            raise FormatError("FMT-176", f"a checkpoint of kind {kind} was given, models are published")
        if model.files:
            raise FormatError(
                "FMT-013",
                f"the model has the companions {', '.join(sorted(model.files))}, which versions do not have; publish "
                "dataclasses.replace(model, files={}) and copy them once",
            )
        if not self._lock.is_there():
            raise FormatError(
                "FMT-176", f"{self.folder} was removed or replaced, or this publisher is closed; make a new Publisher"
            )
        if base is not None and base != self.state_sha256:
            raise FormatError(
                "FMT-176",
                f"the step began with a model of state digest {base}, version {self.version} has {self.state_sha256}; "
                "go on from `Publisher.model`",
            )
        number = 0 if self.version is None else self.version + 1
        attributes: dict[str, JSON] = {**model.attributes, ATTRIBUTE: {"run": self.run, "version": number}}
        # copied first, so that the model that is compared is also the one that is written, even if training goes on
        after = replace(_copied(model), attributes=deepcopy(attributes))
        if self.model is None:
            after = _with_digests(after, delta.contents(after))
            self._publish(after, number, MODEL, after)
        elif (change := _difference(self.model, after)) is not None:
            assert change.delta is not None
            digests = delta.contents(self.model)
            digests |= {name: new for name, (_, new) in change.delta.tensors.items() if new is not None}
            after = _with_digests(after, {name: digests[name] for name in after.tensors})
            self._publish(change, number, DELTA, after)
        else:
            after, number = self.model, number - 1
        models, _ = numbers_in(self.folder)
        if not models or number - max(models) >= self._every:
            self._write(after, number, MODEL)
        self._remove_old(number)
        return number

    @property
    def state_sha256(self) -> str | None:
        """The state digest (FMT-099) of the newest version; None before the first one."""
        if self.model is None:
            return None
        return digest.of_state(delta.contents(self.model), self.model.tied, self.model.scales)

    def _publish(self, checkpoint: Checkpoint, number: int, kind: str, after: Checkpoint) -> None:
        """Write a version, and make it the newest one as soon as its file exists, even if a later step fails.

        Raises:
            FormatError: FMT-176 if the file is there already.
        """
        path = self.folder / file_name(number, kind)
        if path.exists():
            raise FormatError("FMT-176", f"{path} is there already, from another publisher; make a new Publisher")
        try:
            self._write(checkpoint, number, kind)
        finally:
            if path.exists():
                self.model, self.version = after, number

    def _write(self, checkpoint: Checkpoint, number: int, kind: str) -> None:
        compress = ZSTD if self._compress == FILE and kind == MODEL else self._compress
        path = self.folder / file_name(number, kind)
        try:
            write_file(path, checkpoint, compress=compress)
        except FormatError as error:
            # a packed file must not expand by more than 1,024 times; sections that would are stored as they are
            if error.clause != "FMT-177" or compress != FILE:
                raise
            write_file(path, checkpoint, compress=ZSTD)

    def _remove_old(self, number: int) -> None:
        # FMT-176.6: the newest version stays reachable. The whole checkpoint before stays for a reader that began there
        models, deltas = numbers_in(self.folder)
        kept_models = sorted(models)[-2:]
        for old in models - {*kept_models}:
            (self.folder / file_name(old, MODEL)).unlink()
        for old in deltas:
            if old <= min(kept_models[-1], number - self._keep):
                (self.folder / file_name(old, DELTA)).unlink()

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Follower:
    """Keeps one file equal to the newest version of a folder, and holds a lock beside the file until it is closed.

    The file is replaced atomically, so a reader has exactly one version, and keeps it while it has the file open
    (FMT-111). The file is the only state of a follower, so a follower that was killed continues from it.

    Attributes:
        version: the number of the version that the file holds; None before the first one.
        run: the run that it belongs to; None before the first version.
    """

    def __init__(self, folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
        """Lock the file; the folder may appear later.

        Raises:
            FormatError: FMT-112 or FMT-177 for a name that a single file must not have; FMT-176 if another follower has
                the file, or it is no published version.
            OSError: if the file cannot be written.
        """
        self.folder, self.path = Path(folder).absolute(), Path(path).absolute()
        if not self.path.parent.is_dir():
            raise FormatError("FMT-176", f"{self.path.parent} does not exist; make it first")
        if self.path.resolve().parent == self.folder.resolve():
            raise FormatError("FMT-176", f"{self.path} lies among the versions; name a file beside {self.folder}")
        if self.folder.exists() and not self.folder.is_dir():
            raise FormatError("FMT-176", f"{self.folder} is a file; name the folder of the versions")
        check_file_name(self.path, None)
        atomic.check_file(self.path)
        if self.path.exists():
            # looked at before it is locked, so that no lock is left beside a file that is refused
            published_as(self._current(), self.path)
        lock = self.path.with_name(f".{self.path.name}.lock")
        self._lock = Lock(lock, f"another Follower, of this or another process, follows into {path}; name another file")
        self.run: str | None = None
        self.version: int | None = None
        try:
            if self.path.exists():
                self.run, self.version = published_as(self._current(), self.path)
        except BaseException:
            self.close()
            raise

    def poll(self) -> int | None:
        """Replace the file if there is a newer version, and return its number; None if there is nothing new.

        The content digests of all results are compared on the way (FMT-137.2, FMT-138). Deltas are applied to the file
        if all of them are there, at most 32 in one call; else the newest whole checkpoint is loaded first.

        Raises:
            FormatError: FMT-176 if the folder belongs to another run, ends before the version of the file, or lacks
                versions on the way to its newest one; FMT-137 if the file is not the version that it says it is; the
                clause that a file breaks. The file is left as it was.
            OSError: if the disk is full or fails; the file is left as it was, and the next call tries again.
        """
        if self.version is not None and not self.path.exists():
            self.version = None  # the file was removed; it is made again, from the same run
        after = advanced(self.folder, self._current, self.version, self.run)
        if after is None:
            return None
        if not self._lock.is_there():
            raise FormatError(
                "FMT-176", f"the lock of {self.path} was removed, or this follower is closed; make a new Follower"
            )
        write_file(self.path, after)
        self.run, self.version = published_as(after, self.path)
        return self.version

    def _current(self) -> Checkpoint:
        reader = open_checkpoint(self.path)
        if reader.kind != MODEL:
            raise FormatError("FMT-176", f"{self.path} is a {reader.kind}, and a model is followed; name another file")
        return delta.verified(reader)

    def close(self) -> None:
        """Unlock the file."""
        self._lock.close()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _difference(before: Checkpoint, after: Checkpoint) -> Checkpoint | None:
    """Return the delta between two models with the attributes of the second; None if they are equal."""
    try:
        return delta.diff(before, after)
    except FormatError as error:
        # neither is a delta, so FMT-131 says that they are equal
        if error.clause != "FMT-131":
            raise
        return None


def _copied(model: Checkpoint) -> Checkpoint:
    """Return a model's copy, which shares no memory; its arrays are read-only, because its digests are trusted."""
    tensors = {name: _copy(model.tensors[name], name) for name in model.tensors}
    scales = {name: dict(roles) for name, roles in model.scales.items()}
    return replace(model, tensors=tensors, tied=dict(model.tied), scales=scales)


def _copy(tensor: Tensor, name: str) -> Tensor:
    validate.check_record(tensor, name)
    match tensor:
        case Dense(values):
            return Dense(_frozen(values))
        case Sparse(shape, indptr, indices, values):
            return Sparse(shape, _frozen(indptr), _frozen(indices), _frozen(values))
    return Mask(tensor.shape, _frozen(tensor.indptr), _frozen(tensor.indices))


def _frozen(array: Array) -> Array:
    copied = np.array(array)
    copied.flags.writeable = False
    return copied


def _with_digests(model: Checkpoint, digests: Mapping[str, str]) -> Checkpoint:
    """Return a model whose content digests are known, so that nobody hashes its tensors again."""
    return replace(model, tensors=Lazy(model.tensors, model.tensors.__getitem__, digest=digests.__getitem__))


def _in_memory(model: Checkpoint) -> Checkpoint:
    copied = _copied(model)
    return _with_digests(copied, delta.contents(copied))
