"""A number that overflows on the way never comes back as a finite one (LYR-015, LYR-016, TRN-019)."""

import math

import numpy as np
import pytest

from seft_ref.arrays.finite import gradient_norm
from seft_ref.arrays.library import overflow_allowed
from seft_ref.errors import (
    EvaluationError,
    GenerateError,
    LayerError,
    LayerOverflow,
    PruneError,
    SeftError,
    UpdateError,
)
from seft_ref.kernels import reference
from seft_ref.layers import plain
from seft_ref.layers.attention import attention_forward, visible_keys
from seft_ref.layers.attention_blocks import Sight, blockwise_forward
from seft_ref.layers.linear import WeightGradient
from seft_ref.layers.rmsnorm import rmsnorm_forward
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import Window
from seft_ref.prune.keep import keep_n_of_m
from seft_ref.prune.sparsegpt import sparsegpt
from seft_ref.prune.wanda import square_sum, wanda_mask
from seft_ref.text.evaluate import evaluate_windows
from seft_ref.text.generate import generate_tokens
from seft_ref.topology.csr import from_flat
from seft_ref.train.loop import train
from seft_ref.update.delta import Base, new_delta
from seft_ref.update.evolve import Part, evolve
from seft_ref.update.rules import Rule
from tests.backends import BACKENDS
from tests.seft_ref.tiny import (
    CONFIG,
    TOKENS,
    magnitude_keep,
    packed_weights,
    parameters,
    pruned_bases,
    start,
    tiny_settings,
)
from tests.seft_ref.update.one_matrix import one_pool

F32 = np.float32


def refusal(call, error=SeftError):
    """What a call is refused with; the tests turn a warning of NumPy into an error."""
    with pytest.raises(error) as refused:
        call()
    return refused.value


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("bad", ["large", math.inf, math.nan])
def test_LYR_015_one_row_that_overflows_is_refused(name, bad):
    backend = BACKENDS[name]
    x = np.ones((2, 3, 4))
    x[1, 2, 0] = {"float32": 1e30, "float64": 1e200}[backend.dtype] if bad == "large" else bad
    there = backend.array(x)
    assert refusal(lambda: rmsnorm_forward(there, backend.array(np.ones(4, dtype=F32)), 1e-5)).clause == "LYR-015"


def test_LYR_015_a_row_of_zeros_needs_an_eps():
    assert refusal(lambda: rmsnorm_forward(np.zeros((1, 2)), np.ones(2), 0.0)).clause == "LYR-015"
    assert not rmsnorm_forward(np.zeros((1, 2)), np.ones(2), 1e-30)[0].any()


def test_LYR_015_the_largest_rows_that_fit_are_answered():
    x = np.full((1, 4), 9e18, dtype=F32)
    np.testing.assert_allclose(rmsnorm_forward(x, np.ones(4, dtype=F32), 1e-5)[0], 1.0, rtol=1e-6)


def heads(x):
    return np.full((1, 1, 3, 2), x, dtype=F32)


def blocks(q, k, v):
    return blockwise_forward(q, k, v, Sight(q.shape[2], None, None, q), plain)


def whole(q, k, v):
    return attention_forward(q, k, v, visible_keys(q.shape[2], None, None, q))


@pytest.mark.parametrize("attend", [whole, blocks])
@pytest.mark.parametrize(("q", "k"), [(1e30, -1e30), (1e30, 1e30), (math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0)])
def test_LYR_016_scores_that_overflow_are_refused(attend, q, k):
    # all scores −∞ were a query that sees nothing: y = 0
    assert refusal(lambda: attend(heads(q), heads(k), heads(1.0))).clause == "LYR-016"


@pytest.mark.parametrize("attend", [whole, blocks])
def test_LYR_016_one_infinite_key_is_refused_though_every_largest_score_is_finite(attend):
    k = heads(1.0)
    k[0, 0, 1, 0] = -math.inf
    assert refusal(lambda: attend(heads(1.0), k, heads(1.0))).clause == "LYR-016"


def test_LYR_016_a_score_far_below_a_finite_one_counts_nothing_as_it_should():
    q, k, v = heads(1e20), heads(0.0), heads(1.0)
    k[0, 0, 1, :] = -1e20
    v[0, 0, 1, :] = 9.0
    y, _ = whole(q, k, v)
    assert y[0, 0, 2, 0] == 1.0


def test_LYR_016_a_query_that_sees_nothing_is_none_of_that():
    mask = np.array([[False, False, True]])
    y, _ = attention_forward(heads(1.0), heads(1.0), heads(1.0), visible_keys(3, None, mask, heads(1.0)))
    assert y[0, 0, :, 0].tolist() == [0.0, 0.0, 1.0]


def huge(scale=1e25):
    dense = parameters(CONFIG)
    dense["model.embed_tokens.weight"] *= F32(scale)
    return dense


def test_TRN_019_a_perplexity_and_a_text_behind_an_overflow_are_refused():
    weights = packed_weights(CONFIG, *model(huge()))
    for call in (
        lambda: evaluate_windows(weights, CONFIG, TOKENS, reference, length=5, windows=2),
        lambda: next(generate_tokens(TOKENS[:4], weights, CONFIG, reference)),
    ):
        assert refusal(call, (LayerError, EvaluationError, GenerateError)).clause == "LYR-015"


def model(dense):
    """All parameters, and the bases of the targets."""
    return dense, pruned_bases(CONFIG, dense, magnitude_keep(0.6))


@pytest.mark.parametrize("by", ["gradient", "random"])
def test_TRN_007_a_first_step_behind_an_overflow_is_refused(by):
    def run():
        dense, bases = model(huge())
        settings = tiny_settings(initial_positions=by)
        return next(train(start(settings, CONFIG, dense, bases, TOKENS), settings, CONFIG, TOKENS, reference))

    error = refusal(run, UpdateError)
    assert error.clause == "TRN-007"
    assert "LYR-015" in str(error)
    assert ("--dtype float64" if by == "gradient" else "lower learning rate") in str(error)


@pytest.mark.parametrize("optimizer", ["adamw", "spiel-adamw", "sm3"])
def test_TRN_007_a_squared_gradient_that_overflows_is_refused(optimizer):
    # v = inf, with which the step would be 0
    dense = parameters(CONFIG)
    dense["lm_head.weight"] *= F32(1e28)

    def run():
        made, bases = model(dense)
        settings = tiny_settings(optimizer=optimizer, max_norm=0.0, initial_positions="random")
        return next(train(start(settings, CONFIG, made, bases, TOKENS), settings, CONFIG, TOKENS, reference))

    error = refusal(run, UpdateError)
    assert error.clause == "TRN-007"
    assert "NaN or infinity; start anew with a lower learning rate" in str(error)


def test_TRN_007_a_norm_that_overflows_clips_nothing_to_zero():
    assert refusal(lambda: gradient_norm(1, 1.0, {"w": np.array([1e200])})).clause == "TRN-007"


def test_EVT_005_mean_squares_of_inputs_that_overflow_are_refused():
    # (ḡ · ḡ) / inf is 0: growth would go by position
    base = Base(from_flat((1, 2), np.array([0])), np.ones(1, dtype=F32))
    delta = new_delta((1, 2), np.array([0]), base.values)
    rule = Rule(grow="curvature")
    gradient = WeightGradient(np.full((1, 1), 1e-20, dtype=F32), np.array([[1.0, 1e30]], dtype=F32))

    @overflow_allowed()
    def run():
        window = Window((1, 2), frozenset({"gradient", "inputs"})).plus(gradient)
        (seen,) = evidence([View(window, base, delta)], rule, n=np.array([1]))
        pools = one_pool(base.values, budget=1, delta_budget=2)
        return evolve([Part(base, delta, seen)], pools, n_drop=np.array([0]), rule=rule)

    assert refusal(run, UpdateError).clause == "EVT-005"


def test_PRN_015_scores_that_overflow_are_refused_whatever_the_rule():
    w = np.full((2, 4), 1e200)
    calls = (
        lambda: wanda_mask(w, np.full(4, 1e300), 0.5),
        lambda: sparsegpt(w, np.eye(4), 0.5),
        lambda: keep_n_of_m(np.array([[1.0, math.inf]]), 1, 2),
    )
    for call in calls:
        assert refusal(call, PruneError).clause == "SEL-004"


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_PRN_014_scores_of_float32_are_told_apart_whatever_their_scale(scale):
    rng = np.random.default_rng(5)
    w, x = (rng.standard_normal(shape).astype(F32) for shape in ((8, 16), (64, 16)))
    expected = wanda_mask(w.astype(np.float64), square_sum(x.astype(np.float64)), 0.5)
    np.testing.assert_array_equal(wanda_mask(w * F32(scale), square_sum(x) * scale, 0.5), expected)
    assert square_sum(x).dtype == np.float64


def test_PRN_014_a_square_that_float32_does_not_hold_is_summed():
    np.testing.assert_allclose(square_sum(np.full((3, 2), 1e30, dtype=F32)), 3e60, rtol=1e-6)


def test_TRN_015_a_refusal_travels_between_processes():
    import pickle

    sent = LayerOverflow("LYR-015", "a row is too large")
    found = pickle.loads(pickle.dumps(sent))
    assert (type(found), str(found), found.clause) == (LayerOverflow, str(sent), "LYR-015")
