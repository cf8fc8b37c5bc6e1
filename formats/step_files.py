"""The files in a folder of steps: their names, the lock, and which of them lead to the newest version (FMT-176)."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from formats import atomic, delta
from formats.errors import FormatError
from formats.reader import Reader, open_checkpoint
from formats.records import Checkpoint

MODEL, DELTA = "model", "delta"
"""The kinds of checkpoint that a file may hold; file names end in the kind."""
ATTRIBUTE = "published"
"""The attribute that every version has: an object with its run and its number."""
CHAIN = 32
"""Most deltas that are applied at once, because each is an open file."""
_FILE = re.compile(r"(\d{6,18})\.(model|delta)")
_LEFTOVER = re.compile(rf"\.({_FILE.pattern})\.tmp-[0-9a-f]{{16}}")


class Hole(FormatError):
    """The versions in a folder do not lead to its newest one, or they changed while they were listed."""


class Lock:
    """The lock of a file; the file is created if it does not exist, and is not removed (FMT-176.4)."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Take the lock.

        Raises:
            FormatError: FMT-176 with the given text if another process has it.
            OSError: if the file cannot be made, or the file system has no locks.
        """
        self._path, self._process = path, os.getpid()
        try:
            self._handle = atomic.lock_file(path)
        except BlockingIOError:
            raise FormatError("FMT-176", refusal) from None

    def is_there(self) -> bool:
        """Return whether the lock is held and the file is still the one that was locked."""
        return self._handle >= 0 and atomic.is_file_of(self._path, self._handle)

    def close(self) -> None:
        """Release the lock; a second call does nothing, nor does a child that was forked from the holder."""
        if self._handle >= 0:
            if os.getpid() == self._process:
                # a forked child may still have the file open, which would go on to hold the lock
                atomic.unlock(self._handle)
            os.close(self._handle)
        self._handle = -1


def file_name(number: int, kind: str) -> str:
    """Return the name of the file of a version: ``000007.delta``."""
    return f"{number:06d}.{kind}"


def numbers_in(folder: Path) -> tuple[set[int], set[int]]:
    """Return the numbers of whole checkpoints and of deltas in a folder; both empty if it is missing (FMT-176.3)."""
    numbers: dict[str, set[int]] = {MODEL: set(), DELTA: set()}
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        names = []
    for name in names:
        if (named := _FILE.fullmatch(name)) and name == file_name(int(named[1]), named[2]):
            numbers[named[2]].add(int(named[1]))
    return numbers[MODEL], numbers[DELTA]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of killed publishers, because nobody writes these versions again (FMT-166)."""
    for entry in folder.iterdir():
        if named := _LEFTOVER.fullmatch(entry.name):
            atomic.remove_leftovers(folder / named[1])


def advanced(
    folder: Path, current: Callable[[], Checkpoint | None], have: int | None, run: str | None
) -> Checkpoint | None:
    """Return a newer version than `have`, at most `CHAIN` deltas further; None if `have` is the newest of this run.

    Its tensors are made, and compared with their digests, on access.

    Args:
        folder: the folder of the versions.
        current: returns version `have`; called only if deltas are applied to it.
        have: the number of the version to start from, None for none.
        run: the run that the versions must belong to; None for any.

    Raises:
        FormatError: FMT-176 for another run, a file that does not hold the version of its name, or versions that do not
            lead to the newest one; otherwise as `formats.delta.apply`.
    """
    numbers = None
    while True:
        before, numbers = numbers, numbers_in(folder)
        try:
            if max(numbers[0] | numbers[1], default=None) == have:
                if have is not None:  # another run may have ended with the same number (FMT-176.8)
                    kind = DELTA if have in numbers[1] else MODEL
                    newest = folder / file_name(have, kind)
                    _check_version(_opened(newest), newest, have, kind, run)
                return None
            start, deltas = _way(folder, *numbers, have)
            files = [(number, DELTA) for number in deltas[:CHAIN]]
            files[:0] = [] if start is None else [(start, MODEL)]
            readers = [_opened(folder / file_name(*file)) for file in files]
            break
        except (FileNotFoundError, Hole):
            # the publisher may have added or removed files meanwhile; if it did not, this is an error
            if numbers == before:
                raise
    for (number, kind), reader in zip(files, readers, strict=True):
        run = _check_version(reader, folder / file_name(number, kind), number, kind, run)
    chain = [delta.verified(reader) for reader in readers]
    base = current() if start is None else chain.pop(0)
    assert base is not None
    return delta.apply(base, chain)


def _opened(path: Path) -> Reader:
    # elsewhere a checkpoint may be a folder, but a publisher writes single files only (FMT-176)
    if path.is_dir():
        raise FormatError("FMT-176", f"{path} is a folder, expected a single file; it comes from no publisher")
    return open_checkpoint(path)


def _way(folder: Path, models: set[int], deltas: set[int], have: int | None) -> tuple[int | None, range]:
    """Return the whole checkpoint to start from, None for version `have`, and the deltas to the newest (FMT-176.7).

    Raises:
        Hole: FMT-176 if no checkpoint and deltas lead to the newest version (FMT-176.8).
    """
    newest = max(models | deltas, default=-1)
    if have is not None and newest < have:
        ends = f"ends at version {newest}" if newest >= 0 else "has no version"
        raise Hole("FMT-176", f"{folder} {ends}, this follower has version {have}; name another file to follow into")
    for start in (have, max(models, default=None)):
        if start is not None and deltas.issuperset(range(start + 1, newest + 1)):
            return (None if start == have else start), range(start + 1, newest + 1)
    raise Hole(
        "FMT-176", f"{folder} has no way to version {newest}: a delta or whole checkpoint is gone; use a new folder"
    )


def published_as(checkpoint: Checkpoint | Reader, place: Path) -> tuple[str, int]:
    """Return the run and the number of a version (FMT-176.2).

    Raises:
        FormatError: FMT-176 if its attributes do not state both.
    """
    match checkpoint.attributes.get(ATTRIBUTE):
        case {"run": str(run), "version": int(number), **others} if not others and not isinstance(number, bool):
            if number >= 0:
                return run, number
    raise FormatError(
        "FMT-176", f"{place} is no published version: its attribute {ATTRIBUTE!r} must say run and version"
    )


def _check_version(reader: Reader, place: Path, number: int, kind: str, run: str | None) -> str:
    """Verify that a file holds the expected number, kind and run, and return its run."""
    actual, version = published_as(reader, place)
    if run is not None and actual != run:
        raise FormatError("FMT-176", f"{place} belongs to run {actual!r}, not to {run!r}; name another folder or file")
    if (version, reader.kind) != (number, kind):
        raise FormatError("FMT-176", f"{place} holds a {reader.kind} of version {version}; it was renamed or replaced")
    return actual
