"""Rows of a tensor without the rest, and the compiled loops against what their docstrings say in NumPy."""

from math import comb

import numpy as np
import pytest

import formats
from formats import container, fast, loops
from formats.encodings import nm
from formats.records import flat_rows

SHAPES = [(7, 13), (1, 8), (17, 64), (3, 4, 8), (2, 3, 2, 5), (5, 0), (0, 6)]
# FMT-064: a bitmask has columns
STORED = [(s, e) for s in SHAPES for e in ("dense", "bitmask", "csr", "gap8", "varint") if e != "bitmask" or s[-1]]


def tensor(shape, dtype="F16", seed=0):
    rng = np.random.default_rng(seed)
    support = formats.from_support(rng.random(shape) < 0.4)
    raw = rng.integers(0, 256, support.nnz * container.DTYPES[dtype].itemsize, dtype=np.uint8)
    if container.BITS[dtype] < 8:
        raw &= (1 << container.BITS[dtype]) - 1
    return formats.with_values(support, raw.view(container.DTYPES[dtype]))


@pytest.mark.parametrize("compress", [None, "zstd"])
@pytest.mark.parametrize("dtype", ["F16", "F4", "F6_E2M3", "I64"])
@pytest.mark.parametrize(("shape", "wanted"), STORED)
def test_rows_are_a_slice_along_the_first_axis(tmp_path, shape, wanted, dtype, compress):
    whole = tensor(shape, dtype)
    expected = formats.to_dense(whole)
    stored = formats.Dense(expected) if wanted == "dense" else whole
    formats.write_file(tmp_path / "f", formats.Checkpoint("model", {"w": stored}), encoding=wanted, compress=compress)
    with formats.open(tmp_path / "f") as reader:
        for first in range(shape[0] + 1):
            for last in range(first, shape[0] + 1):
                found = reader.rows("w", first, last)
                assert found.shape == (last - first, *shape[1:])
                assert formats.to_dense(found).tobytes() == expected[first:last].tobytes()


@pytest.mark.parametrize(("option", "shape"), [("nm:2:4", (6, 8)), ("nm:2:4:0", (8, 3)), ("nm:1:2:1", (3, 4, 5))])
def test_rows_of_patterns(tmp_path, option, shape):
    n, m, *axis = (int(x) for x in option.split(":")[1:])
    axis = axis[0] if axis else len(shape) - 1
    turned = np.moveaxis(np.random.default_rng(1).random(shape), axis, -1)
    groups = turned.reshape(*turned.shape[:-1], -1, m)
    keep = (np.argsort(np.argsort(groups, axis=-1), axis=-1) < n).reshape(turned.shape)
    keep = np.ascontiguousarray(np.moveaxis(keep, -1, axis))
    support = formats.from_support(keep)
    whole = formats.with_values(support, np.arange(support.nnz, dtype=np.float32))
    tensors = {"w": whole, "mask": support}
    formats.write_file(tmp_path / "f", formats.Checkpoint("model", tensors), encoding=option)
    with formats.open(tmp_path / "f") as reader:
        assert reader.info("w").pattern == formats.Pattern(n, m, axis)
        for first in range(shape[0] + 1):
            for last in range(first, shape[0] + 1):
                found = reader.rows("w", first, last)
                assert formats.to_dense(found).tobytes() == formats.to_dense(whole)[first:last].tobytes()
                assert (formats.to_dense(reader.rows("mask", first, last)) == keep[first:last]).all()


def test_rows_that_are_not_there_are_refused(tmp_path):
    tensors = {"w": tensor((4, 5)), "v": tensor((9,)), "s": formats.Dense(np.array(1.0))}
    formats.write_file(tmp_path / "f", formats.Checkpoint("model", tensors))
    with formats.open(tmp_path / "f") as reader:
        for name, first, last in (("w", 0, 5), ("w", 3, 2), ("w", -1, 2), ("v", 0, 1), ("s", 0, 0)):
            with pytest.raises(IndexError):
                reader.rows(name, first, last)
        with pytest.raises(KeyError):
            reader.rows("x", 0, 1)


def test_rows_do_not_read_the_values_of_others(tmp_path):
    whole = tensor((64, 640), "F64")
    formats.write_file(tmp_path / "f", formats.Checkpoint("model", {"w": whole}), encoding="bitmask")
    raw = bytearray((tmp_path / "f").read_bytes())
    raw[-8 - 64 : -64] = b"\xff" * 8  # the last value
    (tmp_path / "g").write_bytes(raw)
    with formats.open(tmp_path / "g") as reader:
        assert formats.to_dense(reader.rows("w", 0, 63)).tobytes() == formats.to_dense(whole)[:63].tobytes()
        with pytest.raises(formats.FormatError, match="FMT-090"):
            reader.load_verified("w")


# compiled loops ----------------------------------------------------------------------------------


@pytest.fixture(params=[(0, 3), (1, 1), (5, 8), (17, 41), (64, 1000)])
def sample(request):
    rows, columns = request.param
    return tensor((rows, columns), "F32", seed=rows)


def present(t):
    found = np.zeros(t.shape, np.bool_)
    found.reshape(-1)[flat_rows(t, 0, t.shape[0])] = True
    return found


def test_masks_are_what_numpy_packs(sample):
    packed = np.packbits(present(sample), axis=1, bitorder="little")
    mask = np.full_like(packed, 0xAA)
    fast.set_bits(sample.indptr, sample.indices, mask)
    assert (mask == packed).all()
    counts = np.empty(len(packed), np.int64)
    fast.mask_rows(packed, counts)
    assert (counts == np.bitwise_count(packed).sum(axis=1)).all()
    indices = np.empty(sample.nnz, np.int32)
    fast.mask_columns(packed, indices)
    unpacked = np.unpackbits(packed, axis=1, bitorder="little")
    assert (indices == np.flatnonzero(unpacked) % max(unpacked.shape[1], 1)).all()


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 7), (8, 16), (16, 32), (1, 64), (32, 64), (63, 64)])
def test_ranks_are_those_of_the_numpy_definition(n, m):
    pattern = formats.Pattern(n, m, 1)
    rng = np.random.default_rng(n)
    offsets = np.sort(np.argsort(rng.random((3 * 5, m)), axis=1)[:, :n], axis=1)
    columns = (offsets.reshape(3, 5, n) + np.arange(5)[:, None] * m).astype(np.int32)
    bits, table = nm.width(pattern), nm.binomials(m, n)
    packed = np.zeros((3, -(-5 * bits // 8)), np.uint8)
    fast.pack_ranks(columns.reshape(-1, n), table, m, bits, packed)
    ranks = nm.ranks_of(offsets, pattern)
    assert (nm._unpack(packed, 5, bits, "w").reshape(-1) == ranks).all()
    assert (nm.offsets_of(ranks, pattern) == offsets).all()
    back = np.empty((15, n), np.int32)
    limit = comb(m, n)
    none = np.empty((0, n), np.uint8)
    for known in [none, nm._all_offsets(m, n)] if limit < 1 << 16 else [none]:
        back[:] = -1
        assert fast.unpack_ranks(packed, table, known, m, bits, limit, back) == -1
        assert (back.reshape(columns.shape) == columns).all()
        assert fast.unpack_ranks(packed, table, known, m, bits, int(ranks.max()), back) == ranks.max()


def test_scatter_and_gather_are_what_numpy_indexes(sample):
    dense = np.zeros(sample.shape, np.uint32)
    fast.scatter(sample.indptr, sample.indices, sample.values.view(np.uint32), dense)
    expected = np.zeros(sample.shape, np.uint32)
    rows = np.repeat(np.arange(sample.shape[0]), np.diff(sample.indptr))
    expected[rows, sample.indices] = sample.values.view(np.uint32)
    assert (dense == expected).all()
    for counted in (np.uint32(0xFFFFFFFF), np.uint32(0x7FFFFFFF)):
        assert fast.count_stored(dense.reshape(-1), counted) == np.count_nonzero(dense & counted)
    back = formats.from_dense(dense)
    at_rows, at_columns = np.nonzero(dense)
    assert (np.repeat(np.arange(len(dense)), np.diff(back.indptr)) == at_rows).all()
    assert (back.indices == at_columns).all()
    assert (back.values == dense[dense != 0]).all()


def test_gap_bytes_are_counted_as_they_are_written(sample):
    positions = formats.flat(sample)
    gaps = np.diff(positions, prepend=-1) - 1
    varint = sum(max(1, -(-int(gap).bit_length() // 7)) for gap in gaps)
    counted = fast.gap_bytes(sample.indptr, sample.indices, sample.shape[1])
    assert counted == (gaps.size + int((gaps // 255).sum()), varint)


@pytest.mark.parametrize(
    ("columns", "fault"),
    [([0, 2, 1], (0, 0)), ([0, 3, 1], (1, 1)), ([2, 2, 1], (2, 1)), ([-1, 2, 1], (1, 0)), ([0, 1, 3], (1, 2))],
)
def test_the_first_fault_is_found(columns, fault):
    assert fast.first_fault(np.array([0, 2, 2, 3]), np.array(columns, np.int32), 3) == fault
    assert fast.first_fault(np.array([0, 2, 2, 3]), np.array(columns, np.int64), 3) == fault


def test_rows_side_by_side_are_rows_one_after_the_other(tmp_path, monkeypatch):
    whole = tensor((33, 100), "F32", seed=9)
    apart = formats.to_dense(whole)
    monkeypatch.setattr(loops, "_WORTH_THREADS", 1)
    monkeypatch.setattr(loops, "_THREADS", 5)
    assert formats.to_dense(whole).tobytes() == apart.tobytes()
    assert loops.by_rows(33, 100, lambda a, b: (a, b))[0] == (0, 6)
    bad = formats.Sparse(whole.shape, whole.indptr, whole.indices.copy(), whole.values)
    bad.indices[-1] = 100
    with pytest.raises(formats.FormatError, match=f"FMT-068.*slot {bad.nnz - 1}"):
        formats.write_file(tmp_path / "f", formats.Checkpoint("model", {"w": bad}))
