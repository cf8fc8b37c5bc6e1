"""Layers at their edges, with values worked out by hand (LYR-001 to LYR-011)."""

import math

import numpy as np
import pytest

from seft_ref.errors import LayerError
from seft_ref.kernels import reference
from seft_ref.layers.attention import attention_backward, attention_forward, visible_keys
from seft_ref.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from seft_ref.layers.embedding import embedding_backward, embedding_forward, embedding_gradient
from seft_ref.layers.linear import Linear, linear_backward, linear_forward
from seft_ref.layers.rmsnorm import rmsnorm_forward
from seft_ref.layers.rope import Rope, rope_forward, rope_frequencies, rope_table
from seft_ref.layers.swiglu import swiglu_backward, swiglu_forward
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import model_forward
from seft_ref.text.batch import Batch
from seft_ref.train.gradients import every_gradient
from tests.compare import assert_close, same_bits
from tests.seft_ref.families import CONFIGS, labels_of, parameters_of, tokens_of, weights_of


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# LYR-001 embedding


def test_LYR_001_rows_bit_for_bit():
    table = np.array([[-0.0, 5e-324], [np.nan, np.inf], [1.0, 2.0]])
    y, _ = embedding_forward(np.array([1, 0, 1]), table)
    assert same_bits(y, table[[1, 0, 1]])


@pytest.mark.parametrize("tokens", [[-1], [5], [0, 4, 5], [-100, 0]])
def test_LYR_001_token_outside_the_table_is_refused(backend, tokens):
    with pytest.raises(LayerError) as caught:
        embedding_forward(backend.array(np.array(tokens)), backend.array(np.zeros((5, 3))))
    assert caught.value.clause == "LYR-001"


def test_LYR_001_gradient_sums_repeats_and_is_zero_elsewhere(backend):
    tokens, dy = np.array([2, 0, 2, 2]), np.array([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0], [64.0, 128.0]])
    _, cache = embedding_forward(backend.array(tokens), backend.array(normal(1, 4, 2)))
    gradient = embedding_gradient(embedding_backward(backend.array(dy), cache))
    assert backend.numpy(gradient).tolist() == [[4.0, 8.0], [0.0, 0.0], [81.0, 162.0], [0.0, 0.0]]


# LYR-002 RMSNorm


def test_LYR_002_eps_stands_inside_the_root(backend):
    # mean of squares 12.5, with eps 3.5 the root is 4; outside it would be sqrt(12.5) + 3.5
    y, _ = rmsnorm_forward(backend.array(np.array([[3.0, 4.0]])), backend.array(np.array([2.0, -1.0])), 3.5)
    assert backend.numpy(y).tolist() == [[1.5, -1.0]]


def test_LYR_002_row_of_zeros_stays_zero(backend):
    y, _ = rmsnorm_forward(backend.array(np.zeros((2, 3))), backend.array(np.ones(3)), 1e-6)
    assert backend.numpy(y).tolist() == [[0.0] * 3] * 2


# LYR-003 linear


def test_LYR_003_whole_numbers_by_hand(backend):
    # W is 2 x 3, one row of x: y = x Wᵀ + bias
    weight, x, bias = (
        np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]]),
        np.array([[1.0, 10.0, 100.0]]),
        np.array([0.5, -0.5]),
    )
    linear = Linear(reference.pack_dense(backend.array(weight)), backend.array(bias))
    y, cache = linear_forward(backend.array(x), linear, reference)
    assert backend.numpy(y).tolist() == [[321.5, 389.5]]
    dx, dweight, dbias = linear_backward(backend.array(np.array([[1.0, 2.0]])), cache)
    assert backend.numpy(dx).tolist() == [[1.0, 0.0, 11.0]]
    assert backend.numpy(dbias).tolist() == [1.0, 2.0]
    product = backend.xp.matrix_transpose(dweight.dy) @ dweight.x
    assert backend.numpy(product).tolist() == [[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]]


# LYR-004 to LYR-006 RoPE


def test_LYR_004_pairs_are_half_a_head_apart():
    # D = 4, base 100: position 1 turns (x0, x2) by 1 and (x1, x3) by 0.1
    x = np.array([[1.0, 2.0, 3.0, 4.0]] * 2)
    y, _ = rope_forward(x, rope_table(Rope("default", 100.0), 4, 2, 16, x))
    assert same_bits(y[0], x[0])
    c, s, c1, s1 = math.cos(1.0), math.sin(1.0), math.cos(0.1), math.sin(0.1)
    assert_close(y[1], [c - 3 * s, 2 * c1 - 4 * s1, 3 * c + s, 4 * c1 + 2 * s1], 1e-15)


def test_LYR_004_table_is_rounded_once_from_binary64(backend):
    rope, length = Rope("default", 10000.0), 300
    table = rope_table(rope, 6, length, 4096, backend.array(np.zeros(1)))
    angles = [[p * 10000.0 ** (-2.0 * j / 6) for j in range(3)] for p in range(length)]
    for got, function in ((table.cos, math.cos), (table.sin, math.sin)):
        assert backend.owns(got)
        wanted = np.array([[function(a) for a in row] for row in angles])
        unit = np.finfo(backend.dtype).eps
        assert np.max(np.abs(backend.numpy(got) - wanted)) <= unit / 2 * (1 + 1e-9)


def test_LYR_004_scores_depend_on_the_distance_alone():
    q, k = normal(2, 1, 6), normal(3, 1, 6)
    turned_q, turned_k = (
        rope_forward(np.repeat(x, 9, axis=0), rope_table(Rope("default", 50.0), 6, 9, 16, x))[0] for x in (q, k)
    )
    scores = turned_q @ turned_k.T
    for distance in range(9):
        assert_close(np.diagonal(scores, -distance), np.full(9 - distance, scores[distance, 0]), 1e-13)


def test_LYR_005_frequencies_by_hand():
    def frequencies(rope, length=7, max_positions=5):
        return rope_frequencies(rope, 4, length, max_positions)

    assert_close(frequencies(Rope("default", 100.0)), [1.0, 0.1], 1e-15)
    assert_close(frequencies(Rope("linear", 100.0, 2.5)), [0.4, 0.04], 1e-15)
    # base 100 · (3·7/5 − 2)^(4/2) = 484, whose root is 22
    assert_close(frequencies(Rope("dynamic", 100.0, 3.0)), [1.0, 1.0 / 22.0], 1e-15)
    for short in (1, 4, 5):
        assert_close(frequencies(Rope("dynamic", 100.0, 3.0), length=short), [1.0, 0.1], 1e-15)
    assert_close(frequencies(Rope("dynamic", 100.0, 3.0), length=6), [1.0, 1.0 / (10 * 1.6)], 1e-15)


@pytest.mark.parametrize(
    ("turns", "scale"),
    [
        (0.5, 1 / 8),
        (0.999, 1 / 8),
        (1.0, 1 / 8),
        (1.75, (0.75 / 8) + 0.25),
        (2.5, 0.5 / 8 + 0.5),
        (4.0, 1.0),
        (4.001, 1.0),
        (9.0, 1.0),
    ],
)
def test_LYR_006_llama3_by_how_often_a_frequency_turns_in_the_original_context(turns, scale):
    # l = 1, h = 4, s = 8 and M₀ / w = turns; D = 4: f₁ = base^(−1/2) = 2π · turns / M₀
    context = 1000
    frequency = 2 * math.pi * turns / context
    rope = Rope("llama3", frequency**-2.0, 8.0, 1.0, 4.0, context)
    got = rope_frequencies(rope, 4, 7, 64)
    assert_close(got[1], frequency * scale, 1e-12)
    assert got[0] == 1.0


# LYR-007 to LYR-009 attention


def test_LYR_007_query_heads_in_order_share_a_key_value_head(backend):
    # one position: each head returns the v of head i // 2
    v = np.array([10.0, 20.0]).reshape(1, 2, 1, 1) * np.ones((1, 2, 1, 4))
    visible = visible_keys(1, None, None, backend.array(v))
    y, _ = attention_forward(
        backend.array(normal(4, 1, 4, 1, 4)), backend.array(normal(5, 1, 2, 1, 4)), backend.array(v), visible
    )
    assert backend.numpy(y)[0, :, 0, 0].tolist() == [10.0, 10.0, 20.0, 20.0]


def test_LYR_007_scale_is_the_root_of_the_head_width(backend):
    # D = 4: scores 0 and 2·ln(3)/2 = ln 3, so the second key has weight 3/4
    q, k = np.zeros((1, 1, 2, 4)), np.zeros((1, 1, 2, 4))
    q[0, 0, 1, 0], k[0, 0, 1, 0] = 2.0, math.log(3.0)
    v = np.array([0.0, 1.0]).reshape(1, 1, 2, 1) * np.ones((1, 1, 2, 4))
    y, _ = attention_forward(*(backend.array(x) for x in (q, k, v)), visible_keys(2, None, None, backend.array(v)))
    assert_close(backend.numpy(y)[0, 0, :, 0], [0.0, 0.75], backend.tight)


@pytest.mark.parametrize("window", [None, 1, 2, 6, 7, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_LYR_008_visible_keys_by_a_loop(backend, window, masked):
    mask = np.array([[True] * 7, [False, False, True, True, True, False, True]]) if masked else None
    visible = visible_keys(7, window, None if mask is None else backend.array(mask), backend.array(np.zeros(1)))
    expected = [
        [
            [s <= t and (window is None or t - s < window) and (mask is None or bool(mask[b, s])) for s in range(7)]
            for t in range(7)
        ]
        for b in range(2 if masked else 1)
    ]
    assert backend.numpy(visible).tolist() == expected


def test_LYR_008_window_of_one_sees_itself_alone(backend):
    q, k, v = normal(6, 2, 2, 5, 4), normal(7, 2, 2, 5, 4), backend.array(normal(8, 2, 2, 5, 4))
    y, cache = attention_forward(backend.array(q), backend.array(k), v, visible_keys(5, 1, None, v))
    assert same_bits(backend.numpy(y), backend.numpy(v))
    dq, dk, dv = attention_backward(backend.array(normal(9, 2, 2, 5, 4)), cache)
    assert np.max(np.abs(backend.numpy(dq))) <= 1e-6
    assert np.max(np.abs(backend.numpy(dk))) <= 1e-6
    assert same_bits(backend.numpy(dv), backend.numpy(backend.array(normal(9, 2, 2, 5, 4))))


def test_LYR_009_query_that_sees_nothing_is_zero(backend):
    mask = np.array([[False, False, True, False], [False] * 4])
    q, k, v = (backend.array(normal(10 + i, 2, 2, 4, 6)) for i in range(3))
    visible = visible_keys(4, None, backend.array(mask), q)
    y, cache = attention_forward(q, k, v, visible)
    y = backend.numpy(y)
    assert np.all(y[0, :, :2] == 0.0)
    assert np.all(y[1] == 0.0)
    assert np.all(y[0, :, 2:] == backend.numpy(v)[0, :, 2:3])
    dq, dk, dv = (backend.numpy(g) for g in attention_backward(backend.array(normal(13, 2, 2, 4, 6)), cache))
    assert all(np.all(np.isfinite(g)) for g in (dq, dk, dv))
    assert np.all(dq[0, :, :2] == 0.0)
    for gradient in (dq, dk, dv):
        assert np.all(gradient[1] == 0.0)
    for gradient in (dk, dv):
        assert np.all(gradient[0, :, [0, 1, 3]] == 0.0)


def test_LYR_009_sliding_past_the_last_token_is_zero(backend):
    # right padding behind a window of 2: query 3 looks at the padded keys 2 and 3 only
    mask = np.array([[True, True, False, False]])
    q, k, v = (backend.array(normal(14 + i, 1, 1, 4, 2)) for i in range(3))
    y, _ = attention_forward(q, k, v, visible_keys(4, 2, backend.array(mask), q))
    assert np.all(backend.numpy(y)[0, 0, 3] == 0.0)
    assert np.all(backend.numpy(y)[0, 0, 2] == backend.numpy(v)[0, 0, 1])


def test_LYR_007_huge_scores_do_not_overflow(backend):
    q = np.full((1, 1, 3, 2), 1e4)
    k = np.array([[1.0, 1.0], [2.0, 2.0], [-3.0, -3.0]]).reshape(1, 1, 3, 2) * 1e4
    v = backend.array(np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1) * np.ones((1, 1, 3, 2)))
    for sign in (1.0, -1.0):
        y, cache = attention_forward(backend.array(sign * q), backend.array(k), v, visible_keys(3, None, None, v))
        wanted = [1.0, 2.0, 2.0] if sign > 0 else [1.0, 1.0, 3.0]
        assert backend.numpy(y)[0, 0, :, 0].tolist() == wanted
        assert all(np.all(np.isfinite(backend.numpy(g))) for g in attention_backward(v, cache))


# LYR-010 SwiGLU


def test_LYR_010_finite_at_every_finite_gate(backend):
    largest = float(np.finfo(backend.dtype).max)
    gate = np.array([1000.0, -1000.0, 0.0, -0.0, 88.0, -88.0, 104.0, -104.0, largest, -largest])
    up = np.ones_like(gate)
    y, cache = swiglu_forward(backend.array(gate), backend.array(up))
    wanted = [z / (1.0 + math.exp(-z)) if z > -700 else 0.0 for z in gate.tolist()]
    assert_close(backend.numpy(y)[:-2], wanted[:-2], backend.tight)
    assert backend.numpy(y)[-2:].tolist() == [float(backend.numpy(backend.array(gate))[-2]), 0.0]
    dgate, dup = (backend.numpy(g) for g in swiglu_backward(backend.array(up), cache))
    assert np.all(np.isfinite(dgate))
    assert np.array_equal(dup, backend.numpy(y))
    # the slope is 1 far right, 0 far left, one half at 0
    assert dgate[[0, 1, 2, 3, 8, 9]].tolist() == [1.0, 0.0, 0.5, 0.5, 1.0, 0.0]


# LYR-011 cross-entropy


def test_LYR_011_loss_and_gradient_by_hand(backend):
    # p = (1/4, 3/4) in each row; the second row does not count, the whole step counts 4 targets
    logits = np.array([[0.0, math.log(3.0)]] * 3)
    loss, cache = cross_entropy_forward(backend.array(logits), backend.array(np.array([1, -100, 0])), 4)
    assert_close(backend.numpy(loss), (math.log(4 / 3) + math.log(4)) / 4, backend.tight)
    dlogits = backend.numpy(cross_entropy_backward(backend.array(np.array(2.0)), cache))
    assert_close(dlogits, 2.0 / 4 * np.array([[0.25, -0.25], [0.0, 0.0], [-0.75, 0.75]]), backend.tight)
    assert np.all(dlogits[1] == 0.0)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4, 1e30])
def test_LYR_011_huge_logits_do_not_overflow(backend, shift):
    logits = np.full((2, 7), shift)
    loss, cache = cross_entropy_forward(backend.array(logits), backend.array(np.array([3, 6])), 2)
    # at 1e30 the difference of logsumexp and logit is below half a unit
    wanted = math.log(7.0) if abs(shift) < 1e5 else 0.0
    # logsumexp and logit are rounded at the size of the shift before they are subtracted
    unit = float(np.finfo(backend.dtype).eps) * abs(shift) if abs(shift) < 1e5 else 0.0
    assert abs(float(backend.numpy(loss)) - wanted) <= unit + backend.tight
    dlogits = backend.numpy(cross_entropy_backward(backend.array(np.array(1.0)), cache))
    assert np.all(np.isfinite(dlogits))


def test_LYR_011_one_logit_far_above_the_rest(backend):
    logits = np.array([[0.0, 1e4, -1e4]] * 3)
    loss, cache = cross_entropy_forward(backend.array(logits), backend.array(np.array([1, 0, 2])), 3)
    assert_close(backend.numpy(loss), 1e4, backend.tight)
    dlogits = backend.numpy(cross_entropy_backward(backend.array(np.array(3.0)), cache))
    assert dlogits.tolist() == [[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]]


def test_LYR_011_rows_that_do_not_count_give_exactly_zero(backend):
    loss, cache = cross_entropy_forward(backend.array(normal(17, 4, 5)), backend.array(np.full(4, -100)), 3)
    assert float(backend.numpy(loss)) == 0.0
    assert np.all(backend.numpy(cross_entropy_backward(backend.array(np.array(1.0)), cache)) == 0.0)


@pytest.mark.parametrize("target", [-1, 5, -99, -101, 1000])
def test_LYR_011_target_outside_the_vocabulary_is_refused(backend, target):
    with pytest.raises(LayerError) as caught:
        cross_entropy_forward(backend.array(normal(18, 2, 5)), backend.array(np.array([0, target])), 2)
    assert caught.value.clause == "LYR-011"


@pytest.mark.parametrize("count", [0, -1])
def test_LYR_011_count_below_one_is_refused(count):
    with pytest.raises(LayerError) as caught:
        cross_entropy_forward(normal(19, 2, 5), np.array([0, 1]), count)
    assert caught.value.clause == "LYR-011"


# The whole model


def test_LYR_007_one_token_attends_to_itself(backend):
    # with T = 1 the queries and keys do not matter
    config = ModelConfig.from_json(CONFIGS["llama-gqa"])
    named, tokens = parameters_of(config, 41), tokens_of(config, 42, (3, 1))
    other = {name: -2.0 * value if "q_proj" in name or "k_proj" in name else value for name, value in named.items()}

    def logits(parameters):
        weights = weights_of(config, backend.arrays(parameters), backend)
        return model_forward(backend.array(tokens), weights, config, reference)[0]

    one, two = logits(named), logits(other)
    assert tuple(one.shape) == (3, 1, config.vocab_size)
    assert same_bits(backend.numpy(one), backend.numpy(two))


def test_LYR_011_row_without_labels_gives_no_gradient(backend):
    # the words of row 1 occur nowhere else: their rows of the table stay without gradient
    config = ModelConfig.from_json(CONFIGS["llama-gqa"])
    tokens = np.array([[1, 2, 3, 4, 5], [10, 11, 12, 13, 14]])
    labels = labels_of(tokens, np.array([[True] * 5, [False] * 5]))
    weights = weights_of(config, backend.arrays(parameters_of(config, 43)), backend)
    loss, whole = every_gradient(weights, config, [Batch(backend.array(tokens), backend.array(labels))], reference)
    table = backend.numpy(whole["model.embed_tokens.weight"])
    assert math.isfinite(loss)
    assert np.all(table[10:15] == 0.0)
    # nothing is predicted at the last place of row 0, and nothing looks at it
    assert np.all(table[5] == 0.0)
    assert np.all(np.max(np.abs(table[1:5]), axis=1) > 0.0)


def test_MDL_001_future_and_padding_do_not_reach_a_token(backend):
    config = ModelConfig.from_json(CONFIGS["qwen2-max_window_layers"])
    weights = weights_of(config, backend.arrays(parameters_of(config, 44)), backend)
    tokens = tokens_of(config, 45, (1, 7))
    mask = np.array([[False, False, True, True, True, True, True]])
    changed = tokens.copy()
    changed[0, [0, 1, 5, 6]] = (changed[0, [0, 1, 5, 6]] + 1) % config.vocab_size
    one, two = (
        backend.numpy(model_forward(backend.array(t), weights, config, reference, backend.array(mask))[0])
        for t in (tokens, changed)
    )
    assert np.array_equal(one[0, 2:5], two[0, 2:5])
    assert not np.array_equal(one[0, 5:], two[0, 5:])
