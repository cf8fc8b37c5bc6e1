"""Selection in pools and its boundaries, by sorted tuples (SEL-001 to SEL-005, SEL-007, SEL-008)."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Boundary = tuple[float, float]


class RefusedError(ValueError):
    """Inputs that SPEC.md refuses; the message begins with the clause."""


@dataclass(frozen=True)
class Selection:
    """The chosen ids, ascending, and the boundary of each pool that has one, in the order of the pools."""

    chosen: list[Any]
    boundaries: list[tuple[Hashable, Boundary]]


def gap(boundary: Boundary) -> float:
    """Return the relative gap of a boundary, 0 where both scores are 0 (SEL-008)."""
    inside, outside = boundary
    top = max(abs(inside), abs(outside))
    return abs(inside - outside) / top if top else 0.0


def nearest(boundaries: Sequence[Boundary]) -> Boundary | None:
    """Return the boundary with the smallest gap, the first of equal ones (SEL-008)."""
    return min(boundaries, key=gap, default=None)


def select(scored: Sequence[tuple[Hashable, Any, float]], counts: Mapping[Any, int], *, largest: bool) -> Selection:
    """Return the selection of counts[p] ids in each pool p.

    scored  pool, id and score of every id that may be chosen
    counts  number of ids to choose in each pool, in the order of the pools; a pool without ids has 0
    """
    pools: dict[Hashable, list[tuple[float, Any]]] = {pool: [] for pool in counts}
    for pool, name, score in scored:
        if not math.isfinite(score):
            msg = f"SEL-004: score {score} of {name}"
            raise RefusedError(msg)
        pools[pool].append((-score if largest else score, name))
    chosen: list[Any] = []
    boundaries: list[tuple[Hashable, Boundary]] = []
    for pool, members in pools.items():
        k = counts[pool]
        if not 0 <= k <= len(members):
            msg = f"SEL-005: {k} of {len(members)} in pool {pool}"
            raise RefusedError(msg)
        members.sort()
        chosen += [name for _, name in members[:k]]
        if 0 < k < len(members):
            inside, outside = members[k - 1][0], members[k][0]
            boundaries.append((pool, (-inside, -outside) if largest else (inside, outside)))
    return Selection(sorted(chosen), boundaries)
