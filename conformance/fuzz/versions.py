"""Version folders of slime, miles and SGLang: inputs, mutations and a plain definition (FMT-168)."""

import re
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import zstandard

from conformance.answers.files_libraries import LIBRARIES
from conformance.fuzz import base_models, foreign_spoil
from conformance.fuzz.base_models import Plain
from conformance.fuzz.foreign import Case
from conformance.fuzz.foreign_files import Folder, Piece, Stock
from conformance.fuzz.mutate import CANNOT
from conformance.fuzz.spoil import bytes_of
from conformance.fuzz.strings import INTEGERS
from conformance.oracle import files, files_versions
from conformance.oracle.files import Tensor
from conformance.oracle.files_convert import INDEX
from conformance.oracle.files_deltas import cells
from conformance.oracle.files_versions import MAGIC
from conformance.oracle.foreign import need
from formats.dialects.weight_sync import apply_weight_sync, read_weight_sync
from formats.records import Checkpoint, to_dense

KINDS = ("U8", "I16", "F16", "BF16", "F32", "F64", "BOOL", "C64", "F8_E4M3", "I64")
SKIPPABLE = struct.pack("<II", 0x184D2A50, 0)


@dataclass
class Version:
    """The pieces of a version folder."""

    name: str
    metadata: dict[str, Any]
    payloads: dict[str, bytes]
    """tensor -> the uncompressed content of its frame"""
    frames: dict[str, bytes]
    sums: dict[str, Any]
    parts: int = 1
    """number of files over which the tensors are spread"""
    noted: bool = False
    """whether `__metadata__` has the entry `format`"""

    def folder(self) -> Folder:
        """Return the pieces of the files."""
        weight_map: dict[str, str] = {}
        stocks: dict[str, Stock] = {}
        for part in range(self.parts):
            own = sorted(self.frames)[part :: self.parts]
            file_name = f"model-{part:05d}-of-{self.parts:05d}.safetensors"
            pieces = [Piece(name, "U8", [len(self.frames[name])], self.frames[name]) for name in own]
            sums = {name: self.sums[name] for name in own if name in self.sums}
            stocks[file_name] = Stock(pieces, sums | ({"format": "pt"} if self.noted and "format" not in own else {}))
            weight_map |= dict.fromkeys(own, file_name)
        return Folder({INDEX: {"metadata": self.metadata, "weight_map": weight_map}}, stocks)


@dataclass
class Draft:
    """A base, and one or two version folders that change it, one after the other."""

    base: dict[str, Plain]
    versions: list[Version]
    olds: list[dict[str, bytes]] = field(default_factory=list)
    """the bytes of each tensor before each version"""


class Versions:
    """The reader of version folders, as `foreign.Reader`."""

    def grow(self, chance: Random) -> Draft:
        """Return a base and one or two valid versions."""
        names = chance.sample(base_models.NAMES, chance.choice((1, 2, 3)))
        base = {
            name: base_models.random_tensor(
                chance, chance.choice(KINDS), chance.choice((*base_models.SHAPES, *base_models.ODD_SHAPES[1:]))
            )
            for name in names
        }
        draft, number = Draft(base, []), chance.choice((1, 7, 99999, 1234567))
        now = {name: one.data for name, one in base.items()}
        for step in range(chance.choice((1, 1, 2))):
            draft.olds.append(dict(now))
            version, now = _version(chance, base, now, number + step)
            draft.versions.append(version)
        return draft

    def case(self, chance: Random, draft: Draft, *, valid: bool) -> Case:
        """Return base and folders as a case; unless `valid`, one folder or the base is mutated."""
        one = chance.randrange(len(draft.versions))
        if not valid:
            _spoil(chance, draft, one)
        folders = [version.folder() for version in draft.versions]
        if not valid and chance.random() < 0.45:
            foreign_spoil.spoil(chance, folders[one], ())
        trees = {v.name: foreign_spoil.pack(f) for v, f in zip(draft.versions, folders, strict=True)}
        return Case(trees, draft.base, base_models.sizes(draft.base), valid)

    def read(self, case: Case, place: Path) -> Any:
        """Return for one folder the changed values of each tensor by position, for several all bytes of each tensor."""
        base = Checkpoint("model", base_models.records(case.memory))
        paths = [place / name for name in case.folders]
        if len(paths) == 1:
            made = read_weight_sync(paths[0], base.tensors)
            return {name: base_models.stored(made.tensors[name]) for name in made.tensors}
        result = apply_weight_sync(base, paths)
        return {name: to_dense(result.tensors[name]).tobytes() for name in result.tensors}

    def define(self, case: Case) -> Any:
        """Return the same as `read`, from the text of FMT-168 alone."""
        base: dict[str, Plain] = case.memory
        now, before = {name: Tensor(one.dtype, one.shape, one.data) for name, one in base.items()}, None
        for folder, tree in case.folders.items():
            metadata, after = files_versions.applied(tree, now, LIBRARIES)
            number = metadata["version"].lstrip("0")
            named = re.fullmatch("weight_v([0-9]{6,})", folder)
            need(named is None or named[1].lstrip("0") == number, "the version of the folder's name")
            need(before is None or metadata["base_version"].lstrip("0") == before, "FMT-168.11")
            before = number
            now |= {name: replace(now[name], bits=raw) for name, raw in after.items()}
        if len(case.folders) > 1:
            return {name: t.bits for name, t in now.items()}
        return {name: cells(files_versions.replaced(base[name].tensor(), raw)) for name, raw in after.items()}


READER = Versions()


def _version(chance: Random, base: dict[str, Plain], now: dict[str, bytes], number: int) -> tuple[Version, Any]:
    """Return a valid version, and the bytes of each tensor after it."""
    encoding, checksum = chance.choice(("xor", "overwrite")), chance.choice(sorted(LIBRARIES.sums))
    after = dict(now)
    for name in chance.sample(sorted(now), chance.randint(1, len(now))):
        data = bytearray(now[name])
        for at in chance.sample(range(len(data)), min(len(data), chance.choice((0, 1, 3, 9)))):
            data[at] = data[at] ^ 1 if base[name].dtype == "BOOL" else chance.randrange(256)
        after[name] = bytes(data)
    metadata = {
        "version": f"{number:06d}",
        "base_version": f"{number - 1:06d}",
        "delta_encoding": encoding,
        "compression_format": "zstd",
        "checksum_format": checksum,
    }
    changed = chance.sample(sorted(now), chance.randint(1, len(now)))
    after = {name: after[name] if name in changed else data for name, data in now.items()}
    payloads = {name: _payload(now[name], after[name], encoding) for name in changed}
    frames = {name: _frame(chance, payload) for name, payload in payloads.items()}
    sums = {name: LIBRARIES.sums[checksum](after[name]) for name in changed}
    named = chance.choice((f"weight_v{number:06d}", f"weight_v{number:06d}", f"v{number}"))
    return Version(named, metadata, payloads, frames, sums, chance.choice((1, 1, 2)), chance.random() < 0.3), after


def _payload(old: bytes, new: bytes, encoding: str) -> bytes:
    if encoding == "xor":
        return bytes(a ^ b for a, b in zip(old, new, strict=True))
    at = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    return struct.pack(f"<{1 + len(at)}I", len(at), *at) + bytes(new[i] for i in at)


def _frame(chance: Random, payload: bytes) -> bytes:
    if chance.random() < 0.2 and payload and len(set(payload)) == 1:
        return files.rle_frame(len(payload), payload[0])
    compressor = zstandard.ZstdCompressor(level=chance.choice((1, 1, 3, 19)), write_checksum=chance.random() < 0.3)
    return compressor.compress(payload)


# mutations ---------------------------------------------------------------------------------------


def _spoil(chance: Random, draft: Draft, one: int) -> None:
    for _ in range(chance.choice((0, 1, 1, 2))):
        kind, version = chance.randrange(10), draft.versions[one]
        try:
            if kind < 3:
                _spoil_payload(chance, draft, one)
            elif kind < 6:
                _spoil_frame(chance, version)
            elif kind < 7:
                name = chance.choice(sorted(version.sums))
                version.sums[name] = _other_sum(chance, version.sums[name])
            elif kind < 9:
                _spoil_words(chance, version)
            else:
                base_models.disturbed(chance, draft.base)
        except CANNOT:
            continue


def _spoil_payload(chance: Random, draft: Draft, one: int) -> None:
    """Change the content of a frame; mostly its checksum then fits the result of a reader that checks no rules."""
    version = draft.versions[one]
    name = chance.choice(sorted(version.payloads))
    payload, encoding = version.payloads[name], version.metadata["delta_encoding"]
    old = draft.olds[one][name]
    kind = chance.randrange(6)
    if encoding == "overwrite" and kind < 5:
        count = len(payload) // 5
        at = list(struct.unpack(f"<{count}I", payload[4 : 4 + 4 * count]))
        new, stated = payload[4 + 4 * count :], count
        if kind == 0:
            stated = chance.choice((count + 1, count - 1, *INTEGERS)) % 2**32
        elif kind == 1:
            chance.shuffle(at)
        elif kind == 2 and at:
            i = chance.randrange(count)
            at[i] = chance.choice((at[i - 1], len(old), len(old) - 1, at[i] + 1, *INTEGERS)) % 2**32
        elif kind == 3:
            at, new, stated = [*at, *at], new + new, 2 * count
        else:
            at, new, stated = [*range(len(old))], chance.randbytes(len(old)), len(old)
        payload = struct.pack(f"<{1 + len(at)}I", stated, *at) + new
    else:
        payload = bytes_of(chance, payload)
    version.payloads[name], version.frames[name] = payload, _frame(chance, payload)
    if chance.random() < 0.85:
        version.sums[name] = LIBRARIES.sums[version.metadata["checksum_format"]](_carelessly(old, payload, encoding))


def _carelessly(old: bytes, payload: bytes, encoding: str) -> bytes:
    """Return the bytes that a reader without any checks would get by applying a payload."""
    if encoding == "xor":
        padded = payload.ljust(len(old), b"\0")
        return bytes(a ^ b for a, b in zip(old, padded, strict=False))
    new, count = bytearray(old), min(int.from_bytes(payload[:4], "little"), max(len(payload) - 4, 0) // 5)
    for i, at in enumerate(struct.unpack(f"<{count}I", payload[4 : 4 + 4 * count])):
        if at < len(new):
            new[at] = payload[4 + 4 * count + i]
    return bytes(new)


def _spoil_frame(chance: Random, version: Version) -> None:
    """Change a zstd frame: its header, its end, frames beside it, or the size that it states."""
    name = chance.choice(sorted(version.frames))
    frame, payload, kind = version.frames[name], version.payloads[name], chance.randrange(10)
    size = chance.choice((len(payload) + 1, len(payload) - 1, 2 * len(payload), 0, *INTEGERS))
    if kind == 0:
        frame = bytes_of(chance, frame)
    elif kind == 1:
        frame = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(payload)
    elif kind == 2:
        frame = chance.choice((SKIPPABLE + frame, frame + SKIPPABLE, frame + frame, frame + b"\0", SKIPPABLE, b""))
    elif kind == 3:
        half = len(payload) // 2
        frame = b"".join(zstandard.ZstdCompressor(level=1).compress(p) for p in (payload[:half], payload[half:]))
    elif kind in (4, 5):
        # the frame is a single segment that states its size in eight bytes, maybe wrongly; the payload is a raw block
        frame = MAGIC + b"\xe0" + (size % 2**64).to_bytes(8, "little") + _raw_block(payload)
    elif kind == 6:
        # the window has a random size, from 1 KiB to 3.75 TiB
        window = chance.randrange(256)
        frame = MAGIC + bytes([0xC0, window]) + len(payload).to_bytes(8, "little") + _raw_block(payload)
    elif kind == 7:
        run = (1 | 1 << 1 | (size % 2**21) << 3).to_bytes(3, "little") + b"\7"
        frame = MAGIC + b"\xe0" + len(payload).to_bytes(8, "little") + run
    elif kind == 8:
        # the frame states a small size and has up to 40 runs of 128 KiB
        run = (1 << 1 | (1 << 17) << 3).to_bytes(3, "little") + b"\7"
        frame = MAGIC + b"\xc0\x38" + len(payload).to_bytes(8, "little") + run * chance.randint(1, 40)
    else:
        frame = MAGIC + b"\xe1" + b"\1" + len(payload).to_bytes(8, "little") + _raw_block(payload)
    version.frames[name] = frame


def _raw_block(payload: bytes) -> bytes:
    return (1 | len(payload) << 3).to_bytes(3, "little") + payload


def _other_sum(chance: Random, total: str) -> Any:
    text = str(total)
    if text.isdigit() and chance.random() < 0.5:
        return int(text)
    return chance.choice((text.upper(), text[:-1], "0" * len(text), text + "0", int(text[:4], 16), None, "", [text]))


def _spoil_words(chance: Random, version: Version) -> None:
    """Change the name of the folder, or a text of the index."""
    kind, metadata = chance.randrange(6), version.metadata
    if kind == 0:
        version.name = chance.choice(
            ("weight_v000002", "weight_v7", "weight_v0000007", "x", "weight_v\u0660\u0660\u0660\u0660\u0660\u0667")
        )
    elif kind == 1:
        key = chance.choice(("version", "base_version"))
        metadata[key] = chance.choice(
            ("7", "000000", "-000001", "0000007", "\u0660" * 6, "9" * 5000, "000007\n", " 000007", 7)
        )
    elif kind == 2:
        metadata["delta_encoding"] = chance.choice(("xor", "overwrite", "XOR", "add", "", None))
    elif kind == 3:
        metadata["checksum_format"] = chance.choice((*LIBRARIES.sums, "sha256", "xxh3_128", "", None))
    elif kind == 4:
        metadata["compression_format"] = chance.choice(("none", "lz4", "ZSTD", "", None))
    else:
        version.parts = chance.choice((1, 2, 3))
