"""Optimizers against torch's, and against SpIEL's in loops written from notes on its source."""

import math

import numpy as np
import pytest

from seft_ref.topology.csr import flat
from seft_ref.update.delta import Delta, move_delta, new_delta
from seft_ref.update.optimizers import AdamW, Sgd, Sm3, SpielAdamW

DTYPES = [np.float64, np.float32]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


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
    for g in gradients(n, steps, dtype):
        delta = optimizer.step(delta, g, lr)
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
        for g in gradients(n, steps, dtype):
            late = SpielAdamW(beta1, beta2, eps, decay).step(late, g, lr)
        assert (np.abs(late.values - their_path[-1]) > 1e3 * bound).all()


@dtypes
@pytest.mark.parametrize("rise", [1, 2, 7, 100])
def test_OPT_010_the_rise_of_slots_of_one_age_is_a_warmup_of_torchs_adamw(dtype, rise):
    torch = pytest.importorskip("torch")
    lr, steps, n = 0.03, 30, 17
    optimizer = AdamW(slot_warmup=rise)
    values = np.random.default_rng(4).normal(size=n).astype(dtype)
    delta = some_delta(values, optimizer)
    parameter = torch.nn.Parameter(torch.from_numpy(values.copy()))
    theirs = torch.optim.AdamW([parameter], lr=lr, weight_decay=0.0)
    ours_path, their_path = [], []
    for step, g in enumerate(gradients(n, steps, dtype), 1):
        delta = optimizer.step(delta, g, lr)
        theirs.param_groups[0]["lr"] = lr * min(1.0, step / rise)
        parameter.grad = torch.from_numpy(g.copy())
        theirs.step()
        ours_path.append(delta.values)
        their_path.append(parameter.detach().numpy().copy())
    bound = rounding_bound(dtype, steps, lr, their_path)
    assert (np.abs(np.array(ours_path, float) - np.array(their_path, float)) <= bound).all()


def test_OPT_010_each_slot_rises_by_its_own_age_and_decay_does_not():
    optimizer = AdamW(weight_decay=0.5, slot_warmup=4)
    delta = some_delta(np.array([1.0, 1.0, 1.0]), optimizer)
    delta.kept["age"][:] = [0, 2, 9]
    plain = Delta(delta.topology, delta.values, delta.kept)
    g, lr = np.array([1.0, -2.0, 0.5]), 0.1
    risen, full = optimizer.step(delta, g, lr).values, AdamW(weight_decay=0.5).step(plain, g, lr).values
    decayed = 1.0 - lr * 0.5
    np.testing.assert_allclose((risen - decayed) / (full - decayed), [0.25, 0.75, 1.0], rtol=1e-12)


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
        delta = optimizer.step(delta, g, lr)
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
