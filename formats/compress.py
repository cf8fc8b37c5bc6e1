"""The codec of compressed sections (FMT-140 to FMT-143), and packed files (FMT-177).

A compressed section is byte planes in one zstd frame. Values of k bytes are split into k planes: all first bytes, then
all second bytes, and so on. Planes compress better, because the exponents of neighbours are alike while their low bytes
are noise. A packed file is one zstd frame of all bytes of a file. zstandard is imported where it is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from formats.errors import FormatError

LEVEL = 9
RATIO = 1024
"""Largest allowed ratio of content to frame, so that a small file cannot make a reader take much memory."""
WINDOW = 1 << 30
"""Largest window of a frame of a section (FMT-142.6), because libraries differ in the largest that they take."""
_SLICE = 64
_MOST_WINDOW = 1 << 31
MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a zstd frame; of the files of this format only packed ones begin with them (FMT-177.2)."""


def pack(raw: NDArray[np.uint8], itemsize: int) -> bytes | None:
    """Return the zstd frame of a section's bytes, or None if the section stays as it is (FMT-141).

    Args:
        raw: uint8, (nbytes,).
        itemsize: bytes of a value; 1 makes a single plane.
    """
    import zstandard

    planes = np.ascontiguousarray(raw.reshape(-1, itemsize).T)
    frame = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False, write_content_size=True).compress(planes.data)
    return frame if len(frame) < raw.size <= RATIO * len(frame) else None


def check_size(nbytes: int, raw_bytes: int, name: str) -> None:
    """Verify the ratio of a compressed section (FMT-141), before expanding it takes any memory."""
    if not nbytes < raw_bytes <= RATIO * nbytes:
        raise FormatError(
            "FMT-141",
            f"section {name!r} has {nbytes} bytes for {raw_bytes}, expected fewer, and at most {RATIO} times fewer",
        )


def unpack(frame: NDArray[np.uint8], raw_bytes: int, itemsize: int, name: str) -> NDArray[np.uint8]:
    """Return the expanded bytes of a section, uint8 (raw_bytes,).

    Raises:
        FormatError: FMT-142 if the frame does not expand to raw_bytes bytes; it never expands to more.
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
        if head.window_size > WINDOW:
            raise FormatError(
                "FMT-142", f"section {name!r} is a frame with a window of {head.window_size} bytes, above {WINDOW}"
            )
        planes = expand(frame, raw_bytes)
    except zstandard.ZstdError as error:
        raise FormatError("FMT-142", f"section {name!r} is no zstd frame that can be expanded: {error}") from error
    return np.ascontiguousarray(np.frombuffer(planes, dtype=np.uint8).reshape(itemsize, -1).T).reshape(-1)


def expand(frame: NDArray[np.uint8], nbytes: int) -> bytes:
    """Return the nbytes bytes that a buffer of exactly one zstd frame holds; nbytes is the size that its header states.

    The blocks of a frame may hold more than its header states, up to 32,768 times their bytes. So all of the content
    goes into one buffer of nbytes bytes, and the library stops at its end.

    Raises:
        zstandard.ZstdError: if the frame holds more or fewer bytes, is damaged or cut, or is followed by anything.
    """
    import zstandard

    if nbytes:
        content: bytes = zstandard.ZstdDecompressor().decompress(
            frame.data, max_output_size=nbytes, read_across_frames=False, allow_extra_data=False
        )
        return content
    # the call above returns no bytes without reading a frame that states 0; this reads it, 64 bytes at a time, which
    # expand to 2 MiB at most
    expander = zstandard.ZstdDecompressor().decompressobj()
    for at in range(0, frame.size, _SLICE):
        if expander.eof or expander.decompress(frame[at : at + _SLICE].data):
            break
    else:
        if expander.eof and not expander.unused_data:
            return b""
    raise zstandard.ZstdError("it holds more, is cut, or is followed by others")


def pack_file(source: BinaryIO, target: BinaryIO, nbytes: int) -> None:
    """Write the nbytes bytes of an open file to another as a packed file, a buffer at a time (FMT-177).

    Raises:
        FormatError: FMT-177 if the frame is more than 1,024 times smaller.
    """
    import zstandard

    packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False, write_content_size=True)
    _, written = packer.copy_stream(source, target, size=nbytes)
    if nbytes > RATIO * written:
        raise FormatError(
            "FMT-177",
            f"the file has {nbytes} bytes and its frame {written}, at most {RATIO} times fewer are allowed; "
            f"compress its sections instead",
        )


class PackedFile:
    """The frame of a packed file (FMT-177): its content can be read from the front, or expanded as a whole.

    Args:
        frame: the bytes of the packed file.
        name: its name in messages.

    Attributes:
        size: the bytes of the content, as the frame states them.

    Raises:
        FormatError: FMT-177 for a frame that does not state its size, states more than `RATIO` times its own bytes, or
            has a dictionary. Nothing is expanded before.
    """

    def __init__(self, frame: NDArray[np.uint8], name: str) -> None:
        import zstandard

        self._frame, self._name = frame, name
        with self._refusing():
            head = zstandard.get_frame_parameters(frame.data)
        # a frame that does not state its size reports 2^64 - 1
        if head.dict_id or head.content_size > RATIO * frame.size:
            raise FormatError(
                "FMT-177",
                f"{name} is a zstd frame of {frame.size} bytes with content size {head.content_size} and dictionary "
                f"{head.dict_id}; expected a stated size of at most {RATIO} times its bytes, and no dictionary",
            )
        self.size = int(head.content_size)

    def start(self, nbytes: int) -> bytes:
        """Return the first nbytes bytes of the content, which must have so many; the rest is not expanded.

        Raises:
            FormatError: FMT-177 if the frame is damaged before their end.
        """
        import zstandard

        # the largest window that the library knows, because `expand` does not limit it either
        expander = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)
        with self._refusing(), expander.stream_reader(self._frame.data, read_across_frames=False) as stream:
            content = stream.read(nbytes) if nbytes else b""
            if len(content) != nbytes:
                raise zstandard.ZstdError(f"it ends after {len(content)} of the {self.size} bytes that it states")
        return content

    def content(self) -> NDArray[np.uint8]:
        """Return the whole content, uint8 (size,), read-only.

        Raises:
            FormatError: FMT-177 if the frame does not hold the bytes that it states, or is followed by others.
        """
        with self._refusing():
            return np.frombuffer(expand(self._frame, self.size), dtype=np.uint8)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn an error of the library into FMT-177."""
        import zstandard

        try:
            yield
        except zstandard.ZstdError as error:
            raise FormatError("FMT-177", f"{self._name} is no zstd frame that can be expanded: {error}") from error
