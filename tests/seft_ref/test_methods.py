"""Adapters as methods of training (ADP-010 to ADP-012, CKP-011): torch repeats runs; resumed, merged, pruned again."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import formats
import seft_ref
from seft_ref.errors import AdapterError, CheckpointError, ConfigError, UpdateError
from seft_ref.files.state import Origin, load_factors, save_factors
from seft_ref.kernels import cpu, reference
from seft_ref.model.config import ModelConfig
from seft_ref.topology.csr import flat
from seft_ref.train import factors
from seft_ref.train.settings import METHODS, settings_of
from tests.seft_ref import folders
from tests.seft_ref.folders import TEXT, hf_folder
from tests.seft_ref.threads_as_ranks import on_ranks
from tests.seft_ref.tiny import (
    TOKENS,
    magnitude_keep,
    packed_weights,
    parameters,
    pruned_bases,
    tiny_json,
)

# rows that 3 bands divide, and no two widths alike
JSON = tiny_json(rope_theta=10000.0, attention_bias=True)
CONFIG = ModelConfig.from_json(JSON)
OWN = {
    "lora": {"rank": 2, "alpha": 3.0},
    "lora-star": {"rank": 2, "alpha": 3.0},
    "sparse-peft": {"rank": 2, "alpha": 3.0},
    "spp": {"rank": 4, "alpha": 3.0, "bands": 3},
}
ORIGIN = Origin("a" * 64, "b" * 64)


SHORT = {"steps": 4, "batch": 2, "micro_batches": 2, "length": 7, "lr": 0.05, "max_norm": 0.5, "weight_decay": 0.1}


def settings(method, **changes):
    return settings_of(method, **{**SHORT, "seed": 3, **OWN[method], **changes})


def begin(wanted, dtype=np.float64, kernels=reference):
    dense = parameters(CONFIG, dtype)
    bases = pruned_bases(CONFIG, dense, magnitude_keep(0.6))
    weights = packed_weights(CONFIG, dense, bases)
    return dense, bases, factors.initial_state(wanted, CONFIG, weights, bases)


def arrays(state):
    """Everything that a run changes, by name."""
    return {
        f"{name}.{factor}.{part}": array
        for name, target in state.targets.items()
        for factor, delta in target.factors.items()
        for part, array in {"values": delta.values, **delta.kept}.items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# --- runs ---


@pytest.mark.parametrize("method", ["lora", "sparse-peft", "spp"])
@pytest.mark.parametrize("optimizer", ["sgd", "sm3", "spiel-adamw"])
def test_ADP_011_every_optimizer_steps_factors_and_compiled_kernels_do_the_same(method, optimizer):
    wanted = settings(method, optimizer=optimizer)
    ends = []
    for kernels, dtype in ((reference, np.float64), (cpu, np.float32)):
        dense = parameters(CONFIG, dtype)
        bases = pruned_bases(CONFIG, dense, magnitude_keep(0.6))
        packed = {name: kernels.pack(base.topology, base.values) for name, base in bases.items()}
        weights = seft_ref.model.weights.assemble(
            CONFIG,
            {name: x for name, x in dense.items() if name not in bases and name != "lm_head.weight"},
            packed | {"lm_head.weight": kernels.pack_dense(dense["lm_head.weight"])},
        )
        state = factors.initial_state(wanted, CONFIG, weights, bases)
        before = arrays(state)
        *_, (state, _) = factors.train(state, wanted, CONFIG, TOKENS, kernels)
        assert not any(np.array_equal(before[n], x) for n, x in arrays(state).items() if n.endswith("values"))
        ends.append(arrays(state))
    # float32 against float64: where a gradient is small, its ratio to its own root passes rounding on whole
    for name, x in ends[0].items():
        if name.endswith("values"):
            np.testing.assert_allclose(ends[1][name], x, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("method", ["lora", "sparse-peft", "spp"])
def test_TRN_013_two_ranks_run_as_one_process(method):
    wanted = settings(method)
    *_, (alone, _) = factors.train(begin(wanted)[2], wanted, CONFIG, TOKENS, reference)

    def work(ranks):
        *_, (state, _) = factors.train(begin(wanted)[2], wanted, CONFIG, TOKENS, reference, ranks=ranks)
        return arrays(state)

    first, second = on_ranks(2, work)
    assert same(first, second)
    for name, x in arrays(alone).items():
        np.testing.assert_allclose(first[name], x, rtol=1e-9, atol=1e-12)


# --- states ---


@pytest.mark.parametrize("method", sorted(OWN))
@pytest.mark.parametrize("optimizer", ["adamw", "sm3"])
def test_CKP_011_a_run_resumed_after_any_step_is_the_run(method, optimizer, tmp_path):
    wanted = settings(method, optimizer=optimizer)
    start = begin(wanted, np.float32)[2]
    states = [start, *(state for state, _ in factors.train(start, wanted, CONFIG, TOKENS, reference))]
    for before, after in pairwise(states):
        file = tmp_path / f"{before.step}.state"
        save_factors(file, before, wanted, ORIGIN)
        loaded = load_factors(file, begin(wanted, np.float32)[2], wanted, ORIGIN, reference)
        assert same(arrays(loaded), arrays(before))
        one, _ = next(factors.train(loaded, wanted, CONFIG, TOKENS, reference))
        assert same(arrays(one), arrays(after))


def test_CKP_006_CKP_007_another_or_a_damaged_state_is_refused(tmp_path):
    wanted = settings("lora")
    file = tmp_path / "state"
    save_factors(file, begin(wanted)[2], wanted, ORIGIN)
    for other, said in (
        (settings("lora", rank=1), "rank was 2, is 1"),
        (settings("sparse-peft"), "it is a run of lora, not of sparse-peft"),
        (settings("lora", alpha=4.0), "alpha was 3.0, is 4.0"),
    ):
        with pytest.raises(CheckpointError, match=f"CKP-006.*{said}"):
            load_factors(file, begin(other)[2], other, ORIGIN, reference)
    with pytest.raises(CheckpointError, match=r"CKP-006.*another dtype"):
        load_factors(file, begin(wanted, np.float32)[2], wanted, ORIGIN, reference)
    held = formats.read(file)
    tensors = dict(held.tensors)
    del tensors["model.layers.0.mlp.up_proj.weight.a.values"]
    formats.write_file(file, formats.Checkpoint("training-state", tensors, held.attributes))
    with pytest.raises(CheckpointError, match=r"CKP-007.*there is no model.layers.0.mlp.up_proj.weight.a.values"):
        load_factors(file, begin(wanted)[2], wanted, ORIGIN, reference)


# --- whole runs between folders ---

RUN = {"steps": 6, "batch": 2, "length": 16, "lr": 0.01}
FOLDER_OWN = {**OWN, "spp": {**OWN["spp"], "bands": 4}}


@pytest.fixture(scope="module")
def pruned(request, tmp_path_factory):
    """A pruned model, dense and sparse, with its record."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "text.txt").write_text(TEXT)
    hf_folder(folder / "dense")
    how = {"text": folder / "text.txt", "samples": 3, "length": 16}
    if request.param == "magnitude":
        seft_ref.prune(folder / "dense", folder / "pruned", "magnitude", 0.6)
    elif request.param == "owl":
        seft_ref.prune(folder / "dense", folder / "pruned", "wanda", 0.6, layers="owl", outlier=3.0, **how)
    elif request.param == "2:4":
        seft_ref.prune(folder / "dense", folder / "pruned", "wanda", pattern="2:4", **how)
    else:
        seft_ref.prune(folder / "dense", folder / "pruned", request.param, 0.6, **how)
    formats.convert(folder / "pruned", folder / "sparse", "sparse")
    return folder


def supports(folder):
    held = formats.read(folder)
    return {n: t for n, t in held.tensors.items() if n.endswith("_proj.weight")}


@pytest.mark.parametrize("pruned", ["wanda", "2:4"], indirect=True)
@pytest.mark.parametrize("method", [*METHODS, *sorted(OWN)])
def test_ADP_012_a_method_keeps_what_it_promises_and_resumes_to_the_same_bytes(method, pruned, tmp_path):
    own = FOLDER_OWN.get(method, {"rank": 2} if method == "shira" else {})
    text = pruned / "text.txt"
    done = seft_ref.finetune(pruned / "sparse", tmp_path / "a", text, method, **RUN, **own)
    for resume in (False, True):
        stop = {} if resume else {"stop_after": 4}
        seft_ref.finetune(pruned / "sparse", tmp_path / "b", text, method, resume=resume, **stop, **RUN, **own)
    files = [(tmp_path / name / "model.sparse.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    assert not (tmp_path / "b.state").exists()
    before, after = supports(pruned / "sparse"), supports(tmp_path / "a")
    for name, tensor in after.items():
        n = before[name].nnz if hasattr(before[name], "nnz") else None
        stored = len(formats.flat(tensor)) if not isinstance(tensor, formats.Dense) else tensor.values.size
        assert n is None or stored == (tensor.values.size if method == "lora" else len(formats.flat(before[name])))
        if method not in ("lora", "lora-star"):
            assert np.array_equal(formats.flat(tensor), formats.flat(before[name]))
    assert done.kept() == (9216 if method == "lora" else done.stored)
    formats.convert(tmp_path / "a", tmp_path / "hf", "hf")
    assert seft_ref.evaluate(tmp_path / "hf", text, length=16, windows=4).perplexity == pytest.approx(
        seft_ref.evaluate(tmp_path / "a", text, length=16, windows=4).perplexity, rel=1e-4
    )


@pytest.mark.parametrize("pruned", ["owl"], indirect=True)
def test_ADP_012_2_lora_star_prunes_every_block_by_its_own_rate(pruned, tmp_path):
    record = json.loads((pruned / "sparse" / "pruning.json").read_bytes())
    rates = record["layers"]["sparsity"]
    assert len({round(rate, 4) for rate in rates}) == 2
    run = RUN | OWN["lora"] | {"lr": 0.2}
    seft_ref.finetune(pruned / "sparse", tmp_path / "star", pruned / "text.txt", "lora-star", **run)
    before = supports(pruned / "sparse")
    after = supports(tmp_path / "star")
    assert {name: tensor.nnz for name, tensor in after.items()} == {name: t.nnz for name, t in before.items()}
    assert any(not np.array_equal(formats.flat(after[name]), formats.flat(before[name])) for name in before)


@pytest.mark.parametrize("pruned", ["wanda", "sparsegpt", "magnitude", "2:4"], indirect=True)
def test_ADP_012_lora_star_is_lora_pruned_by_the_command_that_pruned_the_base(pruned, tmp_path):
    text = pruned / "text.txt"
    for method in ("lora", "lora-star"):
        seft_ref.finetune(pruned / "sparse", tmp_path / method, text, method, **RUN, **OWN["lora"])
    formats.convert(tmp_path / "lora", tmp_path / "merged", "hf")
    record = json.loads((pruned / "pruned" / "pruning.json").read_bytes())
    assert not (tmp_path / "merged" / "pruning.json").exists()  # CKP-005.3
    how = {"text": text, **record["calibration"]} if record["calibration"] else {}
    rate = {"pattern": record["pattern"]} if record["pattern"] else {"sparsity": record["sparsity"]}
    seft_ref.prune(tmp_path / "merged", tmp_path / "again", record["method"], **rate, **how)
    merged, star = (formats.read(tmp_path / name) for name in ("lora", "lora-star"))
    formats.convert(tmp_path / "again", tmp_path / "again-sparse", "sparse")
    again = formats.read(tmp_path / "again-sparse")
    for name in supports(tmp_path / "lora-star"):
        assert np.array_equal(formats.flat(star.tensors[name]), formats.flat(again.tensors[name])), name
        whole = formats.to_dense(merged.tensors[name])
        assert np.array_equal(star.tensors[name].values, whole.reshape(-1)[formats.flat(star.tensors[name])])


# --- refusals ---


def test_ADP_010_settings_that_a_method_does_not_have_are_refused():
    for method, change, said in (
        ("lora", {"density": 0.1}, "lora has no setting density; of its own it has alpha, rank"),
        ("lora", {"bands": 4}, "lora has no setting bands"),
        ("spp", {"grow": "fisher"}, "spp has no setting grow; of its own it has alpha, bands, rank"),
        ("sparse-peft", {"evolve_every": 5}, "sparse-peft has no setting evolve_every"),
    ):
        with pytest.raises(ConfigError, match=f"ADP-010.*{said}"):
            settings_of(method, **change)
    with pytest.raises(ConfigError, match=r"EVT-011.*choose one of .*seft.*sparse-full, shira, lora, lora-star"):
        settings_of("dora")
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}):
        with pytest.raises(AdapterError, match="ADP-009"):
            settings_of("lora", **wrong)


@pytest.mark.parametrize("pruned", ["wanda"], indirect=True)
def test_ADP_009_bands_that_do_not_divide_the_rows_are_refused_before_the_first_step(pruned, tmp_path):
    with pytest.raises(AdapterError, match=r"ADP-009.*16 bands do not divide the 24 rows of .*q_proj.weight; bands 4"):
        seft_ref.finetune(pruned / "sparse", tmp_path / "out", pruned / "text.txt", "spp", **RUN)
    assert not list(tmp_path.iterdir())


def test_ADP_012_a_base_whose_pruning_is_not_known_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    hf_folder(tmp_path / "dense")
    formats.convert(tmp_path / "dense", tmp_path / "sparse", "sparse")
    for record, said in (
        (None, "has no pruning.json"),
        ({"method": "mine"}, "names the method 'mine'"),
        ({"method": "magnitude", "sparsity": 0.5, "scope": "model"}, "across its matrices"),
        ({"method": "wanda", "sparsity": 0.5}, "names no calibration windows"),
        ({"method": "sparsegpt", "sparsity": 0.5, "scope": "row"}, "names scope 'row', which sparsegpt does not have"),
        ({"method": "magnitude", "layers": {"sparsity": [0.1]}}, "a sparsity for 1 blocks, the model has 2"),
    ):
        if record is not None:
            (tmp_path / "sparse" / "pruning.json").write_text(json.dumps(record))
        with pytest.raises(AdapterError, match=f"ADP-012.*{said}"):
            seft_ref.finetune(tmp_path / "sparse", tmp_path / "out", tmp_path / "text.txt", "lora-star", **RUN)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("pruned", ["wanda"], indirect=True)
def test_ADP_012_4_what_could_not_be_pruned_again_is_refused_before_the_first_step(pruned, tmp_path):
    (tmp_path / "short.txt").write_text(TEXT[:12])
    with pytest.raises(AdapterError, match=r"ADP-012.*windows of 16 tokens as pruning.json says: the text has 12"):
        seft_ref.finetune(
            pruned / "sparse", tmp_path / "out", tmp_path / "short.txt", "lora-star", **RUN | {"length": 8}
        )
    # a record of another sparsity
    shutil.copytree(pruned / "sparse", tmp_path / "model")
    record = json.loads((pruned / "sparse" / "pruning.json").read_bytes())
    (tmp_path / "model" / "pruning.json").write_text(json.dumps(record | {"removed": record["removed"] - 5}))
    with pytest.raises(AdapterError, match=r"ADP-012.*stores \d+ weights, and its pruning.json says that \d+"):
        seft_ref.finetune(tmp_path / "model", tmp_path / "out", pruned / "text.txt", "lora-star", **RUN)
    assert not list(tmp_path.glob("out*"))


def test_ADP_012_4_a_pattern_whose_kept_weights_are_0_is_pruned_again(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    tensors, name = folders.parameters(), "model.layers.0.mlp.down_proj.weight"
    tensors[name] = np.where(np.arange(tensors[name].shape[1]) % 8 < 3, 0, tensors[name])  # three of four in a group
    hf_folder(tmp_path / "dense", tensors=tensors)
    seft_ref.prune(tmp_path / "dense", tmp_path / "pruned", "magnitude", pattern="2:4")
    formats.convert(tmp_path / "pruned", tmp_path / "sparse", "sparse")
    seft_ref.finetune(tmp_path / "sparse", tmp_path / "star", tmp_path / "text.txt", "lora-star", **RUN, **OWN["lora"])
    before, after = supports(tmp_path / "sparse")[name], supports(tmp_path / "star")[name]
    assert before.nnz < after.nnz == np.prod(after.shape) // 2


def test_TRN_007_factors_that_a_step_spoils_are_refused_by_name():
    wanted = settings("lora", lr=1e308, max_norm=0.0)
    with pytest.raises(UpdateError, match=r"TRN-007.*model.layers.0.self_attn.q_proj.weight.(a|b)"):
        list(factors.train(begin(wanted)[2], wanted, CONFIG, TOKENS, reference))


def test_ADP_001_lora_trains_without_a_look_at_the_base():
    class Closed:
        nnz = 1

        def open(self):
            raise AssertionError("opened")

    wanted = settings("lora")
    state = begin(wanted)[2]
    state = replace(state, targets={n: replace(t, base=Closed()) for n, t in state.targets.items()})
    assert len(list(factors.train(state, wanted, CONFIG, TOKENS, reference))) == wanted.steps


def test_the_support_of_a_base_is_not_touched():
    wanted = settings("spp")
    _, bases, state = begin(wanted)
    before = {name: (flat(base.topology).copy(), base.values.copy()) for name, base in bases.items()}
    list(factors.train(state, wanted, CONFIG, TOKENS, reference))
    for name, (positions, values) in before.items():
        assert np.array_equal(flat(bases[name].topology), positions)
        assert np.array_equal(bases[name].values, values)
