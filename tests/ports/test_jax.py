"""The port in JAX: judged by the kit, the same with jit and without, and against what cannot share its mistakes."""

import contextlib
import math
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", val=True)

import jax.numpy as jnp  # noqa: E402

from conformance.cases.case import load_all  # noqa: E402
from conformance.cases.ops import OPS, PROFILES  # noqa: E402
from conformance.cases.profiles import CLASSES  # noqa: E402
from conformance.cases.signatures import covering, signatures  # noqa: E402
from conformance.judge.harness import Variant, run  # noqa: E402
from conformance.judge.judgement import cases_of  # noqa: E402
from conformance.protocol.child import Child  # noqa: E402
from seft_ports.jax import counter, errors, event, exact, example, optimizer, schedule, select, sparse, topology  # noqa: E402
from seft_ports.jax.port import Port  # noqa: E402
from seft_ports.jax.topology import NOWHERE  # noqa: E402

COMMAND = [sys.executable, "-m", "conformance.protocol.serve", "seft_ports.jax.port:Port"]
FLOATS = (np.float32, np.float64)
# for a process where compiling takes longer than running; an XLA that does not know a flag ends the process
PLAINLY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
PLAINLY |= {"XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"} if jax.__version_info__ < (0, 11) else {}


def meant(result, dtype):
    return OPS[result.case.op].kind == "scalar" or dtype in result.case.dtypes


@pytest.mark.parametrize("numeric", ["exact64", "fp32"])
def test_the_kit_finds_no_failure_in_core(numeric, monkeypatch):
    dtype = CLASSES[numeric]
    cases = cases_of(["core"], load_all())
    # XLA compiles every shape anew. So as people run it, and of operations with a case for each of many shapes, it is
    # asked only what refuses every known mutant.
    some = cases if numeric == "fp32" else [case for case in cases if case.op.startswith(("kernel.", "gradient."))]
    cases = [case for case in cases if case not in some] + covering(some, signatures())
    for name, value in PLAINLY.items() if numeric == "exact64" else ():
        monkeypatch.setenv(name, value)
    with Child(COMMAND) as child:
        offers = frozenset(op for op, classes in child.hello().ops.items() if numeric in classes)
        assert offers == set(PROFILES["core"])
        variant = Variant(child, dtype, offers=offers, deterministic=True)
        results = [r for r in run(cases, [variant], order=random.Random(5)) if meant(r, dtype)]
    assert {r.case.id: r.failures for r in results if r.outcome != "pass"} == {}
    assert len(results) > (60 if numeric == "fp32" else 190)


def with_ops(**ops):
    """The port with operations replaced; __ stands for the dot."""
    port = Port()
    port.ops |= {name.replace("__", "."): op for name, op in ops.items()}
    return port


def refused(op, port, dtype="float32"):
    """The cases of an operation that a port fails, the operations that it rests on left out."""
    cases = [case for case in cases_of(["core"], load_all()) if case.op == op]
    return {r.case.id for r in run(cases, [Variant(port, dtype)]) if r.failures}


def by_top_k(i):
    """lax.top_k has −0 below +0, and takes scores that cannot be ranked."""
    _, chosen = jax.lax.top_k(jnp.asarray(i["scores"]), i["k"])
    return {"chosen": np.sort(i["ids"][np.asarray(chosen)])}


def by_sort(i):
    """lax.sort of floats has all subnormal scores at 0, for comparisons flush them."""
    _, ids = jax.lax.sort((-jnp.asarray(i["scores"]), jnp.asarray(i["ids"])), num_keys=2)
    return {"chosen": np.sort(np.asarray(ids)[: i["k"]])}


def ties_to_a_higher_position(i):
    order = np.lexsort((-i["ids"], -i["scores"]))
    return {"chosen": np.sort(i["ids"][order[: i["k"]]])}


def sensitivity_of_the_base(i):
    """θ′ in place of θ′ + δ."""
    return Port().ops["update.adapt"](i | {"delta_values": 0 * i["delta_values"]})


def gradient_of_everything(i):
    """In the order of the whole matrix, whatever was asked."""
    whole = sparse.gradient_whole(jnp.asarray(i["dy"]), jnp.asarray(i["x"]))
    return {"values": whole.reshape(-1)[: len(i["positions"])]}


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        ("select.largest", by_top_k),
        ("select.largest", by_sort),
        ("select.largest", ties_to_a_higher_position),
        ("update.adapt", sensitivity_of_the_base),
        ("gradient.at", gradient_of_everything),
    ],
)
def test_the_kit_refuses_a_wrong_version(op, wrong):
    assert refused(op, with_ops(**{op: wrong}))


def test_what_XLA_offers_for_a_selection_is_not_SEL_001():
    assert "select.largest-zeros" in refused("select.largest", with_ops(select__largest=by_top_k))
    assert "select.largest-subnormal" in refused("select.largest", with_ops(select__largest=by_sort))


def floats(kind, n, seed):
    """Finite numbers of every exponent, zeros and subnormal ones among them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2 ** (8 * kind().itemsize), n, dtype=np.uint64)
    x = bits.astype(f"u{kind().itemsize}").view(kind)
    info = np.finfo(kind)
    x[::3] = (rng.integers(-(2**info.nmant), 2**info.nmant, len(x[::3])) * 1.0).astype(kind) * info.smallest_subnormal
    x[:4] = 0.0, -0.0, info.smallest_subnormal, -info.tiny
    return x[np.isfinite(x)]


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    whole = f"u{a.dtype.itemsize}"
    both_nan = np.isnan(a) & np.isnan(b)
    return a.dtype == b.dtype and np.array_equal(a.view(whole)[~both_nan], b.view(whole)[~both_nan])


@pytest.mark.parametrize("kind", FLOATS)
def test_NUM_006_sums_and_products_are_rounded_once(kind):
    a = floats(kind, 40_000, 1)
    b = floats(kind, 40_000, 2)[: len(a)]
    a = a[: len(b)]
    with np.errstate(all="ignore"):
        near = (b * kind(2.0**-30)).astype(kind)
        for x, y in ((a, b), (a, near), (a, -a), (near, b[::-1])):
            assert same_bits(jax.jit(exact.plus)(x, y), x + y)
            assert same_bits(jax.jit(exact.times)(x, y), x * y)
        # factors whose product is about as small as a number can be
        for shift in range(-3, 60, 4):
            m, e = np.frexp(a)
            y = np.ldexp(b / 2 ** np.frexp(b)[1].astype(kind), np.clip(np.finfo(kind).minexp - e - shift, -2000, 2000))
            y = y.astype(kind)
            good = np.isfinite(y) & (m != 0)
            assert same_bits(jax.jit(exact.times)(a[good], y[good]), a[good] * y[good])


@pytest.mark.parametrize("kind", FLOATS)
def test_plain_operations_of_XLA_flush_subnormal_numbers(kind):
    # if this fails, exact.py and a paragraph of README.md have lost their reason
    least = np.full(8, np.finfo(kind).smallest_subnormal)
    assert not np.any(jax.jit(lambda x: x > 0)(least))
    assert not np.any(np.asarray(jax.jit(lambda x: x + x)(least)))


@pytest.mark.parametrize("kind", FLOATS)
def test_NUM_006_a_rounded_product_is_not_contracted(kind):
    eps = np.finfo(kind).eps
    a, c = np.full(33, 1 + eps, kind), np.full(33, -(1 + 2 * eps), kind)
    assert np.all(a * a + c == 0)
    assert np.all(np.asarray(jax.jit(lambda a, c: exact.rounded(a * a) + c)(a, c)) == 0)
    assert np.any(np.asarray(jax.jit(lambda a, c: a * a + c)(a, c)) != 0), "XLA contracts no more: rounded can go"


@pytest.mark.parametrize("kind", FLOATS)
def test_SEL_001_SEL_002_equal_a_sort_in_python(kind):
    tied = np.concatenate([floats(kind, 300, 3), floats(kind, 300, 3), np.zeros(5, kind), -np.zeros(5, kind)])
    ids = np.random.default_rng(4).permutation(len(tied)) * 3
    among = np.random.default_rng(5).random(len(tied)) < 0.8
    for k in (0, 1, 137, int(among.sum())):
        for choose, sign in ((select.largest, -1), (select.smallest, 1)):
            best = sorted((sign * float(tied[i]), int(ids[i])) for i in np.flatnonzero(among))[:k]
            chosen = np.asarray(jax.jit(choose)(tied, ids, k, among))
            assert sorted(ids[chosen]) == sorted(i for _, i in best)


def test_SEL_004_SEL_005_are_codes():
    scores = jnp.array([1.0, jnp.nan, 2.0])
    for codes, clause in (((scores, 1), "SEL-004"), ((scores, 3, jnp.isfinite(scores)), "SEL-005")):
        with pytest.raises(errors.Refusal, match=clause):
            errors.refuse(select.trouble(*codes))
    errors.refuse(select.trouble(scores, 2, jnp.isfinite(scores)))


def test_SEL_006_counts_are_those_of_Python_where_the_product_is_next_to_an_integer():
    rng = np.random.default_rng(6)
    for _ in range(4000):
        n = int(rng.integers(3, 10_000))
        rate = (int(rng.integers(1, n)) - 2.0**-20) / n
        assert int(COUNT(rate, n)) == math.floor(rate * n + 2.0**-20)


COUNT = jax.jit(lambda rate, n: schedule.counted(rate * n))


def event_of(kind, seed=8, rows=11, columns=9, stored=45, slots=12):
    """A base, a delta and a gradient with ties; the delta has two slots that are free."""
    rng = np.random.default_rng(seed)
    base = np.sort(rng.choice(rows * columns, stored, replace=False))
    delta = np.sort(rng.choice(rows * columns, slots - 2, replace=False))
    few = [(rng.integers(-3, 4, n) / 4).astype(kind) for n in (stored, slots, slots, slots, rows * columns)]
    held = np.arange(slots) < slots - 2
    age = jnp.asarray(np.where(held, np.arange(slots), 0))
    values = [jnp.asarray(np.where(held, x, 0).astype(kind)) for x in few[1:4]]
    return (
        event.Base(jnp.asarray(base), jnp.asarray(few[0])),
        event.Delta(topology.padded(delta, slots, NOWHERE), *values, age),
        jnp.asarray(few[4].reshape(rows, columns)),
    )


def leaves_equal(a, b):
    return all(
        same_bits(x, y) if x.dtype.kind == "f" else np.array_equal(x, y)
        for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


@contextlib.contextmanager
def plainly_compiled():
    """Operations that are compiled one by one without most optimisations, for those of a whole event take seconds."""
    jax.config.update("jax_disable_most_optimizations", val=True)
    yield
    jax.config.update("jax_disable_most_optimizations", val=False)


def test_an_event_is_the_same_with_jit_and_without():
    base, delta, gradient = event_of(np.float32)
    for n_drop, active in ((3, False), (10, True)):
        with plainly_compiled():
            plain = event.evolve(base, delta, gradient, n_drop, 12, 45, active=active)
        jitted = jax.jit(event.evolve)(base, delta, gradient, n_drop, 12, 45, active=active)
        assert leaves_equal(plain, jitted)
        assert int(plain.trouble) == errors.FINE
    with plainly_compiled():
        final = event.last_adapt(base, delta, gradient, 40)
    assert leaves_equal(final, jax.jit(event.last_adapt)(base, delta, gradient, 40))
    assert int(topology.count(final[0].positions)) == 40


def test_CHG_002_OPT_001_a_subnormal_value_stays_where_nothing_moves_it():
    least = jnp.full(5, np.finfo(np.float32).smallest_subnormal)
    zero = jnp.zeros(5, jnp.float32)
    moved = jax.jit(topology.realign)(least, jnp.array([4, -1, 0]), np.float32(1e-44))
    assert same_bits(moved, np.array([least[0], 1e-44, least[0]], np.float32))
    after = jax.jit(optimizer.adamw)(event.Delta(jnp.arange(5), least, zero, least, jnp.arange(5)), zero, 1e-3)
    assert same_bits(after.values, least)


def test_a_step_of_adamw_is_the_same_with_jit_up_to_rounding():
    _, delta, _ = event_of(np.float64)
    delta = delta._replace(v=jnp.abs(delta.v))
    gradient = jnp.linspace(-1, 1, 12)
    with plainly_compiled():
        plain = optimizer.adamw(delta, gradient, 1e-3, weight_decay=0.1)
    jitted = jax.jit(optimizer.adamw)(delta, gradient, 1e-3, weight_decay=0.1)
    for a, b in zip(plain, jitted, strict=True):
        np.testing.assert_allclose(a, b, rtol=4e-16, atol=1e-18)


def test_EVT_005_a_refused_event_changes_nothing():
    base, delta, gradient = event_of(np.float32)
    bad = gradient.at[3, 3].set(jnp.inf)
    for given, n_drop, clause in ((bad, 2, "SEL-004"), (gradient, 11, "SEL-005")):
        # active is given, so that what is compiled for jit above serves here
        done = jax.jit(event.evolve)(base, delta, given, n_drop, 12, 45, active=False)
        assert leaves_equal((done.base, done.delta), (base, delta))
        with pytest.raises(errors.Refusal, match=clause):
            errors.refuse(done.trouble)


def test_EVT_005_a_refused_last_pass_changes_nothing():
    base, delta, gradient = event_of(np.float32)
    weight = event.effective(base, delta.positions, delta.values)
    after, trouble = jax.jit(event.last_adapt)(base, delta, gradient.at[:].set(jnp.nan), 40)
    assert int(trouble) == errors.NOT_FINITE
    assert leaves_equal(after, weight)


def test_OPT_005_a_subnormal_moment_makes_a_normal_step():
    """XLA flushes m = 5e-39 in a quotient; the step by it, −5e-33, is a normal number."""
    delta = event.new_delta(jnp.arange(2), jnp.float32)
    after = jax.jit(optimizer.adamw)(delta, jnp.array([5e-38, -5e-38], jnp.float32), 1e-3)
    np.testing.assert_allclose(after.values, [-5e-33, 5e-33], rtol=1e-6)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5])
def test_RNG_002_a_seed_that_is_no_word_is_refused(seed):
    with pytest.raises(errors.Refusal, match="RNG-002"):
        counter.seed_word(seed)


def test_KRN_010_arrays_of_other_dtypes_and_slots_out_of_range_are_refused():
    delta = event.new_delta(jnp.arange(3), jnp.float32)
    for gradient, clause in ((jnp.ones(3, jnp.float64), "KRN-010"), (jnp.ones(2, jnp.float32), "KRN-009")):
        with pytest.raises(errors.Refusal, match=clause):
            optimizer.adamw(delta, gradient, 1e-3)
    values, one = jnp.zeros(3), jnp.ones(1)
    for slots, new, clause in (([7], one, "KRN-012"), ([-1], one, "KRN-012"), ([0, 1], one, "KRN-009"),
                               ([0], one.astype(jnp.float32), "KRN-010")):  # fmt: skip
        with pytest.raises(errors.Refusal, match=clause):
            sparse.store(values, jnp.array(slots), new)
    # a traced call cannot look; it drops what is out of range
    assert jax.jit(sparse.store)(values, jnp.array([-1, 1]), jnp.ones(2)).tolist() == [0, 1, 0]


@plainly_compiled()
def test_PRT_019_a_layer_without_rows_or_columns_has_gradients():
    for shape in ((0, 3), (3, 0), (0, 0)):
        base = event.Base(jnp.full(4, NOWHERE), jnp.zeros(4))
        slots, values = jnp.full(4, NOWHERE), jnp.zeros(4)
        taken = jax.grad(lambda v, base=base, slots=slots, shape=shape: jnp.sum(
            sparse.sparse_linear(jnp.ones((2, shape[1])), base, slots, v, shape)))(values)  # fmt: skip
        assert taken.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", FLOATS)
def test_the_gradients_of_a_layer_are_those_of_a_dense_definition(kind):
    base, delta, _ = event_of(kind)
    shape, rng = (11, 9), np.random.default_rng(9)
    x, weights = jnp.asarray(rng.standard_normal((7, 9)), kind), jnp.asarray(rng.standard_normal((7, 11)), kind)

    def dense_weight(values):
        zero = jnp.zeros(99, kind)
        w = zero.at[base.positions].set(base.values) + zero.at[delta.positions].add(values, mode="drop")
        return w.reshape(shape)

    def of_dense(x, values):
        return jnp.sum(jnp.sin(x @ dense_weight(values).T) * weights)

    def of_sparse(x, values):
        return jnp.sum(jnp.sin(sparse.sparse_linear(x, base, delta.positions, values, shape)) * weights)

    want = jax.jit(jax.value_and_grad(of_dense, argnums=(0, 1)))(x, delta.values)
    whole = jax.value_and_grad(of_sparse, argnums=(0, 1))
    got = jax.jit(whole)(x, delta.values)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=64 * np.finfo(kind).eps)
    assert np.all(np.asarray(got[1][1][-2:]) == 0), "free slots have no gradient"


def test_GRD_002_a_gradient_at_many_positions_is_gathered_from_the_whole():
    rng = np.random.default_rng(10)
    dy, x = rng.integers(-4, 5, (6, 90)).astype(np.float32), rng.integers(-4, 5, (6, 70)).astype(np.float32)
    # more than one batch of positions
    at = np.sort(rng.choice(6300, 5000, replace=False))
    got = sparse.gradient_at(jnp.asarray(dy), jnp.asarray(x), topology.padded(at, 5003, NOWHERE))
    np.testing.assert_array_equal(got[:5000], (dy.T @ x).reshape(-1)[at])
    assert not np.any(got[5000:])


def test_the_backward_of_a_layer_forms_no_gradient_of_the_matrix():
    shape = (640, 480)
    base = event.Base(jnp.arange(0, 640 * 480, 97), jnp.ones(len(range(0, 640 * 480, 97))))
    at = jnp.arange(5, 3000, 13)

    def backward(dy, x):
        return sparse.gradient_at(dy, x, at)

    text = jax.jit(backward).lower(jnp.ones((4, 640)), jnp.ones((4, 480))).as_text()
    assert "640x480" not in text

    def pulled(values):
        return jax.vjp(lambda v: sparse.sparse_linear(jnp.ones((4, 480)), base, at, v, shape), values)[1]

    pull = jax.eval_shape(pulled, jnp.zeros(len(at)))
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) < 640 * 480 // 8


TRAIN = "import pickle, sys; from seft_ports.jax import example; pickle.dump(example.train(), sys.stdout.buffer)"


def test_the_example_learns_and_stays_within_its_budget():
    # XLA_FLAGS are read when a process first compiles
    done = subprocess.run([sys.executable, "-c", TRAIN], env=os.environ | PLAINLY, capture_output=True, check=True)
    reports, final = pickle.loads(done.stdout)
    assert [r.step for r in reports] == [1, *range(15, 120, 15), 120]
    assert all(n <= k for r in reports for n, k in zip(r.support, r.budget, strict=True))
    assert reports[-1].loss < 0.85 * reports[0].loss
    assert max(r.grown_back for r in reports) > 20
    for weight, k, shape in zip(final, reports[0].support, example.SHAPES, strict=True):
        assert int(topology.count(weight.positions)) <= k
        assert int(jnp.sum(sparse.dense(weight.positions, weight.values, shape) != 0)) <= k


def test_without_64_bit_numbers_it_says_what_to_do():
    told = subprocess.run(
        [sys.executable, "-c", "import seft_ports.jax.event"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 1
    assert 'jax.config.update("jax_enable_x64", True)' in told.stderr.splitlines()[-1]
