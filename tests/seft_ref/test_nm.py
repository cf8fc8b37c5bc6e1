"""N:M topologies as bit masks (TOP-005), against the CSR topology of the same positions."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seft_ref.errors import TopologyError
from seft_ref.matrix import evidence as evidence_module
from seft_ref.matrix.evidence import View
from seft_ref.matrix.window import Window
from seft_ref.topology.change import change
from seft_ref.topology.csr import check, flat, from_flat, rows, union
from seft_ref.topology.nm import NMTopology, grouped
from seft_ref.update.delta import Base, base_without, new_delta
from seft_ref.update.rules import Rule
from tests.backends import BACKENDS
from tests.compare import same_bits

relaxed = settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PATTERNS = [
    (1, 1),
    (1, 2),
    (2, 4),
    (1, 4),
    (4, 4),
    (3, 5),
    (4, 8),
    (8, 8),
    (5, 9),
    (8, 16),
    (3, 17),
    (16, 32),
    (31, 33),
    (1, 62),
    (31, 62),
    (62, 62),
]
pattern_id = "{0[0]}:{0[1]}".format
patterns = pytest.mark.parametrize("pattern", PATTERNS, ids=pattern_id)
BYTES = {1: 1, 2: 1, 4: 1, 5: 1, 8: 1, 9: 2, 16: 2, 17: 4, 32: 4, 33: 8, 62: 8}


def ids(backend, values):
    return backend.array(np.asarray(values, dtype=np.int64))


def listed(backend, x):
    return backend.numpy(x).tolist()


def positions_under(rng, shape, pattern, fill):
    """Flat positions with at most N in every group: full groups, short ones and empty ones."""
    n, m = pattern
    found = []
    for g in range(shape[0] * shape[1] // m):
        size = n if fill == "full" else int(rng.integers(0, n + 1))
        found += sorted(g * m + int(j) for j in rng.permutation(m)[:size])
    return found


def masks_by_hand(positions, shape, pattern):
    """Bit j of the mask of a group is set where its column j is stored: Python's integers do not overflow."""
    m = pattern[1]
    masks = [0] * (shape[0] * shape[1] // m)
    for p in positions:
        masks[p // m] += 1 << (p % m)
    return masks


@patterns
@pytest.mark.parametrize("fill", ["full", "short"])
def test_TOP_005_groups_name_the_positions_of_the_rows(backend, pattern, fill):
    rng = np.random.default_rng(pattern[1])
    # a library that checks every call takes most of the time, and one shape shows what it lets through
    for n_out, n_groups in ((1, 1), (3, 2), (5, 4)) if backend.xp is np else ((3, 2),):
        shape = (n_out, n_groups * pattern[1])
        positions = positions_under(rng, shape, pattern, fill)
        plain = from_flat(shape, ids(backend, positions))
        made = grouped(plain, pattern)
        assert isinstance(made, NMTopology)
        assert made.pattern == pattern
        assert (made.shape, made.numel, made.nnz) == (shape, shape[0] * shape[1], len(positions))
        for name in ("indptr", "indices"):
            assert same_bits(backend.numpy(getattr(made, name)), backend.numpy(getattr(plain, name))), name
        for of in (flat, rows):
            assert same_bits(backend.numpy(of(made)), backend.numpy(of(plain)))
        assert listed(backend, made.masks) == np.reshape(masks_by_hand(positions, shape, pattern), (n_out, -1)).tolist()
        check(made)


@patterns
def test_TOP_005_the_masks_take_the_fewest_bytes_that_hold_m_bits(backend, pattern):
    shape = (3, 2 * pattern[1])
    made = grouped(from_flat(shape, ids(backend, [])), pattern)
    masks = backend.numpy(made.masks)
    assert masks.dtype == np.dtype(f"uint{8 * BYTES[pattern[1]]}")
    assert made.nbytes == masks.nbytes == 3 * 2 * BYTES[pattern[1]]


def test_TOP_005_a_2_of_4_matrix_takes_half_a_byte_a_stored_weight(backend):
    shape = (24, 40)
    rng = np.random.default_rng(0)
    plain = from_flat(shape, ids(backend, positions_under(rng, shape, (2, 4), "full")))
    made = grouped(plain, (2, 4))
    assert made.nnz == 24 * 40 // 2
    assert made.nbytes == made.nnz // 2
    assert backend.numpy(plain.indices).nbytes == 4 * made.nnz
    # 4:8 needs a quarter of a byte
    assert grouped(plain, (4, 8)).nbytes == made.nnz // 4


@relaxed
@given(data=st.data())
def test_TOP_005_any_positions_under_any_pattern_round_trip(backend, data):
    m = data.draw(st.integers(1, 62))
    n_out, n_groups = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    shape = (n_out, n_groups * m)
    groups = [data.draw(st.sets(st.integers(0, m - 1), max_size=m)) for _ in range(n_out * n_groups)]
    n = max([1, *map(len, groups)])
    positions = [g * m + j for g, columns in enumerate(groups) for j in sorted(columns)]
    made = grouped(from_flat(shape, ids(backend, positions)), (n, m))
    assert listed(backend, flat(made)) == positions
    assert (
        listed(backend, made.masks) == np.reshape(masks_by_hand(positions, shape, (n, m)), (n_out, n_groups)).tolist()
    )
    # and back through the row pointers
    again = grouped(from_flat(shape, flat(made)), (n, m))
    assert same_bits(backend.numpy(again.masks), backend.numpy(made.masks))
    if n > 1:
        with pytest.raises(TopologyError):
            grouped(from_flat(shape, ids(backend, positions)), (n - 1, m))


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0), (3, 8)])
def test_TOP_005_nothing_stored_and_nothing_there(backend, shape):
    made = grouped(from_flat(shape, ids(backend, [])), (2, 4))
    assert made.nnz == 0
    assert made.nbytes == shape[0] * shape[1] // 4
    assert listed(backend, made.indptr) == [0] * (shape[0] + 1)
    assert listed(backend, made.indices) == listed(backend, flat(made)) == []
    assert [str(backend.numpy(x).dtype) for x in (made.indptr, made.indices, flat(made))] == ["int64", "int32", "int64"]


@pytest.mark.parametrize("pattern", [(n, m) for n, m in PATTERNS if n < m], ids=pattern_id)
def test_TOP_005_a_group_that_stores_more_is_refused(backend, pattern):
    n, m = pattern
    shape = (2, 2 * m)
    positions = list(range(m, m + n + 1))
    with pytest.raises(TopologyError, match=f"stores {n + 1}, {n}:{m} allows {n}") as caught:
        grouped(from_flat(shape, ids(backend, positions)), pattern)
    assert caught.value.clause == "TOP-005"
    # n + 1 positions across the edge of two groups are no offence
    grouped(from_flat(shape, ids(backend, range(m - 1, m + n))), pattern)


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [
        ((2, 6), (2, 4)),
        ((2, 3), (2, 4)),
        ((4, 5), (2, 4)),
        ((2, 63), (2, 63)),
        ((2, 64), (32, 64)),
        ((2, 8), (0, 4)),
        ((2, 8), (5, 4)),
        ((2, 8), (-1, 4)),
        ((0, 6), (2, 4)),
    ],
    ids=str,
)
def test_TOP_005_patterns_that_do_not_fit_are_refused(backend, shape, pattern):
    with pytest.raises(TopologyError, match="has no groups of") as caught:
        grouped(from_flat(shape, ids(backend, [])), pattern)
    assert caught.value.clause == "TOP-005"


def test_TOP_005_a_topology_in_these_groups_stays_and_one_in_others_is_made_anew():
    made = grouped(from_flat((2, 8), np.array([0, 3, 9, 14])), (2, 4))
    assert grouped(made, (2, 4)) is made
    other = grouped(made, (4, 8))
    assert other.pattern == (4, 8)
    assert flat(other).tolist() == [0, 3, 9, 14]
    assert grouped(other, (2, 4)).masks.tolist() == made.masks.tolist()
    with pytest.raises(TopologyError):
        grouped(grouped(from_flat((2, 8), np.array([0, 1])), (2, 8)), (1, 4))


@patterns
def test_TOP_005_whatever_takes_a_topology_takes_groups(backend, pattern):
    rng = np.random.default_rng(3)
    shape = (4, 2 * pattern[1])
    positions = positions_under(rng, shape, pattern, "full")
    plain = from_flat(shape, ids(backend, positions))
    made = grouped(plain, pattern)
    for start, stop in ((0, 4), (1, 3), (2, 2)):
        assert listed(backend, made.positions(start, stop)) == listed(backend, plain.positions(start, stop))
    values = backend.array(np.arange(1.0, len(positions) + 1))
    gone = ids(backend, positions[::3])
    for old in (made, plain):
        after, left = base_without(Base(old, values), gone)
        assert listed(backend, flat(after.topology)) == [p for i, p in enumerate(positions) if i % 3]
        assert listed(backend, after.values) == [i + 1.0 for i in range(len(positions)) if i % 3]
        assert listed(backend, left) == listed(backend, gone)
    # changes between the two kinds of topology are those between equal ones
    assert listed(backend, change(plain, made).source) == list(range(len(positions)))
    assert listed(backend, change(made, plain).source) == list(range(len(positions)))
    assert listed(backend, union(flat(made), flat(plain))) == positions


def test_TOP_005_groups_stay_on_their_device():
    backend = BACKENDS["strict-device1"]
    made = grouped(from_flat((2, 62), ids(backend, [0, 30, 61, 62, 122])), (31, 62))
    for x in (made.masks, made.indptr, made.indices, flat(made)):
        assert x.device == backend.device
    assert listed(backend, made.masks) == [[1 + 2**30 + 2**61], [1 + 2**60]]


def test_TOP_005_the_running_sum_of_a_large_matrix_may_wrap_around():
    # 40 full groups of 62 bits sum to far more than an int64 holds
    shape = (10, 4 * 62)
    made = grouped(from_flat(shape, np.arange(10 * 4 * 62, dtype=np.int64)), (62, 62))
    assert set(made.masks.reshape(-1).tolist()) == {2**62 - 1}
    assert flat(made).tolist() == list(range(10 * 4 * 62))


def test_TOP_005_groups_are_frozen_like_their_kind():
    made = grouped(from_flat((1, 4), np.array([1])), (2, 4))
    for name in ("shape", "indptr", "indices"):
        with pytest.raises(AttributeError):
            setattr(made, name, None)
    # what only groups have is refused too, though by Python's own complaint
    for name in ("masks", "pattern"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(made, name, None)
    assert made.pattern == (2, 4)


def test_TOP_005_evidence_reads_the_groups_of_its_rows_only(monkeypatch):
    base = Base(grouped(from_flat((64, 8), np.arange(0, 512, 3)), (2, 4)), np.ones(171))
    delta = new_delta((64, 8), np.arange(0, 512, 30), base.values)
    read = []
    monkeypatch.setattr(evidence_module, "ROWS", 16)
    positions = NMTopology.positions

    def watched(topology, start, stop):
        read.append((start, stop))
        return positions(topology, start, stop)

    monkeypatch.setattr(NMTopology, "positions", watched)
    window = Window((64, 8), settled_steps=1, gradient=np.ones((64, 8)))
    evidence_module.evidence([View(window, base, delta)], Rule(), np.array([3]))
    assert read == [(0, 16), (16, 32), (32, 48), (48, 64)]
