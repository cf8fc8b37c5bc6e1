"""Picks against the rule said once more in plain Python, and against the probabilities that it stands for."""

import math
from collections import Counter
from fractions import Fraction

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seft_ref.arrays.rng import counter_key, draw
from seft_ref.errors import ConfigError, GenerateError
from seft_ref.text.sampling import Sampling, pick


def plainly(logits, temperature, top_k, top_p, seed, number):
    """GEN-004 and GEN-005 sentence by sentence; None where a draw lies near a boundary."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order if top_k is None else order[:top_k]
    weights = [math.exp((logits[i] - logits[order[0]]) / temperature) for i in order]
    # sums without rounding
    sums = [sum(map(Fraction, weights[: i + 1])) for i in range(len(weights))]
    least = Fraction(top_p) * sums[-1]
    n = next(i for i in range(len(sums)) if sums[i] >= least) + 1
    at = Fraction(draw(counter_key(seed, 6), number) >> 11, 2**53) * sums[n - 1]
    near = min(min(abs(at - c), abs(least - c) if top_p < 1 else math.inf) for c in sums)
    if near < 1e-9 * sums[-1] and set(weights) != {1.0}:
        return None
    return next(order[i] for i in range(n) if sums[i] > at)


@given(
    st.lists(st.integers(-8, 8), min_size=1, max_size=40),
    st.sampled_from([0.3, 1.0, 2.5]),
    st.sampled_from([None, 1, 2, 5, 50]),
    st.sampled_from([1.0, 0.5, 0.9, 1e-9]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 10**6),
    st.sampled_from(["float32", "float64"]),
)
@settings(max_examples=400, deadline=None)
def test_GEN_004_005_the_token_of_the_plain_rule(steps, temperature, top_k, top_p, seed, number, dtype):
    logits = [x / 4 for x in steps]
    wanted = plainly(logits, temperature, top_k, top_p, seed, number)
    found = pick(np.array(logits, dtype=dtype), Sampling(temperature, top_k, top_p, seed), number)
    assert wanted is None or found == wanted


def test_GEN_005_tokens_are_as_frequent_as_probable():
    logits = np.log(np.array([1.0, 5.0, 2.0, 2.0, 10.0]))
    n = 4_000
    for sampling, shares in (
        (Sampling(1.0), [1, 5, 2, 2, 10]),
        (Sampling(0.5), [1, 25, 4, 4, 100]),
        (Sampling(1.0, top_k=3), [0, 5, 2, 0, 10]),
        (Sampling(1.0, top_p=0.75), [0, 5, 0, 0, 10]),
        (Sampling(1.0, top_k=3, top_p=0.89), [0, 5, 2, 0, 10]),
        (Sampling(1.0, top_k=3, top_p=0.88), [0, 5, 0, 0, 10]),
    ):
        counts = Counter(pick(logits, sampling, i) for i in range(n))
        for token, share in enumerate(shares):
            p = share / sum(shares)
            assert abs(counts[token] - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)), (sampling, token)


def test_GEN_003_temperature_0_takes_the_first_of_the_largest():
    assert pick(np.array([1.0, 3.0, 3.0]), Sampling(), 5) == 1
    assert pick(np.array([-1.0, -0.0, 0.0]), Sampling(top_k=1, top_p=0.1), 5) == 1


def test_GEN_004_nothing_overflows():
    logits = np.array([3e38, -3e38, 3e38], dtype=np.float32)
    assert {pick(logits, Sampling(1.0, seed=s), 0) for s in range(20)} == {0, 2}
    assert pick(np.array([1e-3, 0.0]), Sampling(1e-300), 0) == 0
    assert {pick(np.array([1e308, -1e308]), Sampling(1e305, seed=s), 0) for s in range(9)} == {0}


def test_GEN_005_a_library_and_its_device_change_nothing():
    logits = np.random.default_rng(0).standard_normal(30).astype(np.float32)
    there = array_api_strict.asarray(logits, device=array_api_strict.Device("no_float64"))
    sampling = Sampling(1.3, 20, 0.9, 8)
    assert [pick(there, sampling, i) for i in range(30)] == [pick(logits, sampling, i) for i in range(30)]


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_k": -3},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": math.nan},
    ],
)
def test_GEN_006_settings_out_of_range_are_refused(how):
    with pytest.raises(GenerateError, match="GEN-006") as error:
        Sampling(**how)
    assert next(iter(how)) in str(error.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)])
def test_GEN_006_logits_that_are_no_numbers_are_refused(bad, sampling):
    with pytest.raises(GenerateError, match="GEN-006"):
        pick(np.array([0.0, bad]), sampling, 0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_RNG_002_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ConfigError, match="RNG-002"):
        Sampling(1.0, seed=seed)
