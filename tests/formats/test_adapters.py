"""SpIEL, SHiRA and LoRA adapters as changes of a base, against PEFT, torch and plain loops."""

import json
import math
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from formats.dialects import lora as lora_module
from formats.dialects.changes import Changes
from formats.dialects.lora import read_lora
from formats.dialects.shira import read_shira, write_shira
from formats.dialects.spiel import order, read_spiel
from formats.records import Dense, Sparse, flat, from_dense, from_support, to_dense, with_values
from tests.formats.adapter_files import (
    FIXTURES,
    applied,
    dense_base,
    fixture_base,
    lora,
    merged,
    put_adapter,
    same_tensor,
    shira,
    some_changes,
    spiel,
)


def assert_three_changes(changes, dtype=np.float32):
    assert (changes.op, list(changes.tensors), len(changes.tensors)) == ("add", ["q.weight"], 1)
    found = changes.tensors["q.weight"]
    assert (found.shape, found.indptr.tolist(), found.indices.tolist()) == ((3, 5), [0, 1, 2, 3], [2, 1, 3])
    assert (found.dtype, found.values.tolist()) == (dtype, [1.5, -2.0, 0.0])


# SpIEL


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("value", ["float32", "bfloat16", "float16", "float64"])
def test_FMT_151_spiel_is_sorted_with_its_values(tmp_path, index, value):
    folder = spiel(
        tmp_path / "a",
        indices=torch.tensor([6, 13, 2], dtype=index),
        values=torch.tensor([-2.0, 0.0, 1.5], dtype=getattr(torch, value)),
    )
    changes = read_spiel(folder, dense_base())
    assert_three_changes(changes, np.dtype(getattr(ml_dtypes, value, value)))
    assert changes.attributes == {"adapter": "spiel"}


def test_FMT_151_spiel_adds_what_scatter_reduce_adds(tmp_path):
    g = torch.Generator().manual_seed(5)
    base = torch.randn(7, 9, generator=g)
    indices = torch.randperm(63, generator=g)[:20].to(torch.int32)
    values = torch.randn(20, generator=g)
    folder = spiel(tmp_path / "a", indices=indices, values=values, num_deltas=None)
    changes = read_spiel(folder, {"q.weight": Dense(base.numpy())})
    expected = base.clone()
    expected.view(-1).scatter_reduce_(0, indices.long(), values, "sum", include_self=True)
    found = applied(changes, {"q.weight": Dense(base.numpy())})["q.weight"]
    assert found.tobytes() == expected.numpy().tobytes()


def test_FMT_151_spiel_fits_any_rank_and_a_sparse_base(tmp_path):
    values = np.zeros((2, 3, 4), dtype=ml_dtypes.bfloat16)
    values[1, 2, 3] = 1
    folder = spiel(
        tmp_path / "a", indices=torch.tensor([23, 5], dtype=torch.int32), values=torch.ones(2), num_deltas={"q": 2}
    )
    found = read_spiel(folder, {"q.weight": from_dense(values)}).tensors["q.weight"]
    assert (found.shape, flat(found).tolist()) == ((2, 3, 4), [5, 23])


def test_FMT_151_spiel_without_a_change_is_empty(tmp_path):
    folder = spiel(
        tmp_path / "a", indices=torch.zeros(0, dtype=torch.int32), values=torch.zeros(0), num_deltas={"q": 0}
    )
    found = read_spiel(folder, dense_base()).tensors["q.weight"]
    assert (found.nnz, found.indptr.tolist()) == (0, [0, 0, 0, 0])


def test_order_carries_moments_along():
    indices = np.array([6, 13, 2, 9], dtype=np.int32)
    moments = np.array([60.0, 130.0, 20.0, 90.0])
    permutation = order(indices)
    assert permutation.dtype == np.int64
    assert permutation.tolist() == [2, 0, 3, 1]
    assert moments[permutation].tolist() == [20, 60, 90, 130]


def test_what_the_adapter_says_of_its_base_is_recorded(tmp_path):
    folder = spiel(tmp_path / "a", base_model_name_or_path="org/model", revision="main", task_type="CAUSAL_LM")
    assert read_spiel(folder, dense_base()).attributes == {"adapter": "spiel", "base_model": "org/model"}


def test_tensors_are_made_when_asked_for(tmp_path):
    changes = read_spiel(spiel(tmp_path / "a", indices=torch.tensor([6, 99, 2])), dense_base())
    assert "q.weight" in changes.tensors
    assert "other" not in changes.tensors
    with pytest.raises(KeyError):
        changes.tensors["other"]


# SHiRA


@pytest.mark.parametrize("index", [torch.int32, torch.int64, torch.float32])
def test_FMT_151_shira_is_sorted_with_its_values(tmp_path, index):
    folder = shira(tmp_path / "a", indices=torch.tensor([[1, 2, 0], [1, 3, 2]]).to(index))
    changes = read_shira(folder, dense_base())
    assert_three_changes(changes)
    assert changes.attributes == {"adapter": "shira"}


def test_FMT_151_shira_merges_as_peft_merged():
    base = fixture_base()
    found = applied(read_shira(FIXTURES / "shira", base), base)
    expected = merged("shira")
    assert {name for name in expected if (expected[name] != base[name].values).any()} == {
        "up.weight",
        "block.up.weight",
        "block.down.weight",
    }
    assert {name: values.tobytes() for name, values in found.items()} == {
        name: values.tobytes() for name, values in expected.items()
    }


def test_shira_of_peft_comes_back_as_it_was(tmp_path):
    base = fixture_base()
    write_shira(tmp_path / "again", read_shira(FIXTURES / "shira", base), base)
    theirs, ours = (load_file(f / "adapter_model.safetensors") for f in (FIXTURES / "shira", tmp_path / "again"))
    assert {name: (t.dtype, t.tolist()) for name, t in ours.items()} == {
        name: (t.dtype, t.tolist()) for name, t in theirs.items()
    }
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["mask_type"]) == ("SHIRA", 1, "given")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_shira_round_trip_keeps_every_bit(tmp_path, dtype):
    base = {"a.b.weight": Dense(np.zeros((7, 9), np.float32)), "c.weight": Dense(np.zeros((6, 5), np.float32))}
    changed = {name: some_changes(t.shape, dtype, 3) for name, t in base.items()}
    changed["c.weight"].values[0] = 0  # a stored +0.0 stays
    write_shira(tmp_path / "s", Changes("add", changed), base, base_name="org/model")
    again = read_shira(tmp_path / "s", base)
    assert list(again.tensors) == ["a.b.weight", "c.weight"]
    assert all(same_tensor(again.tensors[name], changed[name]) for name in changed)
    assert again.attributes == {"adapter": "shira", "base_model": "org/model"}


def test_FMT_157_shira_fills_up_with_nothing_to_add(tmp_path):
    """
    base   [ 1 . 2 . ]     one change at (0, 2), and PEFT wants r (rows + columns) = 7:
           [ 3 4 . 5 ]     the six lowest of the other stored weights fill up with −0.0
           [ . 6 7 8 ]
    """
    base = {"q.weight": from_dense(np.array([[1, 0, 2, 0], [3, 4, 0, 5], [0, 6, 7, 8]], np.float32))}
    change = with_values(from_support(np.arange(12).reshape(3, 4) == 2), np.array([0.5], np.float32))
    write_shira(tmp_path / "s", Changes("add", {"q.weight": change}), base)
    with safe_open(tmp_path / "s" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        rows, columns = file.get_tensor("base_model.model.q.shira_indices")
        values = file.get_tensor("base_model.model.q.shira_weight")
    assert (rows * 4 + columns).tolist() == [0, 2, 4, 5, 7, 9, 10]
    assert (rows.dtype, values.tolist()) == (torch.int32, [0, 0.5, 0, 0, 0, 0, 0])
    assert torch.signbit(values).tolist() == [True, False, True, True, True, True, True]
    config = json.loads((tmp_path / "s" / "adapter_config.json").read_text())
    assert (config["r"], config["mask_type"], config["target_modules"]) == (1, "given-padded", "q")
    assert same_tensor(read_shira(tmp_path / "s", base).tensors["q.weight"], change)


def test_shira_holds_changes_beside_the_support_of_the_base(tmp_path):
    before = some_changes((9, 9), np.float32, 8, share=0.5)
    changed = some_changes((9, 9), np.float32, 9, share=0.1)
    assert set(flat(changed).tolist()) - set(flat(before).tolist())
    write_shira(tmp_path / "s", Changes("add", {"q.weight": changed}), {"q.weight": before})
    with safe_open(tmp_path / "s" / "adapter_model.safetensors", "pt") as file:
        rows, columns = file.get_tensor("base_model.model.q.shira_indices").long()
    written = (rows * 9 + columns).tolist()
    assert len(set(written)) == 18
    assert set(written) <= set(flat(changed).tolist()) | set(flat(before).tolist())
    assert same_tensor(read_shira(tmp_path / "s", {"q.weight": before}).tensors["q.weight"], changed)


def test_shira_names_whole_paths(tmp_path):
    """A list of PEFT would be matched by endings: up would hit block.up."""
    base = fixture_base()
    changed = {name: some_changes(base[name].shape, np.float32, 1) for name in ("up.weight", "block.down.weight")}
    write_shira(tmp_path / "s", Changes("add", changed), base)
    config = json.loads((tmp_path / "s" / "adapter_config.json").read_text())
    assert config["target_modules"] == r"up|block\.down"


# LoRA


def plain_product(a, b, scale):
    """Rank after rank in Python's float64, scaled, rounded once to float32."""
    out = np.empty((len(b), len(a[0])), np.float32)
    for i, row in enumerate(b):
        for j in range(len(a[0])):
            total = float(row[0]) * float(a[0][j])
            for k in range(1, len(a)):
                total = total + float(row[k]) * float(a[k][j])
            out[i, j] = np.float32(total * scale)
    return out


@pytest.mark.parametrize("name", ["lora", "lora-rs", "lora-turned"])
def test_FMT_152_lora_merges_as_peft_merged(name):
    base = fixture_base()
    changes = read_lora(FIXTURES / name, base)
    assert changes.op == "add"
    assert all(t.dtype == np.float32 for t in changes.tensors.values())
    found, expected = applied(changes, base), merged(name)
    moved = {n for n in expected if (expected[n] != base[n].values).any()}
    assert moved == set(changes.tensors)
    assert (
        moved
        == {
            "lora": {"up.weight", "block.up.weight", "block.down.weight"},
            "lora-rs": {"up.weight", "block.up.weight", "embed.weight"},
            "lora-turned": {"block.turned.weight"},
        }[name]
    )
    assert all((found[n] == expected[n]).all() for n in expected)


def test_FMT_152_lora_of_a_dense_base_changes_every_position(tmp_path):
    changes = read_lora(lora(tmp_path / "a"), dense_base())
    found = changes.tensors["q.weight"]
    a, b = [[1, 2, 0, -1, 0.5], [0, 1, 1, 0, -3]], [[1.0, 0], [0.5, -1], [0, 2]]
    assert flat(found).tolist() == list(range(15))
    assert (found.indptr.dtype, found.indices.dtype) == (np.int64, np.int32)
    assert to_dense(found).tobytes() == plain_product(a, b, 1.5).tobytes()
    assert changes.attributes == {"adapter": "lora", "left_out": {"q.weight": 0}, "left_out_total": 0}


def test_FMT_152_lora_keeps_the_support_of_a_sparse_base(tmp_path):
    """
    product   [ 1.5  3    0   -1.5   .75 ]      support   [ x . . x . ]     left out: 3, .75,
              [ .75  0   -1.5 -.75  4.875]                [ . x . . . ]     four of row 1, and 3, 3, -9
              [ 0    3    3    0    -9   ]                [ x . . . . ]
    """
    support = np.zeros((3, 5), bool)
    support[[0, 0, 1, 2], [0, 3, 1, 0]] = True
    base = {"q.weight": with_values(from_support(support), np.ones(4, ml_dtypes.bfloat16))}
    changes = read_lora(lora(tmp_path / "a"), base)
    found = changes.tensors["q.weight"]
    assert (flat(found).tolist(), found.values.tolist()) == ([0, 3, 6, 10], [1.5, -1.5, 0, 0])
    assert changes.attributes == {"adapter": "lora", "left_out": {"q.weight": 9}, "left_out_total": 9}


@pytest.mark.parametrize("block", [1, 40, 1 << 17])
def test_FMT_152_lora_sums_in_float64_from_the_first_rank_to_the_last(tmp_path, block, monkeypatch):
    monkeypatch.setattr(lora_module, "BLOCK", block)
    g = torch.Generator().manual_seed(11)
    a, b = torch.randn(6, 13, generator=g), torch.randn(17, 6, generator=g)
    folder = lora(tmp_path / "a", a=a, b=b, r=6, lora_alpha=7.3, use_rslora=True)
    dense = read_lora(folder, dense_base((17, 13))).tensors["q.weight"]
    expected = plain_product(a.tolist(), b.tolist(), 7.3 / math.sqrt(6))
    assert to_dense(dense).tobytes() == expected.tobytes()
    pruned = some_changes((17, 13), np.float32, 4)
    changes = read_lora(folder, {"q.weight": pruned})
    found = changes.tensors["q.weight"]
    where = np.unravel_index(flat(pruned), (17, 13))
    assert flat(found).tolist() == flat(pruned).tolist()
    assert found.values.tobytes() == expected[where].tobytes()
    assert changes.attributes["left_out_total"] == 17 * 13 - pruned.nnz


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_FMT_152_lora_reads_factors_of_any_float(tmp_path, dtype):
    a = torch.tensor([[1, 2, 0, -1, 0.5], [0, 1, 1, 0, -3]], dtype=dtype)
    b = torch.tensor([[1.0, 0], [0.5, -1], [0, 2]], dtype=dtype)
    found = read_lora(lora(tmp_path / "a", a=a, b=b), dense_base()).tensors["q.weight"]
    assert to_dense(found).tobytes() == plain_product(a.tolist(), b.tolist(), 1.5).tobytes()


def test_FMT_152_lora_patterns_match_the_end_of_a_path_in_their_order(tmp_path):
    a, b = torch.ones(1, 5), torch.ones(3, 1)
    base = {f"{module}.weight": Dense(np.zeros((3, 5), np.float32)) for module in ("x.q", "y.q", "y.xq")}
    tensors = {}
    for module in ("x.q", "y.q", "y.xq"):
        tensors |= {f"{module}.lora_A.weight": a.clone(), f"{module}.lora_B.weight": b.clone()}
    patterns = {"^y.q": 5, "q": 7, "x.q": 9}
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "alpha_pattern": patterns}
    # keys keep their order: the first that matches counts
    folder = put_adapter(tmp_path / "a", config, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    found = read_lora(folder, base).tensors
    assert {name: float(t.values[0]) for name, t in found.items()} == {
        "x.q.weight": 7,
        "y.q.weight": 5,
        "y.xq.weight": 2,
    }


def test_FMT_152_an_unknown_option_that_is_off_does_not_matter(tmp_path):
    folder = lora(tmp_path / "a", use_future=False, future_config=None, future_list=[], future_map={}, bias="none")
    assert list(read_lora(folder, dense_base()).tensors) == ["q.weight"]


def test_pickled_weights_beside_are_not_looked_at(tmp_path):
    folder = shutil.copytree(FIXTURES / "shira", tmp_path / "a")
    (folder / "adapter_model.bin").write_bytes(b"anything")
    assert isinstance(read_shira(folder, fixture_base()).tensors["up.weight"], Sparse)
