"""Growth against a sort of every position outside η."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.arrays.library import array_namespace
from seft_ref.errors import UpdateError
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.of_step import Accumulated
from tests.seft_ref.looks import PARTS, latest, looked, settled
from tests.seft_ref.update.by_hand import LIBRARIES, RULES, library_id, listed, ranked
from tests.seft_ref.update.one_matrix import grown
from tests.seft_ref.whole_gradient import evidence_of

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
SHAPE = (5, 7)
POSITIONS = st.sets(st.integers(0, 34))
GRADIENTS = st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 3.0]), min_size=35, max_size=35)


def matrix(library, gradient):
    return array_namespace(library.like).reshape(library.floats(gradient), SHAPE)


def seen(library, gradient, base, eta, n, scope="anywhere"):
    return evidence_of(matrix(library, gradient), library.ints(sorted(base)), library.ints(sorted(eta)), n, scope)


@libraries
@pytest.mark.parametrize("scope", ["anywhere", "active"])
@RULES
@given(gradient=GRADIENTS, base=POSITIONS, eta=POSITIONS, n=st.integers(0, 40))
def test_GROW_001_the_evidence_holds_the_support_and_the_strongest_outside(library, scope, gradient, base, eta, n):
    found = seen(library, gradient, base, eta, n, scope)
    support = sorted(base | eta)
    outside = [p for p in range(35) if p not in eta and (scope == "anywhere" or p in base)]
    chosen = ranked([abs(gradient[p]) for p in outside], outside, min(n, len(outside)), largest=True)
    assert listed(found.gradient) == [gradient[p] for p in support]
    assert listed(found.slots) == sorted(eta)
    assert listed(found.scores) == [abs(gradient[p]) for p in sorted(eta)]
    assert listed(found.candidates) == chosen
    assert listed(found.candidate_gradient) == [gradient[p] for p in chosen]
    assert listed(found.candidate_scores) == [abs(gradient[p]) for p in chosen]


@libraries
@RULES
@given(gradient=GRADIENTS, base=POSITIONS, eta=POSITIONS, data=st.data())
def test_GROW_002_the_strongest_of_candidates_and_dropped(library, gradient, base, eta, data):
    dropped = sorted(data.draw(st.sets(st.sampled_from(sorted(eta))))) if eta else []
    candidates = [p for p in range(35) if p not in eta or p in dropped]
    n = data.draw(st.integers(0, 40))
    found = grown(library, seen(library, gradient, base, eta, n), base, eta, SHAPE, dropped, n)
    scores = [abs(gradient[p]) for p in candidates]
    assert listed(found) == ranked(scores, candidates, min(n, len(candidates)), largest=True)


@libraries
def test_GROW_001_pruned_active_and_just_dropped_positions_compete(library):
    gradient = [0.0] * 35
    gradient[2], gradient[9], gradient[30], gradient[31] = 1.0, -4.0, 3.0, 9.0
    # base {2, 9}, η {9, 31}: 9 is dropped, 31 kept and out of the race, 30 was pruned, 2 is active
    snap = seen(library, gradient, {2, 9}, {9, 31}, 3)
    of = library, snap, {2, 9}, {9, 31}, SHAPE
    assert listed(grown(*of, [9], 1)) == [9]
    assert listed(grown(*of, [9], 2)) == [9, 30]
    assert listed(grown(*of, [9], 3)) == [2, 9, 30]
    assert listed(grown(*of, [], 2)) == [2, 30]


@libraries
def test_GROW_001_scope_active_stays_inside_the_base(library):
    gradient = [float(35 - p) for p in range(35)]
    snap = seen(library, gradient, {20, 21, 22, 23}, {21}, 5, "active")
    of = library, snap, {20, 21, 22, 23}, {21}, SHAPE
    assert listed(snap.candidates) == [20, 22, 23]
    assert listed(grown(*of, [], 2, "active")) == [20, 22]
    assert listed(grown(*of, [21], 2, "active")) == [20, 21]


@libraries
def test_GROW_002_an_all_zero_gradient_grows_the_lowest_positions(library):
    snap = seen(library, [0.0] * 35, {0, 5}, {0, 3, 8}, 4)
    of = library, snap, {0, 5}, {0, 3, 8}, SHAPE
    assert listed(snap.candidates) == [1, 2, 4, 5]
    assert listed(grown(*of, [3], 4)) == [1, 2, 3, 4]


@libraries
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_SEL_001_a_large_tie_is_broken_by_flat_position(library, fill):
    gradient = [fill if p % 2 else -fill for p in range(35)]
    snap = seen(library, gradient, {1, 2, 3}, {0, 17}, 20)
    of = library, snap, {1, 2, 3}, {0, 17}, SHAPE
    assert listed(grown(*of, [17], 20)) == list(range(1, 21))


@libraries
def test_GROW_002_at_most_the_candidates_and_the_full_matrix(library):
    snap = seen(library, [1.0] * 35, set(range(35)), set(range(35)), 7)
    of = library, snap, set(range(35)), set(range(35)), SHAPE
    assert listed(snap.candidates) == []
    assert listed(grown(*of, [4, 6], 9)) == [4, 6]
    assert listed(grown(*of, [], 9)) == []


@libraries
def test_GROW_002_growing_nothing(library):
    snap = seen(library, [1.0] * 35, {1}, {2}, 0)
    of = library, snap, {1}, {2}, SHAPE
    assert listed(snap.candidates) == []
    assert listed(grown(*of, [2], 0)) == []


@libraries
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_SEL_004_a_gradient_that_is_not_finite_is_refused(library, bad):
    with pytest.raises(UpdateError) as refused:
        seen(library, [bad] + [1.0] * 34, {1}, {2}, 1)
    assert refused.value.clause == "SEL-004"
    snap = seen(library, [1.0, bad] + [1.0] * 33, {1}, {1}, 1)
    of = library, snap, {1}, {1}, SHAPE
    with pytest.raises(UpdateError) as refused:
        grown(*of, [1], 1)
    assert refused.value.clause == "SEL-004"


@pytest.mark.parametrize("scope", ["anywhere", "active"])
@RULES
@given(seed=st.integers(0, 999), n=st.integers(0, 40), steps=st.sampled_from([1, 2, 4]))
def test_GRD_003_the_loop_of_an_event_sees_what_the_definition_sees(scope, seed, n, steps):
    rng = np.random.default_rng(seed)
    dy, x = rng.integers(-2, 3, (4, 5)).astype(float), rng.integers(-2, 3, (4, 7)).astype(float)
    base, eta = (np.sort(rng.choice(35, size, replace=False)) for size in rng.integers(0, 36, 2))
    gradient = Accumulated(SHAPE).plus(WeightGradient(dy, x))
    # one more than grows is held: the best that is left behind (SEL-008)
    expected = evidence_of(dy.T @ x / steps, base, eta, n + 1, scope)
    for window in (settled(gradient, steps), *([latest(gradient)] if steps == 1 else [])):
        found = looked(window, base, eta, n, scope)
        for part in PARTS:
            assert listed(getattr(found, part)) == listed(getattr(expected, part)), part
