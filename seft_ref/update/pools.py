"""Pools: which scores an event compares with each other, and the budgets of each pool (EVT-009, SEL-007).

    pools = pools_of(rule, shape, budgets, delta_budgets, pattern)      # for matrices that are compared with each other
    chosen, boundary = pools.slots.select(scores, positions, counts)

Counts and budgets are int64 arrays with one entry a pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, device, int64_like
from seft_ref.topology.csr import per_pool
from seft_ref.update.rules import Rule
from seft_ref.update.select import Boundary, select

Counts = Int[Array, " pools"]
_Matrix = TypeVar("_Matrix")


@dataclass(frozen=True, slots=True)
class Partition:
    """Pools of `width` consecutive flat positions of one matrix, or one pool of all positions of all matrices."""

    width: int = 0
    """positions of a pool; 0 for one pool of everything"""
    n_pools: int = 1

    @property
    def is_one(self) -> bool:
        """Whether all positions are one pool."""
        return self.width == 0

    def of(self, positions: Int[Array, " n"]) -> Int[Array, " n"]:
        """Return the pool of each position."""
        return array_namespace(positions).zeros_like(positions) if self.is_one else positions // self.width

    def sizes(self, at: Sequence[Int[Array, " n"]]) -> Counts:
        """Return how many positions lie in each pool; `at` holds the sorted positions of each matrix."""
        if self.is_one:
            return int64_like([sum(positions.shape[0] for positions in at)], at[0])
        (positions,) = at
        return per_pool(positions, self.width, self.n_pools)

    def select(
        self, scores: Sequence[Array], at: Sequence[Array] | None, counts: Counts, *, largest: bool = False
    ) -> tuple[list[Array], Boundary | None]:
        """Return the chosen indices of each matrix, ascending, and the boundary of the selection (SEL-007, SEL-008).

        scores  for each matrix, in order of matrix index, one score a position
        at      for each matrix its sorted positions; None is enough if all positions are one pool
        counts  how many to choose in each pool

        Raises:
            UpdateError: SEL-004 for NaN or infinite scores, SEL-005 for a count outside 0 to the size of its pool.
        """
        if len(scores) == 1:
            # a single matrix needs no copy of its scores, and no pool numbers if it is one pool
            selected = select(scores[0], None if at is None or self.is_one else self.of(at[0]), counts, largest=largest)
            return [selected.indices], selected.boundary
        xp = array_namespace(*scores)
        selected = select(xp.concat(list(scores)), None, counts, largest=largest)
        split, start = [], 0
        for one in scores:
            stop = start + one.shape[0]
            ends = xp.asarray([start, stop], dtype=xp.int64, device=device(selected.indices))
            edges = xp.searchsorted(selected.indices, ends)
            split.append(selected.indices[int(edges[0]) : int(edges[1])] - start)
            start = stop
        return split, selected.boundary


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """The pools of the matrices that an event compares with each other, and their budgets; one pool by default."""

    slots: Partition = Partition()
    """pools in which slots drop and positions grow"""
    weights: Partition = Partition()
    """pools in which weights are pruned"""
    budgets: tuple[Counts, ...] = ()
    """for each matrix, K of its pools of weights (DLT-001)"""
    delta_budgets: tuple[Counts, ...] = ()
    """for each matrix, d_φ of its pools of slots"""

    @property
    def caps_growth(self) -> bool:
        """Whether only the K best candidates of each pool of weights may grow (GROW-007)."""
        return self.slots.is_one and not self.weights.is_one

    def growth(self, n_drop: Counts, at: Sequence[Int[Array, " d"]]) -> Counts:
        """Return how many positions each pool grows at most: as many as drop, plus the refill d_φ − |η| (GROW-002).

        at  for each matrix the flat positions of η
        """
        return _at_least_zero(n_drop + sum(self.delta_budgets) - self.slots.sizes(at))

    def excess(self, sizes: Sequence[Counts]) -> Counts:
        """Return how many weights each pool has above its budget (ADPT-001).

        sizes  for each matrix how many weights count in each pool
        """
        return _at_least_zero(sum(sizes) - sum(self.budgets))


def pools_of(
    rule: Rule,
    shape: tuple[int, int],
    budgets: Sequence[Counts],
    delta_budgets: Sequence[Counts],
    pattern: tuple[int, int] | None = None,
) -> Pools:
    """Return the pools of matrices that are compared with each other; `together` finds these.

    shape          (out, in) of the matrix, unless all matrices are one pool
    budgets        K of each matrix: one entry, with scope row one a row, with scope group one a group
    delta_budgets  d_φ of each matrix: one entry, with scope row one a row
    pattern        (N, M) of the groups with scope group
    """
    n_out, n_in = shape
    slots = weights = Partition(max(n_in, 1), n_out) if rule.by_row else Partition()
    if rule.by_group:
        assert pattern is not None, "scope group needs a pattern"
        width = pattern[1]
        weights = Partition(width, n_out * (n_in // width))
    return Pools(slots, weights, tuple(budgets), tuple(delta_budgets))


def together(rule: Rule, matrices: Sequence[_Matrix]) -> list[list[_Matrix]]:
    """Return the matrices in lists; an event compares the matrices of a list with each other only (EVT-009)."""
    if rule.over_model:
        return [list(matrices)] if matrices else []
    return [[matrix] for matrix in matrices]


def _at_least_zero(counts: Counts) -> Counts:
    xp = array_namespace(counts)
    return xp.where(counts > 0, counts, xp.zeros_like(counts))
