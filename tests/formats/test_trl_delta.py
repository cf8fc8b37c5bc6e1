"""Sparse weight patches of TRL: read against torch, written and read again, and every bad one refused."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from formats import errors
from formats.dialects.changes import Changes
from formats.dialects.trl_delta import read_trl_delta, write_trl_delta
from formats.records import Dense, Sparse, flat, from_dense
from tests.formats.adapter_files import applied, same_tensor, some_changes

BF16 = torch.bfloat16
I32 = torch.int32


def base() -> dict[str, Dense]:
    """A matrix and a vector in bfloat16."""
    return {
        "q.weight": Dense(np.arange(35).reshape(5, 7).astype(ml_dtypes.bfloat16)),
        "norm": Dense(np.ones(6, ml_dtypes.bfloat16)),
    }


def tensors() -> dict[str, torch.Tensor]:
    return {
        "q.weight.indices": torch.tensor([3, 17, 34], dtype=I32),
        "q.weight.values": torch.tensor([-1.0, 0.0, 0.5], dtype=BF16),
        "norm.indices": torch.tensor([5], dtype=I32),
        "norm.values": torch.tensor([-0.0], dtype=BF16),
    }


def metadata() -> dict[str, str]:
    return {"sparse": "True", "model_version": "12", "sparsity": "0.9", "changed_params": '["norm", "q.weight"]'}


def patch(path, edit=None, about=None, **changed):
    """Write the patch with some tensors changed; None leaves one out."""
    found = tensors() | {name: tensor for name, tensor in changed.items() if tensor is not None}
    for name in changed:
        if changed[name] is None:
            del found[name]
    save_file(found | (edit or {}), path, metadata() if about is None else about)
    return path


def read_all(path, before=None):
    return dict(read_trl_delta(path, before or base()).tensors)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_FMT_151_patch_holds_new_values(tmp_path, index):
    path = patch(tmp_path / "p.safetensors", {"q.weight.indices": torch.tensor([3, 17, 34], dtype=index)})
    changes = read_trl_delta(path, base())
    assert (changes.op, list(changes.tensors)) == ("replace", ["norm", "q.weight"])
    assert changes.attributes == {
        "adapter": "trl-delta",
        "metadata": {"model_version": "12", "sparse": "True", "sparsity": "0.9"},
    }
    expected = {name: torch.tensor(t.values.astype(np.float32)).to(BF16) for name, t in base().items()}
    for name, tensor in expected.items():
        tensor.view(-1)[tensors()[f"{name}.indices"].long()] = tensors()[f"{name}.values"]
    found = applied(changes, base())
    assert {n: v.tobytes() for n, v in found.items()} == {
        n: t.view(torch.int16).numpy().tobytes() for n, t in expected.items()
    }


def test_FMT_151_patch_that_is_not_sorted_is_sorted_with_its_values(tmp_path):
    path = patch(
        tmp_path / "p.safetensors",
        {
            "q.weight.indices": torch.tensor([34, 3, 17], dtype=I32),
            "q.weight.values": torch.tensor([0.5, -1.0, 0.0], dtype=BF16),
        },
    )
    found = read_all(path)["q.weight"]
    assert (flat(found).tolist(), found.values.tolist()) == ([3, 17, 34], [-1.0, 0.0, 0.5])


@pytest.mark.parametrize("about", [{}, None])
def test_FMT_151_patch_in_a_folder(tmp_path, about):
    patch(tmp_path / "step_000012.safetensors", about=about)
    (tmp_path / "notes.txt").write_text("beside")
    assert list(read_trl_delta(tmp_path, base()).tensors) == ["norm", "q.weight"]


@pytest.mark.parametrize(
    ("encoding", "indices"),
    [
        ("raw", torch.tensor([3, 17, 34], dtype=I32)),
        ("gap_delta", torch.tensor([3, 13, 16], dtype=torch.uint16)),
        ("gap_delta", torch.tensor([3, 13, 16], dtype=torch.uint32)),
    ],
)
def test_FMT_151_patch_with_encoded_indices(tmp_path, encoding, indices):
    found = {"q.weight.idx": indices, "q.weight.val": torch.tensor([-1.0, 0.0, 0.5], dtype=BF16)}
    save_file(found, tmp_path / "p.safetensors", {"encoding": encoding, "sparse": "True"})
    tensor = read_all(tmp_path / "p.safetensors")["q.weight"]
    assert (flat(tensor).tolist(), tensor.values.tolist()) == ([3, 17, 34], [-1.0, 0.0, 0.5])


def test_FMT_151_patch_that_changes_nothing(tmp_path):
    save_file({"__empty_delta__": torch.zeros(1, dtype=I32)}, tmp_path / "p.safetensors", {"changed_params": "[]"})
    assert read_all(tmp_path / "p.safetensors") == {}


@pytest.mark.parametrize(
    "edit",
    [
        {"q.weight.indices": torch.tensor([3, 17, 35], dtype=I32)},
        {"q.weight.indices": torch.tensor([-1, 17, 34], dtype=I32)},
        {"q.weight.indices": torch.tensor([3, 17, 17], dtype=I32)},
        {"q.weight.indices": torch.tensor([17, 3, 17], dtype=I32)},
        {"q.weight.indices": torch.tensor([3, 17], dtype=I32)},
        {"q.weight.indices": torch.tensor([[3, 17, 34]], dtype=I32)},
        {"q.weight.indices": torch.tensor([3.0, 17, 34])},
        {"q.weight.indices": torch.tensor([3, 17, 34], dtype=torch.int16)},
        {"q.weight.values": torch.tensor([-1.0, 0.0, 0.5])},
        {"q.weight.values": torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float16)},
        {"q.weight.values": torch.ones(3, 1, dtype=BF16)},
        {"q.weight": torch.ones(5, 7, dtype=BF16)},
        {"k.indices": torch.tensor([0], dtype=I32)},
        {"k.values": torch.ones(1, dtype=BF16)},
        {"k.indices": torch.tensor([0], dtype=I32), "k.values": torch.ones(1, dtype=BF16)},
        {"k.idx": torch.tensor([0], dtype=I32), "k.val": torch.ones(1, dtype=BF16)},
    ],
    ids=str,
)
def test_FMT_151_patch_that_does_not_fit(tmp_path, edit):
    with pytest.raises(errors.FormatError, match="FMT-151"):
        read_all(patch(tmp_path / "p.safetensors", edit, about={}))


def test_FMT_151_patch_with_half_of_a_pair(tmp_path):
    with pytest.raises(errors.FormatError, match=r"FMT-151.*partner"):
        read_all(patch(tmp_path / "p.safetensors", **{"norm.indices": None}))


@pytest.mark.parametrize(
    "about",
    [
        {"sparse": "False"},
        {"format": "anchor_checkpoint"},
        {"changed_params": '["norm"]'},
        {"changed_params": '{"norm": 1, "q.weight": 1}'},
        {"changed_params": "norm"},
    ],
    ids=json.dumps,
)
def test_FMT_151_patch_whose_metadata_says_otherwise(tmp_path, about):
    with pytest.raises(errors.FormatError, match="FMT-151"):
        read_all(patch(tmp_path / "p.safetensors", about=about))


@pytest.mark.parametrize("encoding", ["nvcomp_cascaded", "gap_delta", None])
def test_FMT_151_patch_with_an_encoding_that_its_indices_are_not(tmp_path, encoding):
    found = {"q.weight.idx": torch.tensor([3], dtype=torch.uint8), "q.weight.val": torch.ones(1, dtype=BF16)}
    save_file(found, tmp_path / "p.safetensors", {"encoding": encoding} if encoding else {})
    with pytest.raises(errors.FormatError, match="FMT-151"):
        read_all(tmp_path / "p.safetensors")


@pytest.mark.parametrize("count", [0, 2])
def test_FMT_151_folder_without_a_single_patch(tmp_path, count):
    for i in range(count):
        patch(tmp_path / f"step_{i}.safetensors")
    with pytest.raises(errors.FormatError, match=f"FMT-151.*{count} safetensors files"):
        read_trl_delta(tmp_path, base())


def test_FMT_151_no_patch_at_all(tmp_path):
    with pytest.raises(errors.FormatError, match=r"FMT-151.*neither"):
        read_trl_delta(tmp_path / "nothing", base())


def test_FMT_121_patch_that_is_cut(tmp_path):
    path = patch(tmp_path / "p.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(errors.FormatError, match="FMT-121"):
        read_trl_delta(path, base())


def test_FMT_154_patch_of_a_scalar(tmp_path):
    before = base() | {"norm": Dense(np.ones((), ml_dtypes.bfloat16))}
    with pytest.raises(errors.CannotHold, match="is a scalar"):
        read_all(patch(tmp_path / "p.safetensors"), before)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.bool_])
def test_patch_round_trip_keeps_every_bit(tmp_path, dtype):
    before = {"a.weight": Dense(np.zeros((7, 9), dtype)), "b": Dense(np.zeros((2, 3, 5), dtype))}
    changed = {name: some_changes(t.shape, dtype, 6) for name, t in before.items()}
    changed["b"] = Sparse((2, 3, 5), np.zeros(7, np.int64), np.empty(0, np.int32), np.empty(0, dtype))
    write_trl_delta(tmp_path / "p.safetensors", Changes("replace", changed), {"model_version": "3"})
    with safe_open(tmp_path / "p.safetensors", "pt") as file:
        assert file.get_tensor("a.weight.indices").dtype == I32
        assert file.get_tensor("a.weight.indices").tolist() == flat(changed["a.weight"]).tolist()
        assert file.metadata() == {
            "format": "sparse_weight_patch",
            "version": "1",
            "model_version": "3",
            "sparse": "True",
            "num_changed_params": "2",
            "total_changed_elements": str(changed["a.weight"].nnz),
            "changed_params": '["a.weight", "b"]',
        }
    again = read_trl_delta(tmp_path / "p.safetensors", before)
    assert (again.op, list(again.tensors)) == ("replace", ["a.weight", "b"])
    assert all(same_tensor(again.tensors[name], changed[name]) for name in changed)


def test_patch_replaces_a_file_and_takes_its_metadata_back(tmp_path):
    path = patch(tmp_path / "p.safetensors")
    changes = read_trl_delta(path, base())
    kept = Changes("replace", dict(changes.tensors))
    write_trl_delta(path, kept, changes.attributes["metadata"])
    again = read_trl_delta(path, base())
    assert again.attributes["metadata"].items() >= changes.attributes["metadata"].items()
    assert all(same_tensor(again.tensors[name], kept.tensors[name]) for name in kept.tensors)
    assert [found.name for found in tmp_path.iterdir()] == ["p.safetensors"]


def test_patch_without_changes_says_so(tmp_path):
    write_trl_delta(tmp_path / "p.safetensors", Changes("replace", {}), {})
    with safe_open(tmp_path / "p.safetensors", "pt") as file:
        assert file.keys() == ["__empty_delta__"]
    assert read_all(tmp_path / "p.safetensors") == {}


def test_FMT_154_patch_holds_no_amounts(tmp_path):
    with pytest.raises(errors.CannotHold, match="op 'add'"):
        write_trl_delta(tmp_path / "p.safetensors", Changes("add", {}), {})


def test_FMT_154_patch_ends_where_its_indices_end(tmp_path):
    """A tensor of 2^31 + 1 positions, of which one is changed: the last that an index reaches, and the next."""
    columns = 2**31 - 1
    value = np.ones(1, np.float32)
    last = Sparse((1, columns), np.array([0, 1]), np.array([columns - 1], np.int32), value)
    write_trl_delta(tmp_path / "p.safetensors", Changes("replace", {"w": last}), {})
    beyond = Sparse((2, columns), np.array([0, 0, 1]), np.array([1], np.int32), value)
    with pytest.raises(errors.CannotHold, match="position 2147483648"):
        write_trl_delta(tmp_path / "p.safetensors", Changes("replace", {"w": beyond}), {})


@pytest.mark.parametrize(
    "key", ["format", "version", "sparse", "num_changed_params", "total_changed_elements", "changed_params"]
)
def test_FMT_084_patch_metadata_that_contradicts_the_changes(tmp_path, key):
    changes = Changes("replace", {"w": from_dense(np.ones((2, 2), np.float32))})
    with pytest.raises(errors.FormatError, match=f"FMT-084.*{key}"):
        write_trl_delta(tmp_path / "p.safetensors", changes, {key: "something else"})
    assert list(tmp_path.iterdir()) == []
