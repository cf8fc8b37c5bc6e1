"""Counts from rates: floor(x + 2^-20), looked at where it could go wrong."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.arrays.count import count
from seft_ref.errors import UpdateError
from tests.seft_ref.update.by_hand import RULES, floor_of

NUDGE = 2.0**-20


@pytest.mark.parametrize("n", [1, 2, 3, 29, 1000, 2**20, 2**31])
def test_SEL_006_the_critical_point_of_each_integer(n):
    at = n - NUDGE
    assert count(at) == n
    assert count(math.nextafter(at, 0)) == n - 1
    assert count(float(n)) == n
    assert count(math.nextafter(float(n), 0)) == n
    assert count(n + 1 - 2 * NUDGE) == n


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0.0, 0),
        (-0.0, 0),
        (0.29 * 100, 29),  # 28.999999999999996
        (0.57 * 100, 57),  # 56.99999999999999
        (0.7 * 576, 403),  # 403.2
        (0.1 * 3 * 10, 3),  # 3.0000000000000004
        (0.999, 0),
        (1 - 2.0**-21, 1),
        (0.5, 0),
        (1.5, 1),
        (2.9999, 2),
        (5e-324, 0),
    ],
)
def test_SEL_006_worked_counts(x, expected):
    assert count(x) == expected


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf, -1e-300, -1.0])
def test_SEL_006_negative_and_infinite_are_refused(x):
    with pytest.raises(UpdateError) as refused:
        count(x)
    assert refused.value.clause == "SEL-006"


@RULES
@given(x=st.floats(0, 1e15))
def test_SEL_006_against_exact_integers(x):
    found = count(x)
    assert found == floor_of(x)
    assert isinstance(found, int)


@RULES
@given(n=st.integers(1, 10**6), parts=st.integers(1, 1000), of=st.integers(1, 1000))
def test_SEL_006_a_ratio_counts_as_its_fraction(n, parts, of):
    # the nudge repairs what binary64 loses: an exact multiple never loses one, and nothing gains one
    exact = parts * n // of
    assert count(parts / of * n) == exact
