"""seft_ports.peft: against the wrapped model, in files, merged, and with several adapters."""

import copy
import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
peft = pytest.importorskip("peft")

from peft import PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import formats.delta  # noqa: E402
from seft_ports.peft import SeftConfig, register, stored_weights  # noqa: E402
from seft_ports.pytorch import (  # noqa: E402
    Evolution,
    SeftError,
    SeftOptimizer,
    layers_of,
    load_sparse,
    merge,
    product,
    save_sparse,
    wrap,
)
from seft_ports.pytorch.model import targets_of  # noqa: E402
from seft_ports.pytorch.patterns import keep_pattern  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402
from tests.ports.peft_tiny import adapted, bits, config, layers, pruned, same  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

RUNS = {
    "active-only": {},
    "seft": {"preset": "seft", "gradient_window": 2},
    "sensitivity": {"preset": "seft", "adapt": "sensitivity"},
    "absolute": {"preset": "seft", "adapt": "absolute", "gradient_window": 2},
    "no-adapt": {"preset": "no-adapt", "adapt": "fisher"},
    "static": {"preset": "static"},
    "random": {"preset": "seft", "initial_positions": "random", "seed": 3},
    "spiel-adapt": {"preset": "spiel-adapt", "gradient_window": 1},
    "spiel-ag": {"preset": "spiel-ag", "gradient_window": 1},
    "spiel-ma": {"preset": "spiel-ma", "gradient_window": 1},
    "rigl": {"preset": "rigl"},
    "set": {"preset": "set", "optimizer": "adamw"},
    "literal": {"preset": "literal"},
    "row": {"preset": "seft", "scope": "row", "budget_by": "rank", "rank": 2, "density": None},
    "model": {"preset": "seft", "scope": "model", "drop": "change"},
}


def rows(t):
    """The micro-batches of step t."""
    data = tiny.texts(tiny.STEPS * tiny.ROWS)[(t - 1) * tiny.ROWS : t * tiny.ROWS]
    return torch.stack([row["input_ids"] for row in data]).split(2)


def trained(model, settings, max_norm=1.0):
    optimizer = SeftOptimizer(model, lr=0.01, kind=settings.optimizer)
    return tiny.loop(model, settings, optimizer, rows, max_norm=max_norm)


IDS = torch.arange(1, 13).reshape(2, 6)


@pytest.mark.filterwarnings("ignore:denser-at-end")
@pytest.mark.parametrize("name", RUNS)
def test_an_adapter_moves_and_ends_as_the_wrapped_model_does(name):
    chosen = config(**RUNS[name])
    plain, masks = pruned()
    wrapped, tuned = wrap(plain, chosen.settings(), masks), get_peft_model(pruned()[0], chosen)
    events, twins = trained(wrapped, chosen.settings()), trained(tuned, chosen.settings())
    for event, twin in zip(events, twins, strict=True):
        assert len(event) == len(twin)
        for one, other in zip(event.values(), twin.values(), strict=True):
            assert all(torch.equal(getattr(one, w), getattr(other, w)) for w in ("dropped", "grown", "pruned"))
    supports = merge(wrapped)
    tuned = tuned.merge_and_unload()
    assert same(bits(wrapped), bits(tuned))
    assert all(torch.equal(tuned.get_submodule(n).seft_mask, support) for n, support in supports.items())
    if name in ("active-only", "seft", "no-adapt"):
        assert stored_weights(tuned).stored == sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize("scope", ["matrix", "group"])
def test_EVT_007_TOP_005_an_adapter_holds_a_pattern_through_events_and_the_merge(scope):
    model = tiny.model()
    for linear in targets_of(model).values():
        linear.weight.data *= keep_pattern(linear.weight.detach().abs(), (1, 2))
    before = {name: linear.weight.detach() != 0 for name, linear in targets_of(model).items()}
    chosen = config(preset="seft", pattern=(1, 2), scope=scope)
    tuned = get_peft_model(model, chosen)
    assert sum(len(event) for event in trained(tuned, chosen.settings())) == 2 * len(before)
    merged = tuned.merge_and_unload()
    after = {name: merged.get_submodule(name).seft_mask for name in before}
    assert all(int(mask.view(-1, 2).sum(1).max()) <= 1 for mask in after.values())
    assert any(bool((after[name] & ~before[name]).any()) for name in before) == (scope == "group")


@pytest.mark.parametrize("initial_positions", ["gradient", "random", "magnitude"])
def test_OPT_004_events_and_clipping_of_every_step_ride_on_the_optimizer(initial_positions):
    chosen = {"preset": "seft", "initial_positions": initial_positions}
    settings = config(**chosen).settings()
    called, riding = adapted(**chosen), adapted(**chosen)
    # small enough to clip every step, each by another factor
    trained(called, settings, max_norm=0.01)
    optimizer = SeftOptimizer(riding, lr=0.01)
    evolution = Evolution(riding, optimizer, settings, tiny.STEPS)
    evolution.attach(max_norm=0.01)

    def losses(t):
        return [riding(input_ids=part, labels=part).loss / 2 for part in rows(t)]

    for t in range(1, tiny.STEPS + 1):
        optimizer.zero_grad()
        sum(losses(t)).backward()
        optimizer.step()
    evolution.finish(lambda: losses(tiny.STEPS))
    for one, other in zip(layers_of(called).values(), layers_of(riding).values(), strict=True):
        assert torch.equal(one.support(), other.support())
        assert torch.allclose(one.values, other.values, atol=1e-6)
    with pytest.raises(SeftError, match="TRN-008: step 8 of a run that was said to have 7"):
        optimizer.step()


def test_the_base_keeps_every_bit(tmp_path):
    plain, _ = pruned()
    before = bits(plain)
    tuned = get_peft_model(plain, config(preset="seft"))
    trained(tuned, config(preset="seft").settings())
    tuned.eval()
    with torch.no_grad():
        with tuned.disable_adapter():
            without = tuned(IDS).logits
        assert not torch.equal(tuned(IDS).logits, without)
    base = {n.removeprefix("base_model.model.").replace(".base_layer", ""): x for n, x in bits(tuned).items()}
    assert same({n: x for n, x in base.items() if "seft_" not in n}, before)
    assert same(bits(tuned.unload()), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merged_model_computes_the_same_bits_and_unmerges_exactly(dtype):
    tuned = adapted(dtype, preset="seft", init_weights=False).eval()
    assert {u.values.dtype for u in layers_of(tuned).values()} == {torch.float32}
    before = bits(tuned)
    with torch.no_grad():
        alone = tuned(IDS).logits
        tuned.merge_adapter()
        assert torch.equal(tuned(IDS).logits, alone)
        tuned.unmerge_adapter()
        assert same(bits(tuned), before)
        merged = tuned.merge_and_unload()
        assert torch.equal(merged(IDS).logits, alone)
    assert {x.dtype for x in merged.state_dict().values()} == {dtype}


def test_two_adapters_at_once(recwarn):
    tuned = adapted(init_weights=False)
    tuned.add_adapter("other", config(init_weights=False))
    tuned.base_model.set_adapter(["default", "other"])
    layer = layers(tuned)["base_model.model.model.layers.0.self_attn.q_proj"]
    one, two = (layer.seft_delta[name] for name in ("default", "other"))
    want = layer.base_layer.weight.detach().clone()
    for update in (one, two):
        at = update.positions[: update.slots]
        want.view(-1)[at] += update.values[: update.slots].detach()
    x = torch.randn(3, want.shape[1])
    layer.eval()
    assert torch.allclose(layer(x), x @ want.T, atol=1e-6)
    with pytest.raises(SeftError, match="MDL-007: two adapters are trained at once"):
        Evolution(tuned, SeftOptimizer(tuned), config().settings(), 3)
    merged = tuned.merge_and_unload()
    assert torch.allclose(merged.get_submodule("model.layers.0.self_attn.q_proj").weight, want)


def test_gradients_of_a_layer_with_two_adapters():
    torch.manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Linear(5, 4).double())
    tuned = get_peft_model(linear, SeftConfig(density=0.4, preset="static", init_weights=False, target_modules=["0"]))
    tuned.add_adapter("other", SeftConfig(density=0.3, preset="static", init_weights=False, target_modules=["0"]))
    tuned.base_model.set_adapter(["default", "other"])
    (layer,) = layers(tuned).values()
    updates = [layer.seft_delta[name] for name in ("default", "other")]
    updates[0].pruned = torch.tensor([i for i in range(20) if i not in updates[0].positions.tolist()][:3])
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    inputs = (x, *(update.values for update in updates))

    def product(x, *values):
        return torch.func.functional_call(
            layer, {f"seft_delta.{n}.values": v for n, v in zip(("default", "other"), values, strict=True)}, x
        )

    assert torch.autograd.gradcheck(product, inputs)


def test_a_file_has_indices_and_values_and_what_is_pruned(tmp_path):
    tuned = adapted(preset="seft")
    trained(tuned, config(preset="seft").settings())
    tuned.eval().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.rpartition(".")[2] for name in tensors} == {"indices", "values", "pruned"}
    for name, layer in layers(tuned).items():
        update, stem = layer.seft_delta["default"], f"{name}.seft_delta"
        assert tensors[f"{stem}.indices"].dtype == tensors[f"{stem}.pruned"].dtype == torch.int32
        assert tensors[f"{stem}.indices"].tolist() == update.positions[: update.slots].tolist()
        assert torch.equal(tensors[f"{stem}.values"], update.values[: update.slots])
        assert not bool(update.base().view(-1)[tensors[f"{stem}.pruned"].long()].any())
    assert any(len(x) for name, x in tensors.items() if name.endswith("pruned"))
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert [said[name] for name in ("peft_type", "preset", "density")] == ["SEFT", "seft", 0.2]
    for low in (False, True):
        again = PeftModel.from_pretrained(pruned()[0], tmp_path, adapter_name="mine", low_cpu_mem_usage=low).eval()
        assert torch.equal(again(IDS).logits, tuned(IDS).logits)
    save_file(
        {n: x.flip(0) if n.endswith(("indices", "values")) else x for n, x in tensors.items()},
        tmp_path / "adapter_model.safetensors",
    )
    again = PeftModel.from_pretrained(pruned()[0], tmp_path).eval()
    assert torch.equal(again(IDS).logits, tuned(IDS).logits)


STEM = "base_model.model.model.layers.0.self_attn.q_proj.seft_delta"
WRONG = {
    "more values than the density leaves": (
        {"indices": torch.arange(20), "values": torch.zeros(20)},
        "the density leaves 12",
    ),
    "of two lengths": ({"indices": torch.arange(3)}, "do not fit each other"),
    "indices that are floats": ({"indices": torch.arange(12.0)}, "expected integers and floats"),
    "a position twice": ({"indices": torch.zeros(12, dtype=torch.int64)}, "different positions"),
    "outside the matrix": ({"indices": torch.arange(60, 72)}, "different positions of a matrix of 64"),
    "below zero": ({"indices": torch.arange(-1, 11)}, "different positions"),
    "pruned that is not stored": ({"pruned": None}, "it prunes weights that the base does not store"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused(what, tmp_path):
    tuned = adapted(init_weights=False)
    tuned.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    change, says = WRONG[what]
    for role, wrong in change.items():
        zero = torch.nonzero(layers(tuned)[STEM.rpartition(".")[0]].stored().view(-1) == 0).flatten()[:1]
        tensors[f"{STEM}.{role}"] = zero if wrong is None else wrong
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(RuntimeError, match=says):
        PeftModel.from_pretrained(pruned()[0], tmp_path)


def test_a_merge_before_the_end_of_a_run_is_refused():
    tuned = adapted(preset="no-adapt", initial_positions="random")
    optimizer = SeftOptimizer(tuned, lr=0.01)
    evolution = Evolution(tuned, optimizer, config(preset="no-adapt", initial_positions="random").settings(), 9)
    evolution.attach()
    for t in range(1, 4):
        sum(tuned(input_ids=part, labels=part).loss for part in rows(t)).backward()
        optimizer.step()
    before = bits(tuned)
    with pytest.raises(SeftError, match="finish the run first"):
        tuned.merge_adapter()
    assert same(bits(tuned), before)


def test_top_004_a_stored_zero_stays_stored(tmp_path):
    plain, masks = pruned()
    target = next(iter(targets_of(plain)))
    at = torch.nonzero(masks[target].view(-1)).flatten()[:3]
    plain.get_submodule(target).weight.data.view(-1)[at] = 0
    sparse = wrap(plain, config().settings(), masks)
    save_sparse(sparse, tmp_path / "sparse")
    recorded = get_peft_model(load_sparse(tiny.model(), tmp_path / "sparse"), config(support="recorded"))
    layer = layers(recorded)[f"base_model.model.{target}"]
    assert layer.seft_zeros.tolist() == at.tolist()
    assert torch.equal(layer.stored(), masks[target])
    counted = get_peft_model(load_sparse(tiny.model(), tmp_path / "sparse"), config(support="nonzero"))
    assert int(layers(counted)[f"base_model.model.{target}"].stored().sum()) == int(masks[target].sum()) - 3
    save_sparse(recorded.merge_and_unload(), tmp_path / "again")
    assert (tmp_path / "again").exists()
    with pytest.raises(NotImplementedError, match="merge_and_unload"):
        merge(counted)


def test_a_sparse_checkpoint_is_written_with_and_without_a_merge(tmp_path):
    tuned = adapted(preset="seft")
    trained(tuned, config(preset="seft").settings())
    before = bits(tuned)
    save_sparse(tuned, tmp_path / "beside")
    assert same(bits(tuned), before)
    save_sparse(tuned.merge_and_unload(), tmp_path / "merged")
    one, other = (formats.read(tmp_path / name) for name in ("beside", "merged"))
    assert formats.delta.contents(one) == formats.delta.contents(other)
    assert sum(isinstance(x, formats.Sparse) for x in one.tensors.values()) == 7


def test_what_the_base_does_not_say_is_refused():
    with pytest.raises(SeftError, match="TOP-004: a layer has no record of its support"):
        adapted(support="recorded")
    plain, masks = pruned()
    name, linear = next(iter(targets_of(plain).items()))
    linear.register_buffer("seft_mask", torch.zeros_like(masks[name]), persistent=False)
    with pytest.raises(SeftError, match="TOP-004: a mask leaves out weights that are not zero"):
        get_peft_model(plain, config())
    with pytest.raises(SeftError, match="TOP-004: support is 'guess'"):
        config(support="guess")
    with pytest.raises(SeftError, match="DLT-002"):
        config(density=0.0)
    with pytest.raises(SeftError, match="EVT-011"):
        config(preset="adam")
    with pytest.raises(ValueError, match="give layers_to_transform too"):
        config(layers_pattern="layers")
    with pytest.raises(TypeError, match="embed_tokens is a Embedding; SEFT adapts"):
        get_peft_model(pruned()[0], config(target_modules=["embed_tokens"]))


def test_an_adapter_without_positions_is_not_trained_in_silence():
    tuned = adapted()
    with pytest.raises(SeftError, match="DLT-004: the adapter has no positions yet"):
        tuned(IDS)
    tuned.eval()(IDS)
    with torch.no_grad():
        tuned.train()(IDS)


def test_a_copy_has_layers_of_its_own():
    tuned = adapted(init_weights=False)
    other = copy.deepcopy(tuned)
    for name, layer in layers(other).items():
        assert layer.seft_delta["default"].layer is layer
        assert layer is not layers(tuned)[name]
    # a compiled graph finds a matrix by its number
    plain, masks = pruned()
    for one in (tuned, wrap(plain, config().settings(), masks)):
        twin = copy.deepcopy(one)
        numbered = [m for m in (*one.modules(), *twin.modules()) if hasattr(m, "number")]
        assert len({m.number for m in numbered}) == len(numbered) == 14
        assert all(product._MATRICES[m.number] is m for m in numbered)


def test_an_index_that_was_pruned_before_leaves_the_base_as_it_was():
    tuned = adapted(preset="static", init_weights=False)
    before = bits(tuned)
    for layer in layers(tuned).values():
        update = layer.seft_delta["default"]
        update.pruned = update.positions[: update.slots : 2].clone()
        update.hold()
        new = update.effective().view(-1)[update.pruned]
        assert torch.equal(new, update.values.detach()[: update.slots : 2])
    tuned(input_ids=IDS, labels=IDS).loss.backward()
    tuned.merge_adapter()
    tuned.unmerge_adapter()
    base = {name: x for name, x in bits(tuned).items() if "seft_" not in name}
    assert base
    assert all(torch.equal(x, before[name]) for name, x in base.items())


def test_the_type_is_known_once():
    register()
    register()
    assert peft.PeftType("SEFT") is peft.PeftType.SEFT
    assert [kind.value for kind in peft.PeftType].count("SEFT") == 1
    assert isinstance(peft.PeftType.SEFT, str)
    assert copy.deepcopy(peft.PeftType.SEFT) is peft.PeftType.SEFT


def test_targets_without_a_list_are_those_of_the_blocks():
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tuned = get_peft_model(BertModel(BertConfig(**sizes, intermediate_size=10)), config())
    names = {name.removeprefix("base_model.model.") for name in layers(tuned)}
    stem = "encoder.layer.0."
    assert names == {f"{stem}attention.self.{n}" for n in ("query", "key", "value")} | {
        f"{stem}{n}.dense" for n in ("attention.output", "intermediate", "output")
    }
    some = get_peft_model(pruned(num_hidden_layers=2)[0], config(layers_to_transform=[1], exclude_modules=["o_proj"]))
    assert len(layers(some)) == 6
    assert all(".layers.1." in name for name in layers(some))


def test_a_compiled_model_has_no_graph_break_and_the_same_events():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    chosen = config(preset="seft", gradient_window=2)
    plain, compiled = adapted(preset="seft", gradient_window=2), adapted(preset="seft", gradient_window=2)
    events = trained(plain, chosen.settings())
    counter = CompileCounterWithBackend("aot_eager")
    compiled.forward = torch.compile(compiled.forward, backend=counter, fullgraph=True)
    twins = trained(compiled, chosen.settings())
    # one graph in training, whatever the events move
    assert counter.frame_count == 1
    for event, twin in zip(events, twins, strict=True):
        for one, other in zip(event.values(), twin.values(), strict=True):
            assert all(torch.equal(getattr(one, w), getattr(other, w)) for w in ("dropped", "grown", "pruned"))
    for one, other in zip(layers_of(plain).values(), layers_of(compiled).values(), strict=True):
        assert torch.equal(one.support(), other.support())
