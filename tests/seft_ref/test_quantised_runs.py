"""Quantised models in folders: rounded, computed with, fine-tuned and merged (chapter 19)."""

from dataclasses import replace

import numpy as np
import pytest

import formats
import seft_ref
from formats import delta
from formats.dialects import coded
from formats.dialects.hf import open_hf
from seft_ref import load_model, save_model
from seft_ref.errors import SeftError
from seft_ref.files.codes import read_quantised, stored_in
from seft_ref.kernels import cpu, reference
from seft_ref.model.weights import matrix_of
from seft_ref.quantise.grid import nearest, parse_grid, weights_of
from seft_ref.topology.csr import Topology, flat
from tests.seft_ref.folders import BF16, TEXT, sparse_folder

RUN = {"steps": 7, "batch": 2, "length": 12, "density": 0.1, "evolve_every": 3, "lr": 1e-2}
GRIDS = ("int4", "int4:g4", "int8:g8", "int8:asym", "int4:g2:asym")
TARGETS = [f"model.layers.{i}.{p}.weight" for i in (0, 1) for p in
           (*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down")))]  # fmt: skip


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


@pytest.fixture
def folder(tmp_path):
    return sparse_folder(tmp_path / "model", dtype=BF16)


@pytest.fixture
def quantised(folder, tmp_path):
    seft_ref.quantise(folder, tmp_path / "quantised", "int4:g4")
    return tmp_path / "quantised"


def read(path):
    return formats.read(path).tensors


def dense(tensor):
    return formats.to_dense(tensor).astype(np.float64)


def by_hand(path, name):
    """The weights of a quantised matrix by a loop over its entries, and its support."""
    with formats.open(path) as reader:
        roles, codes = reader.scales[name], reader[name]
        parts = {role: formats.to_dense(reader[part]) for role, part in roles.items()}
        update = reader[roles["update"]] if "update" in roles else None
    weights, support = np.zeros(codes.shape), np.zeros(codes.shape, bool)
    size = codes.shape[1] // parts["scale"].shape[1]
    for row in range(codes.shape[0]):
        for slot in range(codes.indptr[row], codes.indptr[row + 1]):
            column = codes.indices[slot]
            zero = int(parts["zero_point"][row, column // size]) if "zero_point" in parts else 0
            scale = float(parts["scale"][row, column // size])
            weights[row, column] = np.float32((int(codes.values[slot]) - zero) * scale)
            support[row, column] = True
    if update is not None:
        for p, value in zip(formats.flat(update), update.values, strict=True):
            weights.flat[p], support.flat[p] = value, True
    return weights, support


@pytest.mark.parametrize("grid", GRIDS)
def test_QNT_009_what_a_folder_holds(folder, tmp_path, grid):
    done = seft_ref.quantise(folder, tmp_path / "out", grid)
    before, after = read(folder), read(tmp_path / "out")
    with formats.open(tmp_path / "out") as reader:
        assert reader.attributes["quantised"] == {"grid": grid, "rounding": "nearest"}
        roles = {"scale", "zero_point"} if grid.endswith("asym") else {"scale"}
        assert {name: set(parts) for name, parts in reader.scales.items()} == dict.fromkeys(TARGETS, roles)
        assert reader.files["config.json"] == (folder / "config.json").read_bytes()
        reader.verify()
    assert set(after) == set(before) | {f"{name}.{role}" for name in TARGETS for role in roles}
    for name in set(before) - set(TARGETS):
        assert dense(after[name]).tobytes() == dense(before[name]).tobytes()
    for name in TARGETS:
        np.testing.assert_array_equal(formats.flat(after[name]), formats.flat(before[name]))
        weights, _ = by_hand(tmp_path / "out", name)
        step = np.repeat(dense(after[f"{name}.scale"]), weights.shape[1] // after[f"{name}.scale"].shape[1], axis=1)
        stored = dense(before[name]) != 0
        # half a step, and rounding of zero points to whole codes moves the ends of a group by half a step more
        assert (np.abs(weights - dense(before[name])) <= step * (1.0 + 1e-6) * stored).all()
    assert done.stored == sum(before[name].nnz for name in TARGETS)


@pytest.mark.parametrize("kernels", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize("grid", ["int4:g4", "int8:asym"])
def test_QNT_002_a_model_is_loaded_as_what_its_codes_stand_for(folder, tmp_path, grid, kernels):
    seft_ref.quantise(folder, tmp_path / "out", grid)
    for dtype in ("float32", "float64"):
        model = load_model(tmp_path / "out", kernels, dtype)
        for name in TARGETS:
            weights, support = by_hand(tmp_path / "out", name)
            base = model.bases[name].open()
            np.testing.assert_array_equal(flat(base.topology), np.flatnonzero(support))
            # by_hand rounds to float32, which float64 does not
            np.testing.assert_allclose(base.values, weights[support], rtol=0 if dtype == "float32" else 1e-7)
            packed = kernels.matmul(np.eye(weights.shape[1], dtype=dtype), matrix_of(model.weights, name))
            np.testing.assert_allclose(packed.T, weights, rtol=1e-7)


def test_QNT_008_a_run_sees_the_weights_of_codes(quantised, text, tmp_path):
    """A run from codes is, bit for bit, a run from the weights they stand for."""
    formats.convert(quantised, tmp_path / "expanded", to="sparse", expand_quantised=True)
    runs = [seft_ref.finetune(path, None, text, "seft", **RUN) for path in (quantised, tmp_path / "expanded")]
    for name in TARGETS:
        (one, values), (other, same) = (run.final[name] for run in runs)
        np.testing.assert_array_equal(flat(one), flat(other))
        assert values.tobytes() == same.tobytes()


@pytest.mark.parametrize("preset", ["seft", "active-only"])
def test_QNT_006_beside_nothing_is_lost(quantised, text, tmp_path, preset):
    done = seft_ref.finetune(quantised, tmp_path / "out", text, preset, **RUN)
    before, after = read(quantised), read(tmp_path / "out")
    for name in TARGETS:
        topology, values = done.final[name]
        weights, support = by_hand(tmp_path / "out", name)
        np.testing.assert_array_equal(np.flatnonzero(support), flat(topology))
        np.testing.assert_array_equal(weights[support], values)
        # the codes that are left are those of before, and so are scales
        codes = dict(zip(formats.flat(before[name]), before[name].values, strict=True))
        assert all(codes[p] == v for p, v in zip(formats.flat(after[name]), after[name].values, strict=True))
        assert dense(after[f"{name}.scale"]).tobytes() == dense(before[f"{name}.scale"]).tobytes()
    updates = sum(after[f"{name}.update"].nnz for name in TARGETS)
    assert done.merged.changed == updates > 0
    assert (done.merged.vanished, done.merged.saturated) == (0, 0)
    assert done.kept() == done.stored
    with formats.open(tmp_path / "out") as reader:
        assert sum(stored_in(reader, name) for name in TARGETS) == done.kept()
    # a second run starts from it, and what stands beside the codes then is still all of it
    again = seft_ref.finetune(tmp_path / "out", tmp_path / "again", text, preset, **RUN)
    for name in TARGETS:
        weights, support = by_hand(tmp_path / "again", name)
        np.testing.assert_array_equal(weights[support], again.final[name][1])


def test_QNT_007_in_the_grid_every_weight_has_a_code(quantised, text, tmp_path):
    done = seft_ref.finetune(quantised, tmp_path / "out", text, "seft", merge="grid", **RUN)
    before, after = read(quantised), read(tmp_path / "out")
    changed = vanished = saturated = 0
    for name in TARGETS:
        topology, values = done.final[name]
        assert f"{name}.update" not in after
        np.testing.assert_array_equal(formats.flat(after[name]), flat(topology))
        old, _ = by_hand(quantised, name)
        codes = {p: int(v) for p, v in zip(formats.flat(before[name]), before[name].values, strict=True)}
        scales = np.repeat(dense(after[f"{name}.scale"]), 4, axis=1)
        for p, value, code in zip(flat(topology), values, after[name].values, strict=True):
            if p in codes and np.float32(old.flat[p]) == value:
                assert code == codes[p]
                continue
            free = round(float(value) / scales.flat[p])
            assert code == min(max(free, -8), 7)
            changed, vanished = changed + 1, vanished + (code == codes.get(p, 0))
            saturated += free != code
    assert (done.merged.changed, done.merged.vanished, done.merged.saturated) == (changed, vanished, saturated)
    assert 0 < vanished < changed
    # merged twice it is the same: nothing is left to round
    model = load_model(tmp_path / "out", cpu)
    final = {name: (base.open().topology, base.open().values) for name, base in model.bases.items()}
    assert save_model(tmp_path / "out", tmp_path / "twice", final, merge="grid").changed == 0


def test_QNT_005_a_model_by_gptq_is_nearer_to_the_model(folder, text, tmp_path):
    """Block by block it is GPTQ on inputs behind rounded blocks, so the first block is that of the pure function."""
    from seft_ref.prune.sparsegpt import hessian_of
    from seft_ref.quantise.gptq import gptq

    seft_ref.quantise(folder, tmp_path / "out", "int4:g4", text=text, samples=4, length=16, seed=3)
    seft_ref.quantise(folder, tmp_path / "nearest", "int4:g4")
    with formats.open(tmp_path / "out") as reader:
        assert reader.attributes["quantised"] == {"grid": "int4:g4", "rounding": "gptq"}
    name, before, after = TARGETS[0], read(folder), read(tmp_path / "out")
    from seft_ref.layers.embedding import embedding_forward
    from seft_ref.layers.rmsnorm import rmsnorm_forward
    from seft_ref.runs.prune import windows_of

    tokens = seft_ref.read_tokens(text, folder)
    config = load_model(folder, reference).config
    (windows,) = windows_of(tokens, config, 4, 16, 3)
    table = formats.to_dense(before["model.embed_tokens.weight"]).astype(np.float32)
    x, _ = embedding_forward(windows.reshape(-1), table)
    norm = formats.to_dense(before["model.layers.0.input_layernorm.weight"]).astype(np.float32)
    inputs, _ = rmsnorm_forward(x.reshape(4, 16, -1), norm, config.rms_norm_eps)
    tensor = before[name]
    topology = Topology(tensor.shape, tensor.indptr, tensor.indices)
    weight = formats.to_dense(tensor).astype(np.float32)
    made = gptq(weight, topology, hessian_of(inputs), parse_grid("int4:g4"))
    np.testing.assert_array_equal(made.codes, after[name].values)
    assert (made.codes != nearest(weight, topology, parse_grid("int4:g4")).codes).any()


@pytest.mark.parametrize("grid", GRIDS)
def test_QNT_002_files_and_engine_say_the_same_of_codes(folder, text, tmp_path, grid):
    seft_ref.quantise(folder, tmp_path / "out", grid)
    with formats.open(tmp_path / "out") as reader:
        for name in TARGETS:
            matrix, update = read_quantised(reader, name)
            assert update is None
            found = coded.weights_of(coded.read_coded(formats.reader.checkpoint_of(reader), name))
            assert found.values.tobytes() == weights_of(matrix, np.dtype(np.float32)).tobytes()


def test_QNT_009_a_pruned_hugging_face_folder_is_taken_as_well(tmp_path, quantised):
    seft_ref.quantise(tmp_path / "model-hf", tmp_path / "out", "int4:g4")
    one, other = read(quantised), read(tmp_path / "out")
    assert set(one) == set(other)
    assert all(dense(one[name]).tobytes() == dense(other[name]).tobytes() for name in one)


# what is refused ---------------------------------------------------------------------------------


def test_QNT_009_a_quantised_model_is_not_quantised_again(quantised, tmp_path):
    with pytest.raises(SeftError, match=r"QNT-009.*quantised already"):
        seft_ref.quantise(quantised, tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()


def test_QNT_001_a_grid_that_does_not_divide_is_refused_before_anything_is_read(folder, tmp_path):
    seen = []
    with pytest.raises(SeftError, match=r"QNT-001.*40 columns.*groups of 3"):
        seft_ref.quantise(folder, tmp_path / "out", "int4:g3", progress=lambda name, total: seen.append(name))
    assert (seen, (tmp_path / "out").exists()) == ([], False)


def test_QNT_009_codes_are_not_taken_for_weights(quantised, tmp_path):
    for to in ("hf", "scipy", "torch-csr", "binsparse"):
        with pytest.raises(formats.FormatError, match=r"QNT-009.*expand"):
            formats.convert(quantised, tmp_path / "out", to=to)
        assert not (tmp_path / "out").exists()
    remarks = formats.convert(quantised, tmp_path / "out", to="hf", expand_quantised=True)
    assert "14 matrices of codes on int4:g4 become F32" in remarks
    with open_hf(tmp_path / "out") as made:
        for name in TARGETS:
            np.testing.assert_array_equal(made[name].values, by_hand(quantised, name)[0])
        assert set(made) == {name for name in read(quantised) if not name.endswith(".scale")}
    with pytest.raises(formats.FormatError, match=r"FMT-084.*quantised models"):
        formats.convert(tmp_path / "model", tmp_path / "more", to="hf", expand_quantised=True)


def _edited(path, out, **changes):
    """Write a quantised checkpoint with other tensors, attributes or scales."""
    checkpoint = formats.read(path)
    tensors = {**checkpoint.tensors, **changes.pop("tensors", {})}
    formats.write(out, replace(checkpoint, tensors=tensors, **changes))
    return out


NAME = TARGETS[0]


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("no number above 0", lambda t, _: {f"{NAME}.scale": formats.Dense(t[f"{NAME}.scale"].values * 0)}),
        ("no number above 0", lambda t, _: {f"{NAME}.scale": formats.Dense(t[f"{NAME}.scale"].values * np.nan)}),
        ("F32 and of shape", lambda t, _: {f"{NAME}.scale": formats.Dense(t[f"{NAME}.scale"].values[:, :3].copy())}),
        ("F32 and of shape", lambda t, _: {f"{NAME}.scale": formats.Dense(t[f"{NAME}.scale"].values.astype(BF16))}),
        ("4 bits have -8 to 7", lambda t, _: {NAME: formats.with_values(t[NAME], t[NAME].values * 2)}),
        ("no matrix of I8", lambda t, _: {NAME: formats.with_values(t[NAME], t[NAME].values.astype(np.int16))}),
        ("expected an object", lambda t, a: a.pop("quantised") and {}),
        ("expected an object", lambda t, a: a.update(quantised={"grid": "int4:g4", "rounding": "up"}) or {}),
        ("has the parts", lambda t, a: a.update(quantised={"grid": "int4:g4:asym", "rounding": "gptq"}) or {}),
        ("no whole number of groups", lambda t, a: a.update(quantised={"grid": "int4:g7", "rounding": "gptq"}) or {}),
        ("is unknown", lambda t, a: a.update(quantised={"grid": "int3", "rounding": "gptq"}) or {}),
    ],
)  # fmt: skip
def test_QNT_009_parts_that_do_not_fit_are_refused(quantised, tmp_path, text, said, change):
    tensors, attributes = read(quantised), dict(formats.read(quantised).attributes)
    made = change(tensors, attributes)
    bad = _edited(quantised, tmp_path / "bad", tensors=made, attributes=attributes)
    with pytest.raises(formats.FormatError, match=said):
        load_model(bad, cpu)
    with pytest.raises(formats.FormatError, match=said):
        seft_ref.finetune(bad, tmp_path / "out", text, "seft", **RUN)
    assert not (tmp_path / "out").exists()


def test_QNT_006_an_unknown_merge_is_refused_before_the_run(quantised, text, tmp_path):
    with pytest.raises(SeftError, match=r"QNT-006.*choose one of beside, grid"):
        seft_ref.finetune(quantised, tmp_path / "out", text, "seft", merge="into", **RUN)
    valid = seft_ref.Validation(text, every=3)
    with pytest.raises(ValueError, match="beside the codes, and merge is grid"):
        seft_ref.finetune(quantised, tmp_path / "out", text, "seft", merge="grid", valid=valid, **RUN)
    assert list(tmp_path.glob("out*")) == []


def test_CKP_008_groups_that_are_not_held_are_refused_by_name(quantised):
    with pytest.raises(SeftError, match=r"CKP-008: model.layers.0.self_attn.q_proj.weight .*groups of 4 columns"):
        load_model(quantised, cpu, compact=True)


def test_a_run_with_validation_and_one_resumed_keep_the_codes(quantised, text, tmp_path):
    valid = seft_ref.Validation(text, every=3)
    seft_ref.finetune(quantised, tmp_path / "best", text, "seft", valid=valid, **RUN)
    assert f"{NAME}.update" in read(tmp_path / "best")
    seft_ref.finetune(quantised, tmp_path / "two", text, "seft", stop_after=4, **RUN)
    seft_ref.finetune(quantised, tmp_path / "two", text, "seft", resume=True, **RUN)
    seft_ref.finetune(quantised, tmp_path / "one", text, "seft", **RUN)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert all(dense(one[name]).tobytes() == dense(two[name]).tobytes() for name in one)


# what a second reader found ----------------------------------------------------------------------


def test_QNT_008_codes_of_a_float64_model_are_computed_in_float64(tmp_path, text):
    folder = sparse_folder(tmp_path / "f64", dtype=np.float64)
    seft_ref.quantise(folder, tmp_path / "q", "int8:asym")
    assert {base.open().values.dtype for base in load_model(tmp_path / "q", cpu).bases.values()} == {np.dtype("f8")}
    before = seft_ref.evaluate(tmp_path / "q", text, length=12).perplexity
    assert "".join(seft_ref.generate(tmp_path / "q", "the", max_tokens=2))
    seft_ref.finetune(tmp_path / "q", tmp_path / "tuned", text, "seft", **RUN)
    tuned = seft_ref.evaluate(tmp_path / "tuned", text, length=12).perplexity
    assert tuned < before
    # BLAS multiplies dense matrices, and adds up in another order on some processors
    for to, tolerance in (("hf", 1e-12), ("sparse", 0)):
        formats.convert(tmp_path / "tuned", tmp_path / to, to=to, expand_quantised=True)
        assert abs(seft_ref.evaluate(tmp_path / to, text, length=12).perplexity / tuned - 1) <= tolerance


def test_QNT_008_weights_beside_codes_keep_their_64_bits(quantised, text, tmp_path):
    done = seft_ref.finetune(quantised, tmp_path / "out", text, "seft", dtype="float64", **RUN)
    name = TARGETS[0]
    assert read(tmp_path / "out")[f"{name}.update"].dtype == np.float64
    base = load_model(tmp_path / "out", cpu, "float64").bases[name].open()
    np.testing.assert_array_equal(base.values, done.final[name][1])
    formats.convert(tmp_path / "out", tmp_path / "sparse", to="sparse", expand_quantised=True)
    np.testing.assert_array_equal(read(tmp_path / "sparse")[name].values, done.final[name][1])


def test_QNT_009_codes_leave_in_no_way_as_weights(quantised, text, tmp_path):
    checkpoint = formats.read(quantised)
    with pytest.raises(formats.FormatError, match="QNT-009"):
        formats.convert(checkpoint, tmp_path / "hf", to="hf")
    formats.convert(checkpoint, tmp_path / "hf", to="hf", expand_quantised=True)
    for to in ("sparse", "compressed-tensors"):
        with pytest.raises(formats.FormatError, match=r"QNT-009.*cast|FMT-084.*dtype"):
            formats.convert(quantised, tmp_path / "cast", to=to, dtype="BF16")
    seft_ref.finetune(quantised, tmp_path / "grid", text, "seft", merge="grid", **RUN)
    formats.write(tmp_path / "delta", delta.diff(checkpoint, formats.read(tmp_path / "grid")))
    for to, more in (("trl-delta", {}), ("weight-sync", {"base": quantised})):
        with pytest.raises(formats.FormatError, match=r"QNT-009.*apply the delta first"):
            formats.convert(tmp_path / "delta", tmp_path / "patch", to=to, **more)
    assert not (tmp_path / "cast").exists()
    assert not (tmp_path / "patch").exists()


@pytest.mark.parametrize("grid", ["int4:g2:asym", "int4:g2"])
def test_QNT_003_a_group_without_weights_takes_weights_of_both_signs(grid):
    from seft_ref.quantise.merge import in_grid
    from seft_ref.topology.csr import from_flat

    matrix = nearest(np.array([[1.0, 2.0, 0.0, 0.0]]), from_flat((1, 4), np.array([0, 1])), parse_grid(grid))
    support = from_flat((1, 4), np.array([0, 1, 2, 3]))
    made, counts = in_grid(matrix, support, np.array([1.0, 2.0, -0.5, 0.5]))
    weights = weights_of(made, np.dtype(np.float64))
    assert weights[2] < 0
    assert weights[3] > 0
    assert counts.saturated == 0


def test_QNT_007_to_merge_into_a_grid_needs_codes(folder, text, tmp_path):
    with pytest.raises(SeftError, match=r"QNT-007.*the model has none"):
        seft_ref.finetune(folder, tmp_path / "out", text, "seft", merge="grid", **RUN)
    assert not (tmp_path / "out").exists()


def test_QNT_009_check_finds_what_a_reader_refuses(quantised, tmp_path):
    from formats.check import violations

    assert list(violations(quantised)) == []
    tensors = read(quantised)
    name = TARGETS[0]
    wrong = {name: formats.with_values(tensors[name], tensors[name].values * 2)}
    ((place, error),) = violations(_edited(quantised, tmp_path / "bad", tensors=wrong))
    assert name in place
    assert error.clause == "QNT-009"


def test_CKP_001_codes_without_a_scale_are_no_weights(quantised, text, tmp_path):
    checkpoint = formats.read(quantised)
    scales = {name: roles for name, roles in checkpoint.scales.items() if name != TARGETS[0]}
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name != f"{TARGETS[0]}.scale"}
    formats.write(tmp_path / "bad", replace(checkpoint, scales=scales, tensors=tensors))
    with pytest.raises(SeftError, match="CKP-001"):
        seft_ref.evaluate(tmp_path / "bad", text, length=12)
