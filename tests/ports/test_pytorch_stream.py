"""The candidates of one backward against the whole gradient: the same decisions, ties included, block by block."""

import itertools

import pytest

torch = pytest.importorskip("torch")

from seft_ports.pytorch import Evolution, SeftError, SeftLinear, SeftOptimizer, Settings, blocks, stream  # noqa: E402
from seft_ports.pytorch.decide import decide  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402

BY = ("sensitivity", "absolute", "fisher", "token-fisher", "magnitude")


def layer_of(dice, out, width, slots, free):
    """Return a layer of small whole numbers, so that sums are exact and scores tie."""
    weight = torch.randint(-2, 3, (out, width), generator=dice).float()
    layer = SeftLinear(weight, torch.rand(out, width, generator=dice) < 0.5, slots + free)
    layer.place(torch.randperm(out * width, generator=dice)[:slots].sort().values)
    layer.values.data[:slots] = torch.randint(-2, 3, (slots,), generator=dice).float()
    layer.refresh()
    return layer


def evidence(dy, x):
    gradient = dy.T @ x
    return {"gradient": gradient, "absolute": gradient.abs(), "square": gradient**2, "tokens": (dy**2).T @ x**2}


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("adapts", [False, True])
def test_an_event_decides_as_with_the_whole_gradient(by, active, adapts, block, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", block)
    dice = torch.Generator().manual_seed(8)
    kinds = {"cancelled": 0, "pruned slots": 0, "grown": 0}
    slotted = ((0, 0), (4, 0), (4, 2), (4, 4))
    for out, width, (slots, n_drop), free in itertools.product((3, 6), (6, 11), slotted, (0, 3)):
        layer = layer_of(dice, out, width, slots, free)
        # a base that lost weights, and one above its budget
        layer.budget = int(layer.support().sum()) + int(torch.randint(-1, 3, (1,), generator=dice))
        layer.budgets = torch.tensor([layer.budget])
        dy, x = (torch.randint(-2, 3, (3, n), generator=dice).float() for n in (out, width))
        watching = stream.Stream(layer, n_drop + free, active=active, adapt=by if adapts else None)
        watching.see(dy, x)
        # the optimizer's step comes between
        layer.values.data[:slots] = torch.randint(-2, 3, (slots,), generator=dice).float()
        choices = {"grow_scope": "active" if active else "anywhere", "adapts": "always" if adapts else "end"}
        rule = Settings(preset="sensitivity", adapt=by, **choices)
        (want,) = decide([layer.part(evidence(dy, x))], rule, torch.tensor([n_drop]))
        got = watching.decide(n_drop)
        for what in ("dropped", "grown", "pruned", "left"):
            assert getattr(got, what).tolist() == getattr(want, what).tolist()
        kinds["cancelled"] += len(set(want.grown.tolist()) & set(want.dropped.tolist()))
        kinds["pruned slots"] += len(set(want.pruned.tolist()) & set(layer.positions.tolist()))
        kinds["grown"] += len(want.grown)
    assert all(kinds.values()) or (not adapts and not kinds["pruned slots"])


@pytest.mark.parametrize("active", [False, True])
def test_first_positions_are_those_of_the_whole_gradient(active, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 10)
    dice = torch.Generator().manual_seed(6)
    layer = layer_of(dice, 6, 9, 0, 12)
    dy, x = (torch.randint(-2, 3, (3, n), generator=dice).float() for n in (6, 9))
    watching = stream.Stream(layer, 12, active=active, first=True)
    watching.see(dy, x)
    positions, gradient = watching.place()
    whole = (dy.T @ x).view(-1)
    allowed = [p for p in range(54) if not active or layer.mask.view(-1)[p]]
    want = sorted(sorted(allowed, key=lambda p: (-abs(float(whole[p])), p))[:12])
    assert positions.tolist() == want
    assert gradient.tolist() == whole[want].tolist()


def test_trn_002_a_second_backward_is_refused():
    made = tiny.wrapped(Settings(density=0.2, evolve_every=3, drop_fraction=0.9, preset="seft"))
    settings = next(iter(tiny.layers_of(made).values())).settings
    evolution = Evolution(made, SeftOptimizer(made), settings, 7, micro_batches=1)
    evolution.before_step(1)
    tokens = torch.stack([row["input_ids"] for row in tiny.texts(2)])
    made(input_ids=tokens, labels=tokens).loss.backward()
    with pytest.raises(SeftError, match="TRN-002: the step has a second backward"):
        made(input_ids=tokens, labels=tokens).loss.backward()


def test_a_nan_is_refused_where_the_whole_gradient_would_be():
    dice = torch.Generator().manual_seed(7)
    layer = layer_of(dice, 4, 6, 3, 0)
    dy, x = (torch.randint(-2, 3, (3, n), generator=dice).float() for n in (4, 6))
    x[0, 0] = torch.nan
    watching = stream.Stream(layer, 1, active=False, adapt="token-fisher")
    watching.see(dy, x)
    with pytest.raises(SeftError, match="EVT-005"):
        watching.decide(1)
    with pytest.raises(SeftError, match="EVT-002"):
        stream.Stream(layer, 1, active=False, adapt="token-fisher").decide(1)


@pytest.mark.parametrize("preset", ["seft", "active-only"])
def test_no_matrix_of_gradients_is_kept_or_made(preset, monkeypatch):
    """Whole runs with one backward a step have the events of those that add up, and never sum a whole gradient."""
    settings = Settings(density=0.2, evolve_every=3, drop_fraction=0.9, preset=preset)
    data = torch.stack([row["input_ids"] for row in tiny.texts(28)]).split(4)
    events = {}
    for once in (None, 1):
        made = tiny.wrapped(settings)
        optimizer = SeftOptimizer(made, lr=0.01)
        evolution = Evolution(made, optimizer, settings, 7, micro_batches=once)
        if once:
            monkeypatch.setattr(SeftLinear, "watch", None)
        events[once] = []
        for t in range(1, 8):
            evolution.before_step(t)
            assert once is None or not any(layer.sums() for layer in evolution.layers.values())
            optimizer.zero_grad()
            made(input_ids=data[t - 1], labels=data[t - 1]).loss.backward()
            evolution.before_optimizer(t)
            optimizer.step()
            events[once].append(evolution.after_step(t))
    assert sum(map(len, events[1])) == 14
    for one, other in zip(events[None], events[1], strict=True):
        for name, decision in one.items():
            assert all(
                torch.equal(getattr(decision, w), getattr(other[name], w)) for w in ("dropped", "grown", "pruned")
            )


@pytest.mark.parametrize("by", BY)
def test_the_factors_of_several_backwards_decide_as_their_sum(by):
    dice = torch.Generator().manual_seed(8)
    layer = layer_of(dice, 24, 30, 60, 5)
    layer.budget = int(layer.support().sum())
    layer.budgets = torch.tensor([layer.budget])
    backwards = [[torch.randint(-2, 3, (n, m), generator=dice).float() for m in (24, 30)] for n in (2, 4, 3)]
    layer.watch(["gradient"])
    for dy, x in backwards:
        layer.see(dy, x)
    assert len(layer.factors()) == 3
    assert layer.sums() == []
    watching = stream.Stream(layer, 25, active=False, adapt=by)
    watching.take(layer.factors())
    dys, xs = (torch.cat(one) for one in zip(*backwards, strict=True))
    (want,) = decide([layer.part(evidence(dys, xs))], Settings(preset="sensitivity", adapt=by), torch.tensor([20]))
    got = watching.decide(20)
    assert all(getattr(got, w).tolist() == getattr(want, w).tolist() for w in ("dropped", "grown", "pruned", "left"))
    # 14 rows of 54 numbers are more than the 720 of the gradient
    layer.see(*backwards[0])
    layer.see(torch.ones(3, 24), torch.ones(3, 30))
    assert layer.factors() == []
    want = dys.T @ xs + backwards[0][0].T @ backwards[0][1] + 3
    assert torch.equal(layer.evidence(1)["gradient"], want)


@pytest.mark.parametrize("preset", ["seft", "active-only"])
def test_a_step_of_several_backwards_keeps_no_matrix_where_factors_are_smaller(preset, monkeypatch):
    settings = Settings(density=0.2, evolve_every=3, drop_fraction=0.9, preset=preset)
    data = torch.stack([row["input_ids"] for row in tiny.texts(14)]).split(1)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 32}
    supports = []
    for held in (True, False):
        made = tiny.wrapped(settings, **sizes)
        monkeypatch.setattr(Settings, "streams", property(lambda self, held=held: held))
        evolution = Evolution(made, SeftOptimizer(made, lr=0.01), settings, 7)
        evolution.attach(max_norm=1.0)
        for t in range(7):
            for row in data[2 * t : 2 * t + 2]:
                (made(input_ids=row, labels=row).loss / 2).backward()
            assert not any(total.numel() == 64 * 64 for layer in evolution.layers.values() for total in layer.sums())
            evolution._optimizer.step()
            evolution._optimizer.zero_grad()
        supports.append([layer.support() for layer in evolution.layers.values()])
    assert all(torch.equal(a, b) for a, b in zip(*supports, strict=True))


def test_GRD_008_an_infinite_square_off_the_support_is_not_read():
    mask = torch.eye(3, dtype=torch.bool)
    layer = SeftLinear(torch.eye(3), mask, 2, settings=Settings(preset="seft"))
    layer.place(torch.tensor([0]))
    watching = stream.Stream(layer, 2, active=False, adapt="token-fisher")
    # dy x is 3e19 at one position off the support, and its square is beyond float32
    dy, x = torch.tensor([[1e10, 0, 0], [0, 1, 1]]), torch.tensor([[0, 3e9, 0], [1, 1, 1]])
    watching.take([(dy, x)])
    assert 1 in watching.decide(1).grown.tolist()


def both_ways(rule, weight, dy, x, slots, phi, n_drop, delta_budget):
    """Return what the candidates and the whole gradient decide, or the clause by which they refuse."""
    layer = SeftLinear(torch.tensor([weight]), torch.tensor([[w != 0 for w in weight]]), delta_budget, settings=rule)
    layer.place(torch.tensor(slots))
    layer.values.data[: len(slots)] = torch.tensor(phi)
    layer.refresh()
    dy, x = torch.tensor([dy]), torch.tensor([x])
    adapt, active = rule.adapt if rule.prunes else None, rule.grow_scope == "active"
    watching = stream.Stream(layer, n_drop + delta_budget - len(slots), active=active, adapt=adapt)
    watching.see(dy, x)
    counts, said = torch.tensor([n_drop]), []
    for one in (
        lambda: watching.decide(n_drop),
        lambda: decide([layer.part({name: evidence(dy, x)[name] for name in rule.asks()})], rule, counts)[0],
    ):
        try:
            said.append([getattr(one(), what).tolist() for what in ("dropped", "grown", "pruned")])
        except SeftError as error:
            said.append(error.clause)
    return said


def test_evt_005_an_event_is_refused_as_with_the_whole_gradient():
    free = Settings(preset="sensitivity")
    # |g W| of a weight without a slot is infinite: refused where weights are pruned
    overflowing = both_ways(free, [1e20, 1.0, 2.0, 0.0], [1.0], [1e20, 1.0, 0.1, 1e21], [2], [0.5], 1, 1)
    assert overflowing == ["SEL-004"] * 2
    # unless it is new, and so exempt
    grown = both_ways(free, [1e20, 1.0, 2.0, 0.0], [1.0], [1e20, 1.0, 0.1, 0.5], [2], [0.5], 1, 1)
    assert grown[0] == grown[1] == [[2], [0], []]
    # |g W| of a slot is infinite, and nothing is pruned: no score is ranked
    unranked = both_ways(free, [1e20, 1.0, 2.0, 0.0], [1.0], [1e20, 3e20, 0.1, 0.0], [0, 2], [5.0, 0.5], 1, 2)
    assert unranked[0] == unranked[1] == [[2], [1], []]
    # the evidence of adapt is looked at where growth on the base leaves nothing to prune
    for adapt in ("fisher", "token-fisher"):
        rule = Settings(preset="active-only", adapt=adapt)
        assert both_ways(rule, [3.0, 1.0, 2.0, 0.0], [1.0], [1e20, 1.0, 0.1, 1.0], [2], [0.5], 1, 1) == ["EVT-005"] * 2
