"""Super-Tuning adapters of PEFT against what PEFT 0.21.2 saved and merged, and against plain loops (FMT-170).

`test_peft_adapters.py` asks PEFT itself where it is installed; `fixtures/adapters/make.py` made the fixtures.
"""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import formats
from formats import delta, errors
from formats.dialects.changes import Changes
from formats.dialects.sources import detect, open_changes
from formats.dialects.super_tuning import read_super_tuning, write_super_tuning
from formats.records import Dense, Sparse, flat, from_dense, from_support, to_dense, with_values
from tests.formats.adapter_files import (
    FIXTURES,
    applied,
    dense_base,
    fixture_base,
    merged,
    same_tensor,
    some_changes,
    super_tuning,
)

THEIRS = FIXTURES / "super-tuning"


def bfloat16_fixture():
    """The base of the bfloat16 fixture, and the bits that PEFT merged."""
    with np.load(FIXTURES / "super-tuning-bf16.npz") as found:
        bits = dict(found)
    base = {n[5:]: Dense(b.view(ml_dtypes.bfloat16)) for n, b in bits.items() if n.startswith("base/")}
    return formats.Checkpoint("model", base), {n[7:]: b for n, b in bits.items() if n.startswith("merged/")}


def raw(folder):
    """The tensors and the metadata of an adapter, as safetensors reads them, and its configuration."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        tensors = {name.removeprefix("base_model.model."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata(), json.loads((folder / "adapter_config.json").read_text())


def count_of(rows, columns, sparsity):
    """PEFT's count, written down anew: `_num_trainable` of peft/tuners/supertuning/layer.py."""
    return int(rows * columns * (1 - sparsity))


def read_all(folder, base):
    return dict(read_super_tuning(folder, base).tensors)


# reading


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("value", ["float32", "bfloat16", "float16"])
def test_FMT_170_positions_are_sorted_with_their_values(tmp_path, index, value):
    folder = super_tuning(
        tmp_path / "a",
        indices=torch.tensor([6, 13, 2], dtype=index),
        values=torch.tensor([-2.0, 0.0, 1.5], dtype=getattr(torch, value)),
    )
    assert detect(folder) == "super-tuning"
    changes = read_super_tuning(folder, dense_base())
    found = changes.tensors["q.weight"]
    assert (changes.op, changes.attributes) == ("add", {"adapter": "super-tuning"})
    assert (flat(found).tolist(), found.values.tolist()) == ([2, 6, 13], [1.5, -2.0, 0.0])
    assert found.dtype == np.dtype(getattr(ml_dtypes, value, value))


def test_FMT_170_it_merges_as_peft_merged():
    base = fixture_base()
    found, expected = applied(read_super_tuning(THEIRS, base), base), merged("super-tuning")
    moved = {name for name in expected if (expected[name] != base[name].values).any()}
    assert moved == {"up.weight", "block.up.weight", "block.down.weight"}
    assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in expected.items()}


def test_FMT_170_peft_stores_positions_by_magnitude():
    """The order that a reader may not rely on, and that a file without indices would need."""
    tensors, _, config = raw(THEIRS)
    base = np.abs(fixture_base()["block.up.weight"].values).ravel()
    indices = tensors["block.up.supertuning_indices"].numpy()
    assert indices.tolist() != sorted(indices.tolist())
    assert base[indices].tolist() == sorted(base[indices].tolist(), reverse=True)
    assert len(indices) == count_of(7, 5, config["sparsity"])


def test_FMT_170_amounts_cast_to_the_dtype_of_the_base_give_what_peft_merges():
    base, expected = bfloat16_fixture()
    changes = open_changes(FIXTURES / "super-tuning-bf16", base, dtype="BF16")
    assert changes.attributes == {"adapter": "super-tuning", "cast": "BF16"}
    result = delta.apply(base, [changes]).tensors
    assert {n: to_dense(t).tobytes() for n, t in result.items()} == {n: b.tobytes() for n, b in expected.items()}


def test_FMT_170_without_a_cast_the_sum_is_rounded_once():
    """PEFT rounds amounts to bfloat16 before it adds, so that it rounds twice: other bits at some positions."""
    base, expected = bfloat16_fixture()
    changes = open_changes(FIXTURES / "super-tuning-bf16", base)
    result = delta.apply(base, [changes]).tensors
    differ = 0
    for name in changes.delta.tensors:
        amounts = to_dense(changes.tensors[f"add:{name}"]).astype(np.float64)
        exact = base.tensors[name].values.astype(np.float64) + amounts
        found = to_dense(result[name])
        assert found.tobytes() == exact.astype(np.float32).astype(ml_dtypes.bfloat16).tobytes()
        twice = expected[name].view(ml_dtypes.bfloat16).astype(np.float64)
        assert (np.abs(found.astype(np.float64) - exact) <= np.abs(twice - exact)).all()
        differ += int((found.view(np.uint16) != expected[name]).sum())
    assert differ == 24


def test_FMT_126_a_cast_of_amounts_that_do_not_fit_is_refused(tmp_path):
    folder = super_tuning(tmp_path / "a", values=torch.tensor([1.0, 2.0, 1e6]))
    base = formats.Checkpoint("model", dense_base())
    with pytest.raises(errors.FormatError, match=r"FMT-126.*F16 cannot hold"):
        open_changes(folder, base, dtype="F16")
    with pytest.raises(errors.FormatError, match=r"FMT-084.*dtype 'F8'"):
        open_changes(folder, base, dtype="F8")


def test_FMT_084_new_values_are_not_cast(tmp_path):
    base = formats.Checkpoint("model", dense_base())
    target = formats.Checkpoint("model", {"q.weight": Dense(base.tensors["q.weight"].values + 1)})
    formats.write(tmp_path / "base", base)
    formats.write(tmp_path / "d", delta.diff(base, target))
    formats.convert(tmp_path / "d", tmp_path / "weight_v000002", "weight-sync", base=tmp_path / "base")
    with pytest.raises(errors.FormatError, match=r"FMT-084.*holds new values"):
        open_changes(tmp_path / "weight_v000002", base, dtype="BF16")


# what is refused


def test_FMT_170_an_adapter_without_indices_is_refused(tmp_path):
    folder = super_tuning(tmp_path / "a")
    tensors, _, _ = raw(folder)
    tensors.pop("q.supertuning_indices")
    put = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(put, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(errors.FormatError, match=r"FMT-170.*has only.*torch\.topk.*save_precomputed_indices"):
        read_super_tuning(folder, dense_base())


def test_FMT_170_the_hybrid_with_factors_is_refused(tmp_path):
    with pytest.raises(errors.FormatError, match=r"FMT-170.*Supra.*seft diff"):
        read_super_tuning(super_tuning(tmp_path / "a", r=8, lora_alpha=16), dense_base())
    folder = super_tuning(tmp_path / "b")
    tensors, _, _ = raw(folder)
    tensors |= {"q.supertuning_lora_A.weight": torch.ones(1, 5), "q.supertuning_lora_B.weight": torch.ones(3, 1)}
    put = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(put, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(errors.FormatError, match=r"FMT-170.*Supra"):
        read_super_tuning(folder, dense_base())


@pytest.mark.parametrize(
    ("indices", "found"),
    [([6, 15, 2], "run from 2 to 15"), ([6, -1, 2], "run from -1 to 6"), ([6, 2, 2], "position 2 .* twice")],
)
def test_FMT_170_indices(tmp_path, indices, found):
    folder = super_tuning(tmp_path / "a", indices=torch.tensor(indices, dtype=torch.int32))
    with pytest.raises(errors.FormatError, match=f"FMT-170.*{found}"):
        read_all(folder, dense_base())


@pytest.mark.parametrize(
    "arrays",
    [
        {"indices": torch.tensor([6, 13], dtype=torch.int32)},
        {"indices": torch.tensor([6.0, 13, 2])},
        {"indices": torch.tensor([[6, 13, 2]], dtype=torch.int32)},
        {"values": torch.ones(3, dtype=torch.int32)},
        {"values": torch.ones(3, dtype=torch.float64)},
        {"values": torch.ones(3, 1)},
    ],
)
def test_FMT_170_dtypes_and_shapes(tmp_path, arrays):
    with pytest.raises(errors.FormatError, match="FMT-170"):
        read_super_tuning(super_tuning(tmp_path / "a", **arrays), dense_base())


@pytest.mark.parametrize(
    "option",
    [
        {"sparsity": 1.0},
        {"sparsity": -0.5},
        {"sparsity": None},
        {"sparsity": "much"},
        {"trainable_token_indices": [1]},
        {"exclude_modules": ["q"]},
    ],
    ids=json.dumps,
)
def test_FMT_170_options(tmp_path, option):
    with pytest.raises(errors.FormatError, match=f"FMT-170.*{next(iter(option))}"):
        read_super_tuning(super_tuning(tmp_path / "a", **option), dense_base())


def test_FMT_170_a_count_that_the_sparsity_denies_is_refused(tmp_path):
    folder = super_tuning(tmp_path / "a", sparsity=0.8)
    # PEFT cuts 15 · 0.19999999999999996 down to 2
    assert count_of(3, 5, 0.8) == 2
    with pytest.raises(errors.FormatError, match=r"FMT-170.*leaves 2 amounts; the adapter has 3: is this the base"):
        read_all(folder, dense_base())
    with pytest.raises(errors.FormatError, match=r"FMT-170.*is this the base"):
        read_all(super_tuning(tmp_path / "b"), dense_base((4, 5)))


def test_FMT_170_a_base_that_is_no_matrix(tmp_path):
    with pytest.raises(errors.FormatError, match=r"FMT-170.*expected a matrix"):
        read_all(super_tuning(tmp_path / "a"), dense_base((15,)))


def test_FMT_170_the_mark_of_padding_has_one_value(tmp_path):
    folder = super_tuning(tmp_path / "a", metadata={"seft.padding": "0.0"})
    with pytest.raises(errors.FormatError, match=r"FMT-170.*seft\.padding"):
        read_super_tuning(folder, dense_base())


# writing


def test_FMT_170_an_adapter_of_peft_comes_back_sorted(tmp_path):
    base = fixture_base()
    write_super_tuning(tmp_path / "again", read_super_tuning(THEIRS, base), base, base_name="org/model")
    (theirs, _, _), (ours, metadata, config) = raw(THEIRS), raw(tmp_path / "again")
    assert ours.keys() == theirs.keys()
    for name in ours:
        order = theirs[name.replace("values", "indices")].argsort()
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].tolist() == theirs[name][order].tolist()
    assert metadata == {"format": "pt"}
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("SUPERTUNING", "org/model")
    assert config["target_modules"] == r"block\.down|block\.up|up"
    assert read_super_tuning(tmp_path / "again", base).attributes["base_model"] == "org/model"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_FMT_170_a_round_trip_keeps_every_bit(tmp_path, dtype):
    base = {"a.b.weight": Dense(np.zeros((7, 9), np.float32)), "c.weight": Dense(np.zeros((6, 5), np.float32))}
    changed = {name: some_changes(t.shape, dtype, 3) for name, t in base.items()}
    changed["c.weight"].values[0] = 0  # a stored +0.0 stays
    write_super_tuning(tmp_path / "s", Changes("add", changed), base)
    again = read_super_tuning(tmp_path / "s", base)
    assert all(same_tensor(again.tensors[name], changed[name]) for name in changed)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 11), (64, 64), (576, 1536)])
def test_FMT_170_a_lone_matrix_needs_no_padding(tmp_path, shape):
    """Every count of changes has a sparsity that PEFT turns back into it."""
    size = shape[0] * shape[1]
    base = {"q.weight": Dense(np.ones(shape, np.float32))}
    for nnz in sorted({1, size // 3 + 1, size - 1, size} - {0}):
        support = np.zeros(size, bool)
        support[:nnz] = True
        change = with_values(from_support(support.reshape(shape)), np.ones(nnz, np.float32))
        write_super_tuning(tmp_path / f"{nnz}", Changes("add", {"q.weight": change}), base)
        tensors, metadata, config = raw(tmp_path / f"{nnz}")
        assert count_of(*shape, config["sparsity"]) == nnz == tensors["q.supertuning_values"].numel()
        assert 0 <= config["sparsity"] < 1
        assert metadata == {"format": "pt"}
        # the next larger multiple of 2^-53 leaves too little room
        assert config["sparsity"] * 2**53 % 1 == 0
        assert count_of(*shape, config["sparsity"] + 2.0**-53) < nnz


def test_FMT_170_the_rest_of_the_room_adds_nothing(tmp_path):
    """
    a  [ 1 . 2 . ]   one change at (0, 2), and b needs half of its positions: room for six of twelve in a,
       [ 3 4 . 5 ]   so that the five lowest of the other stored weights fill up with −0.0
       [ . 6 7 8 ]
    """
    base = {
        "a.weight": from_dense(np.array([[1, 0, 2, 0], [3, 4, 0, 5], [0, 6, 7, 8]], np.float32)),
        "b.weight": Dense(np.ones((2, 2), np.float32)),
    }
    changed = {
        "a.weight": with_values(from_support(np.arange(12).reshape(3, 4) == 2), np.array([0.5], np.float32)),
        "b.weight": with_values(from_support(np.eye(2, dtype=bool)), np.array([1, 2], np.float32)),
    }
    write_super_tuning(tmp_path / "s", Changes("add", changed), base)
    tensors, metadata, config = raw(tmp_path / "s")
    assert metadata == {"format": "pt", "seft.padding": "-0.0"}
    assert config["sparsity"] == 0.5
    assert tensors["a.supertuning_indices"].tolist() == [0, 2, 4, 5, 7, 9]
    assert tensors["a.supertuning_indices"].dtype == torch.int32
    values = tensors["a.supertuning_values"]
    assert values.tolist() == [0, 0.5, 0, 0, 0, 0]
    assert torch.signbit(values).tolist() == [True, False, True, True, True, True]
    again = read_super_tuning(tmp_path / "s", base).tensors
    assert all(same_tensor(again[name], changed[name]) for name in changed)
    # a tool that drops the metadata leaves amounts that change no bit
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    save_file({f"base_model.model.{n}": t for n, t in tensors.items()}, tmp_path / "t" / "adapter_model.safetensors")
    plain = read_super_tuning(tmp_path / "t", base)
    assert plain.tensors["a.weight"].nnz == 6
    expected = applied(Changes("add", changed), base)
    assert {n: v.tobytes() for n, v in applied(plain, base).items()} == {n: v.tobytes() for n, v in expected.items()}


def test_FMT_170_a_module_without_changes_has_room_for_one(tmp_path):
    """PEFT refuses a module whose K is 0."""
    base = {"q.weight": Dense(np.ones((3, 5), np.float32))}
    none = with_values(from_support(np.zeros((3, 5), bool)), np.empty(0, np.float32))
    write_super_tuning(tmp_path / "s", Changes("add", {"q.weight": none}), base)
    tensors, _, config = raw(tmp_path / "s")
    assert tensors["q.supertuning_indices"].tolist() == [0]
    assert count_of(3, 5, config["sparsity"]) == 1
    assert same_tensor(read_super_tuning(tmp_path / "s", base).tensors["q.weight"], none)


def test_FMT_005_a_delta_that_stores_every_position_as_dense_is_written(tmp_path):
    base = formats.Checkpoint("model", {"q.weight": Dense(np.ones((3, 5), np.float32))})
    amounts = np.arange(1, 16, dtype=np.float32).reshape(3, 5)
    formats.write(tmp_path / "base", base)
    formats.write(tmp_path / "d", delta.from_changes(base, "add", {"q.weight": from_dense(amounts)}))
    with formats.open(tmp_path / "d") as stored:
        assert isinstance(stored["add:q.weight"], Dense)
    formats.convert(tmp_path / "d", tmp_path / "s", "super-tuning", base=tmp_path / "base")
    tensors, _, config = raw(tmp_path / "s")
    assert tensors["q.supertuning_indices"].tolist() == list(range(15))
    assert (tensors["q.supertuning_values"].tolist(), config["sparsity"]) == (amounts.ravel().tolist(), 0)


@pytest.mark.parametrize("name", ["q.bias", "weight", "k.weight"])
def test_FMT_154_super_tuning_holds_weights_of_modules_of_the_base(tmp_path, name):
    base = dense_base() | {n: dense_base()["q.weight"] for n in ("q.bias", "weight")}
    with pytest.raises(errors.CannotHold, match="Super-Tuning changes weights of linear layers only"):
        write_super_tuning(tmp_path / "s", Changes("add", {name: some_changes((3, 5), np.float32, 0)}), base)


def test_FMT_154_super_tuning_holds_amounts_of_matrices_that_int32_reaches(tmp_path):
    with pytest.raises(errors.CannotHold, match=r"a Super-Tuning adapter holds amounts.*replace"):
        write_super_tuning(tmp_path / "s", Changes("replace", {}), dense_base())
    for shape in ((2**16, 2**16), (0, 4)):
        none = Sparse(shape, np.zeros(shape[0] + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
        with pytest.raises(errors.CannotHold, match=r"positions, expected 1 to 2\^31"):
            write_super_tuning(tmp_path / "s", Changes("add", {"q.weight": none}), {"q.weight": none})


def test_FMT_154_super_tuning_pads_within_the_support_and_not_beside_minus_zero(tmp_path):
    base = {"a.weight": some_changes((4, 4), np.float32, 0, share=0.2), "b.weight": Dense(np.ones((4, 4), np.float32))}
    full = from_dense(np.ones((4, 4), np.float32))
    with pytest.raises(errors.CannotHold, match=r"PEFT would hold 16 there.*sparsity 0\.0"):
        write_super_tuning(tmp_path / "s", Changes("add", {"a.weight": base["a.weight"], "b.weight": full}), base)
    some = some_changes((4, 4), np.float32, 0)
    some.values[0] = -0.0
    base = {name: Dense(np.ones((4, 4), np.float32)) for name in base}
    with pytest.raises(errors.CannotHold, match=r"amounts of −0\.0"):
        write_super_tuning(tmp_path / "s", Changes("add", {"a.weight": some, "b.weight": full}), base)
    # without padding −0.0 is an amount like any other
    write_super_tuning(tmp_path / "s", Changes("add", {"a.weight": some}), base)
    assert same_tensor(read_super_tuning(tmp_path / "s", base).tensors["a.weight"], some)


def test_FMT_110_super_tuning_overwrites_nothing(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(errors.DestinationExists):
        write_super_tuning(
            tmp_path / "s", Changes("add", {"q.weight": some_changes((3, 5), np.float32, 0)}), dense_base()
        )
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
