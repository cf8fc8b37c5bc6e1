"""Computes the evidence of an event from its gradient windows, one block of rows at a time (GRD-003).

(of_matrix,) = evidence([View(window, base, delta)], rule, n)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from seft_ref.arrays.library import Array, array_namespace, device, spread
from seft_ref.kernels import KernelSet
from seft_ref.kernels import reference as definition
from seft_ref.matrix.strongest import Block, PerRow, Strongest
from seft_ref.matrix.window import OF_GRADIENTS, AnyWindow, FirstStepWindow, Window, support_of
from seft_ref.topology.csr import find, flat, outside, union
from seft_ref.update.criteria import GROW, USE_GROW, Chance, Known
from seft_ref.update.delta import Base, Delta
from seft_ref.update.evidence import Evidence, finite_norm, refuse_infinite
from seft_ref.update.pools import Counts, Pools
from seft_ref.update.rules import Rule

ROWS = 512
"""Most rows of a block, which is the part of a gradient that is evaluated at once."""
_BLOCKS = 8
"""Number of blocks of a large matrix, because an eighth of its gradient takes little memory."""
_LEAST_BLOCK = 1 << 18
"""Fewest entries of a block, because smaller products are slow; ROWS may force smaller blocks."""
_OF_KEPT = ("gradient", "absolute", "fisher")
"""Criteria of growth whose scores follow from what a window keeps at a position."""


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
    collector: PerRow | Strongest | None = None
    if n is not None:
        # n + 1, because the first rejected score is the boundary that SEL-008 reports
        collector = Strongest(int(n[0]) + 1, pools, kernels) if pools.slots.is_one else PerRow(n)
    answers = [_look(view, number, rule, collector, chance, kernels) for number, view in enumerate(views)]
    if collector is None:
        return answers
    chosen = collector.result(len(views))
    return [replace(answer, **chosen[number]) for number, answer in enumerate(answers)]


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
    if kept is not None and (strongest is None or (_takes_entries(strongest) and rule.grow in _OF_KEPT)):
        return replace(_look_on_support(view, number, rule, strongest, kept), inputs=inputs, tokens=tokens)
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
            strongest.offer(Block(number, low, n_in, values, slots, stored if active else None, more))
            del signed, values, more
        del of_block, whole  # free them before the next block takes as much memory
    # EVT-005.2
    refuse_infinite(xp.asarray(norm, dtype=xp.float64))
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


def _takes_entries(collector: PerRow | Strongest) -> bool:
    """Return whether a collector takes entries of any rows: one that compares rows or groups takes whole rows only."""
    return isinstance(collector, Strongest) and not collector.pools.caps_growth


def _look_on_support(view: View, number: int, rule: Rule, strongest: Strongest | None, kept: _Kept) -> Evidence:
    """Return the evidence of a window that keeps gradients on the support only, as `_look` does, in one pass."""
    xp = array_namespace(view.base.values)
    means = {name: getattr(kept.means, name) for name in kept.names}
    for values in means.values():
        refuse_infinite(values)
    zero, slots = view.base.values[:0], flat(view.delta.topology)
    scores = zero
    if strongest is None:
        slots = slots[:0]
    else:
        # ḡ stays signed, because its magnitude is needed at few positions
        values = kept.means.gradient if rule.grow == "gradient" else GROW[rule.grow](kept.means)
        places, _ = kept.support.seek_slots(view.delta.topology)
        scores = xp.abs(xp.take(values, places))
        more = {n: v for n, v in means.items() if rule.moments == "seeded" and n != "absolute"}
        # GROW-001: what is on the support and no slot is stored in the base
        strongest.offer(Block(number, 0, view.base.topology.shape[1], values, places, None, more, kept.support))
    wanted = rule.asks_on_support()
    of_support = {n: v for n, v in means.items() if n in wanted}
    return Evidence(slots, scores, slots[:0], scores[:0], steps=view.window.steps if view.window else 1, **of_support)


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
