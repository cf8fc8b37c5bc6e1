"""What is written is what is read, bit for bit."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import formats
from formats import container, encoding, header, records

dtypes = st.sampled_from(sorted(container.DTYPES))


def array(draw, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Any bits at all: NaN payloads, −0.0, subnormals."""
    size = container.section_bytes(dtype, shape)
    if dtype == "BOOL":
        return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool).reshape(shape)
    if container.BITS[dtype] < 8:
        size, largest = prod(shape), 2 ** container.BITS[dtype] - 1
        values = draw(st.lists(st.integers(0, largest), min_size=size, max_size=size))
        return np.array(values, np.uint8).view(container.DTYPES[dtype]).reshape(shape)
    raw = draw(st.binary(min_size=size, max_size=size) | st.just(bytes(size)))
    return np.frombuffer(raw, container.DTYPES[dtype]).reshape(shape)


@st.composite
def dense(draw):
    return formats.Dense(array(draw, draw(dtypes), tuple(draw(st.lists(st.integers(0, 3), max_size=4)))))


@st.composite
def support(draw):
    """A mask of any rank from 1, by a plain loop over its positions; some keep a pattern."""
    shape = (*draw(st.lists(st.integers(0, 4), max_size=3)), draw(st.integers(0, 19)))
    m = draw(st.sampled_from([0, 2, 4])) if shape[-1] else 0
    if m:
        shape = (*shape[:-1], -(-shape[-1] // m) * m)
        groups = [draw(st.permutations(range(m)))[: m // 2] for _ in range(prod(shape) // m)]
        flat = sorted(i * m + offset for i, group in enumerate(groups) for offset in group)
    else:
        flat = [i for i in range(prod(shape)) if draw(st.booleans())]
    rows, columns = prod(shape[:-1]), shape[-1]
    indptr = np.array([sum(i < r * columns for i in flat) for r in range(rows + 1)], np.int64)
    return formats.Mask(shape, indptr, np.array([i % columns for i in flat], np.int32))


@st.composite
def sparse(draw):
    mask = draw(support())
    return formats.Sparse(mask.shape, mask.indptr, mask.indices, array(draw, draw(dtypes), (mask.nnz,)))


names = st.text(st.characters(exclude_characters="#\x7f", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(names, dense() | sparse() | support(), max_size=4),
    st.dictionaries(st.text(), json, max_size=3),
    st.sampled_from(["auto", "bitmask", "csr", "gap8", "varint"]),
    st.sampled_from([None, "zstd"]),
    st.integers(1, 400),
)
def test_any_checkpoint_comes_back(tmp_path_factory, same, tensors, attributes, wanted, compress, shard_bytes):
    if wanted == "bitmask" and any(not isinstance(t, formats.Dense) and not t.shape[-1] for t in tensors.values()):
        wanted = "csr"
    path = tmp_path_factory.mktemp("round") / "checkpoint"
    checkpoint = formats.Checkpoint("model", tensors, attributes)
    formats.write(path, checkpoint, encoding=wanted, compress=compress, shard_bytes=shard_bytes)
    back = formats.read(path)
    assert back.attributes == attributes
    assert list(back.tensors) == sorted(tensors)
    # FMT-080: what was read is written to the same bytes
    again = path.with_name("again")
    formats.write(again, back, encoding=wanted, compress=compress, shard_bytes=shard_bytes)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == {p.name: p.read_bytes() for p in again.iterdir()}
    for name, tensor in tensors.items():
        found = back.tensors[name]
        if isinstance(tensor, formats.Sparse) and isinstance(found, formats.Dense):
            # FMT-005: a full support may come back without being told
            assert tensor.nnz == found.values.size
            tensor = formats.Dense(tensor.values.reshape(tensor.shape))
        assert same(found, tensor)


def bits32(*words):
    return np.array(words, np.uint32).view(np.float32)


# [ 0  .  -0 ]   stored zeros of both signs, a NaN with a payload, a row without values
# [ .  .  .  ]
# [ .  nan . ]
ODD = formats.Sparse((3, 3), np.array([0, 2, 2, 3]), np.array([0, 2, 1], np.int32), bits32(0, 0x80000000, 0x7FA12345))


@pytest.mark.parametrize("wanted", ["auto", "bitmask", "csr", "gap8", "varint"])
def test_FMT_002_FMT_003_stored_zeros_and_payloads_survive(tmp_path, same, wanted):
    formats.write(tmp_path / "c", formats.Checkpoint("model", {"w": ODD}), encoding=wanted)
    assert same(formats.read(tmp_path / "c").tensors["w"], ODD)


def test_FMT_091_the_content_digest_ignores_the_encoding_and_tells_stored_zeros(tmp_path):
    absent = formats.from_dense(formats.to_dense(ODD), "positive")
    assert absent.indices.tolist() == [2, 1]
    digests = {}
    for name, tensor, wanted in [
        ("m", ODD, "bitmask"),
        ("c", ODD, "csr"),
        ("g", ODD, "gap8"),
        ("absent", absent, "csr"),
    ]:
        formats.write(tmp_path / name, formats.Checkpoint("model", {"w": tensor}), encoding=wanted)
        with formats.open(tmp_path / name) as reader:
            digests[name] = reader.info("w").content_sha256
    assert digests["m"] == digests["c"] == digests["g"] != digests["absent"]


def test_FMT_005_FMT_091_a_full_support_is_a_dense_tensor(tmp_path):
    values = np.arange(6, dtype=np.int16)
    full = formats.Sparse((2, 3), np.array([0, 3, 6]), np.array([0, 1, 2] * 2, np.int32), values)
    digests = set()
    for wanted in ["dense", "bitmask", "csr"]:
        formats.write(tmp_path / wanted, formats.Checkpoint("model", {"w": full}), encoding=wanted)
        with formats.open(tmp_path / wanted) as reader:
            assert reader.info("w").encoding == wanted
            digests.add(reader.info("w").content_sha256)
            assert formats.to_dense(reader["w"]).tolist() == values.reshape(2, 3).tolist()
            reader.verify()
    formats.write(tmp_path / "d", formats.Checkpoint("model", {"w": formats.Dense(values.reshape(2, 3))}))
    with formats.open(tmp_path / "d") as reader:
        digests.add(reader.info("w").content_sha256)
    assert len(digests) == 1


@pytest.mark.parametrize("block", [1, 5, 64])
def test_packing_does_not_depend_on_the_block(tmp_path, monkeypatch, same, block):
    rng = np.random.default_rng(3)
    values = rng.standard_normal((17, 13)) * (rng.random((17, 13)) < 0.4)
    whole = formats.from_dense(values, "positive")
    formats.write(tmp_path / "a", formats.Checkpoint("model", {"w": whole}), encoding="bitmask")
    monkeypatch.setattr(records, "BLOCK", block)
    assert same(formats.from_dense(values, "positive"), whole)
    assert formats.to_dense(whole).tobytes() == values.tobytes()
    formats.write(tmp_path / "b", formats.Checkpoint("model", {"w": whole}), encoding="bitmask")
    assert same(formats.read(tmp_path / "a").tensors["w"], whole)
    file = "model.sparse.safetensors"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_FMT_061_bits_go_from_low_to_high_and_rows_begin_at_bytes(tmp_path):
    # [ . 1 . . . . . . | . 2 ]
    # [ 3 . . . . . . . | . . ]
    tensor = formats.Sparse((2, 10), np.array([0, 2, 3]), np.array([1, 9, 0], np.int32), np.array([1, 2, 3.0]))
    sections = encoding.encode(tensor, "bitmask", None)
    assert sections["mask"].tolist() == [[0b10, 0b10], [0b1, 0]]
    assert sections["values"].tolist() == [1, 2, 3]


def test_FMT_060_dense_values_are_row_major(tmp_path):
    values = np.arange(6, dtype=np.int16).reshape(2, 3).T
    formats.write_file(tmp_path / "f.safetensors", formats.Checkpoint("model", {"w": formats.Dense(values)}))
    raw = (tmp_path / "f.safetensors").read_bytes()
    assert np.frombuffer(raw[-64:], np.int16)[:6].tolist() == [0, 3, 1, 4, 2, 5]
    assert formats.read(tmp_path / "f.safetensors").tensors["w"].values.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("columns", "nnz", "expected"),
    [(65536, 1, ("U16", "U32")), (65537, 2**32 - 1, ("U32", "U32")), (65537, 2**32, ("U32", "U64"))],
)
def test_FMT_065_csr_uses_the_smallest_widths(columns, nnz, expected):
    plan = encoding.plan(header.Entry("F32", (70000, columns), "csr", nnz, "", {}), "w")
    assert (plan["col_idx"][0], plan["row_ptr"][0]) == expected


@pytest.mark.parametrize("columns", [65536, 65537])
def test_FMT_065_the_last_column_survives(tmp_path, same, columns):
    last = formats.Sparse((1, columns), np.array([0, 1]), np.array([columns - 1], np.int32), np.array([1.0]))
    formats.write(tmp_path / "c", formats.Checkpoint("model", {"w": last}), encoding="csr")
    assert same(formats.read(tmp_path / "c").tensors["w"], last)


def sizes(nnz, shape, gap):
    """Bytes of the support by hand, from the table of 12.4; every gap is the same."""
    rows, columns = shape
    return {
        "bitmask": rows * ((columns + 7) // 8),
        "csr": nnz * (2 if columns <= 65536 else 4) + 4 * (rows + 1),
        "gap8": nnz * (gap // 255 + 1),
        "varint": nnz * (1 if gap < 128 else 2),
    }


@pytest.mark.parametrize("gap", [2, 130, 300, 1100])
@pytest.mark.parametrize("nnz", [0, 1, 2, 3, 7, 8, 24, 25, 26, 33])
def test_FMT_081_auto_takes_the_fewest_bytes(tmp_path, nnz, gap):
    shape = (2, 20000)
    support = formats.from_flat(shape, np.arange(1, nnz + 1) * (gap + 1) - 1)
    formats.write(
        tmp_path / "c", formats.Checkpoint("model", {"w": formats.with_values(support, np.ones(nnz, np.int8))})
    )
    expected = sizes(nnz, shape, gap)
    with formats.open(tmp_path / "c") as reader:
        info = reader.info("w")
        assert info.nbytes - nnz == expected[info.encoding] == min(expected.values())
        assert info.encoding == next(name for name, size in expected.items() if size == min(expected.values()))


def test_FMT_082_a_support_is_never_lost(tmp_path):
    checkpoint = formats.Checkpoint("model", {"w": ODD})
    with pytest.raises(formats.FormatError, match=r"FMT-082.*another encoding"):
        formats.write(tmp_path / "c", checkpoint, encoding="dense")
    # one absent position of 10,000: bitmask costs more than dense would, and is taken all the same
    values = np.ones((100, 100), np.int8)
    values[3, 4] = 0
    formats.write(tmp_path / "d", formats.Checkpoint("model", {"w": formats.from_dense(values)}))
    with formats.open(tmp_path / "d") as reader:
        assert reader.info("w").encoding == "bitmask"


@pytest.mark.parametrize("wanted", ["auto", "dense", "bitmask", "csr"])
def test_FMT_083_a_dense_tensor_stays_dense(tmp_path, same, wanted):
    zeros = formats.Dense(np.zeros((8, 80), np.float32))
    formats.write(tmp_path / "c", formats.Checkpoint("model", {"w": zeros}), encoding=wanted)
    assert same(formats.read(tmp_path / "c").tensors["w"], zeros)


def test_FMT_064_a_bitmask_without_columns_is_refused(tmp_path, same):
    thin = formats.Sparse((3, 0), np.zeros(4, np.int64), np.zeros(0, np.int32), np.zeros(0))
    with pytest.raises(formats.FormatError, match="FMT-064"):
        formats.write(tmp_path / "c", formats.Checkpoint("model", {"w": thin}), encoding="bitmask")
    formats.write(tmp_path / "d", formats.Checkpoint("model", {"w": thin}), encoding="csr")
    assert same(formats.read(tmp_path / "d").tensors["w"], thin)


def test_FMT_056_gaps_without_columns_are_refused_for_their_rows(tmp_path):
    thin = formats.Mask((100_000, 0), np.zeros(100_001, np.int64), np.zeros(0, np.int32))
    for wanted in ("gap8", "varint"):
        with pytest.raises(formats.FormatError, match=f"FMT-056.* 100000 rows, too many for {wanted}"):
            formats.write(tmp_path / "c", formats.Checkpoint("model", {"w": thin}), encoding=wanted)


def test_FMT_007_dimensions_of_zero_beside_large_ones(tmp_path, same):
    tensors = {
        "a": formats.Dense(np.zeros((2**40, 0, 2**12))),
        "b": formats.Dense(np.zeros((0,) * 8, np.int8)),
    }
    formats.write(tmp_path / "c", formats.Checkpoint("model", tensors))
    back = formats.read(tmp_path / "c").tensors
    assert all(same(back[name], tensors[name]) for name in tensors)


def test_values_of_foreign_layout_are_written_as_they_read(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    formats.write(tmp_path / "c", formats.Checkpoint("model", {"w": formats.Dense(values)}))
    assert formats.read(tmp_path / "c").tensors["w"].values.tolist() == values.tolist()
