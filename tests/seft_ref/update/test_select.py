"""Selection against sorted (score, id) tuples, on every array library: same scores, same indices, exactly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.errors import UpdateError
from seft_ref.update.select import largest, selection, selection_in_pools
from tests.seft_ref.update.by_hand import LIBRARIES, RULES, library_id, listed, ranked

pytestmark = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
TIES = [
    [(i * 7 + i // 5) % levels * 0.5 for i in range(n)] for n, levels in ((64, 2), (67, 3), (131, 2), (1, 1), (9, 9))
]


def smallest(scores, k):
    return selection(scores, k).indices


def both(library, scores, k):
    """(smallest, largest) of the engine and by sorting."""
    array = library.floats(scores)
    scores, ids = listed(array), range(len(scores))
    return (listed(smallest(array, k)), listed(largest(array, k))), (
        ranked(scores, ids, k),
        ranked(scores, ids, k, largest=True),
    )


@pytest.mark.parametrize("scores", TIES, ids=lambda s: f"{len(s)}-of-{len(set(s))}-levels")
def test_SEL_001_SEL_002_equal_scores_go_to_the_lower_id_for_every_k(library, scores):
    for k in range(len(scores) + 1):
        found, expected = both(library, scores, k)
        assert found == expected, k


def test_SEL_001_SEL_002_worked_example(library):
    ids = [5, 7, 9, 11]
    scores = library.floats([1, 3, 3, 2])
    assert [ids[i] for i in listed(largest(scores, 2))] == [7, 9]
    assert [ids[i] for i in listed(smallest(scores, 3))] == [5, 7, 11]


@RULES
@given(data=st.data(), scores=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=90))
def test_SEL_001_SEL_002_any_scores(library, data, scores):
    found, expected = both(library, scores, data.draw(st.integers(0, len(scores))))
    assert found == expected


@RULES
@given(data=st.data(), scores=st.lists(st.sampled_from([-1.0, -0.0, 0.0, 2.5]), min_size=64, max_size=140))
def test_SEL_003_SEL_004_few_levels_and_signed_zeros_return_ascending(library, data, scores):
    k = data.draw(st.integers(0, len(scores)))
    found, expected = both(library, scores, k)
    assert found == expected
    assert all(part == sorted(set(part)) and len(part) == k for part in found)


def test_SEL_004_signed_zeros_are_one_score(library):
    scores = library.floats([0.0, -0.0, 0.0, -0.0, -0.0])
    assert listed(smallest(scores, 3)) == [0, 1, 2]
    assert listed(largest(scores, 3)) == [0, 1, 2]
    assert listed(smallest(-scores, 2)) == [0, 1]


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_SEL_004_a_score_that_is_not_finite_is_refused_even_for_k_0(library, bad, k):
    scores = library.floats([1.0, bad, 3.0])
    before = scores + 0
    for rule in (smallest, largest):
        with pytest.raises(UpdateError, match=r"^SEL-004: ") as refused:
            rule(scores, k)
        assert refused.value.clause == "SEL-004"
    assert str(listed(scores)) == str(listed(before))


@pytest.mark.parametrize(("n", "k"), [(0, 1), (3, 4), (3, -1), (0, -1)])
def test_SEL_005_k_outside_0_to_n_is_refused(library, n, k):
    for rule in (smallest, largest):
        with pytest.raises(UpdateError) as refused:
            rule(library.floats(range(n)), k)
        assert refused.value.clause == "SEL-005"


def test_SEL_005_the_ends_of_k(library):
    scores = library.floats([3, 1, 2])
    for rule in (smallest, largest):
        assert listed(rule(scores, 0)) == []
        assert listed(rule(scores, 3)) == [0, 1, 2]
        assert listed(rule(library.floats([]), 0)) == []
        assert str(rule(scores, 0).dtype).endswith("int64")
        assert str(rule(scores, 2).dtype).endswith("int64")


def test_SEL_001_subnormals_are_told_apart(library):
    tiny = float(np.nextafter(library.dtype(0), library.dtype(1)))
    scores = library.floats([2 * tiny, 0.0, tiny, -tiny, tiny, 3 * tiny])
    assert listed(smallest(scores, 2)) == [1, 3]
    assert listed(smallest(scores, 3)) == [1, 2, 3]
    assert listed(largest(scores, 3)) == [0, 2, 5]


def test_SEL_008_gaps_that_float32_confuses_are_told_apart_in_binary64(library):
    scores = library.floats([1.612568736, 1.877071857, 1.458720088, 1.697988033])
    found = selection_in_pools(scores, library.ints([0, 0, 1, 1]), library.ints([1, 1]))
    pairs = [(float(a), float(b)) for a, b in (listed(scores)[:2], listed(scores)[2:])]
    best = min(pairs, key=lambda pair: (pair[1] - pair[0]) / pair[1])
    assert (found.boundary.inside, found.boundary.outside) == best
    assert found.boundary.gap == (best[1] - best[0]) / best[1]
