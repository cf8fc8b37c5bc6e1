"""Adapters against whole matrices, autograd, and what they promise of zeros (ADP-001 to ADP-009)."""

import tracemalloc
from functools import partial

import array_api_strict
import numpy as np
import pytest

from seft_ref.adapters.frozen import frozen
from seft_ref.adapters.lora import Lora, lora_initial, lora_merge, lora_star
from seft_ref.adapters.sparsepeft import sparsepeft_backward, sparsepeft_forward, sparsepeft_merge
from seft_ref.adapters.spp import Spp, spp_backward, spp_forward, spp_initial, spp_merge
from seft_ref.arrays.rng import counter_key, draw
from seft_ref.errors import AdapterError, KernelError
from seft_ref.kernels import cpu, reference
from seft_ref.prune.magnitude import magnitude_mask
from seft_ref.prune.wanda import wanda_mask
from seft_ref.topology.csr import flat, from_flat
from tests.backends import REFERENCE
from tests.compare import assert_close, same_bits
from tests.seft_ref.lone_adapters import ADAPTERS, Case, case_of, weights_of

KINDS = list(ADAPTERS)
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=["odd", "one-token", "empty-rows", "all-stored", "none-stored", "no-tokens"])
def case(request, kind):
    return case_of(kind, request.param)


# --- forward, backward and merge on whole matrices ---


def test_ADP_001_ADP_006_ADP_007_whole_matrices_give_the_same(case, backend):
    there = case.on(backend)
    want, got = case.expected(), there.run(reference)
    for name, value in want.items():
        assert_close(backend.numpy(got[name]), value, backend.tight, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_kernels_give_the_same(case, dtype):
    bound = {"float32": 1e-4, "float64": 1e-12}[dtype]
    got = case.as_dtype(dtype).run(cpu)
    for name, value in case.expected().items():
        assert got[name].dtype == dtype, name
        assert_close(got[name], value, bound, name)


def test_autograd_gives_the_same(case):
    torch = pytest.importorskip("torch")
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in case.moving().items()}
    w = torch.tensor(case.weight())
    stored = torch.zeros(w.numel(), dtype=torch.float64)
    stored[torch.tensor(case.positions)] = 1.0
    stored = stored.reshape(w.shape)
    a, s = leaves["a"], case.scale
    if case.kind == "spp":
        change = s * a.repeat_interleave(w.shape[0] // a.shape[0], dim=0) * leaves["c"][:, None] * w
    else:
        change = s * (leaves["b"] @ a) * (1.0 if case.kind == "lora" else stored)
    y = torch.nn.functional.linear(leaves["x"], w + change, torch.tensor(case.bias))
    y.backward(torch.tensor(case.dy))
    got = case.run(reference)
    assert_close(got["y"], y.detach().numpy(), 1e-12, "y")
    for name, leaf in leaves.items():
        assert_close(got[f"d{name}"], leaf.grad.numpy(), 1e-12, name)


def test_the_count_of_parameters_is_that_of_the_factors(case):
    n = sum(case.moving()[name].size for name in case.moving() if name != "x")
    assert case.adapter().n_parameters == n


# --- ADP-008, oracle 7: zeros stay zeros, and merging changes nothing but rounding ---


@pytest.mark.parametrize("kind", ["spp", "sparsepeft"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernels", [reference, cpu])
def test_ADP_008_the_support_stays_and_merging_only_rounds(kind, dtype, kernels):
    case = case_of(kind, "odd").as_dtype(dtype)
    before, after = case.weight(), case.weight(case.run(kernels)["merged"])
    off = np.setdiff1d(np.arange(before.size), case.positions)
    assert off.size > 40
    assert same_bits(after.reshape(-1)[off], before.reshape(-1)[off])
    assert not np.signbit(after.reshape(-1)[off]).any()

    base = frozen(case.topology(), case.run(kernels)["merged"], kernels, case.bias)
    merged = kernels.matmul(case.x, base.linear.weight) + case.bias
    gauge = np.abs(case.x) @ (np.abs(before) + np.abs(after - before)).T + np.abs(case.bias)
    tau = 8 + 2 * np.sqrt(before.shape[1] + 1)
    assert (np.abs(merged - case.run(kernels)["y"]) <= (2 * tau + 2) * UNIT[dtype] * gauge).all()


def test_ADP_008_a_weight_that_merges_to_zero_stays_stored():
    base = frozen(from_flat((2, 2), np.array([0, 3])), np.array([-6.0, 1.0]), reference)
    lora = Lora(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), 2.0)
    assert sparsepeft_merge(base, lora, reference).tolist() == [0.0, 17.0]
    spp = Spp(np.array([[-1.0, 5.0]]), np.array([1.0, 0.0]), 1.0, 1)
    assert spp_merge(base, spp).tolist() == [0.0, 1.0]


def test_ADP_007_a_stored_zero_learns():
    # the published mask, W != 0, would leave the second weight out of everything
    base = frozen(from_flat((1, 3), np.array([0, 1])), np.array([2.0, 0.0]), reference)
    lora = Lora(np.array([[1.0, 10.0, 100.0]]), np.array([[3.0]]), 1.0)
    y, cache = sparsepeft_forward(np.array([[1.0, 1.0, 1.0]]), base, lora, reference)
    assert y.tolist() == [[2.0 + 3.0 + 30.0]]
    dx, da, db = sparsepeft_backward(np.array([[1.0]]), cache)
    assert (dx.tolist(), da.tolist(), db.tolist()) == ([[5.0, 30.0, 0.0]], [[3.0, 3.0, 0.0]], [[11.0]])


def test_ADP_006_bands_are_consecutive_rows():
    base = frozen(from_flat((4, 1), np.arange(4)), np.ones(4), reference)
    spp = Spp(np.array([[1.0], [10.0]]), np.array([1.0, 2.0, 3.0, 4.0]), 4.0, 2)
    assert spp_merge(base, spp).tolist() == [3.0, 5.0, 61.0, 81.0]
    _, cache = spp_forward(np.array([[1.0]]), base, spp, reference)
    _, da, dc = spp_backward(np.array([[1.0, 1.0, 1.0, 1.0]]), cache)
    assert (da.tolist(), dc.tolist()) == ([[6.0], [14.0]], [2.0, 2.0, 20.0, 20.0])


def test_ADP_004_LoRA_merges_into_a_dense_matrix():
    case = case_of("lora", "odd")
    assert (case.run(reference)["merged"] == 0).sum() == 0


# --- ADP-003, oracle 8: an adapter that has not moved changes nothing ---


def test_ADP_003_at_the_start_nothing_changes(kind, backend):
    case = case_of(kind, "odd").on(backend).at_start()
    got, base = case.run(reference), case.base(reference)
    alone = reference.matmul(case.x, base.linear.weight) + case.bias
    # adding 0 leaves all bits but the sign of a zero
    assert same_bits(backend.numpy(got["y"] + 0.0), backend.numpy(alone + 0.0))
    weight = case.values if kind != "lora" else backend.array(case_of(kind, "odd").weight())
    assert same_bits(backend.numpy(got["merged"] + 0.0), backend.numpy(weight + 0.0))
    other = "dc" if kind == "spp" else "db"
    assert backend.numpy(got["da"] == 0).all()
    assert backend.numpy(got[other] != 0).any()


@pytest.mark.parametrize("pattern", [None, (2, 4), (1, 2)])
def test_ADP_005_LoRA_star_at_the_start_keeps_the_mask(backend, pattern):
    w, squares = weights_of(9, 24, seed=3)
    w, squares = backend.array(w), backend.array(squares)
    keep = partial(wanda_mask, input_square_sum=squares, sparsity=0.7, pattern=pattern)
    positions, base = _pruned(backend, w, keep)
    lora = lora_initial((9, 24), rank=3, alpha=6.0, seed=5, matrix=0, like=w)
    topology, values = lora_star(base, lora, keep, patterned=pattern is not None)
    assert same_bits(backend.numpy(flat(topology)), backend.numpy(positions))
    assert same_bits(backend.numpy(values), backend.numpy(base.values))


def test_ADP_005_the_start_keeps_the_mask_only_where_no_kept_weight_scores_0():
    w, _ = weights_of(4, 10, seed=4)
    keep = partial(wanda_mask, input_square_sum=np.ones(10), sparsity=0.5)
    topology = from_flat((4, 10), np.arange(20) * 2 + 1)
    values = w.reshape(-1)[flat(topology)]
    values[3] = 0.0  # a stored zero ties with what is not stored, and the higher columns stay
    lora = lora_initial((4, 10), rank=2, alpha=2.0, seed=0, matrix=0, like=w)
    again, _ = lora_star(frozen(topology, values, reference), lora, keep, patterned=False)
    assert again.nnz == topology.nnz
    assert flat(again).tolist() == [1, 3, 5, 8, 9, *range(11, 40, 2)]


@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_ADP_005_LoRA_star_prunes_the_merged_weight(pattern):
    w, squares = weights_of(8, 16, seed=6)
    keep = partial(wanda_mask, input_square_sum=squares, sparsity=0.5, pattern=pattern)
    _, base = _pruned(REFERENCE, w, keep)
    rng = np.random.default_rng(7)
    lora = Lora(rng.standard_normal((2, 16)), rng.standard_normal((8, 2)), 4.0)
    topology, values = lora_star(base, lora, keep, patterned=pattern is not None)
    merged = np.zeros(8 * 16)
    merged[flat(base.topology)] = base.values
    merged = merged.reshape(8, 16) + 2.0 * (lora.b @ lora.a)
    score = np.abs(merged) * np.sqrt(squares)
    groups = score.reshape(-1, 16 if pattern is None else 4)
    n = groups.shape[1] // 2
    kept = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(-groups, axis=1)[:, :n], values=True, axis=1)
    assert flat(topology).tolist() == np.flatnonzero(kept).tolist()
    assert_close(values, merged.reshape(-1)[kept.reshape(-1)], 1e-14)
    assert set(flat(topology).tolist()) != set(flat(base.topology).tolist())


def test_ADP_005_any_pruner_may_be_named_and_its_count_is_looked_at():
    w, squares = weights_of(5, 7, seed=8)
    by_size = partial(magnitude_mask, sparsity=0.5)
    _, base = _pruned(REFERENCE, w, by_size)
    lora = Lora(np.ones((1, 7)), np.ones((5, 1)), 1.0)
    topology, _ = lora_star(base, lora, by_size, patterned=False)
    assert topology.nnz == base.topology.nnz == 18
    with pytest.raises(AdapterError, match="keeps 20 weights, the base stores 18") as caught:
        lora_star(base, lora, partial(wanda_mask, input_square_sum=squares, sparsity=0.5), patterned=False)
    assert caught.value.clause == "ADP-005"


def test_ADP_005_4_a_pattern_may_keep_more_than_a_base_whose_kept_weights_are_0():
    w, squares = weights_of(4, 8, seed=3)
    keep = partial(wanda_mask, input_square_sum=squares, sparsity=0.5, pattern=(2, 4))
    positions, whole = _pruned(REFERENCE, w, keep)
    base = frozen(from_flat((4, 8), positions[1:]), whole.values[1:], reference)
    lora = lora_initial((4, 8), rank=2, alpha=2.0, seed=0, matrix=0, like=w)
    topology, _ = lora_star(base, lora, keep, patterned=True)
    assert (base.topology.nnz, topology.nnz) == (15, 16)
    with pytest.raises(AdapterError, match="keeps 16 weights, the base stores 15"):
        lora_star(base, lora, keep, patterned=False)
    lacking = partial(wanda_mask, input_square_sum=squares, sparsity=0.5, pattern=(1, 4))
    with pytest.raises(AdapterError, match="keeps 8 weights, the base stores 15"):
        lora_star(base, lora, lacking, patterned=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_ADP_005_a_merged_weight_that_is_not_finite_is_refused(bad, backend):
    w, _ = weights_of(5, 7, seed=8)
    w = backend.array(w)
    _, base = _pruned(backend, w, partial(magnitude_mask, sparsity=0.5))
    lora = Lora(backend.array(np.ones((1, 7))), backend.array(np.array([[0.0], [bad], [0.0], [0.0], [0.0]])), 1.0)
    with pytest.raises(AdapterError, match="NaN or infinity") as caught:
        lora_star(base, lora, partial(magnitude_mask, sparsity=0.5), patterned=False)
    assert caught.value.clause == "ADP-005"


def _pruned(backend, w, keep):
    positions = backend.xp.nonzero(backend.xp.reshape(keep(w), (-1,)))[0]
    values = backend.xp.take(backend.xp.reshape(w, (-1,)), positions)
    return positions, frozen(from_flat(tuple(w.shape), positions), values, reference)


# --- ADP-002: where factors start ---


@pytest.mark.parametrize(("seed", "matrix"), [(0, 0), (7, 3), (2**64 - 1, 27)])
def test_ADP_002_the_start_is_the_loop(backend, seed, matrix):
    like = backend.array(np.zeros(1))
    key = counter_key(seed, 5, matrix)
    want = [[(2 * ((draw(key, k * 7 + i) >> 11) / 2**53) - 1) / 7**0.5 for i in range(7)] for k in range(4)]
    want = np.array(want).astype(backend.dtype)
    lora = lora_initial((5, 7), rank=4, alpha=1.0, seed=seed, matrix=matrix, like=like)
    spp = spp_initial((8, 7), rank=2, alpha=1.0, seed=seed, matrix=matrix, like=like, bands=4)
    for factor, shape in ((lora.a, None), (spp.a, None), (lora.b, (5, 4)), (spp.c, (8,))):
        assert backend.owns(factor)
        assert same_bits(backend.numpy(factor), want if shape is None else np.zeros(shape, dtype=backend.dtype))


def test_ADP_002_the_start_has_the_spread_of_kaiming():
    torch = pytest.importorskip("torch")
    like = np.zeros(1)
    a = lora_initial((3, 400), rank=50, alpha=1.0, seed=1, matrix=0, like=like).a
    torch.manual_seed(0)
    theirs = torch.nn.init.kaiming_uniform_(torch.empty(50, 400), a=5**0.5).numpy()
    assert np.abs(a).max() <= 1 / 20
    assert abs(a.std() / theirs.std() - 1) < 0.01
    assert abs(a.mean()) < 1e-3
    assert spp_initial((32, 4), rank=8, alpha=16.0, seed=1, matrix=0, like=like).a.shape == (16, 4)


# --- ADP-009: what does not fit is refused ---

MISFITS = {
    "a of another width": {"a": np.ones((3, 8))},
    "a that would broadcast": {"a": np.ones((3, 1))},
    "a vector for a": {"a": np.ones(7)},
    "short factor": {"b": np.ones((4, 3)), "c": np.ones(5)},
    "factor that would broadcast": {"b": np.ones((1, 3)), "c": np.ones(1)},
    "alpha 0": {"alpha": 0.0},
    "alpha negative": {"alpha": -2.0},
    "alpha NaN": {"alpha": float("nan")},
    "alpha infinite": {"alpha": float("inf")},
    "no rows": {"a": np.ones((0, 7)), "b": np.ones((6, 0))},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_ADP_009_misfits_are_refused(kind, backend, misfit):
    case = case_of(kind, "odd").on(backend)
    new = {name: backend.array(x) if isinstance(x, np.ndarray) else x for name, x in MISFITS[misfit].items()}
    _refused(case.but(**{name: value for name, value in new.items() if name in case.fields()}))


@pytest.mark.parametrize("bands", [5, 24])
def test_ADP_009_bands_that_do_not_divide_are_refused(bands):
    _refused(case_of("spp", "odd").but(a=np.ones((bands, 7))))
    with pytest.raises(AdapterError, match="choose a divisor"):
        spp_initial((12, 7), rank=1, alpha=1.0, seed=0, matrix=0, like=np.zeros(1), bands=bands)


def test_ADP_009_SPP_needs_a_rank():
    _refused(case_of("spp", "odd").but(rank=0))


def test_ADP_009_factors_in_another_dtype_or_on_another_device_are_refused(kind):
    from tests.backends import BACKENDS

    case = case_of(kind, "odd")
    for name in ("a", "c" if kind == "spp" else "b"):
        _refused(case.but(**{name: getattr(case, name).astype(np.float32)}))
        elsewhere = array_api_strict.asarray(getattr(case, name))  # on the device that is the default
        _refused(case.on(BACKENDS["strict-device1"]).but(**{name: elsewhere}))


def _refused(case: Case):
    base, adapter = case.base(reference), case.adapter()
    forward, _, merge = ADAPTERS[case.kind]
    for act in (lambda: forward(case.x, base, adapter, reference), lambda: merge(base, adapter, reference)):
        with pytest.raises(AdapterError) as caught:
            act()
        assert caught.value.clause == "ADP-009"


def test_inputs_that_do_not_fit_are_refused_by_the_kernels(kind):
    case = case_of(kind, "odd")
    with pytest.raises(KernelError):
        case.but(x=case.x.astype(np.float32)).run(reference)
    with pytest.raises(KernelError):
        case.but(dy=case.dy[:, :-1]).run(reference)


# --- only the support is touched ---


@pytest.mark.parametrize("kind", ["spp", "sparsepeft"])
def test_nothing_of_the_size_of_the_matrix_is_held(kind):
    n, stored = 1536, 40_000
    rng = np.random.default_rng(9)
    positions = np.sort(rng.choice(n * n, stored, replace=False))
    base = frozen(from_flat((n, n), positions), rng.standard_normal(stored), cpu)
    x, a = rng.standard_normal((8, n)), rng.standard_normal((4, n))
    adapter = Spp(a, np.ones(n), 1.0, 1) if kind == "spp" else Lora(a, np.ones((n, 4)), 1.0)
    forward, backward, merge = ADAPTERS[kind]

    def once():
        y, cache = forward(x, base, adapter, cpu)
        backward(y, cache)
        merge(base, adapter, cpu)

    once()  # compiles, and fills the scratch memory of the kernels
    tracemalloc.start()
    once()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n * 8 / 4


def test_LoRA_is_that_of_peft():
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    case = case_of("lora", "odd")
    linear = torch.nn.Linear(7, 12, dtype=torch.float64)
    model = peft.get_peft_model(
        torch.nn.Sequential(linear), peft.LoraConfig(r=3, lora_alpha=2.5, target_modules=["0"], bias="none")
    )
    layer = model.base_model.model[0]
    with torch.no_grad():
        for parameter, value in (
            (layer.base_layer.weight, case.weight()),
            (layer.base_layer.bias, case.bias),
            (layer.lora_A["default"].weight, case.a),
            (layer.lora_B["default"].weight, case.b),
        ):
            parameter.data = torch.tensor(value)
    x = torch.tensor(case.x, requires_grad=True)
    y = layer(x)
    y.backward(torch.tensor(case.dy))
    got = case.run(reference)
    assert_close(got["y"], y.detach().numpy(), 1e-12, "y")
    assert_close(got["dx"], x.grad.numpy(), 1e-12, "dx")
    assert_close(got["da"], layer.lora_A["default"].weight.grad.numpy(), 1e-12, "da")
    assert_close(got["db"], layer.lora_B["default"].weight.grad.numpy(), 1e-12, "db")
    layer.merge()
    assert_close(lora_merge(case.base(reference), case.adapter()), layer.base_layer.weight.detach().numpy(), 1e-12)
