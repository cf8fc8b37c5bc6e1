"""Runs that are cast, frozen, scaled, broken off or put together in ways that the port must take right or refuse."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from seft_ports.pytorch import (  # noqa: E402
    Evolution,
    SeftCallback,
    SeftError,
    SeftOptimizer,
    Settings,
    kernels,
    layers_of,
    load_sparse,
    save_sparse,
    wrap,
)
from seft_ports.pytorch.model import targets_of  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402
from tests.ports.peft_tiny import adapted, layers  # noqa: E402
from tests.ports.test_pytorch_found import BIG, IDS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
WINDOW = {"density": 0.2, "evolve_every": 2, "gradient_window": 2, "drop_fraction": 0.9, "initial_positions": "random"}


def step(made, optimizer, scale=1.0):
    optimizer.zero_grad()
    (made(input_ids=IDS, labels=IDS).loss * scale).backward()
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_DLT_003_a_cast_of_the_model_leaves_the_dtype_of_evidence(dtype):
    settings = Settings(**WINDOW, preset="seft", keep_dtype=True)
    made = tiny.wrapped(settings).to(dtype)
    layer = next(iter(layers_of(made).values()))
    layer.watch(settings.asks())
    assert {total.dtype for total in layer.sums()} == {torch.float32}
    tokens = layer.sum_tokens = layer.sum_tokens + 1e-30
    made.to(torch.float32).to(dtype)
    assert torch.equal(layer.sum_tokens, tokens)
    assert layer.sum_tokens.dtype == layer.values.dtype == torch.float32


@pytest.mark.parametrize("preset", ["seft", "sensitivity"])
def test_EVT_002_an_event_of_a_window_without_a_backward_is_refused(preset):
    settings = Settings(**WINDOW, preset=preset)
    made = tiny.wrapped(settings)
    evolution = Evolution(made, SeftOptimizer(made, lr=0.01), settings, 5)
    evolution.before_step(1)
    evolution.after_step(1)
    evolution.before_step(2)
    with pytest.raises(SeftError, match="EVT-002"):
        evolution.after_step(2)


def test_MDL_007_a_frozen_update_is_refused_before_the_first_step():
    settings = Settings(**WINDOW, preset="seft")
    made = tiny.wrapped(settings)
    name, layer = list(layers_of(made).items())[-1]
    layer.values.requires_grad_(requires_grad=False)
    with pytest.raises(SeftError, match=f"MDL-007: {name} is frozen"):
        Evolution(made, SeftOptimizer(made, lr=0.01), settings, 5)


def test_several_gpus_of_one_process_are_refused(tmp_path, monkeypatch):
    settings = Settings(**WINDOW, preset="seft")
    made = tiny.wrapped(settings)
    with pytest.raises(NotImplementedError, match="torchrun"):
        Evolution(torch.nn.DataParallel(made), SeftOptimizer(made, lr=0.01), settings, 5)
    run = tiny.trainer(made, tmp_path, settings)
    monkeypatch.setattr(type(run.args), "n_gpu", 2)
    with pytest.raises(NotImplementedError, match="torchrun"):
        SeftCallback(settings).on_train_begin(run.args, run.state, run.control, model=made, optimizer=None)


def test_an_adapter_is_not_loaded_into_a_model_that_it_is_merged_into(tmp_path):
    made = adapted(**BIG, preset="static", init_weights=False)
    made.save_pretrained(tmp_path)
    base = {name: layer.get_base_weight().clone() for name, layer in layers(made).items()}
    made.merge_adapter()
    with pytest.raises(RuntimeError, match="unmerge_adapter"):
        made.load_adapter(tmp_path, "default")
    made.unmerge_adapter()
    assert all(torch.equal(layer.get_base_weight(), base[name]) for name, layer in layers(made).items())
    made.merge_adapter()
    made.load_adapter(tmp_path, "other")
    assert not any(layer.merged for layer in layers(made).values())
    assert all(torch.equal(layer.get_base_weight(), base[name]) for name, layer in layers(made).items())
    one, other = ({n: layer.seft_delta[a].budget for n, layer in layers(made).items()} for a in ("default", "other"))
    assert one == other


@pytest.mark.parametrize("is_disabled", [False, True])
def test_a_model_with_modules_to_save_is_saved_as_a_whole_model(tmp_path, is_disabled):
    made = adapted(**BIG, preset="static", init_weights=False, modules_to_save=["lm_head"]).eval()
    copy = made.base_model.model.lm_head
    with torch.no_grad():
        copy.modules_to_save["default"].weight.mul_(2)
    if is_disabled:
        with made.disable_adapter():
            want = made(IDS).logits
            save_sparse(made, tmp_path / "saved")
    else:
        want = made(IDS).logits
        save_sparse(made, tmp_path / "saved")
    fresh = load_sparse(tiny.model().eval(), tmp_path / "saved")
    assert torch.allclose(fresh(input_ids=IDS).logits, want, atol=1e-5)
    assert made.base_model.model.lm_head is copy


def test_a_grad_scaler_is_refused_at_the_first_step():
    settings = Settings(**BIG, preset="static")
    made = tiny.wrapped(settings)
    optimizer = SeftOptimizer(made, lr=0.01)
    Evolution(made, optimizer, settings, 5).attach()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(made(input_ids=IDS, labels=IDS).loss).backward()
    with pytest.raises(NotImplementedError, match="GradScaler"):
        scaler.step(optimizer)


def test_a_closure_is_refused_where_events_ride_on_the_optimizer():
    settings = Settings(**BIG, preset="rigl", initial_positions="random")
    made = tiny.wrapped(settings)
    optimizer = SeftOptimizer(made, lr=0.01)
    Evolution(made, optimizer, settings, 5).attach()
    made(input_ids=IDS, labels=IDS).loss.backward()
    with pytest.raises(NotImplementedError, match="closure"):
        optimizer.step(lambda: made(input_ids=IDS, labels=IDS).loss)
    optimizer.step(None)


def test_EVT_001_a_second_attach_to_an_optimizer_is_refused():
    settings = Settings(**BIG, preset="rigl", initial_positions="random")
    made = tiny.wrapped(settings)
    optimizer = SeftOptimizer(made, lr=0.01)
    evolution = Evolution(made, optimizer, settings, 5)
    evolution.attach()
    for again in (evolution, Evolution(made, optimizer, settings, 5)):
        with pytest.raises(SeftError, match="EVT-001"):
            again.attach()
    step(made, optimizer)
    assert evolution._next == 2


def test_evidence_of_a_run_that_was_broken_off_is_not_that_of_the_next():
    settings = Settings(**WINDOW, preset="sensitivity")
    answers = []
    for is_after_another in (False, True):
        made = tiny.wrapped(settings)
        if is_after_another:
            optimizer = SeftOptimizer(made, lr=0.0)
            Evolution(made, optimizer, settings, 5).attach()
            step(made, optimizer, scale=1000.0)
        evolution = Evolution(made, SeftOptimizer(made, lr=0.0), settings, 5)
        for t in (1, 2):
            evolution.before_step(t)
            made(input_ids=IDS, labels=IDS).loss.backward()
            decisions = evolution.after_step(t)
        answers.append([decision.grown for decision in decisions.values()])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


class Interrupts(tiny.TrainerCallback):
    """Breaks a run off after a step, once."""

    def __init__(self, at):
        self.at = at

    def on_step_end(self, args, state, control, **given):
        if state.global_step == self.at:
            self.at = 0
            raise KeyboardInterrupt


def test_a_trainer_that_was_interrupted_trains_again_from_the_start(tmp_path):
    settings = Settings(**BIG, preset="no-adapt", initial_positions="random")
    made = tiny.wrapped(settings)
    seft = SeftCallback(settings)
    run = tiny.trainer(made, tmp_path, settings, seft=seft)
    run.add_callback(Interrupts(2))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.train()
    assert not made._forward_pre_hooks
    assert not any(layer.watched for layer in layers_of(made).values())


def test_a_run_that_stops_early_says_that_it_must_still_be_pruned(tmp_path):
    class Stops(tiny.TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            control.should_training_stop = state.global_step == 2

    settings = Settings(**BIG, preset="no-adapt", initial_positions="random")
    run = tiny.trainer(tiny.wrapped(settings), tmp_path, settings)
    run.add_callback(Stops())
    with pytest.warns(UserWarning, match="not-pruned: the run ended at step 2"):
        run.train()


def test_EVT_004_a_loss_without_labels_is_told_at_the_first_step(tmp_path):
    settings = Settings(**BIG, preset="no-adapt", initial_positions="random")
    run = tiny.trainer(tiny.wrapped(settings), tmp_path, settings)

    def own(model, inputs, **other):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    run.compute_loss = own
    with pytest.raises(SeftError, match="EVT-004"):
        run.train()
    assert run.state.global_step == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"restore_callback_states_from_checkpoint": True}, "no restoring"),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant"),
    ],
)
def test_arguments_of_the_trainer_that_lose_a_run_are_refused(tmp_path, arguments, told):
    settings = Settings(**BIG, preset="no-adapt", initial_positions="random")
    with pytest.raises(NotImplementedError, match=told):
        tiny.trainer(tiny.wrapped(settings), tmp_path, settings, **arguments).train()


def test_a_state_dict_has_the_weights_after_the_step():
    settings = Settings(**BIG, preset="static", initial_positions="random")
    made = tiny.wrapped(settings)
    optimizer = SeftOptimizer(made, lr=0.1)
    Evolution(made, optimizer, settings, 5).attach()
    step(made, optimizer)
    saved = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    for name, layer in layers_of(made).items():
        assert torch.equal(saved[f"{name}.weight"], layer.effective())


def test_TOP_005_a_pattern_that_does_not_fit_leaves_the_model_as_it_was():
    made = tiny.model()
    masks = {name: mask.clone() for name, mask in tiny.masks(made).items()}
    last = list(targets_of(made))[-1]
    for name, mask in masks.items():
        keep = torch.tensor([1, 1, 0, 0]).repeat(mask.shape[0], mask.shape[1] // 4).bool()
        masks[name] = torch.ones_like(mask) if name == last else keep
    kinds = [type(module) for module in made.modules()]
    with pytest.raises(SeftError, match="TOP-005"):
        wrap(made, Settings(density=0.1, pattern=(2, 4), initial_positions="random"), masks)
    assert [type(module) for module in made.modules()] == kinds


def test_rows_with_different_adapters_are_refused():
    made = adapted(**BIG, preset="static", init_weights=False)
    with pytest.raises(NotImplementedError, match="adapter_names"):
        made(input_ids=IDS, adapter_names=["__base__", "default"])


def test_evidence_is_not_rounded_by_an_autocast_around_backward():
    dy, x = torch.randn(7, 5), torch.randn(7, 6)
    at = torch.tensor([0, 3, 17, 29])
    want, some = kernels.whole(dy, x), kernels.sample(dy, x, at)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kernels.whole(dy, x), want)
        assert torch.equal(kernels.sample(dy, x, at), some)
