"""seft_ports.pytorch inside transformers.Trainer: against the kit's runs, resumed, in files."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

import formats  # noqa: E402
from conformance.cases.case import load_all  # noqa: E402
from seft_ports.pytorch import (  # noqa: E402
    SeftCallback,
    SeftError,
    SeftOptimizer,
    Settings,
    layers_of,
    load_sparse,
    merge,
    save_sparse,
    wrap,
)
from seft_ports.pytorch.callback import _losses  # noqa: E402
from seft_ports.pytorch.model import targets_of  # noqa: E402
from seft_ports.pytorch.run import model_of, settings_of, training_starts  # noqa: E402
from seft_ports.pytorch.schedule import learning_rate  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402

PROJECTIONS = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
RUNS = {case.id: case for case in load_all() if case.id.startswith(("train.", "looks.")) and not case.refused}

pytestmark = pytest.mark.filterwarnings("default")


def same_bits(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


OF_THE_KIT = [
    *("train.seft", "train.window", "train.start-gradient", "train.no-adapt", "train.active-only"),
    *("looks.event", "looks.event-and-window", "looks.event-tokens", "looks.last-pass", "looks.start"),
]


@pytest.mark.parametrize("case", OF_THE_KIT)
def test_a_trainer_gives_the_supports_and_weights_of_the_kit(case, tmp_path):
    given, want = RUNS[case].inputs, RUNS[case].expected
    s, text = given["settings"], torch.from_numpy(given["text"])
    settings = settings_of(s, len(text))
    plain = model_of(given["config"], {n: torch.from_numpy(x).float() for n, x in given["tensors"].items()})
    masks = {n: torch.zeros(w.weight.shape, dtype=torch.bool) for n, w in targets_of(plain).items()}
    for name, mask in masks.items():
        mask.view(-1)[torch.from_numpy(given["stored"][f"{name}.weight"])] = True
    made = wrap(plain, settings, masks)

    def rows_of(step):
        starts = training_starts(len(text), s["length"], s["seed"], step, s["rows"])
        return torch.stack([text[at : at + s["length"]] for at in starts])

    def batches_of(step):
        return [{"input_ids": rows, "labels": rows} for rows in rows_of(step).tensor_split(s["micro_batches"])]

    data = [{"input_ids": row, "labels": row} for t in range(s["steps"]) for row in rows_of(t + 1)]
    looks = {name: s[name] for name in ("event_batches", "start_batches") if s.get(name, 1) > 1}
    looks |= {"batches_of": batches_of} if looks else {}
    # as from_pretrained leaves a model
    made.eval()
    optimizer = SeftOptimizer(made, lr=s["lr"], weight_decay=s["weight_decay"])
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: learning_rate(s["schedule"], 1.0, min(t + 1, s["steps"]), s["steps"], s["warmup"])
    )
    run = tiny.trainer(
        made,
        tmp_path,
        settings,
        data,
        (optimizer, rate),
        max_steps=s["steps"],
        per_device_train_batch_size=s["rows"] // s["micro_batches"],
        gradient_accumulation_steps=s["micro_batches"],
        max_grad_norm=s["max_norm"],
        learning_rate=s["lr"],
        seft=SeftCallback(settings, **looks),
    )
    run.train()
    seen, at = tiny.watched(run), range(s["evolve_every"] - 1, s["steps"] - 1, s["evolve_every"])
    assert [[x.tolist() for x in seen.slots[t]] for t in at] == [[x.tolist() for x in e] for e in want["slots"]]
    assert [[x.tolist() for x in seen.bases[t]] for t in at] == [[x.tolist() for x in e] for e in want["bases"]]
    supports = merge(made)
    for (name, support), stored, values in zip(supports.items(), want["support"], want["weights"], strict=True):
        assert torch.nonzero(support.view(-1)).flatten().tolist() == stored.tolist()
        got = made.get_submodule(name).weight.detach()[support].numpy()
        assert np.abs(got - values).max() <= 1e-4 * np.abs(values).max()


@pytest.mark.parametrize("bf16", [False, True])
def test_evt_003_no_step_stores_more_than_was_loaded_and_the_rest_of_the_model_stays(bf16, tmp_path):
    made = tiny.wrapped()
    before = {name: x.clone() for name, x in made.state_dict().items()}
    loaded = [int(mask.sum()) for mask in tiny.masks(tiny.model()).values()]
    run = tiny.trainer(made, tmp_path, bf16=bf16)
    run.train()
    supports = tiny.watched(run).supports
    assert len(supports) == tiny.STEPS
    assert all(stored <= k for row in supports for stored, k in zip(row, loaded, strict=True))
    assert [e["step"] for e in tiny.events(run)] == [3, 6]
    assert all(e["grown"] > 0 and e["pruned"] > 0 for e in tiny.events(run))
    sparse = tuple(f"{name}." for name in layers_of(made))
    untouched = {name: x for name, x in made.state_dict().items() if not name.startswith(sparse)}
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(untouched)
    assert same_bits({name: before[name] for name in untouched}, untouched) == []
    trained = [name for name, x in made.named_parameters() if x.requires_grad]
    assert trained == [f"{name}.values" for name in layers_of(made)]


def test_gradient_checkpointing_changes_nothing(tmp_path):
    one, other = (tiny.trainer(tiny.wrapped(), tmp_path, max_steps=4) for _ in range(2))
    one.train()
    other.model.gradient_checkpointing_enable()
    assert other.model.is_gradient_checkpointing
    other.train()
    assert same_bits(one.model.state_dict(), other.model.state_dict()) == []


@pytest.mark.parametrize("case", ["mistral-1", "qwen2-3", "qwen3-3"])
def test_mdl_007_other_families_are_wrapped_and_merged(case):
    config = next(c for c in load_all() if c.id == f"model.{case}").inputs["config"]
    made = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), attn_implementation="eager", dtype=torch.float32
    )
    names = [f"model.layers.{i}.{n}" for i in range(2) for n in PROJECTIONS]
    assert list(targets_of(made)) == names
    tokens = torch.tensor([[1, 2, 3, 4]])
    wrap(made, tiny.SETTINGS, tiny.masks(made))
    assert list(layers_of(made)) == names
    made(tokens, labels=tokens).loss.backward()
    assert all(bool(layer.values.grad[: layer.slots].any()) for layer in layers_of(made).values())
    want = made(tokens).logits
    merge(made)
    assert torch.equal(made(tokens).logits, want)


@pytest.mark.parametrize("at", [2, 3, 5])
def test_trn_004_a_resumed_run_gives_the_same_bits(at, tmp_path):
    # a save after step 2 or 5 lies inside the gradient window of the event after step 3 or 6
    whole = tiny.trainer(tiny.wrapped(), tmp_path, save_strategy="steps", save_steps=at, save_total_limit=4)
    whole.train()
    again = tiny.trainer(tiny.wrapped(), tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert same_bits(whole.model.state_dict(), again.model.state_dict()) == []
    for a, b in zip(layers_of(whole.model).values(), layers_of(again.model).values(), strict=True):
        kept, other = (r.optimizer.optimizer.kept(x) for r, x in ((whole, a), (again, b)))
        assert kept["age"].dtype == other["age"].dtype == torch.int64
        assert same_bits(kept, other) == []


def looking(n=2):
    rows = torch.stack([row["input_ids"] for row in tiny.texts(40)]).split(4)
    return SeftCallback(
        tiny.SETTINGS, event_batches=n, batches_of=lambda t: [{"input_ids": rows[t], "labels": rows[t]}]
    )


def test_trn_004_023_a_resumed_run_looks_as_far_and_another_is_refused(tmp_path):
    whole = tiny.trainer(tiny.wrapped(), tmp_path, seft=looking(), save_strategy="steps", save_steps=4)
    whole.train()
    checkpoint = str(tmp_path / "checkpoint-4")
    again = tiny.trainer(tiny.wrapped(), tmp_path / "again", seft=looking())
    again.train(resume_from_checkpoint=checkpoint)
    assert same_bits(whole.model.state_dict(), again.model.state_dict()) == []
    alone = tiny.trainer(tiny.wrapped(), tmp_path / "alone")
    alone.train()
    assert same_bits(whole.model.state_dict(), alone.model.state_dict()) != []
    with pytest.raises(SeftError, match="CKP-006: the checkpoint is of a run with event_batches 2 and not 3"):
        tiny.trainer(tiny.wrapped(), tmp_path / "other", seft=looking(3)).train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ({"event_batches": 2}, "TRN-023: .* need batches_of"),
        ({"start_batches": 0}, "TRN-008: .* is below 1"),
        ({"batches_of": list}, "TRN-023: batches_of is for .* above 1"),
    ],
)
def test_trn_023_looks_that_cannot_be_are_refused(looks, said):
    with pytest.raises(SeftError, match=said):
        SeftCallback(tiny.SETTINGS, **looks)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "EVT-012: start_batches is for initial_positions gradient"),
        ({"label_smoothing_factor": 0.1}, "leave out label_smoothing_factor"),
    ],
)
def test_looks_that_a_run_cannot_make_are_refused_before_a_step(given, said, tmp_path):
    settings = tiny.BY_GRADIENT if given else tiny.SETTINGS
    seft = SeftCallback(settings, start_batches=2, batches_of=lambda step: [])
    run = tiny.trainer(tiny.wrapped(settings), tmp_path, settings, seft=seft, **given)
    with pytest.raises((SeftError, NotImplementedError), match=said):
        run.train()


def test_trn_002_unequal_batches_of_a_look_count_by_targets_where_they_say_how_many_there_are():
    model = tiny.wrapped()
    rows = torch.stack([row["input_ids"] for row in tiny.texts(6)])
    labels = rows.clone()
    labels[:4, :-2] = -100
    n = int((labels[:, 1:] != -100).sum())
    parts = [slice(0, 4), slice(4, 6)]
    batches = [{"input_ids": rows[p], "labels": labels[p], "num_items_in_batch": torch.tensor(n)} for p in parts]
    logp = torch.log_softmax(model(input_ids=rows).logits[:, :-1], -1)
    wanted = sum(-logp[i, t, labels[i, t + 1]] for i, t in (labels[:, 1:] != -100).nonzero().tolist()) / n
    torch.testing.assert_close(sum(_losses(model, batches, "")), wanted)
    alike = [{name: value for name, value in batch.items() if name != "num_items_in_batch"} for batch in batches]
    assert not torch.isclose(sum(_losses(model, alike, "")), wanted, rtol=1e-5)


def test_batches_without_labels_cannot_be_looked_at(tmp_path):
    row = torch.ones(1, 6, dtype=torch.int64)
    seft = SeftCallback(tiny.SETTINGS, event_batches=2, batches_of=lambda step: [{"input_ids": row}])
    with pytest.raises(SeftError, match=r"EVT-004: events and first slots look at .* gives none for these batches"):
        tiny.trainer(tiny.wrapped(), tmp_path, seft=seft).train()


def test_trn_007_a_run_stops_at_a_gradient_that_is_not_finite_and_changes_nothing(tmp_path):
    made = tiny.wrapped()
    made.lm_head.weight.data[:] = 3e38
    before = {name: x.clone() for name, x in made.state_dict().items()}
    with pytest.raises(SeftError, match="TRN-007"):
        tiny.trainer(made, tmp_path).train()
    assert same_bits(before, made.state_dict()) == []


def test_ckp_006_a_checkpoint_of_other_settings_is_refused(tmp_path):
    tiny.trainer(tiny.wrapped(), tmp_path, save_strategy="steps", save_steps=4, max_steps=4).train()
    other = Settings(density=0.2, evolve_every=3, drop_fraction=0.5, gradient_window=2, initial_positions="random")
    with pytest.raises(SeftError, match="CKP-006"):
        tiny.trainer(tiny.wrapped(other), tmp_path, other).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_merge_save_and_reload_keep_weights_and_support(tmp_path):
    made = tiny.wrapped()
    tiny.trainer(made, tmp_path).train()
    # a weight that training moved to zero is stored all the same
    layer = next(iter(layers_of(made).values()))
    layer.values.data[0] = -layer.held[0]
    save_sparse(made, tmp_path / "wrapped")
    tokens = torch.stack([row["input_ids"] for row in tiny.texts(3, seed=9)])
    want = made.eval()(tokens).logits
    supports = merge(made)
    assert all(type(x) is torch.nn.Linear for x in targets_of(made).values())
    assert torch.equal(made(tokens).logits, want)
    save_sparse(made, tmp_path / "merged")
    assert formats.open(tmp_path / "merged").state_sha256 == formats.open(tmp_path / "wrapped").state_sha256
    fresh = load_sparse(tiny.model(seed=5), tmp_path / "merged").eval()
    assert torch.equal(fresh(tokens).logits, want)
    again = layers_of(wrap(fresh, tiny.SETTINGS))
    assert same_bits(supports, {name: x.mask for name, x in again.items()}) == []
    name, first = next(iter(again.items()))
    assert first.budget > int(torch.count_nonzero(first.weight)), f"{name} lost its stored zero"
    made.save_pretrained(tmp_path / "stock")
    stock = tiny.LlamaForCausalLM.from_pretrained(tmp_path / "stock").eval()
    assert torch.equal(stock(tokens).logits, want)


def test_the_optimizers_of_zero_are_refused(tmp_path):
    # deepspeed compiles its operators where it is installed, so the test has a class of that name only
    class Split:
        __module__ = "deepspeed.runtime.zero.stage3"

    made = tiny.wrapped()
    callback = SeftCallback(tiny.SETTINGS)
    run = tiny.trainer(made, tmp_path)
    with pytest.raises(NotImplementedError, match="ZeRO flattens"):
        callback.on_train_begin(run.args, run.state, run.control, model=made, optimizer=Split())
