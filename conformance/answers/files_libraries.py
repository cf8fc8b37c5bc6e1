"""What version folders leave to libraries: frames of zstd (RFC 8878), and checksums (FMT-168)."""

import zlib
from importlib import import_module

import zstandard

from conformance.oracle.files_versions import Libraries

__all__ = ["LIBRARIES"]


def _content(frame: bytes, most: int) -> bytes:
    """Return the content of a single frame that states its size.

    Raises:
        ValueError: the frame is broken, states no size or a size above `most`, or is followed by something.
    """
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if size > most:
            raise ValueError(size)
        # an object looks into a frame of no bytes too
        whole = zstandard.ZstdDecompressor().decompressobj()
        data = whole.decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(error) from error
    if len(data) != size or not whole.eof or whole.unused_data:
        raise ValueError(size)
    return data


LIBRARIES = Libraries(
    _content,
    {
        "xxh3-128": lambda data: str(import_module("xxhash").xxh3_128(data).hexdigest()),
        "blake3": lambda data: str(import_module("blake3").blake3(data).hexdigest()),
        "adler32": lambda data: f"{zlib.adler32(data):08x}",
    },
)
