"""Adapt against sorted (|ḡ · W|, position) pairs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.errors import UpdateError
from seft_ref.update.adapt import adapt, sensitivity
from tests.seft_ref.update.by_hand import F32, LIBRARIES, RULES, bits, library_id, listed, ranked

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**50), max_value=2.0**50)


@libraries
@RULES
@given(pairs=st.lists(st.tuples(VALUES, VALUES), max_size=40))
def test_ADPT_002_one_rounded_multiplication(library, pairs):
    found = sensitivity(library.floats(g for g, _ in pairs), library.floats(w for _, w in pairs))
    expected = [abs(library.dtype(g) * library.dtype(w)) for g, w in pairs]
    assert bits(found) == np.asarray(expected, dtype=library.dtype).tobytes()


def test_ADPT_002_rounding_makes_a_tie_that_the_lower_position_loses():
    # in float32 both products round to 1 + 2^-22; exactly, the second is the smaller
    g, w = F32.floats([1 + 2**-23, 1 + 2**-22]), F32.floats([1 + 2**-23, 1])
    scores = sensitivity(g, w)
    assert listed(scores) == [1 + 2**-22] * 2
    assert listed(adapt(F32.ints([4, 9]), scores, 1).positions) == [4]


@libraries
def test_ADPT_001_worked_example(library):
    scores = sensitivity(library.floats([1, 1, 0.1]), library.floats([5, 1, 2]))
    assert listed(adapt(library.ints([0, 1, 2]), scores, 1).positions) == [2]
    assert listed(adapt(library.ints([0, 1, 2]), scores, 2).positions) == [1, 2]
    assert listed(adapt(library.ints([0, 1, 2]), scores, 0).positions) == []


@libraries
@RULES
@given(
    data=st.data(),
    scored=st.dictionaries(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 2.0]), max_size=130),
)
def test_SEL_002_equal_sensitivities_go_by_flat_position(library, data, scored):
    positions = sorted(scored)
    excess = data.draw(st.integers(0, len(positions)))
    scores = [scored[p] for p in positions]
    assert listed(adapt(library.ints(positions), library.floats(scores), excess).positions) == ranked(
        scores, positions, excess
    )


@libraries
def test_SEL_002_an_all_zero_gradient_prunes_the_lowest_positions(library):
    positions = list(range(3, 300, 3))
    scores = sensitivity(library.floats([0.0] * 99), library.floats((-1) ** p * p for p in positions))
    assert listed(adapt(library.ints(positions), scores, 65).positions) == positions[:65]


@libraries
def test_SEL_005_more_than_may_be_pruned_is_refused(library):
    with pytest.raises(UpdateError) as refused:
        adapt(library.ints([4, 5]), library.floats([1, 2]), 3)
    assert refused.value.clause == "SEL-005"


@libraries
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_SEL_004_a_sensitivity_that_is_not_finite_is_refused(library, bad):
    with pytest.raises(UpdateError) as refused:
        adapt(library.ints([4, 5]), library.floats([1, bad]), 1)
    assert refused.value.clause == "SEL-004"
