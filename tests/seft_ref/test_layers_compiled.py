"""The compiled layers are the plain ones: values, gradients, refusals, and the same bits on any number of threads."""

import math

import numba
import numpy as np
import pytest

from seft_ref.errors import LayerError, LayerOverflow
from seft_ref.kernels import cpu, reference
from seft_ref.layers import compiled as layers
from seft_ref.layers import plain
from seft_ref.layers.attention import visible_keys
from seft_ref.layers.compiled.attention import FEW
from seft_ref.layers.compiled.exp import exp
from seft_ref.layers.compiled.products import add_product
from seft_ref.layers.compiled.rows import over_rows, over_tasks
from seft_ref.layers.compiled.sums import largest_of, sum_of, sum_of_products
from seft_ref.layers.rope import Rope, rope_table
from seft_ref.layers.sets import layers_of
from tests.compare import same_bits

F32, F64 = np.float32, np.float64
WITHIN = {F32: 3e-6, F64: 1e-14}
"""Largest difference to the plain layer in the same dtype, as a share of its largest entry, or of a tenth: terms that
cancel are of that size."""


@pytest.fixture(params=[F32, F64])
def dtype(request):
    return request.param


def drawn(seed, *shape, dtype=F64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def run_rmsnorm(of, dtype, rows=5, width=24):
    y, cache = of.rmsnorm_forward(drawn(1, 2, rows, width, dtype=dtype), drawn(2, width, dtype=dtype), 1e-5)
    return y, *of.rmsnorm_backward(drawn(3, 2, rows, width, dtype=dtype), cache)


def run_rope(of, dtype, rows=5, width=24):
    x = drawn(4, 2, rows, 3, 2 * width, dtype=dtype).transpose(0, 2, 1, 3)
    y, cache = of.rope_forward(x, rope_table(Rope("default", 1e4), 2 * width, rows, rows, x))
    return y, of.rope_backward(drawn(5, *y.shape, dtype=dtype), cache)


def run_swiglu(of, dtype, rows=5, width=24):
    # as large as exponentials can be told from 0 and infinity, and beyond
    gate, up, dy = (drawn(seed, rows, width, dtype=dtype) for seed in (6, 7, 8))
    y, cache = of.swiglu_forward(40 * gate, up)
    again, cache = of.swiglu_again(cache)
    assert same_bits(again, y)
    return y, *of.swiglu_backward(dy, cache)


def run_attention(of, dtype, rows=5, width=24, window=3, masked=True, heads=(4, 2), earlier=2):
    q = drawn(9, 2, heads[0], rows, width, dtype=dtype)
    k, v = (drawn(seed, 2, heads[1], rows + earlier, width, dtype=dtype) for seed in (10, 11))
    mask = np.ones((2, rows + earlier), dtype=bool)
    mask[0] = False  # the first row of the batch sees nothing
    mask[1, : rows // 2] = False
    y, cache = of.attention_forward(q, k, v, visible_keys(rows + earlier, window, mask if masked else None, q, earlier))
    return y, *of.attention_backward(drawn(12, *q.shape, dtype=dtype), cache)


def run_cross_entropy(of, dtype, rows=5, width=24):
    targets = np.random.default_rng(13).integers(0, width, rows)
    targets[rows // 2] = -100
    loss, cache = of.cross_entropy_forward(20 * drawn(14, rows, width, dtype=dtype), targets, 9)
    return loss, of.cross_entropy_backward(np.asarray(0.7, dtype=dtype), cache)


RUNS = [run_rmsnorm, run_rope, run_swiglu, run_attention, run_cross_entropy]


def near(got, want, dtype):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape) == (dtype, other.shape)
        assert np.isfinite(one).all()
        assert np.max(np.abs(one - other), initial=0) <= WITHIN[dtype] * np.max(np.abs(other), initial=0.1)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 50])
@pytest.mark.parametrize("width", [1, 2, 7, 16, 31, 64, 1025])
def test_LYR_018_a_compiled_layer_is_the_plain_one(run, rows, width, dtype):
    near(run(layers, dtype, rows, width), run(plain, dtype, rows, width), dtype)


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("earlier", [0, 9])
@pytest.mark.parametrize("rows", [5, 21])
def test_LYR_018_attention_of_any_shape(heads, window, masked, earlier, rows, dtype):
    given = {"window": window, "masked": masked, "heads": heads, "earlier": earlier, "rows": rows, "width": 6}
    got, want = run_attention(layers, dtype, **given), run_attention(plain, dtype, **given)
    near(got, want, dtype)
    if masked:
        # LYR-009
        assert not got[0][0].any()
        assert not got[1][0].any()


def test_LYR_011_rows_that_do_not_count_get_exactly_nothing(dtype):
    _, dlogits = run_cross_entropy(layers, dtype, 40, 60)
    assert [row for row in range(40) if not dlogits[row].any()] == [20]
    loss, cache = layers.cross_entropy_forward(drawn(1, 3, 5, dtype=dtype), np.full(3, -100), 4)
    assert loss == 0
    assert not layers.cross_entropy_backward(np.asarray(1, dtype=dtype), cache).any()


def test_no_rows_are_no_error(dtype):
    for run in (run_rmsnorm, run_swiglu, run_rope):
        assert run(layers, dtype, 0, 8)[0].size == 0
    loss, cache = layers.cross_entropy_forward(np.zeros((0, 5), dtype), np.zeros(0, np.int64), 1)
    assert loss == 0
    assert layers.cross_entropy_backward(loss, cache).shape == (0, 5)


@pytest.mark.parametrize("run", RUNS)
def test_KRN_008_bits_do_not_depend_on_the_number_of_threads(run, dtype):
    held = numba.get_num_threads()
    try:
        found = []
        for threads in (1, 2) if numba.config.NUMBA_NUM_THREADS > 1 else (1, 1):
            numba.set_num_threads(threads)
            found.append(run(layers, dtype, 70, 40))
        assert all(same_bits(a, b) for a, b in zip(*found, strict=True))
    finally:
        numba.set_num_threads(held)


def strided(x):
    """Return the same numbers in an array of which every second entry along each axis belongs to it."""
    wide = np.zeros([2 * n for n in x.shape], dtype=x.dtype)
    wide[tuple(slice(None, None, 2) for _ in x.shape)] = x
    return wide[tuple(slice(None, None, 2) for _ in x.shape)]


def test_inputs_of_any_layout_that_may_not_be_written_to(dtype):
    x, dy, weight = drawn(1, 20, 12, dtype=dtype), drawn(2, 20, 12, dtype=dtype), drawn(3, 12, dtype=dtype)
    want = layers.rmsnorm_forward(x, weight, 1e-5)
    x_, dy_, weight_ = (strided(a) for a in (x, dy, weight))
    for a in (x, dy, weight, x_, dy_, weight_):
        a.flags.writeable = False
    got = layers.rmsnorm_forward(x_, weight_, 1e-5)
    assert same_bits(got[0], want[0])
    for a, b in zip(layers.rmsnorm_backward(dy_, got[1]), layers.rmsnorm_backward(dy, want[1]), strict=True):
        assert same_bits(a, b)
    assert same_bits(layers.swiglu_forward(x_, dy_)[0], layers.swiglu_forward(x, dy)[0])
    heads = drawn(4, 2, 3, 5, 8, dtype=dtype)
    table = rope_table(Rope("default", 1e4), 8, 5, 5, heads)
    for view in (strided(heads), heads[::-1][::-1], np.asfortranarray(heads), heads.transpose(1, 0, 2, 3)):
        assert same_bits(layers.rope_forward(view, table)[0], layers.rope_forward(view.copy(), table)[0])
        assert same_bits(layers.rope_forward(view, table)[0], plain.rope_forward(view, table)[0])


@pytest.mark.parametrize("run", RUNS)
def test_a_second_backward_gives_the_same_and_a_set_takes_the_caches_of_the_other(run, dtype):
    class Mixed:
        """Forwards of the compiled set, backwards of the plain one."""

        def __getattr__(self, name):
            return getattr(plain if name.endswith("backward") else layers, name)

    near(run(Mixed(), dtype), run(plain, dtype), dtype)
    assert all(same_bits(a, b) for a, b in zip(run(layers, dtype), run(layers, dtype), strict=True))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
def test_LYR_015_a_norm_refuses_what_the_plain_one_refuses(wrong):
    x = drawn(1, 40, 30, dtype=F32)
    x[33, 4] = wrong
    for of in (plain, layers):
        with pytest.raises(LayerOverflow, match="LYR-015"):
            of.rmsnorm_forward(x, np.ones(30, F32), 1e-5)
    for of in (plain, layers):
        with pytest.raises(LayerOverflow, match="LYR-015"):
            of.rmsnorm_forward(np.zeros((2, 30), F32), np.ones(30, F32), 0.0)


@pytest.mark.parametrize("rows", [8, 20])
@pytest.mark.parametrize("where", ["q", "k", "score"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_LYR_016_attention_refuses_what_the_plain_one_refuses(where, wrong, rows):
    q, k, v = (drawn(seed, 1, 2, rows, 8, dtype=F32) for seed in (1, 2, 3))
    seen = visible_keys(rows, None, None, q)
    if where == "score":
        q[0, 1, 7], k[0, 1, 3] = 1e20, 1e20 * (np.sign(wrong) if wrong == wrong else 1)
    else:
        {"q": q, "k": k}[where][0, 1, 7, 2] = wrong

    def outcome(of):
        try:
            return of.attention_forward(q, k, v, seen)[0]
        except LayerOverflow as error:
            return error.clause

    got, want = outcome(layers), outcome(plain)
    if isinstance(want, str):
        assert got == want == "LYR-016"
    else:
        near([got], [want], F32)


def test_LYR_011_cross_entropy_refuses_targets_outside(dtype):
    for targets, count in (([0, 5], 2), ([0, -1], 2), ([0, 1], 0)):
        with pytest.raises(LayerError, match="LYR-011"):
            layers.cross_entropy_forward(np.zeros((2, 5), dtype), np.asarray(targets), count)


def exps_of(kind):
    def exps(x, y, n, n_rows, task, worker):
        for i in range(n):
            y[i] = exp(x[i])

    return exps


def folds_of(kind):
    def folds(x, y, results, n, n_rows, task, worker):
        results[0] = sum_of(x, 0, n)
        results[1] = sum_of_products(x, 0, y, 0, n)
        results[2] = largest_of(x, 0, n)

    return folds


def of_array(x, y):
    """Return the sum, the sum of products and the largest number."""
    results = np.empty(3)
    over_rows(folds_of, 1, x, y, results, x.size)
    return results


def test_exp_is_within_two_units_in_the_last_place(dtype):
    info = np.finfo(dtype)
    x = np.concatenate(
        [
            np.linspace(math.log(info.tiny) + 0.01, math.log(info.max) - 1e-5, 400_001),
            np.linspace(-1, 1, 100_001),
            [0.0, -0.0, info.eps, -info.eps],
        ]
    ).astype(dtype)
    y = np.empty_like(x)
    over_rows(exps_of, 1, x, y, x.size)
    exact = np.exp(x.astype(np.longdouble))
    assert float(np.max(np.abs(y - exact) / np.spacing(exact.astype(dtype)))) < 2
    ends = np.asarray([-np.inf, -info.max, math.log(info.tiny) - 1, np.nan, info.max, np.inf], dtype)
    y = np.empty_like(ends)
    over_rows(exps_of, 1, ends, y, ends.size)
    assert not y[:3].any()
    assert np.isnan(y[3])
    assert np.isposinf(y[4:]).all()


@pytest.mark.parametrize("n", [1, 7, 15, 16, 17, 1000, 4097])
def test_sums_against_exact_ones(n, dtype):
    x, y = drawn(1, n, dtype=dtype), drawn(2, n, dtype=dtype)
    total, products, most = of_array(x, y)
    exact = math.fsum(float(a) for a in x)
    assert abs(total - exact) <= 1e-13 * math.fsum(abs(float(a)) for a in x)
    exact = math.fsum(float(a) * float(b) for a, b in zip(x, y, strict=True))
    assert abs(products - exact) <= 1e-13 * math.fsum(abs(float(a) * float(b)) for a, b in zip(x, y, strict=True))
    assert most == x.max()
    x[n // 2] = np.nan
    assert math.isnan(of_array(x, y)[0])
    assert of_array(x, y)[2] == (np.nanmax(x) if n > 1 else -np.inf)


def test_LYR_018_a_kernel_set_names_its_layer_set():
    assert layers_of(cpu) is layers
    assert layers_of(reference) is plain
    assert set(layers.__all__) == set(plain.__all__)


@pytest.mark.parametrize("shape", [(4, 5, 9, 7), (1, 16, 0, 16), (6, 70, 33, 65), (5, 3, 1, 130), (9, 0, 4, 64)])
def test_small_products_of_integers_are_exact(shape, dtype):
    """All rows and registers that are left over, a either way round, and what c held before."""
    n_rows, n_steps, first, n_columns = shape
    lanes = 64 // np.dtype(dtype).itemsize
    first, last = first // lanes * lanes, -(-n_columns // lanes) * lanes
    rng = np.random.default_rng(0)
    a, b = rng.integers(-4, 5, (n_rows, n_steps)).astype(dtype), rng.integers(-4, 5, (n_steps, last)).astype(dtype)
    before = rng.integers(-4, 5, (n_rows, last)).astype(dtype)
    want = before + a @ b
    want[:, :first] = before[:, :first]
    for given, a_row, a_step in ((a, n_steps, 1), (a.T.copy(), 1, n_rows)):
        c = before.copy()
        flat = (x.reshape(-1) for x in (given, b, c))
        over_tasks(_product_of, 1, *flat, a_row, a_step, n_rows, n_steps, first, last)
        assert same_bits(c, want)


def _product_of(kind):
    lanes = 64 // np.dtype(kind).itemsize

    def task_of(a, b, c, a_row, a_step, n_rows, n_steps, first, last, task, worker):
        add_product(a, 0, a_row, a_step, n_rows, n_steps, b, 0, last, c, 0, last, first, last, lanes)

    return task_of


@pytest.mark.parametrize("rows", [5, 40])
def test_attention_that_sees_a_stretch_in_the_middle(rows, dtype):
    """Keys of views; with 16 queries and more those outside the stretch are not read, and their gradients are 0."""
    q = drawn(1, 2, 6, rows, 20, dtype=dtype)
    k, v = (strided(drawn(seed, 2, 2, 90, 20, dtype=dtype)) for seed in (2, 3))
    seen = np.zeros((2, rows, 90), dtype=bool)
    seen[0, :, 37:47] = np.random.default_rng(4).random((rows, 10)) < 0.5
    seen[1, 1:4, 88:] = True
    dy = drawn(5, *q.shape, dtype=dtype)
    wanted, cache = plain.attention_forward(q, k, v, seen)
    wanted = (wanted, *plain.attention_backward(dy, cache))
    if rows >= FEW:
        k[0, :, :32] = v[0, :, :32] = v[0, :, 64:] = v[1, :, :80] = np.nan
    found, cache = layers.attention_forward(q, k, v, seen)
    found = (found, *layers.attention_backward(dy, cache))
    near(found, wanted, dtype)
    for gradient in found[2:]:
        assert not gradient[0, :, :36].any()
        assert not gradient[0, :, 48:].any()
        assert not gradient[1, :, :88].any()
