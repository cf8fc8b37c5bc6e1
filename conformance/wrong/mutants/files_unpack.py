"""Mutants of readers of packed files (FMT-177)."""

import numpy as np
import zstandard

from conformance.engine.parts import compress
from conformance.wrong.mutants.base import Mutant, Rows, Values, edited, mutant, mutants, right

OP = "file.unpack"


def _as_it_is(a: Values) -> Values:
    """Return the file, whether it is packed or not."""
    right(OP)(a)
    return {"raw": a["raw"]}


def _first_frame(a: Values) -> Values:
    """Return the content of the first frame, and read nothing behind it."""
    if a["raw"][:4].tobytes() != compress.MAGIC:
        return right(OP)(a)
    content = zstandard.ZstdDecompressor().decompressobj().decompress(a["raw"].tobytes())
    return right(OP)({"raw": np.frombuffer(content, dtype=np.uint8)})


_PACKED, _HEAD = compress.PackedFile, compress.PackedFile.__init__
_ROWS: Rows = (
    (OP, "FMT-177", _HEAD, "head.dict_id or", "head.has_checksum or", "no checksum, and any dictionary"),
    (OP, "FMT-177", _HEAD, "head.content_size > RATIO * frame.size", "head.content_size > frame.size",
     "a content that may not be larger than its frame"),
    (OP, "FMT-177", compress.expand, "allow_extra_data=False", "allow_extra_data=True", "bytes behind the frame"),
    (OP, "FMT-177", _PACKED.start, "max_window_size=_MOST_WINDOW", "max_window_size=1024", "small windows only"),
)  # fmt: skip

MUTANTS: list[Mutant] = [
    mutant("FMT-177", OP, _as_it_is, "the frame for its content"),
    mutant("FMT-177", OP, _first_frame, "the first frame alone"),
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _ROWS),
    *mutants(OP, unchecked="FMT-177"),
]
