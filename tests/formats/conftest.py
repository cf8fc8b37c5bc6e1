"""Small files, whole and taken apart, to be changed and put together again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import formats
from conformance.fuzz.parts import NOTHING, SECTIONS, Parts, take_apart
from formats import header, v1


@pytest.fixture
def refused(case):
    """Expect an error of the clause that leads the name of the case, for example ``"FMT_020_a_file_has_a_length"``."""
    return pytest.raises(formats.FormatError, match=f"^{case[:7].replace('_', '-')}: ")


def apart(raw: bytes) -> Parts:
    """A file taken apart, which is put together again with the digests that its manifest has then."""
    return replace(take_apart(raw), seal=NOTHING)


def fill(parts: Parts, tensor: str, role: str, values: np.ndarray) -> None:
    """Put other bytes into a section, and their digest into the manifest."""
    parts.of(tensor)[role].data = values.tobytes()
    parts.seal = SECTIONS


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
def pieces(good: bytes) -> Parts:
    return apart(good)


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
