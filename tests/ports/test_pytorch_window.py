"""A window that keeps factors against one that sums at once, and when it may do neither."""

import itertools

import pytest

torch = pytest.importorskip("torch")

from seft_ports.pytorch import Evolution, SeftError, SeftLinear, SeftOptimizer, Settings, blocks, kernels  # noqa: E402
from seft_ports.pytorch import window as window_file  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402

OF_STEPS = ("gradient", "absolute", "square")
OUT, WIDTH = 40, 57


def layer_of(slots=30):
    dice = torch.Generator().manual_seed(5)
    layer = SeftLinear(torch.ones(OUT, WIDTH), torch.rand(OUT, WIDTH, generator=dice) < 0.4, slots)
    layer.place(torch.randperm(OUT * WIDTH, generator=dice)[: slots - 4].sort().values)
    return layer


def window(steps, micro_batches, seed=3):
    """Return the factors of every backward of every step: whole numbers, so that sums are exact and scores tie."""
    dice = torch.Generator().manual_seed(seed)
    return [
        [[torch.randint(-2, 3, (2, n), generator=dice).float() for n in (OUT, WIDTH)] for _ in range(micro_batches)]
        for _ in range(steps)
    ]


def seen(layer, steps, asked, keeps, after_step=lambda layer: None):
    layer.watch(asked, keeps=keeps)
    for step in steps:
        for dy, x in step:
            layer.see(dy, x)
        layer.settle()
        after_step(layer)
    return layer.evidence(len(steps))


def plain(layer, steps, asked, keeps):
    """Return the evidence by whole gradients alone (GRD-004, GRD-005, GRD-007)."""
    gradients = [sum(dy.T @ x for dy, x in step) for step in steps]
    kept = layer.support() if keeps != "all" else torch.ones(OUT, WIDTH, dtype=torch.bool)
    if keeps == "first-step":
        first = gradients[0].abs().flatten().tolist()
        best = sorted(range(len(first)), key=lambda p: (-first[p], p))[: layer.delta_budget]
        kept.view(-1)[best] = True
    of = {"gradient": lambda g: g, "absolute": torch.abs, "square": torch.square}
    return {name: torch.where(kept, sum(map(of[name], gradients)) / len(steps), 0) for name in asked}


ASKED = [names for n in (1, 2, 3) for names in itertools.combinations(OF_STEPS, n)]


@pytest.mark.parametrize("block", [WIDTH, 200, 1 << 20])
@pytest.mark.parametrize("keeps", window_file.KEEPS)
@pytest.mark.parametrize(("steps", "micro_batches"), [(1, 1), (3, 1), (3, 2), (13, 3)])
def test_GRD_004_factors_give_the_means_of_whole_gradients(steps, micro_batches, keeps, block, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", block)
    kinds = set()
    for asked in ASKED:
        layer, backwards = layer_of(), window(steps, micro_batches)
        got = seen(layer, backwards, asked, keeps)
        kinds.add(bool(layer.sums()))
        want = plain(layer, backwards, asked, keeps)
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name]) for name in asked)
        assert torch.equal(layer.evidence(steps)[asked[0]], want[asked[0]]), "evidence changes nothing"
    # factors of 13 steps of three are larger than any sum, and those of three steps of two are not
    assert kinds == {steps == 13 or keeps == "first-step"} or keeps == "support"


@pytest.mark.parametrize("keeps", window_file.KEEPS)
def test_TRN_004_a_saved_window_has_sums(keeps):
    """A state_dict between and within steps holds what factors stand for, and both windows end alike."""
    asked, backwards = ("gradient", "absolute"), window(3, 2)
    want = seen(layer_of(), backwards, asked, keeps)
    for after in range(1, 7):
        layer = layer_of()
        layer.watch(asked, keeps=keeps)
        for number, (step, (dy, x)) in enumerate(((s, one) for s in backwards for one in s), 1):
            layer.see(dy, x)
            if step[-1][0] is dy:
                layer.settle()
            if number == after:
                state = layer.state_dict()
                if number % 2 == 0:
                    other = layer_of()
                    other.load_state_dict(state)
                    other.watch(asked, keeps=keeps)
                    layer = other
        got = layer.evidence(3)
        assert all(torch.equal(got[name], want[name]) for name in asked)


@pytest.mark.parametrize(
    ("kind", "asked", "size"),
    [
        (torch.float32, ["gradient"], 1e20),
        (torch.float32, ["gradient", "square"], 1e15),
        (torch.float64, ["gradient", "square"], 1e80),
    ],
)
def test_TRN_007_a_sum_that_overflows_is_there_to_be_checked(kind, asked, size):
    layer = SeftLinear(torch.ones(OUT, WIDTH, dtype=kind), torch.ones(OUT, WIDTH, dtype=torch.bool), 3)
    layer.watch(asked)
    layer.see(torch.ones(1, OUT, dtype=kind), torch.ones(1, WIDTH, dtype=kind))
    layer.settle()
    assert not layer.sums()
    layer.see(torch.full((1, OUT), size, dtype=kind), torch.full((1, WIDTH), size, dtype=kind))
    layer.settle()
    assert any(bool(torch.isinf(total).any()) for total in layer.sums())


def test_TRN_002_a_second_backward_after_the_candidates_are_chosen_is_refused():
    layer = layer_of()
    layer.watch(["gradient"], keeps="first-step", one_backward=True)
    ((dy, x),), ((other, y),) = window(2, 1)
    # factors of so many rows are larger than the gradient
    dy, x = dy.repeat(20, 1), x.repeat(20, 1)
    layer.see(dy, x)
    with pytest.raises(SeftError, match="TRN-002: the step has a second backward"):
        layer.see(other, y)
    layer.settle()
    layer.see(other, y)


def test_a_module_that_is_used_twice_in_a_forward_chooses_by_both_uses():
    layer = layer_of()
    layer.watch(["gradient"], keeps="first-step", one_backward=True)
    ((step,),) = [window(1, 2)]
    for dy, x in step:
        layer.see(dy, x)
    layer.settle()
    want = plain(layer_of(), [step], ["gradient"], "first-step")
    assert torch.equal(layer.evidence(1)["gradient"], want["gradient"])


def test_a_nan_in_the_step_that_chooses_is_told_when_the_step_ends():
    layer = layer_of()
    layer.watch(["gradient"], keeps="first-step", one_backward=True)
    # factors of so many rows choose within the backward
    layer.see(torch.full((99, OUT), torch.nan), torch.ones(99, WIDTH))
    with pytest.raises(SeftError, match="EVT-005"):
        layer.settle()


def test_GRD_007_a_first_step_that_also_chose_the_first_slots_chooses_candidates():
    layer, backwards = layer_of(), window(2, 1)
    layer.watch(["gradient", "square"])
    layer.see(*backwards[0][0])
    # the first slots are chosen by the same gradient
    layer.evidence(1)
    layer.watch(["gradient", "square"], keeps="first-step")
    layer.see(*backwards[1][0])
    got = layer.evidence(2)
    want = plain(layer_of(), backwards, ["gradient", "square"], "first-step")
    assert all(torch.equal(got[name], want[name]) for name in want)


def evolution_of(**choices):
    settings = Settings(density=0.2, drop_fraction=0.5, **choices)
    made = tiny.wrapped(settings, hidden_size=64, intermediate_size=64, head_dim=32)
    optimizer = SeftOptimizer(made, lr=0.01)
    return made, optimizer, Evolution(made, optimizer, settings, 4)


def test_TRN_004_a_matrix_may_have_no_backward_in_the_first_step_of_a_window():
    # an expert that no token was sent to
    _, _, evolution = evolution_of(preset="seft", evolve_every=2, gradient_window=2, initial_positions="random")
    evolution.before_step(1)
    evolution.after_step(1)
    evolution.before_step(2)
    state = next(iter(evolution.layers.values())).state_dict()
    assert state["sum_gradient"].shape == (64, 64)


def test_EVT_002_a_streamed_event_without_a_backward_is_refused():
    _, _, evolution = evolution_of(preset="active-only", evolve_every=2, initial_positions="random")
    evolution.before_step(1)
    evolution.after_step(1)
    evolution.before_step(2)
    with pytest.raises(SeftError, match="EVT-002"):
        evolution.after_step(2)


def test_a_step_that_is_begun_again_counts_once():
    made, _, evolution = evolution_of(preset="seft", evolve_every=2, initial_positions="random")
    tokens = tiny.texts(1)[0]["input_ids"][None]
    of_tokens = []
    for _ in range(2):
        evolution.before_step(2)
        made(input_ids=tokens, labels=tokens).loss.backward()
        of_tokens.append([layer.sum_tokens.clone() for layer in evolution.layers.values()])
    assert {len(layer.factors()) for layer in evolution.layers.values()} == {1}
    assert all(bool(once.any()) and torch.equal(once, again) for once, again in zip(*of_tokens, strict=True))


@pytest.mark.parametrize("asked", [["gradient"], ["gradient", "square"]], ids="-".join)
def test_TRN_004_whether_a_run_saves_changes_no_bit(asked):
    dice = torch.Generator().manual_seed(4)
    backwards = [[[torch.randn(2, n, generator=dice) for n in (OUT, WIDTH)] for _ in range(3)] for _ in range(3)]
    want = seen(layer_of(), backwards, asked, "all")
    got = seen(layer_of(), backwards, asked, "all", after_step=lambda layer: layer.state_dict())
    assert all(torch.equal(got[name], want[name]) for name in asked)


def test_TRN_004_a_step_that_has_not_ended_is_saved():
    layer = layer_of()
    layer.watch(["gradient"])
    (((dy, x),),) = [window(1, 1)[0]]
    layer.see(dy, x)
    assert torch.equal(layer.state_dict()["sum_gradient"], dy.T @ x)


def test_TRN_004_a_window_that_chose_the_first_slots_chooses_candidates_after_it_was_loaded():
    layer, backwards = layer_of(), window(2, 1)
    layer.watch(["gradient"])
    layer.see(*backwards[0][0])
    layer.settle()
    other = layer_of()
    other.load_state_dict(layer.state_dict())
    for one in (layer, other):
        one.watch(["gradient"], keeps="first-step")
        one.see(*backwards[1][0])
    want = plain(layer_of(), backwards, ["gradient"], "first-step")["gradient"]
    assert torch.equal(layer.evidence(2)["gradient"], want)
    assert torch.equal(other.evidence(2)["gradient"], want)


def test_a_step_of_a_long_window_that_is_begun_again_counts_once():
    layer, backwards = layer_of(), window(2, 1)
    layer.watch(["gradient"])
    layer.see(*backwards[0][0])
    layer.settle()
    for _ in range(2):
        layer.watch(["gradient"])
        layer.see(*backwards[1][0])
    want = plain(layer_of(), backwards, ["gradient"], "all")["gradient"]
    assert torch.equal(layer.evidence(2)["gradient"], want)


def test_a_window_of_which_no_step_has_ended_saves_no_sums():
    layer = layer_of()
    layer.watch(["gradient", "square"])
    assert layer.state_dict()["sum_gradient"].numel() == 0
    layer.settle()
    assert layer.state_dict()["sum_gradient"].shape == (OUT, WIDTH)


def test_a_matrix_that_stores_nothing_has_evidence_of_its_backward():
    layer = SeftLinear(torch.zeros(OUT, WIDTH), torch.zeros(OUT, WIDTH, dtype=torch.bool), 0)
    layer.watch(["gradient"], keeps="support")
    assert not layer.has_evidence
    layer.see(torch.ones(2, OUT), torch.ones(2, WIDTH))
    assert layer.has_evidence


def test_factors_move_with_their_matrix():
    layer = layer_of()
    layer.watch(["gradient"])
    ((dy, x),) = window(1, 1)[0]
    layer.see(dy, x)
    layer.settle()
    layer.double()
    assert layer.factors() == []
    assert {one.dtype for one in layer._collected.steps[0][0]} == {torch.float64}
    assert torch.equal(layer.evidence(1)["gradient"], (dy.T @ x).double())


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_kept_is_not_what_others_write_to(compiled):
    layer = layer_of()
    layer.watch(["gradient"])
    x, dy = torch.ones(2, WIDTH), torch.ones(2, OUT)
    if compiled:
        # inductor uses the memory of both again
        torch.ops.seft.product_backward(dy, x, layer.number, torch.float32, [layer.values])
        dy.zero_()
    else:
        layer(x).backward(dy)
        dy.zero_()
    x.zero_()
    layer.settle()
    assert torch.equal(layer.evidence(1)["gradient"], torch.full((OUT, WIDTH), 2.0))


def test_a_backward_keeps_no_graph():
    layer = layer_of()
    layer.watch(["gradient"])
    first = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    layer(first(torch.ones(2, WIDTH))).sum().backward()
    ((dy, x),) = layer.factors()
    assert (dy.grad_fn, x.grad_fn, x.requires_grad) == (None, None, False)


@pytest.mark.parametrize("once", [None, 1])
@pytest.mark.parametrize(
    "choices",
    [
        {"preset": "spiel-ag", "evolve_every": 4, "gradient_window": 2},
        {"preset": "rigl", "evolve_every": 3, "gradient_window": 2},
        {"preset": "seft", "evolve_every": 3, "gradient_window": 3, "adapt": "absolute"},
        {"preset": "seft", "evolve_every": 3, "scope": "row"},
    ],
    ids=lambda choices: f"{choices['preset']}-{'-'.join(map(str, [*choices.values()][1:]))}",
)
def test_no_rule_keeps_a_matrix_where_factors_are_smaller(choices, once, monkeypatch):
    """Whole runs have the events of runs that sum at once, and never form more than a block of rows in a step."""
    settings = Settings(density=0.2, drop_fraction=0.5, **choices)
    data = torch.stack([row["input_ids"] for row in tiny.texts(14)]).split(1)
    sizes, supports = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 32}, []
    for sums in (False, True):
        made = tiny.wrapped(settings, **sizes)
        if sums:
            monkeypatch.setattr(window_file.Windowed, "_may_collect", False)
        optimizer = SeftOptimizer(made, lr=0.01)
        evolution = Evolution(made, optimizer, settings, 7, micro_batches=once)
        evolution.attach()
        formed = False
        for t in range(7):
            for row in data[2 * t : 2 * t + (1 if once else 2)]:
                (made(input_ids=row, labels=row).loss / 2).backward()
            whole = [n for layer in evolution.layers.values() for n in [total.numel() for total in layer.sums()]]
            formed |= 64 * 64 in whole
            optimizer.step()
            optimizer.zero_grad()
        assert formed == (sums and settings.candidates == "all")
        supports.append([layer.support() for layer in evolution.layers.values()])
    assert all(torch.equal(a, b) for a, b in zip(*supports, strict=True))


def test_the_first_step_of_a_window_forms_blocks_alone(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 4 * WIDTH)
    rows = []
    honest = kernels.whole
    monkeypatch.setattr(kernels, "whole", lambda dy, x: rows.append(dy.shape[1]) or honest(dy, x))
    layer = layer_of()
    layer.watch(["gradient"], keeps="first-step", one_backward=True)
    # factors of so many rows are larger than the gradient
    layer.see(torch.ones(99, OUT), torch.ones(99, WIDTH))
    layer.settle()
    assert set(rows) == {4}
    assert len(layer.sum_gradient) < OUT * WIDTH // 2
