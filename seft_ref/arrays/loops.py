"""Compiled loops over sorted integers on the host; the module `sorted` has a plain definition of each.

No loop calls a function of another file, because numba's cache notices only edits of the loop's own file.
"""
# mypy: allow-untyped-decorators

from numba import njit

from seft_ref.arrays.library import Array

__all__ = ["fill_merged", "fill_positions", "fill_seek", "fill_seek_in_rows", "fill_without"]


@njit(cache=True, nogil=True)
def _first_not_less(a: Array, at: int, end: int, wanted: int) -> int:
    """Return the first index from `at` to `end` whose entry of sorted `a` is not less than `wanted`, or `end`."""
    # in doubling steps from `at`, because what is wanted is seldom far from what was wanted before
    high, step = at, 1
    while high < end and a[high] < wanted:
        at = high + 1
        high += step
        step *= 2
    high = min(high, end)
    while at < high:
        middle = (at + high) // 2
        if a[middle] < wanted:
            at = middle + 1
        else:
            high = middle
    return at


@njit(cache=True, nogil=True)
def fill_seek(a: Array, queries: Array, before: Array, present: Array) -> None:
    """Write how many entries of sorted `a` are less than each query, and into `present` whether `a` contains it."""
    n, at = a.size, 0
    for i in range(queries.size):
        one = queries[i]
        if at > 0 and a[at - 1] >= one:
            at = 0  # a query may be smaller than the one before it; ascending queries are faster
        at = _first_not_less(a, at, n, one)
        before[i] = at
        present[i] = at < n and a[at] == one


@njit(cache=True, nogil=True)
def fill_seek_in_rows(edges: Array, columns: Array, n_in: int, queries: Array, before: Array, present: Array) -> None:
    """Write for each ascending flat position how many slots of a matrix lie before it, and whether one lies there."""
    first, at, end = 0, 0, edges[1] if edges.size > 1 else 0
    for i in range(queries.size):
        if queries[i] - first >= n_in:
            row = queries[i] // n_in
            first, at, end = row * n_in, edges[row], edges[row + 1]
        column = queries[i] - first
        at = _first_not_less(columns, at, end, column)
        before[i] = at
        present[i] = at < end and columns[at] == column


@njit(cache=True, nogil=True)
def fill_merged(a: Array, extra: Array, places: Array, whole: Array) -> None:
    """Write `a` and `extra` into `whole`: extra[i] at the ascending places[i], `a` in order elsewhere."""
    place = 0
    for i in range(extra.size):
        for j in range(place, places[i]):
            whole[j] = a[j - i]
        place = places[i] + 1
        whole[place - 1] = extra[i]
    for j in range(place, whole.size):
        whole[j] = a[j - extra.size]


@njit(cache=True, nogil=True)
def fill_without(a: Array, gone: Array, kept_entries: Array) -> None:
    """Write the entries of `a` at all indices but the ascending `gone` into `kept_entries`."""
    place = 0
    for i in range(gone.size):
        for j in range(place, gone[i]):
            kept_entries[j - i] = a[j]
        place = gone[i] + 1
    for j in range(place, a.size):
        kept_entries[j - gone.size] = a[j]


@njit(cache=True, nogil=True)
def fill_positions(edges: Array, columns: Array, n_in: int, positions: Array) -> None:
    """Write the flat position row * n_in + column of each slot; row r owns slots edges[r] to edges[r + 1]."""
    for row in range(edges.size - 1):
        for slot in range(edges[row] - edges[0], edges[row + 1] - edges[0]):
            positions[slot] = row * n_in + columns[slot]
