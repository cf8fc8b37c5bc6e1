"""Packed files, each one zstd frame of a whole file: inputs, mutations and a plain definition (FMT-177)."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import zstandard

from conformance.answers.files_unpack import expanded
from conformance.fuzz import first_reader, frames, grow, mutate
from conformance.fuzz.foreign import Case
from conformance.fuzz.judge import READER_FIXED
from conformance.fuzz.judge_folders import content_of
from conformance.fuzz.mutate import CANNOT
from conformance.fuzz.parts import Parts
from conformance.oracle import second_reader
from conformance.oracle.files_unpack import unpacked
from conformance.oracle.files_versions import MAGIC
from conformance.oracle.foreign import Refused

FILE = "it.sparse"


@dataclass
class Draft:
    """The pieces of a file, and the options for packing it."""

    file: Parts
    level: int
    checksum: bool
    size: bool = True
    """whether the frame states its content size"""


class Packed:
    """The reader of packed files, as `foreign.Reader`."""

    def grow(self, chance: Random) -> Draft:
        """Return a valid file and random options for packing it."""
        pieces = grow.delta(chance) if chance.random() < 0.3 else grow.checkpoint(chance)
        return Draft(Parts(pieces.manifest, pieces.sections), chance.choice((1, 3, 19)), chance.random() < 0.3)

    def case(self, chance: Random, draft: Draft, *, valid: bool) -> Case:
        """Return the packed file of a draft as a case; unless `valid`, it is mutated before or after packing."""
        kind = 9 if valid else chance.randrange(9)
        if kind < 2:
            with suppress(*CANNOT):
                mutate.once(chance, draft.file, deepcopy(draft.file))
        elif kind == 2:
            draft.size = False
        try:
            raw = draft.file.pack()
        except CANNOT:
            raw = b""
        if kind == 3:
            if chance.random() < 0.5:
                # with the last two sizes the frame expands to more than 1,024 times its bytes
                raw += b"\0" * chance.choice((0, 1000, 100_000, 3_000_000, 20_000_000))
            if chance.random() < 0.5:
                # a packed file may be shorter than the 8 bytes that give the length of a header
                raw = raw[: chance.choice((0, 1, 7, 8, 9, len(raw)))]
        packer = zstandard.ZstdCompressor(
            level=draft.level, write_checksum=draft.checksum, write_content_size=draft.size
        )
        frame = packer.compress(raw)
        if kind > 3 and not valid:
            frame = raw if chance.random() < 0.15 else frames.spoiled(chance, frame)
        # a file that may have sections in zstd is replaced by an empty one, because the definition cannot read it
        return Case({"own": {FILE: frame if b"zstd" not in raw else b""}}, valid=valid, fixed=READER_FIXED)

    def read(self, case: Case, place: Path) -> Any:
        """Return the content of the file."""
        del case
        return first_reader.read(place / "own" / FILE)

    def define(self, case: Case) -> Any:
        """Return the same as `read`, from the text of FMT-177 and RFC 8878 alone."""
        raw = case.folders["own"][FILE]
        assert raw is not None
        try:
            return content_of(second_reader.read(unpacked(raw, expanded) if raw[:4] == MAGIC else raw))
        except second_reader.Refused as error:
            raise Refused(str(error)) from error


READER = Packed()
