"""Attention in blocks of queries against all queries at once, and against plain loops through that (LYR-013)."""

import tracemalloc

import numpy as np
import pytest

from seft_ref.layers import attention_blocks, plain
from seft_ref.layers.attention import attention_backward, attention_forward, visible_keys
from seft_ref.layers.attention_blocks import Sight, blockwise_backward, blockwise_forward
from seft_ref.model.decoder import decoder_backward, decoder_forward
from tests.seft_ref.families import tokens_of, weights_of
from tests.seft_ref.test_gradients import tiny_step


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("first", [0, 5])
def test_LYR_013_blocks_are_the_whole(backend, monkeypatch, rows, window, masked, first):
    monkeypatch.setattr(attention_blocks, "ROWS", rows)
    numbers = np.random.default_rng(4)
    b, heads, kv, t, d = 2, 4, 2, 7, 6
    s = first + t
    q = numbers.standard_normal((b, heads, t, d))
    k, v = (numbers.standard_normal((b, kv, s, d)) for _ in range(2))
    dy = numbers.standard_normal((b, heads, t, d))
    q, k, v, dy = (backend.array(x) for x in (q, k, v, dy))
    # the first row is all padding: nothing of it is seen
    mask = backend.array(np.asarray([[False] * s, [False] + [True] * (s - 1)])) if masked else None
    want, cache = attention_forward(q, k, v, visible_keys(s, window, mask, q, first))
    got, blocks = blockwise_forward(q, k, v, Sight(s, window, mask, q, first), plain)
    tolerance = 1e-12 if backend.numpy(q).dtype == np.float64 else 2e-5
    for ours, theirs in zip(
        (got, *blockwise_backward(dy, blocks, plain)), (want, *attention_backward(dy, cache)), strict=True
    ):
        np.testing.assert_allclose(backend.numpy(ours), backend.numpy(theirs), rtol=tolerance, atol=tolerance)
        assert backend.owns(ours)
    if masked:
        assert not backend.numpy(got)[0].any()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2-layer_types", "qwen3"])
@pytest.mark.parametrize("recompute", [False, True])
def test_LYR_013_a_model_of_a_long_sequence(monkeypatch, family, recompute):
    config, parameters, _ = tiny_step(family)
    weights, tokens = weights_of(config, parameters), tokens_of(config, 3, (2, 11))
    found = []
    for whole in (512, 4):
        monkeypatch.setattr("seft_ref.model.decoder.WHOLE", whole)
        monkeypatch.setattr(attention_blocks, "ROWS", 3)
        y, cache = decoder_forward(tokens, weights, config, _kernels(), recompute=recompute)
        gradients = dict(decoder_backward(np.ones_like(y), cache))
        found.append([y, *(g.dy.T @ g.x for name, g in gradients.items() if name.endswith("proj.weight"))])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def _kernels():
    from seft_ref.kernels import reference

    return reference


def test_LYR_013_scores_of_all_queries_are_never_held():
    t, numbers = 2048, np.random.default_rng(0)
    q, k, v = (numbers.standard_normal((1, 1, t, 8)).astype(np.float32) for _ in range(3))
    tracemalloc.start()
    _, cache = blockwise_forward(q, k, v, Sight(t, None, None, q), plain)
    blockwise_backward(np.ones_like(q), cache, plain)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < t * t * 4
