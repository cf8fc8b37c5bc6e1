"""`violations` tells of a single file what opening and verifying it would: its companions stand beside it."""

import pytest

import formats
from conformance.oracle import files
from conformance.oracle.files import on
from formats.check import violations


@pytest.fixture
def path(tmp_path):
    made = files.pieces({"w": on("F16", (2, 3), [0, 2, 4])})
    made.manifest["files"] = {"card.md": {"bytes": 2, "sha256": files.digest(b"hi")}}
    path = tmp_path / "one.safetensors"
    path.write_bytes(made.pack())
    return path


def told(path):
    return [error.clause for _, error in violations(path)]


def test_a_companion_that_is_not_beside_its_file_is_told_FMT_102(path):
    assert told(path) == ["FMT-102"]


def test_a_companion_with_other_bytes_is_told_FMT_094(path):
    (path.parent / "card.md").write_bytes(b"ho")
    assert told(path) == ["FMT-094"]


def test_a_companion_beside_its_file_is_sound_FMT_102(path):
    (path.parent / "card.md").write_bytes(b"hi")
    assert told(path) == []
    with formats.open(path) as reader:
        reader.verify()
