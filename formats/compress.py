"""The codec of compressed sections: byte planes, then one zstd frame (FMT-140 to FMT-143).

Values of k bytes are split into k planes, all first bytes, then all second ones: exponents of neighbours are alike,
their low bytes are noise, and apart they compress better than together. The library is loaded where it is used.
"""

import numpy as np
from numpy.typing import NDArray

from formats.errors import FormatError

LEVEL = 9
RATIO = 1024
"""How many times smaller than its content a section may be: bounds what a small file can ask of a reader."""


def pack(raw: NDArray[np.uint8], itemsize: int) -> bytes | None:
    """Return the frame of a section's bytes, None where it is kept as it is (FMT-141).

    Args:
        raw: uint8, (nbytes,).
        itemsize: bytes of a value, 1 for bytes that are no values.
    """
    import zstandard

    planes = np.ascontiguousarray(raw.reshape(-1, itemsize).T)
    frame = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False, write_content_size=True).compress(planes.data)
    return frame if len(frame) < raw.size <= RATIO * len(frame) else None


def check_size(nbytes: int, raw_bytes: int, name: str) -> None:
    """Verify FMT-141, which says before anything is expanded how much memory that may take."""
    if not nbytes < raw_bytes <= RATIO * nbytes:
        raise FormatError(
            "FMT-141",
            f"section {name!r} has {nbytes} bytes for {raw_bytes}, expected fewer, and at most {RATIO} times fewer",
        )


def unpack(frame: NDArray[np.uint8], raw_bytes: int, itemsize: int, name: str) -> NDArray[np.uint8]:
    """Return the bytes of a section, (raw_bytes,) uint8.

    Raises:
        FormatError: FMT-142; nothing larger than raw_bytes is ever made.
    """
    import zstandard

    try:
        head = zstandard.get_frame_parameters(frame.data)
        if head.content_size != raw_bytes or head.dict_id or head.has_checksum:
            raise FormatError(
                "FMT-142",
                f"section {name!r} is a frame of {head.content_size} bytes with dictionary {head.dict_id} and "
                f"checksum {head.has_checksum}, expected {raw_bytes} bytes, 0 and False",
            )
        planes = zstandard.ZstdDecompressor().decompress(
            frame.data, max_output_size=raw_bytes, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FormatError("FMT-142", f"section {name!r} is no zstd frame that can be expanded: {error}") from error
    if len(planes) != raw_bytes:
        raise FormatError("FMT-142", f"section {name!r} expands to {len(planes)} bytes, its manifest says {raw_bytes}")
    return np.ascontiguousarray(np.frombuffer(planes, dtype=np.uint8).reshape(itemsize, -1).T).reshape(-1)
