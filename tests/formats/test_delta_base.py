"""What a delta makes of a base on disk: each byte is hashed once, and damage is refused where the result holds it."""

import numpy as np
import pytest

import formats
from formats import delta, digest


def checkpoint(tensors):
    return formats.Checkpoint("model", tensors)


@pytest.fixture
def shipped(tmp_path):
    """A base on disk with a large tensor that changes, one that does not and one that goes; its delta; the result."""
    rng = np.random.default_rng(5)
    tensors = {
        "changed": formats.from_dense(rng.standard_normal((64, 40)) * (rng.random((64, 40)) < 0.3)),
        "gone": formats.Dense(rng.standard_normal(50)),
        "stays": formats.Dense(rng.standard_normal(1000)),
    }
    values = tensors["changed"].values.copy()
    values[::50] *= 2
    after = {"changed": formats.with_values(tensors["changed"], values), "stays": tensors["stays"]}
    formats.write(tmp_path / "base", checkpoint(tensors))
    return tmp_path / "base", delta.diff(checkpoint(tensors), checkpoint(after)), checkpoint(after)


def spoil(folder, name, value):
    """Change one value of a tensor in a checkpoint folder."""
    (file,) = folder.glob("*.safetensors")
    with formats.open(folder) as reader:
        stored = reader[name].values.reshape(-1)[value].tobytes()
    raw = file.read_bytes()
    assert raw.count(stored) == 1
    file.write_bytes(raw.replace(stored, bytes([stored[0] ^ 1]) + stored[1:]))


@pytest.mark.parametrize(("name", "value"), [("changed", 3), ("stays", 7)])
def test_FMT_137_damage_of_the_base_is_refused_as_such(shipped, tmp_path, name, value):
    folder, step, _ = shipped
    spoil(folder, name, value)
    with formats.open(folder) as reader:
        result = delta.apply(delta.verified(reader), [step])
        with pytest.raises(formats.FormatError, match=rf"FMT-090.*{name}"):
            formats.write(tmp_path / "out", result)
        with pytest.raises(formats.FormatError, match=rf"FMT-090.*{name}"):
            result.tensors[name]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("changed", 50), ("gone", 2)])
def test_FMT_137_damage_that_the_result_does_not_hold_is_none(shipped, tmp_path, name, value, same):
    folder, step, after = shipped
    spoil(folder, name, value)
    with formats.open(folder) as reader:
        formats.write(tmp_path / "out", delta.apply(delta.verified(reader), [step]))
    made = formats.read(tmp_path / "out").tensors
    assert list(made) == list(after.tensors)
    assert all(same(made[name], after.tensors[name]) for name in made)


def test_each_byte_is_hashed_once_on_arrival(shipped, tmp_path, monkeypatch):
    folder, step, _ = shipped
    formats.write(tmp_path / "step", step)
    hashed, of_bytes = [], digest.of_bytes

    def counted(data):
        hashed.append(len(data))
        return of_bytes(data)

    monkeypatch.setattr(digest, "of_bytes", counted)
    with formats.open(folder) as reader, formats.open(tmp_path / "step") as change_of:
        formats.write(tmp_path / "out", delta.apply(delta.verified(reader), [delta.verified(change_of)]))
        nnz = reader.info("changed").nnz
    # the values of the tensor that stays, and those of the other one as they are now
    assert (hashed.count(8000), hashed.count(8 * nnz)) == (1, 1)
