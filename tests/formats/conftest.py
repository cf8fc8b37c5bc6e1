"""A small second writer for bad files: it takes a good file apart, to be changed and put together again."""

import json
import struct
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import formats
from conformance.oracle.files import frame
from conformance.oracle.files import text as dump
from formats import header, v1


@pytest.fixture
def refused(case):
    """Expect an error of the clause that leads the name of the case, for example ``"FMT_020_a_file_has_a_length"``."""
    return pytest.raises(formats.FormatError, match=f"^{case[:7].replace('_', '-')}: ")


@dataclass
class Pieces:
    """A file in pieces; the manifest is kept apart from the header that carries it."""

    manifest: dict
    header: dict
    data: bytearray

    @classmethod
    def of(cls, raw: bytes) -> "Pieces":
        (n,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + n])
        return cls(json.loads(header["__metadata__"]["seft.manifest"]), header, bytearray(raw[8 + n :]))

    def span(self, section: str) -> slice:
        return slice(*self.header[section]["data_offsets"])

    def fill(self, section: str, values: np.ndarray) -> None:
        """Put other bytes into a section, and its digest into the manifest."""
        raw = values.tobytes()
        self.data[self.span(section)] = raw
        tensor, role = section.split("#")
        self.manifest["tensors"][tensor]["sections"][role]["sha256"] = sha256(raw).hexdigest()

    def pack(self) -> bytes:
        text = dump(self.manifest)
        self.header["__metadata__"]["seft.manifest"] = text
        self.header["__metadata__"]["seft.manifest.sha256"] = sha256(text.encode()).hexdigest()
        return frame(dump(self.header).encode()) + bytes(self.data)


def small_checkpoint() -> formats.Checkpoint:
    """
    a   [ 1.5 . 0 ]     F16, bitmask       b   a vector of bools       c   [ 5 . ]   I16, wide enough for csr
        [ . -2  . ]                                                        [ . . ]
    """
    a = formats.Sparse((2, 3), np.array([0, 2, 3]), np.array([0, 2, 1], np.int32), np.array([1.5, 0, -2], np.float16))
    c = formats.Sparse(
        (3, 700), np.array([0, 2, 2, 3]), np.array([4, 9, 650], np.int32), np.array([5, 0, -7], np.int16)
    )
    b = formats.Dense(np.array([True, False, True]))
    return formats.Checkpoint("model", {"c": c, "a": a, "b": b}, {"step": 7}, {"alias": "a"})


@pytest.fixture
def checkpoint() -> formats.Checkpoint:
    return small_checkpoint()


def write_mixed(path: Path, checkpoint: formats.Checkpoint, encodings: dict[str, str]) -> bytes:
    """Write one file with an encoding for each tensor, dense unless named, and return its bytes."""
    with v1.PartWriter(path.with_suffix(".spool")) as part:
        for name in sorted(checkpoint.tensors):
            with v1.Packer(encodings.get(name, "dense")) as packer:
                part.add(name, packer.pack(name, checkpoint.tensors[name]))
        part.finish(path, header.Manifest("model", part.tensors, checkpoint.attributes, checkpoint.tied))
    return path.read_bytes()


@pytest.fixture
def mixed():
    return write_mixed


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    """The bytes of a small file with one tensor in each of bitmask, dense and csr."""
    return write_mixed(tmp_path / "good.safetensors", small_checkpoint(), {"a": "bitmask", "c": "csr"})


@pytest.fixture
def pieces(good: bytes) -> Pieces:
    return Pieces.of(good)


@pytest.fixture
def opened(tmp_path: Path):
    """Write bytes to a file and read it fully; returns what reading it returns."""

    def read(raw: bytes, *, verify: bool = True) -> formats.Checkpoint:
        path = tmp_path / "opened.safetensors"
        path.unlink(missing_ok=True)
        path.write_bytes(raw)
        return formats.read(path, verify=verify)

    return read


def identical(a: formats.Tensor, b: formats.Tensor) -> bool:
    """Same kind, dtype, shape, support and bits."""
    if type(a) is not type(b) or tuple(a.shape) != tuple(b.shape):
        return False
    if not isinstance(a, formats.Mask) and (
        a.dtype != b.dtype or a.values.shape != b.values.shape or a.values.tobytes() != b.values.tobytes()
    ):
        return False
    if isinstance(a, formats.Dense):
        return True
    same_types = a.indptr.dtype == b.indptr.dtype and a.indices.dtype == b.indices.dtype
    return same_types and a.indptr.tolist() == b.indptr.tolist() and a.indices.tolist() == b.indices.tolist()


@pytest.fixture(scope="session")
def same():
    return identical
