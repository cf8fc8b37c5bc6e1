"""One event over several matrices, driven by the choices of chapter 8 (DROP, GROW, ADPT, EVT, DLT-006, TRN-009)."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conformance.oracle import select_pools, update_scores
from conformance.oracle.event_evidence import ADAPTATION, Evidence, asked_by, kept_at, refuse_infinite
from conformance.oracle.powers import power
from conformance.oracle.select import Round, binary64
from conformance.oracle.select_pools import Boundary, Selection
from conformance.oracle.update import effective
from conformance.oracle.update_choices import Rule
from conformance.oracle.update_counts import count

Pattern = tuple[int, int]
Place = tuple[int, int]
"""The index of a matrix among the parts, and a flat position."""


@dataclass(frozen=True)
class Part:
    """One matrix at an event; dictionaries are keyed by flat position.

    Attributes:
        shape: (out, in).
        matrix: index of the matrix, a word of the keys of random scores.
        base: base values b, on B.
        phi: delta values φ, on η.
        kept: state of the slots by name (m, v, age, u, origin), as far as optimizer and rule keep it.
        budget: K, one entry per pool of the scope; with scope group one per group.
        delta_budget: d_φ, one entry, or with scope row one per row.
        optimizer: name of the optimizer.
        first: whether this is the first event of the run.
        lost: positions that were stored at load and have left the base.
    """

    shape: tuple[int, int]
    matrix: int
    base: dict[int, float]
    phi: dict[int, float]
    kept: dict[str, dict[int, Any]]
    budget: list[int]
    delta_budget: list[int]
    optimizer: str = "adamw"
    first: bool = False
    lost: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """A matrix after an event, the positions that moved, and the boundaries of drop, grow and adapt.

    Attributes:
        part: the matrix after the event.
        dropped: D, cancelled positions included.
        grown: new slots.
        cancelled: positions that were dropped and grown again in this event.
        pruned: the positions that adapt pruned.
        boundaries: boundaries by selection (drop, grow, adapt); None if a selection has none.
        record: the counts of TRN-009.
    """

    part: Part
    dropped: list[int]
    grown: list[int]
    cancelled: list[int]
    pruned: list[int]
    boundaries: dict[str, Boundary | None] = field(default_factory=dict)
    record: dict[str, int] = field(default_factory=dict)


def check(parts: Sequence[Part], evidence: Sequence[Evidence], rule: Rule, kinds: set[str]) -> None:
    """Refuse evidence of these kinds that is not finite, and a ḡ whose norm is not finite (EVT-005)."""
    for part, one in zip(parts, evidence, strict=True):
        support = part.base.keys() | part.phi.keys()
        kept = kept_at(support, one, rule)
        for name in kinds:
            values, at = getattr(one, name), support if name == "tokens" else kept
            refuse_infinite(values if at is None or name == "inputs" else [values[p] for p in sorted(at)])
        if "gradient" in kinds and kept is None:
            refuse_infinite([math.hypot(*one.gradient)])


class _Event:
    """The three selections of an event, each over all parts."""

    def __init__(
        self,
        parts: Sequence[Part],
        evidence: Sequence[Evidence],
        rule: Rule,
        chance: tuple[int, int],
        pattern: Pattern | None,
        rounded: Round,
    ) -> None:
        self.parts, self.seen, self.rule = parts, evidence, rule
        self.seed, self.step = chance
        self.pattern, self.r = pattern, rounded
        self.scope = rule["scope"]

    def pool(self, place: Place) -> Hashable:
        """Return the pool of a position in drop and grow (EVT-009)."""
        i, p = place
        if self.scope == "row":
            return (i, p // self.parts[i].shape[1])
        return () if self.scope == "model" else (i,)

    def pools(self) -> list[Any]:
        """Return all pools of drop and grow in their order (SEL-007)."""
        if self.scope == "row":
            return [(i, row) for i, part in enumerate(self.parts) for row in range(part.shape[0])]
        return [()] if self.scope == "model" else [(i,) for i in range(len(self.parts))]

    def limit(self, pool: Any, name: str) -> int:
        """Return the budget of a pool: `budget` or `delta_budget` (DLT-001, DLT-002, EVT-009)."""
        if self.scope == "model":
            return sum(sum(getattr(part, name)) for part in self.parts)
        budgets = getattr(self.parts[pool[0]], name)
        return budgets[pool[1]] if self.scope == "row" else budgets[0]

    def drop(self, fraction: float) -> tuple[Selection, dict[Any, int], dict[Any, int]]:
        """Return the dropped places, the number dropped of each pool, and its number of slots (DROP, SCH-002)."""
        scored = []
        slots = dict.fromkeys(self.pools(), 0)
        for i, part in enumerate(self.parts):
            w = effective(part.base, part.phi, self.r)
            for p, phi in part.phi.items():
                slots[self.pool((i, p))] += 1
                scored.append((self.pool((i, p)), (i, p), self._of_slot(i, p, phi, w[p])))
        n_drop = {pool: count(fraction * n) for pool, n in slots.items()}
        return select_pools.select(scored, n_drop, largest=False), n_drop, slots

    def replaced(self, i: int, out: list[int], into: list[int]) -> list[int]:
        """Return the dropped positions of a matrix, less those that stay because too few new ones grow (GROW-006.2)."""
        part = self.parts[i]
        come = sum(p not in part.phi for p in into) - (sum(part.delta_budget) - len(part.phi))
        w = effective(part.base, part.phi, self.r)
        away = sorted((self._of_slot(i, p, part.phi[p], w[p]), p) for p in out if p not in into)
        leave = {p for _, p in away[: max(0, come)]}
        return [p for p in out if p in into or p in leave]

    def _of_slot(self, i: int, p: int, phi: float, w: float) -> float:
        criterion, part = self.rule["drop"], self.parts[i]
        if criterion == "random":
            return update_scores.chance(self.seed, part.matrix, self.step, update_scores.DROP, p)
        origin = part.kept["origin"][p] if criterion == "change" else 0.0
        return update_scores.of_slot(criterion, phi, origin=origin, square=self.seen[i].square[p], weight=w, r=self.r)

    def grow(self, out: set[Place], n_drop: dict[Any, int], slots: dict[Any, int]) -> Selection:
        """Return the grown places, which include the cancelled ones (GROW)."""
        scored = []
        for i, (part, window) in enumerate(zip(self.parts, self.seen, strict=True)):
            candidates = []
            for p in range(part.shape[0] * part.shape[1]):
                dropped = (i, p) in out
                is_open = (p not in part.phi or dropped) and (self.rule["regrow"] or not dropped)
                is_open = is_open and (self.rule["grow_scope"] == "anywhere" or p in part.base)
                if self.rule["candidates"] == "first-step":
                    is_open = is_open and p in (window.candidates or ())
                if is_open:
                    candidates.append((self._of_candidate(i, p), p))
            if self.scope == "group":
                refuse_infinite([score for score, _ in candidates])
                candidates = self._best_of_groups(i, candidates)
            scored += [(self.pool((i, p)), (i, p), score) for score, p in candidates]
        there = dict.fromkeys(self.pools(), 0)
        for pool, _, _ in scored:
            there[pool] += 1
        room = {k: n_drop[k] + self.limit(k, "delta_budget") - slots[k] for k in there}
        return select_pools.select(scored, {k: min(max(room[k], 0), n) for k, n in there.items()}, largest=True)

    def _best_of_groups(self, i: int, candidates: list[tuple[float, int]]) -> list[tuple[float, int]]:
        """Return the candidates that are among the K best of their group (GROW-007)."""
        _, m = self.pattern or (0, 0)
        best: dict[int, list[tuple[float, int]]] = {}
        for score, p in sorted(candidates, key=lambda pair: (-pair[0], pair[1])):
            best.setdefault(p // m, []).append((score, p))
        return [pair for g, group in best.items() for pair in group[: self.parts[i].budget[g]]]

    def _of_candidate(self, i: int, p: int) -> float:
        criterion, part, window = self.rule["grow"], self.parts[i], self.seen[i]
        row, column = divmod(p, part.shape[1])
        if criterion == "random":
            return update_scores.chance(self.seed, part.matrix, self.step, update_scores.GROW, p)
        return update_scores.of_candidate(
            criterion,
            g=window.gradient[p],
            absolute=window.absolute[p],
            square=window.square[p],
            h=window.inputs[column],
            row=window.row_moments[row] if criterion == "moments" else 0.0,
            column=window.column_moments[column] if criterion == "moments" else 0.0,
            r=self.r,
        )

    def adapt(self, exempt: set[Place], counts: str, use: int) -> Selection:
        """Return the places that adapt prunes from the current parts (ADPT).

        exempt  places that are never pruned
        counts  whether the budget counts the support or the values other than 0 (ADPT-006)
        use     the use of random scores (RNG-003)
        """
        weights = self._counted(counts)
        excess = self._excess(weights)
        # EVT-005: a pool without excess ranks nothing, so its scores may be infinite
        open_to = [one for one in weights if excess[one[0]] and one[1] not in exempt]
        scored = [(pool, at, self._of_weight(*at, w, use)) for pool, at, w in open_to]
        return select_pools.select(scored, excess, largest=False)

    def exceeds(self) -> bool:
        """Return whether a pool has more weights than its budget (EVT-004.3)."""
        return any(self._excess(self._counted("support")).values())

    def _counted(self, counts: str) -> list[tuple[Any, Place, float]]:
        """Return pool, place and effective weight of all that the budgets count (ADPT-006)."""
        return [
            ((i, p // self.pattern[1]) if self.scope == "group" and self.pattern else self.pool((i, p)), (i, p), w)
            for i, part in enumerate(self.parts)
            for p, w in effective(part.base, part.phi, self.r).items()
            if counts == "support" or w
        ]

    def _excess(self, weights: list[tuple[Any, Place, float]]) -> dict[Any, int]:
        """Return by how many weights each pool exceeds its budget (EVT-009)."""
        numbers, by_group = Counter(pool for pool, _, _ in weights), self.scope == "group"
        limits = {(i, g): k for i, part in enumerate(self.parts) for g, k in enumerate(part.budget) if by_group}
        limits = limits if by_group else {pool: self.limit(pool, "budget") for pool in self.pools()}
        return {pool: max(0, numbers[pool] - limit) for pool, limit in limits.items()}

    def _of_weight(self, i: int, p: int, w: float, use: int) -> float:
        criterion, part, window = self.rule["adapt"], self.parts[i], self.seen[i]
        if criterion == "random":
            return update_scores.chance(self.seed, part.matrix, self.step, use, p)
        terms = {name: getattr(window, name)[p] for name in ("absolute", "square", "tokens") if getattr(window, name)}
        terms |= {"g": window.gradient[p], "h": window.inputs[p % part.shape[1]]}
        return update_scores.of_weight(criterion, w, **terms, r=self.r)

    def near(self, selection: Selection, i: int) -> Boundary | None:
        """Return the boundary in the record of matrix i: the nearest of its own pools (SEL-008)."""
        mine = [b for pool, b in selection.boundaries if self.scope == "model" or pool[0] == i]  # type: ignore[index]
        return select_pools.nearest(mine)


def seeded(part: Part, evidence: Evidence, rule: Rule, p: int, rounded: Round) -> dict[str, Any]:
    """Return the optimizer's state for a new slot, as if it had seen the window (DLT-006)."""
    g, square, a = evidence.gradient[p], evidence.square[p], evidence.steps
    if part.optimizer == "sgd":
        mu = rule["momentum"]
        return {"u": rounded(g * rounded((1 - power(mu, a)) / (1 - mu)))}
    m = rounded(g * rounded(1 - power(rule["beta1"], a)))
    v = rounded(square * rounded(1 - power(rule["beta2"], a)))
    return {"m": m, "v": v, "age": a - (part.optimizer == "spiel-adamw")}


def _moved(part: Part, evidence: Evidence, rule: Rule, out: list[int], into: list[int], rounded: Round) -> Part:
    """Return a matrix after drop and grow (DROP-002, DROP-004, GROW-003, DLT-005, DLT-006)."""
    eta = sorted((part.phi.keys() - set(out)) | set(into))
    kept: dict[str, dict[int, Any]] = {}
    for name, kept_values in part.kept.items():
        kept[name] = {p: kept_values.get(p, 0 if name == "age" else 0.0) for p in eta}
    for p in eta:
        if p not in part.phi and rule["moments"] == "seeded":
            for name, value in seeded(part, evidence, rule, p, rounded).items():
                kept[name][p] = value
        if "origin" in kept and p in out:
            kept["origin"][p] = part.phi[p]
    gone = set(out) - set(into) if rule["drops"] == "weight" else set()
    base = {p: b for p, b in part.base.items() if p not in gone}
    return replace(part, base=base, phi={p: part.phi.get(p, 0.0) for p in eta}, kept=kept)


def without(part: Part, gone: list[int]) -> Part:
    """Return a matrix without the positions `gone` in base and delta (ADPT-004)."""
    lost = set(gone)

    def cut(values: dict[int, Any]) -> dict[int, Any]:
        return {p: x for p, x in values.items() if p not in lost}

    kept = {name: cut(values) for name, values in part.kept.items()}
    return replace(part, base=cut(part.base), phi=cut(part.phi), kept=kept)


def event(
    parts: Sequence[Part],
    evidence: Sequence[Evidence],
    rule: Rule,
    fraction: float,
    *,
    seed: int = 0,
    step: int = 0,
    pattern: Pattern | None = None,
    rounded: Round = binary64,
) -> list[Outcome]:
    """Return every matrix after drop, grow and adapt.

    rule      the choices of chapter 8, and beta1, beta2 and momentum if moments are seeded
    fraction  the drop fraction of the schedule; SCH-008 is applied here
    """
    if rule["first_event"] == "all" and any(part.first for part in parts):
        fraction = 1.0
    check(parts, evidence, rule, asked_by(rule))
    before = _Event(parts, evidence, rule, (seed, step), pattern, rounded)
    dropped, n_drop, slots = before.drop(fraction)
    grown = before.grow(set(dropped.chosen), n_drop, slots)

    def of(selection: Selection, i: int) -> list[int]:
        positions = [p for j, p in selection.chosen if j == i]
        if rule["candidates"] == "first-step" and selection is dropped:
            return before.replaced(i, positions, of(grown, i))
        return positions

    moved = [
        _moved(part, s, rule, of(dropped, i), of(grown, i), rounded)
        for i, (part, s) in enumerate(zip(parts, evidence, strict=True))
    ]
    after = _Event(moved, evidence, rule, (seed, step), pattern, rounded)
    passed_over = {
        "new": {(i, p) for i, p in grown.chosen if p not in parts[i].phi},
        "slots": {(i, p) for i, part in enumerate(moved) for p in part.phi},
        "none": set[Place](),
    }[rule["exempt"]]
    pruned = Selection([], [])
    if rule["adapts"] == "always":
        pruned = after.adapt(passed_over, rule["counts"], update_scores.ADAPT)
    outcomes = []
    for i, part in enumerate(moved):
        out, into, gone = of(dropped, i), of(grown, i), of(pruned, i)
        fresh, again = [p for p in into if p not in parts[i].phi], [p for p in into if p in parts[i].phi]
        new = without(part, gone)
        near = {"drop": before.near(dropped, i), "grow": before.near(grown, i), "adapt": after.near(pruned, i)}
        one = Outcome(new, out, fresh, again, gone, near)
        outcomes.append(replace(one, record=_record(parts[i], one)))
    return outcomes


def _record(old: Part, one: Outcome) -> dict[str, int]:
    """Return the counts of TRN-009."""
    support = one.part.base.keys() | one.part.phi.keys()
    return {
        "dropped": len(one.dropped),
        "grown": len(one.grown),
        "cancelled": len(one.cancelled),
        "pruned": len(one.pruned),
        "reactivated": sum(p not in old.base for p in one.grown),
        "refilled": max(0, sum(old.delta_budget) - len(old.phi)),
        "slots": len(one.part.phi),
        "support": len(support),
        "start": len(support & (old.base.keys() | old.lost)),
    }


def exceeds(parts: Sequence[Part], rule: Rule, pattern: Pattern | None) -> bool:
    """Return whether the adapt pass after the last step has something to prune (EVT-004.3)."""
    return _Event(parts, [], rule, (0, 0), pattern, binary64).exceeds()


def last_pass(
    parts: Sequence[Part],
    evidence: Sequence[Evidence],
    rule: Rule,
    *,
    seed: int,
    step: int,
    pattern: Pattern | None = None,
) -> tuple[list[Part], list[Boundary]]:
    """Return every matrix after the adapt pass that follows the last step, and the boundaries (EVT-004)."""
    # GRD-009.2
    on_support = [replace(one, candidates=None) for one in evidence]
    check(parts, on_support, rule | {"grow_scope": "active"}, set(ADAPTATION.get(rule["adapt"], ())))
    selection = _Event(parts, evidence, rule, (seed, step), pattern, binary64).adapt(
        set(), "support", update_scores.LAST
    )
    cut = [without(part, [p for j, p in selection.chosen if j == i]) for i, part in enumerate(parts)]
    return cut, [b for _, b in selection.boundaries]
