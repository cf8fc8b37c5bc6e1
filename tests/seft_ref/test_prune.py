"""Pruners against a sort of every row or matrix: exact counts, decided ties, and the symmetries of Wanda."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seft_ref.arrays.library import array_namespace, from_numpy
from seft_ref.errors import PruneError
from seft_ref.prune.keep import keep_n_of_m, keep_of_matrix, keep_of_rows, parse_pattern, removed_count
from seft_ref.prune.magnitude import magnitude_mask
from seft_ref.prune.wanda import wanda_mask
from tests.seft_ref.update.by_hand import LIBRARIES, RULES, floor_of, library_id, listed, ranked

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)
LEVELS = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0])


def on(library, rows):
    return from_numpy(np.asarray(rows, dtype=library.dtype), library.like)


def rows_of(n_out, n_in):
    return st.lists(st.lists(LEVELS, min_size=n_in, max_size=n_in), min_size=n_out, max_size=n_out)


def kept_rows(scores, removed):
    """The mask without the `removed` smallest of each row, ties by column."""
    gone = [ranked(row, range(len(row)), removed) for row in scores]
    return [[c not in out for c in range(len(row))] for row, out in zip(scores, gone, strict=True)]


def kept_groups(scores, n, m):
    """The mask with the n largest of every m in a row, ties kept at the lower column."""
    mask = []
    for row in scores:
        kept = set()
        for first in range(0, len(row), m):
            kept |= set(ranked(row[first : first + m], range(first, first + m), n, largest=True))
        mask.append([c in kept for c in range(len(row))])
    return mask


@pytest.mark.parametrize(
    ("sparsity", "n", "expected"),
    [
        (0.29, 100, 29),  # 28.999999999999996
        (0.57, 100, 57),  # 56.99999999999999
        (0.7, 576, 403),  # 403.2
        (0.0, 100, 0),
        (0, 0, 0),
        (0.5, 7, 3),
        (0.999, 100, 99),
        (math.nextafter(1.0, 0.0), 100, 100),
        (1e-9, 100, 0),
        (0.7, 4096 * 11008, 31562137),  # 31562137.6
    ],
)
def test_PRN_001_worked_counts(sparsity, n, expected):
    assert removed_count(sparsity, n) == expected


@RULES
@given(sparsity=st.floats(0, 1, exclude_max=True), n=st.integers(0, 10**9))
def test_PRN_001_floor_of_the_product(sparsity, n):
    assert removed_count(sparsity, n) == floor_of(sparsity * n)


@pytest.mark.parametrize("sparsity", [1.0, 1, -0.001, 2.0, math.nan, math.inf])
def test_PRN_001_other_sparsities_are_refused(sparsity):
    for prune in (
        lambda: removed_count(sparsity, 10),
        lambda: magnitude_mask(np.ones((2, 3)), sparsity),
        lambda: wanda_mask(np.ones((2, 3)), np.ones(3), sparsity),
    ):
        with pytest.raises(PruneError) as refused:
            prune()
        assert refused.value.clause == "PRN-001"


@libraries
@RULES
@given(weight=rows_of(5, 13), sparsity=st.floats(0, 1, exclude_max=True))
def test_PRN_002_magnitude_removes_the_smallest_of_the_matrix(library, weight, sparsity):
    mask = magnitude_mask(on(library, weight), sparsity)
    whole = [abs(w) for row in weight for w in row]
    (expected,) = kept_rows([whole], floor_of(sparsity * 65))
    assert sum(listed(mask), []) == expected  # noqa: RUF017


@libraries
def test_PRN_002_ties_of_a_whole_matrix_go_by_flat_position(library):
    weight = on(library, [[(-1.0) ** c for c in range(13)]] * 5)
    for removed in (0, 1, 20, 64, 65):
        mask = sum(listed(keep_of_matrix(abs(weight), removed)), [])  # noqa: RUF017
        assert mask == [False] * removed + [True] * (65 - removed)


@libraries
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.95])
def test_PRN_003_wanda_removes_the_same_count_in_each_row(library, sparsity):
    rng = np.random.default_rng(2)
    weight, squares = rng.normal(size=(7, 13)), rng.random(13) * 100
    mask = np.asarray(listed(wanda_mask(on(library, weight), on(library, squares), sparsity)))
    assert (~mask).sum(axis=1).tolist() == [floor_of(sparsity * 13)] * 7


@libraries
@RULES
@given(
    weight=rows_of(4, 11),
    squares=st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.0]), min_size=11, max_size=11),
    sparsity=st.floats(0, 1, exclude_max=True),
)
def test_PRN_003_wanda_by_rows_with_ties_by_column(library, weight, squares, sparsity):
    norms = [np.sqrt(library.dtype(s)) for s in squares]
    scores = [[abs(library.dtype(w)) * x for w, x in zip(row, norms, strict=True)] for row in weight]
    mask = wanda_mask(on(library, weight), on(library, squares), sparsity)
    assert listed(mask) == kept_rows(scores, floor_of(sparsity * 11))


@libraries
@pytest.mark.parametrize("factor", [2.0, 0.25, 64.0])
def test_PRN_003_scaling_an_input_scales_its_column_of_scores(library, factor):
    rng = np.random.default_rng(4)
    weight, squares = rng.normal(size=(9, 14)), rng.random(14)
    # powers of two: no product is rounded differently
    louder, heavier = squares.copy(), weight.copy()
    louder[5] *= factor**2
    heavier[:, 5] *= factor
    by_input = wanda_mask(on(library, weight), on(library, louder), 0.5)
    by_weight = wanda_mask(on(library, heavier), on(library, squares), 0.5)
    assert listed(by_input) == listed(by_weight)
    before = np.asarray(listed(wanda_mask(on(library, weight), on(library, squares), 0.5)))
    after = np.asarray(listed(by_input))
    gains = after[:, 5].astype(int) - before[:, 5]
    assert (gains >= 0).all() if factor > 1 else (gains <= 0).all()
    assert gains.any()


@libraries
@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_PRN_003_scaling_a_row_does_not_change_its_mask(library, pattern):
    rng = np.random.default_rng(6)
    weight, squares = rng.normal(size=(6, 12)), on(library, rng.random(12))
    before = listed(wanda_mask(on(library, weight), squares, 0.4, pattern))
    weight *= np.asarray([2.0, 0.5, -4.0, 1.0, 2.0**-12, 1024.0])[:, None]
    assert listed(wanda_mask(on(library, weight), squares, 0.4, pattern)) == before


@libraries
@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 8), (1, 2), (3, 4)])
@RULES
@given(weight=rows_of(3, 16))
def test_PRN_004_n_of_every_m_ties_kept_at_the_lower_column(library, pattern, weight):
    found = magnitude_mask(on(library, weight), 0.0, pattern)
    expected = kept_groups([[abs(w) for w in row] for row in weight], *pattern)
    assert listed(found) == expected
    assert np.asarray(expected).reshape(-1, pattern[1]).sum(axis=1).tolist() == [pattern[0]] * (48 // pattern[1])


@libraries
def test_PRN_004_wanda_with_a_pattern_uses_the_activations(library):
    mask = wanda_mask(on(library, [[4.0, 3.0, 2.0, 1.0]]), on(library, [0.0, 1.0, 1.0, 100.0]), 0.0, (2, 4))
    assert listed(mask) == [[False, True, False, True]]


@libraries
@pytest.mark.parametrize(("width", "m"), [(14, 4), (3, 4), (12, 8)])
def test_PRN_004_a_row_that_does_not_divide_is_refused(library, width, m):
    weight = on(library, np.ones((2, width)))
    for prune in (
        lambda: keep_n_of_m(weight, 1, m),
        lambda: magnitude_mask(weight, 0.0, (2, m)),
        lambda: wanda_mask(weight, on(library, np.ones(width)), 0.0, (2, m)),
    ):
        with pytest.raises(PruneError) as refused:
            prune()
        assert refused.value.clause == "PRN-004"


def test_PRN_004_patterns_are_read():
    assert [parse_pattern(text) for text in ("2:4", "1:4", "4:8", "15:16")] == [
        (2, 4),
        (1, 4),
        (4, 8),
        (15, 16),
    ]


@pytest.mark.parametrize("text", ["", "2", "2:", ":4", "4:4", "5:4", "0:4", "-1:4", "2:4:8", "2.0:4", " 2:4", "a:b"])
def test_PRN_004_other_patterns_are_refused(text):
    with pytest.raises(PruneError) as refused:
        parse_pattern(text)
    assert refused.value.clause == "PRN-004"


@libraries
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_PRN_003_activations_that_are_not_finite_are_refused(library, bad):
    with pytest.raises(PruneError) as refused:
        wanda_mask(on(library, np.ones((2, 3))), on(library, [1.0, bad, 1.0]), 0.5)
    assert refused.value.clause == "PRN-003"


@libraries
def test_PRN_002_PRN_003_nothing_is_removed_and_nothing_is_written(library):
    weight = on(library, [[-0.0, 1.0, 2.0]])
    copy = weight + 0
    assert listed(keep_of_rows(abs(weight), 0)) == [[True] * 3]
    assert listed(keep_of_rows(abs(weight), 3)) == [[False] * 3]
    magnitude_mask(weight, 0.5)
    wanda_mask(weight, on(library, [1.0, 1.0, 1.0]), 0.5)
    xp = array_namespace(weight)
    assert bool(xp.all(weight == copy))
