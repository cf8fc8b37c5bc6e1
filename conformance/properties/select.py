"""Properties of selection, topologies and changes (chapters 2 and 7)."""

import itertools
import math
from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import ids, reals
from conformance.oracle import select
from conformance.properties.draws import Draw
from conformance.properties.states import ties
from conformance.properties.trial import Trial, property_of


def _scores(d: Draw) -> list[float]:
    scores = d.with_specials(d.levels(d.length(), d.integer(0, 3)))
    if scores and d.flag(5):
        scores[d.integer(0, len(scores) - 1)] = d.choice((math.nan, math.inf, -math.inf))
    return scores


def _select(name: str, sign: int) -> Any:
    def body(d: Draw, t: Trial) -> None:
        scores = _scores(d)
        n = len(scores)
        labels = [3 * i + x for i, x in enumerate(d.integers(n, 0, 2))]
        k = d.integer(0, n)
        if d.flag(8):
            k = d.choice((-1, n + 1))
        finite, possible = all(map(math.isfinite, scores)), 0 <= k <= n
        t.saw("a tie at the boundary", finite and possible and ties([sign * s for s in scores], k))
        t.saw("a score that is not finite", not finite)
        t.saw("an impossible count", not possible)
        t.saw("a zero of the other sign", any(s == 0 and math.copysign(1, s) < 0 for s in scores))
        t.saw("64 scores or more", n >= 64)
        t.case(name, {"scores": reals(scores), "ids": ids(labels), "k": k})

    return body


_SEES = ("a tie at the boundary", "a score that is not finite", "an impossible count", "a zero of the other sign",
         "64 scores or more")  # fmt: skip


for _name, _sign, _clause in (("largest", -1, "SEL-001"), ("smallest", 1, "SEL-002")):
    _body = _select(f"select.{_name}", _sign)
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
    inputs = {"ids": ids(range(len(scores))), "k": k}
    t.related(
        "largest and smallest",
        ("select.largest", inputs | {"scores": scores}),
        ("select.smallest", inputs | {"scores": -scores}),
    )


@property_of(
    "topology.there-and-back",
    "TOP-001 TOP-002 TOP-003",
    "core",
    "topology.of topology.positions",
    sees=("an empty row", "positions out of order", "nothing stored"),
)
def _there_and_back(d: Draw, t: Trial) -> None:
    """Row pointers and columns equal those of a count over positions, and give the positions back."""
    shape = d.shape(none=True)
    at, _ = d.mask(shape)
    size = {"out": shape[0], "in": shape[1]}
    if len(at) > 1 and d.flag(4):
        i = d.integer(0, len(at) - 2)
        bad = list(at)
        bad[i], bad[i + 1] = (at[i], at[i]) if d.flag() else (at[i + 1], at[i])
        t.saw("positions out of order")
        t.case("topology.of", size | {"positions": ids(bad)})
        return
    indptr, columns = select.rows_and_columns(shape, at)
    t.saw("an empty row", any(a == b for a, b in itertools.pairwise(indptr)) and at)
    t.saw("nothing stored", not at)
    t.case("topology.of", size | {"positions": ids(at)})
    t.case("topology.positions", size | {"indptr": ids(indptr), "indices": ids(columns)})


def _moved(d: Draw) -> tuple[dict[str, Any], list[int], list[int]]:
    shape = d.shape()
    n = shape[0] * shape[1]
    old, new = d.subset(n), d.subset(n)
    return {"out": shape[0], "in": shape[1], "old": ids(old), "new": ids(new)}, old, new


@property_of("change.source", "CHG-001", "core", "change.source", sees=("a new position", "a position that stays"))
def _source(d: Draw, t: Trial) -> None:
    """The source of a new slot is the old slot at its position, or −1."""
    inputs, old, new = _moved(d)
    t.saw("a new position", set(new) - set(old))
    t.saw("a position that stays", set(new) & set(old))
    t.case("change.source", inputs)


@property_of(
    "change.realign", "CHG-002", "core", "change.realign", sees=("a new position", "a moved zero of the other sign")
)
def _realign(d: Draw, t: Trial) -> None:
    """Realign moves bits (also of zeros of either sign, subnormals and infinities) and fills new slots."""
    inputs, old, new = _moved(d)
    special = [0.0, -0.0, 2.0**-149, math.inf, -math.inf, 1.0, 2.0**-20 + 1.0, -(2.0**100)]
    values = [special[i] for i in d.integers(len(old), 0, len(special) - 1)]
    fill = d.choice((0.0, -1.5, 2.0**-140))
    old_values = dict(zip(old, values, strict=True))
    t.saw("a new position", set(new) - set(old))
    t.saw(
        "a moved zero of the other sign",
        any(p in old_values and math.copysign(1, old_values[p]) < 0 == old_values[p] for p in new),
    )
    t.case("change.realign", inputs | {"values": reals(values), "fill": fill})


@property_of("change.same", "CHG-001 CHG-002", "core", "change.realign", sees=("several slots",))
def _to_itself(d: Draw, t: Trial) -> None:
    """Realigning to the same topology changes nothing."""
    inputs, old, _ = _moved(d)
    values = reals(d.with_specials(d.levels(len(old), 8)))
    t.saw("several slots", len(old) > 3)
    t.related("unchanged", ("change.realign", inputs | {"new": ids(old), "values": values, "fill": 7.0}))


@property_of("rng.draws", "RNG-001 RNG-002", "core", "rng.draws", sees=("a word of 2⁶³ or more", "a far number"))
def _draws(d: Draw, t: Trial) -> None:
    """Draws equal those computed with Python's integers."""
    words = [d.integer(0, 2**64 - 1) if d.flag() else d.integer(0, 9) for _ in range(d.integer(1, 4))]
    numbers = d.integers(d.integer(1, 5), 0, 50)
    if d.flag():
        numbers.append(d.integer(0, 2**40))
    t.saw("a word of 2⁶³ or more", max(words) >= 2**63)
    t.saw("a far number", max(numbers) >= 2**32)
    t.case("rng.draws", {"words": np.array(words, dtype=np.uint64), "numbers": ids(numbers)})


@property_of(
    "select.pools",
    "SEL-007 SEL-008 SEL-001 SEL-002",
    "rules",
    "select.pools",
    sees=("a tie at the boundary", "an empty pool", "a pool taken whole"),
)
def _pools(d: Draw, t: Trial) -> None:
    """A selection in pools selects in each pool, and reports the boundary with the smallest gap."""
    n_pools, n = d.integer(1, 4), d.length(33)
    scores = d.levels(n, 2, 1.0)
    # scores are powers of two, because their gaps are exact in every dtype
    scores = [math.copysign(2.0 ** abs(s), s) if s else 0.0 for s in scores]
    pool = d.integers(n, 0, n_pools - 1)
    sizes = [pool.count(p) for p in range(n_pools)]
    counts = [d.integer(0, size) for size in sizes]
    chosen = answer(
        "select.pools",
        inputs := {
            "scores": reals(scores),
            "ids": ids(range(n)),
            "pools": ids(pool),
            "counts": ids(counts),
            "largest": d.integer(0, 1),
        },
    ).outputs
    t.saw("a tie at the boundary", len(chosen["gap"]) and chosen["gap"][0] == 0)
    t.saw("an empty pool", n and 0 in sizes)
    t.saw("a pool taken whole", any(c and c == size for c, size in zip(counts, sizes, strict=True)))
    t.case("select.pools", inputs)
