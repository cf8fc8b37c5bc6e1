"""seft_ports.peft in the Trainer of transformers and in that of TRL."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from seft_ports.peft import SeftCallback, stored_weights  # noqa: E402
from seft_ports.pytorch import SeftError, SeftOptimizer, Settings  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402
from tests.ports.peft_tiny import adapted, bits, config, layers, pruned, same  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("window", [1, 2])
def test_a_trainer_resumes_to_the_same_bits(window, tmp_path):
    other = {"preset": "seft", "gradient_window": window}
    whole = adapted(**other)
    run = tiny.trainer(whole, tmp_path, None, save_strategy="steps", save_steps=4)
    run.train()
    assert [event["step"] for event in tiny.events(run)] == [3, 6]
    half = adapted(**other)
    tiny.trainer(half, tmp_path / "half", None).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(bits(whole), bits(half))


def test_gradient_checkpointing_changes_nothing(tmp_path):
    one, other = (tiny.trainer(adapted(preset="seft"), tmp_path, None, max_steps=4) for _ in range(2))
    one.train()
    other.model.gradient_checkpointing_enable()
    assert other.model.is_gradient_checkpointing
    other.train()
    assert same(bits(one.model), bits(other.model))


@pytest.mark.parametrize("of_base", [torch.float32, torch.bfloat16])
def test_evt_003_autocast_keeps_the_budget_and_the_base(of_base, tmp_path):
    made = adapted(of_base, preset="seft")
    before = {name: layer.get_base_weight().clone() for name, layer in layers(made).items()}
    run = tiny.trainer(made, tmp_path, None, bf16=True)
    run.train()
    assert [event["step"] for event in tiny.events(run)] == [3, 6]
    assert all(event["grown"] > 0 and event["pruned"] > 0 for event in tiny.events(run))
    for name, layer in layers(made).items():
        assert torch.equal(layer.get_base_weight(), before[name])
        assert layer.get_base_weight().dtype == of_base
        (update,) = layer._active(layer.active_adapters)
        assert update.values.dtype == torch.float32
        assert int(layer.support().sum()) <= int(layer.stored().sum())


def test_trn_004_an_open_window_is_not_in_an_adapter(tmp_path):
    other = {"preset": "seft", "gradient_window": 3}
    run = tiny.trainer(adapted(**other), tmp_path, None, save_strategy="steps", save_steps=5)
    run.train()
    with pytest.raises(SeftError, match="TRN-004: step 6 lies in an open window"):
        tiny.trainer(adapted(**other), tmp_path / "half", None).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-5")
        )


def test_a_trainer_takes_the_settings_from_the_adapter(tmp_path):
    with pytest.raises(SeftError, match="MDL-007"):
        tiny.trainer(
            pruned()[0], tmp_path, None, optimizers=(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), None)
        )
    chosen = config(preset="seft")
    by_model, by_hand = adapted(preset="seft"), adapted(preset="seft")
    tiny.trainer(by_model, tmp_path, None).train()
    tiny.trainer(by_hand, tmp_path, chosen.settings()).train()
    assert same(bits(by_model), bits(by_hand))
    assert replace(chosen.settings(), keep_dtype=False) == Settings(
        density=0.2, evolve_every=3, drop_fraction=0.9, preset="seft"
    )
    assert SeftCallback().state()["attributes"] == {"settings": None, "event_batches": 1, "start_batches": 1}


def test_fsdp_is_refused_before_anything_is_split(monkeypatch):
    from accelerate.state import AcceleratorState

    plugin = SimpleNamespace(fsdp_version=2)
    monkeypatch.setitem(AcceleratorState._shared_state, "fsdp_plugin", plugin)
    with pytest.raises(NotImplementedError, match="FSDP cannot split an adapter of PEFT"):
        SeftCallback().on_init_end(None, None, None, model=adapted())


def test_trl_trains_an_adapter(tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    import tokenizers
    import transformers

    tuned = adapted(preset="seft")
    ids = [row["input_ids"].tolist() for row in tiny.texts(28)]
    data = datasets.Dataset.from_dict({"input_ids": ids, "completion_mask": [[0, 0, 1, 1, 1, 1]] * 28})
    arguments = trl.SFTConfig(
        str(tmp_path),
        max_steps=7,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        bf16=False,
    )
    callback = SeftCallback()

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(i): i for i in range(tiny.VOCABULARY)}, "0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="0")
    run = trl.SFTTrainer(
        tuned,
        arguments,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[callback],
        optimizers=(SeftOptimizer(tuned, lr=0.01), None),
    )
    run.train()
    assert [event["step"] for event in callback.events] == [3, 6]
    stored = stored_weights(tuned).stored
    assert stored == sum(int(layer.stored().sum()) for layer in layers(tuned).values())
