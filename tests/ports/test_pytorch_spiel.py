"""The presets spiel-adapt and spiel-ag of seft_ports.pytorch: by the kit, by plain loops, resumed, and wrong ones."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conformance.cases.case import load_all  # noqa: E402
from conformance.engine.port import EnginePort  # noqa: E402
from conformance.judge.harness import Variant, run  # noqa: E402
from conformance.oracle import event as oracle  # noqa: E402
from conformance.oracle import train_window, update_choices  # noqa: E402
from conformance.oracle.event_evidence import Evidence  # noqa: E402
from seft_ports.pytorch import (  # noqa: E402
    Evolution,
    SeftError,
    SeftLinear,
    SeftOptimizer,
    Settings,
    events,
    kernels,
    merge,
    schedule,
    select,
    slot_step,
)
from seft_ports.pytorch import optimizer as optimizer_file  # noqa: E402
from seft_ports.pytorch import window as window_file  # noqa: E402
from seft_ports.pytorch.port import Port, Runs  # noqa: E402

RUNS = [c for c in load_all() if c.id in ("train-rule.spiel-ag", "train-rule.spiel-adapt")]
PARTS = [c for c in load_all() if c.op in ("schedule.all_events", "schedule.drops", "window.candidates")]
DTYPES = {"exact64": "float64", "fp32": "float32"}

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.filterwarnings("ignore:denser-at-end")]


def judged(port, cases, cls):
    offered = frozenset(op for op, classes in port.describe()["ops"].items() if cls in classes)
    return run(cases, [Variant(port, DTYPES[cls], offers=offered, deterministic=True)])


def failed(results):
    return {r.case.id for r in results if r.failures}


def test_the_kit_passes_runs_of_both_presets():
    pytest.importorskip("transformers")
    results = judged(Runs(), RUNS, "fp32")
    assert [r.outcome for r in results] == ["pass", "pass"]


@pytest.mark.parametrize("cls", ["exact64", "fp32"])
def test_the_kit_passes_the_schedule_and_the_window(cls):
    results = judged(Port(), PARTS, cls)
    assert failed(results) == set()
    assert {r.outcome for r in results} == {"pass"}
    assert len(results) > 40


def run_of(settings, rule):
    (case,) = [case for case in RUNS if case.id.endswith("adapt")]
    tensors = {name: x.astype(np.float32) for name, x in case.inputs["tensors"].items()}
    rule = update_choices.rule_of("spiel-adapt") | rule
    return case.inputs | {"settings": case.inputs["settings"] | settings | {"rule": rule}, "tensors": tensors}


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"steps": 13, "evolve_every": 5, "gradient_window": 3, "drop_fraction": 0.9}, {}),
        ({"steps": 9, "evolve_every": 3, "gradient_window": 0, "drop_fraction": 0.5}, {"adapt": "fisher"}),
        ({"steps": 12, "optimizer": "adamw", "start": "gradient"}, {"evolve_until": 0.6}),
        ({"steps": 9, "initial_scope": "anywhere", "start": "gradient"}, {"adapts": "never"}),
    ],
)
def test_SCH_005_a_run_moves_what_the_engine_moves(settings, rule):
    pytest.importorskip("transformers")
    given = run_of(settings, rule)
    want, got = (port.call("train.run", given, "float32") for port in (EnginePort(), Runs()))
    assert len(want["slots"]) >= 2
    for name in ("slots", "bases"):
        for a, b in zip(want[name], got[name], strict=True):
            assert all(map(np.array_equal, a, b))
    assert all(map(np.array_equal, want["support"], got["support"]))
    for a, b in zip(want["weights"], got["weights"], strict=True):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max()


# plain loops

SHAPE, WINDOW, EVERY = (4, 6), 2, 4
RULE = update_choices.rule_of("spiel-adapt") | {"beta1": 0.9, "beta2": 0.999}


def start(seed, d, preset="spiel-adapt"):
    """The same matrix twice: as a layer in a run of three events, and as a part of the oracle."""
    rng = np.random.default_rng(seed)
    mask = rng.random(SHAPE) < 0.5
    weight = torch.from_numpy(rng.integers(1, 5, SHAPE) * mask).double()
    settings = Settings(preset=preset, evolve_every=EVERY, gradient_window=WINDOW, drop_fraction=0.7)
    layer = SeftLinear(weight, torch.from_numpy(mask), d, settings=settings)
    # fewer slots than there is room for, so that events refill the delta
    layer.place(torch.from_numpy(np.flatnonzero(mask)[: d - seed % 2]))
    model = torch.nn.ModuleDict({"one": layer})
    optimizer = SeftOptimizer(model, kind="spiel-adamw")
    eta = layer.positions[: layer.slots].tolist()
    kept = {name: dict.fromkeys(eta, 0 if name == "age" else 0.0) for name in ("m", "v", "age")}
    base = {int(p): float(weight.view(-1)[p]) for p in np.flatnonzero(mask)}
    phi = dict.fromkeys(eta, 0.0)
    part = oracle.Part(SHAPE, 0, base, phi, kept, [int(mask.sum())], [d], "spiel-adamw", first=True)
    return layer, Evolution(model, optimizer, settings, 3 * EVERY), optimizer, part, rng


def moved(seed, d):
    """Return whether the three events of a layer are those of plain loops."""
    layer, evolution, optimizer, part, rng = start(seed, d)
    gradients, same = [], True
    for step in range(1, 3 * EVERY + 1):
        evolution.before_step(step)
        # small numbers, so that scores tie
        gradient = rng.integers(-2, 3, SHAPE).astype(float)
        if layer.watched:
            gradients.append(gradient)
            layer.see(torch.eye(SHAPE[0], dtype=torch.float64), torch.from_numpy(gradient))
        phi = rng.choice([-0.5, -0.25, 0.25, 0.5, 1.0], layer.slots)
        layer.values.data[: layer.slots] = torch.from_numpy(phi)
        part = replace(part, phi=dict(zip(part.phi, phi.tolist(), strict=True)))
        if not (found := evolution.after_step(step)):
            continue
        flat = [list(g.reshape(-1)) for g in gradients]
        first = frozenset(train_window.candidates(flat[0], d))
        seen = Evidence(**train_window.evidence(flat), inputs=[0.0] * SHAPE[1], row_moments=[], column_moments=[],
                        candidates=first, steps=len(flat))  # fmt: skip
        (outcome,) = oracle.event([part], [seen], RULE, 0.7 * (1 - step / (3 * EVERY)))
        part, gradients = replace(outcome.part, first=False), []
        decision, kept = found["one"], optimizer.kept(layer)
        grown = sorted([*outcome.grown, *outcome.cancelled])
        same &= [decision.dropped.tolist(), decision.grown.tolist()] == [sorted(outcome.dropped), grown]
        same &= decision.pruned.tolist() == sorted(outcome.pruned)
        same &= layer.positions[: layer.slots].tolist() == list(part.phi)
        same &= torch.nonzero(layer.mask.view(-1)).flatten().tolist() == sorted(part.base)
        names = {"first_moment": "m", "second_moment": "v", "age": "age"}
        for name, other in names.items():
            a, b = kept[name][: layer.slots].numpy(), np.array([part.kept[other][p] for p in part.phi])
            same &= a.shape == b.shape and np.allclose(a, b, rtol=1e-12, atol=0)
        if not same:
            break
    return same


def test_GROW_006_GRD_007_DLT_006_events_are_those_of_plain_loops():
    assert all(moved(seed, d) for seed in range(30) for d in (3, 6))


def one_older(kind, gradient, square, steps, h):
    return slot_step.seeds("adamw", gradient, square, steps, h)


def no_seeds(*given):
    return {}


def no_first(*given, first):
    return schedule.event_fraction(*given, first=False)


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (optimizer_file, "seeds", one_older),
        (optimizer_file, "seeds", no_seeds),
        (window_file, "largest", select.smallest),
        (events, "event_fraction", no_first),
    ],
)
def test_plain_loops_refuse_a_wrong_version(where, name, wrong, monkeypatch):
    monkeypatch.setattr(where, name, wrong)
    assert not all(moved(seed, d) for seed in range(30) for d in (3, 6))


def one_window(kind, steps, every, window, until=1.0):
    return dict.fromkeys(schedule.event_windows(kind, steps, every, window, until), window)


def by_adamw(values, kept, gradient, h, place):
    slot_step.STEPS["adamw"](values, kept, gradient, replace(h, eps=1e-3), place)


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (optimizer_file, "seeds", no_seeds),
        (window_file, "largest", select.smallest),
        (events, "event_fraction", no_first),
        (events, "event_windows", one_window),
        (optimizer_file, "STEPS", {"spiel-adamw": by_adamw}),
    ],
)
def test_the_kit_refuses_a_wrong_run(where, name, wrong, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(where, name, wrong)
    assert failed(judged(Runs(), RUNS, "fp32"))


# the window


def test_GRD_007_an_infinite_gradient_counts_only_where_the_window_keeps_it(monkeypatch):
    layer, evolution, _, _, _ = start(0, 3)
    eye, ones = torch.eye(SHAPE[0], dtype=torch.float64), torch.ones(SHAPE, dtype=torch.float64)
    evolution.before_step(1)
    layer.see(eye, ones)
    evolution.after_step(1)
    kept = layer.support()
    kept.view(-1)[layer.candidates] = True
    assert layer.sum_gradient.tolist() == [1.0] * int(kept.sum())
    assert not kept.all()
    evolution.before_step(2)
    monkeypatch.setattr(kernels, "whole", lambda dy, x: torch.where(kept, x, math.inf))
    layer.see(eye, ones)
    assert set(evolution.after_step(2)) == {"one"}
    assert layer.candidates.numel() == layer.sum_gradient.numel() == 0


def test_TRN_007_a_sum_of_an_open_window_that_overflows_stops_the_run():
    layer, evolution, _, _, _ = start(0, 3)
    evolution.before_step(1)
    layer.see(torch.eye(SHAPE[0], dtype=torch.float64), torch.full(SHAPE, 1e200, dtype=torch.float64))
    with pytest.raises(SeftError, match="TRN-007"):
        evolution.after_step(1)


def test_EVT_008_spiel_ag_may_end_denser_and_says_so():
    layer, evolution, _, _, rng = start(1, 6, "spiel-ag")
    for step in range(1, 3 * EVERY + 1):
        evolution.before_step(step)
        if layer.watched:
            gradient = torch.from_numpy(rng.normal(size=SHAPE))
            layer.see(torch.eye(SHAPE[0], dtype=torch.float64), gradient)
        evolution.after_step(step)
    stored = int(layer.support().sum())
    assert stored > layer.budget
    with pytest.warns(UserWarning, match=f"denser-at-end: {stored} weights are stored, {layer.budget} at load"):
        evolution.finish(list)
    model = torch.nn.ModuleDict({"one": layer})
    assert int(merge(model)["one"].sum()) == stored


# settings


def test_EVT_011_settings_have_those_of_the_preset_and_what_is_given():
    adapt = Settings(preset="spiel-adapt", drop_fraction=0.3)
    assert (adapt.density, adapt.evolve_every, adapt.gradient_window, adapt.drop_fraction) == (0.01, 20, 5, 0.3)
    assert (adapt.adapt, adapt.adapts, adapt.optimizer) == ("sensitivity", "always", "spiel-adamw")
    ag = Settings(preset="spiel-ag", density=0.1)
    assert (ag.initial_scope, ag.density, ag.adapts) == ("anywhere", 0.1, "never")
    assert Settings(preset="rigl", evolve_until=0.5).evolve_until == 0.5
    assert Settings(preset="seft", pattern=[2, 4]).grow_scope == "active"


@pytest.mark.parametrize(
    ("clause", "change"),
    [
        ("SCH-005", {"gradient_window": 19}),
        ("SCH-005", {"gradient_window": -1}),
        ("EVT-012", {"initial_scope": "anywhere"}),
        ("EVT-012", {"adapt": "curvature"}),
        ("DLT-004", {"initial_scope": "nowhere"}),
        ("OPT-001", {"optimizer": "adam"}),
    ],
)
def test_settings_that_do_not_fit_are_refused(clause, change):
    with pytest.raises(SeftError, match=clause):
        Settings(preset="spiel-adapt", **change)


def test_OPT_001_OPT_010_an_optimizer_of_another_kind_is_refused():
    layer, _, _, _, _ = start(0, 3)
    model = torch.nn.ModuleDict({"one": layer})
    assert SeftOptimizer(model).kind == "spiel-adamw"
    with pytest.raises(SeftError, match=r"OPT-001.*kind='spiel-adamw'"):
        Evolution(model, SeftOptimizer(model, kind="adamw"), layer.settings, 9)
    with pytest.raises(SeftError, match="OPT-010"):
        SeftOptimizer(model, kind="spiel-adamw", slot_warmup=3)
    with pytest.raises(SeftError, match="EVT-011: the model was wrapped or adapted for adapts always"):
        Evolution(model, SeftOptimizer(model), Settings(preset="spiel-ag"), 9)


def test_a_split_model_is_refused(monkeypatch):
    layer, _, optimizer, _, _ = start(0, 3)
    monkeypatch.setattr(events, "is_split", lambda x: True)
    with pytest.raises(NotImplementedError, match="first-step"):
        Evolution(torch.nn.ModuleDict({"one": layer}), optimizer, layer.settings, 9)


# the Trainer


@pytest.mark.parametrize("preset", ["spiel-adapt", "spiel-ag"])
@pytest.mark.parametrize("at", [3, 4, 6])
def test_TRN_004_a_trainer_resumes_to_the_same_bits(preset, at, tmp_path):
    pytest.importorskip("accelerate")
    from tests.ports import pytorch_tiny as tiny

    # events follow steps 1, 4 and 7, the last one, which drops nothing
    # a save after step 3 or 6 lies in a window whose candidates are chosen
    settings = Settings(preset=preset, density=0.2, evolve_every=3, gradient_window=1, drop_fraction=0.9)

    def trainer(folder, **other):
        made = tiny.wrapped(settings)
        optimizers = (SeftOptimizer(made, lr=0.01, kind="spiel-adamw"), None)
        return tiny.trainer(made, folder, settings, None, optimizers, max_grad_norm=0.0, **other)

    whole = trainer(tmp_path, save_strategy="steps", save_steps=at, save_total_limit=4)
    whole.train()
    again = trainer(tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert [e["step"] for e in tiny.events(whole)] == [1, 4, 7]
    assert all(e["grown"] > 0 for e in tiny.events(whole)[:2])
    assert any(e["pruned"] > 0 for e in tiny.events(whole)) == (preset == "spiel-adapt")
    for name, x in whole.model.state_dict().items():
        assert torch.equal(x, again.model.state_dict()[name]), name
    for a, b in zip(whole.optimizer.optimizer.layers, again.optimizer.optimizer.layers, strict=True):
        kept, other = (r.optimizer.optimizer.kept(x) for r, x in ((whole, a), (again, b)))
        assert all(torch.equal(kept[name], other[name]) for name in ("first_moment", "second_moment", "age"))
        if preset == "spiel-adapt":
            assert int(a.support().sum()) <= a.budget


def test_CKP_006_a_checkpoint_from_before_these_settings_goes_on(tmp_path):
    pytest.importorskip("accelerate")
    from tests.ports import pytorch_tiny as tiny

    tiny.trainer(tiny.wrapped(), tmp_path, save_strategy="steps", save_steps=3).train()
    path = tmp_path / "checkpoint-3" / "trainer_state.json"
    state = json.loads(path.read_text())
    (saved,) = [x for name, x in state["stateful_callbacks"].items() if name == "SeftCallback"]
    settings = (saved[0] if isinstance(saved, list) else saved)["attributes"]["settings"]
    # such a checkpoint names fewer choices, and one of them by another name
    names = ("density", "evolve_every", "drop_fraction", "gradient_window", "preset", "adapt", "seed", "keep_dtype")
    old = {name: settings[name] for name in names} | {"start": settings["initial_positions"], "evolve_until": 1.0}
    settings.clear()
    settings |= old
    path.write_text(json.dumps(state))
    tiny.trainer(tiny.wrapped(), tmp_path / "again").train(resume_from_checkpoint=str(path.parent))
    settings["optimizer"] = "spiel-adamw"
    path.write_text(json.dumps(state))
    with pytest.raises(SeftError, match="CKP-006"):
        tiny.trainer(tiny.wrapped(), tmp_path / "no").train(resume_from_checkpoint=str(path.parent))
