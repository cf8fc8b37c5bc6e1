"""Mutants of compression: other planes, frames and sizes (FMT-140 to FMT-142)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import zstandard

from conformance.answers.files_packed import apart
from conformance.oracle import files
from conformance.oracle.files import BITS, Section
from conformance.wrong.mutants.base import Mutant, Operation, Values, mutants, right

Frame = Callable[[bytes], bytes]


def zstd(*, checksum: bool = False, sized: bool = True) -> Frame:
    """Return a compressor to zstd frames, with or without checksum and content size."""

    def compress(raw: bytes) -> bytes:
        return zstandard.ZstdCompressor(9, write_checksum=checksum, write_content_size=sized).compress(raw)

    return compress


def in_planes(s: Section) -> bytes:
    """Return the bytes of a section in planes (FMT-140)."""
    return np.ascontiguousarray(
        np.frombuffer(s.data, dtype=np.uint8).reshape(-1, max(1, BITS[s.dtype] // 8)).T
    ).tobytes()


def packed(
    frame: Frame,
    laid: Callable[[Section], bytes] = in_planes,
    pays: Callable[[int, int], bool] = lambda small, n: small < n <= 1024 * small,
    names: Callable[[list[str]], list[str]] = lambda requires: [*requires, "zstd"],
    entry_of: Callable[[Section], Values] = files.stored,
) -> Operation:
    """Return a writer of compressed files that does one thing in another way.

    frame     compresses a section
    laid      puts the bytes of a section in the order in which they are compressed
    pays      whether a section is compressed, from its compressed and raw sizes
    names     the features that the manifest requires
    entry_of  the entry of a section in the manifest
    """

    def f(a: Values) -> Values:
        raw = right("file.write")(a)["raw"].tobytes()
        plain = apart(raw)
        manifest = plain.manifest
        compressed = [replace(s, frame=frame(laid(s))) for s in plain.sections]
        compressed = [s if pays(len(s.frame or b""), len(s.data)) else replace(s, frame=None) for s in compressed]
        for s in compressed:
            tensor, role = s.name.rsplit("#", 1)
            manifest["tensors"][tensor]["sections"][role] = entry_of(s)
        if any(s.frame is not None for s in compressed):
            manifest["requires"] = names(manifest["requires"])
        return {"raw": np.frombuffer(files.assemble(files.text(manifest), compressed), dtype=np.uint8)}

    return f


def two_frames(raw: bytes) -> bytes:
    half = len(raw) // 2
    return zstd()(raw[:half]) + zstd()(raw[half:])


def as_it_is(s: Section) -> bytes:
    return s.data


def of_the_content(s: Section) -> Values:
    return files.stored(s) | {"sha256": files.digest(s.data)}


def not_at_all(a: Values) -> Values:
    return right("file.write")(a)


MUTANTS: list[Mutant] = [
    *mutants("file.compress",
        ("FMT-140", packed(zstd(), laid=as_it_is), "no planes"),
        ("FMT-141", packed(zstd(), pays=lambda small, n: n > 0), "every section compressed"),
        ("FMT-141", packed(zstd(), pays=lambda small, n: small < n), "any ratio"),
        ("FMT-090", packed(zstd(), entry_of=of_the_content), "digests of what is expanded"),
        ("FMT-141", not_at_all, "nothing compressed"),
        ("FMT-142", packed(zstd(checksum=True)), "a checksum"),
        ("FMT-142", packed(zstd(sized=False)), "no content size"),
        ("FMT-142", packed(two_frames), "two frames"),
        ("FMT-050", packed(zstd(), names=lambda requires: requires), "the feature not required")),
]  # fmt: skip
