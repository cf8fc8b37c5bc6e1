"""Perplexity of models whose probabilities are known."""

import itertools
import math

import numpy as np
import pytest

from seft_ref.errors import EvaluationError, TextError
from seft_ref.kernels import reference
from seft_ref.text.evaluate import evaluate_examples, evaluate_windows
from seft_ref.text.examples import Example, Examples
from seft_ref.text.tokens import evaluation_starts
from tests.seft_ref.tiny import (
    CONFIG,
    TOKENS,
    VOCABULARY,
    magnitude_keep,
    packed_weights,
    parameters,
    pruned_bases,
    tiny_config,
)


def weights_of(dense, config=CONFIG, sparsity=0.5):
    return packed_weights(config, dense, pruned_bases(config, dense, magnitude_keep(sparsity)))


def bigram_model(table):
    """A model that knows only the last token: embeddings are unit vectors, the blocks add nothing."""
    n = len(table)
    config = tiny_config(hidden_size=n, vocab_size=n)
    dense = parameters(config, np.float64)
    for name in dense:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            dense[name] *= 0
    dense["model.embed_tokens.weight"] = np.eye(n)
    dense["model.norm.weight"] = np.ones(n)
    # the norm of a unit vector scales it by 1 / sqrt(1/n + eps)
    dense["lm_head.weight"] = np.asarray(table).T * math.sqrt(1 / n + config.rms_norm_eps)
    return weights_of(dense, config, 0.0), config


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_EVL_001_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(dtype, bound):
    dense = parameters(CONFIG, dtype)
    dense["lm_head.weight"] *= 0
    found = evaluate_windows(weights_of(dense), CONFIG, TOKENS, reference, length=11, windows=5)
    assert found.perplexity == pytest.approx(VOCABULARY, rel=bound)
    assert found.nats_per_token == pytest.approx(math.log(VOCABULARY), rel=bound)
    assert (found.targets, found.windows, found.length) == (50, 5, 11)


@pytest.mark.parametrize(("length", "windows", "rows"), [(2, 7, 3), (9, 1, 4), (6, 5, 2), (40, 2, 1)])
def test_EVL_001_the_mean_over_all_targets_of_all_windows(length, windows, rows):
    rng = np.random.default_rng(8)
    table = rng.normal(size=(7, 7)) * 2
    weights, config = bigram_model(table)
    tokens = rng.integers(0, 7, 40).tolist()
    losses = []
    for i in range(windows):
        start = i * (40 - length) // max(windows - 1, 1)
        window = tokens[start : start + length]
        for last, target in itertools.pairwise(window):
            losses.append(math.log(math.fsum(math.exp(z) for z in table[last])) - table[last][target])
    found = evaluate_windows(weights, config, tokens, reference, length=length, windows=windows, rows=rows)
    assert found.targets == len(losses) == windows * (length - 1)
    assert found.nats_per_token == pytest.approx(math.fsum(losses) / len(losses), rel=1e-11)
    assert found.perplexity == math.exp(found.nats_per_token)


@pytest.mark.parametrize(("length", "rows"), [(2, 3), (7, 1), (20, 4), (39, 2), (40, 1)])
def test_EVL_001_windows_side_by_side_read_each_token_once(length, rows):
    rng = np.random.default_rng(9)
    table = rng.normal(size=(7, 7)) * 2
    weights, config = bigram_model(table)
    tokens = rng.integers(0, 7, 40).tolist()
    # windows that users count by hand: cut the text into pieces, and drop a last piece that is too short
    losses, rest = [], tokens
    while len(rest) >= length:
        window, rest = rest[:length], rest[length:]
        for last, target in itertools.pairwise(window):
            losses.append(math.log(math.fsum(math.exp(z) for z in table[last])) - table[last][target])
    found = evaluate_windows(weights, config, tokens, reference, length=length, windows=None, rows=rows)
    assert (found.windows, found.targets) == (40 // length, len(losses))
    assert found.nats_per_token == pytest.approx(math.fsum(losses) / len(losses), rel=1e-11)


def test_EVL_001_the_rows_that_go_through_at_once_do_not_matter():
    weights = weights_of(parameters(CONFIG, np.float64))
    found = [
        evaluate_windows(weights, CONFIG, TOKENS, reference, length=8, windows=7, rows=rows)
        for rows in (1, 2, 3, 7, 50)
    ]
    for other in found[1:]:
        assert other.perplexity == pytest.approx(found[0].perplexity, rel=1e-12)
        assert (other.targets, other.windows) == (49, 7)


def test_EVL_001_progress_counts_windows():
    seen = []
    weights = weights_of(parameters(CONFIG))
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    evaluate_windows(weights, CONFIG, TOKENS, reference, length=5, windows=5, rows=2, progress=report)
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_EVL_002_a_text_shorter_than_a_window_is_refused():
    weights = weights_of(parameters(CONFIG))
    assert evaluation_starts(9, 9, 1) == [0]
    with pytest.raises(TextError) as refused:
        evaluate_windows(weights, CONFIG, TOKENS[:8], reference, length=9, windows=1)
    assert refused.value.clause == "EVL-002"


@pytest.mark.parametrize(
    ("scale", "finite"), [(1.0, True), (700.0, True), (709.7, True), (709.9, False), (1e5, False), (1e300, False)]
)
def test_EVL_003_a_perplexity_beyond_binary64_is_refused(scale, finite):
    # the wrong one of two tokens, always, by so many nats
    weights, config = bigram_model([[0.0, scale], [scale, 0.0]])
    tokens = [0] * 20
    if finite:
        found = evaluate_windows(weights, config, tokens, reference, length=5, windows=2)
        assert found.nats_per_token == pytest.approx(math.log1p(math.exp(-scale)) + scale, rel=1e-9)
        assert math.isfinite(found.perplexity)
        return
    with pytest.raises(EvaluationError, match="EVL-003"):
        evaluate_windows(weights, config, tokens, reference, length=5, windows=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_EVL_003_a_mean_that_is_no_number_is_refused(bad):
    dense = parameters(CONFIG)
    dense["lm_head.weight"][0] = bad
    with np.errstate(all="ignore"), pytest.raises(EvaluationError, match="EVL-003"):
        evaluate_windows(weights_of(dense), CONFIG, TOKENS, reference, length=5, windows=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_EVL_003_a_loss_of_examples_that_is_no_number_is_refused(bad):
    dense = parameters(CONFIG)
    dense["lm_head.weight"][0] = bad
    examples = Examples([Example([1, 2, 3], [-100, 2, 3]), Example([2, 1], [-100, 1])])
    with np.errstate(all="ignore"), pytest.raises(EvaluationError, match="EVL-003"):
        evaluate_examples(weights_of(dense), CONFIG, examples, reference)


def test_EVL_003_a_large_loss_of_examples_is_a_loss():
    weights, config = bigram_model([[0.0, 1e5], [1e5, 0.0]])
    assert evaluate_examples(weights, config, Examples([Example([0, 0], [0, 0])]), reference) == pytest.approx(1e5)
