"""What `arrays` does in two ways does the same in both."""

import numpy as np
import pytest

from seft_ref.arrays.lazy import Lazy
from seft_ref.arrays.library import repeat_by_search, repeat_each, with_values


@pytest.mark.parametrize("counts", [[], [0], [3], [0, 0], [2, 0, 1], [0, 4, 0, 0, 1, 0], list(range(50))])
def test_repeats_that_are_looked_up(backend, counts):
    counts = backend.array(np.asarray(counts, dtype=np.int64))
    x = backend.array(np.arange(counts.shape[0]) * 3 + 1)
    expected = np.repeat(backend.numpy(x), backend.numpy(counts))
    for found in (repeat_by_search(x, counts), repeat_each(x, counts)):
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(backend.numpy(found), expected)


@pytest.mark.parametrize("n_slots", [0, 1, 5, 12])
def test_with_values_is_assignment(backend, n_slots):
    rng = np.random.default_rng(n_slots)
    x, slots, values = rng.integers(0, 99, 12), np.sort(rng.choice(12, n_slots, replace=False)), rng.integers(0, 9, 12)
    expected = x.tolist()
    for slot, value in zip(slots.tolist(), values.tolist(), strict=False):
        expected[slot] = value
    found = with_values(backend.array(x) + 0, backend.array(slots), backend.array(values[:n_slots]))
    assert backend.numpy(found).tolist() == expected


def test_a_lazy_mapping_makes_a_value_when_it_is_looked_up():
    made = []
    lazy = Lazy(["b", "a"], lambda name: made.append(name) or name.upper())
    assert (list(lazy), len(lazy), "a" in lazy, "c" in lazy, made) == (["b", "a"], 2, True, False, [])
    assert [lazy["a"], lazy["a"], *lazy.values()] == ["A", "A", "B", "A"]
    assert made == ["a", "a", "b", "a"]
    with pytest.raises(KeyError):
        lazy["c"]
