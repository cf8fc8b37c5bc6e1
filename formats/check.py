"""Finds every broken rule of a file or folder, not only the first.

for place, error in violations("model-sparse"):
    print(place, error)
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from formats import layout
from formats.container import LENGTH
from formats.dialects.coded import is_coded, read_coded
from formats.errors import FormatError
from formats.header import MANIFEST_KEY, MAX_HEAD, parse_entry
from formats.index import INDEX, expected_files, parse_index
from formats.reader import Reader, checkpoint_of, companions, read_index
from formats.regular import open_regular
from formats.v1 import PartReader
from formats.validate import check_limit

Violation = tuple[str, FormatError]


def violations(path: str | os.PathLike[str], *, limit: int | None = None) -> Iterator[Violation]:
    """Yield the place and the error of each broken rule, each pair once.

    If the header of a file is refused, its error comes first, and then the errors of the tensor entries that can still
    be parsed. Otherwise every tensor of the file is read and compared with its digests.

    Args:
        path: a checkpoint folder or a single file.
        limit: bytes that all tensors may take together once expanded (FMT-098); None sets no limit.

    Raises:
        OSError: if path is not there or cannot be read.
        ExpansionTooLarge: FMT-098, before a tensor is read.
    """
    path, reported = Path(path), set()
    if limit is not None:
        check_limit(_memory_bytes(path), limit, str(path))
    for place, error in _of_folder(path) if path.is_dir() else _of_file(path):
        if (place, str(error)) not in reported:
            reported.add((place, str(error)))
            yield place, error


def _memory_bytes(path: Path) -> int:
    """Return the bytes of all tensors in memory; a part with a refused header counts 0, because it is not read."""
    total = 0
    for part in path.glob("model.sparse*.safetensors") if path.is_dir() else [path]:
        with suppress(FormatError):
            total += PartReader(part).memory_bytes
    return total


def _of_folder(folder: Path) -> Iterator[Violation]:
    entries = sorted(entry.name for entry in folder.iterdir())
    roots = None
    if INDEX in entries:
        try:
            roots = parse_index(read_index(folder))
        except FormatError as error:
            yield INDEX, error
    parts = [name for name in entries if name.startswith("model.sparse") and name.endswith(".safetensors")]
    sound = True
    try:
        parts = expected_files(entries, roots)
    except FormatError as error:
        sound = False
        yield folder.name, error
    for name in parts:
        for violation in _of_part(folder / name):
            sound = False
            yield violation
    if not sound and parts:
        yield from _companions(folder, folder / parts[0])
        return
    yield from _of_whole(folder)
    if parts:
        yield from _companions(folder, folder / parts[0])


def _companions(folder: Path, first: Path) -> Iterator[Violation]:
    try:
        entries = PartReader(first).manifest.files
    except (FormatError, OSError):
        return
    files = companions(folder, entries)
    for name in files:
        yield from _try(name, partial(files.__getitem__, name))


def _of_file(path: Path) -> Iterator[Violation]:
    sound = True
    for violation in _of_part(path):
        sound = False
        yield violation
    if sound:
        yield from _of_whole(path)
    # FMT-102: companions of a single file lie beside it
    yield from _companions(path.parent, path)


def _of_whole(path: Path) -> Iterator[Violation]:
    """Yield the violations between parts that are each valid, and those in matrices of codes (QNT-009.3)."""
    try:
        checkpoint = checkpoint_of(Reader(path))
    except FormatError as error:
        yield path.name, error
        return
    for name in sorted(checkpoint.scales) if is_coded(checkpoint) else ():
        yield from _try(f"{path.name}: {name}", partial(read_coded, checkpoint, name))


def _of_part(path: Path) -> Iterator[Violation]:
    try:
        part = PartReader(path)
        part.expand()
    except FormatError as error:
        yield path.name, error
        yield from _of_entries(path)
        return
    for name in sorted(part.manifest.tensors):
        place = f"{path.name}: {name}"
        yield from _try(place, partial(part.check_pads, name))
        yield from _try(place, partial(part.check_sections, name))
        yield from _try(place, partial(part.check_content, name))


def _of_entries(path: Path) -> Iterator[Violation]:
    """Yield the violations of the tensor entries in a manifest whose file was refused."""
    entries = _lenient(path)
    for name in sorted(entries) if isinstance(entries, dict) else ():
        yield from _try(f"{path.name}: {name}", partial(_check_entry, name, entries[name]))


def _check_entry(name: str, entry: Any) -> None:
    layout.plan(parse_entry(name, entry), name)


def _lenient(path: Path) -> Any:
    """Return the tensor entries of a manifest, whose JSON need not be canonical; None if they cannot be found."""
    try:
        with open_regular(path) as file:
            n = int.from_bytes(file.read(LENGTH.size), "little")
            # FMT-021, FMT-096: the length is tested before it is used, because it may be forged
            if n > min(MAX_HEAD, os.fstat(file.fileno()).st_size) - LENGTH.size:
                return None
            header = json.loads(file.read(n))
        return json.loads(header["__metadata__"][MANIFEST_KEY])["tensors"]
    except (FormatError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _try(place: str, check: Callable[[], object]) -> Iterator[Violation]:
    try:
        check()
    except FormatError as error:
        yield place, error
