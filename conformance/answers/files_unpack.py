"""Single files that may be packed (FMT-177)."""

from typing import Any

import zstandard

from conformance.answers.answer import Inputs, Refusal, answers
from conformance.answers.files_content import raw_array
from conformance.oracle import second_reader
from conformance.oracle.files_unpack import unpacked
from conformance.oracle.files_versions import MAGIC
from conformance.oracle.foreign import by

__all__ = ["expanded"]


def expanded(frame: bytes) -> bytes:
    """Return the content of a zstd frame; raise ValueError for one that is broken."""
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(error) from error


@answers("file.unpack")
def _unpack(a: Inputs) -> dict[str, Any]:
    raw: bytes = a["raw"].tobytes()
    if raw[: len(MAGIC)] == MAGIC:
        # FMT-020 asks for 8 bytes of every file
        with by("FMT-177" if len(raw) >= 8 else "FMT-177 FMT-020"):
            raw = unpacked(raw, expanded)
    try:
        second_reader.read(raw)
    except second_reader.Refused as refused:
        raise Refusal(refused.clause) from None
    return {"raw": raw_array(raw)}
