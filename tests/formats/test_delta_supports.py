"""A delta between two checkpoints on disk: a support that both store alike is decoded once, and is checked in both."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

import formats
from formats import delta, digest, encoding
from formats.records import flat

ENCODINGS = ["bitmask", "csr", "gap8", "varint", "nm:2:4:1"]
NAMES = ["a", "b", "c"]


def two_of_four(rng, rows, columns):
    """Return a mask that every encoding can hold."""
    order = np.argsort(rng.random((rows, columns // 4, 4)), axis=2)
    return formats.from_support((order < 2).reshape(rows, columns))


def tensors(rng):
    return {name: formats.with_values(two_of_four(rng, 9, 40), rng.standard_normal(180)) for name in NAMES}


def changed(tensor):
    values = tensor.values.copy()
    values[::60] += 1
    return dataclasses.replace(tensor, values=values)


@pytest.fixture
def decoded(monkeypatch):
    """The names whose supports were decoded, in order."""
    names = []
    for key, code in list(encoding.CODES.items()):

        def decode(entry, name, sections, rows, code=code):
            names.append(name)
            return code.decode(entry, name, sections, rows)

        monkeypatch.setitem(encoding.CODES, key, dataclasses.replace(code, decode=decode))
    return names


def written(root, versions, how):
    """Write each version as a folder of root, and return the folders."""
    folders = [root / str(i) for i in range(len(versions))]
    for folder, version in zip(folders, versions, strict=True):
        formats.write(folder, formats.Checkpoint("model", version), **how)
    return folders


def difference(folders):
    """Return the delta between two folders, as it would be written, held in memory."""
    with formats.open(folders[0]) as base, formats.open(folders[1]) as target:
        made = delta.diff(delta.verified(base), delta.verified(target))
        return dataclasses.replace(made, tensors=dict(made.tensors))


@pytest.mark.parametrize("compress", [None, "zstd"])
@pytest.mark.parametrize("option", ENCODINGS)
def test_equal_supports_are_decoded_once(option, compress, tmp_path, decoded, same):
    rng = np.random.default_rng(31)
    old = tensors(rng)
    new = {name: changed(tensor) for name, tensor in old.items()}
    new["b"] = formats.with_values(two_of_four(rng, 9, 40), rng.standard_normal(180))
    folders = written(tmp_path, [old, new], {"encoding": option, "compress": compress})
    made = difference(folders)
    assert sorted(decoded) == ["a", "b", "b", "c"]
    expected = delta.diff(*(formats.Checkpoint("model", version) for version in (old, new)))
    assert made.delta == expected.delta
    assert list(made.tensors) == list(expected.tensors)
    assert all(same(tensor, expected.tensors[name]) for name, tensor in made.tensors.items())


@pytest.mark.parametrize("pair", list(pairwise([*ENCODINGS, ENCODINGS[0]])))
def test_a_support_in_two_encodings_is_decoded_from_both(pair, tmp_path, decoded):
    old = tensors(np.random.default_rng(32))
    new = {name: changed(tensor) for name, tensor in old.items()}
    folders = [
        written(tmp_path / option[:2], [version], {"encoding": option})[0]
        for option, version in zip(pair, (old, new), strict=True)
    ]
    made = difference(folders)
    assert sorted(decoded) == sorted([*NAMES] * 2)
    assert {name: flat(tensor).size for name, tensor in made.tensors.items()} == {f"replace:{n}": 3 for n in NAMES}


def test_masks_too_share_a_support(tmp_path, decoded):
    mask = two_of_four(np.random.default_rng(33), 9, 40)
    versions = [{"m": mask, "w": formats.Dense(np.full(3, i))} for i in range(2)]
    made = difference(written(tmp_path, versions, {}))
    assert decoded == ["m"]
    assert list(made.tensors) == ["whole:w"]


def spoil(folder, name):
    """Flip a bit of the first byte of a mask in a folder."""
    (file,) = folder.glob("*.safetensors")
    with formats.open(folder) as reader:
        stored = digest.raw_bytes(encoding.encode(reader[name], "bitmask", None)["mask"]).tobytes()
    raw = file.read_bytes()
    assert raw.count(stored) == 1
    file.write_bytes(raw.replace(stored, bytes([stored[0] ^ 1]) + stored[1:]))


@pytest.mark.parametrize("damaged", [{0}, {1}, {0, 1}])
def test_FMT_090_damage_of_a_support_is_refused_in_base_and_target(damaged, tmp_path):
    old = tensors(np.random.default_rng(34))
    folders = written(tmp_path, [old, {name: changed(tensor) for name, tensor in old.items()}], {"encoding": "bitmask"})
    for i in damaged:
        spoil(folders[i], "b")
    # if both are damaged, the error is that of the base
    with pytest.raises(formats.FormatError, match=rf"FMT-090: .*{folders[min(damaged)].name}: .*'b#mask'"):
        difference(folders)
