"""The presets `rigl` and `set` against the programs they come from.

What RigL does is written here in torch from notes on its source, not from ours; its package is asked if present.
"""

import itertools
import math

import numpy as np
import pytest

from seft_ref.arrays.library import int64_like
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import Window
from seft_ref.topology.csr import flat, from_flat
from seft_ref.train.settings import settings_of
from seft_ref.update.criteria import USE_GROW, Chance
from seft_ref.update.delta import Base, Delta, new_delta, overlay
from seft_ref.update.evolve import Part, evolve
from seft_ref.update.schedule import drop_fraction_at
from tests.seft_ref.rule_events import chance_by_hand, count, hand_matrix, watch
from tests.seft_ref.rule_runs import begin, short, support_of, walk
from tests.seft_ref.update.one_matrix import one_pool

DTYPES = [np.float64, np.float32]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


class OurRigl:
    """The preset `rigl` on one matrix, given its gradient from outside."""

    def __init__(self, weight, mask, settings, momentum=None):
        self.settings, self.step = settings, 0
        at = np.flatnonzero(mask).astype(np.int64)
        base = Base(from_flat(mask.shape, at), weight.reshape(-1)[at])
        self.base, self.delta = base, new_delta(mask.shape, at, base.values, settings.keeps())
        self.budget = len(at)
        if momentum is not None:
            self.delta = Delta(self.delta.topology, self.delta.values, {"momentum": momentum.reshape(-1)[at]})

    def dense(self, values=None):
        over = overlay(self.base, self.delta)
        at, weight = over.positions(), over.weight
        out = np.zeros(self.base.topology.numel, dtype=weight.dtype)
        out[at] = weight if values is None else values
        return out.reshape(self.base.topology.shape)

    def momentum(self):
        return self.dense(self.delta.kept["momentum"])

    def mask(self):
        return self.dense(np.ones(self.delta.topology.nnz)) != 0

    def event(self, gradient, n_drop):
        rule = self.settings.rule
        seen = Window(gradient.shape, rule.asks(), settled_steps=1, gradient=gradient)
        n = int64_like([n_drop], gradient)
        (known,) = evidence([View(seen, self.base, self.delta)], rule, n)
        pools = one_pool(gradient, self.budget, self.budget)
        (did,) = evolve([Part(self.base, self.delta, known)], pools, n_drop=n, rule=rule)
        self.base, self.delta = did.base, did.delta
        return did

    def take(self, gradient):
        """One step of a run; what the event did, or None."""
        self.step += 1
        timetable = self.settings.timetable()
        if timetable.is_event(self.step):
            return self.event(gradient, count(timetable.fraction(self.step) * self.delta.topology.nnz))
        at = gradient.reshape(-1)[flat(self.delta.topology)]
        self.delta = self.settings.optimizer.step(self.delta, at, self.settings.lr)
        return None


def rigl_in_torch(weight, mask, gradient, n_prune):
    """RigL's masks as its source makes them, without the noise: (kept, new mask, new connections)."""
    torch = pytest.importorskip("torch")
    weight, mask, gradient = (torch.from_numpy(np.ascontiguousarray(a)).reshape(-1) for a in (weight, mask, gradient))
    n_keep = int(mask.sum()) - n_prune
    kept = torch.zeros_like(mask)
    kept[torch.topk(torch.abs(mask * weight), n_keep).indices] = True
    lifted = torch.where(kept, torch.abs(gradient).min() - 1, torch.abs(gradient))
    grown = torch.zeros_like(mask)
    grown[torch.topk(lifted, n_prune).indices] = True
    assert not bool((kept & grown).any())
    return kept.numpy(), (kept | grown).numpy(), (grown & ~mask).numpy()


def a_layer(shape, density, seed, dtype):
    """Weight, mask, gradient and momentum without ties."""
    rng = np.random.default_rng(seed)
    size = shape[0] * shape[1]
    mask = np.zeros(size, dtype=bool)
    mask[rng.permutation(size)[: max(1, int(density * size))]] = True
    weight, gradient, momentum = ((rng.permutation(size) + 1.0) * rng.choice([-1, 1], size) / size for _ in range(3))
    masked = [(a * m).reshape(shape).astype(dtype) for a, m in ((weight, mask), (gradient, 1), (momentum, mask))]
    return masked[0], mask.reshape(shape), masked[1], masked[2]


SHAPES = [(1, 9), (7, 5), (16, 24), (300, 11)]
RIGL = settings_of("rigl", steps=100, evolve_every=10, lr=0.05)


def regrown_keep_all_and_new_ones_start_at_zero(ours, before, mask, grown):
    """GROW-003 and DLT-005: positions in both masks keep weight and momentum bit for bit."""
    weight, momentum = before
    now = ours.mask()
    still = mask & now
    assert (ours.dense()[still] == weight[still]).all()
    assert (ours.momentum()[still] == momentum[still]).all()
    assert not ours.dense()[grown].any()
    assert not ours.momentum()[grown].any()
    assert not ours.dense()[~now].any()


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [0.2, 0.5, 0.9, 1.0])
def test_DROP_004_rigl_moves_the_mask_as_rigl_does(shape, density, dtype):
    together = 0
    for seed, fraction in enumerate((0.0, 0.05, 0.3, 0.5, 0.9, 1.0)):
        weight, mask, gradient, momentum = a_layer(shape, density, seed, dtype)
        ours = OurRigl(weight, mask, RIGL, momentum)
        n_prune = int(int(mask.sum()) * fraction)
        did = ours.event(gradient, n_prune)
        kept, new_mask, grown = rigl_in_torch(weight, mask, gradient, n_prune)
        assert (ours.mask() == new_mask.reshape(shape)).all()
        assert sorted(did.grown.tolist()) == np.flatnonzero(grown).tolist()
        # dropped and grown at once
        both = new_mask & ~kept & mask.reshape(-1)
        assert did.cancelled.tolist() == np.flatnonzero(both).tolist()
        together += both.sum()
        regrown_keep_all_and_new_ones_start_at_zero(ours, (weight, momentum), mask, grown.reshape(shape))
        assert ours.mask().sum() == mask.sum()
    assert together > 0 or mask.sum() == 1


@dtypes
def test_DROP_004_rigl_moves_the_mask_as_the_package_rigl_torch_does(dtype):
    moved = 0
    for seed, (shape, density, alpha) in enumerate(itertools.product(SHAPES[1:], (0.2, 0.5, 0.9), (0.1, 0.5, 1.0))):
        layer = a_layer(shape, density, seed, dtype)
        weight, mask, momentum = one_event_of_rigl_torch(layer, density, alpha)
        ours = OurRigl(layer[0], layer[1], RIGL, layer[3])
        did = ours.event(layer[2], int(int(layer[1].sum()) * drop_fraction_at(10, 75, alpha)))
        moved += len(did.grown)
        assert (ours.mask() == mask).all()
        assert (ours.dense() == weight).all()
        assert (ours.momentum() == momentum).all()
    assert moved > 0


def one_event_of_rigl_torch(of, density, alpha):
    """Weight, mask and momentum after the event that follows step 10 of 75."""
    import torch
    from rigl_torch.RigL import RigLScheduler

    weight, mask, gradient, momentum = (torch.from_numpy(a.copy()) for a in of)
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.02, momentum=0.9)
    scheduler = RigLScheduler(
        layer, optimizer, dense_allocation=density, T_end=75, ignore_linear_layers=False, delta=10, alpha=alpha
    )
    # in the middle of a run, one step before an event
    scheduler.backward_masks[0], scheduler.step = mask, 9
    layer.weight.data = weight
    optimizer.state[layer.weight]["momentum_buffer"] = momentum
    (layer.weight * gradient).sum().backward()
    assert not scheduler()
    momentum = optimizer.state[layer.weight]["momentum_buffer"]
    return layer.weight.detach().numpy(), scheduler.backward_masks[0].numpy(), momentum.numpy()


def least_squares(shape, seed):
    """Inputs and targets of a linear layer: the gradient of a weight is (x Wᵀ − y)ᵀ x / n."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, shape[1]))
    return x, x @ rng.normal(size=shape).T


def start_of(shape, density, seed):
    weight, mask, _, _ = a_layer(shape, density, seed, np.float64)
    return weight, mask


def follow(peer, weight, mask, x, y, settings):
    """Walk a run of ours beside a peer's: same masks always, same numbers up to rounding."""
    ours, events, moved, together = OurRigl(weight, mask, settings), 0, 0, 0
    for _ in range(settings.steps):
        w = ours.dense()
        before, was = (w, ours.momentum()), ours.mask()
        did = ours.take((x @ w.T - y).T @ x / len(x))
        if did is not None:
            events, moved, together = events + 1, moved + len(did.grown), together + len(did.cancelled)
            grown = np.isin(np.arange(w.size), did.grown).reshape(w.shape)
            regrown_keep_all_and_new_ones_start_at_zero(ours, before, was, grown)
        theirs, their_mask, their_momentum = peer()
        assert (ours.mask() == their_mask).all(), ours.step
        np.testing.assert_allclose(ours.dense(), theirs, rtol=0, atol=1e-11)
        np.testing.assert_allclose(ours.momentum(), their_momentum, rtol=0, atol=1e-11)
    assert events >= 3
    assert moved > 0
    assert together > 0


# E = 75 is no multiple of 10 or 7: what RigL's `step < T_end` and SCH-007's `t ≤ E` say of E itself does not matter
RUNS = [((9, 14), 0.5, 10, 0.3), ((20, 12), 0.3, 7, 0.5), ((6, 6), 0.9, 10, 0.9)]


@pytest.mark.parametrize(("shape", "density", "every", "alpha"), RUNS, ids=str)
def test_EVT_010_a_run_of_rigl_equals_one_in_torch(shape, density, every, alpha):
    torch = pytest.importorskip("torch")
    settings = settings_of("rigl", steps=100, evolve_every=every, drop_fraction=alpha, lr=0.02)
    x, y = least_squares(shape, 1)
    weight, mask = start_of(shape, density, 2)
    w, m = torch.from_numpy(weight.copy()), torch.from_numpy(mask.copy())
    u, tx, ty, step = torch.zeros_like(w), torch.from_numpy(x), torch.from_numpy(y), 0

    def peer():
        nonlocal w, m, u, step
        step += 1
        gradient = (tx @ w.T - ty).T @ tx / len(x)
        if step % every == 0 and step < 75:
            n = int(int(m.sum()) * (alpha / 2 * (1 + math.cos(math.pi * step / 75))))
            _, new, grown = rigl_in_torch(w.numpy(), m.numpy(), gradient.numpy(), n)
            m = torch.from_numpy(new.reshape(shape))
            w = torch.where(torch.from_numpy(grown.reshape(shape)), 0.0, w) * m
            u = u * m
        else:
            u = (0.9 * u + gradient) * m
            w = (w - 0.02 * u) * m
        return w.numpy(), m.numpy(), u.numpy()

    follow(peer, weight, mask, x, y, settings)


@pytest.mark.parametrize(("shape", "density", "every", "alpha"), RUNS, ids=str)
def test_EVT_010_a_run_of_rigl_equals_one_of_the_package_rigl_torch(shape, density, every, alpha):
    import torch
    from rigl_torch.RigL import RigLScheduler

    settings = settings_of("rigl", steps=100, evolve_every=every, drop_fraction=alpha, lr=0.02)
    x, y = least_squares(shape, 1)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    torch.manual_seed(3)
    layer = torch.nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.02, momentum=0.9)
    scheduler = RigLScheduler(
        layer, optimizer, dense_allocation=density, T_end=75, ignore_linear_layers=False, delta=every, alpha=alpha
    )

    def peer():
        optimizer.zero_grad()
        (0.5 * (layer(tx) - ty).square().sum() / len(x)).backward()
        if scheduler():
            optimizer.step()
        mask = scheduler.backward_masks[0].numpy()
        momentum = optimizer.state[layer.weight]["momentum_buffer"] * scheduler.backward_masks[0]
        return layer.weight.detach().numpy().copy(), mask.copy(), momentum.numpy()

    weight, mask = layer.weight.detach().numpy().copy(), scheduler.backward_masks[0].numpy().copy()
    follow(peer, weight, mask, x, y, settings)
    assert scheduler.rigl_steps >= 3


def test_SCH_001_the_rate_of_rigl_is_a_cosine_that_ends_at_three_quarters():
    timetable = RIGL.timetable()
    assert [s for s in range(1, 101) if timetable.is_event(s)] == [10, 20, 30, 40, 50, 60, 70]
    for step in (10, 70):
        assert (
            timetable.fraction(step)
            == drop_fraction_at(step, 75, 0.3)
            == 0.5 * 0.3 * (1 + math.cos(math.pi * step / 75))
        )


# ---- SET --------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("seed", [0, 9])
def test_RNG_003_set_keeps_its_count_and_grows_at_random(dtype, seed, monkeypatch):
    settings = settings_of("set", steps=16, evolve_every=4, batch=3, length=9, lr=0.05, seed=seed)
    assert (settings.rule.grow, settings.drop_fraction, settings.timetable().fraction(12)) == ("random", 0.3, 0.3)
    events = watch(monkeypatch)
    run = begin(settings, dtype=dtype)
    grown = 0
    for _, after, record in walk(run):
        for target in after.targets.values():
            assert len(support_of(target)) == target.base.topology.nnz + len(
                set(flat(target.delta.topology).tolist()) - set(flat(target.base.topology).tolist())
            )
            assert target.delta.topology.nnz == len(support_of(target)) == target.budget
        if record.event is None:
            continue
        for number, (m, target) in enumerate(zip(events.pop().matrices, after.targets.values(), strict=True)):
            n = math.floor(0.3 * len(m.phi) + 2.0**-20)
            smallest = sorted(m.phi, key=lambda p, m=m: (abs(m.weight(p)), p))[:n]
            open_to = set(range(m.shape[0] * m.shape[1])) - (set(m.phi) - set(smallest))
            words = (seed, 3, number, after.step, 2)
            drawn = sorted(open_to, key=lambda p, words=words: (-chance_by_hand(p, *words), p))[:n]
            assert support_of(target) == (set(m.phi) - set(smallest)) | set(drawn)
            new = set(drawn) - set(m.phi)
            assert not any(target.delta.values[flat(target.delta.topology).tolist().index(p)] for p in new)
            grown += len(new)
    assert grown > 100


def test_RNG_003_random_growth_is_uniform():
    # 400 draws of 30 of 100 positions: each is chosen 120 times, give or take 9.2
    chosen = np.zeros(100)
    for step in range(400):
        scores = Chance(seed=1, step=step).scores(2, np.arange(100), USE_GROW)
        chosen[np.argsort(-scores)[:30]] += 1
    assert chosen.sum() == 400 * 30
    assert np.abs(chosen - 120).max() < 4.5 * math.sqrt(400 * 0.3 * 0.7)
    assert np.std(chosen) == pytest.approx(math.sqrt(400 * 0.3 * 0.7), rel=0.25)


@dtypes
@pytest.mark.parametrize(
    "changes",
    [{"preset": "rigl"}, {"event_replaces_step": True}, {"event_replaces_step": True, "optimizer": "sm3"}],
    ids=["rigl", "adamw", "sm3"],
)
def test_EVT_010_at_an_event_the_optimizer_leaves_every_slot_alone(changes, dtype):
    run = begin(short(**changes), dtype=dtype)
    events = 0
    for before, after, record in walk(run):
        moved = 0
        for name, target in after.targets.items():
            was, now = hand_matrix(before.targets[name]), hand_matrix(target)
            stayed = set(was.phi) & set(now.phi)
            moved += sum(was.phi[p] != now.phi[p] for p in stayed)
            if record.event is not None:
                assert all(was.kept[part][p] == now.kept[part][p] for part in was.kept for p in stayed)
                assert was.shared == now.shared
        # at every other step it moves them
        assert (moved == 0) == (record.event is not None), after.step
        events += record.event is not None
    assert events == 2
