"""Computes the evidence of an event from its gradient windows, one block of rows at a time (GRD-003).

(of_matrix,) = evidence([View(window, base, delta)], rule, n)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, device, spread
from seft_ref.kernels import KernelSet
from seft_ref.kernels import reference as definition
from seft_ref.matrix.window import OF_GRADIENTS, AnyWindow, FirstStepWindow, Window, support_of
from seft_ref.topology.csr import difference, find, flat, outside, per_pool, union
from seft_ref.update.criteria import GROW, USE_GROW, Chance, Known
from seft_ref.update.delta import Base, Delta
from seft_ref.update.evidence import Evidence, finite_norm, refuse_infinite
from seft_ref.update.grow import Growable, best_of_groups
from seft_ref.update.pools import Counts, Pools
from seft_ref.update.rules import Rule
from seft_ref.update.select import largest, selection_in_pools

ROWS = 512
"""Most rows of a block, which is the part of a gradient that is evaluated at once."""
_BLOCKS = 8
"""Number of blocks of a large matrix, because an eighth of its gradient takes little memory."""
_LEAST_BLOCK = 1 << 18
"""Fewest entries of a block, because smaller products are slow; ROWS may force smaller blocks."""
_FIRST_LOOK = 1 << 14
"""Fewest entries of the first piece, whose scores are sorted to find a first threshold."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One matrix whose evidence is wanted; `window` is None where the rule asks for no gradient."""

    window: AnyWindow | None
    base: Base
    delta: Delta
    matrix: int = 0
    """index of the matrix in the model, for random scores (RNG-003)"""


def evidence(
    views: Sequence[View],
    rule: Rule,
    n: Counts | None,
    *,
    pools: Pools = Pools(),  # noqa: B008  frozen
    chance: Chance = Chance(0, 0),  # noqa: B008  frozen
    kernels: KernelSet = definition,
) -> list[Evidence]:
    """Return the evidence of each matrix for one event, with its candidates for growth (GRD-003).

    Candidates of all matrices are ranked together if they share one pool.

    n       how many positions grow at most in each pool of slots; None if nothing grows, so nothing is scored
    Raises  UpdateError EVT-005, SEL-004 for evidence, or the score of a candidate, that is not finite
    """
    if rule.candidates == "first-step":
        return [_first_step_evidence(view, rule, kernels) for view in views]
    collector: _PerRow | _Strongest | None = None
    if n is not None:
        # n + 1, because the first rejected score is the boundary that SEL-008 reports
        collector = _Strongest(int(n[0]) + 1, pools, kernels) if pools.slots.is_one else _PerRow(n)
    answers = [_look(view, number, rule, collector, chance, kernels) for number, view in enumerate(views)]
    if collector is None:
        return answers
    chosen = collector.result(len(views))
    return [replace(answer, **chosen[number]) for number, answer in enumerate(answers)]


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Consecutive rows of a matrix and the scores of their entries; positions count from the first of these rows."""

    number: int
    """index of the matrix among the views"""
    low: int
    """flat position of the first entry of the block"""
    n_in: int
    values: Array
    """scores, or signed gradients whose magnitude is the score, one an entry"""
    taken: Array
    """positions of η, which cannot grow"""
    only: Array | None
    """the only positions that may grow; None for all"""
    more: dict[str, Array]
    """further evidence that a candidate keeps, by name, one value an entry"""


class _Kept:
    """The means of a window that keeps gradients on the support only. Elsewhere its rows are 0, which nothing reads."""

    def __init__(self, window: Window, view: View, kernels: KernelSet) -> None:
        self.support, self.names = support_of(view.base, view.delta.topology), window.of_gradients
        self.means = window.at_positions(kernels, lambda: self.support)

    def rows(self, start: int, stop: int) -> Known:
        """Return rows start to stop of the means."""
        (_, n_in), slots = self.support.shape, self.support.positions(start, stop)
        low, high = int(self.support.indptr[start]), int(self.support.indptr[stop])
        blocks = {}
        for name in self.names:
            values = spread(getattr(self.means, name)[low:high], slots, (stop - start) * n_in)
            blocks[name] = array_namespace(values).reshape(values, (stop - start, n_in))
        return Known(**blocks)


def _look(view: View, number: int, rule: Rule, strongest: Any, chance: Chance, kernels: KernelSet) -> Evidence:
    """Return the evidence on the support, and offer each block to `strongest`, which keeps the best candidates."""
    n_out, n_in = view.base.topology.shape
    xp = array_namespace(view.base.values)
    window = view.window if isinstance(view.window, Window) else None
    inputs = None if window is None else window.inputs()
    evidence_names = sorted(frozenset[str]() if window is None else window.asked & OF_GRADIENTS)
    support_names = rule.asks_on_support() & OF_GRADIENTS
    tokens = None
    if window is not None and "tokens" in window.asked:
        tokens = window.of_tokens(kernels, partial(support_of, view.base, view.delta.topology))
        refuse_infinite(tokens)
    kept = None if window is None or window.kept_at is None else _Kept(window, view, kernels)
    norm = 0.0
    parts: dict[str, list[Array]] = {"slots": [], "scores": [], "gradient": [], "absolute": [], "square": []}
    rows = _rows_at_once(n_out, n_in)
    for start in range(0, n_out, rows):
        stop = min(start + rows, n_out)
        low = start * n_in
        of_block = Known()
        if window is not None:
            of_block = window.rows(start, stop) if kept is None else kept.rows(start, stop)
        whole: dict[str, Array] = {}
        for name in evidence_names:
            whole[name] = xp.reshape(getattr(of_block, name), (-1,))
            # EVT-005: evidence must be finite everywhere, not only where it is used
            if name == "gradient" and kept is None:
                norm = math.hypot(norm, finite_norm(whole[name]))
            else:
                refuse_infinite(whole[name])
        active = strongest is not None and rule.grow_scope == "active"
        slots = view.delta.topology.positions(start, stop)
        stored = view.base.topology.positions(start, stop) if support_names or active else slots
        support = union(stored, slots) if support_names else slots
        for name in support_names:
            parts[name].append(xp.take(whole[name], support))
        if strongest is not None:
            of_block = _with_rest(of_block, rule, view, inputs, chance, (start, stop))
            # ḡ stays signed, because its magnitude is needed at few entries of the block
            signed = of_block.gradient if rule.grow == "gradient" else GROW[rule.grow](of_block)
            values = xp.reshape(signed, (-1,))
            parts["slots"].append(slots + low)
            parts["scores"].append(xp.abs(xp.take(values, slots)))
            more = {n: v for n, v in whole.items() if rule.moments == "seeded" and n in ("gradient", "square")}
            strongest.offer(_Block(number, low, n_in, values, slots, stored if active else None, more))
            del signed, values, more
        del of_block, whole  # free them before the next block takes as much memory
    zero, nothing = view.base.values[:0], xp.zeros((0,), dtype=xp.int64, device=device(view.base.values))
    scores = xp.concat(parts["scores"]) if parts["scores"] else zero
    return Evidence(
        xp.concat(parts["slots"]) if parts["slots"] else nothing,
        scores,
        candidates=nothing,
        candidate_scores=scores[:0],
        inputs=inputs,
        tokens=tokens,
        steps=1 if view.window is None else view.window.steps,
        gradient_norm=norm if "gradient" in evidence_names and kept is None else None,
        **{n: xp.concat(parts[n]) if parts[n] else zero for n in sorted(support_names)},
    )


def _rows_at_once(n_out: int, n_in: int) -> int:
    """Return how many rows a block has: about equal blocks, because a short last one takes as long as a full one."""
    n_blocks = max(1, min(_BLOCKS, n_out * n_in // _LEAST_BLOCK), -(-n_out // ROWS))
    return max(1, -(-n_out // n_blocks))


def _with_rest(
    block_evidence: Known, rule: Rule, view: View, inputs: Array | None, chance: Chance, block: tuple[int, int]
) -> Known:
    """Return `block_evidence` with the other operands of the growth criterion, for a block of rows."""
    start, stop = block
    if rule.grow == "curvature":
        return replace(block_evidence, inputs=inputs)
    if rule.grow == "moments":
        return replace(
            block_evidence, row=view.delta.shared["rows"][start:stop, None], column=view.delta.shared["columns"]
        )
    if rule.grow == "random":
        n_in = view.base.topology.shape[1]
        xp = array_namespace(view.base.values)
        positions = xp.arange(start * n_in, stop * n_in, dtype=xp.int64, device=device(view.base.values))
        return replace(block_evidence, uniform=chance.scores(view.matrix, positions, USE_GROW))
    return block_evidence


class _Strongest:
    """Keeps the n positions with the largest scores of all blocks offered, in order of matrix and position.

    `least` is the n-th best score so far, or None until n positions were found. `seen` counts the entries looked at.
    """

    def __init__(self, n: int, pools: Pools, kernels: KernelSet) -> None:
        self.n, self.pools, self.kernels = n, pools, kernels
        self.least: float | None = None
        self.pieces: list[dict[str, Any]] = []
        self.held = self.seen = 0

    def offer(self, block: _Block) -> None:
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

    def _look_at(self, block: _Block) -> None:
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
        if not positions.shape[0]:
            return
        extras = {name: xp.take(array, positions) for name, array in block.more.items()}
        self.pieces.append({"number": block.number, "positions": positions + block.low, "scores": scores, **extras})
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


class _PerRow:
    """Keeps the n[r] + 1 positions with the largest scores of every row r of one matrix."""

    def __init__(self, n: Int[Array, " out"]) -> None:
        self.n = n
        self.pieces: list[dict[str, Any]] = []

    def offer(self, block: _Block) -> None:
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


def _first_step_evidence(view: View, rule: Rule, kernels: KernelSet) -> Evidence:
    """Return the evidence of a FirstStepWindow, which has gradients at some positions only (GRD-007, GROW-006)."""
    assert isinstance(view.window, FirstStepWindow), "candidates first-step need their window"
    chosen = view.window.chosen()
    window, kept = chosen.window, chosen.candidates
    assert kept is not None
    assert window.kept_at is not None
    positions = flat(window.kept_at())
    xp = array_namespace(positions)
    eta, support = flat(view.delta.topology), support_of(view.base, view.delta.topology)
    means = window.at_positions(kernels)
    tokens = window.of_tokens(kernels, lambda: support)
    for values in (means.gradient, means.absolute, means.square, tokens):
        if values is not None:
            refuse_infinite(values)
    scores = GROW[rule.grow](means)

    def at(where: Array, values: Array | None) -> Array | None:
        return None if values is None else xp.take(values, find(positions, where)[0])

    free = outside(kept, eta)
    candidates = kept[free]
    return Evidence(
        eta,
        at(eta, scores),
        candidates,
        at(candidates, scores),
        gradient=at(flat(support), means.gradient),
        absolute=at(flat(support), means.absolute),
        square=at(flat(support), means.square),
        tokens=tokens,
        candidate_gradient=at(candidates, means.gradient),
        candidate_square=at(candidates, means.square),
        steps=window.steps,
        again=kept[~free],
    )


def _between(positions: Int[Array, " n"], low: int, high: int) -> Int[Array, " m"]:
    """Return the sorted positions p with low ≤ p < high."""
    xp = array_namespace(positions)
    edges = xp.searchsorted(positions, xp.asarray([low, high], dtype=positions.dtype, device=device(positions)))
    return positions[int(edges[0]) : int(edges[1])]
