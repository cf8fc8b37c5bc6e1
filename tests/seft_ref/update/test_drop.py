"""Drop against sorted (|φ|, slot) pairs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.errors import UpdateError
from tests.seft_ref.update.by_hand import LIBRARIES, RULES, library_id, listed, ranked
from tests.seft_ref.update.one_matrix import dropped

pytestmark = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)


def test_DROP_001_worked_example(library):
    assert listed(dropped(library, [0.5, -0.1, 0.3, 0.1, -2], 3)) == [1, 2, 3]


def test_DROP_001_equal_magnitudes_go_by_flat_position(library):
    values = [(-1) ** i * (1 + i % 2) for i in range(64)]
    # 32 slots of magnitude 1 at the even places, 32 of magnitude 2 at the odd ones
    for n in range(65):
        expected = [*range(0, 64, 2)][:n] + [*range(1, 64, 2)][: max(0, n - 32)]
        assert listed(dropped(library, values, n)) == sorted(expected)


def test_DROP_001_signed_zeros_and_untouched_slots_are_equal(library):
    assert listed(dropped(library, [0.0, -0.0, 1e-30, 0.0], 2)) == [0, 1]


@RULES
@given(data=st.data(), values=st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 0.5]), max_size=100))
def test_DROP_001_any_values(library, data, values):
    n = data.draw(st.integers(0, len(values)))
    assert listed(dropped(library, values, n)) == ranked([abs(v) for v in values], range(len(values)), n)


def test_DROP_001_none_all_and_an_empty_delta(library):
    values = [3, 1, 2]
    assert listed(dropped(library, values, 0)) == []
    assert listed(dropped(library, values, 3)) == [0, 1, 2]
    assert listed(dropped(library, [], 0)) == []


def test_SEL_005_more_than_the_slots_is_refused(library):
    with pytest.raises(UpdateError) as refused:
        dropped(library, [1, 2], 3)
    assert refused.value.clause == "SEL-005"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_SEL_004_a_value_that_is_not_finite_is_refused(library, bad):
    with pytest.raises(UpdateError) as refused:
        dropped(library, [1, bad], 1)
    assert refused.value.clause == "SEL-004"
