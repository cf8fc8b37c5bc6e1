"""Topologies, changes, selections and draws (chapters 2 and 7)."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, answers, ids, reals, refuse
from conformance.oracle import select, select_pools, select_rng

__all__ = ["rise"]


@answers("rng.draws")
def _draws(a: Inputs) -> dict[str, Any]:
    key = select_rng.key(*(int(word) for word in a["words"]))
    return {"draws": np.array([select_rng.draw(key, int(i)) for i in a["numbers"]], dtype=np.uint64)}


@answers("select.largest")
def _largest(a: Inputs) -> dict[str, Any]:
    return _chosen(a, select.largest)


@answers("select.smallest")
def _smallest(a: Inputs) -> dict[str, Any]:
    return _chosen(a, select.smallest)


def _chosen(a: Inputs, choose: Callable[[list[float], list[int], int], list[int]]) -> dict[str, Any]:
    scores = a["scores"].tolist()
    refuse(SEL_004=not all(map(math.isfinite, scores)), SEL_005=not 0 <= a["k"] <= len(scores))
    return {"chosen": ids(choose(scores, a["ids"].tolist(), a["k"]))}


@answers("select.pools")
def _pools(a: Inputs) -> dict[str, Any]:
    scores, pools, counts = a["scores"].tolist(), a["pools"].tolist(), a["counts"].tolist()
    sizes = np.bincount(a["pools"], minlength=len(counts)).tolist()
    fits = all(0 <= k <= size for k, size in zip(counts, sizes, strict=True))
    # SEL-007.2 repeats SEL-005, so either may be named
    refuse(SEL_004=not all(map(math.isfinite, scores)), SEL_005=not fits, SEL_007=not fits)
    scored = list(zip(pools, a["ids"].tolist(), scores, strict=True))
    selection = select_pools.select(scored, dict(enumerate(counts)), largest=bool(a["largest"]))
    near = select_pools.nearest([boundary for _, boundary in selection.boundaries])
    # SEL-008.2: + 0.0 makes +0.0 of −0.0
    boundary = (near[0] + 0.0, near[1] + 0.0, select_pools.gap(near)) if near else ()
    of_boundary = {name: reals(boundary[i : i + 1]) for i, name in enumerate(("inside", "outside", "gap"))}
    return {"chosen": ids(selection.chosen), **of_boundary}


@answers("topology.positions")
def _positions(a: Inputs) -> dict[str, Any]:
    pointers, columns, n_in = a["indptr"].tolist(), a["indices"].tolist(), a["in"]
    ends = len(pointers) == a["out"] + 1 and pointers[0] == 0 and pointers[-1] == len(columns)
    refuse(TOP_001=not ends or any(first > last for first, last in pairwise(pointers)))
    rows = [columns[first:last] for first, last in pairwise(pointers)]
    refuse(TOP_002=not all(rise(row, n_in) for row in rows))
    return {"positions": ids(r * n_in + column for r, row in enumerate(rows) for column in row)}


@answers("topology.of")
def _topology_of(a: Inputs) -> dict[str, Any]:
    shape, positions = (a["out"], a["in"]), a["positions"].tolist()
    refuse(TOP_003=not rise(positions, shape[0] * shape[1]))
    if a["pattern"] is not None:
        n_keep, width = a["pattern"].tolist()
        most = max(Counter(p // width for p in positions).values(), default=0)
        refuse(TOP_005=shape[1] % width != 0 or most > n_keep)
    pointers, columns = select.rows_and_columns(shape, positions)
    return {"indptr": ids(pointers), "indices": ids(columns)}


def rise(numbers: list[int], n: int) -> bool:
    """Return whether numbers are strictly increasing and lie in 0 … n − 1."""
    return all(0 <= x < n for x in numbers) and all(x < y for x, y in pairwise(numbers))


@answers("change.source")
def _source(a: Inputs) -> dict[str, Any]:
    return {"source": ids(select.source(*_ends(a)))}


def _ends(a: Inputs) -> tuple[list[int], list[int]]:
    """Return the old and the new positions of a change."""
    old, new = a["old"].tolist(), a["new"].tolist()
    refuse(TOP_003=not all(rise(positions, a["out"] * a["in"]) for positions in (old, new)))
    return old, new


@answers("change.realign")
def _realign(a: Inputs) -> dict[str, Any]:
    old, new = _ends(a)
    return {"values": reals(select.realign(a["values"].tolist(), old, new, a["fill"]))}
