"""Topologies and their changes (TOP-001 to TOP-004, CHG-001, CHG-002), against Python lists and sets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seft_ref.arrays.sorted import merged
from seft_ref.errors import TopologyError, UpdateError
from seft_ref.topology.change import change, realign
from seft_ref.topology.csr import (
    Located,
    Topology,
    check,
    difference,
    find,
    flat,
    from_flat,
    full,
    places_among,
    rows,
    union,
)
from seft_ref.topology.nm import grouped
from seft_ref.update.delta import Base, Delta, base_without, overlay, support_topology
from tests.compare import same_bits

# a fixture that is constant over the examples does no harm
relaxed = settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def positions_in(size):
    return st.lists(st.integers(0, size - 1), unique=True, max_size=size).map(sorted)


def ids(backend, values):
    return backend.array(np.asarray(values, dtype=np.int64))


def listed(backend, x):
    return backend.numpy(x).tolist()


def topology(shape, indptr, indices):
    return Topology(shape, np.asarray(indptr, dtype=np.int64), np.asarray(indices, dtype=np.int32))


@st.composite
def matrices(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return shape, draw(positions_in(shape[0] * shape[1]))


@relaxed
@given(matrix=matrices())
def test_TOP_001_to_003_from_flat_gives_canonical_arrays(backend, matrix):
    (n_out, n_in), positions = matrix
    made = from_flat((n_out, n_in), ids(backend, positions))
    check(made)
    assert listed(backend, made.indptr) == [sum(p < r * n_in for p in positions) for r in range(n_out + 1)]
    assert listed(backend, made.indices) == [p % n_in for p in positions]
    assert listed(backend, rows(made)) == [p // n_in for p in positions]
    assert listed(backend, flat(made)) == positions
    assert (made.nnz, made.numel) == (len(positions), n_out * n_in)
    assert [str(backend.numpy(x).dtype) for x in (made.indptr, flat(made), rows(made))] == ["int64"] * 3


def test_TOP_003_flat_positions_need_more_than_32_bits():
    wide = from_flat((3, 2**31 - 1), np.array([5, 2**32 + 7], dtype=np.int64))
    assert flat(wide).tolist() == [5, 2**32 + 7]
    assert wide.indptr.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("positions", [[-1, 2], [2, 15], [3, 3], [4, 3], [0, 5, 4]])
def test_TOP_003_positions_that_are_not_strictly_increasing_are_refused(backend, positions):
    with pytest.raises(TopologyError) as caught:
        from_flat((3, 5), ids(backend, positions))
    assert caught.value.clause == "TOP-003"


def test_TOP_002_full_stores_everything(backend):
    made = full((2, 3), backend.array(np.zeros(1)))
    check(made)
    assert listed(backend, flat(made)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("clause", "indptr", "indices"),
    [
        ("TOP-001", [0, 1], [0]),
        ("TOP-001", [0, 1, 1, 1], [0]),
        ("TOP-001", [1, 1, 1], [0]),
        ("TOP-001", [0, 1, 2], [0]),
        ("TOP-001", [0, 2, 1], [0]),
        ("TOP-001", [0, 3, 2], [0, 1]),
        ("TOP-002", [0, 1, 1], [-1]),
        ("TOP-002", [0, 1, 1], [3]),
        ("TOP-002", [0, 2, 2], [1, 1]),
        ("TOP-002", [0, 2, 2], [2, 1]),
        ("TOP-002", [0, 1, 3], [0, 2, 0]),
    ],
)
def test_TOP_001_002_smallest_offences(clause, indptr, indices):
    with pytest.raises(TopologyError) as caught:
        check(topology((2, 3), indptr, indices))
    assert caught.value.clause == clause


def test_TOP_002_the_first_offence_is_named():
    with pytest.raises(TopologyError, match="slot 3 "):
        check(topology((2, 3), [0, 2, 4], [0, 2, 1, 1]))


def test_TOP_001_002_canonical_arrays_are_taken():
    for shape, indptr, indices in [
        ((2, 3), [0, 2, 3], [0, 2, 1]),
        ((2, 3), [0, 0, 0], []),
        ((1, 1), [0, 1], [0]),
        ((2, 3), [0, 0, 1], [2]),
    ]:
        check(topology(shape, indptr, indices))


def test_TOP_004_stored_zeros_belong_to_the_support(backend):
    dense = np.array([[0.0, -0.0, 2.0]])
    made = from_flat((1, 3), ids(backend, [0, 1, 2]))
    moved = realign(backend.array(dense[0]), change(made, made))
    assert made.nnz == 3
    assert np.signbit(backend.numpy(moved)).tolist() == [False, True, False]


@relaxed
@given(a=positions_in(12), b=positions_in(12))
def test_sets_of_sorted_positions(backend, a, b):
    left, right = ids(backend, a), ids(backend, b)
    assert listed(backend, union(left, right)) == sorted(set(a) | set(b))
    assert listed(backend, difference(left, right)) == sorted(set(a) - set(b))
    where, present = find(left, right)
    assert listed(backend, present) == [p in a for p in b]
    assert listed(backend, where) == [a.index(p) if p in a else 0 for p in b]


@relaxed
@given(a=positions_in(12), b=positions_in(12))
def test_CHG_001_source_of_every_new_slot(backend, a, b):
    moved = change(from_flat((3, 4), ids(backend, a)), from_flat((3, 4), ids(backend, b)))
    assert listed(backend, moved.source) == [a.index(p) if p in a else -1 for p in b]
    values = np.arange(1, len(a) + 1)
    expected = [int(values[a.index(p)]) if p in a else 0 for p in b]
    assert listed(backend, realign(backend.array(values.astype(float)), moved)) == expected
    assert listed(backend, realign(ids(backend, values), moved, fill=7)) == [v or 7 for v in expected]


def as_kept(kind, shape, positions):
    """The same positions as a topology by rows, one that keeps its positions, or one of groups."""
    made = from_flat(shape, positions)
    return {
        "rows": lambda: made,
        "located": lambda: Located(made, flat(made)),
        "unasked": lambda: Located(made),
        "groups": lambda: grouped(made, (2, 2)),
    }[kind]()


@relaxed
@pytest.mark.parametrize("kind", ["rows", "located", "unasked", "groups"])
@given(a=positions_in(12), b=positions_in(12), data=st.data())
def test_TOP_001_to_003_slots_that_leave_and_come(backend, kind, a, b, data):
    made = as_kept(kind, (3, 4), ids(backend, a))
    gone = data.draw(positions_in(max(1, len(a))).map(lambda slots: slots if a else []))
    left = made.without_slots(ids(backend, gone))
    extra = sorted(set(b) - set(a))
    both = made.with_slots(ids(backend, extra), places_among(ids(backend, a), ids(backend, extra)))
    for found, expected in ((left, [p for i, p in enumerate(a) if i not in gone]), (both, sorted(set(a) | set(b)))):
        check(found)
        assert listed(backend, flat(found)) == expected
        assert listed(backend, Topology(found.shape, found.indptr, found.indices).positions(0, 3)) == expected
        for start in range(3):
            inside = [p - 4 * start for p in expected if 4 * start <= p < 12]
            assert listed(backend, found.positions(start, 3)) == inside
        assert [str(backend.numpy(x).dtype) for x in (found.indptr, found.indices, flat(found))] == [
            "int64",
            "int32",
            "int64",
        ]
    # 8 bytes a slot are kept as long as slots only leave
    assert isinstance(left, Located) == (kind in ("located", "unasked"))
    assert type(both) is Topology or not extra


@relaxed
@pytest.mark.parametrize("kind", ["rows", "located", "unasked", "groups"])
@given(a=positions_in(12), b=positions_in(12), c=positions_in(12))
def test_TOP_003_slots_are_looked_up(backend, kind, a, b, c):
    made = as_kept(kind, (3, 4), ids(backend, a))
    for wanted in (b, c, c):
        slots = from_flat((3, 4), ids(backend, wanted))
        for before, present in (made.seek_slots(slots), made.seek_slots(slots), made.seek(flat(slots))):
            assert listed(backend, before) == [sum(p < one for p in a) for one in wanted]
            assert [bool(x) for x in backend.numpy(present)] == [one in a for one in wanted]
    slots = [i for i, p in enumerate(a) if p in b]
    assert listed(backend, made.positions_at(ids(backend, slots))) == [a[i] for i in slots]


@relaxed
@given(a=positions_in(12), b=positions_in(12))
def test_EVT_006_a_base_loses_the_positions_that_it_has(backend, a, b):
    base = Base(from_flat((3, 4), ids(backend, a)), backend.array(np.arange(1.0, len(a) + 1)))
    after, left = base_without(base, ids(backend, b))
    kept = [p for p in a if p not in b]
    assert listed(backend, flat(after.topology)) == kept
    assert listed(backend, after.values) == [a.index(p) + 1 for p in kept]
    assert listed(backend, left) == [p for p in b if p in a]


@relaxed
@given(a=positions_in(12), b=positions_in(12))
def test_DLT_003_a_delta_over_its_base(backend, a, b):
    under, phi = {p: p / 4 - 1 for p in a} | {3: -0.0}, {p: -p / 2 for p in b}
    base = Base(from_flat((3, 4), ids(backend, a)), backend.array(np.array([under[p] for p in a])))
    delta = Delta(from_flat((3, 4), ids(backend, b)), backend.array(np.array([phi[p] for p in b])), {})
    over, support = overlay(base, delta), sorted(set(a) | set(b))
    assert listed(backend, over.positions()) == support
    assert listed(backend, over.slots) == [support.index(p) for p in b]
    assert listed(backend, over.inside) == [p in a for p in b]
    assert listed(backend, over.under) == [under[p] if p in a else 0 for p in b]
    weights = [(under[p] if p in a else 0.0) + phi[p] if p in b else under[p] for p in support]
    assert same_bits(backend.numpy(over.weight), np.array(weights, dtype=backend.dtype))
    check(support_topology(base, over))
    assert listed(backend, flat(support_topology(base, over))) == support
    # what the base holds stays as it was
    assert same_bits(backend.numpy(base.values), np.array([under[p] for p in a], dtype=backend.dtype))


def test_CHG_002_the_example_of_the_chapter(backend):
    moved = change(from_flat((1, 5), ids(backend, [0, 2, 4])), from_flat((1, 5), ids(backend, [2, 3, 4])))
    assert listed(backend, moved.source) == [1, -1, 2]
    assert listed(backend, realign(backend.array(np.array([1.5, 2.5, 3.5])), moved)) == [2.5, 0.0, 3.5]


def test_CHG_002_entries_move_bit_for_bit():
    moved = change(from_flat((1, 5), np.array([0, 2, 4])), from_flat((1, 5), np.array([0, 1, 2, 4])))
    odd = np.array([-0.0, 5e-324, np.frombuffer(b"\x01\x02\x03\x04\x05\x06\xf8\x7f", dtype=np.float64)[0]])
    assert same_bits(realign(odd, moved), np.array([odd[0], 0.0, odd[1], odd[2]]))


def test_CHG_002_array_of_another_length_is_refused():
    moved = change(from_flat((1, 5), np.array([0, 2])), from_flat((1, 5), np.array([0])))
    with pytest.raises(UpdateError) as caught:
        realign(np.zeros(3), moved)
    assert caught.value.clause == "CHG-002"


@relaxed
@given(a=positions_in(12), b=positions_in(12))
def test_values_are_merged_where_their_positions_are(backend, a, b):
    only_a, extra = sorted(set(a) - set(b)), sorted(b)
    places = places_among(ids(backend, only_a), ids(backend, extra))
    given = {p: -0.0 if p == 3 else p / 4 for p in only_a} | {p: -p - 0.5 for p in extra}
    of_a, of_extra = (backend.array(np.array([given[p] for p in ps])) for ps in (only_a, extra))
    found = backend.numpy(merged(of_a, of_extra, places))
    assert same_bits(found, np.array([given[p] for p in sorted(given)]).astype(found.dtype))
    assert backend.numpy(of_a).tolist() == [given[p] for p in only_a]
