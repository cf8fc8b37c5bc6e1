"""Budgets, new slots and the effective weight, against loops over every position of a small matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.topology.csr import flat
from seft_ref.update.delta import budget_by_numel, effective, new_delta, values_at
from tests.seft_ref.update.by_hand import LIBRARIES, RULES, Matrix, Slot, bits, floor_of, library_id, listed

SHAPE = (5, 7)
POSITIONS = st.sets(st.integers(0, 34))
VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**90), max_value=2.0**90)
libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)


@libraries
@pytest.mark.parametrize(
    ("density", "shape", "stored", "expected"),
    [
        (0.29, (10, 10), 100, 29),  # 28.999999999999996
        (0.57, (10, 10), 100, 57),
        (0.7, (24, 24), 576, 403),  # 403.2
        (0.5, (5, 7), 20, 17),  # 17.5
        (0.5, (5, 7), 11, 11),  # the budget caps it
        (1.0, (5, 7), 20, 20),
        (0.02, (5, 7), 20, 0),  # 0.7
        (1 / 35, (5, 7), 20, 1),
        (0.5, (5, 7), 0, 0),
    ],
)
def test_DLT_002_worked_budgets(library, density, shape, stored, expected):
    assert budget_by_numel(density, library.topology(shape, range(stored))) == expected


@RULES
@given(density=st.floats(0, 1), out=st.integers(1, 40), inner=st.integers(1, 40), data=st.data())
def test_DLT_002_from_left_to_right_at_most_the_stored(density, out, inner, data):
    stored = data.draw(st.integers(0, out * inner))
    topology = LIBRARIES[0].topology((out, inner), range(stored))
    assert budget_by_numel(density, topology) == min(floor_of(density * out * inner), stored)


@libraries
@pytest.mark.parametrize("positions", [[], [0], [3, 12, 34]])
def test_DLT_005_a_new_delta_is_zero_everywhere(library, positions):
    delta = new_delta(SHAPE, library.ints(positions), library.like)
    assert listed(flat(delta.topology)) == positions
    for part in (delta.values, delta.kept["first_moment"], delta.kept["second_moment"]):
        assert bits(part) == np.zeros(len(positions), dtype=library.dtype).tobytes()
        assert part.dtype == library.like.dtype
    assert listed(delta.kept["age"]) == [0] * len(positions)
    assert str(delta.kept["age"].dtype).endswith("int32")
    assert set(delta.kept) == {"first_moment", "second_moment", "age"}
    assert delta.shared == {}


@libraries
@RULES
@given(base=st.dictionaries(st.integers(0, 34), VALUES), phi=st.dictionaries(st.integers(0, 34), VALUES))
def test_DLT_003_the_effective_weight_is_one_rounded_sum_on_the_union(library, base, phi):
    matrix = Matrix(SHAPE, base, {p: Slot(x) for p, x in phi.items()})
    topology, values = effective(*matrix.arrays(library))
    support = sorted(set(base) | set(phi))
    assert listed(flat(topology)) == support
    assert listed(values) == [float(matrix.weight(p, library.dtype)) for p in support]
    assert values.dtype == library.like.dtype


@libraries
def test_TOP_004_a_sum_that_cancels_stays_in_the_support(library):
    matrix = Matrix(SHAPE, {3: 1.5, 4: 0.0, 9: -0.0}, {3: Slot(-1.5), 9: Slot(0.0), 20: Slot(0.0)})
    topology, values = effective(*matrix.arrays(library))
    assert listed(flat(topology)) == [3, 4, 9, 20]
    assert listed(values) == [0, 0, 0, 0]


@libraries
@RULES
@given(base=st.dictionaries(st.integers(0, 34), VALUES), at=POSITIONS)
def test_DLT_003_a_part_counts_as_zero_where_it_has_no_slot(library, base, at):
    arrays, _ = Matrix(SHAPE, base).arrays(library)
    found = values_at(flat(arrays.topology), arrays.values, library.ints(sorted(at)))
    assert listed(found) == [float(library.dtype(base.get(p, 0.0))) for p in sorted(at)]
