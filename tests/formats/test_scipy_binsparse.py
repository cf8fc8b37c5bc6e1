"""SciPy and binsparse: what the libraries themselves see, and every malformed file refused."""

import io
import json
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse

from formats import errors
from formats.container import DTYPES
from formats.dialects.binsparse import write_binsparse
from formats.dialects.scipy_files import from_scipy, read_scipy, to_scipy, write_scipy
from formats.records import Checkpoint, Dense, Mask, Sparse, from_dense, from_support, to_dense, with_values

NATIVE = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "c8"]
NARROW = [np.float16, *(d for d in DTYPES.values() if d.kind == "V" or d.name.startswith(("bfloat", "float8")))]


def matrix(dtype="f4", shape=(7, 5)) -> Sparse:
    """About half of it stored, with a stored zero, and −0.0 and a NaN payload where the dtype has them."""
    g = np.random.default_rng(0)
    mask = from_support(g.random(shape) < 0.5)
    values = g.integers(0, 2**63, (mask.nnz,)).view("u1")[: mask.nnz * np.dtype(dtype).itemsize].copy()
    values = values.view(dtype) if np.dtype(dtype) != np.bool_ else values % 2 == 1
    values[0] = 0
    if np.dtype(dtype) == np.float32:
        values.view(np.uint32)[1:3] = (0x80000000, 0x7FA00001)
    return with_values(mask, values)


def same(a: Sparse, b: Sparse) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes()
        for x, y in ((a.indptr, b.indptr), (a.indices, b.indices), (a.values, b.values))
    )


def content() -> Checkpoint:
    tensors = {
        "z/weight é": matrix(),
        "a.bias": Dense(np.arange(6, dtype=np.float16).reshape(3, 2)),
        "flags": Dense(np.array([[[True, False]]])),
        "scalar": Dense(np.array(-0.0)),
        "empty": Dense(np.zeros((0, 3), dtype=np.int8)),
        "none": from_dense(np.zeros((3, 4), dtype=np.uint16)),
        "tall": matrix("i8", (40, 1)),
    }
    return Checkpoint("model", tensors, tied={"a.tied": "z/weight é", "zz": "a.bias"})


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.kind, found.tied, set(found.tensors)) == (expected.kind, expected.tied, set(expected.tensors))
    for name, tensor in expected.tensors.items():
        if isinstance(tensor, Sparse):
            assert same(found.tensors[name], tensor), name
        else:
            other = found.tensors[name].values
            assert (other.dtype, other.shape, other.tobytes()) == (tensor.dtype, tensor.shape, tensor.values.tobytes())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", NATIVE)
def test_scipy_sees_the_matrix_and_gives_it_back(dtype):
    sparse = matrix(dtype)
    theirs = to_scipy(sparse)
    assert isinstance(theirs, scipy.sparse.csr_array)
    assert theirs.toarray().tobytes() == to_dense(sparse).tobytes() or dtype in ("f4", "f8", "c8")
    assert np.array_equal(theirs.toarray(), to_dense(sparse), equal_nan=True)
    assert same(from_scipy(theirs), sparse)
    theirs.data[:] = 1
    assert same(sparse, matrix(dtype))


def test_every_kind_of_csr_is_read():
    sparse = matrix()
    for make in (scipy.sparse.csr_array, scipy.sparse.csr_matrix):
        for index in (np.int32, np.int64):
            parts = (sparse.values, sparse.indices.astype(index), sparse.indptr.astype(index))
            assert same(from_scipy(make(parts, shape=sparse.shape)), sparse)
    for shape in ((0, 3), (3, 0), (1, 1)):
        assert same(from_scipy(scipy.sparse.csr_array(shape)), from_dense(np.zeros(shape)))


def test_FMT_154_what_scipy_cannot_hold_is_refused():
    for dtype in NARROW:
        with pytest.raises(errors.CannotHold):
            to_scipy(with_values(from_support(np.eye(3, dtype=np.bool_)), np.ones(3).astype(dtype)))
    for tensor in (from_dense(np.ones(3)), from_dense(np.ones((2, 2, 2))), from_support(np.eye(2, dtype=np.bool_))):
        with pytest.raises(errors.CannotHold):
            to_scipy(tensor)
    eye = scipy.sparse.eye_array(3, format="csr")
    for other in (eye.tocsc(), eye.tocoo(), np.eye(3), eye.astype(np.complex128)):
        with pytest.raises(errors.CannotHold):
            from_scipy(other)


EDITS = {
    "column too large": ("indices", 0, 5),
    "column negative": ("indices", 0, -1),
    "unsorted": ("indices", 0, 4),
    "repeated": ("indices", 1, None),
    "pointers begin late": ("indptr", 0, 1),
    "pointers end early": ("indptr", -1, 3),
    "pointers fall": ("indptr", 1, 9),
}


def edited(case: str):
    part, at, to = EDITS[case]
    theirs = to_scipy(matrix())
    array = getattr(theirs, part)
    array[at] = array[at - 1] if to is None else to
    return theirs


@pytest.mark.parametrize("case", EDITS)
def test_FMT_153_wrong_scipy_indices_are_refused(case):
    with pytest.raises(errors.FormatError, match=r"FMT-153.*not repaired"):
        from_scipy(edited(case))


def test_FMT_153_spare_room_is_refused():
    theirs = to_scipy(matrix())
    theirs.data = np.append(theirs.data, np.float32(1))
    with pytest.raises(errors.FormatError, match=r"FMT-153.*prune"):
        from_scipy(theirs)


def test_a_folder_of_scipy_files_there_and_back(tmp_path):
    write_scipy(tmp_path / "a", content())
    assert_same(read_scipy(tmp_path / "a"), content())
    write_scipy(tmp_path / "b", Checkpoint("model", dict(reversed(content().tensors.items())), tied=content().tied))
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }
    index = json.loads((tmp_path / "a" / "index.json").read_text())
    assert index["a.tied"] == index["z/weight é"] == "z%2Fweight%20%C3%A9.npz"
    theirs = scipy.sparse.load_npz(tmp_path / "a" / index["a.tied"])
    assert same(from_scipy(theirs), matrix())
    with np.load(tmp_path / "a" / "a.bias.npz", allow_pickle=False) as dense:
        assert dense["data"].tolist() == content().tensors["a.bias"].values.tolist()


def test_what_scipy_saved_is_read(tmp_path):
    for compressed in (True, False):
        for make in (scipy.sparse.csr_array, scipy.sparse.csr_matrix):
            folder = tmp_path / f"{compressed}{make.__name__}"
            folder.mkdir()
            scipy.sparse.save_npz(folder / "w.npz", make(to_scipy(matrix())), compressed=compressed)
            (folder / "index.json").write_text('{ "w": "w.npz" }')
            assert_same(read_scipy(folder), Checkpoint("model", {"w": matrix()}))


@pytest.mark.parametrize("write", [write_scipy, write_binsparse])
def test_a_cast_happens_only_if_asked_for(tmp_path, write):
    half = with_values(from_support(np.eye(3, dtype=np.bool_)), np.array([1.5, 0, -2], dtype=ml_dtypes.bfloat16))
    source = Checkpoint(
        "model", {"w": half, "b": Dense(np.ones(2, dtype=ml_dtypes.bfloat16)), "n": Dense(np.arange(3))}
    )
    with pytest.raises(errors.CannotHold, match="F32"):
        write(tmp_path / "x", source)
    assert names(tmp_path) == []
    write(tmp_path / "x", source, dtype="F32")
    with np.load(tmp_path / "x" / "w.npz") as found:
        assert (found["data"] if write is write_scipy else found["values"]).tolist() == [1.5, 0, -2]
    with pytest.raises(errors.FormatError, match="FMT-084"):
        write(tmp_path / "y", source, dtype="F16")
    with pytest.raises(errors.FormatError, match="FMT-126"):
        write(tmp_path / "y", Checkpoint("model", {"w": Dense(np.array([1e300]))}), dtype="F32")
    for dtype in (d for d in NARROW if d != np.float16 and np.dtype(d).name.startswith("float8")):
        with pytest.raises(errors.CannotHold, match="scales"):
            write(tmp_path / "y", Checkpoint("model", {"w": Dense(np.ones(2).astype(dtype))}), dtype="F32")
    assert names(tmp_path) == ["x"]


def test_FMT_154_a_folder_of_binsparse_files_is_named_and_not_read(tmp_path):
    write_binsparse(tmp_path / "x", Checkpoint("model", {"w": matrix()}))
    with pytest.raises(errors.CannotHold, match=r"w\.npz is a binsparse file, which is only written"):
        read_scipy(tmp_path / "x")


@pytest.mark.parametrize("write", [write_scipy, write_binsparse])
def test_FMT_154_what_a_folder_cannot_hold_is_not_written(tmp_path, write):
    w = matrix()
    for bad in (
        Checkpoint("model", {"w": w}, attributes={"a": 1}),
        Checkpoint("training-state", {"w": w}),
        Checkpoint("model", {"w": w}, files={"config.json": b"{}"}),
        Checkpoint("model", {"Weight": w, "weight": w}),
        Checkpoint("model", {"é" * 60: w}),
    ):
        with pytest.raises(errors.CannotHold):
            write(tmp_path / "x", bad)
    bad = matrix()
    bad.indices[0] = 9
    with pytest.raises(errors.FormatError, match="FMT-068"):
        write(tmp_path / "x", Checkpoint("model", {"a": w, "w": bad}))
    assert names(tmp_path) == []
    write(tmp_path / "x", Checkpoint("model", {"..": w}))
    with pytest.raises(errors.DestinationExists):
        write(tmp_path / "x", Checkpoint("model", {"w": w}))


def npz_of(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def zip_of(members: dict[str, bytes], packing=zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def npy(dtype: str, shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


GOOD = {
    "format": np.array(b"csr"),
    "shape": np.array([3, 3]),
    "indptr": np.array([0, 2, 2, 3]),
    "indices": np.array([0, 2, 1]),
    "data": np.array([5.0, 0, 7]),
}
MALFORMED = {
    "no zip": b"nothing",
    "empty": b"",
    "cut": npz_of(**GOOD)[:-40],
    "member missing": npz_of(**{k: v for k, v in GOOD.items() if k != "indptr"}),
    "member too many": npz_of(**GOOD, more=np.zeros(1)),
    "column": npz_of(**{**GOOD, "indices": np.array([0, 3, 1])}),
    "negative": npz_of(**{**GOOD, "indices": np.array([0, -2, 1])}),
    "unsorted": npz_of(**{**GOOD, "indices": np.array([2, 0, 1])}),
    "fractions": npz_of(**{**GOOD, "indices": np.array([0.0, 2, 1])}),
    "rows": npz_of(**{**GOOD, "shape": np.array([4, 3])}),
    "rank": npz_of(**{**GOOD, "shape": np.array([3, 3, 1])}),
    "pickle": npz_of(format=np.array(b"dense"), data=np.array([{}, None], dtype=object)),
    "record": npz_of(format=np.array(b"dense"), data=np.zeros(2, dtype="i4,f4")),
    "stated more": zip_of({"format.npy": npy("'S5'", "()", b"dense"), "data.npy": npy("'<f8'", "(1099511627776,)")}),
    "stated less": zip_of({"format.npy": npy("'S5'", "()", b"dense"), "data.npy": npy("'<f8'", "(1,)", b"\0" * 16)}),
    "negative size": zip_of({"format.npy": npy("'S5'", "()", b"dense"), "data.npy": npy("'<f8'", "(-1,)")}),
    "no header": zip_of({"format.npy": npy("'S5'", "()", b"dense"), "data.npy": b"\x93NUMPY\x01\x00\xff\xff{"}),
    "program": zip_of({"format.npy": npy("'S5'", "()", b"dense"), "data.npy": npy("exit()", "(1,)")}),
    "boolean": zip_of({"format.npy": npy("'S5'", "()", b"dense"), "data.npy": npy("'?'", "(1,)", b"\2")}),
    "bzip2": zip_of({"format.npy": npy("'S5'", "()", b"dense")}, zipfile.ZIP_BZIP2),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_FMT_153_malformed_npz_files_are_refused(tmp_path, case):
    (tmp_path / "index.json").write_text('{"w":"w.npz"}')
    (tmp_path / "w.npz").write_bytes(npz_of(**GOOD))
    assert read_scipy(tmp_path).tensors["w"].nnz == 3
    (tmp_path / "w.npz").write_bytes(MALFORMED[case])
    with pytest.raises(errors.FormatError, match="FMT-153"):
        read_scipy(tmp_path)


def test_bombs_are_not_inflated(tmp_path):
    (tmp_path / "index.json").write_text('{"w":"w.npz"}')
    zeros = npy("'<f8'", "(250000,)", b"\0" * 2_000_000)
    data = zip_of({"format.npy": npy("'S5'", "()", b"dense"), "data.npy": zeros}, zipfile.ZIP_DEFLATED)
    (tmp_path / "w.npz").write_bytes(data)
    assert len(data) < 5000
    assert read_scipy(tmp_path).tensors["w"].shape == (250000,)
    with pytest.raises(errors.ExpansionTooLarge):
        read_scipy(tmp_path, limit=1_000_000)
    # the central directory says four times what a deflated byte can stand for
    lie = data.replace(len(zeros).to_bytes(4, "little"), (4 * len(zeros)).to_bytes(4, "little"))
    (tmp_path / "w.npz").write_bytes(lie)
    with pytest.raises(errors.FormatError, match=r"FMT-153.*can hold"):
        read_scipy(tmp_path)


def test_FMT_154_other_formats_and_dtypes_of_files_are_refused(tmp_path):
    (tmp_path / "index.json").write_text('{"w":"w.npz"}')
    eye = scipy.sparse.eye_array(3)
    for write in (
        lambda path: scipy.sparse.save_npz(path, eye.tocsc()),
        lambda path: scipy.sparse.save_npz(path, eye.tocoo()),
        lambda path: np.savez(path, **{**GOOD, "data": np.zeros(3, dtype=np.complex128)}),
        lambda path: np.savez(path, format=np.array(b"dense"), data=np.zeros(3, dtype=">f4")),
        lambda path: np.savez(path, data=np.zeros(3)),
    ):
        write(tmp_path / "w.npz")
        with pytest.raises(errors.CannotHold):
            read_scipy(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        None,
        "",
        "[]",
        '{"w":3}',
        '{"w":"v.npz"}',
        '{"w":"../w.npz"}',
        '{"w":"w.npz","v":"v.npz"}',
        "{}",
        '{"w":"w.npz","w":"w.npz"}',
        '{"w":"w.npz","a#b":"w.npz"}',
    ],
)
def test_FMT_153_an_index_agrees_with_its_folder(tmp_path, index):
    (tmp_path / "w.npz").write_bytes(npz_of(**GOOD))
    if index is not None:
        (tmp_path / "index.json").write_text(index)
    with pytest.raises(errors.FormatError, match="FMT-153"):
        read_scipy(tmp_path)


def described(path: Path) -> tuple[dict, dict]:
    with np.load(path, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return json.loads(str(arrays.pop("binsparse").item()))["binsparse"], arrays


def test_binsparse_describes_every_rank(tmp_path):
    cube = np.zeros((2, 3, 4), dtype=np.int16)
    cube[0, 1, 2], cube[1, 2, 3] = 5, 6
    mask = from_support(cube != 0)
    tensors = {
        "csr": matrix(),
        "cvec": from_dense(np.array([0, 3, 0, 4.0])),
        "cube": from_dense(cube),
        "mask": mask,
        "flat mask": Mask((2, 2), np.array([0, 0, 0]), np.array([], dtype=np.int32)),
        "dmatr": Dense(np.asfortranarray(np.arange(6).reshape(2, 3))),
        "dvec": Dense(np.array([True, False])),
        "scalar": Dense(np.array(2.5)),
        "box": Dense(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)),
        "complex": Dense(np.array([1 + 2j], dtype=np.complex64)),
    }
    write_binsparse(tmp_path / "x", Checkpoint("model", tensors, tied={"twin": "csr"}))
    index = json.loads((tmp_path / "x" / "index.json").read_text())
    assert index["twin"] == index["csr"]
    found = {name: described(tmp_path / "x" / index[name]) for name in tensors}
    descriptor, arrays = found["csr"]
    assert descriptor == {
        "version": "0.1.0",
        "format": "CSR",
        "shape": [7, 5],
        "number_of_stored_values": matrix().nnz,
        "data_types": {"pointers_to_1": "int64", "indices_1": "int32", "values": "float32"},
    }
    assert arrays["values"].tobytes() == matrix().values.tobytes()
    assert arrays["pointers_to_1"].tolist() == matrix().indptr.tolist()
    formats = {name: d["format"] for name, (d, _) in found.items()}
    assert formats.pop("cube") == formats.pop("mask") == formats.pop("scalar") == formats.pop("box") == "custom"
    assert formats.pop("csr") == formats.pop("flat mask") == "CSR"
    assert formats == {"cvec": "CVEC", "dmatr": "DMATR", "dvec": "DVEC", "complex": "DVEC"}
    types = {name: d["data_types"]["values"] for name, (d, _) in found.items()}
    assert types.pop("mask") == types.pop("flat mask") == "iso[bint8]"
    assert types.pop("cvec") == types.pop("scalar") == "float64"
    assert (types.pop("complex"), types.pop("box"), types.pop("csr")) == ("complex[float32]", "uint8", "float32")
    assert types == {"cube": "int16", "dmatr": "int64", "dvec": "bint8"}
    assert found["cube"][0]["custom"]["level"] == {
        "level_desc": "dense",
        "rank": 2,
        "level": {"level_desc": "sparse", "rank": 1, "level": {"level_desc": "element"}},
    }
    assert found["mask"][1]["values"].tolist() == [1]
    assert found["dmatr"][1]["values"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["complex"][1]["values"].tolist() == [1, 2]
    assert set(found["cvec"][1]) == {"indices_0", "values"}


def test_FMT_154_binsparse_has_no_narrow_floats(tmp_path):
    for dtype in NARROW:
        with pytest.raises(errors.CannotHold):
            write_binsparse(tmp_path / "x", Checkpoint("model", {"w": Dense(np.zeros(2).astype(dtype))}))
    assert names(tmp_path) == []
