"""The loops in NumPy are those that numba compiles: function by function, and byte for byte in whole files."""

import subprocess
import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest

from formats import fast, plain
from formats.encodings.nm import _all_offsets, binomials, width
from formats.records import Pattern

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [(1, 1), (3, 0), (0, 5), (7, 13), (64, 40), (5, 300), (200, 17)]


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    """Take few entries at a time, so that small arrays need several runs."""
    monkeypatch.setattr(plain, "_RUN", 37)


def support(shape, seed, density=0.3):
    present = np.random.default_rng(seed).random(shape) < density
    present[::3] = False
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(np.int64)
    return present, indptr, np.nonzero(present)[1].astype(np.int32)


def both(name, make, *arguments):
    """Call a function of both modules with outputs of their own; return what they return and write."""
    found = []
    for module in (plain, fast):
        outputs = make()
        found.append((getattr(module, name)(*arguments, *outputs), outputs))
    return found


def assert_same(found):
    (one, ours), (two, theirs) = found
    assert one == two
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [slice(None), slice(1, -1)], ids=["all", "some"])
def test_supports(shape, rows):
    present, indptr, indices = support(shape, 1)
    if rows.start and shape[0] < 3:
        pytest.skip("no rows in the middle")
    present, indptr = present[rows], indptr[rows.start or 0 : (len(indptr) - 1 if rows.start else None)]
    packed = np.packbits(present, axis=1, bitorder="little")
    assert_same(both("mask_rows", lambda: (np.zeros(len(packed), np.int64),), packed))
    assert_same(both("mask_columns", lambda: (np.zeros(int(present.sum()), np.int32),), packed))
    assert_same(both("set_bits", lambda: (np.full(packed.shape, 255, np.uint8),), indptr, indices))
    (_, (bits,)), _ = both("set_bits", lambda: (np.full(packed.shape, 255, np.uint8),), indptr, indices)
    np.testing.assert_array_equal(bits, packed)
    assert plain.first_fault(indptr, indices, shape[1]) == fast.first_fault(indptr, indices, shape[1]) == (0, 0)
    values = np.arange(1, len(indices) + 1, dtype=np.uint16)
    assert_same(both("scatter", lambda: (np.zeros(present.shape, np.uint16),), indptr, indices, values))


@pytest.mark.parametrize("shape", SHAPES)
def test_slots_of_positions(shape):
    present, indptr, indices = support(shape, 7)
    at = np.flatnonzero(np.random.default_rng(8).random(present.size) < 0.4)

    def outputs():
        return np.full(at.size, -1, np.int64), np.zeros(at.size, np.bool_)

    found = both("slots_of", outputs, indptr, indices, shape[1], at)
    assert_same(found)
    before, stored = found[0][1]
    flat = present.reshape(-1)
    assert before.tolist() == [int(flat[:one].sum()) for one in at]
    assert stored.tolist() == flat[at].tolist()


@pytest.mark.parametrize("columns", [3, 300, 100_000])
def test_gaps(columns):
    rng = np.random.default_rng(columns)
    rows = [np.sort(rng.choice(columns, min(columns, int(n)), replace=False)) for n in rng.integers(0, 60, 9)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate(rows).astype(np.int32)
    gap8, varint = plain.gap_bytes(indptr, indices, columns)
    assert (gap8, varint) == fast.gap_bytes(indptr, indices, columns)
    gaps = np.diff(np.concatenate([columns * i + row for i, row in enumerate(rows)]), prepend=-1) - 1
    assert_same(both("pack_varint", lambda: (np.full(varint, 255, np.uint8),), gaps))


@pytest.mark.parametrize("share", [0, 0.003, 0.5, 1])
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_unequal_words(size, share):
    rng = np.random.default_rng(size)
    old = rng.integers(0, 2**63, size).astype(np.uint64)
    bits = np.uint64(1) << rng.integers(0, 64, size).astype(np.uint64)
    new = np.where(rng.random(size) < share, old ^ bits, old)
    results = both("unequal", lambda: (np.zeros(size, np.int64),), old, new)
    for count, (indices,) in results:
        assert indices[:count].tolist() == [i for i in range(size) if old[i] != new[i]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_every_fault_is_found_at_its_slot(dtype):
    _, indptr, indices = support((20, 30), 3)
    rng = np.random.default_rng(4)
    kinds = set()
    for _ in range(200):
        wrong = indices.astype(dtype)
        for slot in rng.integers(0, len(wrong), 2):
            wrong[slot] = dtype(rng.integers(0, 35))
        found = plain.first_fault(indptr, wrong, 30)
        assert found == tuple(fast.first_fault(indptr, wrong, 30))
        kinds.add(found[0])
    assert kinds == {0, 1, 2}


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 4), (1, 4), (3, 7), (4, 8), (16, 32), (31, 32)])
def test_patterns(n, m):
    rng, rows, per_row = np.random.default_rng(m), 6, 9
    offsets = np.sort(np.stack([rng.permutation(m)[:n] for _ in range(rows * per_row)]), axis=1)
    groups = (offsets + np.tile(np.arange(per_row) * m, rows)[:, None]).astype(np.int32)
    indptr = np.arange(rows + 1, dtype=np.int64) * per_row * n
    flat = groups.reshape(-1)
    assert plain.keeps_pattern(indptr, flat, n, m, per_row)
    assert fast.keeps_pattern(indptr, flat, n, m, per_row)
    if n < m:
        moved = flat.copy()
        moved[n - 1] = m  # the last slot of the first group is one of the second
        assert not plain.keeps_pattern(indptr, moved, n, m, per_row)
    bits, table, limit = width(Pattern(n, m, 1)), binomials(m, n), comb(m, n)
    shape = (rows, -(-per_row * bits // 8))
    found = both("pack_ranks", lambda: (np.zeros(shape, np.uint8),), groups, table, m, bits)
    assert_same(found)
    packed = found[0][1][0]
    none = np.empty((0, n), np.uint8)
    for known in (none, _all_offsets(m, n)) if limit < 5000 else (none,):
        out = np.zeros_like(groups)
        assert plain.unpack_ranks(packed, table, known, m, bits, limit, out) == -1
        np.testing.assert_array_equal(out, groups)
    if limit < 1 << bits:
        wrong = np.full(shape, 255, np.uint8)
        outs = [np.zeros_like(groups) for _ in range(2)]
        expected = fast.unpack_ranks(wrong, table, none, m, bits, limit, outs[0])
        assert plain.unpack_ranks(wrong, table, none, m, bits, limit, outs[1]) == expected != -1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_values(shape, dtype):
    values = np.random.default_rng(5).integers(0, 3, shape).astype(dtype)
    values[values == 2] = np.iinfo(dtype).max // 2 + 1  # the highest bit alone, as of −0.0
    for counted in (np.iinfo(dtype).max, np.iinfo(dtype).max // 2):
        counted = dtype(counted)
        number = plain.count_stored(values.reshape(-1), counted)
        assert number == fast.count_stored(values.reshape(-1), counted) == np.count_nonzero(values & counted)

        def outputs(number=number):
            return np.zeros(shape[0] + 1, np.int64), np.zeros(number + 1, np.int32), np.zeros(number + 1, dtype)

        (_, ours), (_, theirs) = both("gather", outputs, values, counted)
        np.testing.assert_array_equal(ours[0], theirs[0])
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            np.testing.assert_array_equal(mine[:number], other[:number])


WRITES = """
import sys
if sys.argv[2] == "without":
    sys.modules["numba"] = None
import numpy as np, formats
from formats import loops
assert loops.COMPILED == (sys.argv[2] != "without")
rng = np.random.default_rng(0)
dense = {f"w{i}": np.where(rng.random((40, 64)) < 0.3, rng.standard_normal((40, 64)), 0).astype(t)
         for i, t in enumerate((np.float32, np.float64, np.float16))}
half = rng.standard_normal((16, 32)).astype(np.float32)
half.reshape(-1, 4)[:, :2] = 0
tensors = {name: formats.from_dense(values) for name, values in dense.items()} | {"half": formats.from_dense(half)}
for encoding in ("auto", "csr", "bitmask", "gap8", "varint", "nm"):
    some = {"half": tensors["half"]} if encoding == "nm" else tensors
    formats.write(f"{sys.argv[1]}/{encoding}", formats.Checkpoint("model", some), encoding=encoding)
    with formats.open(f"{sys.argv[1]}/{encoding}") as reader:
        reader.verify()
        for name in reader.names():
            np.testing.assert_array_equal(formats.to_dense(reader[name]), (dense | {"half": half})[name])
"""


def test_files_are_the_same_without_numba(tmp_path):
    found = []
    for how in ("with", "without"):
        (tmp_path / how).mkdir()
        subprocess.run([sys.executable, "-c", WRITES, tmp_path / how, how], check=True, cwd=ROOT)
        files = sorted(path for path in (tmp_path / how).rglob("*") if path.is_file())
        found.append({str(path.relative_to(tmp_path / how)): path.read_bytes() for path in files})
    assert len(found[0]) == 6
    assert found[0] == found[1]


def test_loops_are_compiled_where_no_cache_can_be_written(monkeypatch):
    real = fast.numba.njit

    def without_cache(function=None, *, cache=False, **how):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(function, **how) if function else real(**how)

    monkeypatch.setattr(fast.numba, "njit", without_cache)
    assert fast._compiled(lambda x: x + 1)(2) == 3
