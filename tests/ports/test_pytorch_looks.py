"""Events and first slots that look at the data of several steps, in a loop of one's own (TRN-023, DLT-004.3)."""

from copy import deepcopy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from seft_ports.pytorch import (  # noqa: E402
    Evolution,
    SeftError,
    SeftLinear,
    SeftOptimizer,
    Settings,
    kernels,
    layers_of,
    merge,
)
from seft_ports.pytorch.model import targets_of  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402

SETTINGS = Settings(preset="seft", density=0.2, evolve_every=3, drop_fraction=0.9)
DATA = torch.stack([row["input_ids"] for row in tiny.texts(48)]).split(4)
STEPS = 7


def losses(made, *steps):
    for step in steps:
        yield made(input_ids=DATA[step], labels=DATA[step]).loss


def run(made, settings=SETTINGS, *, looks=0, ends=None, micro_batches=None):
    """The slots after every step and the support at the end, with events on the optimizer's own step."""
    optimizer = SeftOptimizer(made, lr=0.01)
    evolution = Evolution(made, optimizer, settings, STEPS, micro_batches=micro_batches, event_batches=1 + looks)
    evolution.attach()
    seen = []
    for t in range(1, STEPS + 1):
        optimizer.zero_grad()
        for loss in losses(made, t):
            loss.backward()
        for i in range(looks if evolution.has_event(t) else 0):
            evolution.look(losses(made, t + 1 + i))
        optimizer.step()
        seen.append([layer.positions[: layer.slots].tolist() for layer in layers_of(made).values()])
    ends = range(1, 1 + (looks if ends is None else ends))
    evolution.finish(*(lambda i=i: losses(made, STEPS + i) for i in (0, *ends)))
    seen.append([torch.nonzero(layer.support().view(-1)).flatten().tolist() for layer in layers_of(made).values()])
    return seen


@pytest.mark.parametrize("micro_batches", [None, 1])
def test_TRN_023_a_look_changes_what_an_event_does_and_nothing_before_it(micro_batches):
    plain = run(tiny.wrapped(SETTINGS), micro_batches=micro_batches)
    more = run(tiny.wrapped(SETTINGS), looks=2, micro_batches=micro_batches)
    assert plain[:2] == more[:2]
    assert plain[2] != more[2]


def test_TRN_023_the_gradient_of_an_event_is_the_mean_of_what_it_looks_at():
    settings = Settings(preset="active-only", density=0.2, evolve_every=3, drop_fraction=1.0)
    made = tiny.wrapped(settings)
    optimizer = SeftOptimizer(made, lr=0.01)
    evolution = Evolution(made, optimizer, settings, STEPS, event_batches=3)
    for t in (1, 2, 3):
        evolution.before_step(t)
        optimizer.zero_grad()
        next(losses(made, t)).backward()
        if t == 3:
            scores = gradients(made, 3, 4, 5)
            old = {name: layer.positions[: layer.slots].tolist() for name, layer in evolution.layers.items()}
            evolution.look(losses(made, 4))
            evolution.look(losses(made, 5))
        evolution.before_optimizer(t)
        optimizer.step()
        decisions = evolution.after_step(t)
    for name, decision in decisions.items():
        kept = {*old[name]} - {*decision.dropped.tolist()}
        stored = torch.nonzero(evolution.layers[name].base().view(-1)).flatten().tolist()
        ranked = sorted((p for p in stored if p not in kept), key=lambda p: -float(scores[name][p]))
        assert decision.grown.tolist() == sorted(ranked[: len(decision.grown)])
        assert len(decision.grown)


def gradients(made, *steps):
    """The gradients of plain layers with the effective weights, summed over steps, by ordinary autograd."""
    plain = deepcopy(made)
    merge(plain)
    targets = targets_of(plain)
    for linear in targets.values():
        linear.weight.requires_grad_(requires_grad=True)
    sum(losses(plain, *steps)).backward()
    return {name: linear.weight.grad.abs().view(-1) for name, linear in targets.items()}


def strongest(layer, scores):
    stored = torch.nonzero(layer.base().view(-1)).flatten().tolist()
    return sorted(sorted(stored, key=lambda p: -float(scores[p]))[: layer.delta_budget])


def test_DLT_004_3_first_slots_by_the_gradient_of_several_steps():
    made = tiny.wrapped(SETTINGS)
    evolution = Evolution(made, SeftOptimizer(made), SETTINGS, STEPS)
    of_three, of_last = gradients(made, 0, 1, 2), gradients(made, 2)
    evolution.start(losses(made, 0, 1, 2))
    found = {name: layer.positions[: layer.slots].tolist() for name, layer in evolution.layers.items()}
    assert found == {name: strongest(layer, of_three[name]) for name, layer in evolution.layers.items()}
    assert found != {name: strongest(layer, of_last[name]) for name, layer in evolution.layers.items()}
    assert all(layer.values.grad is None for layer in layers_of(made).values())
    with pytest.raises(SeftError, match="EVT-012: start is for initial_positions gradient"):
        evolution.start(losses(made, 0))


def test_DLT_004_first_slots_are_those_of_the_step_whose_event_looks_further():
    settings = Settings(preset="seft", density=0.2, evolve_every=1, drop_fraction=0.5)
    made = tiny.wrapped(settings)
    evolution = Evolution(made, SeftOptimizer(made, lr=0.01), settings, STEPS, event_batches=2)
    own = gradients(made, 1)
    evolution.before_step(1)
    next(losses(made, 1)).backward()
    evolution.look(losses(made, 2))
    evolution.before_optimizer(1)
    for name, layer in evolution.layers.items():
        positions = layer.positions[: layer.slots]
        assert positions.tolist() == strongest(layer, own[name])
        assert torch.allclose(layer.values.grad[: layer.slots].abs(), own[name][positions])


def test_TRN_023_2_the_last_pass_wants_as_many_steps_as_an_event():
    settings = Settings(preset="no-adapt", density=0.2, evolve_every=3, drop_fraction=0.9, initial_positions="random")
    made = tiny.wrapped(settings)
    with pytest.raises(SeftError, match="TRN-023: finish takes the losses of 1 further steps, not 0"):
        run(made, settings, looks=1, ends=0)
    kept = [run(tiny.wrapped(settings), settings, looks=looks) for looks in (0, 1)]
    assert kept[0][-1] != kept[1][-1]


def test_a_look_without_losses_or_without_an_event_is_refused():
    made = tiny.wrapped(SETTINGS)
    evolution = Evolution(made, SeftOptimizer(made), SETTINGS, STEPS, event_batches=2)
    with pytest.raises(SeftError, match="EVT-002: weights go by the gradient of losses, of which there is none"):
        evolution.start([])
    evolution.before_step(1)
    with pytest.raises(SeftError, match="TRN-023: step 1 has no event"):
        evolution.look(losses(made, 2))


def test_TRN_023_another_number_of_looks_is_refused():
    made = tiny.wrapped(SETTINGS)
    optimizer = SeftOptimizer(made, lr=0.01)
    evolution = Evolution(made, optimizer, SETTINGS, STEPS, event_batches=3)
    for t in (1, 2, 3):
        evolution.before_step(t)
        next(losses(made, t)).backward()
        if t < 3:
            evolution.before_optimizer(t)
    evolution.look(losses(made, 4))
    with pytest.raises(SeftError, match="TRN-023: the event of step 3 is to look 2 times, not 1"):
        evolution.before_optimizer(3)
    with pytest.raises(SeftError, match="TRN-023: the event of step 3 is to look 2 times, not 1"):
        evolution.after_step(3)
    with pytest.raises(SeftError, match="TRN-008: event_batches 0 is below 1"):
        Evolution(made, optimizer, SETTINGS, STEPS, event_batches=0)


# where sums are kept


@pytest.mark.parametrize(
    ("preset", "sums"),
    [
        ("active-only", {"gradient"}),
        ("no-adapt", {"gradient"}),
        ("seft", {"gradient", "tokens"}),
        ("set", set()),
        ("spiel-adapt", {"gradient", "square"}),
        ("spiel-ma", set()),
    ],
)
def test_GRD_005_a_window_sums_what_its_event_looks_at(preset, sums):
    assert Settings(preset=preset).asks() == sums
    layer = SeftLinear(torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool), 2)
    layer.watch(Settings(preset=preset).asks())
    # factors of so many rows are larger than the sums
    layer.see(torch.ones(4, 3), torch.ones(4, 4))
    assert set(layer.evidence(1)) == sums
    assert len(layer.sums()) == len(sums)


def test_GRD_009_a_window_of_growth_on_the_base_has_sums_on_the_support_alone(monkeypatch):
    settings = Settings(preset="active-only", gradient_window=2)
    assert (settings.keeps(), Settings(preset="seft").keeps()) == ("support", "all")
    mask = torch.arange(12).view(3, 4) % 3 == 0
    layer = SeftLinear(torch.ones(3, 4), mask, 2)
    layer.watch(settings.asks(), keeps=settings.keeps())
    honest = kernels.whole
    monkeypatch.setattr(kernels, "whole", lambda dy, x: honest(dy, x).masked_fill(~mask, torch.inf))
    layer.see(torch.ones(2, 3), torch.arange(8.0).view(2, 4))
    layer.see(torch.ones(1, 3), torch.ones(1, 4))
    assert layer.sum_gradient.shape == (4,)
    want = (torch.arange(8.0).view(2, 4).sum(0) + 1).expand(3, 4) / 2
    assert torch.equal(layer.evidence(2)["gradient"], torch.where(mask, want, 0))
    assert torch.equal(layer.evidence(2)["gradient"], torch.where(mask, want, 0)), "evidence changes no sum"


def test_GRD_007_a_window_that_is_opened_twice_before_its_first_step_chooses_candidates():
    # the hook after an event opens the next window, and the step opens it once more, or a saved one
    layer = SeftLinear(torch.ones(3, 4), torch.arange(12).view(3, 4) % 3 == 0, 2)
    for _ in range(2):
        layer.watch(["gradient", "tokens"], keeps="first-step")
    layer.see(torch.ones(2, 3), torch.arange(8.0).view(2, 4))
    layer.settle()
    assert layer.candidates.numel() == layer.delta_budget == 2


def test_TRN_004_sums_of_every_position_are_cut_to_the_support_and_others_refused():
    mask = torch.arange(12).view(3, 4) % 3 == 0
    layer = SeftLinear(torch.ones(3, 4), mask, 2)
    layer.sum_gradient = torch.arange(12.0).view(3, 4)
    layer.watch(["gradient"], keeps="support")
    assert layer.sum_gradient.tolist() == [0.0, 3.0, 6.0, 9.0]
    layer.sum_gradient = torch.ones(5)
    with pytest.raises(SeftError, match="TRN-004"):
        layer.watch(["gradient"], keeps="support")
    with pytest.raises(SeftError, match="TRN-004"):
        layer.watch(["gradient"])
