"""Conversions and deltas where a reader found them wrong: files replaced, ties lost, long chains, odd shapes."""

import json
from dataclasses import replace

import numpy as np
import pytest

import formats
from formats import FormatError, delta
from formats.conversion import convert
from formats.dialects import coded
from formats.dialects.hf import write_hf
from formats.errors import DestinationExists
from formats.records import Checkpoint, Dense, Sparse, from_dense


def values(seed, shape=(3, 4), dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def changed(**ends):
    base = Checkpoint("model", {"a.weight": Dense(values(1))})
    target = values(1)
    target[1, 2] += 1
    return base, replace(base, tensors={"a.weight": Dense(target)}, **ends)


@pytest.mark.parametrize("to", ["trl-delta", "torch-csr", "sparse", "hf"])
def test_FMT_110_an_existing_file_is_not_replaced(tmp_path, to):
    base, target = changed()
    source = delta.diff(base, target) if to == "trl-delta" else replace(base, tensors={"a": from_dense(values(2))})
    (tmp_path / "out").write_bytes(b"precious")
    with pytest.raises(DestinationExists, match="FMT-110"):
        convert(source, tmp_path / "out", to)
    assert (tmp_path / "out").read_bytes() == b"precious"


@pytest.mark.parametrize("to", ["trl-delta", "weight-sync", "seft", "peft", "super-tuning"])
@pytest.mark.parametrize("is_alone", [False, True])
def test_FMT_154_ties_that_a_delta_changes_are_not_dropped_in_silence(tmp_path, to, is_alone):
    base, target = changed(tied={"head.weight": "a.weight"})
    target = replace(base, tied=target.tied) if is_alone else target
    op = "add" if to in ("peft", "super-tuning") else "replace"
    formats.write(tmp_path / "base", base)
    how = {} if to == "trl-delta" else {"base": tmp_path / "base"}
    out = tmp_path / ("weight_v000001" if to == "weight-sync" else "out")
    if to == "trl-delta" and not is_alone:
        (remark,) = convert(delta.diff(base, target, op), out, to, **how)
        assert remark == "trl-delta has no place for ties: left out"
        return
    with pytest.raises(FormatError, match="FMT-154"):
        convert(delta.diff(base, target, op), out, to, **how)
    assert not out.exists()


@pytest.mark.parametrize("part", ["shape", "bitmask", "compressed", "row_offsets"])
@pytest.mark.parametrize("pattern", [np.ones((3, 4)), np.array([[1, 1, 0, 0]] * 3)])
def test_FMT_179_a_tensor_with_the_name_of_a_part_is_refused(tmp_path, part, pattern):
    tensors = {"a.weight": from_dense((pattern * values(3)).astype(np.float32)), f"a.{part}": Dense(values(4))}
    model = Checkpoint("model", tensors, files={"config.json": b"{}"})
    with pytest.raises(FormatError, match=f"FMT-179: 'a.{part}' is a tensor of the model"):
        convert(model, tmp_path / "out", "compressed-tensors")


def test_FMT_179_models_at_the_edges(tmp_path):
    empty = Sparse((0, 4), np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    model = Checkpoint("model", {"a.weight": empty}, files={"config.json": b" {}\n"})
    convert(model, tmp_path / "rows", "compressed-tensors")
    sizes = {name: tensor.shape for name, tensor in formats.dialects.hf.open_hf(tmp_path / "rows").items()}
    assert sizes["a.compressed"] in ((0,), (0, 2))
    thin = Sparse((4, 0), np.zeros(5, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    with pytest.raises(FormatError, match=r"FMT-179: .*no columns"):
        convert(replace(model, tensors={"a.weight": thin}), tmp_path / "thin", "compressed-tensors")
    for config in (b'{"model_type": ', b"[" * 101 + b"]" * 101, b"3"):
        spoilt = replace(model, tensors={"a.weight": from_dense(values(5))}, files={"config.json": config})
        with pytest.raises(FormatError, match=r"FMT-179: config.json is no JSON object"):
            convert(spoilt, tmp_path / "spoilt", "compressed-tensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows"]


def test_packing_fetches_each_matrix_a_few_times(tmp_path):
    counts = dict[str, int]()

    def fetched(name):
        counts[name] = counts.get(name, 0) + 1
        return from_dense(values(6, (8, 16)))

    tensors = formats.lazy.Lazy(["a.weight", "b.weight"], fetched)
    convert(Checkpoint("model", tensors, files={"config.json": b"{}"}), tmp_path / "out", "compressed-tensors")
    assert max(counts.values()) <= 6  # two to look, one for each part


def test_FMT_154_metadata_is_no_name_of_a_stock_tensor(tmp_path):
    model = Checkpoint("model", {"__metadata__": Dense(values(7)), "a": Dense(values(8))})
    formats.write(tmp_path / "model", model)
    with pytest.raises(FormatError, match="FMT-154: '__metadata__'"):
        convert(tmp_path / "model", tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt", "model.safetensors", "a/b"])
def test_FMT_013_companions_stay_in_their_folder(tmp_path, name):
    model = Checkpoint("model", {"a": Dense(values(9))}, files={name: b"x"})
    with pytest.raises(FormatError, match="FMT-013"):
        convert(model, tmp_path / "sub" / "out", "hf")
    with pytest.raises(FormatError, match="FMT-013"):
        write_hf(tmp_path / "sub" / "out", [], {}.__getitem__, {name: b"x"})
    assert list(tmp_path.iterdir()) == []


def test_a_chain_may_be_longer_than_the_stack_of_calls():
    model = Checkpoint("model", {"w": Dense(np.zeros((2, 3), np.float32)), "v": Dense(np.ones(2, np.float32))})
    deltas, end = [], model
    for step in range(1, 1201):
        w = end.tensors["w"].values.copy()
        w.reshape(-1)[step % 6] = step
        after = replace(model, tensors={"w": Dense(w), "v": model.tensors["v"]})
        deltas.append(delta.diff(end, after))
        end = after
    result = delta.apply(model, deltas)
    assert np.array_equal(result.tensors["w"].values, end.tensors["w"].values)
    assert np.array_equal(formats.lazy.like(result.tensors, "w").shape, (2, 3))
    assert np.array_equal(result.tensors["v"].values, np.ones(2))


@pytest.mark.parametrize("op", ["replace", "add"])
def test_a_changed_tensor_whose_shape_no_sparse_one_has_is_whole(monkeypatch, op):
    base = Checkpoint("model", {"s": Dense(np.array(1.5, np.float32)), "w": Dense(values(10, (200,)))})
    long = base.tensors["w"].values.copy()
    long[7] = 3
    target = replace(base, tensors={"s": Dense(np.array(2.5, np.float32)), "w": Dense(long)})
    monkeypatch.setattr("formats.change.MAX_SPARSE_DIM", 100)
    made = delta.diff(base, target, op)
    assert sorted(made.tensors) == ["whole:s", "whole:w"]
    result = delta.apply(base, [made])
    assert result.tensors["s"].values == 2.5
    assert np.array_equal(result.tensors["w"].values, long)


def test_a_config_is_extended_and_keeps_what_it_says(tmp_path):
    model = Checkpoint("model", {"a.weight": from_dense(values(11))}, files={"config.json": b'{"x": [1, 2]}'})
    convert(model, tmp_path / "out", "compressed-tensors")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["x"] == [1, 2]


@pytest.mark.parametrize(("zeros", "told"), [(0, False), (9, False), (10, True), (30, True), (500, False)])
def test_FMT_122_7_zeros_that_get_no_mask_are_told(tmp_path, zeros, told):
    weight = values(3, (20, 50))
    weight.reshape(-1)[:zeros] = 0
    convert(Checkpoint("model", {"a.weight": Dense(weight), "n": Dense(np.zeros(3, "f4"))}), tmp_path / "hf", "hf")
    remarks = convert(tmp_path / "hf", tmp_path / "out", "sparse")
    assert any("a.weight has a few zeros and stays dense" in remark for remark in remarks) == told
    assert isinstance(formats.read(tmp_path / "out").tensors["a.weight"], Sparse) == (zeros == 500)
    with_masks = convert(tmp_path / "hf", tmp_path / "masks", "sparse", encoding="bitmask")
    assert not any("stay dense" in remark for remark in with_masks)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "w0 has a few zeros and stays dense, because a mask would make it larger; "),
        (2, "2 tensors have a few zeros and stay dense, because a mask would make them larger: w0, w1; "),
        (5, "5 tensors have a few zeros and stay dense, because a mask would make them larger: w0, w1, w2 and 2 more"),
    ],
)
def test_FMT_122_7_the_tensors_are_named(tmp_path, count, told):
    weight = values(3, (20, 50))
    weight[0, :20] = 0
    model = Checkpoint("model", {f"w{i}": Dense(weight) for i in range(count)} | {"full": Dense(values(4))})
    convert(model, tmp_path / "hf", "hf")
    (remark,) = convert(tmp_path / "hf", tmp_path / "out", "sparse")
    assert remark.startswith(told)
    assert convert(tmp_path / "out", tmp_path / "again", "hf") == []


def test_FMT_154_5_what_describes_a_run_is_no_loss_of_the_model(tmp_path):
    """The log of a run has its settings and its validation, so that nobody has to be told that they are left out."""
    attributes = {"seft.settings": "{}", "seft.validation": {"step": 3}, "note": 1}
    model = Checkpoint("model", {"a.weight": from_dense(values(3))}, attributes)
    for to in ("hf", "torch-csr", "compressed-tensors"):
        files = {"config.json": b"{}"} if to == "compressed-tensors" else {}
        remarks = convert(replace(model, files=files), tmp_path / to, to)
        assert remarks[0] == f"{to} has no place for attribute note: left out"
        bare = {name: value for name, value in attributes.items() if name != "note"}
        remarks = convert(replace(model, attributes=bare, files=files), tmp_path / f"{to}-bare", to)
        assert not any("no place" in remark for remark in remarks)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_QNT_006_4_no_weight_that_is_not_finite_stands_beside_codes(wrong):
    tensors = {"a": from_dense(np.int8([[3, 0], [0, -4]])), "a.scale": Dense(np.ones((2, 1), np.float32))}
    attributes = {"quantised": {"grid": "int4", "rounding": "nearest"}}
    base = Checkpoint("model", tensors, attributes, scales={"a": {"scale": "a.scale"}})
    trained = Checkpoint("model", {"a": from_dense(np.float32([[3, 0], [0, wrong]]))})
    with pytest.raises(FormatError, match="QNT-006: a weight of the trained model is NaN or infinite"):
        coded.beside(base, trained)
