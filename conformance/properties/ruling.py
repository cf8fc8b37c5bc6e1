"""Properties of events by any rule: scores, candidates, the schedule, and whole events (chapter 8)."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.event import BETAS, answered, given_part
from conformance.gen.event_ratios import ratios_of
from conformance.gen.numbers import Array, ids, reals
from conformance.oracle import select_pools, train_window, update_choices, update_schedule, update_scores
from conformance.oracle.event import Evidence, Outcome, Part, asked_by, event
from conformance.oracle.select import Round, binary64
from conformance.oracle.update import effective
from conformance.oracle.update_optimizers import KEEPS
from conformance.properties.draws import Draw, Shape
from conformance.properties.states import ties
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []

_REFUSED = ("EVT-005", "SEL-004")
_SCORED = ("a score that is not finite", "a product that is rounded")


def _rounded(t: Trial) -> Round:
    return update_scores.binary32 if t.dtype == "float32" else binary64


def _reals(d: Draw, t: Trial, n: int) -> Array:
    """Return numbers with products that are rounded; now and then one that is not finite, or whose square is not."""
    found = reals(d.with_specials([float(x) for x in d.real((n,))]))
    if n and d.flag(8):
        found[d.integer(0, n - 1)] = d.choice((math.nan, math.inf, 2.0**80 if t.dtype == "float32" else 2.0**600))
    return found


def _score(t: Trial, op: str, given: dict[str, Any], evidence: list[Array], score: Callable[[Round], Any]) -> None:
    """Ask for scores; those that are not finite are refused.

    evidence  what they are made of
    """
    found = list(score(_rounded(t)))
    drawn = given["criterion"] == "random"
    t.saw("random" if drawn else given["criterion"], found)
    if not all(map(math.isfinite, found)):
        t.saw("a score that is not finite")
        t.case(op, given, refused=_REFUSED, dtypes=(t.dtype,))
        return
    if all(np.isfinite(x).all() for x in evidence):
        t.saw("a product that is rounded", found != list(score(update_scores.binary32)) or t.dtype == "float32")
        # draws are binary64 whatever the dtype: in float32 they are not asked for
        t.case(op, given, {"scores": reals(found)}, dtypes=("float64",) if drawn else (t.dtype,))


def _drawn(d: Draw, t: Trial, op: str, given: dict[str, Any], at: list[int], use: int) -> None:
    """Ask for random scores."""
    seed, matrix, step = d.choice((0, 1, 2**64 - 1)), d.integer(0, 20), d.integer(0, 1000)
    found = [update_scores.chance(seed, matrix, step, use, p) for p in at]
    _score(t, op, given | {"seed": seed, "matrix": matrix, "step": step}, [], lambda _: found)


@property_of(
    "score.drop",
    "DROP-003 RNG-003 NUM-006 EVT-005 SEL-004",
    "rules",
    "score.drop",
    sees=("magnitude", "change", "fisher", "weight", *_SCORED),
)
def _drop_scores(d: Draw, t: Trial) -> None:
    """Scores of slots are the written formulas, every operation rounded once."""
    criterion, n = d.choice(update_choices.VALUES["drop"][0]), d.length(18)
    at = [3 * i + x for i, x in enumerate(d.integers(n, 0, 2))]
    phi, other = _reals(d, t, n), _reals(d, t, n)
    given: dict[str, Any] = {"criterion": criterion, "positions": ids(at), "values": phi}
    if criterion == "random":
        _drawn(d, t, "score.drop", given | {"values": reals(d.levels(n))}, at, update_scores.DROP)
        return
    needs = {"change": "origin", "fisher": "square", "weight": "weight"}.get(criterion, "")
    other = abs(other) if needs == "square" else other
    given |= {needs: other} if needs else {}

    def score(r: Round) -> list[float]:
        pairs = [(float(x), {needs: float(y)} if needs else {}) for x, y in zip(phi, other, strict=True)]
        return [update_scores.of_slot(criterion, x, r=r, **more) for x, more in pairs]

    _score(t, "score.drop", given, [phi, other] if needs else [phi], score)


@property_of(
    "score.grow",
    "GROW-004 OPT-008 RNG-003 NUM-006 EVT-005 SEL-004",
    "rules",
    "score.grow",
    sees=("gradient", "absolute", "fisher", "moments", "curvature", "a column without input", *_SCORED),
)
def _grow_scores(d: Draw, t: Trial) -> None:
    """Scores of candidates are the written formulas, every operation rounded once."""
    shape = d.shape(8)
    rows, cols = shape
    criterion, at = d.choice(update_choices.VALUES["grow"][0]), d.subset(rows * cols)
    given: dict[str, Any] = {"criterion": criterion, "out": rows, "in": cols, "positions": ids(at)}
    if criterion == "random":
        _drawn(d, t, "score.grow", given, at, update_scores.GROW)
        return
    needs = {"absolute": ("absolute",), "fisher": ("square",), "moments": ("row_moments", "column_moments")}
    needs["gradient"], needs["curvature"] = ("gradient",), ("gradient", "inputs")
    sizes = {"row_moments": rows, "column_moments": cols, "inputs": cols}
    held = {name: _reals(d, t, sizes.get(name, rows * cols)) for name in needs[criterion]}
    held = {name: x if name == "gradient" else abs(x) for name, x in held.items()}
    if "inputs" in held and d.flag():
        held["inputs"][d.integer(0, cols - 1)] = 0.0
    row, column = [p // cols for p in at], [p % cols for p in at]
    where = {"row_moments": row, "column_moments": column, "inputs": column}
    chosen = {name: x[where.get(name, at)] for name, x in held.items()}
    t.saw("a column without input", "inputs" in chosen and 0.0 in chosen["inputs"])
    short = {"gradient": "g", "inputs": "h", "row_moments": "row", "column_moments": "column"}

    def score(r: Round) -> list[float]:
        named = [
            {short.get(n, n): float(x) for n, x in zip(chosen, row, strict=True)}
            for row in zip(*chosen.values(), strict=True)
        ]
        return [update_scores.of_candidate(criterion, r=r, **one) for one in named]

    given |= {name: x.reshape(shape) if name not in sizes else x for name, x in held.items()}
    # only what is scored may be wrong: whether the rest is looked at is not this operation's to say
    if all(np.isfinite(x).all() for x in held.values()) or not all(np.isfinite(x).all() for x in chosen.values()):
        _score(t, "score.grow", given, list(chosen.values()), score)


@property_of(
    "score.adapt",
    "ADPT-002 ADPT-005 RNG-003 NUM-006 EVT-005 SEL-004",
    "rules",
    "score.adapt",
    sees=("sensitivity", "magnitude", "activation", "curvature", *_SCORED),
)
def _adapt_scores(d: Draw, t: Trial) -> None:
    """Scores of weights are the written formulas, every operation rounded once."""
    shape = d.shape(8)
    criterion, at = d.choice(update_choices.VALUES["adapt"][0]), d.subset(shape[0] * shape[1])
    w, g, h = _reals(d, t, len(at)), _reals(d, t, len(at)), abs(_reals(d, t, shape[1]))
    given: dict[str, Any] = {"criterion": criterion, "out": shape[0], "in": shape[1], "positions": ids(at)}
    if criterion == "random":
        use = d.choice((update_scores.ADAPT, update_scores.LAST))
        _drawn(d, t, "score.adapt", given | {"weight": reals(d.levels(len(at))), "use": use}, at, use)
        return
    of = h[[p % shape[1] for p in at]]
    used = {"weight": w}
    used |= {"gradient": g} if criterion == "sensitivity" else {}
    used |= {"inputs": of} if criterion in ("activation", "curvature") else {}

    def score(r: Round) -> list[float]:
        table = zip(w, g, of, strict=True)
        return [update_scores.of_weight(criterion, float(x), g=float(y), h=float(z), r=r) for x, y, z in table]

    given |= used | ({"inputs": h} if "inputs" in used else {})
    if "inputs" not in used or np.isfinite(h).all() or not np.isfinite(of).all():
        _score(t, "score.adapt", given, list(used.values()), score)


@property_of(
    "window.candidates",
    "GRD-007 GRD-004 GRD-005 SEL-001 SEL-005 EVT-005",
    "rules",
    "window.candidates",
    sees=("a tie at the boundary", "several steps", "more than there are", "a gradient that is not finite"),
)
def _candidates(d: Draw, t: Trial) -> None:
    """Candidates are the largest |g| of the first step, with the evidence of all steps."""
    shape, steps = d.shape(8), d.choice((1, 2, 4))
    size = shape[0] * shape[1]
    gradients = [d.lattice(shape, 3) for _ in range(steps)]
    n = d.integer(0, size)
    given: dict[str, Any] = {"out": shape[0], "in": shape[1], "gradients": gradients, "n": n}
    if d.flag(8):
        t.saw("more than there are")
        t.case("window.candidates", given | {"n": size + 1}, refused=["SEL-005"])
        return
    if d.flag(8):
        gradients[0].reshape(-1)[d.integer(0, size - 1)] = d.choice((math.nan, math.inf, -math.inf))
        t.saw("a gradient that is not finite")
        t.case("window.candidates", given, refused=_REFUSED)
        return
    flat = [[float(x) for x in g.reshape(-1)] for g in gradients]
    at, seen = train_window.candidates(flat[0], n), train_window.evidence(flat)
    t.saw("a tie at the boundary", ties([-abs(x) for x in flat[0]], n))
    t.saw("several steps", steps > 1 and n)
    answer: dict[str, Any] = {"candidates": ids(at)}
    answer |= {what: reals(seen[what][p] for p in at) for what in ("gradient", "square")}
    t.case("window.candidates", given, answer)


@property_of(
    "schedule.drops",
    "SCH-001 SCH-006 SCH-007 SCH-008",
    "rules",
    "schedule.drops",
    sees=("cosine", "linear", "constant", "an end before the last step", "a first event that drops all", "refused"),
)
def _drops(d: Draw, t: Trial) -> None:
    """The drop fraction follows its schedule to the last step that may have an event."""
    steps, until = d.integer(1, 200), d.choice((1.0, d.integer(1, 100) / 100))
    # no event follows the last step, and one that is not the first has one before it
    last = update_schedule.last_event(steps, until)
    fraction, how, first = d.integer(0, 64) / 64, d.choice(("fraction", "all")), d.integer(0, 1)
    kind = d.choice(update_choices.VALUES["drop_schedule"][0])
    given: dict[str, Any] = {"drop_schedule": kind, "drop_fraction": fraction, "steps": steps, "evolve_until": until}
    given |= {"first_event": how, "first": first}
    if d.flag(6):
        bad: dict[str, Any] = {"SCH-001": {"drop_fraction": 1.25}, "SCH-007": {"evolve_until": 0.0}}
        bad["SCH-008"] = {"first_event": "none"}
        clause = d.choice(list(bad))
        t.saw("refused")
        t.case("schedule.drops", given | bad[clause] | {"step": 1}, refused=[clause])
        return
    least, most = 2 - first, min(last, steps - 1)
    if most < least:
        return
    step = d.choice((most, d.integer(least, most)))
    value = 1.0 if how == "all" and first else update_schedule.scheduled(kind, fraction, step, last)
    t.saw(kind)
    t.saw("an end before the last step", last < steps)
    t.saw("a first event that drops all", how == "all" and first and fraction < 1)
    bounds = {"value": Bound(np.asarray(max(fraction, value)), 2)}
    t.case("schedule.drops", given | {"step": step}, {"value": value}, bounds=bounds)


_CHOSEN = ("adapt", "grow", "drop", "drops", "moments", "candidates", "counts", "exempt", "adapts",
           "grow_scope", "first_event")  # fmt: skip
_OPTIMIZERS = ("adamw", "sgd", "spiel-adamw", "sm3")


def _rule(d: Draw) -> tuple[update_choices.Rule, str, tuple[int, int] | None]:
    """Return a rule that does not contradict itself, the optimizer, and a pattern where the rule needs one."""
    optimizer = d.choice(_OPTIMIZERS)
    given: update_choices.Rule = {}
    wanted: update_choices.Rule = {"scope": d.choice(update_choices.VALUES["scope"][0])}
    wanted |= {key: d.choice(update_choices.VALUES[key][0]) for key in d.some(_CHOSEN, d.integer(0, 6))}
    if optimizer == "sm3" and d.flag():
        wanted["grow"] = "moments"
    pattern = (2, 4) if wanted.get("scope") == "group" else None
    if d.flag(4):
        wanted["regrow"] = 0
    for key, value in wanted.items():
        try:
            update_choices.check(
                given | {key: value, "optimizer": optimizer} | ({"pattern": [2, 4]} if pattern else {})
            )
        except select_pools.RefusedError:
            continue
        given[key] = value
    return update_choices.RULE | BETAS | given, optimizer, pattern if given.get("scope") == "group" else None


def _part(d: Draw, chosen: update_choices.Rule, optimizer: str, matrix: int, pattern: tuple[int, int] | None) -> Part:
    """Return a matrix on few levels, often over its budget."""
    if pattern is None:
        shape: Shape = d.shape(5)
        base = d.mask(shape)[0]
        open_to = list(range(shape[0] * shape[1]))
    else:
        shape = (d.integer(1, 3), pattern[1] * d.integer(1, 2))
        open_to = base = d.pattern(shape, *pattern)
    eta = [open_to[i] for i in d.subset(len(open_to), 3)]

    def column(values: list[Any]) -> dict[int, Any]:
        return dict(zip(eta, values, strict=True))

    n = len(eta)
    kept = {name: column(d.levels(n, 2)) for name in ("m", "v", "u", "origin")}
    kept = {"age": column(d.integers(n, 0, 9)), **kept, "v": {p: abs(x) for p, x in kept["v"].items()}}
    names = (*KEEPS[optimizer], *(["origin"] if chosen["drop"] == "change" else []))
    support, less, free = sorted({*base, *eta}), d.choice((0, 1, 3)), d.choice((0, 1, 2))
    # d_φ is at most K (DLT-002)
    budget, delta_budget = [max(len(support) - less, n + free)], [n + free]
    if chosen["scope"] == "row":
        delta_budget = [sum(p // shape[1] == r for p in eta) for r in range(shape[0])]
        held_by = [sum(p // shape[1] == r for p in support) for r in range(shape[0])]
        budget = [max(k - less, slots) for k, slots in zip(held_by, delta_budget, strict=True)]
    if pattern is not None:
        budget = [sum(p // pattern[1] == g for p in base) for g in range(shape[0] * shape[1] // pattern[1])]
    off = [p for p in range(shape[0] * shape[1]) if p not in base]
    lost = frozenset(off[i] for i in d.subset(len(off), 4))
    held = dict(zip(base, d.with_specials(d.levels(len(base), 2, 0.5)), strict=True))
    phi = column(d.with_specials(d.levels(n, 2, 0.25)))
    kept = {name: kept[name] for name in names}
    return Part(shape, matrix, held, phi, kept, budget, delta_budget, optimizer, lost=lost)


def _evidence(d: Draw, chosen: update_choices.Rule, part: Part) -> Evidence:
    rows, cols = part.shape
    gradient, absolute, square = (d.levels(rows * cols, 2, 1.0) for _ in range(3))
    h = [0.0 if x == 0 else 2.0 ** (x - 2) for x in d.integers(cols, 0, 4)]
    moments = [[float(x) for x in d.integers(k, 0, 3)] for k in part.shape]
    first = frozenset(d.subset(rows * cols)) if chosen["candidates"] == "first-step" else None
    steps, absolute, square = d.choice((1, 2, 4)), [abs(x) for x in absolute], [x * x for x in square]
    return Evidence(gradient, absolute, square, h, moments[0], moments[1], first, steps)


_SEES = ("two matrices", "row", "group", "model", "a cancelled pair", "a pruned position", "a seeded slot",
         "a dropped weight", "a first event that drops all", "candidates of a first step", "zeros that are not counted",
         "moments of rows and columns", "a group that stored less at load", "equal scores at a boundary",
         "evidence that is not finite")  # fmt: skip


@property_of(
    "update.event",
    "DROP-003 DROP-004 GROW-003 GROW-004 GROW-005 GROW-006 GROW-007 ADPT-005 ADPT-006 ADPT-007 DLT-001 DLT-006 EVT-001"
    " EVT-005 EVT-006 EVT-008 EVT-009 SEL-007 SEL-008 SCH-008 TRN-009 RNG-003",
    "rules",
    "update.event",
    sees=_SEES,
)
def _event(d: Draw, t: Trial) -> None:
    """An event by any rule is drop, grow, adapt on dictionaries, matrix by matrix or together, whatever the ties."""
    _asked_of_an_event(d, t, "update.event", lambda parts, seen, chosen, found: answered(found))


def _asked_of_an_event(d: Draw, t: Trial, op: str, answer: Callable[..., dict[str, Any]]) -> None:
    """Ask an operation for what it tells of an event by any rule."""
    chosen, optimizer, pattern = _rule(d)
    # the first event of a run is that of all its matrices
    first = d.flag()
    parts = [replace(_part(d, chosen, optimizer, 4 * i, pattern), first=first) for i in range(d.integer(1, 2))]
    seen = [_evidence(d, chosen, part) for part in parts]
    fraction, words = d.integer(0, 8) / 8, {"seed": d.integer(0, 5), "step": d.integer(1, 50)}
    if d.flag(5):
        # a window of candidates keeps g² beside ḡ whether it is asked for or not
        narrow = chosen["candidates"] == "first-step"
        names = sorted(asked_by(chosen)) if narrow else ["gradient", "absolute", "square", "inputs"]
        values = getattr(seen[0], d.choice(names))
        values[d.integer(0, len(values) - 1)] = d.choice((math.nan, math.inf))
    given = {"parts": [given_part(*one) for one in zip(parts, seen, strict=True)], "rule": chosen, "fraction": fraction}
    given |= words | ({"pattern": list(pattern)} if pattern else {})
    try:
        found = event(parts, seen, chosen, fraction, **words, pattern=pattern, rounded=_rounded(t))
    except select_pools.RefusedError as error:
        if not str(error).startswith(_REFUSED):
            raise
        t.saw("evidence that is not finite")
        t.case(op, given, refused=_REFUSED, dtypes=(t.dtype,))
        return
    _saw(t, parts, chosen, found)
    t.case(op, given, answer(parts, seen, chosen, found), dtypes=(t.dtype,))


@property_of(
    "event.ratios", "TRN-009 EVT-005", "runs", "event.ratios", sees=("no whole gradient", "no slots before it")
)
def _ratios(d: Draw, t: Trial) -> None:
    """The ratios of an event by any rule are to what there was before it, each of its own matrix."""

    def answer(
        parts: list[Part], seen: list[Evidence], chosen: update_choices.Rule, found: list[Outcome]
    ) -> dict[str, Any]:
        told = ratios_of(list(zip(parts, seen, strict=True)), chosen, found)
        t.saw("no whole gradient", None in told["gradient_norm"])
        t.saw("no slots before it", not all(part.phi for part in parts))
        return told

    _asked_of_an_event(d, t, "event.ratios", answer)


def _saw(t: Trial, parts: list[Part], chosen: update_choices.Rule, found: list[Outcome]) -> None:
    t.saw("two matrices", len(parts) > 1)
    t.saw(chosen["scope"])
    t.saw("moments of rows and columns", chosen["grow"] == "moments" and any(one.grown for one in found))
    t.saw("candidates of a first step", chosen["candidates"] == "first-step")
    t.saw("a first event that drops all", chosen["first_event"] == "all" and parts[0].first)
    for one, part in zip(found, parts, strict=True):
        zeros = [x for x in effective(part.base, part.phi).values() if x == 0]
        t.saw("zeros that are not counted", chosen["counts"] == "values" and chosen["adapts"] == "always" and zeros)
        t.saw("a group that stored less at load", chosen["scope"] == "group" and min(part.budget, default=2) < 2)
        t.saw("a cancelled pair", one.cancelled)
        t.saw("a pruned position", one.pruned)
        t.saw("a seeded slot", chosen["moments"] == "seeded" and one.grown)
        t.saw("a dropped weight", chosen["drops"] == "weight" and set(one.dropped) - set(one.cancelled))
        t.saw("equal scores at a boundary", any(b and b[0] == b[1] for b in one.boundaries.values()))
