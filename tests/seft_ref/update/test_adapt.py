"""Adapt against sorted (|ḡ · W|, position) pairs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.errors import UpdateError
from seft_ref.update.criteria import ADAPT, Known
from tests.seft_ref.update.by_hand import F32, LIBRARIES, RULES, bits, library_id, listed, ranked
from tests.seft_ref.update.one_matrix import pruned

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**50), max_value=2.0**50)


@libraries
@RULES
@given(pairs=st.lists(st.tuples(VALUES, VALUES), max_size=40))
def test_ADPT_002_one_rounded_multiplication(library, pairs):
    gradient, weight = (library.floats(one) for one in (list(zip(*pairs, strict=True)) or [(), ()]))
    found = ADAPT["sensitivity"](Known(gradient=gradient, weight=weight))
    expected = [abs(library.dtype(g) * library.dtype(w)) for g, w in pairs]
    assert bits(found) == np.asarray(expected, dtype=library.dtype).tobytes()


def test_ADPT_002_rounding_makes_a_tie_that_the_lower_position_loses():
    # in float32 both products round to 1 + 2^-22; exactly, the second is the smaller
    g, w = {4: 1 + 2**-23, 9: 1 + 2**-22}, {4: 1 + 2**-23, 9: 1}
    assert listed(pruned(F32, w, g, 1)) == [4]


@libraries
def test_ADPT_001_worked_example(library):
    g, w = {0: 1, 1: 1, 2: 0.1}, {0: 5, 1: 1, 2: 2}
    assert listed(pruned(library, w, g, 1)) == [2]
    assert listed(pruned(library, w, g, 2)) == [1, 2]
    assert listed(pruned(library, w, g, 0)) == []


@libraries
@RULES
@given(
    data=st.data(),
    scored=st.dictionaries(st.integers(0, 300), st.sampled_from([0.0, 1.0, 2.0]), max_size=130),
)
def test_SEL_002_equal_sensitivities_go_by_flat_position(library, data, scored):
    positions = sorted(scored)
    excess = data.draw(st.integers(0, len(positions)))
    found = pruned(library, dict.fromkeys(positions, 1.0), scored, excess)
    assert listed(found) == ranked([scored[p] for p in positions], positions, excess)


@libraries
def test_SEL_002_an_all_zero_gradient_prunes_the_lowest_positions(library):
    positions = list(range(3, 300, 3))
    assert listed(pruned(library, {p: (-1) ** p * p for p in positions}, {}, 65)) == positions[:65]


@libraries
def test_SEL_005_more_than_may_be_pruned_is_refused(library):
    with pytest.raises(UpdateError) as refused:
        pruned(library, {4: 1, 5: 2}, {4: 1, 5: 1}, 3)
    assert refused.value.clause == "SEL-005"


@libraries
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_SEL_004_a_sensitivity_that_is_not_finite_is_refused(library, bad):
    with pytest.raises(UpdateError) as refused:
        pruned(library, {4: 1, 5: bad}, {4: 1, 5: 1}, 1)
    assert refused.value.clause == "SEL-004"
