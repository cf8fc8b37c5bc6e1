"""Keeps the candidates of growth with the largest scores, while matrices are looked at block by block (GRD-003)."""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.kernels import KernelSet
from seft_ref.topology.csr import Topology, difference, per_pool
from seft_ref.update.evidence import refuse_infinite
from seft_ref.update.grow import Growable, best_of_groups
from seft_ref.update.pools import Pools
from seft_ref.update.select import largest, selection_in_pools

_FIRST_LOOK = 1 << 14
"""Fewest entries of the first piece, whose scores are sorted to find a first threshold."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Entries of a matrix and their scores; `taken` and `only` number the entries of the block from 0."""

    number: int
    """index of the matrix among the views"""
    low: int
    """flat position, or slot, of the first entry"""
    n_in: int
    values: Array
    """scores, or signed gradients whose magnitude is the score, one an entry"""
    taken: Array
    """the entries at η, which cannot grow"""
    only: Array | None
    """the only entries that may grow; None for all"""
    more: dict[str, Array]
    """further evidence that a candidate keeps, by name, one value an entry"""
    stored: Topology | None = None
    """the topology whose slots the entries are, from slot `low` on; None if they are all positions of some rows"""


class Strongest:
    """Keeps the n positions with the largest scores of all blocks offered, in order of matrix and position.

    `least` is the n-th best score so far, or None until n positions were found. `seen` counts the entries looked at.
    """

    def __init__(self, n: int, pools: Pools, kernels: KernelSet) -> None:
        self.n, self.pools, self.kernels = n, pools, kernels
        self.least: float | None = None
        self.pieces: list[dict[str, Any]] = []
        self.held = self.seen = 0

    def offer(self, block: Block) -> None:
        """Keep those positions of a block that may be among the n strongest."""
        if block.only is not None or self.pools.caps_growth:
            self._look_at(block)
            return
        # each piece is twice as long as all before it, so about 2 n of its entries exceed the n-th best score so far
        n, start = block.values.shape[0], 0
        while start < n:
            stop = min(n, start + max(_FIRST_LOOK, 4 * self.n, 2 * self.seen))
            slots = _between(block.taken, start, stop) - start
            more = {name: array[start:stop] for name, array in block.more.items()}
            part = replace(block, low=block.low + start, values=block.values[start:stop], taken=slots, more=more)
            self._look_at(part)
            self.seen += stop - start
            start = stop

    def _look_at(self, block: Block) -> None:
        xp = array_namespace(block.values)
        if block.only is not None:
            positions = block.only
        elif self.least is not None:
            # strictly above, because an equal score has a higher position and loses (SEL-001)
            positions = self.kernels.exceeding(block.values, self.least)
        else:
            positions = xp.arange(block.values.shape[0], dtype=xp.int64, device=device(block.values))
        positions = difference(positions, block.taken)
        scores = xp.abs(xp.take(block.values, positions))
        # EVT-005: only the scores of candidates are checked, because no others are ranked
        refuse_infinite(scores)
        if self.pools.caps_growth:
            groups, (budgets,) = self.pools.weights, self.pools.budgets
            best = best_of_groups(Growable(positions, scores), groups, budgets[block.low // groups.width :])
            positions, scores = best.positions, best.scores
        elif self.least is None and positions.shape[0] > self.n:
            chosen = largest(scores, self.n)
            positions, scores = xp.take(positions, chosen), xp.take(scores, chosen)
        extras = {name: xp.take(array, positions) for name, array in block.more.items()}
        entries = positions + block.low
        at = entries if block.stored is None else block.stored.positions_at(entries)
        self._append(block.number, at, scores, extras)

    def _append(self, number: int, positions: Array, scores: Array, extras: dict[str, Array]) -> None:
        if not positions.shape[0]:
            return
        self.pieces.append({"number": number, "positions": positions, "scores": scores, **extras})
        self.held += positions.shape[0]
        if self.held >= self.n and (self.least is None or self.held > self.n + max(self.n // 2, 4096)):
            self._compact()

    def _compact(self) -> None:
        """Drop all but the n strongest positions from the pieces, and raise `least` to the score of the last."""
        xp = array_namespace(self.pieces[0]["scores"])
        scores = xp.concat([piece["scores"] for piece in self.pieces])
        chosen = largest(scores, self.n)
        self.least = float(xp.min(xp.take(scores, chosen)))
        sizes = [piece["scores"].shape[0] for piece in self.pieces]
        starts = [0, *accumulate(sizes)]
        edges = xp.searchsorted(chosen, xp.asarray(starts, dtype=chosen.dtype, device=device(chosen)))
        edges = [int(edges[i]) for i in range(len(starts))]
        pieces = []
        for piece, start, low, high in zip(self.pieces, starts, edges, edges[1:], strict=False):
            if high > low:
                within = chosen[low:high] - start
                pieces.append({k: v if k == "number" else xp.take(v, within) for k, v in piece.items()})
        self.pieces, self.held = pieces, chosen.shape[0]

    def result(self, n_matrices: int) -> list[dict[str, Array]]:
        """Return the candidates of each matrix as fields of its Evidence."""
        if self.held > self.n:
            self._compact()
        return [_candidates([p for p in self.pieces if p["number"] == number]) for number in range(n_matrices)]


class PerRow:
    """Keeps the n[r] + 1 positions with the largest scores of every row r of one matrix."""

    def __init__(self, n: Int[Array, " out"]) -> None:
        self.n = n
        self.pieces: list[dict[str, Any]] = []

    def offer(self, block: Block) -> None:
        """Keep the strongest positions of each row of a block."""
        values = block.values
        xp = array_namespace(values)
        everywhere = xp.arange(values.shape[0], dtype=xp.int64, device=device(values))
        positions = difference(everywhere if block.only is None else block.only, block.taken)
        if not positions.shape[0]:
            return
        scores = xp.abs(xp.take(values, positions))
        # EVT-005: only the scores of candidates are checked, because no others are ranked
        refuse_infinite(scores)
        n_rows, first = values.shape[0] // block.n_in, block.low // block.n_in
        counts = xp.minimum(self.n[first : first + n_rows] + 1, per_pool(positions, block.n_in, n_rows))
        chosen = selection_in_pools(-scores, positions // block.n_in, counts).indices
        positions, scores = xp.take(positions, chosen), xp.take(scores, chosen)
        extras = {name: xp.take(array, positions) for name, array in block.more.items()}
        self.pieces.append({"number": block.number, "positions": positions + block.low, "scores": scores, **extras})

    def result(self, n_matrices: int) -> list[dict[str, Array]]:
        """Return the candidates of the one matrix as fields of its Evidence."""
        return [_candidates(self.pieces)]


def _candidates(pieces: list[dict[str, Any]]) -> dict[str, Array]:
    """Return the pieces joined into arrays, as fields of Evidence."""
    if not pieces:
        return {}
    xp = array_namespace(pieces[0]["scores"])
    names = {
        "positions": "candidates",
        "scores": "candidate_scores",
        "gradient": "candidate_gradient",
        "square": "candidate_square",
    }
    return {names[k]: xp.concat([p[k] for p in pieces]) for k in names if k in pieces[0]}


def _between(positions: Int[Array, " n"], low: int, high: int) -> Int[Array, " m"]:
    """Return the sorted positions p with low ≤ p < high."""
    xp = array_namespace(positions)
    edges = xp.searchsorted(positions, xp.asarray([low, high], dtype=positions.dtype, device=device(positions)))
    return positions[int(edges[0]) : int(edges[1])]
