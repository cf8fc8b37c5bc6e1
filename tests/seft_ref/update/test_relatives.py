"""Rules and optimizers against the programs they come from: RigL, torch's AdamW and SGD, SpIEL, SET.

What SpIEL and RigL do is written here from notes on their source, in loops and in torch, and not from ours.
"""

import math

import numpy as np
import pytest

from seft_ref.evidence import View, evidence
from seft_ref.gradients import loss_and_gradients
from seft_ref.kernels import reference
from seft_ref.settings import settings_of
from seft_ref.topology import flat, from_flat
from seft_ref.train import step_batches
from seft_ref.update.criteria import USE_GROW, Chance
from seft_ref.update.delta import Base, Delta, effective_at, move_delta, new_delta
from seft_ref.update.evolve import Part, evolve
from seft_ref.update.optimizers import AdamW, Sgd, Sm3, SpielAdamW
from seft_ref.update.schedule import drop_fraction_at
from seft_ref.window import Window
from tests.seft_ref.rule_runs import TOKENS, begin, chance_by_hand, count, short, support_of, walk, watch

DTYPES = [np.float64, np.float32]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])

# ---- RigL -------------------------------------------------------------------------------------------------------


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
        at, weight = effective_at(self.base, self.delta)
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
        (known,) = evidence([View(seen, self.base, self.delta)], rule, n_drop)
        part = Part(self.base, self.delta, known, self.budget, self.budget)
        (did,) = evolve([part], n_drop=n_drop, rule=rule)
        self.base, self.delta = did.base, did.delta
        return did

    def take(self, gradient):
        """One step of a run; what the event did, or None."""
        self.step += 1
        timetable = self.settings.timetable()
        if timetable.is_event(self.step):
            return self.event(gradient, count(timetable.fraction(self.step) * self.delta.topology.nnz))
        at = gradient.reshape(-1)[flat(self.delta.topology)]
        self.delta = self.settings.optimizer.step(self.delta, at, self.settings.lr, self.step)
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


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
@dtypes
def test_DROP_004_rigl_moves_the_mask_as_the_package_rigl_torch_does(shape, density, alpha, dtype):
    pytest.importorskip("rigl_torch", reason="pip install rigl-torch torchvision")
    import torch
    from rigl_torch.RigL import RigLScheduler

    weight, mask, gradient, momentum = a_layer(shape, density, 11, dtype)
    layer = torch.nn.Linear(shape[1], shape[0], bias=False, dtype=getattr(torch, np.dtype(dtype).name))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.02, momentum=0.9)
    scheduler = RigLScheduler(
        layer, optimizer, dense_allocation=density, T_end=75, ignore_linear_layers=False, delta=10, alpha=alpha
    )
    # in the middle of a run: ours for weight, mask, and momentum, one step before an event
    scheduler.backward_masks[0], scheduler.step = torch.from_numpy(mask.copy()), 9
    layer.weight.data = torch.from_numpy(weight.copy())
    optimizer.state[layer.weight]["momentum_buffer"] = torch.from_numpy(momentum.copy())
    (layer.weight * torch.from_numpy(gradient)).sum().backward()
    assert not scheduler()
    ours = OurRigl(weight, mask, RIGL, momentum)
    did = ours.event(gradient, int(int(mask.sum()) * drop_fraction_at(10, 75, alpha)))
    assert len(did.grown) > 0 or len(did.dropped) == 0
    assert (ours.mask() == scheduler.backward_masks[0].numpy()).all()
    assert (ours.dense() == layer.weight.detach().numpy()).all()
    assert (ours.momentum() == optimizer.state[layer.weight]["momentum_buffer"].numpy()).all()


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
    pytest.importorskip("rigl_torch", reason="pip install rigl-torch torchvision")
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


# ---- torch's optimizers -----------------------------------------------------------------------------------------


def gradients(n_slots, steps, dtype, seed=0):
    """Gradients of sizes that differ by slot, some of them zero."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-4, 3, n_slots)
    made = rng.normal(size=(steps, n_slots)) * scale
    made[rng.random(made.shape) < 0.1] = 0
    return made.astype(dtype)


def some_delta(values, optimizer, shape=(5, 8)):
    at = np.sort(np.random.default_rng(1).permutation(shape[0] * shape[1])[: len(values)]).astype(np.int64)
    start = new_delta(shape, at, values, optimizer.keeps, {"rows": shape[0], "columns": shape[1]})
    return Delta(start.topology, values.copy(), start.kept, start.shared)


def rounding_bound(dtype, steps, lr, path):
    """Both programs round some ten times a step; each error is at most half an ulp of a term no larger than lr times a
    ratio of order 1, or than φ itself, and what is lost stays lost: errors add up over the steps.
    """
    return steps * 16 * np.finfo(dtype).eps * (lr + np.max(np.abs(path), axis=0))


@dtypes
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.999, 1e-8), (0.5, 0.9, 1e-3)])
def test_OPT_001_adamw_is_torchs_slot_by_slot(dtype, decay, beta1, beta2, eps):
    torch = pytest.importorskip("torch")
    lr, steps, n = 0.03, 30, 17
    optimizer = AdamW(beta1, beta2, eps, decay)
    values = np.random.default_rng(4).normal(size=n).astype(dtype)
    delta = some_delta(values, optimizer)
    parameter = torch.nn.Parameter(torch.from_numpy(values.copy()))
    theirs = torch.optim.AdamW([parameter], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    ours_path, their_path = [], []
    for t, g in enumerate(gradients(n, steps, dtype), start=1):
        delta = optimizer.step(delta, g, lr, t)
        parameter.grad = torch.from_numpy(g.copy())
        theirs.step()
        ours_path.append(delta.values)
        their_path.append(parameter.detach().numpy().copy())
    assert delta.values.dtype == their_path[-1].dtype == dtype
    bound = rounding_bound(dtype, steps, lr, their_path)
    assert (np.abs(np.array(ours_path, float) - np.array(their_path, float)) <= bound).all()
    assert delta.kept["age"].tolist() == [steps] * n
    # far from a coincidence: the other order of decay would be seen
    if decay and dtype is np.float64:
        late = some_delta(values, optimizer)
        for t, g in enumerate(gradients(n, steps, dtype), start=1):
            late = SpielAdamW(beta1, beta2, eps, decay).step(late, g, lr, t)
        assert (np.abs(late.values - their_path[-1]) > 1e3 * bound).all()


@dtypes
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.1)])
def test_OPT_007_sgd_is_torchs_slot_by_slot(dtype, momentum, decay):
    torch = pytest.importorskip("torch")
    lr, steps, n = 0.03, 30, 17
    optimizer = Sgd(momentum, decay)
    values = np.random.default_rng(4).normal(size=n).astype(dtype)
    delta = some_delta(values, optimizer)
    parameter = torch.nn.Parameter(torch.from_numpy(values.copy()))
    theirs = torch.optim.SGD([parameter], lr=lr, momentum=momentum, dampening=0)
    largest = np.zeros(n)
    for g in gradients(n, steps, dtype):
        delta = optimizer.step(delta, g, lr)
        # torch's own weight decay adds to the gradient; ours is decoupled (OPT-007), so it is applied apart
        with torch.no_grad():
            parameter *= 1 - lr * decay
        parameter.grad = torch.from_numpy(g.copy())
        theirs.step()
        largest = np.maximum(largest, np.abs(g) / (1 - momentum) + np.abs(delta.values))
    # errors of the momentum, relative to the largest gradient, are summed 1 / (1 − μ) times
    bound = steps * 16 * np.finfo(dtype).eps * largest / (1 - momentum)
    assert (np.abs(delta.values.astype(float) - parameter.detach().numpy()) <= bound).all()


# ---- SpIEL's optimizers -----------------------------------------------------------------------------------------

SPIEL = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-6}


def sft_adamw(slot, g, lr, decay):
    """SpIEL's AdamW on one slot (p, m, v, a): the age starts at 1 and is raised after the update."""
    p, m, v, a = slot
    b1, b2, eps = SPIEL["beta1"], SPIEL["beta2"], SPIEL["eps"]
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    denominator = (math.sqrt(v) + eps) * (1 - b1**a) / math.sqrt(1 - b2**a)
    p -= lr * m / denominator
    p -= lr * decay * p
    return p, m, v, a + 1


@dtypes
@pytest.mark.parametrize("decay", [0.0, 3.0])
def test_OPT_006_spiel_adamw_is_a_loop_over_slots_and_seeds_alike(dtype, decay):
    lr, n = 0.01, 12
    optimizer = SpielAdamW(**SPIEL, weight_decay=decay)
    values = np.random.default_rng(4).normal(size=n).astype(dtype)
    delta = some_delta(values, optimizer)
    slots = {p: (float(x), 0.0, 0.0, 1) for p, x in zip(flat(delta.topology).tolist(), values, strict=True)}
    all_steps = gradients(n, 31, dtype)
    largest = np.zeros(n)
    for t, g in enumerate(all_steps, start=1):
        delta = optimizer.step(delta, g, lr, t)
        at = flat(delta.topology).tolist()
        for p, x in zip(at, g.tolist(), strict=True):
            slots[p] = sft_adamw(slots[p], x, lr, decay)
        largest = np.maximum(largest, np.abs(delta.values))
        if t == 10:
            # three slots give way to three that have seen 6 steps: mean g and mean g² of a window, in order of position
            gone, a = at[2:8:2], 6
            come = [p for p in range(40) if p not in at][:3]
            mean, square = np.array([0.5, -2.0, 1e-3], dtype), np.array([0.5, 4.5, 2e-6], dtype)
            seeds = optimizer.seeds(mean, square, a)
            delta = move_delta(delta, np.array(sorted((set(at) - set(gone)) | set(come))), seeds)
            for p in gone:
                del slots[p]
            for p, g1, g2 in zip(come, mean.tolist(), square.tolist(), strict=True):
                slots[p] = (0.0, g1 * (1 - SPIEL["beta1"] ** a), g2 * (1 - SPIEL["beta2"] ** a), a)
            largest[:] = np.max(largest)
    assert flat(delta.topology).tolist() == sorted(slots)
    wanted = np.array([slots[p][0] for p in sorted(slots)])
    bound = 31 * 16 * np.finfo(dtype).eps * (lr * (1 + lr * decay) + largest)
    assert (np.abs(delta.values - wanted) <= bound).all()
    # our age counts updates, SpIEL's is one ahead
    assert delta.kept["age"].tolist() == [slots[p][3] - 1 for p in sorted(slots)]


@pytest.mark.parametrize(
    ("steps", "on_m", "on_update"), [(5, 1.144, 1.045), (6, 1.113, 1.031)], ids=["5 steps", "6 steps"]
)
def test_DLT_006_a_seeded_slot_of_spiel_overshoots_once(steps, on_m, on_update):
    optimizer, g = SpielAdamW(eps=1e-30), np.array([0.25])
    start = new_delta((1, 1), np.array([0]), g, optimizer.keeps)
    kept = {**start.kept, **optimizer.seeds(g, g * g, steps)}
    after = optimizer.step(Delta(start.topology, start.values, kept), g, lr=1.0)
    # under a constant gradient m / (1 − β₁^a) should be g; the correction lags one step behind
    assert round(float(after.kept["first_moment"][0]) / (1 - 0.9**steps) / 0.25, 3) == on_m
    assert round(-float(after.values[0]), 3) == on_update
    # ours does not: AdamW seeded takes exactly lr
    ours = AdamW(eps=1e-30)
    kept = {**start.kept, **ours.seeds(g, g * g, steps)}
    after = ours.step(Delta(start.topology, start.values, kept), g, lr=1.0)
    assert -after.values[0] == pytest.approx(1.0, rel=1e-12)


def sft_sm3(slots, r, c, g, lr, eps, decay):
    """SpIEL's SM3-II on the slots {(i, j): p}: accumulators r of rows and c of columns from before the step."""
    nu = {(i, j): min(r[i], c[j]) + g[i, j] ** 2 for i, j in slots}
    r = [max([held, *(n for (i, _), n in nu.items() if i == row)]) for row, held in enumerate(r)]
    c = [max([held, *(n for (_, j), n in nu.items() if j == column)]) for column, held in enumerate(c)]
    after = {}
    for at, p in slots.items():
        p = p - lr * g[at] / math.sqrt(nu[at] + eps)
        after[at] = p - lr * decay * p
    return after, r, c


@dtypes
@pytest.mark.parametrize("decay", [0.0, 3.0])
def test_OPT_008_sm3_is_a_loop_over_rows_and_columns(dtype, decay):
    lr, n, shape = 0.02, 14, (5, 8)
    optimizer = Sm3(eps=1e-8, weight_decay=decay)
    values = np.random.default_rng(4).normal(size=n).astype(dtype)
    delta = some_delta(values, optimizer, shape)
    slots = {divmod(p, 8): float(x) for p, x in zip(flat(delta.topology).tolist(), values, strict=True)}
    r, c = [0.0] * shape[0], [0.0] * shape[1]
    largest = np.max(np.abs(values)).astype(float)
    for t, g in enumerate(gradients(n, 30, dtype), start=1):
        at = flat(delta.topology).tolist()
        delta = optimizer.step(delta, g, lr)
        slots, r, c = sft_sm3(
            slots, r, c, {divmod(p, 8): x for p, x in zip(at, g.tolist(), strict=True)}, lr, 1e-8, decay
        )
        largest = max(largest, np.max(np.abs(delta.values)))
        if t == 12:
            # an event moves slots and nothing of the accumulators
            gone, come = at[1:7:3], [p for p in range(40) if p not in at][-2:]
            delta = move_delta(delta, np.array(sorted((set(at) - set(gone)) | set(come))))
            for p in gone:
                del slots[divmod(p, 8)]
            slots |= {divmod(p, 8): 0.0 for p in come}
    wanted = np.array([slots[at] for at in sorted(slots)])
    assert [divmod(p, 8) for p in flat(delta.topology).tolist()] == sorted(slots)
    eps = np.finfo(dtype).eps
    assert np.max(np.abs(delta.values - wanted)) <= 30 * 16 * eps * (lr * (1 + lr * decay) + largest)
    # sums of squares: relative errors, one rounding or two a step
    np.testing.assert_allclose(delta.shared["rows"], r, rtol=30 * 4 * eps)
    np.testing.assert_allclose(delta.shared["columns"], c, rtol=30 * 4 * eps)


# ---- SpIEL-AG ---------------------------------------------------------------------------------------------------


def whole_gradients(run, state):
    """The gradient of every target at the next step's data, flat."""
    windows = {n: Window(t.base.topology.shape) for n, t in state.targets.items()}
    batches = step_batches(run.settings, TOKENS, state.step + 1, state.weights)
    kept = loss_and_gradients(state.weights, run.config, batches, reference, {}, windows).kept
    return {n: w.latest.whole().reshape(-1) for n, w in kept.items()}


def spiel_selection(phi, steps, rate):
    """SpIEL's `select_rigl` on one matrix {position: value} and the gradients of the steps of its phase: the positions
    that leave and those that come, and of these mean g and mean g².
    """
    k, samples = len(phi), len(steps)
    candidates = sorted(range(len(steps[0])), key=lambda p: (-abs(steps[0][p]), p))[:k]
    total = {p: sum(float(g[p]) for g in steps) for p in candidates}
    square = {p: sum(float(g[p]) ** 2 for g in steps) for p in candidates}
    outgoing = sorted(phi, key=lambda p: (abs(phi[p]), p))[: int(k * rate + 2.0**-20)]
    valid = [p for p in candidates if p not in phi or p in outgoing]
    incoming = sorted(valid, key=lambda p: (-abs(total[p]), p))[: len(outgoing)]
    come = [p for p in incoming if p not in outgoing]
    # fewer may come than leave: only those of the smallest values make room
    gone = [p for p in outgoing if p not in incoming][: len(come)]
    return gone, {p: (total[p] / samples, square[p] / samples) for p in come}, candidates


def spiel_run(monkeypatch, density):
    """A run of the preset: for each event the state after it, its record, the matrices as it met them, and the whole
    gradients of the steps of its phase.
    """
    settings = settings_of("spiel-ag", steps=50, batch=3, length=9, lr=0.02, density=density)
    assert (settings.evolve_every, settings.gradient_window, settings.max_norm) == (20, 5, 0)
    events, phase, found, windows = watch(monkeypatch), [], [], {}
    run = begin(settings, dtype=np.float64)
    for before, after, record in walk(run):
        # SpIEL's own words: hooks are on at the start and when (c + 1) mod R is 0, until c mod R is A
        if phase or before.step == 0 or (before.step + 1) % 20 == 0:
            phase.append(whole_gradients(run, before))
        windows[after.step] = {w.settled_steps for w in after.window.values()}
        if after.step % 20 == 5:
            found.append((after, record, events[-1].matrices, phase))
            phase = []
    assert len(events) == len(found)
    return found, windows


def rate_at(step):
    return 1.0 if step == 5 else 0.2 * (1 - step / 50)


def test_SCH_005_SCH_008_a_run_of_spiel_ag_selects_after_5_25_and_45(monkeypatch):
    found, windows = spiel_run(monkeypatch, 0.2)
    assert [(after.step, len(phase)) for after, _, _, phase in found] == [(5, 5), (25, 6), (45, 6)]
    assert {step for step, sizes in windows.items() if sizes} == {*range(1, 5), *range(20, 25), *range(40, 45)}
    assert [windows[s] for s in (1, 4, 20, 24, 40, 44)] == [{1}, {4}, {1}, {5}, {1}, {5}]
    later = 0
    for after, record, matrices, phase in found:
        for (name, target), m in zip(after.targets.items(), matrices, strict=True):
            k = target.delta_budget
            assert len(m.phi) == target.delta.topology.nnz == k
            _, _, candidates = spiel_selection(m.phi, [g[name] for g in phase], 1.0)
            if after.step == 5:
                # GROW-006: everything, but not more than there are candidates outside η
                assert record.matrices[name].dropped == min(k, len(set(candidates) - set(m.phi)))
            else:
                assert record.matrices[name].dropped == int(rate_at(after.step) * k + 2.0**-20)
                later += record.matrices[name].dropped
    assert later > 0


def agrees_with_spiel(target, m, steps, rate):
    """Fail unless an event left the slots that SpIEL's selection leaves, and seeded the new ones as it does."""
    gone, come, _ = spiel_selection(m.phi, steps, rate)
    delta = target.delta
    eta = flat(delta.topology).tolist()
    assert eta == sorted((set(m.phi) - set(gone)) | set(come))
    for slot, p in enumerate(eta):
        now = [delta.values[slot], *(delta.kept[n][slot] for n in ("first_moment", "second_moment", "age"))]
        if p not in come:
            assert now == [m.phi[p], *(m.kept[n][p] for n in ("first_moment", "second_moment", "age"))]
            continue
        mean, square = come[p]
        a = len(steps)
        np.testing.assert_allclose(now[:3], [0, mean * (1 - 0.9**a), square * (1 - 0.999**a)], rtol=1e-12)
        assert now[3] == a - 1
    return len(come)


def selections(found):
    for after, _, matrices, phase in found:
        for (name, target), m in zip(after.targets.items(), matrices, strict=True):
            steps = [g[name] for g in phase]
            wanted = int(rate_at(after.step) * len(m.phi) + 2.0**-20)
            _, _, candidates = spiel_selection(m.phi, steps, 1.0)
            yield target, m, steps, rate_at(after.step), len(set(candidates) - set(m.phi)) < wanted


def test_GRD_007_GROW_006_spiel_ag_selects_and_seeds_as_spiel_does_where_candidates_suffice(monkeypatch):
    found, _ = spiel_run(monkeypatch, 0.1)
    done = [
        agrees_with_spiel(target, m, steps, rate) for target, m, steps, rate, scarce in selections(found) if not scarce
    ]
    assert len(done) > 10
    assert sum(done) > 8


@pytest.mark.xfail(
    reason="GROW-006 drops no more than there are candidates outside η; SpIEL drops all and lets the largest that do"
    " not come back stay: after the first selection its slots are exactly the candidates",
    strict=True,
)
def test_GROW_006_spiel_ag_selects_as_spiel_does_where_candidates_lie_in_the_delta(monkeypatch):
    found, _ = spiel_run(monkeypatch, 0.1)
    scarce = [of for of in selections(found) if of[-1]]
    assert scarce
    for target, m, steps, rate, _ in scarce:
        agrees_with_spiel(target, m, steps, rate)


@pytest.mark.xfail(
    reason="a window of candidates first-step keeps no inputs, which adapt activation and curvature look at",
    raises=AssertionError,
    strict=True,
)
@pytest.mark.parametrize("adapt", ["activation", "curvature"])
def test_GRD_006_GROW_006_first_step_candidates_beside_adaptation_by_inputs(adapt):
    run = begin(short(candidates="first-step", adapt=adapt, gradient_window=2, steps=5))
    for _ in walk(run):
        pass


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


def test_SCH_001_the_rate_of_rigl_is_a_cosine_that_ends_at_three_quarters():
    timetable = RIGL.timetable()
    assert [s for s in range(1, 101) if timetable.is_event(s)] == [10, 20, 30, 40, 50, 60, 70]
    for step in (10, 70):
        assert (
            timetable.fraction(step)
            == drop_fraction_at(step, 75, 0.3)
            == 0.5 * 0.3 * (1 + math.cos(math.pi * step / 75))
        )
