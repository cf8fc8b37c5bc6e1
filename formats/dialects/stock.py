"""Reads and writes plain safetensors files, those of other tools.

The reader is lenient about spelling (spaces, key order, alignment) and strict about bounds: it never addresses anything
outside the file, and refuses holes, shared bytes and repeated names.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType

from formats import strict_json, validate
from formats.container import (
    BITS,
    DTYPES,
    MappedFile,
    Section,
    multiple_of_8,
    pack_header,
    parse_sections,
    raw_bytes,
    section_bytes,
)
from formats.errors import CannotHold, FormatError
from formats.records import Array

MAX_HEADER = 100_000_000
_SIGNED_ZERO = re.compile(rb"[\[,:\s]-0(?![\d.eE])")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')


def open_stock(path: Path, *, any_metadata: bool = False) -> tuple[MappedFile, dict[str, Section]]:
    """Return a mapped safetensors file and its tensors by name.

    Args:
        path: the file.
        any_metadata: accept values other than texts in ``__metadata__``, for a caller that refuses them itself.

    Raises:
        FormatError: FMT-121, whatever rule it breaks; FMT-165 is reported as FMT-121, too.
    """
    try:
        file = MappedFile(path)
        text = file.header(MAX_HEADER)
        metadata, sections = parse_sections(strict_json.parse_any(text, "its header"), "its header")
        for section in sections.values():
            validate.check_shape(section.shape, section.name)
    except FormatError as error:
        raise FormatError("FMT-121", f"{path.name} is no safetensors file that can be read: {error}") from error
    if not any_metadata:
        _check_metadata(metadata, path.name)
    _check_spelling(text, [*sections, *metadata, *metadata.values()], path.name)
    _check_cover(sections, file, path.name)
    return file, sections


def _check_metadata(metadata: Mapping[str, strict_json.JSON], name: str) -> None:
    """Verify that the values of ``__metadata__`` are texts (FMT-121.6)."""
    for key, value in metadata.items():
        # a Fraction is a number of the file, although it is a str here
        if type(value) is not str:
            shown = str(value) if isinstance(value, str) else repr(value)
            raise FormatError("FMT-121", f"{name} has {shown:.40} under {key!r:.80} of __metadata__, expected a text")


def _check_spelling(text: bytes, words: Iterable[strict_json.JSON], name: str) -> None:
    """Verify that words of a header can be written as UTF-8, and that no zero has a sign (FMT-121.6)."""
    if b"\\u" in text:
        for word in words:
            if isinstance(word, str) and any("\ud800" <= c <= "\udfff" for c in word):
                raise FormatError("FMT-121", f"{name} has {word!r:.80} in its header, half of a surrogate pair")
    # the first search is fast; the second leaves out the texts, which may hold anything
    if _SIGNED_ZERO.search(text) and _SIGNED_ZERO.search(_TEXT.sub(b"", text)):
        raise FormatError("FMT-121", f"{name} has the number -0 in its header, expected 0")


def metadata_of(file: MappedFile) -> dict[str, strict_json.JSON]:
    """Return the entries of ``__metadata__`` of a file that `open_stock` returned; none if it has no such object."""
    header = strict_json.parse_any(file.header(MAX_HEADER), "its header")
    entries = header.get("__metadata__") if isinstance(header, dict) else None
    return entries if isinstance(entries, dict) else {}


def _check_cover(sections: Mapping[str, Section], file: MappedFile, name: str) -> None:
    """Verify that the tensors fill the file from header to end, without holes and without sharing bytes."""
    at = 0
    for section in sorted(sections.values(), key=lambda s: (s.begin, s.end)):
        if section.begin != at or section.nbytes != section_bytes(section.dtype, section.shape):
            raise FormatError(
                "FMT-121",
                f"{section.name!r} in {name} spans {section.begin} to {section.end}, expected to begin "
                f"at {at} and to take the {section_bytes(section.dtype, section.shape)} bytes of its shape",
            )
        if BITS[section.dtype] * prod(section.shape) % 8:
            raise FormatError(
                "FMT-121", f"{section.name!r} in {name} has an odd count of {section.dtype}, which ends in no byte"
            )
        at = section.end
    if at != file.size - file.data_start:
        n_bytes = file.size - file.data_start
        advice = "; the file is cut, copy it again" if n_bytes < at else ""
        raise FormatError("FMT-121", f"{name} holds {n_bytes} bytes of tensors, its header describes {at}{advice}")


def outline(name: str, dtype: str, shape: tuple[int, ...]) -> Section:
    """Return the section of a tensor that has no place in a file yet: it begins at 0."""
    return Section(name, dtype, shape, 0, section_bytes(dtype, shape))


def write_stock(
    path: Path,
    tensors: Iterable[Section],
    fetch: Callable[[str], Array],
    metadata: Mapping[str, str] = MappingProxyType({"format": "pt"}),
) -> None:
    """Write a safetensors file and wait until it is on disk.

    Args:
        path: a new file.
        tensors: names, dtypes and shapes; wide dtypes go first, so that every element is aligned.
        fetch: name -> the array of that dtype and shape; called once for each, in file order.
        metadata: the entries of ``__metadata__``; stock loaders require format pt.

    Raises:
        CannotHold: FMT-154 for packed values that end within a byte, and for a tensor with the name `__metadata__`.
    """
    tensors, at = list(tensors), 0
    if any(t.name == "__metadata__" for t in tensors):
        raise CannotHold("FMT-154", "'__metadata__' names a tensor, and in safetensors files something else; rename it")
    sections = []
    for t in sorted(tensors, key=lambda t: (-BITS[t.dtype], t.name)):
        if BITS[t.dtype] * prod(t.shape) % 8:
            raise CannotHold("FMT-154", f"{t.name!r} has an odd count of {t.dtype}, which safetensors cannot hold")
        sections.append(Section(t.name, t.dtype, t.shape, at, at + t.nbytes))
        at += t.nbytes
    with path.open("xb") as file:
        file.write(pack_header(metadata, sections, multiple_of_8))
        for section in sections:
            values = fetch(section.name)
            assert values.dtype == DTYPES[section.dtype]
            assert values.size == prod(section.shape)
            file.write(raw_bytes(values))
        file.flush()
        os.fsync(file.fileno())
