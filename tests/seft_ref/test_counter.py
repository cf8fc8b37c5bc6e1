"""Random numbers (RNG-001, RNG-002), against a loop over integers and the published outputs of SplitMix64."""

import numpy as np
import pytest

from seft_ref.arrays.rng import choose, counter_key, draw, draws, mix
from seft_ref.errors import ConfigError

WORD = 2**64


def splitmix(state):
    """Yield SplitMix64 as published: a state that steps, then three lines of mixing."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % WORD
        z = state
        z = (z ^ (z // 2**30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z // 2**27)) * 0x94D049BB133111EB % WORD
        yield z ^ (z // 2**31)


@pytest.mark.parametrize(
    ("seed", "published"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (
            1234567,
            [
                6457827717110365317,
                3203168211198807973,
                9817491932198370423,
                4593380528125082431,
                16408922859458223821,
            ],
        ),
    ],
)
def test_RNG_001_published_outputs_of_splitmix64(seed, published):
    assert [draw(seed, i) for i in range(len(published))] == published
    assert draws(seed, range(len(published))).tolist() == published


@pytest.mark.parametrize("key", [0, 1, 2**32 + 5, WORD - 1])
def test_RNG_001_draws_are_the_loop(key):
    loop = splitmix(key)
    expected = [next(loop) for _ in range(50)]
    assert [draw(key, i) for i in range(50)] == expected
    together = draws(key, range(50))
    assert together.dtype == np.uint64
    assert together.tolist() == expected


def test_RNG_001_any_order_and_any_size_of_counter():
    counters = [7, 0, 2**40 + 3, 7, WORD - 2]
    expected = [draw(3, i) for i in counters]
    assert draws(3, counters).tolist() == expected
    assert draws(3, np.array(counters, dtype=np.uint64)).tolist() == expected
    assert draws(3, np.array([7, 0], dtype=np.int64)).tolist() == expected[:2]
    assert draws(3, []).shape == (0,)


@pytest.mark.parametrize("words", [(), (0,), (0, 1), (1, 0), (42, 2, 13), (WORD - 1, 4, 0)])
def test_RNG_002_key_takes_each_word_in_turn(words):
    key = 0
    for word in words:
        z = (key + 0x9E3779B97F4A7C15) % WORD ^ word
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        key = z ^ (z >> 31)
    assert counter_key(*words) == key


def test_RNG_002_words_and_their_order_matter():
    keys = [counter_key(*words) for words in ((), (0,), (0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1))]
    assert len(set(keys)) == len(keys)
    assert mix(0) == 0


@pytest.mark.parametrize("words", [(-1,), (WORD,), (0, -1), (0, 1, WORD)])
def test_RNG_002_word_that_is_no_64_bit_number_is_refused(words):
    with pytest.raises(ConfigError) as caught:
        counter_key(*words)
    assert caught.value.clause == "RNG-002"


@pytest.mark.parametrize("size", [0, 1, 5, 13])
def test_DLT_004_choose_takes_the_smallest_draws(size):
    ids = np.array([0, 1, 4, 6, 7, 11, 12, 20, 33, 34, 50, 51, 99])
    by_draw = sorted((draw(5, int(i)), int(i)) for i in ids)
    assert choose(5, ids, size).tolist() == sorted(i for _, i in by_draw[:size])


@pytest.mark.parametrize("counters", [range(5), range(0), range(3, 90, 4), range(2**32 - 2, 2**32 + 3)], ids=str)
def test_RNG_001_a_range_draws_as_its_numbers_do(counters):
    assert draws(9, counters).tolist() == [draw(9, i) for i in counters]
