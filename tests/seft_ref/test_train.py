"""The loop on a tiny seeded model: what holds after every step and event, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest

from seft_ref.arrays.rng import STREAM_POSITIONS, counter_key, draw
from seft_ref.errors import ConfigError, UpdateError
from seft_ref.kernels import reference
from seft_ref.topology.csr import flat
from seft_ref.train.gradients import every_gradient
from seft_ref.train.loop import finish, step_batches, train, train_step
from seft_ref.update.schedule import drop_fraction_at, learning_rate_at
from tests.seft_ref.tiny import (
    CONFIG,
    TOKENS,
    as_matrix,
    dense_of,
    digest,
    magnitude_keep,
    matrix_of,
    model,
    n_m_config,
    n_of_m_keep,
    packed_weights,
    parameters,
    positions,
    pruned_bases,
    start,
    states,
    tiny_settings,
    without_events,
)
from tests.seft_ref.update.by_hand import event_by_hand, floor_of


def test_TRN_001_the_loss_falls():
    _, run = states(tiny_settings(steps=60, evolve_every=10, lr=0.03, density=0.2))
    losses = [record.loss for _, record in run]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("preset", ["seft", "active-only", "unprotected", "magnitude", "static"])
def test_EVT_003_the_support_stays_in_its_budget_and_the_weight_is_zero_off_it(preset, dtype):
    settings = tiny_settings(preset=preset, steps=13, evolve_every=3, density=0.3)
    before, run = states(settings, dtype=dtype)
    budgets = {name: target.base.topology.nnz for name, target in before.targets.items()}
    for state, record in run:
        assert state.step == record.step
        for name, target in state.targets.items():
            matrix = as_matrix(target)
            old = before.targets[name]
            support = matrix.support()
            assert target.budget == budgets[name]
            assert len(support) == target.support_size() <= target.budget
            assert target.delta.topology.nnz <= target.delta_budget
            assert positions(target.base.topology) <= positions(old.base.topology)
            expected = np.zeros(target.base.topology.numel, dtype=dtype)
            for p in support:
                expected[p] = matrix.weight(p, dtype)
            found = matrix_of(state.weights, name)
            np.testing.assert_array_equal(found, expected.reshape(found.shape))
        before = state
    final = finish(state, settings, CONFIG, TOKENS, reference)
    for name, (topology, values) in final.items():
        assert topology.nnz <= budgets[name]
        np.testing.assert_array_equal(dense_of(topology, values), matrix_of(state.weights, name))


def test_EVT_001_EVT_002_an_event_uses_the_gradient_of_its_step_before_update_and_clipping():
    settings = tiny_settings("sensitivity", steps=9, evolve_every=4, density=0.3, drop_fraction=1.0, max_norm=0.01)
    state, run = states(settings, dtype=np.float64)
    at_load = {name: positions(target.base.topology) for name, target in state.targets.items()}
    events = 0
    for after, record in run:
        _, gradients = every_gradient(
            state.weights, CONFIG, step_batches(settings, TOKENS, after.step, state.weights), reference
        )
        if record.event is None:
            assert record.matrices is None
            state = after
            continue
        events += 1
        counts = dict.fromkeys(record.event, 0)
        for index, (name, target) in enumerate(after.targets.items()):
            # the optimizer step alone: what a run without events has after this step
            alone, _ = train_step(
                state,
                step_batches(settings, TOKENS, after.step, state.weights),
                without_events(settings),
                CONFIG,
                reference,
            )
            now = as_matrix(alone.targets[name])
            n_drop = floor_of(drop_fraction_at(after.step, 9, 1.0) * len(now.slots))
            gradient = gradients[name].reshape(-1).tolist()
            outcome = event_by_hand(
                now,
                gradient,
                np.float64,
                n_drop=n_drop,
                delta_budget=target.delta_budget,
                budget=target.budget,
            )
            assert as_matrix(target) == outcome.after, (index, name)
            mine = {
                "dropped": len(outcome.dropped),
                "grown": len(outcome.grown),
                "reactivated": len(set(outcome.grown) - set(now.base)),
                "cancelled": len(outcome.cancelled),
                "pruned": len(outcome.pruned),
                "refilled": max(0, target.delta_budget - len(now.slots)),
                "slots": len(outcome.after.slots),
                "support": len(outcome.after.support()),
                "start": len(outcome.after.support() & at_load[name]),
            }
            told = record.matrices[name]
            assert {key: getattr(told, key) for key in mine} == mine, name
            assert told.churn == mine["grown"] / len(now.slots)
            assert told.overlap == mine["start"] / target.budget
            squares = math.fsum(g**2 for g in gradient)
            assert told.gradient_norm == pytest.approx(math.sqrt(squares), rel=1e-12)
            counts = {key: counts[key] + mine[key] for key in counts}
        assert list(record.matrices) == list(after.targets)
        assert record.event == counts
        assert min(counts[name] for name in ("dropped", "grown", "reactivated", "pruned")) > 0
        state = after
    assert events == 2


def test_SCH_003_events_follow_multiples_of_the_period_before_the_last_step():
    for steps, expected in ((8, [4]), (9, [4, 8]), (4, [])):
        _, run = states(tiny_settings(steps=steps, evolve_every=4))
        assert [record.step for _, record in run if record.event is not None] == expected


def test_SCH_004_records_carry_the_learning_rate_of_their_step():
    settings = tiny_settings(steps=7, lr=0.5, warmup_steps=2, lr_schedule="cosine")
    _, run = states(settings)
    assert [record.lr for _, record in run] == [learning_rate_at(t, 7, 0.5, 2, "cosine") for t in range(1, 8)]


def test_GROW_001_active_only_never_leaves_the_first_support():
    settings = tiny_settings(preset="active-only", steps=14, evolve_every=2, drop_fraction=1.0, density=0.3)
    first, run = states(settings)
    supports = {name: positions(target.base.topology) for name, target in first.targets.items()}
    moved = 0
    for state, _ in run:
        for name, target in state.targets.items():
            assert set(np.flatnonzero(matrix_of(state.weights, name)).tolist()) <= supports[name]
            assert positions(target.delta.topology) <= supports[name]
            moved += positions(target.delta.topology) != positions(first.targets[name].delta.topology)
    assert moved > 0


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4)])
@pytest.mark.parametrize(
    "scope",
    [{"preset": "active-only"}, {"grow_scope": "active"}, {"pattern": True}, {"pattern": True, "scope": "group"}],
    ids=["preset", "setting", "pattern", "group"],
)
def test_EVT_007_an_n_m_base_keeps_its_pattern_through_every_event(n, m, scope):
    if "pattern" in scope:
        scope = scope | {"pattern": (n, m)}
    settings = tiny_settings(steps=14, evolve_every=2, drop_fraction=1.0, density=0.2, **scope)
    assert settings.rule.grow_scope == ("anywhere" if settings.rule.scope == "group" else "active")
    state, run = states(settings, config=n_m_config(), keep=n_of_m_keep(n, m))
    for state, _ in run:
        for name, target in state.targets.items():
            for matrix in (
                matrix_of(state.weights, name) != 0,
                dense_of(target.delta.topology, np.ones(target.delta.topology.nnz)),
            ):
                assert np.count_nonzero(matrix.reshape(-1, m), axis=1).max() <= n
    for topology, _ in finish(state, settings, n_m_config(), TOKENS, reference).values():
        assert dense_of(topology, np.ones(topology.nnz)).reshape(-1, m).sum(axis=1).max() <= n


@pytest.mark.parametrize(("window", "looks"), [(1, 1), (3, 1), (4, 1), (1, 2), (1, 3), (3, 2)])
def test_TRN_005_TRN_023_GRD_004_the_gradient_of_an_event_is_the_signed_mean_of_all_it_looks_at(window, looks):
    looked_at = {"gradient_window": window, "event_batches": looks}
    settings = tiny_settings("sensitivity", steps=9, evolve_every=4, density=0.3, drop_fraction=1.0, **looked_at)
    state, run = states(settings, dtype=np.float64)
    seen = []
    for after, record in run:
        batches = step_batches(settings, TOKENS, after.step, state.weights)
        seen.append(every_gradient(state.weights, CONFIG, batches, reference)[1])
        collecting = after.step < 8 and after.step % 4 > 0 and after.step % 4 > 4 - window
        assert bool(after.window) == collecting
        if record.event is not None:
            later = (step_batches(settings, TOKENS, after.step + i, state.weights) for i in range(1, looks))
            further = [every_gradient(state.weights, CONFIG, batch, reference)[1] for batch in later]
            alone, _ = train_step(state, batches, without_events(settings), CONFIG, reference)
            for name, target in after.targets.items():
                now = as_matrix(alone.targets[name])
                mean = sum(g[name] for g in seen[-window:] + further) / (window + looks - 1)
                outcome = event_by_hand(
                    now,
                    mean.reshape(-1).tolist(),
                    np.float64,
                    n_drop=floor_of(drop_fraction_at(after.step, 9, 1.0) * len(now.slots)),
                    delta_budget=target.delta_budget,
                    budget=target.budget,
                )
                assert as_matrix(target) == outcome.after, (after.step, name)
        state = after


def test_TRN_005_no_gradient_is_kept_where_no_event_will_look():
    for changes in ({"preset": "static"}, {"steps": 4}):
        _, run = states(tiny_settings(gradient_window=4, **changes))
        assert all(state.window == {} for state, _ in run)


def test_EVT_001_static_has_no_events_and_no_adapt_skips_pruning():
    first, run = states(tiny_settings(preset="static"))
    for state, record in run:
        assert record.event is None
        assert all(state.targets[n].delta.topology is t.delta.topology for n, t in first.targets.items())
    _, run = states(tiny_settings(preset="no-adapt", density=0.3))
    events = [record.event for _, record in run if record.event is not None]
    assert [event["pruned"] for event in events] == [0, 0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_EVT_004_the_last_pass_brings_no_adapt_back_to_its_budget(dtype):
    settings = tiny_settings(preset="no-adapt", adapt="sensitivity", density=0.3, drop_fraction=1.0)
    _, run = states(settings, dtype=dtype)
    *_, (state, _) = run
    over = {name: target.support_size() - target.budget for name, target in state.targets.items()}
    assert min(over.values()) >= 0
    assert max(over.values()) > 0
    batches = step_batches(settings, TOKENS, settings.steps, state.weights)
    _, gradients = every_gradient(state.weights, CONFIG, batches, reference)
    final = finish(state, settings, CONFIG, TOKENS, reference)
    for name, (topology, values) in final.items():
        target = state.targets[name]
        matrix = as_matrix(target)
        gradient = gradients[name].reshape(-1)
        order = sorted((abs(dtype(gradient[p]) * matrix.weight(p, dtype)), p) for p in matrix.support())
        left = sorted(p for _, p in order[over[name] :])
        assert flat(topology).tolist() == left
        assert topology.nnz == target.budget
        assert values.tolist() == [float(matrix.weight(p, dtype)) for p in left]


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_DLT_004_random_positions_are_the_smallest_draws_of_the_base(seed):
    first, _ = states(tiny_settings(seed=seed))
    for index, (name, target) in enumerate(first.targets.items()):
        key = counter_key(seed, STREAM_POSITIONS, index)
        assert name == CONFIG.targets()[index].name
        order = sorted((draw(key, p), p) for p in positions(target.base.topology))
        expected = sorted(p for _, p in order[: target.delta_budget])
        assert flat(target.delta.topology).tolist() == expected
        assert target.delta_budget == min(floor_of(0.08 * target.base.topology.numel), target.budget)


def test_DLT_004_positions_by_gradient_are_the_largest_of_the_dense_one():
    settings = tiny_settings(initial_positions="gradient", micro_batches=2)
    first, _ = states(settings, dtype=np.float64)
    dense, bases = model(np.float64)
    weights = packed_weights(CONFIG, dense, bases)
    _, gradients = every_gradient(weights, CONFIG, step_batches(settings, TOKENS, 1, weights), reference)
    for name, base in bases.items():
        size = floor_of(0.08 * base.topology.numel)
        order = sorted((-abs(gradients[name].reshape(-1)[p]), p) for p in positions(base.topology))
        assert flat(first.targets[name].delta.topology).tolist() == sorted(p for _, p in order[:size])


def test_DLT_001_DLT_005_the_first_state():
    dense, bases = model()
    first = start(tiny_settings(), CONFIG, dense, bases, TOKENS)
    assert first.step == 0
    assert list(first.targets) == [matrix.name for matrix in CONFIG.targets()]
    for name, target in first.targets.items():
        assert target.budget == bases[name].topology.nnz
        assert not np.any(target.delta.values)
        assert not np.any(target.delta.kept["age"])
        np.testing.assert_array_equal(
            matrix_of(first.weights, name), dense_of(bases[name].topology, bases[name].values)
        )


def test_DLT_002_a_density_that_gives_no_matrix_a_slot_is_refused():
    dense, bases = model()
    with pytest.raises(ConfigError) as refused:
        start(tiny_settings(density=1e-6), CONFIG, dense, bases, TOKENS)
    assert refused.value.clause == "DLT-002"


def test_DLT_002_some_matrices_may_have_no_slot():
    # 0.01 of the 6 x 15 key and value projections is less than one slot
    settings = tiny_settings(density=0.01)
    first, run = states(settings)
    sizes = {name: target.delta_budget for name, target in first.targets.items()}
    assert 0 in sizes.values()
    *_, (last, _) = run
    assert {name: target.delta.topology.nnz for name, target in last.targets.items()} == sizes


@pytest.mark.parametrize("where", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_TRN_007_weights_that_are_not_finite_stop_the_run(where, bad):
    dense = parameters(CONFIG)
    dense[where].reshape(-1)[np.argmax(np.abs(dense[where]))] = bad
    bases = pruned_bases(CONFIG, dense, magnitude_keep(0.5))
    settings = tiny_settings()
    first = start(settings, CONFIG, dense, bases, TOKENS)
    before = digest(first.targets)
    with np.errstate(all="ignore"), pytest.raises(UpdateError) as refused:
        next(train(first, settings, CONFIG, TOKENS, reference))
    assert refused.value.clause == "TRN-007"
    assert digest(first.targets) == before


def test_EVT_005_a_window_that_is_not_finite_stops_the_run():
    settings = tiny_settings(gradient_window=4)
    _, run = states(settings)
    state = next(state for state, _ in run if state.step == 3)
    name, kept = next(iter(state.window.items()))
    broken = np.full(kept.shape, math.inf, dtype=np.float32)
    state = replace(state, window={**state.window, name: replace(kept, gradient=broken)})
    with np.errstate(all="ignore"), pytest.raises(UpdateError) as refused:
        next(train(state, settings, CONFIG, TOKENS, reference))
    assert refused.value.clause == "EVT-005"
