"""What changes between two tensors, against a plain loop over dictionaries (FMT-134)."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import formats
from formats import change, delta, digest
from formats.lazy import Lazy, like
from formats.records import bits, flat


def by_loop(base, target):
    """What `between` finds by replacement, from dictionaries of position to bits."""
    old, new = (
        dict(zip(change.positions(one).tolist(), bits(one.values.reshape(-1)).tolist(), strict=True))
        for one in (base, target)
    )
    replaced = {at: value for at, value in sorted(new.items()) if old.get(at) != value}
    return replaced, sorted(old.keys() - new.keys())


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("kind", ["dense", "same support", "another support"])
def test_FMT_134_what_changes_by_a_plain_loop(dtype, kind, monkeypatch):
    monkeypatch.setattr(change, "BLOCK", 16)
    rng = np.random.default_rng(11)
    for shape in ((1,), (7, 5), (16, 4), (3, 2, 11)):
        old = rng.integers(0, 4, shape).astype(dtype)
        new = np.where(rng.random(shape) < 0.2, rng.integers(0, 4, shape).astype(dtype), old)
        ends = formats.Dense(old), formats.Dense(new)
        if kind != "dense":
            # rows without a stored position too
            at = np.flatnonzero(rng.random(old.size) < 0.3)
            lost = at[: -(kind == "another support") or None]
            ends = tuple(
                formats.with_values(formats.from_flat(shape, where), values.reshape(-1)[where])
                for where, values in ((at, old), (lost, new))
            )
        replaced, removed = by_loop(*ends)
        found = change.between(*ends, "replace", "w")
        assert digest.of_content(change.apply(ends[0], found, "w")) == digest.of_content(ends[1])
        if len(replaced) + len(removed) >= max(ends[1].nnz, 1):
            assert found == {"whole": ends[1]}
            continue
        assert set(found) == {name for name, any_ in (("replace", replaced), ("remove", removed)) if any_}
        if replaced:
            made = found["replace"]
            assert dict(zip(flat(made).tolist(), bits(made.values).tolist(), strict=True)) == replaced
        if removed:
            assert flat(found["remove"]).tolist() == removed


@pytest.mark.parametrize("cut", [np.s_[:, 0], np.s_[:, :1], np.s_[::2, 1:4], np.s_[:, ::-1]])
def test_what_changes_in_values_with_gaps(cut):
    old = np.arange(60, dtype=np.uint16).reshape(12, 5)
    new = old.copy()
    new[4], new[6, 1] = 99, 99
    found = change.between(formats.Dense(old[cut]), formats.Dense(new[cut]), "replace", "w")["replace"]
    assert flat(found).tolist() == np.flatnonzero(old[cut] != new[cut]).tolist()
    assert set(found.values.tolist()) == {99}


def test_new_values_at_stored_positions_take_less_memory_than_the_tensor(monkeypatch):
    monkeypatch.setattr(change, "BLOCK", 1 << 16)
    rng = np.random.default_rng(5)
    support = formats.from_flat((1024, 2048), np.flatnonzero(rng.random(1024 * 2048) < 0.3))
    base = formats.with_values(support, rng.integers(0, 99, support.nnz).astype(np.uint16))
    some = np.sort(rng.choice(support.nnz, 2000, replace=False))
    new = formats.with_values(formats.from_flat(base.shape, flat(base)[some]), base.values[some] + np.uint16(1))
    tracemalloc.start()
    made = change.apply(base, {"replace": new}, "w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # all flat positions alone would take 5 MB
    assert peak < base.values.nbytes + 3e6
    expected = base.values.copy()
    expected[some] += 1
    assert np.array_equal(made.values, expected)
    assert made.indices is base.indices


@pytest.mark.parametrize("room", [0, 150, 1 << 26])
def test_what_finds_no_room_is_made_again_and_the_rest_is_read_once(room, monkeypatch, tmp_path):
    monkeypatch.setattr(delta, "KEPT", room)
    rng = np.random.default_rng(3)
    ends, read = [], []
    old = {name: rng.standard_normal((6, 5)).astype(np.float32) for name in "abcd"}
    new = {name: np.where(rng.random((6, 5)) < 0.2, values + 1, values) for name, values in old.items()}
    for values in (old, new | {"a": old["a"]}):
        tensors = Lazy(values, lambda name, values=values: read.append(name) or formats.Dense(values[name]))
        ends.append(formats.Checkpoint("model", tensors))
    made = delta.diff(*ends)
    assert read == sorted([*"abcd"] * 2)
    formats.write(tmp_path / "d", made)
    again = len(read) - 8
    assert again == {0: 6, 150: 4, 1 << 26: 0}[room]
    with formats.open(tmp_path / "d") as reader:
        result = delta.apply(ends[0], [delta.verified(reader)])
        assert like(result.tensors, "b").shape == (6, 5)
        for name in "abcd":
            np.testing.assert_array_equal(result.tensors[name].values, ends[1].tensors[name].values)
