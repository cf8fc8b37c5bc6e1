"""Gradients where they are asked for (GRD-001 to GRD-004), on integers where bits must be equal."""

import gc
import itertools
import weakref

import numpy as np
import pytest

from seft_ref.arrays.ranks import ALONE
from seft_ref.errors import LayerError, UpdateError
from seft_ref.kernels import reference
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix import evidence
from seft_ref.matrix.of_step import Accumulated
from seft_ref.matrix.window import OF_GRADIENTS, FirstStepWindow, Window
from seft_ref.model.config import ModelConfig
from seft_ref.text.batch import Batch
from seft_ref.topology.csr import from_flat
from seft_ref.train.gradients import every_gradient, loss_and_gradients
from tests.compare import assert_close, same_bits
from tests.seft_ref.families import (
    CONFIGS,
    labels_of,
    padding,
    parameters_of,
    stored_positions,
    tokens_of,
    weights_of,
)
from tests.seft_ref.looks import PARTS, latest, looked, settled
from tests.seft_ref.whole_gradient import evidence_of


def integer_factors(rng, rows, shape, high=4):
    """Return dy (rows, out) and x (rows, in) of small whole numbers, and their product by plain sums."""
    dy = rng.integers(-high, high + 1, size=(rows, shape[0]))
    x = rng.integers(-high, high + 1, size=(rows, shape[1]))
    whole = sum((np.multiply.outer(dy[n], x[n]) for n in range(rows)), start=np.zeros(shape, dtype=np.int64))
    return dy, x, whole


def weight_gradient(backend, dy, x):
    return WeightGradient(backend.array(dy.astype(float)), backend.array(x.astype(float)))


def tiny_step(family="qwen3-attention-bias", pad="left"):
    """Return config, parameters, and one batch of a tiny model."""
    config = ModelConfig.from_json(CONFIGS[family])
    tokens, mask = tokens_of(config, 31), padding(pad)
    return config, parameters_of(config, 32), Batch(tokens, labels_of(tokens, mask), mask)


# GRD-001: what the gradient of a weight is


def test_GRD_001_sum_over_all_rows_of_all_micro_batches(backend):
    rng = np.random.default_rng(1)
    shape = (3, 5)
    accumulated, total = Accumulated(shape), np.zeros(shape, dtype=np.int64)
    for rows in (1, 2, 1, 7, 1):
        dy, x, whole = integer_factors(rng, rows, shape)
        accumulated, total = accumulated.plus(weight_gradient(backend, dy, x)), total + whole
        assert np.array_equal(backend.numpy(accumulated.whole()), total)
        assert np.array_equal(backend.numpy(accumulated.rows(1, 3)), total[1:3])
        assert backend.owns(accumulated.whole())


def test_GRD_001_factors_become_a_matrix_when_they_are_no_smaller(backend):
    # 7 x 9 = 63 numbers against 16 a row: three rows fit (48), four do not (64)
    rng = np.random.default_rng(2)
    shape, accumulated, total = (7, 9), Accumulated((7, 9)), 0
    seen = []
    for _ in range(9):
        dy, x, whole = integer_factors(rng, 1, shape)
        accumulated, total = accumulated.plus(weight_gradient(backend, dy, x)), total + whole
        seen.append((len(accumulated.factors), accumulated.dense is not None))
        assert np.array_equal(backend.numpy(accumulated.whole()), total)
    folded = [(0, True), (1, True), (2, True), (3, True)]
    assert seen == [(1, False), (2, False), (3, False), *folded, *folded[:2]]


def test_GRD_001_plus_leaves_the_sum_it_started_from(backend):
    rng = np.random.default_rng(3)
    dy, x, whole = integer_factors(rng, 40, (3, 5))
    dense = Accumulated((3, 5)).plus(weight_gradient(backend, dy, x))
    dense.plus(weight_gradient(backend, dy, x))
    assert np.array_equal(backend.numpy(dense.whole()), whole)


def test_GRD_001_kept_gradients_add_up_over_steps():
    config, named, batch = tiny_step()
    weights = weights_of(config, named)
    other = Batch(batch.tokens[::-1].copy(), batch.labels[::-1].copy(), batch.mask[::-1].copy())
    names = [target.name for target in config.targets()][2:5]
    shapes = {target.name: target.shape for target in config.targets()}
    kept = {name: Window(shapes[name]) for name in names}
    total = dict.fromkeys(names, 0.0)
    for batches in ([batch], [other, batch]):
        step = loss_and_gradients(weights, config, batches, reference, {}, kept)
        # as the loop does after a step without an event, and as a window that stays in its factors
        last = {name: window.latest for name, window in step.kept.items()}
        kept = {name: window.settled() for name, window in step.kept.items()}
        _, whole = every_gradient(weights, config, batches, reference)
        total = {name: total[name] + whole[name] for name in names}
        for name in names:
            assert_close(last[name].whole(), whole[name], 1e-12, name)
            assert_close(step.kept[name].rows(0, shapes[name][0]).gradient * step.kept[name].steps, total[name], 1e-12)
            assert_close(kept[name].gradient, total[name], 1e-12, name)
    assert set(kept) == set(names)
    assert not step.at
    assert {window.steps for window in kept.values()} == {2}


# GRD-002: where it is asked for


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_GRD_002_at_positions_equals_the_whole_gathered(share):
    config, named, batch = tiny_step()
    weights = weights_of(config, named)
    wanted_loss, whole = every_gradient(weights, config, [batch], reference)
    positions = {target.name: stored_positions(target.shape, i, share) for i, target in enumerate(config.targets())}
    at = {target.name: from_flat(target.shape, positions[target.name]) for target in config.targets()}
    step = loss_and_gradients(weights, config, [batch], reference, at)
    assert step.loss == wanted_loss
    assert set(step.at) == set(at)
    for name, values in step.at.items():
        assert values.shape == positions[name].shape
        assert_close(values, whole[name].reshape(-1)[positions[name]], 1e-12, name)


def test_GRD_002_whole_numbers_at_positions_in_slot_order(backend):
    rng = np.random.default_rng(4)
    dy, x, whole = integer_factors(rng, 11, (5, 7))
    positions = stored_positions((5, 7), 5)
    factors = weight_gradient(backend, dy, x)
    values = reference.sample(factors.dy, factors.x, from_flat((5, 7), backend.array(positions)))
    assert [int(v) for v in backend.numpy(values)] == [int(whole[p // 7, p % 7]) for p in positions]


# GRD-003: candidates found by blocks of rows


def scene(seed, shape):
    """Return factors, the whole gradient, base and delta positions: δ partly outside the base, many ties."""
    rng = np.random.default_rng(seed)
    dy, x, whole = integer_factors(rng, int(rng.integers(1, 5)), shape, high=2)
    size = shape[0] * shape[1]
    base = np.flatnonzero(rng.random(size) < 0.5).astype(np.int64)
    delta = np.flatnonzero(rng.random(size) < rng.choice([0.0, 0.1, 0.4])).astype(np.int64)
    return dy, x, whole, base, delta


def assert_same_evidence(backend, got, want):
    for name in PARTS:
        assert same_bits(backend.numpy(getattr(got, name)), backend.numpy(getattr(want, name))), name


@pytest.mark.parametrize("scope", ["anywhere", "active"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7), (11, 3)])
def test_GRD_003_blocks_of_rows_find_what_the_whole_has(monkeypatch, backend, shape, scope):
    size = shape[0] * shape[1]
    # a library that checks every call takes most of the time, and one scene of each shape shows what it lets through;
    # how many rows are formed at once is the same code in every library
    for rows, seed in itertools.product((1, 3, 256), range(2)) if backend.xp is np else [(3, 0)]:
        monkeypatch.setattr(evidence, "ROWS", rows)
        dy, x, _, base, delta = scene([seed, *shape], shape)
        accumulated = Accumulated(shape).plus(weight_gradient(backend, dy, x))
        at = backend.array(base), backend.array(delta)
        for n in {0, 1, size // 3, size + 5}:
            for window in (latest(accumulated), settled(accumulated)):
                got = looked(window, *at, n, scope)
                assert_same_evidence(backend, got, evidence_of(accumulated.whole(), *at, n + 1, scope))


def naive_evidence(whole, base, delta, n, scope):
    """Return the evidence of a whole gradient of integers, by sorting tuples."""
    flat, taken = [int(v) for v in whole.reshape(-1)], set(delta.tolist())
    support = sorted(set(base.tolist()) | taken)
    outside = [p for p in (base.tolist() if scope == "active" else range(len(flat))) if p not in taken]
    chosen = sorted(sorted(outside, key=lambda p: (-abs(flat[p]), p))[:n])
    on_support, on_chosen = ([flat[p] for p in positions] for positions in (support, chosen))
    on_slots = [abs(flat[p]) for p in sorted(taken)]
    return on_support, on_slots, chosen, [abs(x) for x in on_chosen], on_chosen


@pytest.mark.parametrize("scope", ["anywhere", "active"])
@pytest.mark.parametrize("shape", [(5, 7), (513, 2), (256, 3), (257, 3)])
@pytest.mark.parametrize("unit", ["one", "smallest"])
def test_GRD_003_more_rows_than_one_block_subnormals_too(backend, shape, scope, unit):
    # multiples of the smallest number above 0 keep their order: nothing may flush them to 0
    unit = 1.0 if unit == "one" else float(np.finfo(backend.dtype).smallest_subnormal)
    dy, x, whole, base, delta = scene([6, *shape], shape)
    accumulated = Accumulated(shape).plus(weight_gradient(backend, dy * unit, x))
    for n in (0, 1, 17, 10_000):
        for window in (latest(accumulated), settled(accumulated)):
            got = looked(window, backend.array(base), backend.array(delta), n, scope)
            found = {part: backend.numpy(getattr(got, part)) for part in PARTS}
            units = [part if part.dtype.kind == "i" else part / part.dtype.type(unit) for part in found.values()]
            # one more than grows: the best that is left behind (SEL-008)
            assert tuple([int(v) for v in part] for part in units) == naive_evidence(whole, base, delta, n + 1, scope)


def test_GRD_003_equal_gradients_prefer_the_lower_position(monkeypatch, backend):
    # every |gradient| is 2: the first positions outside δ = {0, 4} win, whatever block they are in
    monkeypatch.setattr(evidence, "ROWS", 1)
    signs = np.array([[1.0, -1.0, 1.0]])
    accumulated = Accumulated((3, 3)).plus(WeightGradient(backend.array(2.0 * signs), backend.array(signs)))
    base, delta = backend.array(np.array([0, 1, 8])), backend.array(np.array([0, 4]))
    got = looked(latest(accumulated), base, delta, 3)
    assert backend.numpy(got.candidates).tolist() == [1, 2, 3, 5]
    assert backend.numpy(got.candidate_gradient).tolist() == [-2.0, 2.0, -2.0, -2.0]
    # on B ∪ η = {0, 1, 4, 8}
    assert backend.numpy(got.gradient).tolist() == [2.0, -2.0, 2.0, 2.0]


def test_GRD_003_empty_base_and_delta(backend):
    dy, x, whole = integer_factors(np.random.default_rng(7), 2, (3, 5))
    accumulated = Accumulated((3, 5)).plus(weight_gradient(backend, dy, x))
    nothing = backend.array(np.zeros(0, dtype=np.int64))
    got = looked(latest(accumulated), nothing, nothing, 15)
    assert backend.numpy(got.candidates).tolist() == list(range(15))
    assert got.gradient.shape == got.scores.shape == (0,)
    assert np.array_equal(backend.numpy(got.candidate_gradient), whole.reshape(-1))
    assert looked(latest(accumulated), nothing, nothing, 15, "active").candidates.shape == (0,)


# GRD-004: the mean is signed


def test_GRD_004_absolute_value_after_the_mean(backend):
    # position 0 swings between +8 and −8; position 1 is +1 twice
    accumulated = Accumulated((1, 3))
    for sign in (1.0, -1.0):
        accumulated = accumulated.plus(
            WeightGradient(backend.array(np.ones((1, 1))), backend.array(np.array([[8.0 * sign, 1.0, 0.0]])))
        )
    nothing = backend.array(np.zeros(0, dtype=np.int64))
    everywhere = backend.array(np.array([0, 1, 2]))
    got = looked(settled(accumulated, 2), everywhere, nothing, 0)
    assert backend.numpy(got.gradient).tolist() == [0.0, 1.0, 0.0]
    assert backend.numpy(looked(settled(accumulated, 2), everywhere, everywhere, 0).scores).tolist() == [0.0, 1.0, 0.0]
    assert backend.numpy(got.candidates).tolist() == [1]


@pytest.mark.parametrize("steps", [2, 4])
def test_GRD_004_the_evidence_is_the_mean_over_the_window(backend, steps):
    rng, accumulated, total = np.random.default_rng(8), Accumulated((5, 7)), 0
    by_step = Window((5, 7))
    for _ in range(steps):
        dy, x, whole = integer_factors(rng, 2, (5, 7))
        accumulated, total = accumulated.plus(weight_gradient(backend, dy, x)), total + whole
        by_step = by_step.settled().plus(weight_gradient(backend, dy, x))
    everywhere = backend.array(np.arange(35))
    got = looked(settled(accumulated, steps), everywhere, everywhere[:0], 3)
    assert np.array_equal(backend.numpy(got.gradient), total.reshape(-1) / steps)
    # and so it is for a window whose last step is still apart
    got = looked(by_step, everywhere, everywhere[:0], 3)
    assert (by_step.steps, by_step.settled_steps) == (steps, steps - 1)
    assert np.array_equal(backend.numpy(got.gradient), total.reshape(-1) / steps)


@pytest.mark.parametrize("shape", [(5, 7), (1, 2), (30, 40)])
def test_GRD_009_sums_on_the_support_are_those_of_a_plain_loop(backend, shape):
    rng, numel = np.random.default_rng(12), shape[0] * shape[1]
    support = np.sort(rng.permutation(numel)[: max(numel // 3, 1)])
    topology = from_flat(shape, backend.array(support))
    window = Window(shape, OF_GRADIENTS, kept_at=lambda: topology, n_kept=len(support))
    steps = []
    for step in range(1, 5):
        window, part, of_step = window.settled(), window.fresh(), np.zeros(shape, dtype=np.int64)
        for rows in (2, 1, 8):
            dy, x, whole = integer_factors(rng, rows, shape)
            part, of_step = part.plus(weight_gradient(backend, dy, x)), of_step + whole
        window, steps = window.joined(part, ALONE), [*steps, of_step.reshape(-1)[support]]
        means = window.at_positions()
        for name, terms in (("gradient", steps), ("absolute", np.abs(steps)), ("square", np.square(steps))):
            found = backend.numpy(getattr(means, name))
            assert np.array_equal(found, (np.sum(terms, axis=0) / step).astype(found.dtype))
    assert window.gradient.shape == window.square.shape == support.shape
    assert not window.latest.factors, "factors larger than the sum are let go"


def test_GRD_007_the_gradient_of_the_first_step_is_let_go():
    topology = from_flat((5, 7), np.arange(4))
    window = FirstStepWindow(3, Window((5, 7), frozenset({"gradient"}), support=lambda: topology))
    window = window.plus(WeightGradient(np.ones((9, 5)), np.ones((9, 7))))
    whole = weakref.ref(window.window.latest.dense)
    window = window.settled()
    gc.collect()
    assert whole() is None
    assert window.window.gradient.shape == (4,)


@pytest.mark.parametrize("shape", [(5, 7), (1, 2), (30, 40)])
def test_GRD_008_tokens_are_squared_one_by_one_and_kept_on_the_support(backend, shape):
    rng, numel = np.random.default_rng(11), shape[0] * shape[1]
    support = np.sort(rng.permutation(numel)[: max(numel // 3, 1)])
    topology = from_flat(shape, backend.array(support))
    window, total = Window(shape, frozenset({"tokens"}), support=lambda: topology), np.zeros(shape, dtype=np.int64)
    for step in range(1, 5):
        window, part = window.settled(), window.fresh()
        for rows in (2, 1, 8):
            dy, x, _ = integer_factors(rng, rows, shape)
            part = part.plus(weight_gradient(backend, dy, x))
            for n in range(rows):
                total += np.multiply.outer(dy[n], x[n]) ** 2
        window = window.joined(part, ALONE)
        found = backend.numpy(window.of_tokens())
        assert np.array_equal(found, (total.reshape(-1)[support] / step).astype(found.dtype))
    assert window.latest_tokens is not None or shape == (30, 40), "factors larger than the matrix are let go"


# Refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize("scope", ["anywhere", "active"])
def test_EVT_005_gradient_that_is_not_finite_is_refused(monkeypatch, backend, bad, row, scope):
    monkeypatch.setattr(evidence, "ROWS", 2)
    dy = np.ones((1, 5))
    dy[0, row] = bad
    accumulated = Accumulated((5, 3)).plus(WeightGradient(backend.array(dy), backend.array(np.ones((1, 3)))))
    base, delta = backend.array(np.array([3, 4, 5])), backend.array(np.array([4]))
    for window in (latest(accumulated), settled(accumulated)):
        with pytest.raises(UpdateError) as caught:
            looked(window, base, delta, 1, scope)
        assert caught.value.clause == "EVT-005"


def test_LYR_011_step_without_a_counted_label_is_refused():
    config, named, batch = tiny_step()
    weights = weights_of(config, named)
    # the label of the first position is nobody's target
    silent = np.full_like(batch.labels, -100)
    silent[:, 0] = 1
    nothing = Batch(batch.tokens, silent, batch.mask)
    assert nothing.count() == 0
    for step in (
        lambda: loss_and_gradients(weights, config, [nothing], reference, {}),
        lambda: every_gradient(weights, config, [nothing, nothing], reference),
    ):
        with pytest.raises(LayerError) as caught:
            step()
        assert caught.value.clause == "LYR-011"
    # beside a batch that counts it adds nothing
    loss, whole = every_gradient(weights, config, [batch], reference)
    both, again = every_gradient(weights, config, [nothing, batch], reference)
    assert both == loss
    for name, gradient in whole.items():
        assert np.array_equal(again[name], gradient), name


def test_TRN_001_target_of_a_position_is_the_next_label():
    labels = np.array([[3, 1, -100, 2], [0, 5, 4, -100]])
    batch = Batch(labels, labels)
    assert batch.targets().tolist() == [1, -100, 2, -100, 5, 4, -100, -100]
    assert batch.count() == 4


def test_MDL_005_gradient_of_a_tied_table_is_the_sum_of_both_uses():
    tied = ModelConfig.from_json(CONFIGS["llama-tied"])
    untied = ModelConfig.from_json(CONFIGS["llama-tied"] | {"tie_word_embeddings": False})
    named, tokens = parameters_of(tied, 33), tokens_of(tied, 34)
    batch, table = Batch(tokens, tokens), "model.embed_tokens.weight"
    loss, once = every_gradient(weights_of(tied, named), tied, [batch], reference)
    copied = named | {"lm_head.weight": named[table]}
    same_loss, twice = every_gradient(weights_of(untied, copied), untied, [batch], reference)
    assert loss == same_loss
    assert set(once) == set(named)
    assert np.max(np.abs(twice[table])) > 1e-3
    assert np.max(np.abs(twice["lm_head.weight"])) > 1e-3
    assert_close(once[table], twice[table] + twice["lm_head.weight"], 1e-12)
