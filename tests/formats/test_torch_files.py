"""Files of torch.save: there and back, and every index that torch lets through refused."""

import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from formats import errors
from formats.dialects import torch_pickle
from formats.dialects.torch_file import read_torch, write_torch_csr
from formats.records import Checkpoint, Dense, Mask, Sparse, from_dense, to_dense

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse C"),
    pytest.mark.filterwarnings("ignore:Sparse B"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
]


def matrix(dtype=ml_dtypes.bfloat16) -> Sparse:
    """7 x 5, half of it stored, with a stored zero, −0.0 and a NaN payload."""
    g = np.random.default_rng(0)
    sparse = from_dense((g.random((7, 5)) < 0.5) * (1 + g.random((7, 5))))
    values = sparse.values.astype(dtype)
    values[:2] = (0.0, -0.0)
    if values.dtype == ml_dtypes.bfloat16:
        values.view(np.uint16)[2] = 0x7FA1
    return Sparse(sparse.shape, sparse.indptr, sparse.indices, values)


def checkpoint() -> Checkpoint:
    tensors = {
        "z.weight": matrix(),
        "a.bias": Dense(np.arange(5, dtype=np.float32)),
        "mask": Dense(np.array([[True], [False]])),
        "scalar": Dense(np.array(-0.0, dtype=np.float16)),
        "empty": Dense(np.zeros((0, 3), dtype=ml_dtypes.float8_e4m3fn)),
        "none": from_dense(np.zeros((3, 4), dtype=np.int8)),
    }
    return Checkpoint("model", tensors, tied={"a.tied": "z.weight", "a.twin": "a.bias"})


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.kind, found.tied, found.attributes) == (expected.kind, expected.tied, expected.attributes)
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in expected.tensors.items():
        other = found.tensors[name]
        assert (type(other), other.shape, other.dtype) == (type(tensor), tensor.shape, tensor.dtype), name
        assert other.values.tobytes() == tensor.values.tobytes(), name
        if isinstance(tensor, Sparse):
            assert other.indptr.tolist() == tensor.indptr.tolist()
            assert other.indices.tolist() == tensor.indices.tolist()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def saved(tmp_path, state, **options):
    path = tmp_path / "state.pt"
    torch.save(state, path, **options)
    return path


def bad_csr(columns=(0, 2, 1), **parts):
    return torch.sparse_csr_tensor(
        torch.tensor(parts.get("row_ptr", (0, 2, 2, 3))),
        torch.tensor(columns),
        torch.tensor(parts.get("values", (5.0, 0.0, 7.0))),
        size=(3, 3),
        check_invariants=False,
    )


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # torch 2.15 says that it does
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
def test_there_and_back(tmp_path, index):
    write_torch_csr(tmp_path / "x.pt", checkpoint(), index_dtype=index)
    assert names(tmp_path) == ["x.pt"]
    assert_same(read_torch(tmp_path / "x.pt"), checkpoint())
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert loaded["z.weight"].layout == torch.sparse_csr
    assert loaded["z.weight"].crow_indices().dtype == index
    assert loaded["a.tied"] is loaded["z.weight"]
    # torch adds into zeros: numbers agree, not the sign of a zero
    numbers = loaded["z.weight"].to_dense().double().numpy()
    with np.errstate(invalid="ignore"):
        assert np.array_equal(numbers, to_dense(matrix()).astype(np.float64), equal_nan=True)


def test_the_same_content_has_the_same_bytes_under_any_name(tmp_path):
    (tmp_path / "deeper").mkdir()
    paths = [tmp_path / "one.pt", tmp_path / "deeper" / "another name.bin"]
    turned = checkpoint()
    turned = Checkpoint("model", dict(reversed(turned.tensors.items())), tied=dict(reversed(turned.tied.items())))
    for path, content in zip(paths, (checkpoint(), turned), strict=True):
        write_torch_csr(path, content)
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 1


def test_an_older_file_is_replaced_or_left_alone(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"old")
    bad = matrix()
    bad.indices[0] = 99
    with pytest.raises(errors.FormatError, match="FMT-068"):
        write_torch_csr(path, Checkpoint("model", {"a": Dense(np.zeros(3)), "b": bad}))
    assert (names(tmp_path), path.read_bytes()) == (["x.pt"], b"old")
    write_torch_csr(path, checkpoint())
    assert_same(read_torch(path), checkpoint())


def test_FMT_154_what_torch_cannot_hold_is_not_written(tmp_path):
    s = matrix()
    for bad in (
        Checkpoint("model", {"w": Mask(s.shape, s.indptr, s.indices)}),
        Checkpoint("model", {"w": from_dense(np.ones(4))}),
        Checkpoint("model", {"w": from_dense(np.ones((2, 3, 4)))}),
        Checkpoint("model", {"w": Dense(np.zeros(2, dtype=ml_dtypes.float4_e2m1fn))}),
        Checkpoint("model", {"w": s}, attributes={"step": 3}),
        Checkpoint("model", {"w": s}, files={"config.json": b"{}"}),
        Checkpoint("training-state", {"w": s}),
    ):
        with pytest.raises(errors.CannotHold):
            write_torch_csr(tmp_path / "x.pt", bad)
    with pytest.raises(errors.FormatError, match="FMT-010"):
        write_torch_csr(tmp_path / "x.pt", Checkpoint("model", {"w": s}, tied={"v": "nothing"}))
    with pytest.raises(errors.FormatError, match="FMT-009"):
        write_torch_csr(tmp_path / "x.pt", Checkpoint("model", {"a#b": s}))
    assert names(tmp_path) == []


def test_a_module_and_its_ties_are_read(tmp_path):
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False), torch.nn.BatchNorm1d(5))
    model[1].weight = model[0].weight
    for state in (model.state_dict(), {"state_dict": model.state_dict()}, dict(model.named_parameters())):
        found = read_torch(saved(tmp_path, state))
        assert found.tied == ({"1.weight": "0.weight"} if "1.weight" in state or "state_dict" in state else {})
        assert found.tensors["0.weight"].values.tobytes() == model[0].weight.detach().numpy().tobytes()
    assert read_torch(saved(tmp_path, model.state_dict())).tensors["2.num_batches_tracked"].shape == ()


def test_other_views_of_one_storage_are_tensors_of_their_own(tmp_path):
    w = torch.arange(12.0).reshape(3, 4)
    state = {"all": w, "again": w.view(3, 4), "turned": w.T, "part": w[1], "flat": w.view(12)}
    found = read_torch(saved(tmp_path, state))
    assert found.tied == {"again": "all"}
    assert found.tensors["turned"].values.tolist() == w.T.tolist()
    assert found.tensors["part"].values.tolist() == [4, 5, 6, 7]
    empty = {"a": torch.zeros(0), "b": torch.zeros(0), "c": torch.zeros(0, 3).to_sparse_csr()}
    assert read_torch(saved(tmp_path, empty)).tied == {}


def test_coo_is_read_when_its_indices_are_canonical(tmp_path):
    dense = to_dense(matrix(np.float32))
    found = read_torch(saved(tmp_path, {"w": torch.from_numpy(dense).to_sparse()}))
    assert_same(found, Checkpoint("model", {"w": from_dense(np.where(dense == 0, 0, dense).astype(np.float32))}))
    twice = torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, 2.0]), (3, 3))
    with pytest.raises(errors.FormatError, match=r"FMT-153.*coalesce"):
        read_torch(saved(tmp_path, {"w": twice}))


def test_parameters_are_read_as_tensors(tmp_path):
    state = {name: torch.nn.Parameter(bad_csr()) for name in ("csr", "twin")}
    state["coo"] = torch.nn.Parameter(bad_csr().to_sparse_coo())
    state["dense"] = torch.nn.Parameter(torch.ones(2))
    found = read_torch(saved(tmp_path, state)).tensors
    assert [found[name].nnz for name in state] == [3, 3, 3, 2]


BAD = {
    "too large": {"columns": (0, 5_000_000, 1)},
    "negative": {"columns": (0, -3, 1)},
    "unsorted": {"columns": (2, 0, 1)},
    "repeated": {"columns": (0, 0, 1)},
    "falling": {"row_ptr": (0, 3, 2, 3)},
    "late": {"row_ptr": (1, 2, 2, 3)},
    "short": {"row_ptr": (0, 2, 2, 2)},
}


@pytest.mark.parametrize("case", BAD)
def test_FMT_153_wrong_indices_are_refused_whether_torch_looks_or_not(tmp_path, case):
    path = saved(tmp_path, {"fine": torch.ones(2), "w": bad_csr(**BAD[case])})
    # torch 2.15 looks at them as it loads, and raises; older ones do not
    with pytest.raises(errors.FormatError, match=r"FMT-153"):
        read_torch(path)


def test_FMT_153_no_flag_of_torch_decides(tmp_path):
    good, bad = saved(tmp_path, {"w": bad_csr()}).read_bytes(), tmp_path / "bad.pt"
    torch.save({"w": bad_csr(columns=(0, 9, 1))}, bad)
    (tmp_path / "good.pt").write_bytes(good)
    for enabled in (True, False):
        with torch.sparse.check_sparse_tensor_invariants(enable=enabled):
            assert read_torch(tmp_path / "good.pt").tensors["w"].nnz == 3
            with pytest.raises(errors.FormatError, match="FMT-153"):
                read_torch(bad)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"w": torch.ones(2), "epoch": 3}, "'epoch'"),
        ({"w": torch.ones(2), "names": ["a"]}, "'names'"),
        ({"w": {"deep": torch.ones(2)}}, "'w'"),
        ({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, "'epoch'"),
        ({3: torch.ones(2)}, "key 3"),
        ({"a#b": torch.ones(2)}, "'a#b'"),
        ([torch.ones(2)], "list"),
        (torch.ones(2), "Tensor"),
        ({"w": torch.ones(1).expand(1 << 40)}, "contiguous"),
        ({"w": torch.tensor([2], dtype=torch.uint8).view(torch.bool)}, "BOOL"),
        (OrderedDict(w=np.float64(1)), "save module.state_dict"),
        (torch.nn.Linear(2, 2), "save module.state_dict"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_FMT_153_what_is_more_than_tensors_is_refused(tmp_path, state, said):
    with pytest.raises(errors.FormatError, match=f"FMT-153.*{said}"):
        read_torch(saved(tmp_path, state))


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch evil",)


def test_FMT_153_no_program_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.FormatError, match="FMT-153"):
        read_torch(saved(tmp_path, {"w": Evil()}))
    assert names(tmp_path) == ["state.pt"]


def test_FMT_153_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    whole = saved(tmp_path, {"w": torch.ones(100)}).read_bytes()
    old = tmp_path / "old.pt"
    torch.save({"w": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    for data in (b"", b"PK", pickle.dumps({"w": 1}), whole[:-30], whole[: len(whole) // 2], old.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(errors.FormatError, match="FMT-153"):
            read_torch(path)
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "nothing.pt")


def test_FMT_153_10_two_tensors_that_store_nothing_are_not_tied(tmp_path):
    empty = {name: torch.zeros(2, 3).to_sparse() for name in ("a", "b")}
    found = read_torch(saved(tmp_path, empty))
    assert (dict(found.tied), [*found.tensors]) == ({}, ["a", "b"])


def test_FMT_153_4_a_storage_that_states_more_than_its_member_has_is_refused(tmp_path):
    """Torch maps a member without a look at its size, so the elements behind it would be the headers of the zip."""
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save({"a": torch.arange(300.0), "b": torch.arange(9.0)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(cut, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info)[: 8 if info.filename.endswith("data/0") else None])
    with pytest.raises(errors.FormatError, match=r"FMT-153.*1200 bytes for storage '0', its member has 8"):
        read_torch(cut)
    assert read_torch(whole).tensors["a"].values.shape == (300,)


def test_FMT_153_compressed_members_are_refused(tmp_path):
    source, path = saved(tmp_path, {"w": torch.zeros(1000)}), tmp_path / "packed.pt"
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as b:
        for name in a.namelist():
            b.writestr(name, a.read(name))
    with pytest.raises(errors.FormatError, match=r"FMT-153.*compressed"):
        read_torch(path)


class Marked(torch.Tensor):
    """A subclass as libraries make them."""


@pytest.mark.parametrize("case", ["complex128", "csc", "meta", "subclass", "quantised", "batch"])
def test_FMT_154_tensors_that_no_record_equals_are_refused(tmp_path, case):
    tensor = {
        "complex128": lambda: torch.zeros(2, dtype=torch.complex128),
        "csc": lambda: torch.eye(3).to_sparse_csc(),
        "meta": lambda: torch.zeros(2, device="meta"),
        "subclass": lambda: torch.zeros(2).as_subclass(Marked),
        "quantised": lambda: torch.zeros(2, dtype=torch.uint8).view(torch.bits8),
        "batch": lambda: torch.ones(2, 3, 3).to_sparse_csr(),
    }[case]()
    path = saved(tmp_path, {"w": tensor})
    with pytest.raises(errors.CannotHold), torch.serialization.safe_globals([Marked]):
        read_torch(path)


def test_row_pointers_of_a_small_file_are_bounded(tmp_path):
    wide = torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (2**30, 4))
    with pytest.raises(errors.ExpansionTooLarge):
        read_torch(saved(tmp_path, {"w": wide}), limit=1 << 20)


def test_dense_tensors_are_views_of_the_file(tmp_path):
    values = read_torch(saved(tmp_path, {"w": torch.ones(1000)})).tensors["w"].values
    assert values.base is not None
    assert values.sum() == 1000


def masked_state(**more):
    """A state_dict of a layer that torch.nn.utils.prune prunes, with a stored zero."""
    layer = torch.nn.Linear(5, 3)
    with torch.no_grad():
        layer.weight[0, 0] = 0.0
    prune.custom_from_mask(layer, "weight", torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]]))
    return {f"0.{name}": tensor for name, tensor in layer.state_dict().items()} | more


def test_FMT_159_a_masked_parameter_is_one_tensor(tmp_path):
    state = masked_state()
    torch.save(state, tmp_path / "masked.pt")
    found = read_torch(tmp_path / "masked.pt")
    assert set(found.tensors) == {"0.bias", "0.weight"}
    weight = found.tensors["0.weight"]
    assert isinstance(weight, Sparse)
    assert weight.nnz == 6  # the stored zero among them
    expected = (state["0.weight_orig"] * state["0.weight_mask"]).detach().numpy()
    np.testing.assert_array_equal(to_dense(weight), expected)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"0.weight": torch.ones(3, 5)}, "'0.weight' is a tensor of its own"),
        ({"0.weight_mask": torch.full((3, 5), 0.5)}, "values other than 0 and 1"),
    ],
)
def test_FMT_159_a_mask_that_cannot_be_applied_is_refused(tmp_path, more, said):
    torch.save(masked_state(**more), tmp_path / "masked.pt")
    with pytest.raises(errors.FormatError, match=said) as refused:
        read_torch(tmp_path / "masked.pt")
    assert refused.value.clause == "FMT-159"


def test_FMT_159_a_tied_mask_is_refused(tmp_path):
    state = masked_state()
    torch.save(state | {"twin": state["0.weight_mask"]}, tmp_path / "masked.pt")
    with pytest.raises(errors.FormatError, match="tied"):
        read_torch(tmp_path / "masked.pt")


def test_FMT_159_other_names_stay_as_they_are(tmp_path):
    torch.save({"a_orig": torch.ones(2), "a_mask": torch.ones(3), "b_mask": torch.ones(2)}, tmp_path / "plain.pt")
    assert set(read_torch(tmp_path / "plain.pt").tensors) == {"a_orig", "a_mask", "b_mask"}


def test_FMT_153_5_a_file_is_not_written_whose_pickle_no_reader_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MAX_BYTES", 2000)
    one = Dense(np.ones(2, np.float32))
    for count, fits in ((4, True), (40, False)):
        path = tmp_path / f"{count}.pt"
        checkpoint = Checkpoint("model", {f"w{i}": one for i in range(count)})
        if fits:
            write_torch_csr(path, checkpoint)
            assert len(read_torch(path).tensors) == count
        else:
            with pytest.raises(
                errors.FormatError, match=rf"FMT-153: {count}.pt has a pickle of \d+ bytes, at most 2000"
            ):
                write_torch_csr(path, checkpoint)
    assert [entry.name for entry in tmp_path.iterdir()] == ["4.pt"]
