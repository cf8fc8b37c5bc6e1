"""Files of each released version are read for ever, and are never edited (FMT-160)."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

import formats
from formats import delta

FIXTURES = Path(__file__).parent / "fixtures"
RELEASED = ["v1.0"]


def expected(version):
    return json.loads((FIXTURES / version / "expected.json").read_text())


@pytest.mark.parametrize("version", RELEASED)
def test_FMT_160_no_released_file_was_edited(version):
    folder = FIXTURES / version / "files"
    found = {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}
    assert found == expected(version)["files"]


CHECKPOINTS = [(version, name) for version in RELEASED for name in expected(version)["checkpoints"]]


@pytest.mark.parametrize(("version", "name"), CHECKPOINTS)
def test_FMT_160_every_released_file_is_read(version, name):
    said = expected(version)["checkpoints"][name]
    with formats.open(FIXTURES / version / "files" / name) as reader:
        reader.verify()
        assert (reader.state_sha256, reader.root_sha256) == (said["state"], said["root"])
        dense = {n: sha256(formats.to_dense(reader[n]).tobytes()).hexdigest() for n in reader.names()}
    assert dense == said["dense"]


@pytest.mark.parametrize(("version", "name"), CHECKPOINTS)
def test_FMT_161_what_was_read_is_written_with_the_same_state(tmp_path, version, name):
    with formats.open(FIXTURES / version / "files" / name) as reader:
        found = delta.verified(reader)
        formats.write(tmp_path / "again", found)
        with formats.open(tmp_path / "again") as again:
            assert again.state_sha256 == reader.state_sha256
            assert again.attributes == reader.attributes
            assert dict(again.files) == dict(reader.files)


def test_FMT_160_a_released_delta_is_applied():
    files = FIXTURES / "v1.0" / "files"
    with formats.open(files / "parts") as base, formats.open(files / "delta.sparse") as step:
        result = delta.apply(delta.verified(base), [delta.verified(step)])
        assert sorted(result.tensors) == ["new", "w0", "w1"]
        for name in result.tensors:
            result.tensors[name]
