"""Every adapter that is not read, by the smallest edit of one that is; and what a SHiRA adapter cannot hold."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from formats import errors
from formats.dialects.changes import Changes
from formats.dialects.lora import read_lora
from formats.dialects.shira import read_shira, write_shira
from formats.dialects.spiel import read_spiel
from formats.dialects.super_tuning import read_super_tuning
from formats.records import Dense, Sparse, from_dense, from_support
from tests.formats.adapter_files import dense_base, lora, shira, some_changes, spiel, super_tuning

KINDS = [
    pytest.param(spiel, read_spiel, "FMT-151", id="FMT-151-spiel"),
    pytest.param(shira, read_shira, "FMT-151", id="FMT-151-shira"),
    pytest.param(lora, read_lora, "FMT-152", id="FMT-152-lora"),
    pytest.param(super_tuning, read_super_tuning, "FMT-170", id="FMT-170-super-tuning"),
]
I32 = torch.int32


def read_all(read, folder, base):
    return dict(read(folder, base).tensors)


def edited(folder, edit):
    """Change the tensors of an adapter."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})
    return folder


# what all adapters share


@pytest.mark.parametrize(("make", "read", "clause"), KINDS)
class TestFolders:
    def test_FMT_151_FMT_152_good_as_made(self, tmp_path, make, read, clause):
        assert list(read_all(read, make(tmp_path / "a"), dense_base())) == ["q.weight"]

    def test_FMT_151_FMT_152_no_folder(self, tmp_path, make, read, clause):
        with pytest.raises(errors.FormatError, match=f"{clause}.*lacks adapter_config"):
            read(tmp_path / "nothing", dense_base())

    def test_FMT_151_FMT_152_no_configuration(self, tmp_path, make, read, clause):
        folder = make(tmp_path / "a")
        (folder / "adapter_config.json").unlink()
        with pytest.raises(errors.FormatError, match=f"{clause}.*lacks adapter_config"):
            read(folder, dense_base())

    @pytest.mark.parametrize("text", ["[]", "{", '{"r": 1, "r": 1}', '{"r": NaN}'])
    def test_FMT_151_FMT_152_configuration_that_is_no_object(self, tmp_path, make, read, clause, text):
        folder = make(tmp_path / "a")
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(errors.FormatError, match=f"{clause}.*adapter_config"):
            read(folder, dense_base())

    def test_FMT_151_FMT_152_configuration_beyond_its_limit(self, tmp_path, make, read, clause, monkeypatch):
        monkeypatch.setattr("formats.dialects.changes.MAX_CONFIG", 20)
        with pytest.raises(errors.FormatError, match=f"{clause}.*more than 20 bytes"):
            read(make(tmp_path / "a"), dense_base())

    @pytest.mark.parametrize("kind", ["IA3", None, 7])
    def test_FMT_151_FMT_152_another_kind(self, tmp_path, make, read, clause, kind):
        with pytest.raises(errors.FormatError, match=f"{clause}.*peft_type"):
            read(make(tmp_path / "a", peft_type=kind), dense_base())

    def test_FMT_151_FMT_152_only_pickled_weights(self, tmp_path, make, read, clause):
        folder = make(tmp_path / "a")
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(errors.FormatError, match=f"{clause}.*safe_serialization=True"):
            read(folder, dense_base())

    def test_FMT_121_weights_that_are_cut(self, tmp_path, make, read, clause):
        path = make(tmp_path / "a") / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(errors.FormatError, match="FMT-121"):
            read(tmp_path / "a", dense_base())

    def test_FMT_151_FMT_152_no_tensors(self, tmp_path, make, read, clause):
        with pytest.raises(errors.FormatError, match=f"{clause}.*no tensors"):
            read(edited(make(tmp_path / "a"), dict.clear), dense_base())

    @pytest.mark.parametrize("name", ["q.weight", "base_model.model.q.weight", "base_model.model.lm_head.weight"])
    def test_FMT_151_FMT_152_a_tensor_without_a_place(self, tmp_path, make, read, clause, name):
        folder = edited(make(tmp_path / "a"), lambda tensors: tensors.update({name: torch.zeros(2)}))
        with pytest.raises(errors.FormatError, match=f"{clause}.*no place"):
            read(folder, dense_base())

    def test_FMT_151_FMT_152_another_prefix(self, tmp_path, make, read, clause):
        def rename(tensors):
            for name in list(tensors):
                tensors[name.removeprefix("base_model.model.")] = tensors.pop(name)

        with pytest.raises(errors.FormatError, match=f"{clause}.*no place"):
            read(edited(make(tmp_path / "a"), rename), dense_base())

    def test_FMT_151_FMT_152_half_of_a_pair(self, tmp_path, make, read, clause):
        folder = edited(make(tmp_path / "a"), lambda tensors: tensors.pop(sorted(tensors)[0]))
        with pytest.raises(errors.FormatError, match=f"{clause}.*has only"):
            read(folder, dense_base())

    @pytest.mark.parametrize("option", [{"modules_to_save": ["lm_head"]}, {"future": 1}, {"fan_out": True}])
    def test_FMT_151_FMT_152_an_option_that_is_on(self, tmp_path, make, read, clause, option):
        with pytest.raises(errors.FormatError, match=f"{clause}.*{next(iter(option))}"):
            read(make(tmp_path / "a", **option), dense_base())

    def test_FMT_151_FMT_152_a_base_without_the_tensor(self, tmp_path, make, read, clause):
        with pytest.raises(errors.FormatError, match=f"{clause}.*the base has no"):
            read(make(tmp_path / "a"), {"k.weight": dense_base()["q.weight"]})

    @pytest.mark.parametrize("base", [Dense(np.ones((3, 5), np.int8)), from_support(np.ones((3, 5), bool))])
    def test_FMT_151_FMT_152_a_base_that_holds_no_floats(self, tmp_path, make, read, clause, base):
        with pytest.raises(errors.FormatError, match=f"{clause}.*of the base is"):
            read_all(read, make(tmp_path / "a"), {"q.weight": base})

    def test_FMT_154_a_base_that_is_a_scalar(self, tmp_path, make, read, clause):
        with pytest.raises(errors.CannotHold, match="is a scalar"):
            read_all(read, make(tmp_path / "a"), {"q.weight": Dense(np.float32(1).reshape(()))})


# SpIEL and SHiRA


@pytest.mark.parametrize(
    ("indices", "found"),
    [([6, 15, 2], "run from 2 to 15"), ([6, -1, 2], "run from -1 to 6"), ([6, 2, 2], "position 2 .* twice")],
)
def test_FMT_151_spiel_indices(tmp_path, indices, found):
    folder = spiel(tmp_path / "a", indices=torch.tensor(indices, dtype=I32))
    with pytest.raises(errors.FormatError, match=f"FMT-151.*{found}"):
        read_all(read_spiel, folder, dense_base())


@pytest.mark.parametrize(
    "arrays",
    [
        {"indices": torch.tensor([6, 13], dtype=I32)},
        {"indices": torch.tensor([6.0, 13, 2])},
        {"indices": torch.tensor([[6, 13, 2]], dtype=I32)},
        {"values": torch.ones(3, dtype=torch.int32)},
        {"values": torch.ones(3, 1)},
        {"values": torch.ones(3).to(torch.float8_e4m3fn)},
    ],
)
def test_FMT_151_spiel_dtypes_and_shapes(tmp_path, arrays):
    with pytest.raises(errors.FormatError, match="FMT-151"):
        read_spiel(spiel(tmp_path / "a", **arrays), dense_base())


@pytest.mark.parametrize("announced", [{"q": 4}, {"k": 3}, {"q": 3, "k": 1}, {}, 3])
def test_FMT_151_spiel_sizes_that_the_configuration_denies(tmp_path, announced):
    with pytest.raises(errors.FormatError, match=r"FMT-151.*num_deltas"):
        read_spiel(spiel(tmp_path / "a", num_deltas=announced), dense_base())


@pytest.mark.parametrize(
    ("indices", "found"),
    [
        (torch.tensor([[1, 3, 0], [1, 3, 2]], dtype=I32), "rows .* 0 to 3, the base has 3"),
        (torch.tensor([[1, 2, -1], [1, 3, 2]], dtype=I32), "rows .* -1 to 2"),
        (torch.tensor([[1, 2, 0], [1, 5, 2]], dtype=I32), "columns .* 1 to 5, the base has 5"),
        (torch.tensor([[1, 2, 1], [1, 3, 1]], dtype=I32), "position 6 .* twice"),
        (torch.tensor([[1, 2, 0], [1, 3.5, 2]]), "3.5"),
        (torch.tensor([[1, 2, 0], [1, float("nan"), 2]]), "nan"),
        (torch.tensor([[1, 2, 0], [1, 2.0**24, 2]]), "16777216"),
        (torch.tensor([[1, 2, 0], [1, -1.0, 2]]), "-1.0"),
    ],
)
def test_FMT_151_shira_indices(tmp_path, indices, found):
    with pytest.raises(errors.FormatError, match=f"FMT-151.*{found}"):
        read_all(read_shira, shira(tmp_path / "a", indices=indices), dense_base())


def test_FMT_151_shira_f32_indices_end_where_float32_skips_integers(tmp_path):
    wide = Sparse((3, 2**24 + 9), np.zeros(4, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    for last, is_read in ((2.0**24 - 1, True), (2.0**24, False)):
        folder = shira(tmp_path / f"{last}", indices=torch.tensor([[1, 2, 0], [1, last, 2]]))
        if is_read:
            assert read_all(read_shira, folder, {"q.weight": wide})["q.weight"].indices.tolist() == [2, 1, 2**24 - 1]
        else:
            with pytest.raises(errors.FormatError, match=r"FMT-151.*as F32"):
                read_all(read_shira, folder, {"q.weight": wide})


@pytest.mark.parametrize(
    "arrays",
    [
        {"indices": torch.tensor([[1, 2], [1, 3]], dtype=I32)},
        {"indices": torch.tensor([[1, 2, 0]], dtype=I32)},
        {"indices": torch.tensor([[1, 2, 0], [1, 3, 2]], dtype=torch.int16)},
        {"values": torch.ones(3, 1)},
        {"values": torch.ones(3, dtype=torch.int32)},
    ],
)
def test_FMT_151_shira_dtypes_and_shapes(tmp_path, arrays):
    with pytest.raises(errors.FormatError, match="FMT-151"):
        read_shira(shira(tmp_path / "a", **arrays), dense_base())


def test_FMT_151_shira_of_a_base_that_is_no_matrix(tmp_path):
    with pytest.raises(errors.FormatError, match=r"FMT-151.*expected a matrix"):
        read_all(read_shira, shira(tmp_path / "a"), dense_base((3, 5, 1)))


def one(change: Sparse, name: str = "q.weight") -> Changes:
    return Changes("add", {name: change})


def test_FMT_154_shira_holds_no_new_values(tmp_path):
    with pytest.raises(errors.CannotHold, match="replace"):
        write_shira(tmp_path / "s", Changes("replace", {}), dense_base())


def test_FMT_154_shira_holds_at_least_one_module(tmp_path):
    with pytest.raises(errors.CannotHold, match="no changes"):
        write_shira(tmp_path / "s", Changes("add", {}), dense_base())


@pytest.mark.parametrize("name", ["q.bias", "weight", ".weight", "k.weight"])
def test_FMT_154_shira_holds_weights_of_modules_of_the_base(tmp_path, name):
    base = dense_base() | {n: dense_base()["q.weight"] for n in ("q.bias", "weight", ".weight")}
    with pytest.raises(errors.CannotHold, match="linear layers only"):
        write_shira(tmp_path / "s", one(some_changes((3, 5), np.float32, 0), name), base)


@pytest.mark.parametrize(
    ("change", "base"), [((3, 5), (5, 3)), ((3, 5, 1), (3, 5, 1)), ((5,), (5,))], ids=["turned", "deep", "flat"]
)
def test_FMT_154_shira_holds_matrices_of_the_shape_of_the_base(tmp_path, change, base):
    with pytest.raises(errors.CannotHold, match="expected one matrix"):
        write_shira(tmp_path / "s", one(some_changes(change, np.float32, 0)), dense_base(base))


@pytest.mark.parametrize("dtype", [np.float64, np.int8, ml_dtypes.float8_e4m3fn])
def test_FMT_154_shira_holds_what_float32_holds(tmp_path, dtype):
    with pytest.raises(errors.CannotHold, match="--to seft takes them"):
        write_shira(tmp_path / "s", one(some_changes((3, 5), dtype, 0)), dense_base())


@pytest.mark.parametrize("base", [Dense(np.ones((3, 5), np.int8)), from_support(np.ones((3, 5), bool))])
def test_FMT_154_shira_holds_amounts_for_floats(tmp_path, base):
    with pytest.raises(errors.CannotHold, match="of the base is"):
        write_shira(tmp_path / "s", one(some_changes((3, 5), np.float32, 0)), {"q.weight": base})


def test_FMT_154_shira_does_not_exceed_the_matrix(tmp_path):
    with pytest.raises(errors.CannotHold, match="15 stored weights"):
        write_shira(tmp_path / "s", one(from_dense(np.ones((3, 5), np.float32))), dense_base())


def test_FMT_154_shira_fills_up_within_the_support_only(tmp_path):
    base = {"q.weight": some_changes((3, 5), np.float32, 0, share=0.2)}
    assert base["q.weight"].nnz < 8
    with pytest.raises(errors.CannotHold, match="8 there"):
        write_shira(tmp_path / "s", one(base["q.weight"]), base)


def test_FMT_154_shira_does_not_mix_filling_with_amounts_of_minus_zero(tmp_path):
    change = some_changes((3, 5), np.float32, 0)
    change.values[0] = -0.0
    with pytest.raises(errors.CannotHold, match=r"amounts of −0\.0"):
        write_shira(tmp_path / "s", one(change), dense_base())


def test_FMT_154_shira_holds_arrays_that_fit(tmp_path):
    change = some_changes((3, 5), np.float32, 0)
    with pytest.raises(errors.CannotHold, match="arrays of shapes"):
        write_shira(tmp_path / "s", one(Sparse((3, 5), change.indptr, change.indices[1:], change.values)), dense_base())
    with pytest.raises(errors.FormatError, match="FMT-068"):
        write_shira(tmp_path / "s", one(Sparse((3, 5), change.indptr, change.indices + 5, change.values)), dense_base())


def test_FMT_110_shira_overwrites_nothing(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(errors.DestinationExists):
        write_shira(tmp_path / "s", one(some_changes((3, 5), np.float32, 0)), dense_base())
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


# LoRA


@pytest.mark.parametrize(
    "option",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"use_qalora": True},
        {"layer_replication": [[0, 1]]},
        {"target_parameters": ["experts"]},
        {"trainable_token_indices": [1]},
        {"loftq_config": {"loftq_bits": 4}},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "mica"},
        {"init_lora_weights": 1},
        {"use_rslora": "yes"},
        {"fan_in_fan_out": 1},
        {"rank_pattern": {"(a|b)+": 2}},
        {"alpha_pattern": {"[q": 2}},
        {"alpha_pattern": ["q"]},
        {"alpha_pattern": {"q": None}},
        {"lora_alpha": "three"},
        {"lora_alpha": True},
        {"lora_alpha": None},
        {"r": 0},
        {"r": 1.5},
        {"r": "two"},
    ],
    ids=json.dumps,
)
def test_FMT_152_lora_that_is_no_plain_product(tmp_path, option):
    with pytest.raises(errors.FormatError, match=f"FMT-152.*{next(iter(option))}"):
        read_all(read_lora, lora(tmp_path / "a", **option), dense_base())


@pytest.mark.parametrize(
    "edit",
    [
        {"r": 3},
        {"rank_pattern": {"q": 1}},
        {"a": torch.ones(3, 5)},
        {"b": torch.ones(3, 3)},
        {"a": torch.ones(2, 5, 1)},
        {"a": torch.ones(2, 5, dtype=torch.int32)},
        {"names": ("lora_A.weight", "lora_B.bias")},
        {"names": ("lora_A.default.weight", "lora_B.default.weight")},
        {"names": ("lora_A.weight", "lora_embedding_B")},
    ],
)
def test_FMT_152_lora_tensors(tmp_path, edit):
    with pytest.raises(errors.FormatError, match="FMT-152"):
        read_lora(lora(tmp_path / "a", **edit), dense_base())


@pytest.mark.parametrize("shape", [(5, 3), (3, 6), (3, 5, 1)])
def test_FMT_152_lora_of_another_shape_than_the_base(tmp_path, shape):
    with pytest.raises(errors.FormatError, match=r"FMT-152.*has shape \[3, 5\]"):
        read_lora(lora(tmp_path / "a"), dense_base(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("sparse", [False, True])
def test_FMT_152_lora_beyond_float32(tmp_path, value, sparse):
    base = dense_base()
    if sparse:
        base = {"q.weight": from_dense(base["q.weight"].values)}
    folder = lora(tmp_path / "a", b=torch.tensor([[1.0, 0], [0.5, -1], [0, value]]))
    with pytest.raises(errors.FormatError, match=r"FMT-152.*not finite"):
        read_all(read_lora, folder, base)
