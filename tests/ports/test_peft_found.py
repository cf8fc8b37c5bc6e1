"""What a new user of seft_ports.peft ran into, each as a test."""

from dataclasses import fields

import numpy as np
import pytest

import formats

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from peft import PeftModel, get_peft_model  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from seft_ports.peft import SeftCallback, SeftConfig, SeftLayer, checkpoint_of, stored_weights  # noqa: E402
from seft_ports.pytorch import Evolution, SeftError, SeftOptimizer, Settings, layers_of  # noqa: E402
from seft_ports.pytorch.model import targets_of  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402
from tests.ports.peft_tiny import adapted, bits, config, pruned, same  # noqa: E402
from tests.ports.test_peft import IDS, trained  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")


def test_a_base_that_is_not_pruned_is_said_to_be():
    with pytest.warns(UserWarning, match="dense-base: every weight of the adapted layers is stored"):
        get_peft_model(tiny.model(), SeftConfig(density=0.2))


@pytest.mark.parametrize("kind", ["adamw", "spiel-adamw"])
def test_modules_to_save_are_trained_and_saved_and_resumed(kind, tmp_path):
    other = {"modules_to_save": ["lm_head"], "preset": "static" if kind == "adamw" else "spiel-adapt"}
    other |= {"initial_positions": "random", "gradient_window": 1} if kind != "adamw" else {}

    def run(folder, at=None):
        made = adapted(**other)
        head = made.base_model.model.lm_head.modules_to_save["default"].weight
        before = head.detach().clone()
        optimizer = SeftOptimizer(made, lr=0.01, kind=kind)
        one = tiny.trainer(
            made, tmp_path / folder, None, optimizers=(optimizer, None), save_strategy="steps", save_steps=2
        )
        one.train(resume_from_checkpoint=at)
        assert not torch.equal(made.base_model.model.lm_head.modules_to_save["default"].weight, before)
        return made

    whole = run("whole")
    assert same(bits(whole), bits(run("half", str(tmp_path / "whole" / "checkpoint-2"))))
    whole.eval().save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(pruned()[0], tmp_path / "adapter").eval()
    assert torch.equal(again(IDS).logits, whole(IDS).logits)


def test_the_step_of_other_parameters_is_adamw():
    made = adapted(preset="static", modules_to_save=["lm_head"], init_weights=False)
    head = made.base_model.model.lm_head.modules_to_save["default"].weight
    twin = torch.nn.Parameter(head.detach().clone())
    mine, theirs = SeftOptimizer(made, lr=0.01, weight_decay=0.1), torch.optim.AdamW([twin], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        mine.zero_grad()
        made(input_ids=IDS, labels=IDS).loss.backward()
        twin.grad = head.grad.clone()
        mine.step()
        theirs.step()
        assert torch.allclose(head, twin, rtol=1e-5, atol=1e-7)


def test_a_weight_that_is_made_anew_in_every_forward_is_refused():
    plain, _ = pruned()
    prune.l1_unstructured(next(iter(targets_of(plain).values())), "weight", 0.5)
    with pytest.raises(SeftError, match=r"TOP-004.*prune\.remove"):
        get_peft_model(plain, config())


@pytest.mark.parametrize("preset", ["seft", "active-only", "no-adapt"])
def test_a_random_start_without_events_is_not_static_in_silence(preset):
    made = adapted(preset=preset, initial_positions="random")
    with pytest.raises(SeftError, match="EVT-011: the rule moves positions, and nothing makes its events"):
        made(IDS)
    made.eval()(IDS)
    adapted(preset="static", initial_positions="random")(IDS)


def test_another_base_is_refused(tmp_path):
    adapted(init_weights=False).save_pretrained(tmp_path)
    for base in (tiny.model(), pruned(num_hidden_layers=2)[0]):
        with pytest.raises((SeftError, RuntimeError), match="DLT-001: the adapter was made for a base"):
            PeftModel.from_pretrained(base, tmp_path)
    # as many weights at other positions, as two pruners leave them
    other, _ = pruned()
    for linear in targets_of(other).values():
        linear.weight.data = linear.weight.data.roll(1, dims=1)
    # the base has no name here, so the advice names none
    with pytest.raises(SeftError, match=r"DLT-001: .* stores as many weights .*; load the base that it was made for$"):
        PeftModel.from_pretrained(other, tmp_path)
    # a configuration that no file has goes to any model
    chosen = config()
    for base in (pruned()[0], tiny.model()):
        get_peft_model(base, chosen)


def test_a_weighted_sum_of_adapters_is_refused():
    made = adapted()
    made.add_adapter("other", config())
    with pytest.raises(NotImplementedError, match=r"no weighted sums of adapters; merge one after the other"):
        made.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")


def test_a_cast_of_the_model_leaves_the_values_as_they_are():
    made = adapted(init_weights=False)
    before = {name: update.values.detach().clone() for name, update in layers_of(made).items()}
    made.to(torch.bfloat16)
    assert all(torch.equal(update.values, before[name]) for name, update in layers_of(made).items())
    assert {p.dtype for p in made.get_base_model().lm_head.parameters()} == {torch.bfloat16}
    made.eval()(IDS)


def test_the_settings_of_another_adapter_are_refused():
    made = adapted()
    made.add_adapter("other", config(preset="seft"))
    with pytest.raises(SeftError, match="for grow_scope active, the settings have any"):
        Evolution(made, SeftOptimizer(made), made.peft_config["other"].settings(), 9)


def test_the_stored_weights_of_a_base_without_an_adapter_are_those_that_are_not_0():
    base, masks = pruned()
    n_stored = sum(int(mask.sum()) for mask in masks.values())
    found = stored_weights(base)
    assert (found.stored, str(found).split()[0]) == (n_stored, f"{n_stored:,}")
    with pytest.raises(ValueError, match="no projections of floats"):
        stored_weights(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("preset", ["seft", "active-only", "static", "no-adapt"])
def test_an_adapter_is_trained_on(preset, tmp_path):
    made = adapted(preset=preset)
    trained(made, config(preset=preset).settings())
    made.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(pruned()[0], tmp_path, is_trainable=True)
    before = stored_weights(again)
    run = tiny.trainer(again, tmp_path / "run", None)
    run.train()
    tiny.trainer(again, tmp_path / "more", None).train()
    assert stored_weights(again).stored <= before.stored


def test_what_is_no_seft_optimizer_is_named():
    made = adapted()
    plain = torch.optim.AdamW([update.values for update in layers_of(made).values()])
    with pytest.raises(SeftError, match="OPT-001: events move what SeftOptimizer keeps of slots; this is AdamW"):
        Evolution(made, plain, config().settings(), 9)
    with pytest.raises(SeftError, match="OPT-001: SeftOptimizer takes a model, not parameters"):
        SeftOptimizer(list(made.parameters()))
    with pytest.raises(SeftError, match=r"MDL-007.*is_trainable=True"):
        SeftOptimizer(pruned()[0])


def test_a_run_without_an_event_warns():
    made = adapted()
    with pytest.warns(UserWarning, match="no-events: a run of 3 steps with evolve_every 3, evolve_until 1.0"):
        Evolution(made, SeftOptimizer(made), config().settings(), 3)


def test_ckp_006_what_differs_is_named(tmp_path):
    run = tiny.trainer(adapted(), tmp_path, None, save_strategy="steps", save_steps=4)
    run.train()
    with pytest.raises(SeftError, match=r"CKP-006: the checkpoint is of a run with density 0\.2 and not 0\.3$"):
        tiny.trainer(adapted(density=0.3), tmp_path / "other", None).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-4")
        )


def test_an_unknown_choice_lists_the_known_ones():
    with pytest.raises(SeftError, match="there are seft, sens"):
        SeftConfig(preset="foo")
    with pytest.raises(SeftError, match="it is one of gradient, random"):
        SeftConfig(initial_positions="foo")
    assert SeftCallback().events == []


def test_every_setting_of_the_port_is_a_field_of_the_configuration():
    names = {field.name for field in fields(Settings)}
    assert names - {field.name for field in fields(SeftConfig)} == {"keep_dtype"}


def test_a_merged_model_is_written_once():
    """Merge, publish, unmerge: the usual order of reinforcement learning."""
    made = adapted(init_weights=False, preset="active-only")
    name = next(name for name in checkpoint_of(made).tensors if name.endswith("q_proj.weight"))
    base = made.get_base_model().get_submodule(name.removesuffix(".weight")).get_base_weight().detach().clone()
    right = formats.to_dense(checkpoint_of(made).tensors[name])
    assert (right != base.numpy()).any()
    made.merge_adapter()
    assert np.array_equal(formats.to_dense(checkpoint_of(made).tensors[name]), right)
    made.unmerge_adapter()
    with made.disable_adapter():
        assert np.array_equal(formats.to_dense(checkpoint_of(made).tensors[name]), base.numpy())
    assert np.array_equal(formats.to_dense(checkpoint_of(made).tensors[name]), right)


def test_a_merge_is_undone_after_a_cast():
    made = adapted(init_weights=False, preset="active-only")
    layer = next(module for module in made.modules() if isinstance(module, SeftLayer))
    base = layer.get_base_weight().detach().clone()
    made.merge_adapter()
    made.to(torch.bfloat16)
    made.unmerge_adapter()
    assert torch.equal(layer.get_base_weight(), base.to(torch.bfloat16))
    assert not layer.merged
