"""Properties of selection, topologies, counts, schedules and chance (chapters 2, 7, 8)."""

import itertools
import math
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import ids, reals
from conformance.oracle import select, select_pools, select_rng, update_choices, update_counts, update_schedule
from conformance.properties.draws import Draw
from conformance.properties.states import ties
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []


def _scores(d: Draw) -> list[float]:
    scores = d.with_specials(d.levels(d.length(), d.integer(0, 3)))
    if scores and d.flag(5):
        scores[d.integer(0, len(scores) - 1)] = d.choice((math.nan, math.inf, -math.inf))
    return scores


def _select(name: str, choose: Any) -> Any:
    def body(d: Draw, t: Trial) -> None:
        scores = _scores(d)
        n = len(scores)
        where = [3 * i + x for i, x in enumerate(d.integers(n, 0, 2))]
        k = d.integer(0, n)
        if d.flag(8):
            k = d.choice((-1, n + 1))
        refused = ["SEL-004"] if not all(map(math.isfinite, scores)) else []
        refused += ["SEL-005"] if not 0 <= k <= n else []
        given = {"scores": reals(scores), "ids": ids(where), "k": k}
        t.saw(
            "a tie at the boundary",
            not refused and ties(scores if choose is select.smallest else [-s for s in scores], k),
        )
        t.saw("a score that is not finite", "SEL-004" in refused)
        t.saw("an impossible count", "SEL-005" in refused)
        t.saw("a zero of the other sign", any(s == 0 and math.copysign(1, s) < 0 for s in scores))
        t.saw("64 scores or more", n >= 64)
        if refused:
            t.case(name, given, refused=refused)
        else:
            t.case(name, given, {"chosen": ids(choose(scores, where, k))})

    return body


_SEES = ("a tie at the boundary", "a score that is not finite", "an impossible count", "a zero of the other sign",
         "64 scores or more")  # fmt: skip
for _name, _choose, _clause in (("largest", select.largest, "SEL-001"), ("smallest", select.smallest, "SEL-002")):
    _body = _select(f"select.{_name}", _choose)
    _body.__doc__ = f"the {_name} are those that sorted tuples put first, whatever the ties."
    property_of(f"select.{_name}", f"{_clause} SEL-003 SEL-004 SEL-005", "core", f"select.{_name}", sees=_SEES)(_body)


@property_of(
    "select.negated", "SEL-001 SEL-002", "core", "select.largest select.smallest", sees=("a tie at the boundary",)
)
def _negated(d: Draw, t: Trial) -> None:
    """The k largest of scores are the k smallest of their negatives."""
    scores = reals(d.levels(d.length(), 2))
    k = d.integer(0, len(scores))
    t.saw("a tie at the boundary", ties(list(scores), len(scores) - k))
    given = {"ids": ids(range(len(scores))), "k": k}
    t.related(
        "largest and smallest",
        ("select.largest", given | {"scores": scores}),
        ("select.smallest", given | {"scores": -scores}),
    )


@property_of(
    "topology.there-and-back",
    "TOP-001 TOP-002 TOP-003",
    "core",
    "topology.of topology.positions",
    sees=("an empty row", "positions out of order", "nothing stored"),
)
def _there_and_back(d: Draw, t: Trial) -> None:
    """Rows and columns of positions are those that counting gives, and give the positions back."""
    shape = d.shape(none=True)
    at, _ = d.mask(shape)
    size = {"out": shape[0], "in": shape[1]}
    if len(at) > 1 and d.flag(4):
        i = d.integer(0, len(at) - 2)
        bad = list(at)
        bad[i], bad[i + 1] = (at[i], at[i]) if d.flag() else (at[i + 1], at[i])
        t.saw("positions out of order")
        t.case("topology.of", size | {"positions": ids(bad)}, refused=["TOP-003"])
        return
    indptr, columns = select.rows_and_columns(shape, at)
    t.saw("an empty row", any(a == b for a, b in itertools.pairwise(indptr)) and at)
    t.saw("nothing stored", not at)
    told = {"indptr": ids(indptr), "indices": ids(columns)}
    t.case("topology.of", size | {"positions": ids(at)}, told)
    t.case("topology.positions", size | told, {"positions": ids(at)})


def _moved(d: Draw) -> tuple[dict[str, Any], list[int], list[int]]:
    shape = d.shape()
    n = shape[0] * shape[1]
    old, new = d.subset(n), d.subset(n)
    return {"out": shape[0], "in": shape[1], "old": ids(old), "new": ids(new)}, old, new


@property_of("change.source", "CHG-001", "core", "change.source", sees=("a new position", "a position that stays"))
def _source(d: Draw, t: Trial) -> None:
    """The source of a new slot is the old slot at its position, or −1."""
    given, old, new = _moved(d)
    t.saw("a new position", set(new) - set(old))
    t.saw("a position that stays", set(new) & set(old))
    t.case("change.source", given, {"source": ids(select.source(old, new))})


@property_of(
    "change.realign", "CHG-002", "core", "change.realign", sees=("a new position", "a moved zero of the other sign")
)
def _realign(d: Draw, t: Trial) -> None:
    """Realign moves bits: zeros of either sign, subnormals and infinities too, and fills what is new."""
    given, old, new = _moved(d)
    special = [0.0, -0.0, 2.0**-149, math.inf, -math.inf, 1.0, 2.0**-20 + 1.0, -(2.0**100)]
    values = [special[i] for i in d.integers(len(old), 0, len(special) - 1)]
    fill = d.choice((0.0, -1.5, 2.0**-140))
    held = dict(zip(old, values, strict=True))
    t.saw("a new position", set(new) - set(old))
    t.saw("a moved zero of the other sign", any(p in held and math.copysign(1, held[p]) < 0 == held[p] for p in new))
    moved = select.realign(values, old, new, fill)
    t.case("change.realign", given | {"values": reals(values), "fill": fill}, {"values": reals(moved)})


@property_of("change.same", "CHG-001 CHG-002", "core", "change.realign", sees=("several slots",))
def _to_itself(d: Draw, t: Trial) -> None:
    """Realigning to the same topology changes nothing."""
    given, old, _ = _moved(d)
    values = reals(d.with_specials(d.levels(len(old), 8)))
    t.saw("several slots", len(old) > 3)
    t.related("unchanged", ("change.realign", given | {"new": ids(old), "values": values, "fill": 7.0}))


@property_of(
    "count.budget", "DLT-002 SEL-006", "core", "count.budget", sees=("an integer missed by the last bits", "the cap")
)
def _budget(d: Draw, t: Trial) -> None:
    """d_φ is floor(density · out · in + 2⁻²⁰), at most what is stored."""
    shape = d.integer(1, 200), d.integer(1, 200)
    density = d.integer(1, 100) / 100
    if d.flag():
        # a multiple of 100 entries: the product is an integer but for its last bits
        shape = 10 * d.integer(1, 9), 10 * d.integer(1, 9)
    stored = d.integer(0, shape[0] * shape[1])
    x = density * shape[0] * shape[1]
    t.saw("an integer missed by the last bits", x != round(x) and abs(x - round(x)) < 2.0**-20)
    t.saw("the cap", update_counts.count(x) > stored)
    given = {"density": density, "out": shape[0], "in": shape[1], "stored": stored}
    t.case("count.budget", given, {"n": update_counts.delta_budget(density, *shape, stored)})


@property_of("count.drop", "SCH-001 SCH-002 SEL-006", "core", "count.drop", sees=("a rate that meets an integer",))
def _count_drop(d: Draw, t: Trial) -> None:
    """n_drop is floor(fraction · |η| + 2⁻²⁰) with the fraction of the cosine."""
    steps = 6 * d.integer(1, 40)
    step = d.choice((0, steps // 3, steps // 2, 2 * steps // 3, steps, d.integer(0, steps)))
    fraction, slots = d.integer(0, 100) / 100, d.choice((0, 1, 20, 100, 1000, d.integer(0, 5000)))
    x = update_schedule.drop_fraction(fraction, step, steps) * slots
    t.saw("a rate that meets an integer", x and abs(x - round(x)) < 2.0**-20)
    given = {"drop_fraction": fraction, "step": step, "steps": steps, "slots": slots}
    t.case("count.drop", given, {"n": update_counts.count(x)})


@property_of(
    "schedule.numbers",
    "SCH-001 SCH-004",
    "core",
    "schedule.fraction schedule.learning_rate",
    sees=("warm-up", "after warm-up", "the last step"),
)
def _schedule_numbers(d: Draw, t: Trial) -> None:
    """Drop fraction and learning rate are those of the written formulas."""
    steps = d.integer(1, 200)
    step = d.choice((0, steps, d.integer(0, steps)))
    fraction = d.integer(0, 64) / 64
    given: dict[str, Any] = {"drop_fraction": fraction, "step": step, "steps": steps}
    bounds = {"value": Bound(np.asarray(fraction), 2)}
    t.case("schedule.fraction", given, {"value": update_schedule.drop_fraction(fraction, step, steps)}, bounds=bounds)
    step, warmup, lr = max(step, 1), d.integer(0, steps), d.integer(1, 100) / 1000
    kind = d.choice(("constant", "linear", "cosine"))
    t.saw("warm-up", step < warmup)
    t.saw("after warm-up", step > warmup)
    t.saw("the last step", step == steps)
    given = {"kind": kind, "lr": lr, "step": step, "steps": steps, "warmup": warmup}
    value = update_schedule.learning_rate(kind, lr, step, steps, warmup)
    t.case("schedule.learning_rate", given, {"value": value}, bounds={"value": Bound(np.asarray(lr), 4)})


@property_of(
    "schedule.events",
    "SCH-003 SCH-005",
    "core",
    "schedule.events",
    sees=("the last step would be one", "no event"),
)
def _events(d: Draw, t: Trial) -> None:
    """Events follow every multiple of the period but the last step."""
    every = d.integer(1, 20)
    steps = every * d.integer(1, 6) + d.choice((0, 0, d.integer(0, every - 1)))
    at = [n for n in range(1, steps + 2) if update_schedule.is_event(n, steps, every)]
    t.saw("the last step would be one", steps % every == 0)
    t.saw("no event", not at)
    t.case("schedule.events", {"steps": steps, "evolve_every": every}, {"at": ids(at)})


@property_of(
    "schedule.phases", "SCH-005 SCH-007", "rules", "schedule.spiel schedule.all_events", sees=("no accumulation",)
)
def _phases(d: Draw, t: Trial) -> None:
    """Selections of SpIEL follow A, R + A, …; events of either kind end with E."""
    period = d.integer(2, 12)
    accumulate, steps = d.integer(0, period - 2), d.integer(0, 60)
    t.saw("no accumulation", accumulate == 0)
    ends, sums = update_schedule.spiel_phases(period, accumulate, steps)
    given: dict[str, Any] = {"period": period, "accumulate": accumulate, "steps": steps}
    t.case("schedule.spiel", given, {"at": ids(ends), "sums": ids(sums)})
    kind, until, steps = d.choice(("period", "phases")), d.integer(1, 8) / 8, max(steps, 1)
    window = d.integer(1, period) if kind == "period" else accumulate
    at, sums = update_schedule.all_events(kind, steps, period, until, window)
    given = {"events": kind, "steps": steps, "evolve_every": period, "evolve_until": until, "gradient_window": window}
    t.case("schedule.all_events", given, {"at": ids(at), "sums": ids(sums)})


@property_of("rng.draws", "RNG-001 RNG-002", "core", "rng.draws", sees=("a word of 2⁶³ or more", "a far number"))
def _draws(d: Draw, t: Trial) -> None:
    """Draws are those that Python's integers give."""
    words = [d.integer(0, 2**64 - 1) if d.flag() else d.integer(0, 9) for _ in range(d.integer(1, 4))]
    numbers = d.integers(d.integer(1, 5), 0, 50)
    if d.flag():
        numbers.append(d.integer(0, 2**40))
    t.saw("a word of 2⁶³ or more", max(words) >= 2**63)
    t.saw("a far number", max(numbers) >= 2**32)
    key = select_rng.key(*words)
    found = np.array([select_rng.draw(key, i) for i in numbers], dtype=np.uint64)
    t.case("rng.draws", {"words": np.array(words, dtype=np.uint64), "numbers": ids(numbers)}, {"draws": found})


@property_of(
    "select.pools",
    "SEL-007 SEL-008 SEL-001 SEL-002",
    "rules",
    "select.pools",
    sees=("a tie at the boundary", "an empty pool", "a pool taken whole"),
)
def _pools(d: Draw, t: Trial) -> None:
    """A selection in pools is one in each, and its boundary the nearest."""
    n_pools, n = d.integer(1, 4), d.length(33)
    scores = d.levels(n, 2, 1.0)
    # powers of two: gaps that are exact in every dtype
    scores = [math.copysign(2.0 ** abs(s), s) if s else 0.0 for s in scores]
    pool = d.integers(n, 0, n_pools - 1)
    sizes = [pool.count(p) for p in range(n_pools)]
    counts = [d.integer(0, size) for size in sizes]
    largest = d.integer(0, 1)
    found = select_pools.select(
        list(zip(pool, range(n), scores, strict=True)), dict(enumerate(counts)), largest=bool(largest)
    )
    near = select_pools.nearest([b for _, b in found.boundaries])
    t.saw("a tie at the boundary", near and near[0] == near[1])
    t.saw("an empty pool", n and 0 in sizes)
    t.saw("a pool taken whole", any(c and c == size for c, size in zip(counts, sizes, strict=True)))
    told = {} if near is None else {"inside": near[0], "outside": near[1], "gap": select_pools.gap(near)}
    answer = {name: reals([told[name]] if told else []) for name in ("inside", "outside", "gap")}
    given = {
        "scores": reals(scores),
        "ids": ids(range(n)),
        "pools": ids(pool),
        "counts": ids(counts),
        "largest": largest,
    }
    t.case("select.pools", given, answer | {"chosen": ids(found.chosen)})


@property_of("choice.contradictions", "EVT-012", "rules", "rule.check", sees=("a contradiction", "choices that agree"))
def _contradictions(d: Draw, t: Trial) -> None:
    """Choices are refused where they contradict each other, under the clause that says so, and nowhere else."""
    open_to = {k: v for k, (v, _) in update_choices.VALUES.items() if k not in ("events", "budget_by")}
    given: dict[str, Any] = {}
    for key in d.some(list(open_to), d.integer(0, 4)):
        given[key] = d.choice(open_to[key])
    if d.flag():
        given["optimizer"] = d.choice(("adamw", "sgd", "sm3", "spiel-adamw"))
    if d.flag(3):
        given["pattern"] = [2, 4]
    try:
        update_choices.check(given)
    except select_pools.RefusedError as error:
        t.saw("a contradiction")
        # several may hold at once, and nothing says which is told
        t.case("rule.check", {"choices": given}, refused=sorted({str(error).split(":")[0], "EVT-012"}))
        return
    t.saw("choices that agree", len(given) > 1)
    t.case("rule.check", {"choices": given}, {"ok": 1})


@property_of("preset.rule", "EVT-011", "rules", "preset.rule", sees=("a preset", "an unknown name"))
def _preset(d: Draw, t: Trial) -> None:
    """A preset has the choices of its table, and a name without a table is refused.

    There are finitely many presets and a frozen case for each: what is new to a port are names that it must refuse.
    """
    name = d.choice(list(update_choices.PRESETS))
    if d.flag():
        name = d.choice(("", name.upper(), f"{name} ", f"{name[:2]}{d.integer(0, 10**6)}", name[1:], name * 2))
        t.saw("an unknown name")
        t.case("preset.rule", {"name": name}, refused=["EVT-011"])
        return
    t.saw("a preset")
    t.case("preset.rule", {"name": name}, {"choices": update_choices.spelled(name)})


@property_of("count.budgets", "DLT-002 SEL-006", "rules", "count.budgets", sees=("the cap", "count", "rank"))
def _budgets(d: Draw, t: Trial) -> None:
    """The slots of every matrix, however they are counted, at most what it stores."""
    n = d.integer(1, 4)
    shapes = [(d.integer(1, 40), d.integer(1, 40)) for _ in range(n)]
    stored = [d.integer(0, a * b) for a, b in shapes]
    by = d.choice(("numel", "nnz", "count", "rank"))
    amount = d.integer(1, 100) / 100 if by in ("numel", "nnz") else d.integer(1, 40)
    found = update_counts.delta_budgets(by, amount, shapes, stored)
    t.saw(by)
    t.saw("the cap", any(f == k for f, k in zip(found, stored, strict=True)))
    given = {"by": by, "amount": amount, "shapes": np.array(shapes, dtype=np.int64), "stored": ids(stored)}
    t.case("count.budgets", given, {"n": ids(found)})
