"""Look-ups and merges of sorted integers: compiled loops, definitions of any library, and Python's own lists agree."""

from bisect import bisect_left

import array_api_strict as strict
import ml_dtypes
import numpy as np
import pytest

from seft_ref.arrays import loops
from seft_ref.arrays import sorted as of_sorted

SIZES = [(0, 0), (0, 3), (5, 0), (1, 1), (7, 30), (1000, 1), (1000, 37), (37, 1000), (20_000, 6000)]
DTYPES = [np.float32, np.float64, np.int32, np.int64, np.bool_, np.float16, ml_dtypes.bfloat16]


def drawn(seed, n, width):
    """Return n ascending integers below width, without repeats."""
    return np.sort(np.random.default_rng(seed).choice(width, n, replace=False)).astype(np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [2, 3, 17, 1000, 20_001])
@pytest.mark.parametrize("many_equal", [True, False])
def test_the_edge_of_a_selection_is_that_of_a_sorted_list(n, dtype, many_equal):
    scores = np.random.default_rng(n).standard_normal(n).astype(dtype)
    if many_equal:
        scores = np.round(scores, 1)
    scores[:2] = -0.0, 0.0
    in_order = sorted(scores.tolist())
    for k in {1, 2, n // 3, n // 2, n - 1} - {0, n}:
        for last, behind in (
            of_sorted.edge(scores, k),
            of_sorted.edge_by_sort(scores, k),
            of_sorted.edge(strict.asarray(scores), k),
        ):
            assert (float(last), float(behind)) == (in_order[k - 1], in_order[k])
            assert np.asarray(last).dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_edge_has_the_right_score_behind_it_wherever_it_is(dtype):
    """A partition at one place alone leaves a wrong score behind it at four places of a thousand."""
    scores = np.random.default_rng(1000).standard_normal(1000).astype(dtype)
    in_order = np.sort(scores)
    for k in range(1, 1000):
        assert of_sorted.edge(scores, k) == (in_order[k - 1], in_order[k])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["drawn", "rising", "falling", "few numbers", "a sample of the largest alone"])
def test_the_edge_of_many_scores_is_that_of_a_sorted_list(dtype, order):
    n = 300_001
    scores = np.random.default_rng(1).standard_normal(n).astype(dtype)
    if order == "rising":
        scores = np.sort(scores)
    elif order == "falling":
        scores = np.sort(scores)[::-1].copy()
    elif order == "few numbers":
        scores = np.round(scores)
    elif order == "a sample of the largest alone":
        # what the sample sees is above all others, or below
        step = n // of_sorted._SAMPLE
        scores[::step] += 100
    for chosen in (scores, -scores):
        in_order = np.sort(chosen)
        for k in (1, 2, 17, 1000, n // 100, n // 9, n // 7, n - 1):
            assert of_sorted.edge(chosen, k) == (in_order[k - 1], in_order[k])


def test_the_edge_leaves_the_scores_alone():
    scores = np.array([3.0, 1.0, 2.0])
    of_sorted.edge(scores, 1)
    of_sorted.edge(scores[::2], 1)
    assert scores.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("in_order", [True, False])
def test_seek_is_a_search_of_a_list(n, m, in_order):
    width = 2 * max(n, m) + 1
    a, wanted = drawn(1, n, width), drawn(2, m, width)
    if not in_order:
        wanted = np.random.default_rng(3).permutation(wanted)
    held, among = a.tolist(), set(a.tolist())
    places = [bisect_left(held, one) for one in wanted.tolist()]
    found = [one in among for one in wanted.tolist()]
    for before, present in (of_sorted.seek(a, wanted), of_sorted.seek_by_search(a, wanted)):
        assert before.dtype == np.int64
        assert before.tolist() == places
        assert present.tolist() == found
    before, present = of_sorted.seek(strict.asarray(a), strict.asarray(wanted))
    assert np.asarray(before).tolist() == places
    assert np.asarray(present).tolist() == found


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (1, 40), (40, 1), (7, 9), (300, 70), (3, 5000)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
def test_seek_in_rows_is_a_search_of_the_positions(shape, share):
    random = np.random.default_rng(shape[0])
    n_out, n_in = shape
    mask = random.random(shape) < share
    mask[n_out // 2 : n_out // 2 + 2] = False  # rows that store nothing
    edges = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
    columns, at = np.nonzero(mask)[1].astype(np.int32), np.flatnonzero(mask).tolist()
    for n in {0, 1, mask.size // 7, mask.size}:
        queries = np.sort(random.choice(mask.size, min(n, mask.size), replace=False)).astype(np.int64)
        places, among = [bisect_left(at, one) for one in queries.tolist()], set(at)
        for library in (np.asarray, strict.asarray):
            before, present = of_sorted.seek_in_rows(library(edges), library(columns), n_in, library(queries))
            assert np.asarray(before).dtype == np.int64
            assert np.asarray(before).tolist() == places
            assert np.asarray(present).tolist() == [one in among for one in queries.tolist()]


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_and_without_are_those_of_a_list(n, m, dtype):
    random = np.random.default_rng(n + m)
    a, extra = (random.integers(-9, 9, size).astype(dtype) for size in (n, m))
    places = drawn(4, m, n + m)
    whole = a.tolist()
    for place, one in zip(places.tolist(), extra.tolist(), strict=True):
        whole.insert(place, one)
    made = of_sorted.merged(a, extra, places)
    assert made.dtype == a.dtype
    assert made.tolist() == of_sorted.merged_by_masks(a, extra, places).tolist() == whole
    for take in (of_sorted.without, of_sorted.without_by_mask):
        assert take(made, places).tolist() == a.tolist()
        assert take(made, places).dtype == a.dtype


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_some_entries_are_those_of_the_whole(n, m):
    a, extra = (np.random.default_rng(n + m).integers(-9, 9, size) for size in (n, m))
    places = drawn(4, m, n + m)
    whole = of_sorted.merged(a, extra, places)
    every, rest = np.arange(n + m), np.arange(n)
    left_out = set(places.tolist())
    staying = [i for i in range(n + m) if i not in left_out]
    for order in (slice(None), slice(None, None, -1), slice(1, None, 3)):
        wanted, left = every[order], rest[order]
        assert of_sorted.merged_at(a, extra, places, wanted).tolist() == whole[wanted].tolist()
        assert of_sorted.places_before(places, left).tolist() == staying[order]
        assert of_sorted.places_before(places, left).dtype == np.int64
        some = of_sorted.merged_at(*map(strict.asarray, (a, extra, places, wanted.copy())))
        assert np.asarray(some).tolist() == whole[wanted].tolist()
        back = of_sorted.places_before(strict.asarray(places), strict.asarray(left.copy()))
        assert np.asarray(back).tolist() == staying[order]


def test_merged_keeps_bits():
    a = np.array([0x7FA00001, 0x80000000], dtype=np.uint32).view(np.float32)  # a signalling NaN, and -0.0
    made = of_sorted.merged(a, a[:1], np.array([1]))
    assert made.view(np.uint32).tolist() == [0x7FA00001, 0x7FA00001, 0x80000000]
    assert of_sorted.without(made, np.array([1])).tobytes() == a.tobytes()


def test_merged_takes_extra_in_the_dtype_of_the_first():
    assert of_sorted.merged(np.array([1, 3], dtype=np.int32), np.array([2]), np.array([1])).dtype == np.int32


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (4, 7), (50, 33)])
def test_positions_of_rows_are_counted_from_the_first(shape):
    mask = np.random.default_rng(5).random(shape) < 0.4
    rows, columns = np.nonzero(mask)
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    for start in range(min(3, shape[0] + 1)):
        edges = indptr[start:]
        of_rows = rows >= start
        want = ((rows - start) * shape[1] + columns)[of_rows].tolist()
        kept = columns[of_rows].astype(np.int32)
        for take in (of_sorted.positions_of_rows, of_sorted.positions_by_repeats):
            assert take(edges, kept, shape[1]).tolist() == want
            assert take(edges, kept, shape[1]).dtype == np.int64


def test_arrays_with_gaps_in_memory_are_read_by_the_definition(monkeypatch):
    monkeypatch.setattr(of_sorted, "_loops", lambda: pytest.fail("a loop was given an array that is not contiguous"))
    a = np.arange(20)[::2]
    assert of_sorted.seek(a, np.arange(3))[0].tolist() == [0, 1, 1]
    assert of_sorted.without(a, np.array([0])).tolist() == a[1:].tolist()
    assert of_sorted.merged(a, a[:1], np.array([0])).tolist() == [0, *a.tolist()]


def test_a_loop_that_forgets_the_way_back_is_found(monkeypatch):
    whole = loops.fill_seek

    def forward_only(a, wanted, before, present):
        whole(a, np.maximum.accumulate(wanted), before, present)

    monkeypatch.setattr(loops, "fill_seek", forward_only)
    with pytest.raises(AssertionError):
        test_seek_is_a_search_of_a_list(1000, 37, False)
