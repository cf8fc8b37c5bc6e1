"""What a run refuses to go on with: gradients, sums and states that are not finite (TRN-007), and eps (TRN-008)."""

import math
from dataclasses import replace

import numpy as np
import pytest

from seft_ref.arrays.finite import all_finite, check_eps, gradient_norm, refuse_spoilt, refuse_spoilt_sums
from seft_ref.arrays.ranks import ALONE
from seft_ref.errors import ConfigError, UpdateError
from seft_ref.kernels import reference
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.of_step import Accumulated
from seft_ref.matrix.window import FirstStepWindow, Window
from seft_ref.topology.csr import from_flat
from seft_ref.train import start as first_positions
from seft_ref.train.gradients import StepGradients
from seft_ref.train.loop import train
from seft_ref.update.delta import Base
from tests.backends import BACKENDS
from tests.seft_ref.tiny import CONFIG, TOKENS, model, start, states, tiny_settings


def refused_step(settings, at=None, spoil=lambda state: state):
    """The clause under which the step after `at` is refused, and the state before it."""
    dense, bases = model()
    state = start(settings, CONFIG, dense, bases, TOKENS)
    for _ in range(at or 0):
        state, _ = next(train(state, settings, CONFIG, TOKENS, reference))
    state = spoil(state)
    with np.errstate(all="ignore"), pytest.raises(UpdateError) as refused:
        next(train(state, settings, CONFIG, TOKENS, reference))
    return refused.value


@pytest.mark.parametrize("optimizer", ["adamw", "spiel-adamw", "sgd", "sm3"])
@pytest.mark.parametrize("steps", [12, 1])
def test_TRN_007_a_step_that_leaves_an_infinite_value_stops_the_run(optimizer, steps):
    # the loss and the gradient of the step are finite, what it leaves is not
    refused = refused_step(tiny_settings(optimizer=optimizer, lr=1e39, steps=steps))
    assert refused.clause == "TRN-007"
    assert "step 1 leaves values of model.layers.0" in str(refused)


@pytest.mark.parametrize(
    ("optimizer", "part"), [("adamw", "first_moment"), ("spiel-adamw", "second_moment"), ("sgd", "momentum")]
)
@pytest.mark.parametrize("after", [0, 3])
def test_TRN_007_one_bad_number_in_what_the_optimizer_keeps_stops_the_run(optimizer, part, after):
    def spoil(state):
        name, target = list(state.targets.items())[-1]
        kept = {**target.delta.kept, part: target.delta.kept[part].copy()}
        kept[part][-1] = math.nan
        return replace(state, targets={**state.targets, name: replace(target, delta=replace(target.delta, kept=kept))})

    # step 4 has an event: what it does with a NaN is not asked
    assert refused_step(tiny_settings(optimizer=optimizer), after, spoil).clause == "TRN-007"


def test_TRN_007_accumulators_of_a_matrix_are_looked_at():
    def spoil(state):
        name, target = next(iter(state.targets.items()))
        shared = {**target.delta.shared, "rows": np.full_like(target.delta.shared["rows"], math.inf)}
        return replace(
            state, targets={**state.targets, name: replace(target, delta=replace(target.delta, shared=shared))}
        )

    assert refused_step(tiny_settings(optimizer="sm3"), 1, spoil).clause == "TRN-007"


def test_TRN_007_a_weight_that_overflows_though_its_parts_do_not_stops_the_run():
    huge = float(np.finfo(np.float32).max)

    def spoil(state):
        name, target = next(iter(state.targets.items()))
        values = np.full_like(target.delta.values, huge * 0.75)
        under = np.full_like(target.under, huge * 0.75)
        return replace(
            state,
            targets={**state.targets, name: replace(target, delta=replace(target.delta, values=values), under=under)},
        )

    assert "leaves weights of" in str(refused_step(tiny_settings(lr=0.0), None, spoil))


@pytest.mark.parametrize("asked", ["gradient", "absolute", "square", "inputs"])
def test_TRN_007_a_window_that_a_later_step_goes_on_with_is_finite(asked):
    window = Window((2, 3), frozenset({asked}))
    good = WeightGradient(np.ones((1, 2), dtype=np.float32), np.ones((1, 3), dtype=np.float32))
    assert window.plus(good).settled().steps == 1
    # beyond the largest float32, where no slot may be
    bad = WeightGradient(np.full((1, 2), 1e30, dtype=np.float32), np.full((1, 3), 1e30, dtype=np.float32))
    with np.errstate(all="ignore"), pytest.raises(UpdateError, match="TRN-007"):
        window.plus(bad).settled()
    with np.errstate(all="ignore"), pytest.raises(UpdateError, match="TRN-007"):
        window.plus(good).settled().plus(bad).settled()


def test_TRN_007_the_sums_of_candidates_are_finite_too():
    kept = Window((1, 3), frozenset({"gradient", "square"}), support=lambda: from_flat((1, 3), np.array([0])))
    window = FirstStepWindow(1, kept)
    good, large = (
        WeightGradient(np.full((1, 1), x, dtype=np.float32), np.ones((1, 3), dtype=np.float32)) for x in (1.0, 1e30)
    )
    assert window.plus(good).settled().plus(good).settled().steps == 2
    for first in (window, window.plus(good).settled()):
        with np.errstate(all="ignore"), pytest.raises(UpdateError, match="TRN-007"):
            first.plus(large).settled()


def test_TRN_007_a_poisoned_window_is_refused_at_the_next_step_not_at_the_event():
    def spoil(state):
        name, kept = next(iter(state.window.items()))
        gradient = kept.gradient.copy()
        gradient[0, 0] = math.inf
        return replace(state, window={**state.window, name: replace(kept, gradient=gradient)})

    # the event follows step 4; step 2 would be saved with the sum
    assert refused_step(tiny_settings(gradient_window=4), 1, spoil).clause == "TRN-007"


@pytest.mark.parametrize("optimizer", ["adamw", "spiel-adamw", "sm3"])
def test_TRN_008_eps_is_above_0_in_the_compute_dtype(optimizer):
    # 1e-50 is 0 in float32 and not in float64
    settings = tiny_settings(optimizer=optimizer, eps=1e-50)
    with pytest.raises(ConfigError) as refused:
        states(settings)
    assert refused.value.clause == "TRN-008"
    _, run = states(settings, dtype=np.float64)
    assert all(math.isfinite(record.loss) for _, record in run)
    assert states(tiny_settings(optimizer=optimizer, eps=1e-45))
    with np.errstate(over="ignore"), pytest.raises(ConfigError, match="TRN-008"):
        states(tiny_settings(optimizer=optimizer, eps=1e39))


def test_OPT_004_the_norm_is_summed_in_binary64():
    # (1e20)² is beyond float32
    found = {"a": np.array([1e20, 0.0], dtype=np.float32), "b": np.array([3e19], dtype=np.float32)}
    exact = math.sqrt(sum(float(x) ** 2 for values in found.values() for x in values))
    assert gradient_norm(1, 0.5, found) == exact
    # 2^24 + 1 is no float32
    ones = {"a": np.array([2.0**12] + [1.0] * 3, dtype=np.float32)}
    assert gradient_norm(1, 0.5, ones) == math.sqrt(2**24 + 3)
    assert gradient_norm(1, 0.5, {}) == 0.0
    for loss, values in ((math.nan, [1.0]), (1.0, [math.inf]), (1.0, [math.nan]), (1.0, [1e200])):
        with np.errstate(over="ignore"), pytest.raises(UpdateError, match="TRN-007"):
            gradient_norm(1, loss, {"a": np.array(values)})


@pytest.mark.parametrize("name", BACKENDS)
def test_TRN_007_arrays_of_any_library_are_looked_at(name):
    backend = BACKENDS[name]
    good = backend.array(np.array([1.0, -0.0, 5e-324], dtype=np.float64))
    ages = backend.array(np.array([1, 2, 3], dtype=np.int32))
    assert all_finite()
    assert all_finite(good, ages)
    assert gradient_norm(1, 0.0, {"a": backend.array(np.array([3.0, 4.0], dtype=np.float32))}) == 5.0
    check_eps(1e-8, good)
    refuse_spoilt(1, "w", {"values": good, "age": ages})
    refuse_spoilt_sums({"gradient": good})
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = backend.array(np.array([1.0, bad]))
        assert not all_finite(good, spoilt)
        with pytest.raises(UpdateError, match=r"TRN-007: step 7 leaves momentum of w"):
            refuse_spoilt(7, "w", {"values": good, "momentum": spoilt})
        with pytest.raises(UpdateError, match="TRN-007"):
            refuse_spoilt_sums({"gradient": good, "square": spoilt})


@pytest.mark.parametrize("anywhere", [False, True])
def test_TRN_007_the_gradient_of_first_positions(monkeypatch, anywhere):
    gradient = np.array([[1.0, np.inf], [3.0, 4.0]])
    base = Base(from_flat((2, 2), np.arange(2)), np.ones(2))

    def fake(weights, config, batches, kernels, at, keep=None, **more):
        kept = {name: replace(w, latest=Accumulated(w.shape, (), gradient)) for name, w in (keep or {}).items()}
        return StepGradients(1.0, {} if keep else {"w": gradient.reshape(-1)[:2]}, kept)

    monkeypatch.setattr(first_positions, "loss_and_gradients", fake)
    with pytest.raises(UpdateError, match=r"TRN-007.*gradient of w.*float64"):
        first_positions._by_gradient(None, None, {"w": base}, reference, [], [2], ALONE, anywhere=anywhere)
