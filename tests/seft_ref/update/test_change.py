"""Changes of topology: where each new slot comes from, and that arrays move bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.arrays.library import from_numpy
from seft_ref.errors import UpdateError
from seft_ref.topology.change import change, realign
from tests.seft_ref.update.by_hand import LIBRARIES, RULES, bits, library_id, listed

pytestmark = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
SHAPE = (5, 7)
POSITIONS = st.sets(st.integers(0, 34))


def test_CHG_001_CHG_002_worked_example(library):
    moved = change(library.topology((1, 5), [0, 2, 4]), library.topology((1, 5), [2, 3, 4]))
    assert listed(moved.source) == [1, -1, 2]
    assert listed(realign(library.floats([10, 20, 30]), moved)) == [20, 0, 30]
    assert listed(realign(library.floats([10, 20, 30]), moved, fill=-7)) == [20, -7, 30]


@RULES
@given(old=POSITIONS, new=POSITIONS)
def test_CHG_001_the_source_of_each_new_slot(library, old, new):
    moved = change(library.topology(SHAPE, old), library.topology(SHAPE, new))
    slot_of = {p: slot for slot, p in enumerate(sorted(old))}
    assert listed(moved.source) == [slot_of.get(p, -1) for p in sorted(new)]
    assert str(moved.source.dtype).endswith("int64")


@RULES
@given(old=POSITIONS, new=POSITIONS)
def test_CHG_002_each_entry_moves_with_its_position(library, old, new):
    moved = change(library.topology(SHAPE, old), library.topology(SHAPE, new))
    expected = [p + 0.5 if p in old else 0.0 for p in sorted(new)]
    assert listed(realign(library.floats(p + 0.5 for p in sorted(old)), moved)) == expected


def test_CHG_002_bits_survive_negative_zero_subnormal_infinity_and_nan(library):
    tiny = np.nextafter(library.dtype(0), library.dtype(1))
    old = np.asarray([-0.0, tiny, np.inf, np.nan, -np.nan, 0.1], dtype=library.dtype)
    moved = change(library.topology(SHAPE, range(6)), library.topology(SHAPE, [0, 1, 2, 3, 4, 20]))
    assert bits(realign(from_numpy(old, library.like), moved)) == np.append(old[:5], library.dtype(0)).tobytes()


def test_CHG_002_ages_keep_their_integer_dtype(library):
    ages = from_numpy(np.asarray([3, 1, 2], dtype=np.int32), library.like)
    moved = change(library.topology(SHAPE, [1, 2, 3]), library.topology(SHAPE, [0, 3]))
    found = realign(ages, moved)
    assert listed(found) == [0, 2]
    assert found.dtype == ages.dtype


@pytest.mark.parametrize(("old", "new"), [([], [0, 34]), ([3, 4], []), ([], []), ([7, 9], [7, 9])])
def test_CHG_002_empty_and_unchanged(library, old, new):
    moved = change(library.topology(SHAPE, old), library.topology(SHAPE, new))
    found = realign(library.floats(range(1, len(old) + 1)), moved)
    assert listed(found) == [old.index(p) + 1.0 if p in old else 0.0 for p in new]


@pytest.mark.parametrize("n", [0, 2, 4])
def test_CHG_002_an_array_of_another_length_is_refused(library, n):
    moved = change(library.topology(SHAPE, [1, 2, 3]), library.topology(SHAPE, [1]))
    with pytest.raises(UpdateError) as refused:
        realign(library.floats(range(n)), moved)
    assert refused.value.clause == "CHG-002"
