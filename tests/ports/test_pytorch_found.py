"""What a second reader found in seft_ports.pytorch and seft_ports.peft: each mistake once more."""

import dataclasses
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from peft import get_peft_model  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import formats  # noqa: E402
from seft_ports.pytorch import (  # noqa: E402
    Evolution,
    SeftError,
    SeftLinear,
    SeftOptimizer,
    Settings,
    layers_of,
    load_sparse,
    mask_zeros,
    patterns,
    save_sparse,
    stream,
    wrap,
)
from seft_ports.pytorch import callback as callback_file  # noqa: E402
from seft_ports.pytorch import optimizer as optimizer_file  # noqa: E402
from seft_ports.pytorch.model import targets_of  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402
from tests.ports.peft_tiny import adapted, config  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

IDS = torch.arange(1, 13).reshape(2, 6)
BIG = {"density": 0.2, "evolve_every": 3, "drop_fraction": 0.5, "drop_schedule": "constant"}


def ridden(made, settings, steps=7, lr=0.01, until=None):
    """A run of `steps` steps whose events ride on the optimizer, stopped after `until` of them."""
    optimizer = SeftOptimizer(made, lr=lr)
    evolution = Evolution(made, optimizer, settings, steps)
    evolution.attach()
    for _ in range(until or steps):
        optimizer.zero_grad()
        made(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return evolution


@pytest.mark.parametrize("preset", ["literal", "no-adapt"])
def test_EVT_004_a_last_pass_without_losses_is_refused(preset):
    made = adapted(**BIG, preset=preset)
    evolution = ridden(made, config(**BIG, preset=preset).settings())
    assert evolution._settings.ends_by_pruning
    with pytest.raises(SeftError, match="EVT-004: weights go by the gradient"):
        evolution.finish(list)
    evolution.finish(lambda: [made(input_ids=IDS, labels=IDS).loss])
    assert all(int(layer.support().sum()) <= layer.budget for layer in layers_of(made).values())


def test_EVT_004_a_trainer_whose_loss_is_not_the_models_is_told_at_the_first_step(tmp_path):
    settings = Settings(**BIG, preset="no-adapt", initial_positions="random")
    made = tiny.wrapped(settings)
    run = tiny.trainer(made, tmp_path, settings)
    run.compute_loss = lambda model, inputs, **other: (
        made.lm_head(made.model(input_ids=inputs["input_ids"]).last_hidden_state).square().mean()
    )
    with pytest.raises(SeftError, match=r"EVT-004.*does not come from a call of the model"):
        run.train()
    with pytest.raises(NotImplementedError, match="label_smoothing_factor"):
        tiny.trainer(tiny.wrapped(settings), tmp_path, settings, label_smoothing_factor=0.1).train()
    with pytest.raises(SeftError, match=r"EVT-004.*gives none"):
        next(callback_file._losses(lambda **batch: SimpleNamespace(loss=None), [{}], callback_file.REPLAYED))


def test_EVT_009_a_matrix_of_an_adapter_may_lose_all_its_slots_to_others():
    given = {"density": 0.1, "evolve_every": 2, "drop_fraction": 1.0, "drop_schedule": "constant", "scope": "model"}
    made = adapted(**given, preset="seft")
    ridden(made, config(**given, preset="seft").settings(), 9, 0.3)
    assert min(layer.slots for layer in layers_of(made).values()) == 0


def test_EVT_009_a_grown_model_loads_an_earlier_checkpoint(tmp_path):
    settings = Settings(preset="seft", scope="model", density=0.2, evolve_every=2, drop_fraction=0.9)
    made = tiny.wrapped(settings)
    optimizer = SeftOptimizer(made, lr=0.3)
    run = tiny.trainer(made, tmp_path, settings, None, (optimizer, None), save_strategy="steps", save_steps=1)
    run.train()
    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    grown = [name for name, layer in layers_of(made).items() if len(layer.values) > len(saved[f"{name}.values"])]
    assert grown
    made.load_state_dict(saved, strict=False)
    for name, layer in layers_of(made).items():
        assert torch.equal(layer.values, saved[f"{name}.values"])
        assert len(layer.positions) == len(layer.held) == len(layer.values)


def test_TOP_005_what_torch_cannot_multiply_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(patterns, "_on_gpu", lambda weight: True)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: weight.clone())
    made = torch.nn.ModuleDict({name: torch.nn.Linear(w, h) for name, (w, h) in {"a": (64, 32), "b": (20, 64)}.items()})
    for linear in made.values():
        linear.weight.data *= patterns.keep_pattern(linear.weight.detach().abs(), (2, 4))
    with pytest.raises(ValueError, match="in 16 bits"):
        patterns.to_semi_structured(made)
    made.bfloat16()
    assert patterns.to_semi_structured(made) == ["a"]
    with pytest.raises(SeftError, match="TOP-005: b is"):
        patterns.to_semi_structured(made, ["a", "b"])


def test_EVT_010_nothing_is_stepped_where_an_event_replaces_the_step():
    given = {"preset": "rigl", "optimizer": "adamw", "modules_to_save": ["lm_head"], "evolve_every": 3}
    made = adapted(**given)
    settings = config(**given).settings()
    optimizer = SeftOptimizer(made, lr=0.01)
    evolution = Evolution(made, optimizer, settings, 9)
    evolution.attach()
    head = optimizer.param_groups[1]["params"][0]
    for step in range(1, 5):
        before = head.detach().clone()
        optimizer.zero_grad()
        made(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        assert torch.equal(head, before) == (step == 3)


def test_a_parameter_that_is_trained_whole_makes_no_places_and_an_age_beside_it(monkeypatch):
    made = adapted(preset="static", initial_positions="random", modules_to_save=["lm_head"])
    optimizer = SeftOptimizer(made, lr=0.01)
    sizes = []
    monkeypatch.setattr(
        optimizer_file.Place, "of", classmethod(lambda cls, at, width: sizes.append(len(at)) or cls(at, at))
    )
    made(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert sizes[-1] == 0
    # another device, of which every machine has one
    elsewhere = torch.zeros(3, 4, device="meta")
    assert optimizer._state(elsewhere, (3, 4), one_age=True)["age"].device == elsewhere.device


def test_EVT_004_merge_adapter_refuses_an_unfinished_run_of_scope_model():
    given = BIG | {"preset": "no-adapt", "scope": "model", "drop_fraction": 0.9}
    made = adapted(**given)
    ridden(made, config(**given).settings(), 7, until=4)
    with pytest.raises(SeftError, match="EVT-004: the model stores"):
        made.merge_adapter()


def test_EVT_011_whether_there_are_events_is_asked_of_the_rule_and_not_of_its_name():
    adapted(preset="seft", evolves=False, initial_positions="random")(IDS)
    with pytest.raises(SeftError, match="EVT-011: the rule moves positions"):
        adapted(preset="static", evolves=True, initial_positions="random")(IDS)


@pytest.mark.parametrize("change", [{"scope": "row"}, {"drop": "change"}])
def test_EVT_009_layers_without_settings_are_refused_where_the_rule_needs_them(change):
    mask = torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    model = torch.nn.ModuleDict({"one": SeftLinear(torch.ones(6, 8), mask, 9)})
    with pytest.raises(SeftError, match="EVT-009: the layers were made without settings"):
        Evolution(model, SeftOptimizer(model), Settings(preset="seft", **change), 9)


def test_EVT_009_an_adapter_of_scope_row_that_cannot_go_on_is_refused_at_once(tmp_path):
    from peft import PeftModel

    made = adapted(preset="seft", scope="row")
    ridden(made, config(preset="seft", scope="row").settings(), until=4)
    made.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(adapted().unload(), tmp_path, is_trainable=True)
    with pytest.raises(NotImplementedError, match="in one run"):
        Evolution(again, SeftOptimizer(again), again.peft_config["default"].settings(), 9)


def test_TRN_004_windows_of_phases_are_a_step_longer():
    assert callback_file._longest_window(Settings(preset="seft", events="phases", gradient_window=1)) == 2
    assert callback_file._longest_window(Settings(preset="seft")) == 1


def test_TRN_007_an_infinite_gradient_of_the_first_step_is_told_as_one():
    layer = SeftLinear(torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool), 2)
    watching = stream.Stream(layer, 2, active=True, first=True)
    watching.see(torch.tensor([[torch.inf, 1.0, 1.0]]), torch.ones(1, 4))
    with pytest.raises(SeftError, match="TRN-007"):
        watching.place()


def test_choices_stay_where_only_the_name_of_the_preset_is_replaced():
    other = dataclasses.replace(Settings(preset="seft"), preset="rigl")
    assert (other.drop, other.optimizer) == ("magnitude", "adamw")


@pytest.mark.parametrize("way", ["load_sparse", "from_pretrained"])
def test_EVT_007_a_model_that_is_pruned_to_a_pattern_says_so(way, tmp_path):
    import transformers

    plain = tiny.model()
    for linear in targets_of(plain).values():
        linear.weight.data *= patterns.keep_pattern(linear.weight.detach().abs(), (1, 2))
        linear.register_buffer("seft_mask", linear.weight != 0, persistent=False)
    record = b'{"method": "magnitude", "sparsity": null, "pattern": "1:2", "removed": 1, "of": 2}'
    if way == "load_sparse":
        setattr(plain, patterns.RECORD, record)
        save_sparse(plain, tmp_path / "base")
        assert (tmp_path / "base" / "pruning.json").read_bytes() == record
        base = load_sparse(tiny.model(), tmp_path / "base")
    else:
        plain.save_pretrained(tmp_path / "base")
        (tmp_path / "base" / "pruning.json").write_bytes(record)
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    says = r"EVT-007: the model is pruned 1:2, and growth anywhere breaks that: give pattern=\(1, 2\)"
    with pytest.raises(SeftError, match=says):
        get_peft_model(base, config(preset="seft"))
    masks = mask_zeros(base)
    with pytest.raises(SeftError, match=says):
        wrap(base, Settings(preset="seft"), masks)
    wrapped = wrap(base, Settings(preset="seft", pattern=(1, 2), initial_positions="magnitude"), masks)
    save_sparse(wrapped, tmp_path / "tuned")
    assert (tmp_path / "tuned" / "pruning.json").read_bytes() == record


@pytest.mark.parametrize("way", ["load_sparse", "from_pretrained", "peft"])
def test_CKP_005_2_tokenizer_and_generation_config_travel_along(way, tmp_path):
    import transformers

    beside = {"tokenizer.json": b"{}", "tokenizer_config.json": b'{"a": 1}', "chat_template.jinja": b"x"}
    tiny.model().save_pretrained(tmp_path / "hf")
    for name, data in {**beside, "trainer_state.json": b"{}"}.items():
        (tmp_path / "hf" / name).write_bytes(data)
    if way == "load_sparse":
        formats.convert(tmp_path / "hf", tmp_path / "base", "sparse")
        model = load_sparse(tiny.model(), tmp_path / "base")
        beside["trainer_state.json"] = b"{}"
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    model = get_peft_model(model, config(preset="static")) if way == "peft" else model
    save_sparse(model, tmp_path / "tuned")
    files = formats.read(tmp_path / "tuned").files
    assert {
        name: bytes(files[name]) for name in files if name not in ("config.json", "generation_config.json")
    } == beside
    assert "generation_config.json" in files


def test_CKP_005_a_head_that_is_tied_is_written_as_a_stock_file_has_it(tmp_path):
    import transformers

    tiny.model(tie_word_embeddings=True).save_pretrained(tmp_path / "hf")
    formats.convert(tmp_path / "hf", tmp_path / "converted", "sparse")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    wrapped = wrap(
        model, Settings(preset="static"), {n: torch.ones_like(w.weight) != 0 for n, w in targets_of(model).items()}
    )
    save_sparse(wrapped, tmp_path / "tuned")
    assert {*formats.read(tmp_path / "tuned").tensors} == {*formats.read(tmp_path / "converted").tensors}
    assert formats.read(tmp_path / "tuned").tied == {}
    again = load_sparse(tiny.model(tie_word_embeddings=True), tmp_path / "tuned")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("text", [b"[]", b'{"pattern": 4}', b'{"pattern": "2-4"}', b"{"])
def test_PRN_008_a_damaged_record_is_refused(text):
    with pytest.raises(SeftError, match="PRN-008"):
        patterns.parse_record(text)


def test_first_slots_are_chosen_when_the_optimizer_steps_whoever_calls_it(tmp_path):
    # DeepSpeed steps inside the backward, before the Trainer says that it is about to
    settings = Settings(preset="seft", density=0.2, evolve_every=3)
    made = tiny.wrapped(settings)
    run = tiny.trainer(made, tmp_path, settings, max_steps=1)
    run.callback_handler.on_pre_optimizer_step = lambda args, state, control: control
    run.train()
    assert all(bool(layer.values.any()) for layer in layers_of(made).values())
