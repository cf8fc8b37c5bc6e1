"""The evidence that an event takes from windows, some rows of a gradient at a time (GRD-003).

    (seen,) = evidence([View(window, base, delta)], rule, n)

`update.evidence.evidence_of` is the definition: it holds a score for every position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Int

from seft_ref.arrays import Array, array_namespace, device
from seft_ref.kernels import Kernels
from seft_ref.kernels import reference as definition
from seft_ref.topology import difference, find, flat, flat_rows, outside, union
from seft_ref.update.criteria import GROW, USE_GROW, Chance, Known
from seft_ref.update.delta import Base, Delta
from seft_ref.update.evidence import Evidence, refuse_infinite
from seft_ref.update.grow import Growable, best_of_groups
from seft_ref.update.rules import Rule
from seft_ref.update.select import largest, selection_in_pools
from seft_ref.window import AnyWindow, FirstStepWindow, Window

ROWS = 512
"""Most rows of a gradient that are evaluated at once when all of it is looked at."""
_BLOCKS, _LEAST_BLOCK = 8, 1 << 18
"""A block is an eighth of the matrix: little to hold, and not so small that a product of it is slow."""
_FIRST_LOOK = 1 << 14
"""Least number of scores that are sorted to find a first threshold."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One matrix whose evidence is wanted; window None where the rule asks for no gradient."""

    window: AnyWindow | None
    base: Base
    delta: Delta
    matrix: int = 0


def evidence(
    views: Sequence[View],
    rule: Rule,
    n: int | Int[Array, " out"],
    *,
    chance: Chance = Chance(0, 0),  # noqa: B008  frozen
    pattern: tuple[int, int] | None = None,
    kernels: Kernels = definition,
) -> list[Evidence]:
    """Return what an event needs of the matrices of one pool, some rows at a time (GRD-003).

    n  how many positions grow at most, of all matrices together; of each row with scope row
    Equal to `update.evidence.evidence_of` of the whole gradient when the blocks have the same numbers.
    """
    if rule.candidates == "first-step":
        return [_first_step_evidence(view, rule) for view in views]
    # one more than grows: the best that is left behind
    held = (
        _PerRow(n)
        if rule.scope == "row"
        else _Strongest(int(n) + 1, pattern if rule.scope == "group" else None, kernels)
    )
    found = [_look(view, number, rule, held, chance) for number, view in enumerate(views)]
    chosen = held.result(len(views))
    return [replace(seen, **chosen[number]) for number, seen in enumerate(found)]


def _look(view: View, number: int, rule: Rule, held: Any, chance: Chance) -> Evidence:
    """Return the evidence on the support, and offer everything else to what is held."""
    n_out, n_in = view.base.topology.shape
    xp = array_namespace(view.base.values)
    window = view.window
    inputs = window.inputs() if isinstance(window, Window) else None
    asked = window.asked if isinstance(window, Window) else frozenset[str]()
    wanted = rule.asks_on_support()
    squares = 0.0
    found: dict[str, list[Array]] = {"support": [], "slots": [], "scores": [], "gradient": [], "square": []}
    rows = _rows_at_once(n_out, n_in)
    for start in range(0, n_out, rows):
        stop = min(start + rows, n_out)
        low = start * n_in
        known = window.rows(start, stop) if isinstance(window, Window) else Known()
        known = _with_rest(known, rule, view, inputs, chance, (start, stop))
        # |ḡ| is taken where it is needed: most of the block is never looked at again
        signed = known.gradient if rule.grow == "gradient" else GROW[rule.grow](known)
        values = xp.reshape(signed, (-1,))
        taken = flat_rows(view.delta.topology, start, stop)
        stored = flat_rows(view.base.topology, start, stop) if wanted or rule.grow_scope == "active" else taken
        here = union(stored, taken) if wanted else taken
        more: dict[str, Array] = {}
        for name in asked & {"gradient", "square"}:
            more[name] = xp.reshape(getattr(known, name), (-1,))
        if "gradient" in more:
            squares += float(more["gradient"] @ more["gradient"])
        for name in wanted:
            found[name].append(xp.take(more[name], here))
        if wanted:
            found["support"].append(here + low)
        found["slots"].append(taken + low)
        found["scores"].append(xp.abs(xp.take(values, taken)))
        only = stored if rule.grow_scope == "active" else None
        held.offer(number, low, n_in, values, taken, only, more if rule.moments == "seeded" else {})
        del known, signed, values, more  # before the next block takes as much
    zero, nothing = view.base.values[:0], xp.zeros((0,), dtype=xp.int64, device=device(view.base.values))
    scores = xp.concat(found["scores"]) if found["scores"] else zero
    return Evidence(
        xp.concat(found["support"]) if found["support"] else nothing,
        xp.concat(found["slots"]) if found["slots"] else nothing,
        scores,
        candidates=nothing,
        candidate_scores=scores[:0],
        inputs=inputs,
        steps=1 if window is None else window.steps,
        gradient_norm=math.sqrt(squares) if "gradient" in asked else None,
        **{n: xp.concat(found[n]) if found[n] else zero for n in sorted(wanted)},
    )


def _rows_at_once(n_out: int, n_in: int) -> int:
    """Return how many rows a block has: equal ones, for a short last block costs a product as much as a long one."""
    n_blocks = max(1, min(_BLOCKS, n_out * n_in // _LEAST_BLOCK), -(-n_out // ROWS))
    return max(1, -(-n_out // n_blocks))


def _with_rest(
    known: Known, rule: Rule, view: View, inputs: Array | None, chance: Chance, block: tuple[int, int]
) -> Known:
    """Return what a growth criterion looks at besides gradients, for a block of rows."""
    start, stop = block
    if rule.grow == "curvature":
        return replace(known, inputs=inputs)
    if rule.grow == "moments":
        return replace(known, row=view.delta.shared["rows"][start:stop, None], column=view.delta.shared["columns"])
    if rule.grow == "random":
        n_in = view.base.topology.shape[1]
        xp = array_namespace(view.base.values)
        positions = xp.arange(start * n_in, stop * n_in, dtype=xp.int64, device=device(view.base.values))
        return replace(known, uniform=chance.scores(view.matrix, positions, USE_GROW))
    return known


class _Strongest:
    """The n strongest positions seen so far, of all matrices offered, in order of matrix and position."""

    def __init__(self, n: int, pattern: tuple[int, int] | None, kernels: Kernels) -> None:
        self.n, self.pattern, self.kernels = n, pattern, kernels
        self.least: float | None = None
        self.pieces: list[dict[str, Any]] = []
        self.held = self.seen = 0

    def offer(
        self, number: int, low: int, n_in: int, values: Array, taken: Array, only: Array | None, more: dict[str, Array]
    ) -> None:
        """Look at a block of scores, or of signed gradients; entries of η are taken, and only some may be looked at."""
        if only is not None or self.pattern is not None or not self.n:
            self._look_at(number, low, values, taken, only, more)
            return
        # pieces as long as all that was seen before: what exceeds the least of those is then about n entries
        n, start = values.shape[0], 0
        while start < n:
            stop = min(n, start + max(_FIRST_LOOK, 4 * self.n, self.seen))
            here = _between(taken, start, stop) - start
            self._look_at(number, low + start, values[start:stop], here, None, _parts(more, start, stop))
            self.seen += stop - start
            start = stop

    def _look_at(
        self, number: int, low: int, values: Array, taken: Array, only: Array | None, more: dict[str, Array]
    ) -> None:
        xp = array_namespace(values)
        if self.least is None or only is not None or not self.n:
            refuse_infinite(values)
        if not self.n or not values.shape[0]:
            return
        if only is not None:
            here = only
        elif self.least is not None:
            # an equal score stands at a higher position and loses (SEL-001)
            here = self.kernels.exceeding(values, self.least)
        elif self.pattern is not None:
            here = xp.arange(values.shape[0], dtype=xp.int64, device=device(values))
        else:
            # at most len(taken) of these lie in η
            here = largest(xp.abs(values), min(self.n + taken.shape[0], values.shape[0]))
        here = difference(here, taken)
        scores = xp.abs(xp.take(values, here))
        refuse_infinite(scores)
        if self.pattern is not None:
            best = best_of_groups(Growable(here, scores), self.pattern)
            here, scores = best.positions, best.scores
        if not here.shape[0]:
            return
        extras = {name: xp.take(array, here) for name, array in more.items()}
        self.pieces.append({"number": number, "positions": here + low, "scores": scores, **extras})
        self.held += here.shape[0]
        if self.held >= self.n and (self.least is None or self.held > self.n + max(self.n // 4, 4096)):
            self._compact()

    def _compact(self) -> None:
        """Keep the n strongest of what is held."""
        xp = array_namespace(self.pieces[0]["scores"])
        scores = xp.concat([piece["scores"] for piece in self.pieces])
        chosen = largest(scores, self.n)
        self.least = float(xp.min(xp.take(scores, chosen)))
        kept, start = [], 0
        for piece in self.pieces:
            stop = start + piece["scores"].shape[0]
            here = _between(chosen, start, stop) - start
            if here.shape[0]:
                kept.append({k: v if k == "number" else xp.take(v, here) for k, v in piece.items()})
            start = stop
        self.pieces, self.held = kept, chosen.shape[0]

    def result(self, n_matrices: int) -> list[dict[str, Array]]:
        """Return for each matrix its candidates and what is known of them."""
        if self.held > self.n:
            self._compact()
        return [_candidates([p for p in self.pieces if p["number"] == number]) for number in range(n_matrices)]


class _PerRow:
    """The n[r] + 1 strongest positions of every row of one matrix."""

    def __init__(self, n: Int[Array, " out"]) -> None:
        self.n = n
        self.pieces: list[dict[str, Any]] = []

    def offer(
        self, number: int, low: int, n_in: int, values: Array, taken: Array, only: Array | None, more: dict[str, Array]
    ) -> None:
        """Look at a block of whole rows, as `_Strongest` does."""
        xp = array_namespace(values)
        refuse_infinite(values)
        here = xp.arange(values.shape[0], dtype=xp.int64, device=device(values)) if only is None else only
        here = difference(here, taken)
        if not here.shape[0]:
            return
        n_rows = values.shape[0] // n_in
        wanted = self.n[low // n_in : low // n_in + n_rows] + 1
        starts = xp.arange(n_rows + 1, dtype=xp.int64, device=device(values)) * n_in
        edges = xp.astype(xp.searchsorted(here, starts), xp.int64)
        counts = xp.minimum(wanted, edges[1:] - edges[:-1])
        scores = xp.abs(xp.take(values, here))
        chosen = selection_in_pools(-scores, here // n_in, counts).indices
        here, scores = xp.take(here, chosen), xp.take(scores, chosen)
        extras = {name: xp.take(array, here) for name, array in more.items()}
        self.pieces.append({"number": number, "positions": here + low, "scores": scores, **extras})

    def result(self, n_matrices: int) -> list[dict[str, Array]]:
        """Return the candidates of the matrix and what is known of them."""
        return [_candidates(self.pieces)]


def _parts(arrays: dict[str, Array], start: int, stop: int) -> dict[str, Array]:
    return {name: array[start:stop] for name, array in arrays.items()}


def _candidates(pieces: list[dict[str, Any]]) -> dict[str, Array]:
    """Return the fields of Evidence that pieces make together."""
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


def _first_step_evidence(view: View, rule: Rule) -> Evidence:
    """Return the evidence of a window that kept some positions only (GRD-007, GROW-006)."""
    assert isinstance(view.window, FirstStepWindow), "candidates first-step need their window"
    window = view.window.settled()
    assert window.positions is not None
    assert window.candidates is not None
    xp = array_namespace(window.positions)
    eta = flat(view.delta.topology)
    for values in (window.gradient, window.square):
        refuse_infinite(values)
    steps = window.settled_steps
    total, squares = window.gradient, window.square
    assert total is not None
    assert squares is not None
    mean, square = (total, squares) if steps == 1 else (total / steps, squares / steps)
    scores = GROW[rule.grow](Known(gradient=mean, square=square))

    def at(positions: Array, values: Array) -> Array:
        return xp.take(values, find(window.positions, positions)[0])

    free = outside(window.candidates, eta)
    candidates = window.candidates[free]
    return Evidence(
        window.support,
        eta,
        at(eta, scores),
        candidates,
        at(candidates, scores),
        gradient=at(window.support, mean),
        square=at(window.support, square),
        candidate_gradient=at(candidates, mean),
        candidate_square=at(candidates, square),
        steps=steps,
        again=window.candidates[~free],
    )


def _between(positions: Int[Array, " n"], low: int, high: int) -> Int[Array, " m"]:
    """Return the sorted positions p with low ≤ p < high."""
    xp = array_namespace(positions)
    edges = xp.searchsorted(positions, xp.asarray([low, high], dtype=positions.dtype, device=device(positions)))
    return positions[int(edges[0]) : int(edges[1])]
