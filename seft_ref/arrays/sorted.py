"""Look-ups and merges of sorted integers, such as positions in a matrix and places in an array.

    before, present = seek(a, queries)           # how many entries of a are less than each query
    before, present = seek_in_rows(edges, columns, n_in, queries)            # the same, for the positions of a matrix
    union = merged(a, extra, places)             # a with more entries
    some = merged_at(a, extra, places, indices)  # a few entries of that union, without making all of it
    rest = without(a, gone)                      # a with fewer entries
    indices = places_before(gone, indices)       # where entries of the rest stood in a
    last, next_one = edge(scores, k)             # the k-th smallest score and the (k + 1)-th

Each function that passes over whole arrays has a plain definition beside it, for arrays of any library. NumPy arrays
take a compiled loop that returns the same. It passes over an array once and takes a third of the time, which matters
because an event does little else.
"""

import math
from types import ModuleType

import numpy as np
from jaxtyping import Bool, Int

from seft_ref.arrays.library import (
    Array,
    array_namespace,
    device,
    is_numpy_array,
    mask_at,
    repeat_each,
    scatters,
    spread,
)

_SAMPLE = 1 << 14
"""Scores that are looked at to find a bound for the k-th smallest."""

__all__ = [
    "edge",
    "edge_by_sort",
    "merged",
    "merged_at",
    "merged_by_masks",
    "places_before",
    "positions_by_repeats",
    "positions_of_rows",
    "seek",
    "seek_by_search",
    "seek_in_rows",
    "without",
    "without_by_mask",
]


def _loops() -> ModuleType:
    # imported late, because numba takes a third of a second to import and not every command has an event
    from seft_ref.arrays import loops

    return loops


def _on_host(*arrays: Array) -> bool:
    """Return whether all arrays are contiguous NumPy arrays, because the loops take no others."""
    return all(is_numpy_array(x) and x.flags.c_contiguous for x in arrays)


def _bits(x: Array) -> Array:
    """Return a view of a NumPy array as unsigned integers; the loops only copy entries, and numba has no bfloat16."""
    return x.view(f"u{x.itemsize}")


def edge(scores: Array, k: int) -> tuple[Array, Array]:
    """Return the k-th and the (k + 1)-th smallest of n scores, as arrays of no dimension; 1 ≤ k < n, no NaN."""
    if not _on_host(scores):
        return edge_by_sort(scores, k)
    # a partition is five times as fast as a sort of 10 million scores, and puts the same numbers at these two places
    parted = np.partition(_lowest(scores, k), (k - 1, k))
    return parted[k - 1], parted[k]


def _lowest(scores: Array, k: int) -> Array:
    """Return scores with the k + 1 smallest among them: few if a sample tells a bound, otherwise all."""
    step = scores.size // _SAMPLE
    if step < 8 or 8 * k > scores.size:
        return scores
    sample = np.sort(scores[::step])
    # k / step scores of the sample are expected below the k-th; six deviations more, because a lower bound is of no use
    rank = math.ceil(k / step + 6 * math.sqrt(k / step)) + 8
    if rank >= sample.size:
        return scores
    few = scores[scores <= sample[rank]]
    return few if few.size > k else scores


def edge_by_sort(scores: Array, k: int) -> tuple[Array, Array]:
    """Return the result of `edge`, by a sort."""
    in_order = array_namespace(scores).sort(scores, stable=False)  # equal scores are the same number
    return in_order[k - 1], in_order[k]


def seek(a: Int[Array, " n"], queries: Int[Array, " m"]) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
    """Return for each query how many entries of sorted a are less than it, int64, and whether a contains it."""
    if not _on_host(a, queries):
        return seek_by_search(a, queries)
    before, present = np.empty(queries.shape, dtype=np.int64), np.empty(queries.shape, dtype=np.bool_)
    _loops().fill_seek(a, queries, before, present)
    return before, present


def seek_by_search(a: Int[Array, " n"], queries: Int[Array, " m"]) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
    """Return the result of `seek`, by binary searches."""
    xp = array_namespace(a, queries)
    n = a.shape[0]
    if n == 0:
        nothing = xp.zeros(queries.shape, dtype=xp.int64, device=device(queries))
        return nothing, nothing != nothing
    before = xp.astype(xp.searchsorted(a, queries), xp.int64)
    return before, xp.take(a, xp.where(before < n, before, xp.zeros_like(before))) == queries


def seek_in_rows(
    edges: Int[Array, " rows+1"], columns: Int[Array, " n"], n_in: int, queries: Int[Array, " m"]
) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
    """Return seek(positions_of_rows(edges, columns, n_in), queries) for ascending queries within the rows.

    edges    where the slots of each row begin, and where those of the last row end; the first is 0
    columns  the column of each slot
    """
    if not _on_host(edges, columns, queries):
        return seek(positions_of_rows(edges, columns, n_in), queries)
    before, present = np.empty(queries.shape, dtype=np.int64), np.empty(queries.shape, dtype=np.bool_)
    _loops().fill_seek_in_rows(edges, columns, n_in, queries, before, present)
    return before, present


def merged(a: Array, extra: Array, places: Int[Array, " m"]) -> Array:
    """Return a (n,) and extra (m,) in one array of a's dtype: extra[i] at the ascending places[i], a elsewhere.

    Returns a itself if extra is empty.
    """
    if not places.shape[0]:
        return a
    if not _on_host(a, extra, places):
        return merged_by_masks(a, extra, places)
    whole = np.empty(a.size + extra.size, dtype=a.dtype)
    _loops().fill_merged(_bits(a), _bits(extra.astype(a.dtype, copy=False)), places, _bits(whole))
    return whole


def merged_by_masks(a: Array, extra: Array, places: Array) -> Array:
    """Return the result of `merged`, by a mask of the places of a."""
    xp = array_namespace(a, extra, places)
    n = a.shape[0] + extra.shape[0]
    if not places.shape[0]:
        return a
    of_a = ~mask_at(n, places)
    if scatters(places):
        whole = xp.empty((n,), dtype=a.dtype, device=device(a))
        whole[places] = extra
        whole[of_a] = a
        return whole
    if not a.shape[0]:
        return extra
    order = xp.cumulative_sum(xp.astype(of_a, xp.int64)) - 1
    return xp.where(of_a, xp.take(a, xp.where(of_a, order, xp.zeros_like(order))), spread(extra, places, n))


def merged_at(a: Array, extra: Array, places: Int[Array, " m"], indices: Int[Array, " k"]) -> Array:
    """Return the entries of merged(a, extra, places) at the `indices`; a and extra have one dtype."""
    xp = array_namespace(a, extra, places, indices)
    if not places.shape[0]:
        return xp.take(a, indices)
    before, is_extra = seek(places, indices)
    if not a.shape[0]:
        return xp.take(extra, before)
    zeros = xp.zeros_like(indices)
    of_a = xp.take(a, xp.where(is_extra, zeros, indices - before))
    return xp.where(is_extra, xp.take(extra, xp.where(is_extra, before, zeros)), of_a)


def without(a: Array, gone: Int[Array, " m"]) -> Array:
    """Return a (n,) without its entries at the ascending indices `gone`; a itself if `gone` is empty."""
    if not gone.shape[0]:
        return a
    if not _on_host(a, gone):
        return without_by_mask(a, gone)
    kept_entries = np.empty(a.size - gone.size, dtype=a.dtype)
    _loops().fill_without(_bits(a), gone, _bits(kept_entries))
    return kept_entries


def without_by_mask(a: Array, gone: Int[Array, " m"]) -> Array:
    """Return the result of `without`, by a mask of the entries that stay."""
    return a[~mask_at(a.shape[0], gone)]


def places_before(gone: Int[Array, " m"], indices: Int[Array, " k"]) -> Int[Array, " k"]:
    """Return the indices in a of the entries of without(a, gone) at `indices`; gone is ascending."""
    xp = array_namespace(gone, indices)
    # of the entries before gone[j] gone[j] − j stay
    staying = gone - xp.arange(gone.shape[0], dtype=gone.dtype, device=device(gone))
    return indices + xp.astype(xp.searchsorted(staying, indices, side="right"), xp.int64)


def positions_of_rows(edges: Int[Array, " rows+1"], columns: Int[Array, " n"], n_in: int) -> Int[Array, " n"]:
    """Return the flat position row * n_in + column of each slot of consecutive rows, int64; the first is row 0.

    edges    where the slots of each row begin, and where those of the last row end
    columns  the column of each slot of these rows
    """
    if not _on_host(edges, columns):
        return positions_by_repeats(edges, columns, n_in)
    positions = np.empty(columns.shape, dtype=np.int64)
    _loops().fill_positions(edges, columns, n_in, positions)
    return positions


def positions_by_repeats(edges: Int[Array, " rows+1"], columns: Int[Array, " n"], n_in: int) -> Int[Array, " n"]:
    """Return the result of `positions_of_rows`, by repeating the first position of every row."""
    xp = array_namespace(edges)
    starts = xp.arange(edges.shape[0] - 1, dtype=xp.int64, device=device(edges)) * n_in
    positions = repeat_each(starts, edges[1:] - edges[:-1])
    positions += columns  # in place, because allocating another array takes as long as the addition
    return positions
